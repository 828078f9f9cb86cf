"""The benchmark of whole networks: by name, in variants, in turns; what the figures say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gammabeta
from gammabeta.lab.bench import net as bench
from gammabeta.lab.bench.net import Pass, Plan, measure, passes
from gammabeta.lab.bench.net_models import (
    TRANSFORMERS,
    Network,
    check,
    load,
    loss_of,
    scores_of,
    takes_pictures,
)
from gammabeta.lab.bench.net_profile import KINDS, kind, kinds_table, split
from gammabeta.lab.bench.net_report import line, networks_table, verdicts
from gammabeta.lab.bench.net_variants import VARIANTS, bare, variant
from gammabeta.lab.bench.results import Row, read
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.timing import Timing, interleave, paired
from tests.lab.bench.rows import SETTING


class Dynamic(nn.Module):
    """What no tracer can follow: a branch on a value, one norm called in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3)])
        self.again = self.norms[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](self.conv(x))
        if float(y.detach().abs().sum()) > 0:
            y = self.again(y.relu())
        return y.mean((2, 3))


def network(model: nn.Module) -> Network:
    return Network("a net", model, "4x3x6x6", (torch.randn(4, 3, 6, 6),))


# Networks by name.


def test_a_network_has_the_same_weights_each_time() -> None:
    first, second = load("small", 2, 8), load("small", 2, 8)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first.args[0], second.args[0])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_networks_train(name: str) -> None:
    pytest.importorskip("transformers")
    found = load(f"transformers:{name}", 2, 32)
    assert takes_pictures(found.name) == (found.shape == "2x3x32x32")
    loss = loss_of(found.model(*found.args, **found.kwargs))
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(float(loss.detach()))
    assert found.model.training


