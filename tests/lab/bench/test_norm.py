"""The benchmark of norms: what is measured, and what is made of it."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from gammabeta.lab.bench.norm import Plan, measure
from gammabeta.lab.bench.norm_report import (
    absences,
    by_size,
    line,
    shapes_table,
    sizes_table,
    verdicts,
)
from gammabeta.lab.bench.verdict import Verdict, verdicts_table
from tests.lab.bench.rows import SETTING, timed


def test_every_contender_of_every_case_has_a_row() -> None:
    plan = Plan(["8x4x3x3", "8x4"], ["fp32-nchw", "bf16-channels_last"], against=["eager"])
    cases = list(measure(plan, SETTING, rounds=1))
    kinds = [(rows[0].shape, rows[0].format) for rows in cases]
    # (N, C) has no layout to choose, and is measured once.
    assert kinds == [
        ("8x4x3x3", "fp32-nchw"),
        ("8x4", "fp32-nchw"),
        ("8x4x3x3", "bf16-channels_last"),
    ]
    for rows in cases:
        assert {(row.what, row.who) for row in rows} == {
            *(("copy", "torch"), ("relu", "torch")),
            *((what, who) for what in plan.ops for who in ("gammabeta", "eager")),
        }
        (copy,) = (row.q50 for row in rows if row.what == "copy")
        for row in rows:
            assert 0 < row.q20 <= row.q50 <= row.q80 < 1
            assert row.copy == copy
            assert row.setting == SETTING
            assert row.rounds == 1


def test_a_rival_that_cannot_take_part_has_a_row_that_says_why() -> None:
    plan = Plan(["8x4"], ["fp32-nchw"], ["bn"], ["onednn"])
    (rows,) = measure(plan, SETTING, rounds=1)
    (absent,) = (row for row in rows if row.who == "onednn")
    assert math.isnan(absent.q50)
    assert absences(rows) == ["onednn, BN: torch's oneDNN batch norm takes (N, C, H, W) only"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"against": ["eagre"]}, "rivals='eagre' is not known; did you mean 'eager'?"),
        ({"ops": ["bn+rleu"]}, "ops='bn[+]rleu' is not known; did you mean 'bn[+]relu'?"),
        ({"formats": ["fp16"]}, "formats='fp16' is not known"),
        ({"shapes": ["resnet"]}, "did you mean 'resnet-50'"),
        ({"shapes": []}, "nothing to measure"),
        ({"shapes": ["8x4"], "formats": ["fp32-channels_last"]}, "nothing to measure"),
    ],
)
def test_what_is_not_known_is_refused(arguments: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Plan(**arguments)  # type: ignore[arg-type]


A, B, TINY = "32x64x56x56", "32x64x7x7", "64x100"
ROWS = [
    *(timed("copy", "torch", 1e-3, s) for s in (A, B)),
    *(timed("relu", "torch", 4e-3, s) for s in (A, B)),
    *(timed("bn", "gammabeta", 4e-3, s) for s in (A, B)),
    timed("bn", "eager", 16e-3, A),
    timed("bn", "eager", 64e-3, B),
    timed("bn+relu", "gammabeta", 4e-3, A),
    timed("bn+relu", "gammabeta", 5e-3, B),
    *(timed("bn+relu", "eager", 20e-3, s) for s in (A, B)),
    timed("bn+relu", "jax", 8e-3, A),
    timed("relu", "torch", 1e-3, TINY, case="tiny"),
    timed("bn", "gammabeta", 2e-3, TINY, case="tiny"),
    timed("bn", "eager", 1e-3, TINY, case="tiny"),
    timed("bn", "onednn", math.nan, TINY, case="tiny", note="no"),
]


def judged(label: str) -> Verdict:
    (found,) = (v for v in verdicts(ROWS) if v.of == label)
    return found


def test_means_are_geometric_over_the_networks_shapes() -> None:
    bn = judged("fp32 NCHW: BN, × torch eager")
    assert bn.value == pytest.approx(8.0)  # √(4 · 16); the tiny one does not count
    assert bn.word == "met"
    assert judged("fp32 NCHW: BN+ReLU, × torch eager").value == pytest.approx(20**0.5)
    over = judged("fp32 NCHW: BN+ReLU ÷ ReLU")
    assert over.value == pytest.approx(1.25**0.5)
    assert over.note == "torch eager: 5.00"
    assert over.word == "met"


def test_the_best_rival_is_found_for_each_shape() -> None:
    best = judged("fp32 NCHW: BN+ReLU, × best of eager, jax")
    assert best.value == pytest.approx((2 * 4) ** 0.5)  # jax at A, eager at B


def test_the_worst_of_all_shapes_counts_tiny_ones() -> None:
    worst = judged("worst of all shapes, × eager")
    assert worst.value == pytest.approx(0.5)
    assert worst.word == "missed"
    assert worst.note == "fp32 NCHW 64×100 bn"
    assert judged("worst of all shapes, × onednn").word == "not measured"


def test_the_table_has_a_line_a_shape() -> None:
    head, *lines = shapes_table(ROWS, "fp32-nchw").splitlines()
    assert re.split(" {2,}", head) == [
        *("shape", "copy µs", "ReLU µs"),
        *("BN µs", "× eager", "× onednn", "× jax"),
        *("BN+ReLU µs", "× eager", "× onednn", "× jax", "÷ ReLU"),
    ]
    assert [line.split()[0] for line in lines] == ["32×64×56×56", "32×64×7×7", "64×100"]
    assert " ".join(lines[0].split()[1:]) == "1000 4000 4000 4.00 – – 4000 5.00 – 2.00 1.00"
    assert line(ROWS[:1] + ROWS[2:3] + ROWS[4:7:2]) == "fp32 NCHW 32×64×56×56  BN × 4.00"


def test_sizes_are_told_apart() -> None:
    rows = [replace(row, bytes=16 << 20 if row.shape == A else 2 << 20) for row in ROWS]
    # Half a copy's bytes: A is of 8 MiB, B of 1.
    assert by_size(rows) == {"fp32-nchw": {"below 2 MiB": 1.25, "8 MiB and more": 1.0}}
    assert sizes_table(rows).splitlines()[1].split() == ["fp32", "NCHW", "1.25", "–", "1.00"]
    assert sizes_table([row for row in ROWS if row.what == "bn"]) == ""


def test_verdicts_are_laid_out_with_goal_and_word() -> None:
    text = verdicts_table(
        [Verdict("a", 1.5, 2.0, True), Verdict("b", 1e-7, 2e-6, False, unit="", note="torch: 1")]
    )
    assert text.splitlines() == [
        "figure  measured       goal",
        "a         1.50 ×   ≥ 2.00 ×  missed",
        "b        1.0e-07  ≤ 2.0e-06  met  (torch: 1)",
    ]
