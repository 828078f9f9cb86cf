"""The benchmark of networks: forms, figures, and any network a person names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gammabeta.lab.bench.nets import default, load
from gammabeta.lab.bench.step import Step, Training, forms, measure_memory, measure_time
from gammabeta.lab.bench.step_report import forms_table, line, verdicts
from gammabeta.lab.bench.variants import variant
from gammabeta.lab.models import Inception
from tests.lab.bench.rows import SETTING, formed

SMALL = Training("small", default(1, 4), batch=4, size=8)


def test_every_form_has_its_time() -> None:
    cases = list(measure_time(SMALL, ["fp32", "bf16"], ["relu", "torch"], SETTING, rounds=2))
    assert [(row.dtype, row.who, row.rounds) for rows in cases for row in rows] == [
        (dtype, who, 2) for dtype in ("fp32", "bf16") for who in ("relu", "torch")
    ]
    assert all(0 < row.q50 < 1 and row.unit == "s" for rows in cases for row in rows)


def test_every_form_has_its_peak() -> None:
    (rows,) = measure_memory(SMALL, ["fp32"], ["relu", "torch"], SETTING)
    peaks = {row.who: row.q50 for row in rows}
    assert 0 < peaks["relu"] < peaks["torch"]
    assert {row.unit for row in rows} == {"bytes"}


def test_a_step_trains() -> None:
    step = Step(variant("torch", SMALL.model), SMALL, "fp32")
    before = [p.detach().clone() for p in step.form.parameters()]
    step()
    after = list(step.form.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    gradient = after[0].grad
    assert gradient is not None
    first = gradient.clone()
    step()  # gradients of one step only, not of two
    assert after[0].grad is not None
    torch.testing.assert_close(after[0].grad, first, atol=0.01, rtol=0.01)


def test_autocast_is_on_for_bf16_only() -> None:
    dtypes = []
    for dtype in ("fp32", "bf16"):
        form = variant("torch", SMALL.model)
        form.get_submodule("0").register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
        Step(form, SMALL, dtype).backward()
    assert dtypes == [torch.float32, torch.bfloat16]


ROWS = [
    *(formed("step", who, t) for who, t in (("relu", 1.0), ("torch", 1.5), ("gammabeta", 1.05))),
    formed("step", "lean", 1.26),
    *(formed("peak", who, b) for who, b in (("torch", 100.0), ("gammabeta", 90.0), ("lean", 62.0))),
]


def test_verdicts_are_of_the_right_ratios() -> None:
    found = {v.of: v for v in verdicts(ROWS)}
    step = found["fp32 step: BN+ReLU ÷ ReLU alone"]
    assert (step.value, step.word, step.note) == (1.05, "met", "torch: 1.500")
    assert found["fp32 step: lean ÷ default"].value == pytest.approx(1.2)
    assert found["fp32 step: lean ÷ default"].word == "missed"
    peak = found["fp32 peak of activation memory: lean ÷ torch"]
    assert (peak.value, peak.word, peak.note) == (0.62, "met", "default: 0.900")
    assert not any("bias" in of for of in found)
    (plain,) = [v for v in verdicts([*ROWS, formed("step", "plain", 1.05)]) if "bias" in v.of]
    assert (plain.of, plain.value) == ("fp32 step: BN+ReLU ÷ bias+ReLU", 1.0)
    assert (plain.word, plain.note) == ("met", "torch: 1.429")


def test_the_network_without_norms_has_biases() -> None:
    """It is the unnormalized Inception: the same weights, and the same scores."""
    training = Training.of("small-inception", 2, 16)
    plain = variant("plain", training.model)
    ours = Inception(10, norm="none", input_size=16, width=0.25)
    shapes = [sorted(tuple(p.shape) for p in net.parameters()) for net in (plain, ours)]
    assert shapes[0] == shapes[1]
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(plain(x), ours(x))
    transposed = variant(
        "plain", torch.nn.Sequential(torch.nn.ConvTranspose2d(3, 5, 1, bias=False))
    )
    assert transposed(torch.randn(1, 3, 4, 4)).shape == (1, 5, 4, 4)


def test_what_was_not_measured_meets_nothing() -> None:
    words = {v.of: v.word for v in verdicts(ROWS[:3])}
    assert words["fp32 step: lean ÷ default"] == "not measured"


def test_the_table_has_a_line_a_form() -> None:
    absent = formed("step", "compile", math.nan)
    lines = forms_table([*ROWS[:2], absent]).splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "fp32 relu 1000 1000 1000 ms 1.000 0.667",
        "fp32 torch 1500 1500 1500 ms 1.500 1.000",
    ]
    assert line(ROWS[:3]) == "fp32, of ReLU alone:  torch × 1.500  gammabeta × 1.050"


def test_a_network_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gbbench_mynets.py").write_text(
        "from torch import nn\nnumber = 3\nempty = None\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))\n"
        "def none():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    name, model = load("gbbench_mynets:net")
    assert name == "gbbench_mynets:net"
    assert len(list(model.children())) == 2
    assert torch.equal(load("gbbench_mynets:net")[1][0].weight, model[0].weight)  # type: ignore[index]
    training = Training.of("gbbench_mynets:net", 4, 8)
    (rows,) = measure_memory(training, ["fp32"], ["relu", "torch", "gammabeta"], SETTING)
    assert {row.case for row in rows} == {"gbbench_mynets:net"}
    for bad, said in (
        ("gbbench_mynets", "must be module:function"),
        (":net", "must be module:function"),
        ("gbbench_nowhere:net", "cannot import gbbench_nowhere"),
        ("gbbench_mynets:ent", "gbbench_mynets has no ent"),
        ("gbbench_mynets:none", "made a int, no torch.nn.Module"),
        ("gbbench_mynets:number", "made a int, no torch.nn.Module"),
    ):
        with pytest.raises(ValueError, match=said):
            load(bad)


def test_the_papers_network_is_measured() -> None:
    training = Training.of("small-inception", 2, 16)
    assert {type(m) for m in training.model.modules()} >= {torch.nn.BatchNorm2d, torch.nn.ReLU}
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = {who: variant(who, training.model) for who in ("relu", "torch", "gammabeta")}
    norms = {
        who: [m for m in form.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for who, form in found.items()
    }
    assert {who: len(those) for who, those in norms.items()} == {
        "relu": 0,
        "torch": 33,
        "gammabeta": 33,
    }
    assert all(norm.activation == "relu" for norm in norms["gammabeta"])  # type: ignore[attr-defined]
    outputs = [found[who](images) for who in ("torch", "gammabeta")]
    # Float32 through 69 layers, each scaled by the spread of a few values.
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)
    (rows,) = measure_time(training, ["fp32"], ["relu", "gammabeta"], SETTING, rounds=1)
    assert {(row.case, row.who) for row in rows} == {
        ("small-inception", "relu"),
        ("small-inception", "gammabeta"),
    }


def test_forms_and_sizes_are_checked() -> None:
    assert forms(["torch", "relu", "torch"]) == ["torch", "relu"]
    with pytest.raises(ValueError, match="did you mean 'gammabeta'"):
        forms(["gamabeta"])
    for batch, size in ((1, 32), (4097, 32), (64, 0)):
        with pytest.raises(ValueError, match="must be between"):
            Training.of(None, batch, size)
