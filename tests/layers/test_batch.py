"""Batch norm's own: running statistics, momentum, modes, and the inputs it refuses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.ops.reference import torch_norms as reference
from tests.layers.agreement import agree
from tests.layers.cases import CASES, Case

KINDS = [CASES[name] for name in ("batch1d", "batch1d-length", "batch2d", "batch3d")]
every_kind = pytest.mark.parametrize("case", KINDS, ids=lambda c: f"{c.ours.__name__}{c.shape}")


def statistics(batches: list[Tensor], momentum: float | None) -> tuple[Tensor, Tensor]:
    """Running mean and variance of Ioffe & Szegedy, in float64, from their definition."""
    features = batches[0].shape[1]
    mean, var = torch.zeros(features).double(), torch.ones(features).double()
    for t, batch in enumerate(batches, 1):
        rows = batch.double().transpose(0, 1).flatten(1)  # (C, m)
        new = 1 / t if momentum is None else momentum
        mu = rows.mean(1, keepdim=True)
        unbiased = (rows - mu).square().sum(1) / (rows.shape[1] - 1)
        mean, var = (1 - new) * mean + new * mu[:, 0], (1 - new) * var + new * unbiased
    return mean, var


@every_kind
@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0, None])
def test_running_statistics(case: Case, momentum: float | None) -> None:
    layer, twin = case.make(momentum=momentum), case.make_twin(momentum=momentum)
    batches = [case.input(seed) for seed in range(5)]
    for batch in batches:
        layer(batch), twin(batch)
    mean, var = statistics(batches, momentum)
    # Five float32 updates of numbers near 3 (mean) and 4 (variance).
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), var, rtol=2e-6, atol=1e-6)
    assert int(layer.num_batches_tracked) == 5
    agree(dict(layer.named_buffers()), dict(twin.named_buffers()))

    layer.eval()
    x = case.input(9)
    expected = reference.batch_norm_inference(
        x.double(), mean, var, layer.weight.double(), layer.bias.double(), layer.eps
    )
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert int(layer.num_batches_tracked) == 5


@every_kind
@pytest.mark.parametrize("training", [True, False])
def test_untracked_always_uses_the_batch(case: Case, training: bool) -> None:
    layer = case.make(track_running_stats=False).train(training)
    twin = case.make_twin(track_running_stats=False).train(training)
    assert list(layer.buffers()) == []
    x = case.input()
    agree(layer(x), twin(x))
    torch.testing.assert_close(layer(x).double(), case.expected(layer, x), rtol=2e-6, atol=5e-6)


@every_kind
def test_tracking_switched_off_after_construction(case: Case) -> None:
    """Torch's rule: the buffers stay, are not updated in training, and are read in evaluation."""
    layers: list[Any] = [case.make(), case.make_twin()]
    outputs = []
    for layer in layers:
        layer(case.input(seed=1))
        layer.track_running_stats = False
        kept = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        in_training = layer(case.input())
        assert all(torch.equal(layer.get_buffer(name), kept[name]) for name in kept)
        layer.eval()
        outputs.append((in_training, layer(case.input())))
    agree(*outputs)
    assert not torch.equal(*outputs[0])


@pytest.mark.parametrize(
    ("layer", "shape", "said"),
    [
        (gb.BatchNorm1d(3), (2, 3, 4, 4), r"expected 2D or 3D input \(got 4D input\)"),
        (gb.BatchNorm2d(3), (2, 3, 4), r"expected 4D input \(got 3D input\)"),
        (gb.BatchNorm3d(3), (2, 3, 4, 4), r"expected 5D input \(got 4D input\)"),
    ],
    ids=["1d", "2d", "3d"],
)
def test_wrong_number_of_dims(layer: nn.Module, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        layer(torch.zeros(shape))


@every_kind
def test_one_value_a_feature_is_refused_in_training_only(case: Case) -> None:
    layer = case.make()
    one = torch.zeros(1, case.shape[1], *(1,) * (len(case.shape) - 2))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(one)
    layer.eval()
    assert layer(one).shape == one.shape


def test_wrong_number_of_features() -> None:
    # Torch's own error, whatever it says; the layer adds nothing and hides nothing.
    with pytest.raises(RuntimeError, match="running_mean should contain 4 elements not 3"):
        gb.BatchNorm1d(3)(torch.zeros(5, 4))


@every_kind
def test_synchronized_conversion_takes_our_layers_for_torchs(case: Case) -> None:
    network = nn.Sequential(case.make())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert isinstance(converted[0], nn.SyncBatchNorm)


def test_a_batch_changes_the_others_normalization_and_evaluation_does_not() -> None:
    """What batch norm is: in training an example's output depends on its batch."""
    layer = gb.BatchNorm1d(5)
    x, others = torch.randn(2, 5), [torch.randn(6, 5), 4 * torch.randn(6, 5)]
    outputs = [layer(torch.cat([x, o]))[:2] for o in others]
    assert all((a - b).abs().max() > 0.1 for a, b in pairwise(outputs))
    layer.eval()
    outputs = [layer(torch.cat([x, o]))[:2] for o in others]
    assert all(torch.equal(a, b) for a, b in pairwise(outputs))
