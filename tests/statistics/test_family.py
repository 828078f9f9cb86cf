"""`gammabeta.calibrate` and `freeze` on the layers that torch lacks."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import gammabeta as gb


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chain(norm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(norm(4), nn.Linear(4, 4), nn.ReLU(), norm(4))


def test_batch_renorm_is_measured_as_it_begins_training_as_batch_norm():
    # Its correction goes by the very statistics that calibrate replaces: with it, the second
    # layer would be measured behind a first one that evaluation no longer has.
    batches = [5 + 3 * normal(64, 4, seed=seed) for seed in range(8)]
    plain = chain(nn.BatchNorm1d)
    renorm = chain(lambda c: gb.BatchRenorm1d(c, warmup_steps=0, r_steps=0, d_steps=0))
    gb.calibrate(plain, batches)
    gb.calibrate(renorm, batches)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(renorm.state_dict()[name], value, msg=name)
    assert [float(limit) for limit in renorm[0].limits()] == [3.0, 5.0]


@pytest.mark.parametrize("method", ["algorithm2", "pooled", "moving_average"])
def test_a_masked_batch_of_one_value_gives_nothing_as_in_training(method):
    layer = gb.MaskedBatchNorm1d(2)
    some, one = torch.tensor([[1, 1, 1], [1, 0, 0]]) == 1, torch.tensor([[0, 1, 0], [0, 0, 0]]) == 1
    x = normal(2, 2, 3)
    report = gb.calibrate(layer, [{"input": x, "mask": one}, {"input": x, "mask": some}], method)
    assert (report.layers[""].batches, report.layers[""].values) == (1, 4)


def test_statistics_that_calibrate_does_not_set_are_reported():
    model = nn.ModuleDict(
        {
            "batch": gb.BatchNorm1d(3),
            "instance": gb.InstanceNorm1d(3, track_running_stats=True),
            "frozen": gb.FrozenBatchNorm1d(3),
            "none": gb.InstanceNorm1d(3),
            "lstm": gb.RecurrentBatchNormLSTM(3, 4, max_length=2),
        }
    )
    x = normal(4, 3, 5)
    report = gb.calibrate(model, [x], forward=lambda x: model["batch"](x))
    parts = tuple(f"lstm.norm_{part}_l0" for part in ("ih", "hh", "c"))
    assert report.kept == ("instance", "frozen", *parts)
    with pytest.raises(ValueError, match=r"no batch norm with running statistics.*lstm.norm_ih_l0"):
        gb.calibrate(nn.ModuleDict({"lstm": model["lstm"]}), [x])


def test_freeze_holds_recurrent_batch_norm():
    lstm = gb.RecurrentBatchNormLSTM(3, 4, max_length=5)
    lstm(normal(5, 6, 3))
    model = nn.ModuleDict({"lstm": lstm, "norm": nn.BatchNorm1d(4)})
    evaluated = lstm.eval()(normal(5, 2, 3, seed=1))[0]
    before = copy.deepcopy(model.state_dict())
    gb.freeze(model).train()
    np.testing.assert_array_equal(lstm(normal(5, 2, 3, seed=1))[0].detach(), evaluated.detach())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not lstm.norm_c_l0.weight.requires_grad
    assert lstm.weight_ih_l0.requires_grad
    assert lstm(normal(5, 1, 3))[0].shape == (5, 1, 4)  # with fixed statistics, one will do
    gb.unfreeze(model)
    assert all(module.training for module in model.modules())
    lstm(normal(5, 6, 3))
    assert not torch.equal(lstm.norm_c_l0.running_mean, before["lstm.norm_c_l0.running_mean"])


@pytest.mark.parametrize("limit", [0, 1.5, "2"])
def test_a_limit_that_is_no_number_of_batches(limit):
    with pytest.raises(ValueError, match=r"limit=.*at least 1, a whole number"):
        gb.calibrate(nn.BatchNorm1d(3), [normal(4, 3)], limit=limit)
