"""``gammabeta demo``: what it prints, what it leaves, and what each option does."""

from __future__ import annotations

import importlib
import re
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from gammabeta.lab.data.flat import FASHION_MNIST
from gammabeta.lab.demo.presets import PRESETS
from gammabeta.signal import Record, RecordError
from gammabeta.signal.stages import LAYER_STAGES
from tests.cli.command import Shell, gammabeta, start
from tests.cli.records import curve, moments, recorded, shown, signals

demo = importlib.import_module("gammabeta.cli.demo")  # the function has the module's name
SMALL = ("--no-server", "--preset", "healthy", "--depth", 2, "--width", 16)

PRINTED = """\
digits · 2 × 16 tanh · lr 0.1 · init × 1

                               without   with batch norm
────────────────────────────────────────────────────────
test accuracy                    67.8%             78.6%
  with mini-batch statistics         –             76.9%
steps to 90%                         –                 –
steps to 95%                         –                 –
last training loss               1.511             1.187

layer   saturated without   saturated with batch norm   x̂ with batch norm
─────────────────────────────────────────────────────────────────────────
2                    0.3%                        3.2%       0.000 ± 1.000
1                    6.3%                        3.3%       0.000 ± 1.000

picture  first.html  (open it in a browser)
record   first.sqlite  (gammabeta view first.sqlite)
"""


def test_the_whole_text(tmp_path: Path) -> None:
    done = gammabeta("demo", *SMALL, "--steps", 30, "--out", "first", folder=tmp_path)
    assert done.ok() == PRINTED
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first.html", "first.sqlite"]
    assert shown(tmp_path / "first.html") == recorded(tmp_path / "first.sqlite")


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """What a newcomer types: the folder, what was printed, the seconds it took."""
    folder = tmp_path_factory.mktemp("default")
    began = time.monotonic()
    printed = gammabeta("demo", "--port", 0, folder=folder).ok()
    return folder, printed, time.monotonic() - began


def test_the_default_run_is_quick_and_small(default: tuple[Path, str, float]) -> None:
    folder, _, seconds = default
    assert seconds < 60
    assert (folder / "runs/demo.html").stat().st_size < 3_000_000
    assert sorted(p.name for p in (folder / "runs").iterdir()) == ["demo.html", "demo.sqlite"]
    run = recorded(folder / "runs/demo.sqlite")
    assert shown(folder / "runs/demo.html") == run
    assert run["status"] == "finished"
    assert len(moments(run)) == 2 * 132  # what the cadence keeps of 400 steps, and the last
    assert [len(curve(run, arm, "loss")) for arm in (0, 1)] == [400, 400]


def test_the_default_run_shows_what_batch_norm_does(default: tuple[Path, str, float]) -> None:
    """The score board is the record's, worked out here from the rows by hand."""
    folder, printed, _ = default
    run = recorded(folder / "runs/demo.sqlite")
    lines = printed.splitlines()
    assert lines[0] == "digits · 4 × 64 tanh · lr 2 · init × 3" == run["title"]
    assert lines[1] == PRESETS["bold"].sentence == run["note"]
    assert re.fullmatch(r"live page, while it trains: http://127\.0\.0\.1:\d+/", lines[2])
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    board = {row[0]: row[1:] for row in cells if len(row) > 1}
    accuracy = [curve(run, arm, "accuracy") for arm in (0, 1)]
    loss = [curve(run, arm, "loss") for arm in (0, 1)]
    assert board["test accuracy"] == [f"{100 * a[400]:.1f}%" for a in accuracy]
    assert board["last training loss"] == [f"{each[400]:.4g}" for each in loss]
    for goal in (90, 95):
        steps = [[step for step, a in each.items() if 100 * a >= goal] for each in accuracy]
        expected = [str(min(found)) if found else "–" for found in steps]
        assert board[f"steps to {goal}%"] == expected
    assert accuracy[0][400] < 0.5 < 0.95 < accuracy[1][400]  # what it is for

    places = {p["id"]: (p["arm"], p["layer"], p["stage"]) for p in run["probes"]}
    last: dict[tuple[int, int, str], dict[str, Any]] = {}
    for *_, measured in signals(folder / "runs/demo.sqlite"):
        last |= {places[probe]: values for probe, values in measured.items()}
    for layer in (1, 2, 3, 4):
        x_hat = last[1, layer, "normalized"]
        assert board[str(layer)] == [
            f"{100 * last[0, layer, 'z']['saturated']:.1f}%",
            f"{100 * last[1, layer, 'affine']['saturated']:.1f}%",
            f"{abs(x_hat['mean']):.3f} ± {x_hat['std']:.3f}",
        ]
    assert [row[0] for row in cells if row[0] in "1234" and row[0]] == ["4", "3", "2", "1"]


