"""Checkpoints: whole or not at all, and nobody else's."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gammabeta.atomic_files import tidy
from gammabeta.lab.train import checkpoint
from gammabeta.lab.train.checkpoint import CheckpointError, path_of, read, write
from tests.lab.train.small import same

STATE: dict[str, Any] = {
    "plan": {"steps": 3},
    "recipe": {"name": "small"},
    "data": {"classes": ["a", "b"]},
    "step": 7,
    "best": [0.5, 5],
    "diverged": None,
    "model": {"weight": torch.arange(40.0).reshape(5, 8), "count": torch.tensor(3)},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(5, 8)}}},
    "ranks": [{"random": {"torch": torch.get_rng_state()}}],
}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = path_of(tmp_path, 7)
    write(path, STATE)
    held = read(path)
    assert same({name: held[name] for name in STATE}, STATE)
    assert same(torch.load(path, weights_only=True)["model"], STATE["model"])
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007.pt"]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = path_of(tmp_path, 7)
    write(path, STATE)
    whole = path.read_bytes()
    draw = random.Random(0)
    for place in (*draw.sample(range(len(whole)), 400), *range(len(whole) - 110, len(whole))):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="does not end in its checksum"):
            read(path)


def test_damage_that_torch_would_read_as_garbage(tmp_path: Path) -> None:
    """A tensor whose entry in the archive's directory says that it is a folder is not read."""
    path = path_of(tmp_path, 7)
    write(path, STATE)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        assert archive.comment.startswith(b"gammabeta sha256 ")
        entry = next(e for e in archive.infolist() if e.filename.endswith("data/0"))
    place = raw.rindex(entry.filename.encode()) - 8  # external attributes, in its directory
    raw[place] |= 0x10
    path.write_bytes(raw)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.getinfo(entry.filename).external_attr == 0x10
    with pytest.raises(CheckpointError, match="checksum"):
        read(path)


def test_torch_alone_would_not_have_noticed(tmp_path: Path) -> None:
    """Why `read` looks at the checksums: torch's reader does not."""
    path = path_of(tmp_path, 7)
    write(path, STATE)
    raw = path.read_bytes()
    place = raw.index(np.arange(40, dtype=np.float32).tobytes()) + 19
    path.write_bytes(raw[:place] + b"\x7f" + raw[place + 1 :])
    assert not same(torch.load(path, weights_only=True)["model"], STATE["model"])
    with pytest.raises(CheckpointError, match="checksum"):
        read(path)


def test_cut_short_at_any_length(tmp_path: Path) -> None:
    path = path_of(tmp_path, 7)
    write(path, STATE)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"no other good one"):
            read(path)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def torch_file(held: Any) -> bytes:
    file = io.BytesIO()
    torch.save(held, file)
    return file.getvalue()


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "hello")
    return file.getvalue()


def sealed(held: Any) -> bytes:
    """Whole, as far as the checksum goes."""
    file = io.BytesIO(torch_file(held))
    checkpoint._seal(file)
    return file.getvalue()


FOREIGN = {
    "text": b"weights\n",
    "zip": zip_file(),
    "pickle": pickle.dumps({"step": 1}),
    "numpy": pickle.dumps(np.ones(3)),
    "state_dict": torch_file({"weight": torch.ones(2)}),
    "tensor": torch_file(torch.ones(2)),
    "evil": torch_file(Evil()),
    "sealed pickle": sealed(Evil()),
    "sealed state_dict": sealed({"weight": torch.ones(2)}),
    "newer": sealed({**STATE, "format": checkpoint.FORMAT, "version": 99}),
    "tensor for a format": sealed({**STATE, "format": torch.ones(2)}),
    "tensor for a version": sealed(
        {**STATE, "format": checkpoint.FORMAT, "version": torch.ones(2)}
    ),
    "partial": sealed({"format": checkpoint.FORMAT, "version": checkpoint.VERSION}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_and_the_last_good_one_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(path_of(tmp_path, 7), STATE)
    write(path_of(tmp_path, 8), STATE)
    path_of(tmp_path, 9).write_bytes(FOREIGN[kind])
    path_of(tmp_path, 8).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"last good one is .*step-00000007\.pt$") as e:
        read(path_of(tmp_path, 9))
    assert "\n" not in str(e.value)
    assert str(path_of(tmp_path, 9)) in str(e.value)
    assert not Path("evil").exists()


def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path_of(tmp_path, 7), STATE)
    before = path_of(tmp_path, 7).read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for step in (7, 8):
        with pytest.raises(CheckpointError, match=r"No space left.*last good one is .*0007\.pt"):
            write(path_of(tmp_path, step), {**STATE, "step": step + 1})
    assert path_of(tmp_path, 7).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007.pt"]


def test_a_file_that_the_system_cuts_short(tmp_path: Path) -> None:
    """A limit on the size of files: a real write that fails half way."""
    write(path_of(tmp_path, 7), STATE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"too large.*last good one is .*0007\.pt"):
            write(path_of(tmp_path, 8), STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007.pt"]


def test_the_newest_the_pruned_and_what_was_half_written(tmp_path: Path) -> None:
    for step in (9, 10, 100, 8):
        write(path_of(tmp_path, step), STATE)
    write(tmp_path / checkpoint.BEST, STATE)
    (tmp_path / ".step-00000200.pt.1234abcd.writing").write_bytes(b"half")
    (tmp_path / "step-x.pt").write_bytes(b"no number")
    assert checkpoint.newest(tmp_path) == path_of(tmp_path, 100)
    checkpoint.prune(path_of(tmp_path, 100), 2)
    tidy(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.pt",
        "step-00000010.pt",
        "step-00000100.pt",
        "step-x.pt",
    ]


def test_a_run_resumed_from_an_earlier_checkpoint_keeps_what_it_writes(tmp_path: Path) -> None:
    """Later checkpoints, which may be the damaged ones, are not newer."""
    for step in (20, 30, 40, 60):
        write(path_of(tmp_path, step), STATE)
    write(path_of(tmp_path, 26), STATE)
    checkpoint.prune(path_of(tmp_path, 26), 1)
    assert [p.name for p in checkpoint.steps(tmp_path)] == [
        f"step-000000{step}.pt" for step in (60, 40, 30, 26)
    ]


def test_no_folder_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder of a run"):
        checkpoint.newest(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        checkpoint.newest(tmp_path)
