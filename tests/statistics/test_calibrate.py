"""`gammabeta.calibrate`: what it measures, what it leaves alone, what it puts back."""

import copy
import io
import re
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import gammabeta as gb
from gammabeta.statistics import progress as progress_module
from tests.statistics.nets import (
    METHODS,
    Residual,
    data,
    everything,
    generator,
    same,
    seeded,
)


def expected_of(model, batches, estimate):
    """Statistics by the slow road: keep each norm's inputs in float64, then NumPy."""
    model = copy.deepcopy(model)
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(
                lambda _, args, name=name: inputs.setdefault(name, []).append(args[0].double())
            )
            module.train()
        else:
            module.training = False
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return {
        name: estimate([x.transpose(0, 1).flatten(1).numpy() for x in xs])
        for name, xs in inputs.items()
    }


def numpy_algorithm2(xs):
    counts = np.array([x.shape[1] for x in xs])
    return (
        np.average([x.mean(1) for x in xs], 0, counts),
        np.average([x.var(1, ddof=1) for x in xs], 0, counts - 1),
    )


def numpy_pooled(xs):
    x = np.concatenate(xs, 1)
    return x.mean(1), x.var(1, ddof=1)


ESTIMATES = {"algorithm2": numpy_algorithm2, "pooled": numpy_pooled}


# What is measured


@pytest.mark.parametrize("method", ESTIMATES)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, gb.BatchNorm2d, nn.SyncBatchNorm])
def test_a_residual_net_gets_numpys_statistics(method, norm):
    model = seeded(lambda: Residual(norm))
    batches = data(6, 6, 3, shape=(3, 5, 5))
    expected = expected_of(model, batches, ESTIMATES[method])
    gb.calibrate(model, batches, method)
    assert expected.keys() == {"bn1", "bn2"}
    for name, (mean, var) in expected.items():
        layer = model.get_submodule(name)
        # One rounding to float32 of a float64 result: half an ulp, 6e-8.
        np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(layer.running_var, var, rtol=1e-7)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_the_moving_average_is_a_training_pass(momentum):
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum)))
    model[1].running_mean.fill_(7)
    trained = copy.deepcopy(model)
    batches = data(5, 9, 4)
    for batch in batches:
        trained.train()(batch)
    gb.calibrate(model, batches, "moving_average")
    torch.testing.assert_close(model[1].running_mean, trained[1].running_mean)
    torch.testing.assert_close(model[1].running_var, trained[1].running_var)
    assert model[1].num_batches_tracked == trained[1].num_batches_tracked == 3


def test_the_layer_below_normalizes_by_the_mini_batch():
    # After a batch norm that sees each batch on its own, every batch has mean 0 and variance 1,
    # however far apart the batches are; by population statistics the second layer's batches
    # would lie apart too, and pooled would find their spread.
    model = nn.Sequential(nn.BatchNorm1d(1, eps=1e-9), nn.BatchNorm1d(1))
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[100.0], [104.0]])]
    gb.calibrate(model, batches, "pooled")
    assert model[0].running_mean.item() == 51.5
    assert model[1].running_mean.item() == pytest.approx(0, abs=1e-6)
    assert model[1].running_var.item() == pytest.approx(4 / 3)  # of −1, 1, −1, 1


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_unless_asked_for(training):
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1)).train(training)
    batches = [torch.ones(1000, 1)] * 2
    gb.calibrate(model, batches)
    assert model[1].running_var.item() == 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gb.calibrate(model, batches, others="train")
    # 0 or 2, each with probability 1/2: the variance is 1 − (mean − 1)², and of 2,000 values the
    # mean has a standard error of 0.022, so 0.99 is more than four of them away.
    assert 0.99 < model[1].running_var.item() < 1.01
    assert model.training is model[0].training is model[1].training is training


def test_others_train_keeps_each_modules_mode_in_a_training_model():
    model = nn.Sequential(nn.Dropout(0.5).eval(), nn.BatchNorm1d(1))
    model.training = True
    gb.calibrate(model, [torch.ones(100, 1)], others="train")
    assert model[1].running_var.item() == 0


def test_a_shared_layer_has_a_mini_batch_each_time_it_is_called():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x):
            return self.norm(10 + self.norm(x))

    model = Shared()
    report = gb.calibrate(model, [torch.tensor([[0.0], [4.0]])])
    second = 10 + torch.tensor([-1.0, 1.0]) * 2 / (4 + 1e-5) ** 0.5
    assert model.norm.running_mean.item() == pytest.approx((2 + 10) / 2)
    assert model.norm.running_var.item() == pytest.approx((8 + second.var().item()) / 2)
    assert (report.layers["norm"].batches, report.layers["norm"].values) == (2, 4)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.part = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.part, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("backward", [True, False])
