"""Create the file of a record, or open one to continue it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gammabeta.signal import axis, schema
from gammabeta.signal.paths import RecordError, RecordExistsError
from gammabeta.signal.run import Run
from gammabeta.signal.tables import APPLICATION_ID, FINDINGS, FORMAT_VERSION, TABLES


@dataclass
class Start:
    """How a record begins.

    Attributes:
        meta: what is written to the ``meta`` table.
        new: whether the file was created.
        keep: last step to keep of a file that is continued; None for all.
        arms: name → id.
        probes: (arm, layer, stage) → id.
        rows: (arm, name) → layer.
        steps: arm → last recorded step.
        frames: id of the last frame.
    """

    meta: dict[str, Any]
    new: bool = True
    keep: int | None = None
    arms: dict[str, int] = field(default_factory=dict)
    probes: dict[tuple[int, int, str], int] = field(default_factory=dict)
    rows: dict[tuple[int, str], int] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    frames: int = 0

    def write(self, connection: sqlite3.Connection) -> None:
        """Create the tables, or delete what is not kept, and write the description."""
        if self.new:
            connection.executescript(
                f"BEGIN; PRAGMA application_id={APPLICATION_ID};"
                f"PRAGMA user_version={FORMAT_VERSION};{TABLES}"
            )
        else:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(FINDINGS)
            if self.keep is not None:
                connection.execute(
                    "DELETE FROM channel WHERE frame IN (SELECT id FROM frame WHERE step > ?)",
                    (self.keep,),
                )
                for table in ("frame", "scalar", "mark", "finding"):
                    connection.execute(f"DELETE FROM {table} WHERE step > ?", (self.keep,))
        for key, value in self.meta.items():
            connection.execute(*set_meta(key, value))
        connection.execute("COMMIT")

    def undo(self, path: Path) -> None:
        """Delete the file if it was created for nothing."""
        if self.new:
            _delete(path)


def prepare(
    path: Path,
    title: str,
    settings: Mapping[str, Any] | None,
    resume: bool | int,
    overwrite: bool,
) -> Start:
    """Check the arguments of a `Record`; create the file, or read what it holds."""
    if not isinstance(title, str):
        raise TypeError(f"title is a {type(title).__name__}; give text")
    if not isinstance(settings, (Mapping, type(None))):
        raise TypeError(f"settings is a {type(settings).__name__}; give a dict")
    if not isinstance(resume, int):
        raise TypeError(f"resume={resume!r} must be True, False, or the last step to keep")
    if not isinstance(overwrite, bool):
        raise TypeError(f"overwrite={overwrite!r} must be True or False")
    if resume is not False and resume < 0:
        raise ValueError(f"resume={resume} must be True, or the last step to keep, at least 0")
    if resume is not False and overwrite:
        raise ValueError("resume and overwrite exclude each other; give one of them")
    try:
        json.dumps(dict(settings or {}))
    except (TypeError, ValueError, RecursionError) as e:
        raise TypeError(
            f"settings cannot be stored as JSON: {e}; give text, numbers, lists and dicts"
        ) from e
    meta = _process()
    if resume is not False and path.exists():
        return _continued(path, meta, resume)
    if overwrite and path.is_file():
        _check_unused(path)
        _delete(path)
    _create(path)
    return Start(
        {
            "created": meta["started"],
            "title": title,
            "settings": dict(settings or {}),
            "axis": {"limit": axis.LIMIT, "linear": axis.LINEAR, "bins": axis.BINS},
            "fields": [asdict(each) for each in schema.FIELDS],
            "torch": torch.__version__,
            **meta,
        }
    )


def set_meta(key: str, value: Any) -> tuple[str, Sequence[Any]]:
    """Return the SQL that sets an entry of ``meta``, and its values."""
    return "INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, json.dumps(value))


def _process() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"started": now, "status": "running", "pid": os.getpid(), "host": platform.node()}


def _create(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Exclusive creation: two runs that start at the same time cannot share a file.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError as e:
        if path.is_dir():
            raise RecordError(f"{path} is a folder; give the path of a file") from e
        if path.exists():
            raise RecordExistsError(
                f"{path} exists; pass resume=True to continue it, overwrite=True to replace it, "
                "or another path (nothing was overwritten)"
            ) from e
        raise RecordError(f"{path} cannot be created: a folder on its way is a file") from e
    except OSError as e:
        raise RecordError(f"{path} cannot be created: {e.strerror or e}") from e


def _continued(path: Path, meta: dict[str, Any], resume: bool | int) -> Start:
    """Return the start of a record that continues the file at ``path``."""
    keep = None if resume is True else int(resume)
    with Run(path) as run:
        _refuse_running(run)
        if run.version != FORMAT_VERSION or run.fields != schema.FIELDS:
            raise RecordError(
                f"{path} was written by another version of gammabeta and cannot be continued; "
                "give another path"
            )
        frames = run.index()
        steps: dict[int, int] = {}
        points = [(each.arm, each.step) for each in frames]
        points += [(each.arm, each.step) for each in run.scalars()]
        for arm, step in points:
            if keep is None or step <= keep:
                steps[arm] = max(step, steps.get(arm, 0))
        meta["starts"] = [*_starts(run), {"started": meta["started"], "after": steps}]
        return Start(
            meta,
            new=False,
            keep=keep,
            arms={name: id_ for id_, name in run.arms().items()},
            probes={(p.arm, p.layer, p.stage): p.id for p in run.probes()},
            rows={(p.arm, p.name): p.layer for p in run.probes()},
            steps=steps,
            frames=max((each.id for each in frames), default=0),
        )


def _starts(run: Run) -> list[Any]:
    starts = run.meta.get("starts", [])
    return starts if isinstance(starts, list) else []


def _check_unused(path: Path) -> None:
    """Raise an error if ``path`` is no record, or another process is writing it."""
    try:
        run = Run(path)  # what a young record is may still be in its log
    except RecordError as e:  # damaged, or a stranger's
        with path.open("rb") as file:
            head = file.read(72)
        if head and int.from_bytes(head[68:], "big") != APPLICATION_ID:
            raise RecordError(f"{path} is no run recorded by gammabeta; give another path") from e
        return
    with run:
        _refuse_running(run)


def _refuse_running(run: Run) -> None:
    here = run.meta.get("host") == platform.node()
    # Whether a process on another machine still exists is not known here.
    if run.status() == "running" and (here or _seconds_unchanged(run.path) < _LONG):
        raise RecordError(
            f"{run.path} is being written by process {run.meta.get('pid')} on "
            f"{run.meta.get('host')}; give another path, or end that process first"
        )


_LONG = 60.0
"""Seconds without a change after which a run on another machine is taken to have ended."""


def _seconds_unchanged(path: Path) -> float:
    files = [each for each in (path, Path(f"{path}-wal")) if each.exists()]
    return time.time() - max(each.stat().st_mtime for each in files)


def _delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
