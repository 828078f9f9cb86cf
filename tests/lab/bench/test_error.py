"""The benchmark of errors finds those that are there."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gammabeta.lab.bench import error
from gammabeta.lab.bench.error_report import by_case, shapes_table, verdicts
from gammabeta.lab.bench.norm import Plan
from tests.lab.bench.rows import SETTING

PLAN = Plan(["16x4x3x3"], ["fp32-nchw"])


def spoiled(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Have gammabeta's forward pass give something else."""
    right = error.gammabeta_forward

    def wrong(what: str, inputs: error.Inputs) -> object:
        forward, layer = right(what, inputs)
        return (lambda x, residual: change(forward(x, residual))), layer

    monkeypatch.setattr(error, "gammabeta_forward", wrong)


def test_errors_are_those_of_float32() -> None:
    (rows,) = error.measure(PLAN, SETTING)
    errors = by_case(rows)["fp32-nchw", "16x4x3x3"]
    for of in error.OF:
        for who in ("gammabeta", "torch nchw", "torch channels_last"):
            assert errors[f"error {of}"][who] < 2e-6, (of, who)  # some roundings of 6e-8
    assert errors["error y"]["gammabeta"] > 0  # and of no more precision than it has


def test_an_error_is_found_and_missed_goals_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, lambda y: y + 0.25)
    (rows,) = error.measure(PLAN, SETTING)
    assert by_case(rows)["fp32-nchw", "16x4x3x3"]["error y"]["gammabeta"] == pytest.approx(0.25)
    (worst, bits) = verdicts(rows)
    assert worst.word == "missed"
    assert worst.note == "y, 16×4×3×3"
    assert bits.word == "met"
    assert "2.5e-01" in shapes_table(rows, "fp32-nchw")


def test_a_bit_that_depends_on_threads_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    spoiled(monkeypatch, lambda y: y * (1 + 2e-7 * torch.get_num_threads()))
    (rows,) = error.measure(PLAN, SETTING)
    bits = verdicts(rows)[-1]
    assert (bits.value, bits.word) == (0.0, "missed")
    assert shapes_table(rows, "fp32-nchw").endswith("no")
    assert torch.get_num_threads() == before


def test_a_gradients_error_is_found_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = error._run, itertools.count()

    def off(*args: object, **options: bool) -> list[Tensor]:
        made = run(*args, **options)  # type: ignore[arg-type]
        if next(calls) == 0:
            made[2] = made[2] * 1.5  # ∂γ
        return made

    monkeypatch.setattr(error, "_run", off)
    (rows,) = error.measure(PLAN, SETTING)
    errors = by_case(rows)["fp32-nchw", "16x4x3x3"]
    assert errors["error ∂γ"]["gammabeta"] == pytest.approx(0.5, rel=1e-3)
    assert errors["error ∂β"]["gammabeta"] < 1e-6
