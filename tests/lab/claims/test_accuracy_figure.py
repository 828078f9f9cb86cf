"""The curves of claims: medians over the seeds that did not diverge, each with its arm's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gammabeta.lab.claims.framework import accuracy_figure


def kept(*accuracies: float, diverged: int | None = None) -> dict[str, object]:
    return {"accuracies": [[i + 1, a] for i, a in enumerate(accuracies)], "diverged": diverged}


def test_a_curve_ends_at_the_median_of_what_did_not_diverge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    ended: list[tuple[float, float, str, str]] = []
    monkeypatch.setattr(accuracy_figure, "labels", lambda axes, ends: ended.extend(ends))
    runs = {
        ("bn", 0.1): [kept(0.2, 0.5), kept(0.3, 0.6), kept(0.4, 0.9), kept(0.1, 0.0, diverged=2)],
        ("none", 0.1): [kept(0.1, diverged=1)],
    }
    arms = {"bn": ("batch norm", "#0f6e84"), "none": ("without", "#b8450f")}
    path = accuracy_figure.draw(
        tmp_path / "a.svg", "Curves.", runs, {"at 0.1": {"bn": 0.1, "none": 0.1}}, arms
    )
    assert ended == [(2, 0.6, "batch norm", "#0f6e84")]
    assert path.read_text("utf-8").count("<svg") == 1
