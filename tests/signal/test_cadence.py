"""The cadence against its definition, by brute force in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from gammabeta.signal import Cadence


def by_definition(early: int, ratio: float, last: int | None, steps: int) -> list[int]:
    """1 … early; ⌈max(early, 1) · ratio^k⌉ for k = 1, 2, …; and ``last``."""
    due = set(range(1, min(early, steps) + 1))
    if last is not None and 1 <= last <= steps:
        due.add(last)
    if not math.isinf(ratio):
        exact = position = Fraction(str(ratio))  # 1.1 means 11/10
        start = max(early, 1)
        while (step := math.ceil(start * position)) <= steps:
            due.add(step)
            position *= exact
            # Numerators grow with each factor; cut at 400 bits, an error far below one step.
            position = position.limit_denominator(2**400)
    return sorted(due)


@pytest.mark.parametrize(
    ("early", "ratio", "last"),
    [
        (60, 1.027, None),
        (60, 1.027, 777),
        (3, 2.0, 20),
        (1, 2.0, None),
        (0, 2.0, None),
        (0, 1.5, 1),
        (4, 1.5, None),
        (10, 1.1, 4999),
        (7, 1.001, None),
        (5, math.inf, None),
        (5, math.inf, 1234),
        (0, math.inf, None),
        (10_000, 1.5, None),
        (1, 10.0, None),
        (1, 3.0, None),
    ],
)
def test_by_definition(early: int, ratio: float, last: int | None) -> None:
    cadence = Cadence(early, ratio, last)
    steps = 3_000
    due = [step for step in range(1, steps + 1) if cadence.due(step)]
    assert due == by_definition(early, ratio, last, steps)


@pytest.mark.parametrize("base", [2, 3, 10])
def test_powers_are_frames_however_large(base: int) -> None:
    """base^k is an integer, where a logarithm rounds either way."""
    cadence = Cadence(early=1, ratio=float(base))
    power = base
    while power < 10**12:
        assert cadence.due(power)
        assert not cadence.due(power + 1)
        assert power <= 3 or not cadence.due(power - 1)
        power *= base


def test_sizes() -> None:
    """What the docstring promises, and what a 100,000-step run costs in frames."""
    cadence = Cadence()
    assert sum(cadence.due(step) for step in range(1, 401)) == 131
    assert sum(cadence.due(step) for step in range(1, 100_001)) == 338


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"early": -1}, "early=-1 must be at least 0"),
        ({"ratio": 1.0}, "ratio=1.0 must be above 1"),
        ({"ratio": 0.5}, "ratio=0.5 must be above 1"),
        ({"ratio": -2.0}, "ratio=-2.0 must be above 1"),
        ({"ratio": math.nan}, "ratio=nan must be above 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=r"must be") as caught:
        Cadence(**arguments)  # type: ignore[arg-type]
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"early": "a"}, TypeError, "early='a' must be a whole number"),
        ({"early": 1.5}, TypeError, "early=1.5 must be a whole number"),
        ({"early": True}, TypeError, "early=True must be a whole number"),
        ({"early": None}, TypeError, "early=None must be a whole number"),
        ({"ratio": "b"}, TypeError, "ratio='b' must be a number above 1"),
        ({"ratio": None}, TypeError, "ratio=None must be a number above 1"),
        ({"ratio": 2j}, TypeError, "ratio=2j must be a number above 1"),
        ({"ratio": 10**400}, ValueError, "ratio is too large; give math.inf for no later frame"),
        ({"last": "x"}, TypeError, "last='x' must be a whole number"),
        ({"last": math.inf}, TypeError, "last=inf must be a whole number"),
    ],
)
def test_arguments_that_are_no_numbers(
    arguments: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        Cadence(**arguments)  # type: ignore[arg-type]
    assert str(caught.value) == said


@pytest.mark.parametrize("step", [math.inf, math.nan, "x", None, 1.5, True])
def test_a_step_that_is_no_whole_number(step: object) -> None:
    with pytest.raises(TypeError, match=r"^step=.* must be a whole number$"):
        Cadence().due(step)  # type: ignore[arg-type]


@pytest.mark.parametrize("cadence", [Cadence(), Cadence(0, math.inf, -3), Cadence(0, 1e300)])
def test_steps_that_are_far_off(cadence: Cadence) -> None:
    """There is no step before the first, and none that a record could not hold."""
    assert [cadence.due(step) for step in (0, -3, -(10**400))] == [False] * 3
    cadence.due(2**63 - 1)
    for step in (2**63, 10**400):
        with pytest.raises(ValueError, match="step must be at most 9223372036854775807"):
            cadence.due(step)


def test_whole_numbers_of_numpy() -> None:
    assert Cadence(early=np.int64(3), last=np.int32(7)).due(np.int64(7))  # type: ignore[arg-type]
