"""A crowd: many stacks of one shape, trained together with batched matrix products.

A stack with 100 units per layer is so small that overhead between operations is a large part of
its step. A crowd takes one step for all members at once. Each member has its own weights,
statistics, learning rate and dropout; the members do not affect each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.lab.models.stack import Stack, StackLayer
from gammabeta.layers import BatchNorm1d


class Crowd(nn.Module):
    """Stacks of one shape, computed together.

    Args:
        stacks: the members. All have the same depth, width and activation, and all have batch
            norm or none has a norm. Their weights are copied.
        dropout: dropout probability of each member.
        seed: random seed for dropout. The global random state is neither read nor changed.

    Raises:
        ValueError: the stacks differ in shape, or have a norm other than batch norm.

    Numerics:
        A member computes what its stack would compute, up to the order of summation in the matrix
        products. Non-finite values in one member do not affect the others.

    Example:
        >>> members = [Stack(8, 3, depth=2, width=4, seed=seed) for seed in (0, 1)]
        >>> crowd, x = Crowd(members), torch.randn(16, 8)
        >>> crowd(x).shape
        torch.Size([2, 16, 3])
        >>> torch.allclose(crowd(x)[1], members[1](x), atol=1e-5)
        True
    """

    def __init__(
        self, stacks: Sequence[Stack], dropout: Sequence[float] | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        shapes = {str(stack) for stack in stacks}
        if len(shapes) != 1:
            raise ValueError(
                f"stacks are of {len(shapes)} shapes; give one or more, all of the same shape"
            )
        columns = list(zip(*map(_layers, stacks), strict=True))  # a column holds one depth
        first = columns[0][0]
        if not isinstance(first.norm, (BatchNorm1d, nn.Identity)):
            raise ValueError(
                f"norm of the stacks is {type(first.norm).__name__}; need batch or none"
            )
        self.members = len(stacks)
        self.activation = first.activation
        self.width = stacks[0].classifier.in_features
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.norms = nn.ModuleList()
        for index, layers in enumerate(columns):
            self._add([layer.linear for layer in layers], 1 if index == 0 else 0)
            norms = [layer.norm for layer in layers if isinstance(layer.norm, BatchNorm1d)]
            if norms:
                self.norms.append(_joined(norms, self.activation))
        self._add([stack.classifier for stack in stacks], 0)
        keep = [1.0 - p for p in dropout] if dropout and any(dropout) else None
        self._keep = None if keep is None else torch.tensor(keep).view(1, -1, 1)
        self._generator = torch.Generator().manual_seed(seed)

    def _add(self, linears: Sequence[nn.Linear], dim: int) -> None:
        with torch.no_grad():
            weight = torch.stack([each.weight.T for each in linears], dim).contiguous()
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.stack([each.bias for each in linears])))

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores: x (N, inputs) for all, or (members, N, inputs) → (members, N, C)."""
        batch = x.shape[-2]
        u = self._first(x)
        for index, bias in enumerate(self.biases[:-1]):
            # u is z, (N, members · width): members' units side by side, as one norm's channels.
            # With a norm, subtracting the mean would cancel the bias.
            u = self.norms[index](u) if len(self.norms) else self.activation(u + bias.view(-1))
            if self._keep is not None and self.training:
                u = self._dropped(u)
            own = u.view(batch, self.members, self.width).transpose(0, 1)
            u = torch.bmm(own, self.weights[index + 1]).transpose(0, 1).reshape(batch, -1)
        scores: Tensor = u + self.biases[-1].view(-1)
        return scores.view(batch, self.members, -1).transpose(0, 1)

    def per_member(self, values: Tensor) -> list[Tensor]:
        """Return ``values`` (members,) shaped to multiply each of `parameters`, in their order."""
        shaped = []
        for name, parameter in self.named_parameters():
            if name == "weights.0":
                shaped.append(values.view(1, -1, 1))
            elif name.startswith("norms"):
                shaped.append(values.repeat_interleave(self.width))
            else:
                shaped.append(values.view(-1, *[1] * (parameter.dim() - 1)))
        return shaped

    def _first(self, x: Tensor) -> Tensor:
        """The first layer's z, (N, members · width)."""
        weight = self.weights[0]  # (inputs, members, width)
        if x.dim() == 2:  # one mini-batch for all: one large product
            joined: Tensor = x @ weight.view(len(weight), -1)
            return joined
        z = torch.bmm(x, weight.transpose(0, 1))
        return z.transpose(0, 1).reshape(z.shape[1], -1)

    def _dropped(self, u: Tensor) -> Tensor:
        draws = torch.rand(len(u), self.members, self.width, generator=self._generator)
        return u * ((draws < self._keep) / self._keep).view(len(u), -1)  # type: ignore[operator]

    def affine_only(self) -> None:
        """Freeze everything but γ and β."""
        self.requires_grad_(False)
        for norm in self.norms:
            norm.requires_grad_(True)

    def classifier_only(self) -> None:
        """Freeze everything but the classifier."""
        self.requires_grad_(False)
        self.weights[-1].requires_grad_(True)
        self.biases[-1].requires_grad_(True)


class CrowdSGD(torch.optim.Optimizer):
    """SGD without momentum for a crowd, each member at its own learning rate.

    Raises:
        ValueError: there are not as many rates as members.
    """

    def __init__(self, crowd: Crowd, rates: Sequence[float]) -> None:
        if len(rates) != crowd.members:
            raise ValueError(
                f"rates={list(rates)} must hold {crowd.members} rates, one for each member"
            )
        each = crowd.per_member(torch.tensor(rates, dtype=crowd.weights[0].dtype))
        pairs = zip(crowd.parameters(), each, strict=True)
        super().__init__([{"params": [p], "rate": rate} for p, rate in pairs], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step; parameters without a gradient are left alone."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:  # a bias before batch norm has none
                    parameter.addcmul_(parameter.grad, group["rate"], value=-1)


def _layers(stack: Stack) -> list[StackLayer]:
    return [layer for layer in stack.layers if isinstance(layer, StackLayer)]


def _joined(norms: Sequence[BatchNorm1d], activation: nn.Module) -> BatchNorm1d:
    """One batch norm for the members' channels, side by side."""
    first = norms[0]
    name = type(activation).__name__.lower()
    joined = BatchNorm1d(
        sum(norm.num_features for norm in norms),
        first.eps,
        first.momentum,
        activation=name,
        # A guard would reject the statistics of all members because of one.
        on_nonfinite="accept",
    )
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(joined, name).copy_(torch.cat([getattr(norm, name) for norm in norms]))
    return joined