def test_pytorchcv_networks_take_pictures_of_any_size() -> None:
    pytest.importorskip("pytorchcv")
    found = load("pytorchcv:resnet10", 2, 40)
    assert found.model(*found.args).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "networks='resnet18' must be pytorchcv:NAME"),
        ("torch.nn:Identiti", "torch.nn has no Identiti"),
        ("transformers:bart", "transformers='bart' is not known; did you mean 'bert'"),
    ],
)
def test_a_name_that_is_none(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(name)


def test_the_scores_of_an_output() -> None:
    x = torch.ones(2, 3)
    assert scores_of({"a": None, "b": [x]}) is x
    with pytest.raises(ValueError, match="returned a dict without a tensor"):
        scores_of({"a": 1})
    tokens = torch.randn(2, 5, 7)
    expected = nn.functional.cross_entropy(tokens.view(10, 7), torch.arange(10) % 7)
    assert torch.equal(loss_of(tokens), expected)
    assert loss_of(torch.full((2, 3, 4, 4), 2.0)) == 4


# Variants.


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch.compile's
def test_the_model_itself_stays_as_it_is() -> None:
    model = Dynamic()
    text, state = repr(model), {k: v.clone() for k, v in model.state_dict().items()}
    for name in VARIANTS:
        made = variant(name, model)
        assert made is not model
        assert not {*made.parameters()} & {*model.parameters()}
    assert repr(model) == text
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch.compile's
def test_variants_are_what_they_say() -> None:
    model = Dynamic()
    kinds = {name: type(variant(name, model).get_submodule("norms.0")) for name in VARIANTS}
    assert kinds["torch"] is kinds["compile"] is nn.BatchNorm2d
    assert kinds["converted"] is kinds["lean"] is kinds["unfused"] is gammabeta.BatchNorm2d
    assert kinds["bare"] is nn.Identity
    assert variant("lean", model).get_submodule("again").memory == "lean"
    assert variant("compile", model)._compiled_call_impl is not None
    assert variant("torch", model)._compiled_call_impl is None


def test_norms_are_taken_out_wherever_they_are() -> None:
    class OwnRMSNorm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / x.square().mean(-1, keepdim=True).sqrt()

    model = nn.Sequential(Dynamic(), nn.GroupNorm(1, 3), OwnRMSNorm())
    bare(model)
    assert [type(module).__name__ for module in model.modules()] == [
        *("Sequential", "Dynamic", "Conv2d", "ModuleList", "Identity", "Identity"),
        *("Identity", "Identity"),
    ]
    with pytest.raises(Absent, match="the model itself is a normalization layer"):
        bare(nn.BatchNorm2d(3))


# What is timed.


def test_a_pass_is_forward_and_backward() -> None:
    net = network(Dynamic())
    step = Pass(net.model, net, "nchw", "fp32", "training")
    step()
    weight = net.model.get_parameter("conv.weight")
    assert weight.grad is not None
    first = weight.grad.clone()
    before = weight.detach().clone()
    step()
    # Gradients of one pass, not of two; the norm's input, its batch, is the same both times.
    torch.testing.assert_close(weight.grad, first)
    assert torch.equal(weight, before)  # no optimizer


def test_evaluation_changes_nothing() -> None:
    net = network(Dynamic())
    step = Pass(net.model, net, "nchw", "fp32", "evaluation")
    before = {k: v.clone() for k, v in net.model.state_dict().items()}
    step()
    assert all(torch.equal(v, before[k]) for k, v in net.model.state_dict().items())
    assert net.model.get_parameter("conv.weight").grad is None


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_layout_and_dtype_are_what_was_asked_for(mode: str) -> None:
    seen: list[tuple[torch.dtype, bool]] = []

    def look(_: nn.Module, args: Any, out: torch.Tensor) -> None:
        last = args[0].is_contiguous(memory_format=torch.channels_last)
        seen.append((out.dtype, last and not args[0].is_contiguous()))

    for layout, dtype in (("nchw", "fp32"), ("channels_last", "bf16")):
        model = Dynamic()
        model.conv.register_forward_hook(look)
        Pass(model, network(model), layout, dtype, mode)()
    assert seen == [(torch.float32, False), (torch.bfloat16, True)]


def test_ratios_are_those_of_the_same_round() -> None:
    """A machine that is five times as slow in every other round changes times, but no ratio."""
    now, calls = [0.0], [0]

    def contender(seconds: float) -> Any:
        def call() -> None:
            slow = 5 if calls[0] // 2 % 2 else 1  # two contenders a round
            calls[0] += 1
            now[0] += seconds * slow

        return call

    timings = interleave({"a": contender(1), "b": contender(3)}, rounds=4, clock=lambda: now[0])
    assert sorted(timings["a"].samples) == [1, 1, 5, 5]
    assert paired(timings["b"], timings["a"]) == (3.0, 3.0, 3.0)


def test_a_ratio_is_no_ratio_of_medians() -> None:
    under, over = (Timing(0, 0, 0, 3, 1, times) for times in ((1.0, 5.0, 1.0), (6.0, 15.0, 9.0)))
    assert paired(over, under)[1] == 6.0  # of 6, 3 and 9; the medians are 9 and 1


def test_every_case_has_seconds_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(Dynamic())
    monkeypatch.setattr(bench, "load", lambda *_: made)
    plan = Plan(["small"], variants=["torch", "bare", "converted"], modes=["training"])
    cases = list(measure(plan, SETTING, rounds=2))
    assert len(cases) == plan.total == 4  # layouts × dtypes
    for rows in cases:
        assert [(row.what, row.who) for row in rows] == [
            *(("training", who) for who in ("torch", "bare", "converted")),
            *(("training ÷ torch", who) for who in ("bare", "converted")),
            *(("training ÷ bare", who) for who in ("torch", "converted")),
        ]
        assert all(row.q50 > 0 and row.rounds == 2 for row in rows)
        assert {row.unit for row in rows[:3]} == {"s"}
        assert {row.unit for row in rows[3:]} == {"1"}


def test_a_variant_that_fails_is_absent_and_named() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if type(self.bn) is not nn.BatchNorm2d:
                raise ValueError("not\nmine")
            out: torch.Tensor = self.bn(x)
            return out.mean((2, 3))

    found, absent = passes(network(Strict()), ["torch", "bare"], "nchw", "fp32", "training")
    assert list(found) == ["torch"]
    assert absent == {"bare": "ValueError: not mine"}


def test_a_library_that_is_missing_is_a_row_per_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> Network:
        raise Absent("pytorchcv is not installed")

    monkeypatch.setattr(bench, "load", gone)
    plan = Plan(["small"], dtypes=["fp32"], modes=["training"])
    cases = list(measure(plan, SETTING))
    assert len(cases) == plan.total
    assert line(cases[0]) == "small: pytorchcv is not installed"


def test_words_have_one_layout() -> None:
    pytest.importorskip("transformers")
    plan = Plan(["transformers:bert", "transformers:vit"], dtypes=["fp32"], modes=["training"])
    assert plan.cases("transformers:bert") == [("nchw", "fp32", "training")]
    assert plan.total == 3


def test_time_is_split_by_kind_of_operator() -> None:
    x = torch.randn(4, 3, 16, 16)
    conv, bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    found = split({"both": lambda: bn(conv(x)).relu(), "conv": lambda: conv(x)}, rounds=1)
    assert all(found["both"][of] > 0 for of in ("convolutions", "norms", "activations"))
    assert found["conv"]["norms"] == found["conv"]["activations"] == 0
    assert set(found["both"]) == {*KINDS, "other operators", "outside operators"}


@pytest.mark.parametrize(
    ("operator", "its"),
    [
        ("aten::convolution_backward", "convolutions"),
        ("_NormBackward", "norms"),
        ("aten::native_layer_norm", "norms"),
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "matrix products"),
        ("aten::hardtanh_backward", "activations"),
        ("autograd::engine::evaluate_function: ReluBackward0", "activations"),
        ("aten::add_", "sums"),
        ("aten::copy_", "copies"),
        ("aten::max_pool2d_with_indices", "other operators"),
    ],
)
def test_an_operators_kind(operator: str, its: str) -> None:
    assert kind(operator) == its


