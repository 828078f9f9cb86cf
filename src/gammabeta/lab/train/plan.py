"""The settings of a training run besides its recipe; stored in every checkpoint."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from gammabeta.lab.models.inception import LARGEST, WIDEST
from gammabeta.names import known

_Made = TypeVar("_Made")

PRECISIONS = ("fp32", "bf16")
DEVICES = ("cpu", "cuda", "auto")
DISTORTIONS = ("auto", "none", "paper")
FREE = (
    "steps",
    "evaluate_every",
    "checkpoint_every",
    "log_every",
    "keep",
    "workers",
    "watch",
    "skip_unreadable",
)
"""Settings that may change on resume; none of them changes the weights."""


@dataclass(frozen=True)
class Plan:
    """All settings of a run besides its recipe.

    Attributes:
        data: name of the data set, see `gammabeta.lab.data.load_images`.
        data_dir: its folder; "" for the default.
        steps: total number of optimizer steps.
        seed: random seed for weights, order, distortions and dropout.
        size: height and width of the network's input; 0 for those of the data.
        width: multiplies the network's channels.
        stem, channels: variants of the network; "auto" lets the recipe choose.
        distortions: ``"paper"`` crops, mirrors and distorts the training examples, ``"none"`` does
            not, ``"auto"`` does with photographs.
        shard: examples per shard, see `gammabeta.lab.data.Order`.
        precision: ``"fp32"``, or ``"bf16"`` for autocast.
        channels_last: use the channels-last memory layout for images and weights.
        sync_bn: compute batch statistics over all ranks.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
        skip_unreadable: skip images that cannot be read.
        evaluate_every, checkpoint_every, log_every: intervals in steps; 0 for only at the end.
        keep: number of checkpoints to keep besides the best one.
        workers: threads that prepare distorted examples.
        watch: record the signal.

    Raises:
        ValueError: an unknown name or a number out of range.
    """

    data: str = "digits"
    data_dir: str = ""
    steps: int = 1000
    seed: int = 0
    size: int = 0
    width: float = 1.0
    stem: str = "auto"
    channels: str = "written"
    distortions: str = "auto"
    shard: int = 1024
    precision: str = "fp32"
    channels_last: bool = False
    sync_bn: bool = False
    device: str = "auto"
    skip_unreadable: bool = False
    evaluate_every: int = 200
    checkpoint_every: int = 200
    log_every: int = 20
    keep: int = 3
    workers: int = 2
    watch: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        known("precision", self.precision, PRECISIONS)
        known("distortions", self.distortions, DISTORTIONS)
        for name, least, most in (
            ("steps", 1, 10**9),
            ("seed", 0, 2**63 - 1),
            ("size", 0, LARGEST),
            ("shard", 1, 10**9),
            ("evaluate_every", 0, 10**9),
            ("checkpoint_every", 0, 10**9),
            ("log_every", 1, 10**9),
            ("keep", 1, 10**6),
            ("workers", 0, 256),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name}={value} must be between {least} and {most}")
        if not 0 < self.width <= WIDEST:
            raise ValueError(f"width={self.width} must be a positive number, at most {WIDEST}")

    def with_changes(self, **changes: Any) -> Plan:
        """Return this plan with ``changes``; None leaves a field unchanged."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as a dict of numbers and strings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Plan:
        """Return the plan of a dict made by `as_dict`.

        Raises:
            ValueError: a name is unknown or missing, or a value is invalid.
        """
        return made(cls, "plan", held)


def check_types(made: Any) -> None:
    """Raise unless each field of a dataclass has its annotated type.

    Raises:
        ValueError: one of them is not.

    Example:
        >>> check_types(Plan())
    """
    for field in fields(made):
        value, (kinds, words) = getattr(made, field.name), _TYPES[str(field.type)]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ValueError(f"{field.name}={reprlib.repr(value)} must be {words}")
        if kinds is not int and isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ValueError(f"{field.name}={reprlib.repr(value)} is too large for a float")


_TYPES: dict[str, tuple[Any, str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "True or False"),
}


def made(kind: type[_Made], what: str, held: Mapping[str, Any]) -> _Made:
    """Return the dataclass ``kind`` with the fields ``held``, which must be complete.

    Args:
        kind: the dataclass.
        what: its name in error messages.
        held: name → value.

    Raises:
        ValueError: a name is unknown or missing, or ``kind`` refuses a value.

    Example:
        >>> made(Plan, "plan", {})
        Traceback (most recent call last):
        ...
        ValueError: plan lacks 'data'
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in held:
        known(what, name, names)
    for name in names:
        if name not in held:
            raise ValueError(f"{what} lacks {name!r}")
    return kind(**held)


def due(step: int, every: int, last: int) -> bool:
    """Return whether a periodic action is due at ``step``; it is always due at the last step.

    Example:
        >>> [step for step in range(1, 11) if due(step, 4, 10)]
        [4, 8, 10]
    """
    return step == last or (every > 0 and step % every == 0)
