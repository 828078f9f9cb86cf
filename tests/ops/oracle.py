"""Batch norm, residual and activation in float64, forward and backward, and how far others may be.

The formulas are written out and differentiated by autograd; nothing here is what the layers run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.ops import calls


def six_hardsigmoid(z: Tensor) -> Tensor:
    return torch.where(z > -3, torch.where(z < 3, z + 3, 6 + 0 * z), 0 * z)


ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda z: z,
    "relu": lambda z: torch.where(z > 0, z, torch.zeros_like(z)),
    "leaky_relu": lambda z: torch.where(z > 0, z, 0.01 * z),
    "silu": lambda z: z / (1 + torch.exp(-z)),
    "gelu": lambda z: z * 0.5 * torch.special.erfc(-z / 2**0.5),
    "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
    "tanh": lambda z: 1 - 2 / (torch.exp(2 * z) + 1),
    "relu6": lambda z: torch.where(z > 0, torch.where(z < 6, z, 6 + 0 * z), 0 * z),
    "hardswish": lambda z: z * six_hardsigmoid(z) / 6,
    "hardsigmoid": lambda z: six_hardsigmoid(z) / 6,
    "mish": lambda z: z * torch.tanh(torch.log1p(torch.exp(z))),
    "gelu_tanh": lambda z: z / (1 + torch.exp(-((8 / math.pi) ** 0.5) * (z + 0.044715 * z**3))),
}


@dataclass
class Problem:
    """A batch norm with everything it is given; ``x`` is (N, C, ...) in the layout under test."""

    x: Tensor
    g: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None = None
    activation: str | None = None
    eps: float = 1e-5
    running: tuple[Tensor, Tensor] | None = None  # given: evaluation

    def told(self) -> str:
        """Return in words which problem it is."""
        given = [name for name in ("weight", "residual") if getattr(self, name) is not None]
        return f"{self.x.dtype}, {tuple(self.x.shape)}, {self.activation}, {given}"

    def solve(self) -> dict[str, Tensor]:
        """What the kernels in use make of it: the output, and the gradients by name."""
        given = {
            name: t.detach().requires_grad_()
            for name in ("x", "weight", "bias", "residual")
            if (t := getattr(self, name)) is not None
        }
        mean, var = (None, None) if self.running is None else self.running
        y = calls.batch_norm(
            given["x"],
            mean,
            var,
            given.get("weight"),
            given.get("bias"),
            training=self.running is None,
            momentum=0.1,
            eps=self.eps,
            activation=self.activation,
            residual=given.get("residual"),
        )
        gradients = torch.autograd.grad(y, list(given.values()), self.g)
        return {"y": y.detach(), **dict(zip(given, gradients, strict=True))}

    def exact(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The same in float64, and for each the sum of magnitudes that its rounding is u times.

        With x̂ computed from x − μ, where μ is off by some u of σ, a value is off by some u of
        |γ| (1 + |x̂|) + |β| + |r|, however large μ / σ is; an activation adds some u of itself. The
        gradient of x is γ/σ · (d − mean d − x̂ · mean(d x̂)), d that of the normalized value, off by
        some u of its terms; those of γ and β are sums, off by u of their terms' magnitudes.
        """
        x, g = self.x.double(), self.g.double()
        shape = (1, -1) + (1,) * (x.dim() - 2)
        dims = [0, *range(2, x.dim())]
        leaves = {"x": x.clone().requires_grad_()}
        for name in ("weight", "bias", "residual"):
            if (t := getattr(self, name)) is not None:
                leaves[name] = t.detach().double().clone().requires_grad_()
        if self.running is None:
            mean = leaves["x"].mean(dims, keepdim=True)
            var = (leaves["x"] - mean).square().mean(dims, keepdim=True)
        else:
            mean, var = (t.double().view(shape) for t in self.running)
        s = (var + self.eps).sqrt()
        x_hat = (leaves["x"] - mean) / s
        one, zero = torch.ones(x.shape[1]).double(), torch.zeros(x.shape[1]).double()
        weight, bias = leaves.get("weight", one).view(shape), leaves.get("bias", zero).view(shape)
        z = x_hat * weight + bias
        size = weight.abs() * (1 + x_hat.abs()) + bias.abs()
        x_size = 1 + x_hat.abs()
        if self.x.dtype is torch.float64:  # this oracle rounds as well, and rounds the mean
            kappa = x.abs().amax(dims, keepdim=True) / s
            size, x_size = size + kappa * weight.abs(), x_size + kappa
        if self.residual is not None:
            z, size = z + leaves["residual"], size + self.residual.double().abs()
        y = ACTIVATIONS[self.activation](z)
        gradients = torch.autograd.grad(y, [z, *leaves.values()], g)
        d = gradients[0]
        found = {"y": y.detach(), **dict(zip(leaves, gradients[1:], strict=True))}
        # |f″| <= 1.1 for our activations: an error of z moves d by so much of g.
        moved = (g.abs() * (1 + size) if self.activation else g.abs()).detach()
        one_term = moved.mean(dims, keepdim=True)
        sizes = {
            "y": (size + y.abs() if self.activation else size).detach(),
            "x": ((weight / s).abs() * (moved + one_term * x_size)).detach(),
            "weight": (moved * x_size).sum(dims).detach(),
            "bias": moved.sum(dims),
            "residual": moved,
        }
        if self.running is not None:
            sizes["x"] = ((weight / s).abs() * moved).detach()
        assert d.shape == x.shape
        return found, {name: sizes[name] for name in found}

    def check(self, got: dict[str, Tensor] | None = None, roundings: float = 16) -> None:
        """Hold the kernels in use to ``roundings`` u of `exact`, and to their output's own dtype.

        Sixteen: the statistics (sums of up to 4096 in the compute type, mostly far fewer in a
        row), 1/σ, its product with γ, x − μ, the product, β, the residual; the activation (<= 4).
        """
        got = self.solve() if got is None else got
        expected, sizes = self.exact()
        u = torch.finfo(torch.float64 if self.x.dtype is torch.float64 else torch.float32).eps / 2
        for name, value in got.items():
            own = torch.finfo(value.dtype)
            # Beside its relative rounding, a number may fall among the subnormal ones.
            bound = (
                roundings * u * sizes[name]
                + own.eps / 2 * expected[name].abs()
                + own.tiny * own.eps
            )
            error = (value.double() - expected[name]).abs()
            wrong = ~(error <= bound)
            worst = float((error / bound).nan_to_num(torch.inf).max()) if error.numel() else 0
            found = f"{int(wrong.sum())} wrong, {worst:.3g} of the bound"
            assert not wrong.any(), f"{name}: {found}; {self.told()}"


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def problem(
    x: Tensor, *, residual: bool = False, affine: bool = True, **options: object
) -> Problem:
    """A problem about ``x`` with random parameters, residual and gradient, in x's layout."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    c = x.shape[1]

    def like(seed: int) -> Tensor:
        return torch.empty_like(x).copy_(drawn(*x.shape, seed=seed))

    return Problem(
        x,
        like(11),
        drawn(c, seed=12, dtype=wide) if affine else None,
        drawn(c, seed=13, dtype=wide) if affine else None,
        like(14) if residual else None,
        **options,  # type: ignore[arg-type]
    )


def channels_last(x: Tensor) -> Tensor:
    """``x`` with its channels side by side, for any number of dims."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)