def test_activation_checkpointing_counts_once(reentrant, backward):
    model = seeded(lambda: Checkpointed(reentrant))
    batches = data(6, 6)
    expected = expected_of(model.part, batches, numpy_algorithm2)["1"]
    calls = []
    model.part[1].register_forward_hook(lambda *_: calls.append(1))

    def forward(batch):
        with torch.enable_grad():
            model(batch.requires_grad_()).sum().backward()

    report = gb.calibrate(model, batches, forward=forward if backward else None)
    np.testing.assert_allclose(model.part[1].running_mean, expected[0], rtol=1e-6)
    assert report.layers["part.1"].batches == 2
    assert len(calls) == (4 if backward else 2)  # with a backward pass it does run twice


def test_a_layer_says_what_its_mini_batches_are():
    class Halves(nn.BatchNorm1d):
        def mini_batches(self, input):
            return input.chunk(2)

    layer = Halves(1)
    x = torch.tensor([[0.0], [2.0], [100.0], [102.0]])
    assert gb.calibrate(layer, [x]).layers[""].batches == 2
    assert layer.running_mean.item() == 51
    assert layer.running_var.item() == 2


def test_a_compiled_model_is_measured():
    model = nn.Sequential(nn.BatchNorm1d(3))
    compiled = torch.compile(model, backend="eager")
    x = data(8)[0]
    with torch.no_grad():
        compiled(x)  # so that there is compiled code that fits, and skips hooks added later
    gb.calibrate(compiled, [x], others="train")
    np.testing.assert_allclose(model[0].running_mean, x.double().mean(0), rtol=1e-6)


def test_inputs_given_by_keyword_are_measured():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x):
            return self.norm(input=x)

    model = Keyword()
    gb.calibrate(model, [torch.tensor([[0.0], [4.0]])])
    assert model.norm.running_mean.item() == 2


def test_low_precision_buffers_and_inputs():
    model = nn.Sequential(nn.BatchNorm1d(2)).bfloat16()
    x = data(64, shape=(2,))[0].bfloat16()
    gb.calibrate(model, [x])
    assert model[0].running_mean.dtype == torch.bfloat16
    assert torch.equal(model[0].running_mean, x.double().mean(0).bfloat16())


# The forms of batches


def test_the_forms_of_a_batch():
    x, y = data(8)[0], torch.zeros(8)

    class Net(nn.Sequential):
        def forward(self, input):
            return super().forward(input)

    forms = [
        ([x], None),
        ([(x, y)], None),
        ([[x, y]], None),
        ([({"input": x}, y)], None),
        ([{"input": x}], None),
        (iter([x]), None),
        (DataLoader(TensorDataset(x, y), batch_size=8), None),
        ([7], lambda batch: model(x + batch - 7)),
    ]
    for batches, forward in forms:
        model = Net(nn.BatchNorm1d(3))
        gb.calibrate(model, batches, forward=forward)
        np.testing.assert_allclose(model[0].running_mean, x.double().mean(0), rtol=1e-6)


def test_a_data_set_without_a_length():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from data(8)[0]

    model = nn.Sequential(nn.BatchNorm1d(3))
    report = gb.calibrate(model, DataLoader(Stream(), batch_size=4))
    assert report.batches == 2


def test_limit_takes_no_batch_more():
    def endless():
        while True:
            taken.append(1)
            yield torch.randn(4, 3, generator=generator())

    taken = []
    assert gb.calibrate(nn.BatchNorm1d(3), endless(), limit=3).batches == 3
    assert len(taken) == 3


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "batches is empty"),
        (iter(()), ValueError, "batches is empty"),
        (torch.zeros(4, 3), TypeError, "batches is one Tensor"),
        ({"x": 1}, TypeError, "batches is one dict"),
        ([3.5], TypeError, "a batch is a float; without forward="),
        ([[]], TypeError, "a batch is a list; without forward="),
    ],
)
def test_batches_that_will_not_do(batches, error, message):
    with pytest.raises(error, match=message):
        gb.calibrate(nn.Sequential(nn.BatchNorm1d(3)), batches)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "algoritm2"}, "did you mean 'algorithm2'"),
        ({"others": "evl"}, "did you mean 'eval'"),
        ({"nonfinite": "ignore"}, "choices: raise, skip"),
        ({"limit": 0}, "limit=0 must be at least 1"),
    ],
)
def test_arguments_that_will_not_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        gb.calibrate(nn.BatchNorm1d(3), data(4), **arguments)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)),
        nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)),
        gb.freeze(nn.Sequential(nn.BatchNorm1d(3))),
    ],
)
def test_a_model_with_nothing_to_calibrate(model):
    with pytest.raises(ValueError, match="no batch norm with running statistics"):
        gb.calibrate(model, data(4))


