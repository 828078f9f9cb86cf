"""What a claim is, what is kept of it, and where it goes on."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gammabeta.lab.claims.framework import results, store
from gammabeta.lab.claims.framework.claim import HOLDS, Claim, Number, Outcome
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.registry import ORDER, claim, claims
from gammabeta.signal import Record


def made(**changes: Any) -> Claim:
    settings: dict[str, Any] = {
        "name": "made",
        "title": "Made up",
        "statement": "One is one.",
        "source": "nowhere",
        "protocol": "Count.",
        "criterion": "One.",
        "paper": "1",
        "minutes_quick": 1,
        "minutes_full": 2,
        "run": lambda context: Outcome([Number("one", 1, 1, 1)], HOLDS, "It is."),
    }
    return Claim(**{**settings, **changes})


class Told:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def plan(self, runs: int) -> None:
        self.heard.append(("plan", runs))

    def begin(self, label: str) -> None:
        self.heard.append(("begin", label))

    def within(self, fraction: float) -> None:
        self.heard.append(("within", fraction))

    def done(self, label: str, was_kept: bool) -> None:
        self.heard.append(("done", label, was_kept))


@pytest.mark.parametrize(
    ("number", "text", "spread"),
    [
        (Number.over("a", [0.5, 0.25, 0.75], "%"), "50.0 %", "25.0 … 75.0"),
        (Number.over("a", [100, 12_000, math.inf], "steps"), "12,000 steps", "100 … never"),
        (Number.over("a", [math.inf] * 3, "steps"), "never", ""),
        (Number.over("a", [math.inf, 2.0, math.inf], "×"), "∞", "2 … ∞"),
        (Number.over("a", [1.0, math.nan, 2.0], "×"), "–", ""),
        (Number.over("a", [40.0, 50.0, 44.0], "×", bound="≥"), "≥ 44 ×", "40 … 50"),
        (Number.over("a", [-0.0123, 1234.5, 3.0]), "3", "−0.0123 … 1,234"),
        (Number.over("a", [7.0], "points"), "7 points", ""),
        (Number.over("a", [1.0, 2.0, 3.0, 4.0]), "2", "1 … 4"),
    ],
)
def test_numbers_read_well(number: Number, text: str, spread: str) -> None:
    assert (number.text(), number.spread()) == (text, spread)
    assert str(number) == f"a: {text}" + (f" ({spread})" if spread else "")


def test_an_outcome_says_one_of_three_things() -> None:
    with pytest.raises(ValueError, match=r"verdict='maybe' must be one of: holds, holds under"):
        Outcome([Number("one", 1, 1, 1)], "maybe", "")
    with pytest.raises(ValueError, match="must hold at least the deciding number"):
        Outcome([], HOLDS, "")
    with pytest.raises(ValueError, match="must hold one number per seed"):
        Number.over("none", [])
    assert Outcome([Number("one", 1, 1, 1)], HOLDS, "", headline="1 to 2").told() == "1 to 2"


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"a": math.inf, "b": [1.5, None], "c": (1, 2)}

    told = Told()
    context = Context(tmp_path).following(told).of(made())
    key = {"arm": "x", "seed": 0, "rates": (0.1, 0.2)}
    first = context.run(key, compute)
    assert first == {"a": math.inf, "b": [1.5, None], "c": [1, 2]}
    assert context.run(key, compute) == first
    assert len(calls) == 1
    label = "arm x · seed 0 · rates (0.1, 0.2)"
    assert told.heard == [("begin", label), ("done", label, False), ("done", label, True)]


@pytest.mark.parametrize(
    "other",
    [
        {"claim": made(version=2)},
        {"claim": made(name="other")},
        {"data": "digits"},
        {"scale": 0.5},
        {"key": {"seed": 1}},
    ],
    ids=["version", "claim", "data", "scale", "key"],
)
def test_what_decides_a_result_is_part_of_its_name(tmp_path: Path, other: dict[str, Any]) -> None:
    Context(tmp_path).of(made()).run({"seed": 0}, lambda: {"value": 1})
    changes = {name: other[name] for name in ("data", "scale") if name in other}
    context = Context(tmp_path, **changes).of(other.get("claim", made()))
    assert context.run(other.get("key", {"seed": 0}), lambda: {"value": 2}) == {"value": 2}


def test_the_files_of_a_folder_are_part_of_a_results_name(tmp_path: Path) -> None:
    for folder, shade in (("a", 10), ("b", 200)):
        idx_files(tmp_path / folder, shade)
    found = []
    for value, folder in enumerate(("a", "b", "a")):
        context = Context(tmp_path, data="mnist", data_dir=tmp_path / folder).of(made())
        found.append(context.run({"seed": 0}, lambda value=value: {"value": value})["value"])  # type: ignore[misc]
    assert found == [0, 1, 0]


def idx_files(folder: Path, shade: int) -> None:
    """MNIST's four files, made up; the ``shade`` is of one row of each image."""
    folder.mkdir()
    for part, count in (("train", 20), ("t10k", 10)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, shade // 10] = shade
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = np.array(values.shape, ">u4").tobytes()
            content = b"\0\0\x08" + bytes([values.ndim]) + sizes + values.tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(content)


def test_claims_may_share_a_protocol(tmp_path: Path) -> None:
    one, two = (
        Context(tmp_path).of(made(name=name, version=v)) for name, v in (("a", 1), ("b", 2))
    )
    one.run({"seed": 0}, lambda: {"value": 1}, shared="both")
    assert two.run({"seed": 0}, lambda: {"value": 2}, shared="both") == {"value": 1}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": {}, "result": {"value": 3}}'])
def test_a_damaged_result_is_computed_again(tmp_path: Path, damage: str) -> None:
    context = Context(tmp_path).of(made())
    context.run({"seed": 0}, lambda: {"value": 1})
    (path,) = (tmp_path / "results/made").iterdir()
    path.write_text(damage)
    assert context.run({"seed": 0}, lambda: {"value": 2}) == {"value": 2}
    assert json.loads(path.read_text())["result"] == {"value": 2}


def test_a_stop_midway_leaves_what_was_done_and_no_scraps(tmp_path: Path) -> None:
    context = Context(tmp_path).of(made())
    context.run({"seed": 0}, lambda: {"value": 1})

    def stopped() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        context.run({"seed": 1}, stopped)
    with pytest.raises(TypeError):
        store.keep(tmp_path / "results/made/x.json", {"value": object()})
    assert len(list((tmp_path / "results/made").iterdir())) == 1
    assert context.run({"seed": 0}, stopped) == {"value": 1}


def test_a_context_without_a_claim_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"claim=None: this context belongs to no claim"):
        Context(tmp_path).run({}, dict)