# What the rows say.


def row(who: str, value: float, base: str = "", **changes: Any) -> Row:
    given = {"case": "pytorchcv:resnet18", "dtype": "fp32", "layout": "nchw"} | changes
    mode = given.pop("mode", "training")
    given["what"] = given.get("what", f"{mode} ÷ {base}" if base else mode)
    three = {"q20": 0.9 * value, "q50": value, "q80": 1.1 * value}
    unit = "1" if base else "s"
    return Row(SETTING, "net", shape="4x3x8x8", who=who, unit=unit, **three, **given)


ROWS = [
    row("torch", 2.0),
    row("converted", 1.96),
    row("converted", 0.98, "torch"),
    row("converted", 1.05, "bare"),
    row("torch", 1.07, "bare"),
    row("converted", 1.04, "torch", layout="channels_last"),
    row("converted", 1.07, "bare", layout="channels_last"),
    row("converted", 1.10, "bare", layout="channels_last", dtype="bf16"),
    row("converted", 9.0, "bare", case="mine:net"),
    row("converted", 1.005, "torch", mode="evaluation"),
    row("bare", 0.5, what="training: convolutions"),
]


def test_a_line_a_case() -> None:
    lines = [" ".join(text.split()) for text in networks_table(ROWS).splitlines()]
    assert lines[0] == (
        "network input layout dtype mode torch, ms converted÷torch converted÷bare torch÷bare"
    )
    assert lines[1] == "pytorchcv:resnet18 4×3×8×8 nchw fp32 training 2000.0 0.980 1.050 1.070"
    assert len(lines) == 6
    assert line(ROWS[:3]) == (
        "pytorchcv:resnet18 nchw fp32 training:  converted÷torch 0.980 (0.882–1.078)"
    )
    assert kinds_table(ROWS).splitlines()[1].split()[-2:] == ["convolutions", "500.0"]
    assert kinds_table(ROWS[:3]) == ""


def test_the_goals_are_judged() -> None:
    found = {v.of.strip(): v for v in verdicts(ROWS)}
    bare32 = found["training, fp32, both layouts: converted ÷ bare, geometric mean"]
    assert bare32.value == pytest.approx(math.sqrt(1.05 * 1.07))  # mine:net does not count
    assert bare32.met
    assert bare32.note == "2 of 12 cases; torch's norms: 1.070"
    bare16 = found["training, bf16, channels_last: converted ÷ bare, geometric mean"]
    assert (bare16.value, bare16.met) == (1.10, False)
    worst = found["training: converted ÷ torch, worst"]
    assert (worst.value, worst.met) == (1.04, False)
    assert worst.note.startswith("1 of 2 cases above")
    assert found["pytorchcv:resnet18 channels_last fp32"].value == 1.04
    assert found["evaluation: converted ÷ torch, worst"].met
    assert verdicts([]) == []


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    from gammabeta.lab.bench.results import Table

    table = Table(tmp_path / "net.csv")
    table.add(ROWS)
    assert networks_table(read(tmp_path / "net.csv")) == networks_table(ROWS)
