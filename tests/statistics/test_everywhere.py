"""`gammabeta.calibrate` after averaging, merging, pruning and quantization-aware training."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import gammabeta as gb
from tests.statistics.test_calibrate import everything, expected_of, numpy_algorithm2, same


def batches(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [2 + 3 * torch.randn(n, 3, 6, 6, generator=generator) for n in sizes]


def net(*, dropout=0.0, norm=nn.BatchNorm2d):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            norm(4),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(4, 5, 3, bias=False),
            norm(5),
            nn.Flatten(),
        )


class Ema(nn.Module):
    """A wrapper as those who average weights write it: the copy inside is in ``eval()``."""

    def __init__(self, model):
        super().__init__()
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    def forward(self, x):
        return self.module(x)


def assert_measured(model, given, prefix=""):
    """Each norm has the statistics that NumPy computes of its inputs."""
    inner = model.get_submodule(prefix.rstrip("."))
    assert_equal(inner, expected_of(inner, given, numpy_algorithm2))


def assert_equal(inner, expected):
    assert expected
    for name, (mean, var) in expected.items():
        layer = inner.get_submodule(name)
        # One rounding to float32 of a float64 result.
        np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(layer.running_var, var, rtol=1e-7)


# Copies in evaluation


AVERAGES = {
    "averaged": lambda: AveragedModel(net()),
    "averaged, evaluated": lambda: AveragedModel(net()).eval(),
    "averaged of a model in eval()": lambda: AveragedModel(net().eval()),
    "averaged with buffers": lambda: AveragedModel(net().eval(), use_buffers=True),
    "ema": lambda: AveragedModel(net().eval(), multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "wrapper": lambda: Ema(net()),
    "wrapper, evaluated": lambda: Ema(net()).eval(),
}


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("others", ["eval", "train"])
def test_an_average_is_measured_whatever_its_mode(kind, others):
    model = AVERAGES[kind]()
    if isinstance(model, AveragedModel):
        for _ in range(2):
            model.update_parameters(net())
    before = everything(model)
    given = batches(8, 8, 3)
    report = gb.calibrate(model, given, others=others)
    assert list(report.layers) == ["module.1", "module.5"]
    assert report.kept == ()
    assert_measured(model, given, "module.")
    after = everything(model)
    for part in ("parameters", "grads", "modes", "hooks", "attributes", "rng"):
        assert same(after[part], before[part])


def test_a_part_frozen_by_hand_stays_frozen_in_an_average():
    model = net()
    model[1].eval()
    averaged = AveragedModel(model)
    before = everything(averaged.module[1])
    report = gb.calibrate(averaged, batches(8))
    assert report.reasons == {"module.1": "in eval()"}
    assert same(everything(averaged.module[1]), before)


def test_frozen_layers_of_an_average_stay_as_they_are():
    averaged = AveragedModel(gb.freeze(net()[:2]).append(nn.BatchNorm2d(4)).eval())
    before = everything(averaged.module[1])
    report = gb.calibrate(averaged, batches(8))
    assert list(report.layers) == ["module.2"]
    assert report.reasons == {"module.1": "frozen"}
    assert same(everything(averaged.module[1]), before)


def test_a_teacher_in_evaluation_beside_a_student_in_training_is_left_alone():
    both = nn.ModuleDict({"student": net(), "teacher": net().eval()})
    before = everything(both["teacher"])
    report = gb.calibrate(both, batches(8), forward=lambda x: both["student"](x))
    assert set(report.kept) == {"teacher.1", "teacher.5"}
    assert same(everything(both["teacher"]), before)


# Torch's update_bn


def test_it_gives_what_update_bn_does_on_equal_batches_without_dropout():
    one, two = AveragedModel(net()), AveragedModel(net())
    given = batches(8, 8, 8, 8)
    update_bn(given, one)
    gb.calibrate(two, given)
    for name, buffer in two.named_buffers():
        # update_bn averages in float32, four times.
        torch.testing.assert_close(one.get_buffer(name), buffer, rtol=2e-6, atol=2e-6)


def test_update_bn_weighs_a_short_last_batch_like_a_full_one():
    one, two = net()[:2], net()[:2]
    given = batches(32, 2)
    given[1] += 10
    update_bn(given, one)
    gb.calibrate(two, given)
    x = one[0](torch.cat(given)).detach().double()
    mean = x.mean((0, 2, 3)).numpy()
    np.testing.assert_allclose(two[1].running_mean, mean, rtol=1e-6)
    assert (np.abs(one[1].running_mean.numpy() - mean) > 0.01).all()


def test_update_bn_turns_dropout_on():
    one, two = net(dropout=0.5), net(dropout=0.5)
    given = batches(32, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        update_bn(given, one)
    gb.calibrate(two, given)
    assert_measured(two, given)
    # Dropout doubles E[x²] of what it is applied to: the variance after the next convolution.
    assert (one[5].running_var > 1.2 * two[5].running_var).all()


def test_update_bn_changes_modes_and_what_is_frozen_by_hand():
    one, two = net(), net()
    for model in (one, two):
        model[1].eval()
        model[1].running_mean.fill_(7)
    update_bn(batches(8), one)
    gb.calibrate(two, batches(8))
    assert one[1].training
    assert (one[1].running_mean != 7).all()
    assert not two[1].training
    assert (two[1].running_mean == 7).all()


def test_update_bn_leaves_a_model_reset_when_it_fails():
    one, two = (nn.Sequential(nn.BatchNorm1d(3)).eval() for _ in range(2))
    for model in (one, two):
        model[0].running_mean.fill_(7)
    given = [torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3)]
    before = everything(two)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        update_bn(given, one)
    with pytest.raises(ValueError, match="batch 2: layer '0'"):
        gb.calibrate(two, given)
    assert one.training
    assert one[0].momentum is None
    assert same(everything(two), before)


# Converted models, whose norms may leave the work to the next operation


def test_an_output_that_is_kept_counts_no_batch_later():
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(8, 16, 32, 32, generator=generator) for _ in range(3)]
    model = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))
    assert model[0].fuses is not None  # so its output may be computed when it is used
    kept = []
    gb.calibrate(model, given, forward=lambda x: kept.append(model[0](x)))
    after = everything(model)
    assert model[0].num_batches_tracked == 3
    kept.clear()
    assert same(everything(model), after)
    assert_equal(model, expected_of(model, given, numpy_algorithm2))


# Changed weights


def test_after_pruning():
    model = net()
    gb.calibrate(model, batches(32, 32))
    for layer in (model[0], model[4]):
        prune.l1_unstructured(layer, "weight", amount=0.5)
    with torch.no_grad():
        model(batches(2)[0])  # a weight with a history could not be copied by the oracle
    before = everything(model)
    given = batches(32, 32)
    gb.calibrate(model, given)
    assert_measured(model, given)
    after = everything(model)
    assert same(after["parameters"], before["parameters"])
    masks = {k: v for k, v in before["buffers"].items() if k.endswith("weight_mask")}
    assert len(masks) == 2
    assert same({k: after["buffers"][k] for k in masks}, masks)
    assert same(after["attributes"], before["attributes"])


@pytest.mark.parametrize("bn", ["training", "frozen", "evaluated"])
def test_after_quantization_aware_training(bn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization says that it moves to torchao
        from torch.ao import quantization
        from torch.ao.nn.intrinsic.qat import freeze_bn_stats

        model = net().train()
        model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        model = quantization.fuse_modules_qat(model, [["0", "1", "2"], ["4", "5"]])
        model = quantization.prepare_qat(model)
        model(batches(8)[0])
    model.apply(quantization.disable_observer)
    if bn == "frozen":
        model.apply(freeze_bn_stats)
    if bn == "evaluated":
        model.eval()
    before = everything(model)
    given = batches(8, 8)
    expected = expected_of(model, given, numpy_algorithm2)  # the weights depend on the statistics
    report = gb.calibrate(model, given)
    assert list(report.layers) == ["0.bn", "4.bn"]
    assert_equal(model, expected)
    after = everything(model)
    for part in ("parameters", "grads", "modes", "hooks", "rng"):
        assert same(after[part], before[part])
    scales = {k: v for k, v in before["buffers"].items() if ".bn." not in k}
    assert same({k: after["buffers"][k] for k in scales}, scales)
