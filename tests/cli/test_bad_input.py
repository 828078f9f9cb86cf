"""Every mistake a person can make: one line that says what would do, exit code 2, nothing lost."""

from __future__ import annotations

import gzip
import socket
import sqlite3
import struct
import sys
from pathlib import Path

import pytest

from gammabeta.signal import Record, Run
from tests.cli.command import Shell, gammabeta
from tests.cli.records import refused
from tests.signal.recorded import fill

NAMES = "'{}' is not known; did you mean '{}'? Choices: {}"
PRESETS = "bold, healthy, bold-lr, bold-init, saturating, batch-of-two, stale-statistics"
POSITIVE = "must be a positive number, at most 1e+30"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("preset", "bald", "preset=" + NAMES.format("bald", "bold", PRESETS)),
        ("preset", "healthyy", "preset=" + NAMES.format("healthyy", "healthy", PRESETS)),
        ("dataset", "digit", "dataset=" + NAMES.format("digit", "digits", "digits, fashion-mnist")),
        ("dataset", "fashion", "did you mean 'fashion-mnist'?"),
        (
            "activation",
            "rleu",
            "activation=" + NAMES.format("rleu", "relu", "sigmoid, tanh, relu, gelu"),
        ),
        ("norm", "bach", "norm=" + NAMES.format("bach", "batch", "batch, layer, group, rms")),
        ("norm", "none", "norm='none' is not known; choices: batch, layer, group, rms"),
        ("optimizer", "adm", "optimizer=" + NAMES.format("adm", "adam", "sgd, momentum, adam")),
        ("optimizer", "", "optimizer='' is not known; choices: sgd, momentum, adam"),
        ("preset", "[/red]", "preset='[/red]' is not known"),
        *(
            ("lr", v, f"lr={float(v)} {POSITIVE}")
            for v in ("0", "-1", "nan", "inf", "-inf", "1e400", "1e38")
        ),
        *(
            ("init-scale", v, f"init_scale={float(v)} {POSITIVE}")
            for v in ("0", "-2", "nan", "1e300")
        ),
        *(
            ("bn-momentum", v, f"momentum={float(v)} must be a positive")
            for v in ("0", "-0.1", "nan")
        ),
        ("bn-momentum", "1.5", "momentum=1.5 must be at most 1"),
        *(("depth", v, f"depth={v} must be between 1 and 64") for v in ("0", "-3", "65")),
        *(("width", v, f"width={v} must be between 1 and 4096") for v in ("0", "4097")),
        *(("steps", v, f"steps={v} must be between 1 and 1000000") for v in ("0", "-1", "9" * 30)),
        *(("seed", v, f"seed={v} must be between 0 and {2**63 - 1}") for v in ("-1", str(2**63))),
        (
            "batch-size",
            "1",
            "batch_size=1 must be at least 2 (batch norm needs two values to have a variance)",
        ),
        ("batch-size", "0", "batch_size=0 must be at least 2"),
        *(("batch-size", v, f"batch_size={v} must be at most 65536") for v in ("65537", "9" * 20)),
        *(
            (
                option,
                v,
                f"Invalid value for '--{option}': '{v}' is not a number, such as 0.5 or 1e-3",
            )
            for option, v in (
                ("lr", "fast"),
                ("lr", ""),
                ("lr", "0,5"),
                ("init-scale", "1x"),
                ("bn-momentum", "--"),
            )
        ),
        *(
            (option, v, f"Invalid value for '--{option}': '{v}' is not a whole number, such as 64")
            for option in ("depth", "width", "steps", "seed", "batch-size", "port")
            for v in ("1.5", "x", "1e3")
        ),
        *(
            ("port", v, f"port={v} must be between 0 and 65535 (0: any free one)")
            for v in ("-1", "65536")
        ),
    ],
)
def test_an_option(shell: Shell, tmp_path: Path, option: str, value: str, said: str) -> None:
    assert said in refused(shell, tmp_path, "demo", f"--{option}={value}", "--out=run")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("dem",), "No such command 'dem'. Did you mean 'demo'?"),
        (("trian",), "No such command 'trian'. Did you mean 'train'?"),
        (("--lr", "1"), "No such option: --lr"),
        (
            ("demo", "--stesp", "3"),
            "No such option: --stesp (Possible options: --help, --seed, --steps)",
        ),
        (("demo", "extra"), "Got unexpected extra argument"),
        (("demo", "--steps"), "Option '--steps' requires an argument."),
        (("view",), "Missing argument 'runs'; see gammabeta view --help"),
        (("info", "--verbose"), "No such option: --verbose"),
        (
            ("demo", "--norm", "group", "--width", "20"),
            "width=20 must be a multiple of 8 for group norm",
        ),
        (("demo", "--norm", "layer", "--batch-size", "0"), "batch_size=0 must be at least 1"),
        (
            ("demo", "--preset", "batch-of-two", "--batch-size", "1"),
            "batch_size=1 must be at least 2",
        ),
        (
            ("demo", "--data-dir", "."),
            "data_dir=. is not for the digits; name the data set it is of",
        ),
    ],
)
def test_a_command(shell: Shell, tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    assert said in refused(shell, tmp_path, *args)


def test_the_same_from_a_process_of_its_own(tmp_path: Path) -> None:
    """The other tests run in forks of one process; this one is as a person would start it."""
    complaint = gammabeta(
        *("demo", "--activation", "rleu"),
        folder=tmp_path,
        program=[sys.executable, "-m", "gammabeta"],
    ).refused()
    assert complaint == "activation=" + NAMES.format("rleu", "relu", "sigmoid, tanh, relu, gelu")
    assert list(tmp_path.iterdir()) == []


# Where a run is to go.


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("taken", "taken.sqlite already exists; choose another --out or move it away"),
        ("taken.sqlite", "taken.sqlite already exists; choose another --out or move it away"),
        ("page", "page.html already exists; choose another --out or move it away"),
        ("folder", "folder.sqlite already exists; choose another --out or move it away"),
        ("file/run", "file/run.sqlite cannot be created: a folder on its way is a file"),
        ("gone", "gone.sqlite cannot be created"),
        ("/proc/none/run", "/proc/none/run.sqlite cannot be created: No such file or directory"),
        ("/dev/null/run", "/dev/null/run.sqlite cannot be created: a folder on its way is a file"),
        (".", "names no file"),
        ("", "Invalid value for '--out': '' is not a path; give the path of a file or folder"),
        (
            "~nobody-here/run",
            "'~nobody-here/run' names no home folder; give the full path, or ./~nobody-here/run if",
        ),
        ("/", "names no file"),
        ("n" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("server", ["--server", "--no-server"])
def test_out(shell: Shell, crowded: Path, out: str, said: str, server: str) -> None:
    args = ("demo", server, "--port=0", "--steps=1") if server == "--server" else ("demo", server)
    assert said in refused(shell, crowded, *args, f"--out={out}")


# Ports.


@pytest.mark.parametrize("command", ["demo", "view"])
def test_a_port_in_use(shell: Shell, crowded: Path, command: str) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        args = ("demo", "--out", "new") if command == "demo" else ("view", "taken.sqlite")
        complaint = refused(shell, crowded, *args, "--port", port)
    assert complaint == (
        f"port={port} cannot be used: Address already in use; give another, or 0 for any free one"
    )


@pytest.mark.parametrize("port", ["-1", "65536", "99999999999999999999"])
def test_a_port_out_of_range(shell: Shell, crowded: Path, port: str) -> None:
    said = refused(shell, crowded, "view", "taken.sqlite", f"--port={port}")
    assert said == f"port={port} must be between 0 and 65535 (0: any free one)"


# Runs that cannot be opened.


def damaged(folder: Path) -> None:
    """One of every kind of file that is no run, or no longer."""
    with Record(folder / "run") as record:
        fill(record, 3)
    content = record.path.read_bytes()
    (folder / "empty.sqlite").touch()
    (folder / "text.sqlite").write_text("name,age\nada,36\n" * 99)
    (folder / "cut.sqlite").write_bytes(content[: len(content) // 2])
    (folder / "head.sqlite").write_bytes(content[:50])
    (folder / "folder").mkdir()
    connection = sqlite3.connect(folder / "foreign.sqlite")
    connection.execute("CREATE TABLE song(name)")
    connection.close()
    (folder / "newer.sqlite").write_bytes(content)
    connection = sqlite3.connect(folder / "newer.sqlite")
    connection.execute("PRAGMA user_version = 999")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nothing.sqlite", "nothing.sqlite does not exist; give the .sqlite file of a run"),
        ("folder", "folder is a folder without runs (.sqlite files); give another"),
        ("empty.sqlite", "empty.sqlite is empty; the run was stopped before it began"),
        ("text.sqlite", "text.sqlite is not a run recorded by gammabeta"),
        ("head.sqlite", "head.sqlite is damaged or cut short"),
        ("cut.sqlite", "cut.sqlite is damaged or cut short"),
        ("foreign.sqlite", "foreign.sqlite is an SQLite file, but no run recorded by gammabeta"),
        (
            "newer.sqlite",
            "newer.sqlite has format 999, newer than the ",
        ),
        ("run.sqlite/x", "run.sqlite/x does not exist"),
        ("", "is not a path; give the path of a file or folder"),
    ],
)
@pytest.mark.parametrize("html", [(), ("--html", "new.html")])
def test_view(shell: Shell, tmp_path: Path, file: str, said: str, html: tuple[str, ...]) -> None:
    damaged(tmp_path)
    assert said in refused(shell, tmp_path, "view", *html, "--port", 0, file)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ("taken", "taken.sqlite"),
            "taken.sqlite: the same run is given twice; give each run once",
        ),
        (("taken", "--host", "192.0.2.1"), "host='192.0.2.1' cannot be used: "),
        (("taken", "--host", "no such host"), "host='no such host' cannot be used: "),
        (
            ("taken", "--table", "new.xlsx"),
            "ends with '.xlsx'; give a path that ends with .csv or ",
        ),
        (
            ("taken", "--table", "taken.html"),
            "ends with '.html'; give a path that ends with .csv o",
        ),
        (("taken", "--table", "there.csv"), "there.csv exists; give another path, or move it away"),
        (("taken", "--html", "there.csv"), "there.csv exists; give another path, or move it away"),
        (
            ("taken", "other", "--table", "new.csv"),
            "--table new.csv takes one run, not 2; give one",
        ),
    ],
)
def test_view_of_runs_that_are_fine(
    shell: Shell, crowded: Path, args: tuple[str, ...], said: str
) -> None:
    (crowded / "there.csv").write_text("mine")
    with Record(crowded / "other") as record:
        fill(record, 1)
    assert said in refused(shell, crowded, "view", *args, "--port", 0)


