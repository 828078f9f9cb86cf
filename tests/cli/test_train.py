"""``gammabeta train`` and ``evaluate``: what they print, what they leave, what they refuse."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from gammabeta.lab.train import checkpoint
from tests.cli.command import Shell, start

TINY = ("--width", 0.0625, "--batch-size", 16, "--log-every", 2, "--evaluate-every", 4)


def weights(path: Path) -> dict[str, torch.Tensor]:
    held: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return held


@pytest.fixture(scope="module")
def run(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of six steps: its folder, and what was printed."""
    folder = tmp_path_factory.mktemp("run")
    args = ("train", "bn-x5", *TINY, "--steps", 6, "--checkpoint-every", 2, "--watch")
    return folder, shell(*args, folder=folder).ok()


def test_what_a_run_prints_and_leaves(run: tuple[Path, str]) -> None:
    folder, printed = run
    number, share = r"[\d,.]+", r"\d+\.\d\d%"
    expected = [
        rf"bn-x5\+ · digits 1 × 8 × 8 · 10 classes · {number} parameters · batch 16 · cpu fp32",
        rf"2/6  loss {number}  lr 0\.0075  {number} images/s  0:\d\d left",
        rf"4/6  loss {number}  lr 0\.0075  {number} images/s  0:\d\d left  accuracy {share}",
        rf"6/6  loss {number}  lr 0\.0075  {number} images/s  0:00 left  accuracy {share}",
        rf"best accuracy {share}, after step [46]",
        r"checkpoint  runs/bn-x5\+-digits/step-00000006\.pt",
        r"log         runs/bn-x5\+-digits/log\.jsonl",
    ]
    lines = printed.splitlines()
    assert len(lines) == len(expected), printed
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    assert sorted(p.name for p in (folder / "runs/bn-x5+-digits").iterdir()) == [
        "best.pt",
        "lock",
        "log.jsonl",
        "signal.sqlite",
        "step-00000002.pt",
        "step-00000004.pt",
        "step-00000006.pt",
    ]


def test_a_resumed_run_ends_with_the_same_weights(
    run: tuple[Path, str], shell: Shell, tmp_path: Path
) -> None:
    args = ("train", "bn-x5", *TINY, "--steps", 3, "--out", "r")
    shell(*args, folder=tmp_path).ok()
    printed = shell("train", "--resume", "r", "--steps", 6, folder=tmp_path).ok()
    assert "resumed after step 3 of 6" in printed
    whole = weights(run[0] / "runs/bn-x5+-digits/step-00000006.pt")
    resumed = weights(tmp_path / "r/step-00000006.pt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_record_can_be_shown(run: tuple[Path, str], shell: Shell) -> None:
    folder, _ = run
    shell("view", "runs/bn-x5+-digits/signal.sqlite", "--html", "page.html", folder=folder).ok()
    assert (folder / "page.html").stat().st_size > 10_000


def test_a_run_that_diverges_ends_with_code_3(shell: Shell, tmp_path: Path) -> None:
    args = ("train", "inception", *TINY, "--base-lr", 1e6, "--steps", 40, "--out", "r")
    done = shell(*args, folder=tmp_path)
    assert (done.code, done.err) == (3, "")
    said = re.search(r"diverged: the loss of step (\d+) was not finite", done.out)
    assert said
    assert checkpoint.read(tmp_path / "r/diverged.pt")["diverged"] == int(said[1])
    assert "checkpoint  r/diverged.pt" in done.out


def test_a_run_alone_in_its_folder_finishes_its_step_when_interrupted(
    shell: Shell, tmp_path: Path
) -> None:
    args = ("train", "bn-x5", *TINY, "--steps", 100_000, "--out", "r")
    process = start(*args, folder=tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if line.lstrip().startswith("2/"):
            break
    refused = shell("train", "--resume", "r", folder=tmp_path).refused()
    assert f"out=r is in use by process {process.pid}" in refused
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    said = re.search(
        r"stopped after step (\d+) of 100000; to continue: gammabeta train --resume r", out
    )
    assert said
    last = int(said[1])
    assert checkpoint.newest(tmp_path / "r").name == f"step-{last:08d}.pt"
    printed = shell("train", "--resume", "r", "--steps", last + 2, folder=tmp_path).ok()
    assert f"resumed after step {last} of {last + 2}" in printed
    printed = shell("train", "--resume", "r", folder=tmp_path, env={}).ok()
    assert f"finished before: {last + 2} of {last + 2} steps; more --steps go on" in printed


def test_the_members_of_an_ensemble_differ(shell: Shell, tmp_path: Path) -> None:
    for member in (0, 1):
        args = ("train", "bn-x30", "--vary", member, *TINY, "--steps", 1, "--out", f"m{member}")
        assert shell(*args, folder=tmp_path).ok().startswith(f"bn-x30+/{member} · ")
    held = [checkpoint.read(tmp_path / f"m{member}/best.pt") for member in (0, 1)]
    assert [h["plan"]["seed"] for h in held] == [0, 1]
    assert held[0]["recipe"]["init_scale"] > held[1]["recipe"]["init_scale"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "1 model, 1 crop, moving statistics"),
        (("--statistics", "population", "--batches", 3), "1 model, 1 crop, population statistics"),
    ],
)
def test_evaluate(
    options: tuple[object, ...], said: str, run: tuple[Path, str], shell: Shell
) -> None:
    folder, printed = run
    done = shell("evaluate", "runs/bn-x5+-digits", *options, folder=folder).ok()
    assert f"(360 images, {said})" in done
    if not options:  # the accuracy that was measured while it trained
        best = re.search(r"best accuracy (\S+)%", printed)
        error = re.search(r"top-1 error (\S+)%", done)
        assert best
        assert error
        assert float(best[1]) + float(error[1]) == pytest.approx(100, abs=0.011)


