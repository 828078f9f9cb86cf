"""Two processes under torchrun, on gloo: they agree, one writes, and all end together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gammabeta.lab.train.run import resume
from tests.lab.train.small import rebuild

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each rank printed, in their order."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "tests.lab.train.distributed", str(folder)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return sorted(rows, key=lambda row: int(row["rank"]))


def test_ranks_agree(found: list[dict[str, Any]]) -> None:
    first, second = found
    assert first["accuracies"] == second["accuracies"]
    assert max(first["accuracies"]) > 0.9
    assert first["weights"] == second["weights"]


def test_a_resumed_run_ends_the_same_bit_by_bit(found: list[dict[str, Any]]) -> None:
    assert found[0]["same"]
    assert found[0]["parts"] == 2


def test_each_rank_has_statistics_of_its_own_and_their_mean_is_saved(
    found: list[dict[str, Any]],
) -> None:
    assert found[0]["own_statistics"]
    assert found[0]["averaged"]


def test_what_is_wrong_is_said_once_and_ends_all(found: list[dict[str, Any]]) -> None:
    kind, said = found[0]["refused"]
    assert kind == "ValueError"
    assert "a step takes 2 × 1000 of 1437 training examples; at most 718 will do" in said
    assert found[1]["refused"] == ["RankError", ""]


def test_all_ranks_stop_at_the_same_step_when_one_diverges(found: list[dict[str, Any]]) -> None:
    assert found[0]["diverged"] == found[1]["diverged"] is not None


def test_one_rank_writes(found: list[dict[str, Any]], folder: Path) -> None:
    names = sorted(path.name for path in (folder / "whole").iterdir())
    assert names == [
        "best.pt",
        "lock",
        "log.jsonl",
        "signal.sqlite",
        "step-00000020.pt",
        "step-00000040.pt",
        "step-00000060.pt",
    ]


def test_another_number_of_ranks_may_go_on(found: list[dict[str, Any]], folder: Path) -> None:
    outcome = resume(folder / "whole", rebuild=rebuild, steps=70)
    assert (outcome.step, outcome.diverged) == (70, None)
    assert outcome.accuracies[70] > 0.9