def test_view_of_a_locked_run(shell: Shell, crowded: Path) -> None:
    other = sqlite3.connect(crowded / "taken.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        complaint = shell("view", "taken.sqlite", "--html", "new.html", folder=crowded).refused()
    finally:
        other.close()
    assert complaint == "taken.sqlite is locked by another process; close that one first"
    assert not (crowded / "new.html").exists()
    with Run(crowded / "taken.sqlite") as run:
        assert len(list(run.frames())) == 2


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("page.html", "page.html exists; give another path, or move it away"),
        ("taken.sqlite", "taken.sqlite exists; give another path, or move it away"),
        (".", ". exists; give another path, or move it away"),
        ("", "Invalid value for '--html': '' is not a path; give the path of a file or folder"),
        ("pipe", "pipe exists; give another path, or move it away"),
        ("file/page.html", "file/page.html cannot be written: "),
        ("/proc/none/page.html", "/proc/none/page.html cannot be written: "),
    ],
)
def test_html(shell: Shell, crowded: Path, path: str, said: str) -> None:
    assert said in refused(shell, crowded, "view", "taken.sqlite", "--html", path)


# Data.

IMAGES = (b"\0\0\x08\x03" + struct.pack(">3I", 20, 4, 4), bytes(range(240)) + bytes(80))
LABELS = (b"\0\0\x08\x01" + struct.pack(">I", 20), bytes(i % 10 for i in range(20)))


