"""Two ranks train to the same bits, watched or not, replicated or sharded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gammabeta.signal import Run
from tests.signal.ranked_training import CASES, STEPS

ROOT = Path(__file__).parents[2]
WATCHED = ("defaults", "every step", "all ranks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Case → what each rank found, in their order."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "tests.signal.ranked_training", str(folder)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    rows.sort(key=lambda row: int(row["rank"]))
    return {case: [row for row in rows if row["case"] == case] for case in CASES}


@pytest.mark.parametrize("how", WATCHED)
@pytest.mark.parametrize("case", CASES)
def test_each_rank_trains_to_the_same_bits(
    case: str, how: str, found: dict[str, list[dict[str, Any]]]
) -> None:
    assert len(found[case]) == 2
    for rank in found[case]:
        assert "error" not in rank["plain"], rank["plain"]
        assert "error" not in rank[how], rank[how]
        assert rank[how]["digest"] == rank["plain"]["digest"]
        assert rank[how]["hooks"] == rank["plain"]["hooks"]
        assert not [text for text in rank[how]["said"] if "training continues" in text]


@pytest.mark.parametrize("case", CASES)
def test_rank_0_writes_unless_all_are_asked(
    case: str, found: dict[str, list[dict[str, Any]]], folder: Path
) -> None:
    name = case.replace(" ", "-")
    assert sorted(path.name for path in folder.glob(f"{name}-[ade]*.sqlite")) == [
        f"{name}-all.rank1.sqlite",
        f"{name}-all.sqlite",
        f"{name}-defaults.sqlite",
        f"{name}-every.sqlite",
    ]


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_are_merged_by_count(
    case: str, found: dict[str, list[dict[str, Any]]], folder: Path
) -> None:
    name = case.replace(" ", "-")
    counts = []
    for which in ("every", "all"):
        with Run(folder / f"{name}-{which}.sqlite") as run:
            stages = {p.id: (p.name, p.stage) for p in run.probes()}
            frames = list(run.frames())
        assert [frame.step for frame in frames] == list(range(1, STEPS + 1))
        counts.append(
            {
                stages[probe]: (summary.count, summary.mean)
                for probe, summary in frames[0].signals.items()
                if stages[probe][1] == "z"
            }
        )
    one, both = counts
    assert one.keys() == both.keys()
    assert one
    for place, (count, _) in one.items():
        assert both[place][0] == 2 * count
    # Each rank has a mini-batch of its own.
    assert any(both[place][1] != mean for place, (_, mean) in one.items())
