"""The network is built the same way to train, to resume and to evaluate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gammabeta.lab.data import load_images
from gammabeta.lab.data.arrays import _moments
from gammabeta.lab.train.network import Standardize, build, describe
from gammabeta.lab.train.recipes import recipe
from tests.lab.train.small import PLAN

DATA = describe(load_images("digits"))
TINY = replace(PLAN, width=0.0625)


def test_the_form_for_synchronized_batch_norm_computes_the_same() -> None:
    """Activations split off, so that torch's SyncBatchNorm can take the layers' place."""
    fused = build(recipe("bn-x5"), TINY, DATA)
    split = build(recipe("bn-x5"), replace(TINY, sync_bn=True), DATA)
    assert not any(getattr(module, "activation", None) == "relu" for module in split.modules())
    x = torch.randn(4, 1, 8, 8)
    fused.eval()
    split.eval()
    torch.testing.assert_close(split(x), fused(x))


def test_channels_last_is_of_weights_and_images() -> None:
    model = build(recipe("bn-x5"), replace(TINY, channels_last=True), DATA)
    kernels = [p for p in model.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    three = {**DATA, "mean": [0.5] * 3, "std": [0.5] * 3}
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    y = Standardize(three, torch.device("cpu"), channels_last=True)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, x.float() / 127.5 - 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_means_do_not_depend_on_threads(threads: int) -> None:
    values = torch.randint(0, 256, (200_000,), generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mean, std = _moments(values.to(torch.uint8))
    finally:
        torch.set_num_threads(before)
    assert mean == int(values.sum()) / 200_000 / 255
    assert std == pytest.approx(float(values.double().std()) / 255)