def test_names_when_none_is_given(shell: Shell, tmp_path: Path) -> None:
    for name in ("demo", "demo-2", "demo-3"):
        printed = shell("demo", *SMALL, "--steps", 1, folder=tmp_path).ok()
        assert f"\nrecord   runs/{name}.sqlite  (gammabeta view runs/{name}.sqlite)\n" in printed
    (tmp_path / "runs/demo-2.sqlite").unlink()  # its page is still there, and still somebody's
    before = (tmp_path / "runs/demo-2.html").read_bytes()
    assert "runs/demo-4.sqlite" in shell("demo", *SMALL, "--steps", 1, folder=tmp_path).ok()
    assert (tmp_path / "runs/demo-2.html").read_bytes() == before


def test_runs_that_are_started_at_once_each_take_a_name(tmp_path: Path) -> None:
    """Between a look at the names and the making of a file, another process makes it."""
    at_once = [start("demo", *SMALL, "--steps", 1, folder=tmp_path) for _ in range(4)]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in at_once]
    assert [(err, code) for _, err, code in ended] == [("", 0)] * 4
    names = {re.search(r"record   runs/(.*)\.sqlite  ", out)[1] for out, *_ in ended}  # type: ignore[index]
    assert names == {"demo", "demo-2", "demo-3", "demo-4"}
    assert len(list((tmp_path / "runs").iterdir())) == 8


def test_a_name_that_is_taken_after_it_was_found_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tried: list[Path] = []

    def late(path: Path, *args: Any) -> Record:
        """Another process is a moment faster, twice."""
        tried.append(path)
        if len(tried) < 3:
            Record(path).close()
        return Record(path, *args)

    monkeypatch.setattr(demo, "Record", late)
    record, live = demo._begun(None, "a", {}, True, 0)
    record.close()
    assert live is not None
    live.stop()
    assert [path.name for path in tried] == ["demo.sqlite", "demo-2.sqlite", "demo-3.sqlite"]
    tried.clear()
    with pytest.raises(RecordError, match=r"mine\.sqlite exists; pass resume=True"):
        demo._begun(Path("mine"), "a", {}, True, 0)  # a name that was asked for is not changed


@pytest.mark.parametrize("file", ["runs", "runs/demo.sqlite"])
def test_default_names_that_cannot_be_made(shell: Shell, tmp_path: Path, file: str) -> None:
    if file == "runs":
        (tmp_path / file).touch()
        said = shell("demo", *SMALL, "--steps", 1, folder=tmp_path).refused()
        assert said == "runs/demo.sqlite cannot be created: a folder on its way is a file"
    else:  # a link to nowhere is somebody's, too
        (tmp_path / "runs").mkdir()
        (tmp_path / file).symlink_to("nowhere")
        printed = shell("demo", *SMALL, "--steps", 1, folder=tmp_path).ok()
        assert "record   runs/demo-2.sqlite" in printed


def test_the_home_folder(shell: Shell, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path / "home")}
    shell("demo", *SMALL, "--steps", 1, "--out=~/run", folder=tmp_path, env=env).ok()
    args = ("view", "~/run.sqlite", "--html", "~/page.html")
    shell(*args, folder=tmp_path, env=env).ok()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    found = sorted(path.name for path in (tmp_path / "home").iterdir())
    assert found == ["page.html", "run.html", "run.sqlite"]


