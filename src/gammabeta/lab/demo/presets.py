"""Settings of the demonstration, and presets that each show one thing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gammabeta.lab.data.flat import DATASETS
from gammabeta.lab.models.stack import ACTIVATIONS, GROUPS, NORMS
from gammabeta.names import known

OPTIMIZERS = ("sgd", "momentum", "adam")
MOST = 1e30
"""Of a rate or scale: float32 must hold it, and what an optimizer multiplies it by."""
MOST_EXAMPLES = 65_536
"""Of a mini-batch, so that a slip of the finger does not fill the memory."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run of the demonstration.

    Attributes:
        dataset: see `gammabeta.lab.data.flat.load`.
        lr: learning rate, of both arms.
        init_scale: multiplies the Glorot-normal std of the layers' weights.
        activation: of every layer.
        depth: number of layers.
        width: units a layer.
        norm: of the second arm; the first has none.
        batch_size: examples a mini-batch.
        optimizer: ``"sgd"``, ``"momentum"`` (SGD with 0.9) or ``"adam"``.
        momentum: of batch norm's running statistics.
        steps: optimizer steps.
        seed: of weights and mini-batches.

    Raises:
        ValueError: an unknown name or a number out of range.
    """

    dataset: str = "digits"
    lr: float = 2.0
    init_scale: float = 3.0
    activation: str = "tanh"
    depth: int = 4
    width: int = 64
    norm: str = "batch"
    batch_size: int = 64
    optimizer: str = "sgd"
    momentum: float = 0.1
    steps: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        known("dataset", self.dataset, DATASETS)
        known("activation", self.activation, ACTIVATIONS)
        known("norm", self.norm, NORMS[1:])
        known("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("lr", "init_scale", "momentum"):
            value = getattr(self, name)
            if not 0 < value <= MOST:
                raise ValueError(f"{name}={value} must be a positive number, at most {MOST:g}")
        if self.momentum > 1:
            raise ValueError(f"momentum={self.momentum} must be at most 1")
        for name, least, most in (
            ("depth", 1, 64),
            ("width", 1, 4096),
            ("steps", 1, 1_000_000),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name}={value} must be between {least} and {most}")
        least = 2 if self.norm == "batch" else 1
        if self.batch_size < least:
            why = " (batch norm needs two values to have a variance)" if least == 2 else ""
            raise ValueError(f"batch_size={self.batch_size} must be at least {least}{why}")
        if self.batch_size > MOST_EXAMPLES:
            raise ValueError(f"batch_size={self.batch_size} must be at most {MOST_EXAMPLES}")
        if self.norm == "group" and self.width % GROUPS:
            raise ValueError(f"width={self.width} must be a multiple of {GROUPS} for group norm")

    def with_changes(self, **changes: Any) -> Settings:
        """Return these settings with ``changes``; a change that is None is none."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    def title(self) -> str:
        """Return one line for the head of the page.

        Example:
            >>> Settings().title()
            'digits · 4 × 64 tanh · lr 2 · init × 3'
        """
        return (
            f"{self.dataset} · {self.depth} × {self.width} {self.activation} · "
            f"lr {self.lr:g} · init × {self.init_scale:g}"
        )


@dataclass(frozen=True)
class Preset:
    """Settings under a name, and the sentence that says what they show."""

    sentence: str
    settings: Settings


DEFAULT = "bold"

PRESETS: dict[str, Preset] = {
    "bold": Preset(
        "Bold weights and a bold rate: the plain network's signal drifts into saturation and stays "
        "there; batch norm brings it back at every layer.",
        Settings(),
    ),
    "healthy": Preset(
        "A rate and weights that suit the plain network: both arms learn, and the picture is calm.",
        Settings(lr=0.1, init_scale=1.0),
    ),
    "bold-lr": Preset(
        "Twenty times the healthy rate: the plain network's signal drifts into saturation.",
        Settings(lr=2.0, init_scale=1.0),
    ),
    "bold-init": Preset(
        "Weights ten times the usual: the plain network starts out saturated and learns slowly.",
        Settings(lr=1.0, init_scale=10.0),
    ),
    "saturating": Preset(
        "Sigmoids: in the plain network each layer hands on less gradient than it was given.",
        Settings(activation="sigmoid", lr=1.0, init_scale=1.0),
    ),
    "batch-of-two": Preset(
        "Mini-batches of two, where batch norm fails: x̂ can only be +1 or −1, whatever z was.",
        Settings(lr=0.1, init_scale=1.0, batch_size=2),
    ),
    "stale-statistics": Preset(
        "Running statistics that lag behind: batch norm trains well and fails in evaluation.",
        Settings(activation="sigmoid", lr=1.0, init_scale=1.0, momentum=0.001, steps=200),
    ),
}


def preset(name: str) -> Preset:
    """Return the preset called ``name``.

    Raises:
        ValueError: unknown name.
    """
    return PRESETS[known("preset", name, PRESETS)]
