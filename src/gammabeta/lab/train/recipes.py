"""The paper's training recipes by name, and its seven changes as switches that can be ablated.

A recipe holds what section 4.2 varies: normalization and activation of the network, and its
training. The data is not part of it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gammabeta.lab.models.inception import INITS, Inception
from gammabeta.lab.models.inception_parts import ACTIVATIONS, NORMS
from gammabeta.lab.models.inception_table import TABLE
from gammabeta.lab.train.plan import check_types
from gammabeta.names import known

SWITCHES = {
    "rate_factor": "raise the learning rate: a factor, 1 for none",
    "no_dropout": "remove dropout",
    "weaker_l2": "divide the weight of the L2 penalty by 5",
    "faster_decay": "let the learning rate decay 6 times faster",
    "no_local_response_norm": "remove local response normalization",
    "shuffle_within_shards": "shuffle within shards, so that the same examples do not always meet",
    "weak_distortions": "distort colours less: fewer steps see fewer images, let them be real ones",
}
"""The seven changes of section 4.2.1, each a field of `Recipe`."""

L2_DIVISOR = 5.0
DECAY_FACTOR = 6.0

PAPER_STEPS = 31_000_000
"""Steps of Inception to its best accuracy, figure 3."""

EIGHT_EPOCHS = 8 * 1_281_167 / 32
"""Steps of 32 in eight passes over ImageNet: about 320,292."""


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained.

    The fields are the settings of the baseline and switches; training uses the properties `lr`,
    `weight_decay`, `dropout`, `local_response_norm`, `decay_every`, and `learning_rate`.

    Attributes:
        name: as the paper calls it; ``+`` at its end says that it was changed.
        norm: ``"batch"`` or ``"none"``.
        activation: activation of every layer.
        rate_factor: multiplies ``base_lr``: 1, 5 or 30 in the paper.
        no_dropout, weaker_l2, faster_decay, no_local_response_norm, shuffle_within_shards,
            weak_distortions: see `SWITCHES`.
        base_lr: initial learning rate of the baseline; the paper's 0.0015 was for ImageNet.
        batch_size: examples per step.
        momentum: momentum of SGD. The paper gives no number; 0.9 is customary.
        base_weight_decay: weight of the L2 penalty of the baseline. Not printed: 2e-4 is that of
            Caffe's GoogLeNet, and a fifth of it, 4e-5, that of TensorFlow's Inception.
        dropout_fraction: probability, before the classifier; GoogLeNet's 40 %.
        decay_rate: what the learning rate is multiplied by every ``base_decay_every`` steps.
            GoogLeNet's 4 % every 8 epochs; this paper prints neither.
        base_decay_every: in steps, of the baseline. See `lasting` for short runs.
        init: distribution of the initial weights, see `gammabeta.lab.models.inception.INITS`.
        init_scale: multiplies the convolutions' initial weights.
        per_activation: of how many last modules each activation has its γ and β (section 4.2.3).

    Raises:
        ValueError: an unknown name or a number out of range.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, sections 4.2.1 and 4.2.2.

    Example:
        >>> bold = recipe("bn-x30")
        >>> bold.lr, bold.dropout, recipe("bn-baseline").dropout
        (0.045, 0.0, 0.4)
        >>> bold.with_changes(no_dropout=False).dropout
        0.4
    """

    name: str
    norm: str = "batch"
    activation: str = "relu"
    rate_factor: float = 1.0
    no_dropout: bool = False
    weaker_l2: bool = False
    faster_decay: bool = False
    no_local_response_norm: bool = False
    shuffle_within_shards: bool = False
    weak_distortions: bool = False
    base_lr: float = 0.0015
    batch_size: int = 32
    momentum: float = 0.9
    base_weight_decay: float = 2e-4
    dropout_fraction: float = 0.4
    decay_rate: float = 0.96
    base_decay_every: float = EIGHT_EPOCHS
    init: str = "he"
    init_scale: float = 1.0
    per_activation: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        known("norm", self.norm, NORMS)
        known("activation", self.activation, ACTIVATIONS)
        known("init", self.init, INITS)
        for name in ("rate_factor", "base_lr", "base_decay_every", "init_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be a positive number")
        for name, most in (("momentum", 1), ("dropout_fraction", 1), ("base_weight_decay", 1)):
            value = getattr(self, name)
            if not 0 <= value < most:
                raise ValueError(f"{name}={value} must be at least 0 and below {most}")
        if not 0 < self.decay_rate <= 1:
            raise ValueError(f"decay_rate={self.decay_rate} must be above 0 and at most 1")
        least = 2 if self.norm == "batch" else 1
        if self.batch_size < least:
            raise ValueError(f"batch_size={self.batch_size} must be at least {least}")
        if self.batch_size > 10**9:
            raise ValueError(f"batch_size={self.batch_size} must be at most 1,000,000,000")
        if not 0 <= self.per_activation <= len(TABLE):
            raise ValueError(
                f"per_activation={self.per_activation} must be between 0 and {len(TABLE)}"
            )
        if self.per_activation and self.norm != "batch":
            raise ValueError(
                f"per_activation={self.per_activation} needs norm='batch', not {self.norm!r}"
            )

    # What training goes by.

    @property
    def lr(self) -> float:
        """The initial learning rate."""
        return self.base_lr * self.rate_factor

    @property
    def weight_decay(self) -> float:
        """Weight decay of the optimizer: gradient of the L2 penalty divided by the weight."""
        return self.base_weight_decay / (L2_DIVISOR if self.weaker_l2 else 1.0)

    @property
    def dropout(self) -> float:
        """Probability of dropout before the classifier."""
        return 0.0 if self.no_dropout else self.dropout_fraction

    @property
    def local_response_norm(self) -> bool:
        """Whether the stem has local response normalization."""
        return not self.no_local_response_norm

    @property
    def decay_every(self) -> float:
        """Steps in which the learning rate falls to ``decay_rate`` of what it was."""
        return self.base_decay_every / (DECAY_FACTOR if self.faster_decay else 1.0)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 0).

        ``lr · decay_rate ** (step / decay_every)``: continuous exponential decay.

        Example:
            >>> inception = recipe("inception")
            >>> inception.learning_rate(0), round(inception.learning_rate(31_000_000) / 0.0015, 3)
            (0.0015, 0.019)
        """
        return float(self.lr * self.decay_rate ** (step / self.decay_every))

    # Others like it.

    def with_changes(self, **changes: Any) -> Recipe:
        """Return this recipe with ``changes`` to its fields; None leaves a field unchanged.

        Raises:
            ValueError: an unknown field, or a value out of range.
        """
        made = {field: value for field, value in changes.items() if value is not None}
        for field in made:
            known("change", field, [field.name for field in dataclasses.fields(self)])
        changed = {field for field, value in made.items() if value != getattr(self, field)}
        if changed and "name" not in made:
            made["name"] = self.name.rstrip("+") + "+"
        return dataclasses.replace(self, **made)

    def lasting(self, steps: int) -> Recipe:
        """Return this recipe on a clock where the paper's 31.0 million steps are ``steps``.

        The paper's learning rate hardly decays in a run of some thousand steps. Here the baseline's
        falls to 1.9 % at ``steps``, as the paper's did at its best accuracy; with ``faster_decay``
        it falls to that in a sixth of them.

        Raises:
            ValueError: ``steps`` is below 1.

        Example:
            >>> short = recipe("inception").lasting(3_000)
            >>> round(short.learning_rate(3_000) / short.lr, 3)
            0.019
        """
        if not 1 <= steps <= 10**9:
            raise ValueError(f"steps={steps} must be at least 1 and at most 1,000,000,000")
        return self.with_changes(base_decay_every=EIGHT_EPOCHS * steps / PAPER_STEPS)

    # What it makes.

    def model(
        self,
        classes: int,
        *,
        input_size: int = 224,
        width: float = 1.0,
        stem: str | None = None,
        channels: str = "written",
        in_channels: int = 3,
        seed: int = 0,
    ) -> nn.Module:
        """Return the network; see `gammabeta.lab.models.Inception` for the arguments."""
        return Inception(
            classes,
            norm=self.norm,
            input_size=input_size,
            width=width,
            stem=stem,
            channels=channels,
            activation=self.activation,
            dropout=self.dropout,
            local_response_norm=self.local_response_norm,
            in_channels=in_channels,
            per_activation=self.per_activation,
            seed=seed,
            init=self.init,
            init_scale=self.init_scale,
        )

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return SGD with momentum over the parameters of ``model``.

        The L2 penalty applies to the weights of convolutions and linear layers only, not to γ, β
        and biases. The paper does not say; its authors' later code does so. Set the learning rate
        of both groups to `learning_rate` before each step.

        Args:
            model: any module; frozen parameters are left out.

        Raises:
            ValueError: no parameter requires a gradient.
        """
        weights: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                (weights if parameter.dim() > 1 else others).append(parameter)
        if not weights and not others:
            raise ValueError(
                f"model={type(model).__name__} has no parameter that requires a gradient"
            )
        groups = [
            {"params": weights, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=self.lr,
            momentum=self.momentum,
            fused=True,  # one pass over all parameters: a small network has many small ones
        )


RECIPES: dict[str, Recipe] = {}


def _add(name: str, **settings: Any) -> None:
    RECIPES[name] = Recipe(name, **settings)


_CHANGES = {name: True for name in SWITCHES if name != "rate_factor"}
_add("inception", norm="none")
_add("bn-baseline")
_add("bn-x5", rate_factor=5.0, **_CHANGES)
_add("bn-x30", rate_factor=30.0, **_CHANGES)
_add("bn-x5-sigmoid", rate_factor=5.0, activation="sigmoid", **_CHANGES)


def recipe(name: str) -> Recipe:
    """Return the recipe called ``name``.

    Raises:
        ValueError: unknown name; the nearest is offered.
    """
    return RECIPES[known("recipe", name, RECIPES)]
