"""Local response normalization, beside torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gammabeta.lab.models.local_response import LocalResponseNorm


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("constants", [(5, 1e-4, 0.75, 1.0), (3, 0.5, 0.75, 2.0), (5, 2.0, 0.6, 1)])
def test_local_response_normalization_is_torchs(
    channels: int, constants: tuple[int, float, float, float]
) -> None:
    ours, theirs = LocalResponseNorm(*constants), nn.LocalResponseNorm(*constants)
    x = random(2, channels, 3, 4).double().requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    mine, torchs = (torch.autograd.grad(m(x).pow(3).sum(), x)[0] for m in (ours, theirs))
    torch.testing.assert_close(mine, torchs, rtol=1e-11, atol=1e-11)


def test_local_response_normalization_of_half_precision() -> None:
    x = random(2, 8, 3, 3)
    layer = LocalResponseNorm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, layer(x.bfloat16().float()).bfloat16())
    with pytest.raises(ValueError, match="size=4 must be odd and at least 1"):
        LocalResponseNorm(4)