def test_a_lazy_model():
    with pytest.raises(ValueError, match="lazy module"):
        gb.calibrate(nn.Sequential(nn.LazyBatchNorm1d()), data(4))


# Layers left alone, and layers that no batch reaches


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.main, self.aux = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.main(x) + self.aux(x) if self.training else self.main(x)


def test_a_layer_no_batch_reaches_is_named_and_nothing_changes():
    model = Branches().eval()
    before = everything(model)
    with pytest.raises(ValueError, match=r"no batch reached the layers 'aux'.*others='train'"):
        gb.calibrate(model, data(4))
    assert same(everything(model), before)
    assert set(gb.calibrate(model, data(4), others="train").layers) == {"main", "aux"}
    gb.freeze(model.aux)
    assert gb.calibrate(model, data(4)).kept == ("aux",)


def test_empty_batches_reach_no_layer():
    with pytest.raises(ValueError, match="no batch reached"):
        gb.calibrate(nn.Sequential(nn.BatchNorm1d(3)).train(), [torch.zeros(0, 3)])


def left_alone(kind):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    if kind == "frozen":
        gb.freeze(model[0])
    elif kind == "by hand":
        model.train()[0].eval()
    else:
        model[0].track_running_stats = False  # with buffers: evaluation reads them
    return model


@pytest.mark.parametrize("kind", ["frozen", "by hand", "untracked"])
def test_layers_left_alone_normalize_by_their_statistics(kind):
    model = left_alone(kind)
    model[0].running_mean.fill_(5)
    before = everything(model[0])
    x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    report = gb.calibrate(model, [x])
    assert same(everything(model[0]), before)
    assert report.kept == ("0",)
    assert set(report.layers) == {"1"}
    # The second layer sees x − 5, up to the first one's ε.
    np.testing.assert_allclose(model[1].running_mean, [-3.0, -2.0, -1.0], rtol=1e-5)


def test_a_frozen_layer_of_a_model_in_evaluation_stays_so_while_others_train():
    model = nn.Sequential(gb.freeze(nn.BatchNorm1d(1)), nn.BatchNorm1d(1)).eval()
    gb.calibrate(model, [torch.tensor([[5.0], [9.0]])], others="train")
    assert model[1].running_mean.item() == pytest.approx(7, rel=1e-4)


def test_modes_say_nothing_in_a_model_in_evaluation():
    model = nn.Sequential(nn.BatchNorm1d(3)).eval()
    assert set(gb.calibrate(model, data(8)).layers) == {"0"}


# Non-finite


def poisoned():
    batches = data(4, 4, 4)
    batches[1] = torch.full((4, 3), float("nan"))
    return batches


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, gb.BatchNorm1d])
def test_a_non_finite_batch_is_named(norm):
    model = nn.Sequential(nn.Linear(3, 3), norm(3), norm(3))
    before = everything(model)
    with pytest.raises(ValueError, match=r"batch 2 gives layer '1' a NaN.*nonfinite='skip'"):
        gb.calibrate(model, poisoned())
    assert same(everything(model), before)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, gb.BatchNorm1d])
@pytest.mark.parametrize("method", METHODS)
def test_a_non_finite_batch_is_skipped_for_all_layers_and_counted(norm, method):
    def build():
        return seeded(lambda: nn.Sequential(norm(3), nn.Linear(3, 3), norm(3)))

    model, clean = build(), build()
    batches = poisoned()
    report = gb.calibrate(model, batches, method, nonfinite="skip")
    gb.calibrate(clean, [batches[0], batches[2]], method)
    assert same(dict(model.state_dict()), dict(clean.state_dict()))
    assert (report.batches, report.skipped) == (2, (1,))
    assert "skipped, not finite: batch 2" in str(report)


def test_all_batches_non_finite():
    with pytest.raises(ValueError, match="all 1 batches"):
        gb.calibrate(nn.BatchNorm1d(1), [torch.tensor([[1.0], [float("inf")]])], nonfinite="skip")


def test_a_statistic_its_dtype_cannot_hold_is_refused():
    model = nn.Sequential(nn.BatchNorm1d(1)).half()
    x = torch.tensor([[-60000.0], [60000.0]]).half()  # variance 7e9; half ends at 65504
    before = everything(model)
    with pytest.raises(ValueError, match=r"running_var of layer '0'.*torch.float16.*7.2e\+09"):
        gb.calibrate(model, [x])
    assert same(everything(model), before)