def test_a_path_cannot_command_the_terminal(shell: Shell, tmp_path: Path) -> None:
    name = "a\x1b]0;owned\x07\x9b\nb"
    printed = shell("demo", *SMALL, "--steps", 1, "--out", name, folder=tmp_path).ok()
    assert "record   a�]0;owned���b.sqlite  (gammabeta view a�]0;owned���b.sqlite)\n" in printed
    printed = shell("view", f"{name}.sqlite", "--html", f"{name}-2.html", folder=tmp_path).ok()
    assert printed.startswith("wrote a�]0;owned���b-2.html (")


@pytest.mark.parametrize("out", ["deep/er/run", "run.sqlite", "v1.5", "[red]x[/red]", "γ β"])
def test_names_that_are_given(shell: Shell, tmp_path: Path, out: str) -> None:
    printed = shell("demo", *SMALL, "--steps", 1, "--out", out, folder=tmp_path).ok()
    stem = out.removesuffix(".sqlite")
    assert f"picture  {stem}.html  (open it in a browser)\n" in printed
    assert recorded(tmp_path / f"{stem}.sqlite") == shown(tmp_path / f"{stem}.html")


# Options.


@pytest.fixture(scope="module")
def base(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run that each option below changes in one thing."""
    return small(shell, tmp_path_factory.mktemp("base"))


def small(shell: Shell, folder: Path, *args: object) -> Any:
    """A run of six steps, two layers of 16 units, mini-batches of 64."""
    shell("demo", *SMALL, "--steps", 6, "--out", "run", *args, folder=folder).ok()
    path = folder / "run.sqlite"
    return {**recorded(path), "signals": signals(path)}


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("lr", "0.25", 0.25),
        ("lr", "1e-3", 0.001),
        ("init-scale", "2", 2.0),
        ("activation", "sigmoid", "sigmoid"),
        ("activation", "relu", "relu"),
        ("activation", "gelu", "gelu"),
        ("depth", "3", 3),
        ("width", "24", 24),
        ("norm", "layer", "layer"),
        ("norm", "group", "group"),
        ("norm", "rms", "rms"),
        ("batch-size", "10", 10),
        ("optimizer", "momentum", "momentum"),
        ("optimizer", "adam", "adam"),
        ("bn-momentum", "0.5", 0.5),
        ("steps", "7", 7),
        ("seed", "1", 1),
    ],
)
def test_an_option_changes_its_setting_and_nothing_else(
    shell: Shell, tmp_path: Path, base: Any, option: str, text: str, value: object
) -> None:
    run = small(shell, tmp_path, f"--{option}", text)
    name = option.removeprefix("bn-").replace("-", "_")
    assert run["settings"] == {**base["settings"], name: value}
    assert base["settings"][name] != value
    assert run["scalars"] != base["scalars"]  # and the training is another
    norm = value if option == "norm" else "batch"
    assert [arm["name"] for arm in run["arms"]] == ["without", f"with {norm} norm"]
    settings = run["settings"]
    layers = {p["id"]: p for p in run["probes"] if p["stage"] in LAYER_STAGES}
    assert {p["activation"] for p in layers.values()} == {settings["activation"]}
    assert {p["layer"] for p in layers.values()} == set(range(1, settings["depth"] + 1))
    counts = {
        frame[probe]["count"] for *_, frame in run["signals"] for probe in layers.keys() & frame
    }
    assert counts == {settings["batch_size"] * settings["width"]}
    assert set(curve(run, 0, "loss")) == set(range(1, settings["steps"] + 1))


def test_the_same_seed_is_the_same_run(shell: Shell, tmp_path: Path, base: Any) -> None:
    again = small(shell, tmp_path)
    assert again["settings"] == base["settings"]
    assert again["scalars"] == base["scalars"]
    assert repr(again["signals"]) == repr(base["signals"])  # NaN is not NaN


def test_both_arms_start_alike(base: Any) -> None:
    """The same weights and the same mini-batch: layer 1's z is one and the same."""
    first = [next(f for f in base["signals"] if f[0] == arm) for arm in (0, 1)]
    z = {p["arm"]: p["id"] for p in base["probes"] if (p["layer"], p["stage"]) == (1, "z")}
    mine, its = (frame[2][z[arm]] for arm, frame in enumerate(first))
    later = ("saturated", "dead", "gradient")  # these depend on what comes after z
    assert {k: v for k, v in mine.items() if k not in later and v == v} == {
        k: v for k, v in its.items() if k not in later and v == v
    }


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_its_sentence(shell: Shell, tmp_path: Path, name: str) -> None:
    done = shell(
        "demo", "--no-server", "--preset", name, "--out", "run", folder=tmp_path, interrupt=0.5
    )
    assert (done.code, done.err) == (130, "")
    preset = PRESETS[name]
    assert done.out.startswith(f"{preset.settings.title()}\n{preset.sentence}\n")
    run = recorded(tmp_path / "run.sqlite")
    assert run["settings"] == vars(preset.settings)
    assert run["note"] == preset.sentence
    assert run["status"] == "interrupted"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_with_other_settings_runs_without_it(
    shell: Shell, tmp_path: Path, name: str
) -> None:
    printed = shell("demo", "--no-server", "--preset", name, "--steps", 3, folder=tmp_path).ok()
    preset = PRESETS[name]
    assert printed.startswith(f"{preset.settings.title()}\n\n")
    run = recorded(tmp_path / "runs/demo.sqlite")
    assert run["settings"] == {**vars(preset.settings), "steps": 3}
    assert (run["note"], run["status"]) == ("", "finished")
    assert preset.sentence not in printed


def test_numbers_too_large_to_write_out(shell: Shell, tmp_path: Path) -> None:
    args = ("--no-server", "--lr", "1e30", "--steps", 4, "--depth", 2, "--out", "run")
    printed = shell("demo", *args, folder=tmp_path).ok()
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    assert re.search(r"\d\.\d+e\+\d\d", printed)


def test_a_run_that_diverges_says_where(shell: Shell, tmp_path: Path) -> None:
    args = ("--no-server", "--activation", "relu", "--lr", "1e20", "--steps", 9, "--out", "run")
    done = shell("demo", *args, folder=tmp_path)
    printed = done.out
    assert done.code == 0
    # Torch's operators make zeros of a batch whose variance overflows; natively it is normalized,
    # and it is up to the guard of a later layer to tell.
    assert all("NonFiniteBatchWarning" in line for line in done.err.splitlines()[::2])
    run = recorded(tmp_path / "run.sqlite")
    losses = curve(run, 0, "loss")
    step, value = list(losses.items())[-1]
    assert (value, len(losses)) == (None, step)  # it stands still from there
    assert step < 9
    assert f"not finite at step {step}" in printed


# Fashion-MNIST.


def idx(folder: Path, name: str, shape: tuple[int, ...], data: bytes) -> None:
    head = b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    (folder / name).write_bytes(head + data)


def test_a_folder_of_idx_files(shell: Shell, tmp_path: Path) -> None:
    for part, count in (("train", 30), ("t10k", 10)):
        pixels = bytes(i * 37 % 251 for i in range(count * 28 * 28))
        idx(tmp_path, f"{part}-images-idx3-ubyte", (count, 28, 28), pixels)
        idx(tmp_path, f"{part}-labels-idx1-ubyte", (count,), bytes(i % 10 for i in range(count)))
    args = ("--dataset", "fashion-mnist", "--data-dir", ".", "--steps", 2, "--out", "run")
    assert shell("demo", *SMALL, *args, folder=tmp_path).ok().startswith("fashion-mnist · 2 × 16")
    accuracy = list(curve(recorded(tmp_path / "run.sqlite"), 1, "accuracy").values())
    assert all(float(10 * a).is_integer() for a in accuracy)  # of ten test images
    assert recorded(tmp_path / "run.sqlite")["settings"]["dataset"] == "fashion-mnist"


@pytest.mark.data
@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="no dataset-fashion-mnist")
def test_fashion_mnist_itself(shell: Shell, tmp_path: Path) -> None:
    args = ("--no-server", "--dataset", "fashion-mnist", "--steps", 10, "--out", "run")
    shell("demo", *args, folder=tmp_path).ok()
    accuracy = curve(recorded(tmp_path / "run.sqlite"), 1, "accuracy")
    assert accuracy[10] > 0.4
    assert float(round(accuracy[10] * 10_000, 6)).is_integer()  # of ten thousand test images
