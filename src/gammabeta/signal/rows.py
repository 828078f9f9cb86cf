"""The rows of one frame while it is measured: a layer, a residual sum, an attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from gammabeta.signal.sampling import LEAST, SAMPLE, Grabbed, feature_of, grab, plain


@dataclass(slots=True)
class Signal:
    """What was taken of one signal.

    Attributes:
        sample: (n,) sampled values.
        count: number of values of the whole signal.
        shape: its shape.
        strides: its strides, from which the place of each sampled value is known.
        dim: the dim that indexes its features.
        gradient: (n,) sample of its gradient, from the backward pass.
        gradient_count: number of values of the gradient.
        gradient_strides: strides of the gradient.
        most, phase: how the sample was taken, see `gammabeta.signal.sampling.take`.
    """

    sample: Grabbed
    count: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dim: int
    gradient: Grabbed | None = None
    gradient_count: int = 0
    gradient_strides: tuple[int, ...] = ()
    most: int = SAMPLE
    phase: int = 0

    @classmethod
    def of(cls, x: Tensor, dim: int, most: int = SAMPLE, phase: int = 0) -> Signal:
        """Take a sample of ``x``, whose features are indexed by ``dim``."""
        x = plain(x)
        dim = dim if -x.dim() <= dim < x.dim() else -1
        signal = cls(grab(x, most, phase), x.numel(), tuple(x.shape), x.stride(), dim)
        signal.most, signal.phase = most, phase
        return signal

    def take_gradient(self, gradient: Tensor) -> None:
        """Take a smaller sample of the gradient of the signal."""
        gradient = plain(gradient)
        self.gradient = grab(gradient, self._fewer, self.phase)
        self.gradient_count = gradient.numel()
        self.gradient_strides = gradient.stride()

    @property
    def _fewer(self) -> int:
        """Maximum size of the sample of the gradient, of which only the norm is wanted."""
        return max(LEAST, self.most // 4)

    def features(self) -> NDArray[Any]:
        """Return the index of each sampled value's feature: (n,) int32."""
        return feature_of(self.shape, self.strides, self.dim, self.most, self.phase)

    def gradient_features(self) -> NDArray[Any]:
        """Return the index of each sampled gradient's feature: (n,) int32."""
        strides = self.gradient_strides
        return feature_of(self.shape, strides, self.dim, self._fewer, self.phase)

    @property
    def units(self) -> int:
        """Number of features."""
        return self.shape[self.dim] if self.shape else 1


@dataclass(slots=True)
class Scale:
    """γ and β of a row's norm: copies, (C,) along ``dim``; None where it has none."""

    gamma: Tensor | None
    beta: Tensor | None


@dataclass(slots=True)
class Row:
    """A row of the picture.

    Attributes:
        name: name of the module, or of the place of a sum or an attention.
        dim: the dim that indexes the features of z.
        activation: name of the activation; None if there is none.
        normed: whether a norm was found.
        scale: γ and β, if x̂ can be had from the norm's output.
        embeds: whether z comes from a table; a norm after it is then a row of its own.
        again: whether the row was begun before in this pass; its signals are not measured.
        norm: the call of the norm's module; None if there was none.
        signals: stage → signal.
    """

    name: str
    dim: int
    activation: str | None = None
    normed: bool = False
    embeds: bool = False
    again: bool = False
    norm: object = None
    scale: Scale | None = None
    signals: dict[str, Signal] = field(default_factory=dict)

    @property
    def preactivation(self) -> str:
        """The stage that is the input of the activation."""
        if "residual" in self.signals:
            return "residual"
        return "affine" if self.normed else "z"
