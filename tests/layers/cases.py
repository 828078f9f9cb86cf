"""The layers under test: ours, torch's twin, an input shape, and the oracle in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.ops.reference import torch_norms as reference


@dataclass(frozen=True)
class Case:
    """One layer with its arguments."""

    ours: type[nn.Module]
    twin: type[nn.Module]
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    oracle: Callable[[Any, Tensor, Tensor | None, Tensor | None], Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, **options: Any) -> nn.Module:
        return dress(self.ours(*self.arguments, **{**self.options, **options}))

    def make_twin(self, **options: Any) -> nn.Module:
        return dress(self.twin(*self.arguments, **{**self.options, **options}))

    def input(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (3 + 2 * torch.randn(self.shape, generator=generator)).to(dtype)

    def expected(self, layer: Any, x: Tensor) -> Tensor:
        """What the layer computes in training, by the float64 reference."""
        weight, bias = (
            None if p is None else p.detach().double()
            for p in (layer.weight, getattr(layer, "bias", None))
        )
        return self.oracle(layer, x.detach().double(), weight, bias)


def dress(layer: nn.Module) -> nn.Module:
    """Give γ and β values other than 1 and 0, the same for any two layers of the same shape."""
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) + 0.5)
    return layer


def _batch(layer: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return reference.batch_norm(x, weight, bias, layer.eps)[0]


def _layer(layer: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return reference.layer_norm(x, len(layer.normalized_shape), weight, bias, layer.eps)[0]


def _group(layer: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return reference.group_norm(x, layer.num_groups, weight, bias, layer.eps)


def _rms(layer: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    # eps=None is the epsilon of the arithmetic: float32 for halves.
    machine = torch.finfo(torch.promote_types(layer.weight.dtype, torch.float32)).eps
    eps = machine if layer.eps is None else layer.eps
    return reference.rms_norm(x, len(layer.normalized_shape), weight, eps)


CASES = {
    "batch1d": Case(gb.BatchNorm1d, nn.BatchNorm1d, (5,), (7, 5), _batch),
    "batch1d-length": Case(gb.BatchNorm1d, nn.BatchNorm1d, (5,), (4, 5, 3), _batch),
    "batch2d": Case(gb.BatchNorm2d, nn.BatchNorm2d, (6,), (4, 6, 3, 5), _batch),
    "batch3d": Case(gb.BatchNorm3d, nn.BatchNorm3d, (4,), (2, 4, 3, 2, 5), _batch),
    "batch-eps": Case(gb.BatchNorm2d, nn.BatchNorm2d, (6, 0.1, 0.3), (2, 6, 2, 2), _batch),
    "layer": Case(gb.LayerNorm, nn.LayerNorm, (12,), (3, 4, 12), _layer),
    "layer-2dims": Case(gb.LayerNorm, nn.LayerNorm, ((4, 6),), (3, 4, 6), _layer),
    "layer-eps": Case(gb.LayerNorm, nn.LayerNorm, (12, 0.1), (5, 12), _layer),
    "group": Case(gb.GroupNorm, nn.GroupNorm, (3, 6), (4, 6, 5), _group),
    "group-image": Case(gb.GroupNorm, nn.GroupNorm, (2, 6), (2, 6, 3, 3), _group),
    "group-instance": Case(gb.GroupNorm, nn.GroupNorm, (6, 6, 0.1), (2, 6, 3, 3), _group),
    "rms": Case(gb.RMSNorm, nn.RMSNorm, (12,), (3, 4, 12), _rms),
    "rms-2dims": Case(gb.RMSNorm, nn.RMSNorm, ((4, 6), 0.1), (3, 4, 6), _rms),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
