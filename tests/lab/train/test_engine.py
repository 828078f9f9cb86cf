"""The engine: what it trains, what survives, and what it leaves alone."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gammabeta.lab.data import Draws, Order, load_images
from gammabeta.lab.train import checkpoint
from gammabeta.lab.train.checkpoint import CheckpointError, read
from gammabeta.lab.train.journal import Held, Journal, read_log
from gammabeta.lab.train.plan import Plan
from gammabeta.lab.train.progress import Progress
from gammabeta.lab.train.recipes import recipe
from gammabeta.lab.train.run import fit, resume
from gammabeta.lab.train.state import seed_all
from gammabeta.signal.run import Run
from tests.lab.train.small import PLAN, Small, last, rebuild, same, state

ROOT = Path(__file__).parents[3]


def log(folder: Path) -> list[dict[str, object]]:
    return list(read_log(folder / "log.jsonl"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    fit(Small(), PLAN, folder)
    return folder


def test_it_learns(tmp_path: Path) -> None:
    seen: list[Progress] = []
    outcome = fit(Small(), PLAN, tmp_path / "run", report=seen.append)
    assert outcome.step == 60
    assert list(outcome.accuracies) == [20, 40, 60]
    assert outcome.best == max(outcome.accuracies.values()) > 0.9
    assert outcome.diverged is None
    assert [p.step for p in seen] == [20, 40, 60]
    assert seen[-1].loss < seen[0].loss < math.log(10)
    assert seen[-1].saved == outcome.checkpoint == tmp_path / "run/step-00000060.pt"
    assert seen[-1].learning_rate == pytest.approx(0.05 * 0.99**59)
    rows = log(tmp_path / "run")
    assert [row["accuracy"] for row in rows] == list(outcome.accuracies.values())
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "best.pt",
        "lock",
        "log.jsonl",
        "step-00000020.pt",
        "step-00000040.pt",
        "step-00000060.pt",
    ]


def test_the_weights_are_those_of_a_bare_loop(whole: Path) -> None:
    """The same network, batches and seeds, in ten lines of PyTorch."""
    images = load_images("digits")
    small = Small()
    model = small.model(10, in_channels=1, input_size=8, seed=0)
    optimizer = small.optimizer(model)
    mean, std = images.mean[0] * 255, images.std[0] * 255
    feed = Draws(
        images.train,  # type: ignore[arg-type]
        Order(1437, seed=0),
        batch_size=32,
        seed=0,
        distort=None,
    ).batches({})
    seed_all(0, 0, 0)
    for step in range(60):
        batch = next(feed)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.99**step
        optimizer.zero_grad()
        scores = model((batch.x.float() - mean) / std)
        torch.nn.functional.cross_entropy(scores, batch.y).backward()
        optimizer.step()
    assert same(dict(model.state_dict()), dict(last(whole, 60)["model"]))


@pytest.mark.parametrize(("stop", "cadence"), [(1, 20), (20, 7), (47, 1000)])
def test_resumed_anywhere_it_ends_the_same(
    stop: int, cadence: int, whole: Path, tmp_path: Path
) -> None:
    fit(Small(), replace(PLAN, steps=stop, checkpoint_every=cadence), tmp_path)
    resume(tmp_path, rebuild=rebuild, steps=60, checkpoint_every=13)
    assert same(state(last(tmp_path, 60)), state(last(whole, 60)))


def test_killed_at_random_moments_it_ends_the_same(tmp_path: Path) -> None:
    fit(Small(), replace(PLAN, steps=300), tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.train.killing", str(tmp_path / "killed")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    deaths, places = map(int, done.stdout.split())
    assert deaths >= 3
    assert places >= 3
    assert same(state(last(tmp_path / "killed", 300)), state(last(tmp_path / "whole", 300)))


def test_a_seed_is_a_run(whole: Path, tmp_path: Path) -> None:
    fit(Small(), PLAN, tmp_path / "again")
    fit(Small(), replace(PLAN, seed=1), tmp_path / "other")
    assert same(state(last(tmp_path / "again", 60)), state(last(whole, 60)))
    assert not same(last(tmp_path / "other", 60)["model"], last(whole, 60)["model"])


def test_looking_changes_nothing(whole: Path, tmp_path: Path) -> None:
    """Neither evaluating, nor watching, nor saving, nor logging touches a weight."""
    plan = replace(PLAN, evaluate_every=1, checkpoint_every=9, log_every=4, watch=True, keep=1)
    fit(Small(), plan, tmp_path / "run")
    assert same(state(last(tmp_path / "run", 60)), state(last(whole, 60)))
    with Run(tmp_path / "run/signal.sqlite") as run:
        assert run.status() == "finished"
    assert len(list((tmp_path / "run").glob("step-*"))) == 1


def test_a_resumed_run_is_watched_from_where_it_is(tmp_path: Path) -> None:
    fit(Small(), replace(PLAN, steps=20, watch=True), tmp_path)
    resume(tmp_path, rebuild=rebuild, steps=30)
    with Run(tmp_path / "signal.sqlite") as run:
        assert [frame.step for frame in run.frames()] == list(range(1, 31))


def test_the_global_random_states_are_left_as_they_were(tmp_path: Path) -> None:
    def states() -> list[object]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()]

    before = states()
    fit(Small(), replace(PLAN, steps=2), tmp_path / "run")
    assert same(states(), before)

    def broken(progress: Progress) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(Small(), PLAN, tmp_path / "broken", report=broken)
    assert same(states(), before)


def test_a_run_that_diverges_says_at_which_step(tmp_path: Path) -> None:
    images = load_images("digits")
    outcome = fit(Small(lr=1e30), PLAN, tmp_path, images=images)
    assert outcome.diverged is not None
    assert outcome.step == outcome.diverged < 60
    held = read(tmp_path / "diverged.pt")
    assert held["diverged"] == held["step"] == outcome.diverged
    assert log(tmp_path)[-1] == {"step": outcome.diverged, "loss": None, "diverged": True}
    again = resume(tmp_path, rebuild=rebuild)  # from the checkpoint before: the same end
    assert again.diverged == outcome.diverged


def test_a_folder_is_one_process_s(tmp_path: Path) -> None:
    with Held(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
        fit(Small(), PLAN, tmp_path)
    fit(Small(), replace(PLAN, steps=2), tmp_path)
    with pytest.raises(ValueError, match="has a run in it"):
        fit(Small(), PLAN, tmp_path)
    with Held(tmp_path), pytest.raises(ValueError, match="in use by process"):
        resume(tmp_path, rebuild=rebuild, steps=4)


def test_what_cannot_be_trained_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size=2000 is too large"):
        fit(Small(batch_size=2000), PLAN, tmp_path / "run")
    with pytest.raises(ValueError, match="sync_bn=True needs more than one process"):
        fit(Small(), replace(PLAN, sync_bn=True), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_refused_and_an_older_one_goes_on(
    whole: Path, tmp_path: Path
) -> None:
    fit(Small(), replace(PLAN, steps=40), tmp_path)
    (tmp_path / "step-00000040.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"last good one is .*step-00000020\.pt"):
        resume(tmp_path, rebuild=rebuild, steps=60)
    resume(tmp_path / "step-00000020.pt", rebuild=rebuild, steps=60)
    assert same(state(last(tmp_path, 60)), state(last(whole, 60)))


def test_a_full_disk_ends_the_run_and_spares_the_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 6:  # two a file, itself and its folder: the log and two checkpoints
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"No space left.*last good one is .*step-"):
            fit(Small(), PLAN, tmp_path)
    assert list(tmp_path.glob("*.writing")) == []
    resume(tmp_path, rebuild=rebuild)
    assert same(state(last(tmp_path, 60)), state(last(whole, 60)))


def test_resumed_from_an_earlier_checkpoint_it_ends_the_same(whole: Path, tmp_path: Path) -> None:
    """As a person does whose newer ones are damaged; what it writes is not pruned for those."""
    fit(Small(), PLAN, tmp_path)
    for step in (40, 60):
        (tmp_path / f"step-{step:08d}.pt").write_bytes(b"damaged")
    outcome = resume(
        tmp_path / "step-00000020.pt", rebuild=rebuild, steps=33, checkpoint_every=6, keep=1
    )
    assert outcome.checkpoint == tmp_path / "step-00000033.pt"
    assert [path.name for path in checkpoint.steps(tmp_path)] == [
        f"step-000000{step}.pt" for step in (60, 40, 33)
    ]
    resume(outcome.checkpoint, rebuild=rebuild, steps=60)
    assert same(state(last(tmp_path, 60)), state(last(whole, 60)))


def test_a_better_network_is_not_lost_to_a_run_that_goes_back(
    tmp_path: Path,
) -> None:
    """Killed after its best was saved and before the next checkpoint, a run begins before it."""
    fit(Small(), replace(PLAN, steps=60, checkpoint_every=60, evaluate_every=5), tmp_path)
    best = read(tmp_path / "best.pt")
    for path in checkpoint.steps(tmp_path)[:-1]:
        path.unlink()
    assert best["step"] > 5
    resume(tmp_path, rebuild=rebuild, steps=5, evaluate_every=5)
    assert same(read(tmp_path / "best.pt"), best)
    resume(tmp_path, rebuild=rebuild, steps=60)
    assert same(state(read(tmp_path / "best.pt")), state(best))


def test_the_state_of_a_diverged_run_is_not_gone_on_with(tmp_path: Path) -> None:
    fit(replace(Small(), lr=1e30), PLAN, tmp_path)
    with pytest.raises(CheckpointError, match=r"diverged\.pt is the state after a non-finite loss"):
        resume(tmp_path / "diverged.pt", rebuild=rebuild)


def test_a_folder_may_be_called_like_a_checkpoint(tmp_path: Path) -> None:
    fit(Small(), replace(PLAN, steps=2), tmp_path / "run.pt")
    assert resume(tmp_path / "run.pt", rebuild=rebuild, steps=4).step == 4


def test_checkpoints_of_another_version(tmp_path: Path) -> None:
    fit(Small(), replace(PLAN, steps=2), tmp_path)
    path = tmp_path / "step-00000002.pt"
    held = read(path)
    for changed, said in (
        ({"recipe": {**held["recipe"], "future": 1}}, r"0002\.pt has a recipe or a plan that this"),
        ({"plan": {**held["plan"], "future": 1}}, r"0002\.pt has a recipe or a plan that this"),
        ({"model": {"weight": torch.ones(1)}}, "step 2 has other weights than its recipe makes"),
    ):
        checkpoint.write(path, {**held, **changed})
        with pytest.raises(CheckpointError, match=said):
            resume(tmp_path, rebuild=rebuild)


def test_a_log_that_cannot_be_written_ends_and_the_run_does_not(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * len('{"step": 1, "loss": 0.5}\n'), hard))
    try:
        journal.add(step=1, loss=0.5)
        with pytest.warns(RuntimeWarning, match=r"log\.jsonl ends before step 3: File too large"):
            _ = [journal.add(step=step, loss=0.5) for step in (2, 3, 4)]
        journal.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [row["step"] for row in log(tmp_path)] == [1, 2]


def test_what_changes_a_weight_is_not_changed(tmp_path: Path) -> None:
    fit(Small(), replace(PLAN, steps=2), tmp_path)
    with pytest.raises(ValueError, match=r"change='seed' is not known; .*: steps, evaluate_every"):
        resume(tmp_path, rebuild=rebuild, seed=7)


def test_other_data_is_refused(tmp_path: Path) -> None:
    fit(Small(), replace(PLAN, steps=2), tmp_path)
    digits = load_images("digits")
    other = replace(digits, fingerprint=digits.fingerprint + 1)
    with pytest.raises(CheckpointError, match=r"is not what .* was trained on"):
        resume(tmp_path, rebuild=rebuild, steps=4, images=other)
    with pytest.raises(ValueError, match=r"steps=1 is less than the 2 that .* has taken"):
        resume(tmp_path, rebuild=rebuild, steps=1)
    assert resume(tmp_path, rebuild=rebuild).step == 2  # it had finished: nothing to do


def test_the_log_has_each_step_once(tmp_path: Path) -> None:
    fit(Small(), replace(PLAN, steps=20, log_every=5), tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:  # a process that was killed, later than saved
        file.write(json.dumps({"step": 25, "loss": 1.0}) + "\n" + '{"step": 30, "lo')
    with (tmp_path / "log.jsonl").open("ab") as damaged:
        damaged.write(b'\n{"step": 30, \xff\xfe\n')
    resume(tmp_path, rebuild=rebuild, steps=40)
    assert [row["step"] for row in log(tmp_path)] == [5, 10, 15, 20, 25, 30, 35, 40]


def test_the_log_writes_what_is_not_a_number_as_null(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(step=1, loss=math.nan)
    journal.close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "loss": null}\n'


@pytest.mark.parametrize(
    "options",
    [{"precision": "bf16"}, {"channels_last": True}, {"precision": "bf16", "channels_last": True}],
    ids=str,
)
def test_inception_resumes_exactly_in_every_layout(
    options: dict[str, object], tmp_path: Path
) -> None:
    plan = replace(PLAN, steps=4, width=0.0625, evaluate_every=0, **options)  # type: ignore[arg-type]
    bold = recipe("bn-x30").with_changes(no_dropout=False)
    fit(bold, plan, tmp_path / "whole")
    fit(bold, replace(plan, steps=2), tmp_path / "halved")
    resume(tmp_path / "halved", steps=4)
    held = last(tmp_path / "whole", 4)
    assert same(state(last(tmp_path / "halved", 4)), state(held))
    assert all(value.isfinite().all() for value in held["model"].values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps=0 must be between 1"),
        ({"steps": 1.5}, "steps=1.5 must be a whole number"),
        ({"width": math.nan}, "width=nan must be a positive number"),
        ({"precision": "bf61"}, "precision='bf61' is not known; did you mean 'bf16'"),
        ({"distortions": "papre"}, "did you mean 'paper'"),
        ({"keep": 0}, "keep=0"),
    ],
)
def test_plans_that_will_not_do(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Plan(**settings)  # type: ignore[arg-type]


def test_devices_that_are_not_here(tmp_path: Path) -> None:
    for device, said in (("cud", "is not known"), ("meta", "is not supported")):
        with pytest.raises(ValueError, match=said):
            fit(Small(), replace(PLAN, device=device), tmp_path / "run")
