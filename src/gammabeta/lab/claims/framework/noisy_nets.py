"""The networks of `noisy-bn`, how each is trained, and where the noise goes in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gammabeta.lab.claims.framework.fit import side_of
from gammabeta.lab.data.flat import Dataset
from gammabeta.lab.models import Stack
from gammabeta.lab.models.vgg import SmallVGG

STAGES = ((8, 8), (16, 16), (32, 32, 32), (64, 64, 64))


@dataclass(frozen=True)
class Net:
    """A network without or with batch norm.

    Attributes:
        model: its activations are modules of their own.
        places: names of what enters them: the norms, or without those the linear layers.
        last: the last activation.
    """

    model: nn.Module
    places: list[str]
    last: nn.Module


@dataclass(frozen=True)
class Setting:
    """A network and how it is trained.

    Attributes:
        key: names its figure.
        name: such as ``"12 ReLU layers"``.
        size: of a layer, in words.
        activation: of every layer.
        depth: number of layers before the classifier.
        width: units a layer; 0 for the convolutional net, see `STAGES`.
        batch: examples a mini-batch.
        rates: learning rates of the full protocol.
        quick_rates: those of the quick one.
        matched: the rate at which all arms are compared.
        steps: of the full protocol.
        quick_steps: of the quick one.
        init: of the convolutions, as of `SmallVGG`.
    """

    key: str
    name: str
    size: str
    activation: str
    depth: int
    width: int
    batch: int
    rates: tuple[float, ...]
    quick_rates: tuple[float, ...]
    matched: float
    steps: int
    quick_steps: int
    init: str = "glorot"

    def build(self, data: Dataset, norm: str, seed: int) -> Net:
        """Return the network for ``data``, with ``norm`` ``"batch"`` or ``"none"``."""
        if self.width:
            stack = Stack(
                data.train_x.shape[1],
                data.classes,
                depth=self.depth,
                width=self.width,
                activation=self.activation,
                norm=norm,
                seed=seed,
            )
            places = [f"layers.{index}.norm" for index in range(self.depth)]
            return Net(stack, places, stack.layers[-1].activation)  # type: ignore[arg-type]
        side, pool = side_of(data)
        vgg = SmallVGG(
            *(side, data.classes),
            stages=STAGES,
            norm=norm,
            pool=pool,
            fused=False,
            init=self.init,
            seed=seed,
        )
        convolutions = [i for i, m in enumerate(vgg.body) if isinstance(m, nn.Conv2d)]
        after = 0 if norm == "none" else 1  # noise needs to know which dimension is the channels'
        return Net(vgg, [f"body.{i + after}" for i in convolutions], vgg.body[-1])


SETTINGS = (
    Setting(
        *("relu", "12 ReLU layers", "of 64 units", "relu", 12, 64, 128),
        *((0.03, 0.1, 0.3), (0.1,), 0.1, 4000, 700),
    ),
    Setting(
        *("sigmoid", "5 sigmoid layers", "of 100 units", "sigmoid", 5, 100, 60),
        *((0.5, 1.0, 2.0), (1.0,), 1.0, 10_000, 3000),
    ),
    Setting(
        "vgg",
        "10 ReLU convolutions",
        f"of {', '.join(str(w) for stage in STAGES for w in stage)} maps, a max pool between "
        "stages, as the source's VGG but narrower; images averaged to 14 × 14",
        *("relu", 10, 0, 128, (0.03, 0.1, 0.3), (0.1,), 0.1, 1500, 300),
    ),
    Setting(
        "he",
        "10 ReLU convolutions (He)",
        "as those before, from He's weights",
        *("relu", 10, 0, 128, (0.03, 0.1, 0.3), (0.1,), 0.1, 1500, 300),
        init="he",
    ),
)