def test_a_record_begins_anew(tmp_path: Path) -> None:
    context = Context(tmp_path).of(made())
    for _ in range(2):  # the second time, what a stopped run left is in the way
        with Record(context.record("pair")):
            pass
    assert context.record("pair") == tmp_path / "runs/made/pair.sqlite"


def test_steps_are_scaled(tmp_path: Path) -> None:
    assert Context(tmp_path).steps(1000, 100) == 1000
    assert Context(tmp_path, quick=True).steps(1000, 100) == 100
    assert Context(tmp_path, quick=True, scale=0.1).steps(1000, 100) == 10
    assert Context(tmp_path, quick=True).steps(1000) == 1000


def test_outcomes_are_read_back_as_they_were(tmp_path: Path, monkeypatch: Any) -> None:
    mine = made()
    monkeypatch.setattr(results, "claims", lambda: {"made": mine})
    figure = Context(tmp_path).of(mine).figure("one")
    outcome = Outcome(
        [Number("one", math.inf, 1, math.inf, "×", "2", "3", "≥")],
        HOLDS,
        "It is.",
        [figure],
        ["A note."],
        "1: for all",
    )
    result = results.keep(Context(tmp_path, quick=True), mine, outcome, 12.5)
    (again,) = results.kept(tmp_path, quick=True)
    assert again.outcome == outcome
    assert (again.seconds, again.seeds, again.data) == (12.5, [0, 1, 2], "fashion-mnist")
    assert again.when == result.when
    assert results.kept(tmp_path, quick=False) == []  # of the other length
    monkeypatch.setattr(results, "claims", lambda: {"made": made(version=2)})
    assert results.kept(tmp_path, quick=True) == []  # of an older protocol


# What is registered.


@pytest.mark.parametrize("damage", ["{}", '{"version": 1, "quick": false, "numbers": []}', "[]"])
def test_an_outcome_that_is_none_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    mine = made()
    monkeypatch.setattr(results, "claims", lambda: {mine.name: mine})
    (tmp_path / "outcomes").mkdir()
    (tmp_path / f"outcomes/{mine.name}.json").write_text(damage)
    assert results.kept(tmp_path, quick=False) == []


def test_the_claims_come_in_their_order() -> None:
    assert [name for name in ORDER if name in claims()] == list(claims())
    assert all(name == each.name for name, each in claims().items())
    with pytest.raises(ValueError, match=r"claim='fewer-step' is not known; did you mean 'fewer-"):
        claim("fewer-step")


@pytest.mark.parametrize("name", list(claims()))
def test_a_claim_says_everything(name: str) -> None:
    mine = claim(name)
    for text in (mine.title, mine.statement, mine.source, mine.protocol, mine.criterion):
        assert text
        assert text == " ".join(text.split())  # no blanks left by a broken line
    assert mine.statement.endswith(".")
    assert "hold" in mine.criterion, "which numbers give which verdict"
    assert 0 < mine.minutes_quick <= mine.minutes_full
    assert mine.run.__doc__
    page = Path(__file__).parents[3] / "docs/reproduce.md"
    assert re.search(rf"^\| .*`{name}`.* \| \w", page.read_text("utf-8"), re.M), page.name