def test_averages_that_were_poisoned_before():
    model = nn.Sequential(nn.BatchNorm1d(3))
    model[0].running_mean.fill_(float("nan"))
    with pytest.raises(ValueError, match="running_mean of layer '0' would not be finite"):
        gb.calibrate(model, data(4), "moving_average")
    gb.calibrate(model, data(4))
    assert model[0].running_mean.isfinite().all()


# num_batches_tracked


def test_batches_tracked_never_shrink_and_give_a_cumulative_average_its_weight():
    model = nn.BatchNorm1d(1, momentum=None)
    gb.calibrate(model, [torch.tensor([[-1.0], [1.0]])] * 9)
    assert model.num_batches_tracked == 9
    model.train()(torch.tensor([[9.0], [11.0]]))
    assert model.running_mean.item() == pytest.approx(1.0)  # the tenth batch weighs 1/10
    gb.calibrate(model, [torch.tensor([[-1.0], [1.0]])] * 2)
    assert model.num_batches_tracked == 10


# The report


def test_the_report_says_what_changed_in_units_of_sigma():
    model = nn.Sequential(nn.BatchNorm1d(2, eps=1e-12))
    model[0].running_mean.copy_(torch.tensor([1.0, 0.0]))
    model[0].running_var.copy_(torch.tensor([4.0, 1.0]))
    x = torch.tensor([[5.0, 0.0], [9.0, 2.0]])
    report = gb.calibrate(model, [x])
    change = report.layers["0"]
    assert change.mean_shift.tolist() == pytest.approx([3.0, 1.0])  # (7 − 1)/2, (1 − 0)/1
    assert change.var_ratio.tolist() == pytest.approx([2.0, 2.0])  # 8/4, 2/1
    assert change.mean_before.tolist() == [1.0, 0.0]
    assert change.mean.dtype == torch.float64
    lines = str(report).splitlines()
    assert lines[0] == "algorithm2 on 1 batch: running statistics of 1 batch norm set"
    assert " ".join(lines[2].split()) == "0 1 2 2.24 σ 3.00 σ ×2.00 ×2.00 ×2.00"  # √((9 + 1)/2)


def test_the_report_names_the_layers_left_alone():
    model = gb.freeze(nn.Sequential(nn.BatchNorm1d(3)))
    model.append(nn.BatchNorm1d(3))
    model.append(gb.FrozenBatchNorm1d(3))
    model.append(nn.BatchNorm1d(3, track_running_stats=False))
    report = gb.calibrate(model, data(4))
    assert report.untracked == ("3",)
    assert str(report).splitlines()[-2:] == [
        "without running statistics: 3",
        "left alone: 0 (frozen), 2 (FrozenBatchNorm1d: fixed statistics)",
    ]


# The progress bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def stderr_of(monkeypatch, stream, **arguments):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    model = nn.Sequential(nn.BatchNorm1d(3))
    gb.calibrate(model, data(4, 4, 4), **arguments)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_short_work_has_no_bar(monkeypatch):
    assert stderr_of(monkeypatch, Terminal()) == ""


def test_long_work_has_a_bar_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr(progress_module, "PATIENCE", 0.0)
    slow = {"forward": lambda _: time.sleep(0.01)}
    with pytest.raises(ValueError, match="no batch reached"):
        stderr_of(monkeypatch, terminal := Terminal(), **slow)
    assert "calibrating" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
    assert stderr_of(monkeypatch, io.StringIO()) == ""
    assert stderr_of(monkeypatch, Terminal(), progress=False) == ""


def test_a_bar_that_is_asked_for(monkeypatch):
    assert "3/3" in stderr_of(monkeypatch, Terminal(), progress=True)
    assert "2/2" in stderr_of(monkeypatch, Terminal(), progress=True, limit=2)


def test_the_bar_goes_when_work_is_given_up(monkeypatch):
    def forward(batch):
        if batch is batches[1]:
            raise RuntimeError("midway")

    batches = data(4, 4)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(RuntimeError, match="midway"):
        gb.calibrate(nn.BatchNorm1d(3), batches, forward=forward, progress=True)
    assert sys.stderr.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again


@pytest.mark.skipif(not hasattr(Exception, "add_note"), reason="exceptions have notes from 3.11 on")
def test_an_error_of_the_model_says_which_batch_raised_it():
    model = nn.Sequential(nn.Linear(3, 4), gb.BatchNorm1d(4))
    with pytest.raises(RuntimeError, match="mat1 and mat2") as raised:
        gb.calibrate(model, [torch.randn(5, 3), torch.randn(5, 2)])
    assert raised.value.__notes__ == ["raised by the model on batch 2 of batches="]