def test_evaluate_an_ensemble(run: tuple[Path, str], shell: Shell) -> None:
    place = "runs/bn-x5+-digits"
    done = shell("evaluate", f"{place}/step-00000004.pt", f"{place}/best.pt", folder=run[0]).ok()
    assert "mean of 2 models" in done
    assert re.search(r"step-00000004\.pt  bn-x5\+, step 4\n", done)
    assert re.search(r"best\.pt  bn-x5\+, step \d, best on its own test split\n", done)
    assert done.count("top-1 error") == 3


def test_evaluate_whole_pictures_in_144_crops(shell: Shell, tmp_path: Path) -> None:
    for kind, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for number in range(8):
            picture = Image.new("RGB", (20 + number % 2, 24), (shade + number,) * 3)
            picture.save(tmp_path / "images" / kind / f"{number}.png")
    data = ("--data", "folder", "--data-dir", "images")
    args = ("train", "bn-x30", *TINY, *data, "--size", 12, "--batch-size", 4, "--steps", 3)
    printed = shell(*args, "--out", "r", folder=tmp_path).ok()
    assert "a fixed split, 2 images for testing" in printed
    done = shell("evaluate", "r", "--crops", 144, folder=tmp_path).ok()
    assert "(2 images, 1 model, 144 crops, moving statistics)" in done
    # Another file, and the fixed split is another: it would be tested on what it was trained on.
    picture.save(tmp_path / "images/light/8.png")
    refused = shell("evaluate", "r", folder=tmp_path).refused()
    assert "data='folder' is not what r/best.pt was trained on" in refused
    shell("evaluate", "r", "--data-dir", "images", folder=tmp_path).ok()
    (tmp_path / "images/light").rename(tmp_path / "images/pale")
    refused = shell("evaluate", "r", "--data-dir", "images", folder=tmp_path).refused()
    assert refused.endswith("trained for: class 1 is 'pale', not 'light'")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("train",), "recipe is missing; choose one of inception, bn-baseline"),
        (("train", "bn-x3"), "recipe='bn-x3' is not known; did you mean 'bn-x30'"),
        (("train", "bn-x5", "--data", "digit"), "did you mean 'digits'"),
        (("train", "bn-x5", "--base-lr", "nan"), "base_lr=nan must be a positive number"),
        (("train", "bn-x5", "--base-lr", "x"), "is not a number"),
        (("train", "bn-x5", "--steps", 0), "steps=0 must be between 1"),
        (("train", "bn-x5", "--batch-size", 5000), "batch_size=5000 is too large"),
        (("train", "bn-x5", "--device", "cud"), "device='cud' is not known"),
        (("train", "bn-x5", "--data", "folder", "--data-dir", "."), "no sub-folders with images"),
        (("train", "bn-x5", "--stem", "smal"), "did you mean 'small'"),
        (("train", "bn-x5", "--sync-bn"), "sync_bn=True needs more than one process"),
        (("train", "inception", "--vary", 1), "without batch norm"),
        (("train", "--resume", "nothing"), "nothing is no folder of a run"),
        (("train", "bn-x5", "--resume", "r"), "recipe cannot change when a run is resumed"),
        (
            ("train", "--resume", "r", "--seed", 1),
            "seed cannot change when a run is resumed; omit it",
        ),
        (("train", "bn-x5", "--lasting", 0), "lasting=0 must be at least 1"),
        (("train", "bn-x5", "--size", 2000), "size=2000 must be between 0 and 1024"),
        (("train", "bn-x5", "--lasting", "1" * 400), "and at most 1,000,000,000"),
        (("train", "bn-x5", "--vary", -1), "vary=-1 must be at least 0"),
        (("train", "bn-x5", "--dropout", 1.5), "dropout=1.5 must be at least 0 and below 1"),
        (("train", "bn-x5", "--width", 9), "width=9.0 must be a positive number, at most 8"),
        (("evaluate", "nothing.pt"), "nothing.pt cannot be read: No such file"),
        (("evaluate", "nothing"), "nothing is no folder of a run"),
        (("evaluate", "nothing", "--crops", 12), "crops=12 must be 1 or 144"),
        (("evaluate", "nothing", "--statistics", "movin"), "did you mean 'moving'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_input(args: tuple[object, ...], said: str, shell: Shell, tmp_path: Path) -> None:
    assert said in shell(*args, folder=tmp_path).refused()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    args = ("train", "bn-x5", *TINY, "--steps", 1, "--out", "taken")
    assert "out=taken cannot be used" in shell(*args, folder=tmp_path).refused()


def test_a_damaged_checkpoint_names_the_last_good_one(
    run: tuple[Path, str], shell: Shell, tmp_path: Path
) -> None:
    folder, _ = run
    for step in (4, 6):
        name = f"step-0000000{step}.pt"
        (tmp_path / name).write_bytes((folder / "runs/bn-x5+-digits" / name).read_bytes())
    (tmp_path / "step-00000006.pt").write_bytes(b"cut short")
    refused = shell("train", "--resume", ".", folder=tmp_path).refused()
    assert "step-00000006.pt is damaged" in refused
    assert refused.endswith("the last good one is step-00000004.pt")


def test_a_folder_cannot_command_the_terminal(shell: Shell, tmp_path: Path) -> None:
    args = ("train", "bn-x5", *TINY, "--steps", 1, "--out", "a\x1b[2J\nb")
    printed = shell(*args, folder=tmp_path).ok()
    assert "\nlog         a�[2J�b/log.jsonl\n" in printed
    printed = shell("evaluate", "a\x1b[2J\nb", folder=tmp_path).ok()
    assert printed.startswith("a�[2J�b/best.pt  bn-x5+, step 1, ")


def test_the_home_folder(shell: Shell, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path / "home")}
    args = ("train", "bn-x5", *TINY, "--steps", 1, "--out", "~/r")
    shell(*args, folder=tmp_path, env=env).ok()
    shell("train", "--resume", "~/r", "--steps", 2, folder=tmp_path, env=env).ok()
    assert "1 model" in shell("evaluate", "~/r/best.pt", folder=tmp_path, env=env).ok()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    args = ("train", "bn-x5", "--data", "folder", "--data-dir", "~/none")
    refused = shell(*args, folder=tmp_path, env=env).refused()
    assert refused == f"data_dir={tmp_path}/home/none is no folder"


def test_a_sealed_checkpoint_that_names_data_there_is_not(
    run: tuple[Path, str], shell: Shell, tmp_path: Path
) -> None:
    held = checkpoint.read(run[0] / "runs/bn-x5+-digits/best.pt")
    for data in ("digit", "\x1b[2J"):
        checkpoint.write(tmp_path / "odd.pt", {**held, "plan": {**held["plan"], "data": data}})
        for args in (("evaluate", "odd.pt"), ("train", "--resume", "odd.pt")):
            said = shell(*args, folder=tmp_path).refused()
            assert said.startswith("odd.pt")
            assert "is not known; " in said
            assert said.isprintable()
