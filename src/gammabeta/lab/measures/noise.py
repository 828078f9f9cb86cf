"""Noise that shifts every unit's distribution at every step (Santurkar et al. 2018, "noisy" BN)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gammabeta.layers.epilogue import Epilogue
from gammabeta.layers.traits import NORMS, channel_dim
from gammabeta.names import known

_CHANNELS_FIRST = (nn.modules.conv._ConvNd,)


def noisy(
    model: nn.Module,
    layers: Iterable[str] | None = None,
    *,
    seed: int = 0,
    mean: float = 0.5,
    scale: float = 1.25,
    mean_spread: float = 0.1,
    scale_spread: float = 0.1,
    in_evaluation: bool = False,
) -> Noise:
    """Add a covariate shift to what layers of ``model`` return, another one at every step.

    In each forward pass, for each unit j of a layer (a feature, or a feature map):
    ``μ_j ~ U(−mean, mean)`` and ``σ_j ~ U(1, scale)``; for each example i of it
    ``m_ij ~ U(μ_j − mean_spread, μ_j + mean_spread)`` and ``s_ij ~ N(σ_j, scale_spread)``; then
    ``a_ij ← s_ij · a_ij + m_ij``. So a unit's mean and variance differ from step to step whatever
    the layer before them did. It is what Santurkar et al. add after batch norm to show that a
    network trains well without steady distributions.

    Args:
        model: any module. Forward hooks are added to its layers; nothing else changes.
        layers: names of modules whose output is shifted; None for every normalization layer.
        seed: of a random state of its own. The global one is neither read nor moved.
        mean: the largest shift of a unit.
        scale: the largest factor of a unit, at least 1.
        mean_spread: the largest difference of an example's shift from its unit's.
        scale_spread: standard deviation of an example's factor about its unit's.
        in_evaluation: whether outputs are shifted in evaluation mode too.

    Returns:
        A `Noise`: use it as a context manager, or `Noise.close` it.

    Raises:
        ValueError: a name that is no module's; no normalization layer; a number out of range; a
            layer with a fused activation, since the noise belongs between norm and activation.
        TypeError: ``model`` is no module.

    Numerics:
        Drawn in float32 on the CPU, so that every device sees the same noise. Gradients flow
        through it as through the constants that s and m are.

    Source:
        Santurkar, Tsipras, Ilyas & Madry 2018, arXiv:1805.11604, section 2.2 and appendix.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
        >>> x = torch.randn(64, 3)
        >>> with noisy(model) as noise:
        ...     shifted = model(x)
        >>> noise.layers, torch.equal(model(x), shifted)
        (('1',), False)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    if isinstance(layers, str):
        raise TypeError(f"layers={layers!r} is one name; give a list of names")
    for name, value, least in (
        ("mean", mean, 0),
        ("scale", scale, 1),
        ("mean_spread", mean_spread, 0),
        ("scale_spread", scale_spread, 0),
    ):
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name}={value} must be a finite number, at least {least}")
    modules = dict(model.named_modules())
    if layers is None:
        chosen = [name for name, module in modules.items() if isinstance(module, NORMS)]
        if not chosen:
            raise ValueError(
                f"model={type(model).__name__} has no normalization layer; name its layers"
            )
    else:
        chosen = [known("layers", name, modules) for name in layers]
    for name in chosen:
        module = modules[name]
        if isinstance(module, Epilogue) and module.activation is not None:
            raise ValueError(
                f"layer {name!r} has activation={module.activation!r} fused, and the noise belongs "
                "before it; make the activation a module of its own"
            )
    return Noise(
        {name: modules[name] for name in chosen},
        torch.Generator().manual_seed(seed),
        (mean, scale, mean_spread, scale_spread),
        in_evaluation,
    )


class Noise:
    """Noise on some layers of a model; made by `noisy`.

    Attributes:
        layers: the names of those layers.
        generator: what the noise is drawn from; its state can be kept and set.
    """

    def __init__(
        self,
        layers: dict[str, nn.Module],
        generator: torch.Generator,
        amounts: tuple[float, float, float, float],
        in_evaluation: bool,
    ) -> None:
        self.layers = tuple(layers)
        self.generator = generator
        self._amounts = amounts
        self._in_evaluation = in_evaluation
        self._handles: list[RemovableHandle] = [
            module.register_forward_hook(self._shift) for module in layers.values()
        ]

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def draw(self, examples: int, units: int) -> tuple[Tensor, Tensor]:
        """Return s and m of one step, each (examples, units) float32."""
        mean, scale, mean_spread, scale_spread = self._amounts
        shift = self._uniform(1, units) * mean
        factor = 1 + (self._uniform(1, units) + 1) * ((scale - 1) / 2)
        m = shift + self._uniform(examples, units) * mean_spread
        normal = torch.randn(examples, units, generator=self.generator)
        return factor + normal * scale_spread, m

    def _uniform(self, *shape: int) -> Tensor:
        """U(−1, 1)."""
        return torch.rand(*shape, generator=self.generator) * 2 - 1

    def _shift(self, layer: nn.Module, args: Any, output: Any) -> Any:
        if not (layer.training or self._in_evaluation):
            return None  # the output as it is
        if not isinstance(output, Tensor) or output.dim() < 2:
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"noise needs outputs of shape (examples, units, ...), not {given}")
        dim = output.dim() - 1
        if isinstance(layer, NORMS):
            dim = channel_dim(layer, output) % output.dim()
        elif isinstance(layer, _CHANNELS_FIRST):
            dim = 1
        if dim == 0:
            raise ValueError(f"noise needs a batch, not one example of shape {tuple(output.shape)}")
        shape = [1] * output.dim()
        shape[0], shape[dim] = output.shape[0], output.shape[dim]
        s, m = (part.reshape(shape).to(output) for part in self.draw(shape[0], shape[dim]))
        return s * output + m

    def __enter__(self) -> Noise:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
