"""Checkpoints that survive: written at once or not at all, and refused if they are not whole.

A process that is killed leaves the old file or the new one. It is what `torch.save` writes, a zip
archive, so that ``torch.load(path, weights_only=True)`` opens it; the archive's comment is a
checksum of all that is before it. The archive's own checksums are of each tensor and not of its
directory, whose damage can leave a tensor unread.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from gammabeta.atomic_files import write_whole

FORMAT = "gammabeta checkpoint"
VERSION = 2
SUFFIX = ".pt"
BEST = f"best{SUFFIX}"
DIVERGED = f"diverged{SUFFIX}"

_STEP = "step-"
_SEAL = b"gammabeta sha256 "
_SEALED = len(_SEAL) + 64


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**9


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


_NEEDED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "plan": ("a dict", _is_dict),
    "recipe": ("a dict", _is_dict),
    "data": ("a dict", _is_dict),
    "step": ("a number of steps", _is_count),
    "best": (
        "an accuracy and its step",
        lambda v: (
            isinstance(v, list) and len(v) == 2 and isinstance(v[0], float) and _is_count(v[1])
        ),
    ),
    "diverged": ("a step or None", lambda v: v is None or _is_count(v)),
    "model": ("a dict", _is_dict),
    "optimizer": ("a dict", _is_dict),
    "ranks": (
        "a list with a dict for each rank",
        lambda v: isinstance(v, list) and bool(v) and all(map(_is_dict, v)),
    ),
}
"""What a checkpoint has to hold: name → what it must be, and whether it is."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written; the message says why and how to fix it."""


def path_of(folder: Path, step: int) -> Path:
    """Return the name of the checkpoint after ``step`` steps.

    Example:
        >>> path_of(Path("runs/first"), 200).name
        'step-00000200.pt'
    """
    return folder / f"{_STEP}{step:08d}{SUFFIX}"


def steps(folder: Path) -> list[Path]:
    """Return the checkpoints after steps in ``folder``, newest first."""
    named = [
        (int(number), path)
        for path in folder.glob(f"{_STEP}*{SUFFIX}")
        if (number := path.name[len(_STEP) : -len(SUFFIX)]).isdecimal()
    ]
    return [path for _, path in sorted(named, reverse=True)]


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` to ``path``: all of it, or nothing.

    Args:
        path: the file; one that exists is replaced.
        state: tensors, numbers, text, and lists and dicts of them.

    Raises:
        CheckpointError: it could not be written (a full disk, say). What was at ``path`` is there
            as before, and the last good checkpoint of the folder is named.
    """
    held = io.BytesIO()
    # Into memory first: torch's own writer, cut short by a full disk, ends in a riddle.
    torch.save({"format": FORMAT, "version": VERSION, **state}, held)
    _seal(held)
    try:
        write_whole(path, held.getbuffer())
    except OSError as e:
        raise CheckpointError(
            f"{path} could not be written: {e.strerror or e}; {_last_good(path.parent, None)}"
        ) from e


def read(path: Path) -> dict[str, Any]:
    """Read the checkpoint at ``path``, whole or not at all.

    Nothing in the file is run (``weights_only=True``), and every byte that matters is checked.

    Raises:
        CheckpointError: it is missing, damaged, cut short, or somebody else's; the last good one
            of its folder is named.
    """
    try:
        return _read(path)
    except CheckpointError as e:
        raise CheckpointError(f"{e}; {_last_good(path.parent, path)}") from e.__cause__


def newest(folder: Path) -> Path:
    """Return the newest checkpoint of the run in ``folder``.

    Raises:
        CheckpointError: there is none.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder of a run; give one that gammabeta train made")
    found = steps(folder)
    if not found:
        raise CheckpointError(
            f"{folder} has no checkpoint ({_STEP}…{SUFFIX}); the run ended before its first one"
        )
    return found[0]


def last_good(folder: Path, but: Path | None = None) -> Path | None:
    """Return the newest checkpoint in ``folder`` that can be read, ``but`` one; None if none."""
    for path in steps(folder):
        if but is None or path.name != but.name:
            with contextlib.suppress(CheckpointError):
                _read(path)
                return path
    return None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have a `CheckpointError` about what the checkpoint at ``path`` holds name that file."""
    try:
        yield
    except CheckpointError as e:
        raise CheckpointError(f"{path}: {e}") from e


def prune(last: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest checkpoints of steps, of those up to ``last``.

    Later ones are of a time before the run was resumed from an earlier checkpoint, perhaps because
    they are damaged: they are not newer.
    """
    found = steps(last.parent)
    for path in found[found.index(last) + keep :]:
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a FIFO would be waited for
            raise CheckpointError(f"{path} cannot be read: it is not a regular file")
        raw = path.read_bytes()
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read: {e.strerror or e}") from e
    seal = _SEAL + hashlib.sha256(memoryview(raw)[:-_SEALED]).hexdigest().encode()
    if raw[-_SEALED:] != seal:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint of gammabeta: it does not end in its checksum"
        )
    try:
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as e:  # what is no checkpoint raises anything
        raise CheckpointError(f"{path} is no checkpoint of gammabeta's") from e
    if not (isinstance(state, dict) and isinstance(written := state.get("format"), str)):
        raise CheckpointError(f"{path} is no checkpoint of gammabeta's")
    if written != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of gammabeta's")
    version = state.get("version")
    if type(version) is not int or version != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {brief(version)}; this gammabeta reads version "
            f"{VERSION}"
        )
    missing = [name for name in _NEEDED if name not in state]
    if missing:
        raise CheckpointError(f"{path} is not a complete checkpoint: it lacks {', '.join(missing)}")
    for name, (needed, holds) in _NEEDED.items():
        if not holds(state[name]):
            raise CheckpointError(
                f"{path} is not a complete checkpoint: {name}={brief(state[name])} must be {needed}"
            )
    return state


def brief(value: Any) -> str:
    """Return ``value`` as a message can show it: in one line, not too long.

    Example:
        >>> brief("x"), brief(list(range(1000))), brief(float("nan"))
        ("'x'", '[0, 1, 2, 3, 4, 5, ...]', 'nan')
    """
    return " ".join(reprlib.repr(value).split())


def _seal(file: io.BytesIO) -> None:
    """Append the checksum to a zip archive, as its comment; the archive ends in its length."""
    with file.getbuffer() as view:
        view[-2:] = _SEALED.to_bytes(2, "little")
        digest = hashlib.sha256(view).hexdigest()
    file.seek(0, io.SEEK_END)
    file.write(_SEAL + digest.encode())


def _last_good(folder: Path, but: Path | None) -> str:
    good = last_good(folder, but)
    return f"the last good one is {good}" if good is not None else "there is no other good one"
