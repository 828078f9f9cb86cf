"""``gammabeta bench``: tables, CSV, picture; mistakes in one line; Ctrl-C keeps what there is."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from gammabeta.lab.bench.results import read
from tests.cli.command import Shell, start
from tests.cli.records import tree

ONE = ("--threads", "1")
SET = str(Path(__file__).parents[2] / "benchmarks")


def test_norms_are_measured_printed_written_and_drawn(shell: Shell, tmp_path: Path) -> None:
    out = shell(
        *("bench", "norm", "--shapes", "4x8x6x6,16x4", "--formats", "fp32-nchw", *ONE),
        *("--rivals", "eager,onednn", "--seconds", "0", "--out", "kept/here"),
        folder=tmp_path,
    ).ok()
    assert "1 threads; allocator reuse; torch " in out
    assert re.search(r"^1/2  fp32 NCHW 4×8×6×6  BN × \d", out, re.MULTILINE)
    assert re.search(r"^2/2  fp32 NCHW 16×4  ", out, re.MULTILINE)
    assert re.search(r"^fp32 NCHW: BN, × torch eager +\d.*≥ 3\.50 ×  (met|missed)$", out, re.M)
    assert re.search(r"^worst of all shapes, × onednn .*≥ 1\.00 ×  (met|missed)", out, re.M)
    assert "absent: onednn, BN: torch's oneDNN batch norm takes (N, C, H, W) only" in out
    assert out.endswith("results  kept/here/norm.csv\n")
    rows = read(tmp_path / "kept/here/norm.csv")
    assert {row.shape for row in rows} == {"4x8x6x6", "16x4"}
    assert {row.setting.threads for row in rows} == {1}
    assert {row.rounds for row in rows} == {7, 0}
    assert (tmp_path / "kept/here/roofline.svg").read_text().startswith("<svg ")


def test_the_allocator_is_what_was_asked_for(shell: Shell, tmp_path: Path) -> None:
    out = shell(
        *("bench", "norm", "--shapes", "16x4", "--ops", "bn", "--allocator", "default", *ONE),
        *("--seconds", "0", "--out", "."),
        folder=tmp_path,
    ).ok()
    assert "allocator default" in out
    assert {row.setting.allocator for row in read(tmp_path / "norm.csv")} == {"default"}


def test_a_network_of_ones_own_is_measured(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def one():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())\n"
    )
    args = ("--model", "nets:one", "--batch", "2", "--size", "8", *ONE, "--out", ".")
    out = shell("bench", "step", *args, "--dtype", "fp32", "--seconds", "0", folder=tmp_path).ok()
    assert "nets:one, input 2×3×8×8" in out
    assert re.search(r"^fp32 step: BN\+ReLU ÷ ReLU alone +\d", out, re.MULTILINE)
    out = shell("bench", "memory", *args, folder=tmp_path).ok()
    assert re.search(r"^bf16 peak of activation memory: lean ÷ torch", out, re.MULTILINE)
    kinds = {
        name: {(row.bench, row.case, row.shape) for row in read(tmp_path / f"{name}.csv")}
        for name in ("step", "memory")
    }
    assert kinds == {name: {(name, "nets:one", "2x3x8x8")} for name in ("step", "memory")}


def test_any_network_is_timed_as_it_is(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "class One(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)\n"
        "    def forward(self, x):\n"
        "        y = self.bn(self.conv(x))\n"
        "        return y.relu().mean((2, 3)) if float(y.detach().sum()) < 1e9 else y\n"
    )
    args = ("--batch", "2", "--size", "8", *ONE, "--quick", "--profile", "--out", ".")
    kinds = ("--variants", "torch,converted,bare", "--layout", "nchw")
    out = shell("bench", "net", "nets:One", *args, *kinds, folder=tmp_path).ok()
    assert re.search(r"^1/2  nets:One nchw fp32 training:  converted÷torch \d", out, re.MULTILINE)
    assert re.search(r"^nets:One +2×3×32×32 +nchw +fp32 +evaluation +\d", out, re.MULTILINE)
    assert re.search(r"^nets:One +nchw +fp32 +training +convolutions +\d", out, re.MULTILINE)
    assert re.search(r"^training: converted ÷ torch, worst +\d", out, re.MULTILINE)
    rows = read(tmp_path / "net.csv")
    assert {row.who for row in rows} == {"torch", "converted", "bare"}
    assert {"training", "training ÷ torch", "training ÷ bare", "training: norms"} <= {
        row.what for row in rows
    }


def test_the_zoo_continues_where_it_ended(shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    args = ("bench", "zoo", "transformers:llama", "transformers:resnet", "--out", ".")
    out = shell(*args, "--limit", "1", folder=tmp_path).ok()
    assert re.search(r"^1/1  transformers:llama: same, 5 of 5 norms converted", out, re.MULTILINE)
    out = shell(*args, folder=tmp_path).ok()
    assert "1 of 2 networks are in zoo.csv already" in out
    assert re.search(r"^1/1  transformers:resnet: same, 19 of 19 norms", out, re.MULTILINE)
    assert re.search(r"^same +all checks pass +2$", out, re.MULTILINE)
    assert len((tmp_path / "zoo.csv").read_text().splitlines()) == 3


def test_the_zoo_is_interrupted(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    command = start("bench", "zoo", "--out", ".", folder=tmp_path)
    assert command.stdout is not None
    seen = ""
    while " transformers:" not in seen:
        seen = command.stdout.readline()
        assert seen, "it ended before the first network"
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (130, "")
    assert out.endswith("results  zoo.csv\ninterrupted; the same command continues\n")
    assert len((tmp_path / "zoo.csv").read_text().splitlines()) >= 2


def test_the_doctor_is_scored(shell: Shell, tmp_path: Path) -> None:
    args = ("bench", "doctor", "gb103_k", "lstm", "--scripts", SET, "--out", ".")
    out = shell(*args, "--tools", "gammabeta", folder=tmp_path).ok()
    assert "1/2  gb103_keras_momentum, gammabeta: found\n" in out
    assert "2/2  lstm, gammabeta: healthy\n" in out
    assert re.search(r"^GB103  momentum +1 +1 +1 +1 +0 +0 +– +–$", out, re.MULTILINE)
    assert re.search(
        r"^faults found with the right code +1\.00 +≥ 0\.95  met  \(1 of 1\)$", out, re.M
    )
    assert out.endswith("results  doctor.csv\n")
    shell(*args, "--tools", "gammabeta", folder=tmp_path).ok()
    assert len((tmp_path / "doctor.csv").read_text().splitlines()) == 3


def test_errors_are_measured(shell: Shell, tmp_path: Path) -> None:
    out = shell(
        *("bench", "error", "--shapes", "8x4x3x3", *ONE, "--out", "."), folder=tmp_path
    ).ok()
    assert re.search(r"^fp32 NCHW: worst error ÷ torch's best layout's +\d", out, re.MULTILINE)
    assert "cases with the same bits at 1, 2, 4 threads" in out
    assert {row.bench for row in read(tmp_path / "error.csv")} == {"error"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("norm", "--rivals", "eagre"), "rivals='eagre' is not known; did you mean 'eager'?"),
        (("norm", "--shapes", "resnet"), "shapes='resnet' is not known; did you mean 'resnet-50'?"),
        (("norm", "--shapes", "3x3x3"), "shapes='3x3x3' must be NxC or NxCxHxW"),
        (("norm", "--formats", "fp16"), "formats='fp16' is not known"),
        (("norm", "--ops", ""), "nothing to measure"),
        (("norm", "--allocator", "jemalloc"), "allocator='jemalloc' is not known"),
        (("norm", "--threads", "0"), "threads=0 must be between 1 and 1024"),
        (("norm", "--threads", "two"), "'two' is not a whole number"),
        (("norm", "--seconds", "-1"), "seconds=-1.0 must be between 0 and 3600"),
        (("norm", "--seconds", "nan"), "seconds=nan must be between 0 and 3600"),
        (("norm", "--shapes", "99999999999x99999999x9x9"), "9x9' does not fit into this machine's"),
        (("error", "--shapes", "99999999999x99999999"), "does not fit into this machine's memory"),
        (("norm", "--out", "file"), "out=file cannot be used: File exists"),
        (("norm", "--out", "file/on/the/way"), "out=file/on/the/way cannot be used: Not a dir"),
        (("step", "--batch", "4096", "--size", "4096"), "batch=4096 does not fit into this mach"),
        (("memory", "--model", "x:y", "--batch", "4096", "--size", "4096"), "does not fit into"),
        (("step", "--model", "nets"), "model='nets' must be module:function"),
        (("step", "--model", "nowhere:net"), "cannot import nowhere"),
        (("step", "--model", "math:pi"), "made a float, no torch.nn.Module"),
        (("step", "--variants", "lena"), "variants='lena' is not known; did you mean 'lean'?"),
        (("step", "--batch", "1"), "batch=1 must be between 2 and 4096"),
        (("memory", "--dtype", "fp16"), "dtype='fp16' is not known"),
        (("memory", "--size", "0"), "size=0 must be between 1 and 4096"),
        (("error", "--shapes", "tinny"), "did you mean 'tiny'?"),
        (("net", "resnet50"), "networks='resnet50' must be pytorchcv:NAME, transformers:NAME, mod"),
        (("net", "nowhere:net"), "cannot import nowhere"),
        (("net", "math:e", "transformers:brt"), "transformers='brt' is not known; did you mean"),
        (
            ("net", "small", "--variants", "lena"),
            "variants='lena' is not known; did you mean 'lean'",
        ),
        (("net", "small", "--layout", "nhwc"), "layouts='nhwc' is not known"),
        (("net", "small", "--mode", ""), "modes= is empty; one or more of: training, evaluation"),
        (("net", "small", "--size", "0"), "size=0 must be between 1 and 4096"),
        (("zoo", "resnet50"), "networks='resnet50' must be pytorchcv:NAME or transformers:NAME"),
        (("zoo", "transformers:brt"), "transformers='brt' is not known; did you mean"),
        (("zoo", "transformers:bert", "--jobs", "0"), "jobs=0 must be between 1 and 64"),
        (("doctor",), "scripts=benchmarks has no folder faults; give the folder benchmarks of"),
        (("doctor", "--threads", "0"), "threads=0 must be between 1 and 1024"),
        (("doctor", "gb103", "--scripts", SET, "--tools", "torchtest"), "did you mean"),
        (("doctor", "gb99", "--scripts", SET), "names=gb99 begins the name of no script in"),
        (("doctor", "gb103", "--scripts", SET, "--out", "file"), "out=file cannot be used: "),
        (("speed",), "No such command 'speed'"),
    ],
)
def test_a_mistake_is_one_line(
    shell: Shell, tmp_path: Path, args: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    assert said in shell("bench", *args, folder=tmp_path).refused()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("made", ["torch.empty(10**15)", "[0] * 2**62", "numpy.empty(10**16)"])
def test_memory_that_is_not_there(shell: Shell, tmp_path: Path, made: str) -> None:
    (tmp_path / "nets.py").write_text(f"import numpy, torch\n\ndef net():\n    return {made}\n")
    said = shell("bench", "step", "--model", "nets:net", "--out", ".", folder=tmp_path).refused()
    assert said == "out of memory; try a smaller network, input or mini-batch"


def test_other_errors_are_not_taken_for_it(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("def net():\n    raise RuntimeError('a fault of its own')\n")
    done = shell("bench", "step", "--model", "nets:net", "--out", ".", folder=tmp_path)
    assert done.code == 1
    assert done.err.endswith("RuntimeError: a fault of its own\n")


def test_a_folder_cannot_command_the_terminal(shell: Shell, tmp_path: Path) -> None:
    args = ("--shapes", "16x4", "--ops", "bn", *ONE, "--seconds", "0", "--out", "a\x1b[2J\nb")
    out = shell("bench", "norm", *args, folder=tmp_path).ok()
    assert out.endswith("\n\nresults  a�[2J�b/norm.csv\n")


def test_interrupted_it_keeps_what_was_measured(tmp_path: Path) -> None:
    command = start(
        *("bench", "norm", "--shapes", "16x4,16x8,16x16", "--formats", "fp32-nchw", *ONE),
        *("--ops", "bn", "--seconds", "30", "--out", "."),
        folder=tmp_path,
    )
    assert command.stdout is not None
    seen = ""
    while not seen.startswith("1/3"):
        seen = command.stdout.readline()
        assert seen, "it ended before the first case"
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (130, "")
    assert "interrupted; the finished measurements are kept" in out
    assert "results  norm.csv" in out
    assert {row.shape for row in read(tmp_path / "norm.csv")} < {"16x4", "16x8", "16x16"}