def data_folder(folder: Path) -> dict[str, Path]:
    """Four small files that are as they should be."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    paths = {name.split("-idx")[0]: folder / f"{name}-ubyte" for name in names}
    for name, path in paths.items():
        path.write_bytes(b"".join(IMAGES if "images" in name else LABELS))
    return paths


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "train-images",
            None,
            "has no train-images-idx3-ubyte.gz; give the folder of Fashion-MNIST's",
        ),
        ("t10k-labels", None, "has no t10k-labels-idx1-ubyte.gz"),
        ("train-images", b"", "is not an IDX file of unsigned bytes"),
        ("train-labels", b"\0\0\x08", "is not an IDX file of unsigned bytes"),
        ("train-images", b"\x89PNG" * 99, "is not an IDX file of unsigned bytes"),
        ("train-images", b"\0\0\x0d\x03" + bytes(400), "is not an IDX file of unsigned bytes"),
        ("train-images", IMAGES[0] + IMAGES[1][:-1], "holds 319 bytes where its header says 320"),
        ("t10k-labels", LABELS[0] + LABELS[1] + b"x", "holds 21 bytes where its header says 20"),
        (
            "t10k-labels",
            b"\0\0\x08\x01" + struct.pack(">I", 19) + bytes(19),
            "holds 20 images but 19 labels",
        ),
        ("train-labels", b"".join(IMAGES), "holds labels of shape (20, 4, 4); need (N,)"),
        (
            "t10k-images",
            b"\0\0\x08\x03" + struct.pack(">3I", 20, 2, 4) + bytes(160),
            "4 × 4",
        ),
    ],
)
def test_damaged_data(
    shell: Shell, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    paths = data_folder(tmp_path)
    if content is None:
        paths[name].unlink()
    else:
        paths[name].write_bytes(content)
    args = ("demo", "--dataset=fashion-mnist", "--data-dir=.", "--out=run", "--port=0", "--steps=1")
    assert said in refused(shell, tmp_path, *args)


def test_no_images_at_all(shell: Shell, tmp_path: Path) -> None:
    for name, path in data_folder(tmp_path).items():
        shape = (0, 4, 4) if "images" in name else (0,)
        path.write_bytes(b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape))
    args = ("demo", "--dataset=fashion-mnist", "--data-dir=.", "--out=run", "--port=0", "--steps=1")
    assert "no images" in refused(shell, tmp_path, *args)


def test_zipped_data_cut_short(shell: Shell, tmp_path: Path) -> None:
    path = data_folder(tmp_path)["train-images"]
    whole = gzip.compress(path.read_bytes())
    path.unlink()
    args = ("demo", "--dataset=fashion-mnist", "--data-dir=.", "--out=run", "--port=0", "--steps=1")
    for content in (whole[:-20], whole[:5], b"no gzip", whole[:30] + b"\xff" * 40 + whole[70:]):
        Path(f"{path}.gz").write_bytes(content)
        assert "train-images-idx3-ubyte.gz cannot be read: " in refused(shell, tmp_path, *args)
    Path(f"{path}.gz").write_bytes(whole)
    shell(*args, folder=tmp_path).ok()
