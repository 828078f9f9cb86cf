"""The file of a record: opened for reading, checked, and its rows as Python values."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from gammabeta.signal import guarded
from gammabeta.signal.paths import RecordError, file_path
from gammabeta.signal.tables import APPLICATION_ID, FORMAT_VERSION


class RecordFile:
    """The SQLite file of a run, open for reading; the base of `gammabeta.Run`.

    Args:
        path: path of the file; a leading ``~`` is expanded to the home folder.

    Raises:
        RecordError: the file does not exist, or cannot be opened.
        TypeError: ``path`` is not a path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = file_path("path", path)
        if self.path.is_dir():
            raise RecordError(f"{self.path} is a folder; give the .sqlite file of a run")
        if not os.path.exists(self.path):
            raise RecordError(f"{self.path} does not exist; give the .sqlite file of a run")
        if not self.path.is_file():  # opening a FIFO would block
            raise RecordError(f"{self.path} is not a regular file; give the .sqlite file of a run")
        self.version = 0
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            with self.path.open("rb") as file:
                head = file.read(16)
        except OSError as e:
            raise RecordError(f"{self.path} cannot be read: {e.strerror or e}") from e
        if not head:
            raise RecordError(f"{self.path} is empty; the run was stopped before it began")
        if head != b"SQLite format 3\0":
            raise RecordError(f"{self.path} is not a run recorded by gammabeta")
        uri = self.path.absolute().as_uri()
        # Try read-only first. In a folder that is not writable, a record in WAL mode without a -wal
        # file opens only as immutable. That is safe: nobody can write it there.
        for mode in ("mode=ro", "mode=ro&immutable=1"):
            try:
                return self._connect(f"{uri}?{mode}")
            except (sqlite3.Error, UnicodeDecodeError) as e:
                if "unable to open" in str(e) and mode == "mode=ro":
                    continue
                raise self._readable(e) from e
        raise RecordError(f"{self.path} cannot be opened")

    def _connect(self, uri: str) -> sqlite3.Connection:
        """Open the database and read from it, because SQLite looks at the file only then."""
        connection = sqlite3.connect(uri, uri=True, timeout=2, check_same_thread=False)
        try:
            guarded.restrict(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _readable(self, error: Exception) -> RecordError:
        text = str(error)
        if "locked" in text:
            return RecordError(f"{self.path} is locked by another process; close that one first")
        damage = ("malformed", "disk image", "not a database", "UTF-8", "utf-8")
        if any(word in text for word in damage):
            return RecordError(f"{self.path} is damaged or cut short ({text}); use a copy of it")
        return RecordError(f"{self.path} cannot be read: {text}")

    def _check(self) -> None:
        application = self._one("PRAGMA application_id")
        version: int = self._one("PRAGMA user_version")
        if application != APPLICATION_ID:
            raise RecordError(f"{self.path} is an SQLite file, but no run recorded by gammabeta")
        if version > FORMAT_VERSION:
            raise RecordError(
                f"{self.path} has format {version}, newer than the {FORMAT_VERSION} this gammabeta "
                "reads; upgrade gammabeta"
            )
        self.version = version
        # If the last page is cut short, SQLite reads zeros for the rest. If there is a log, the
        # missing part may be in the log.
        log = Path(f"{self.path}-wal")
        try:
            size = self.path.stat().st_size
        except OSError as e:  # deleted since it was opened
            raise RecordError(f"{self.path} cannot be read: {e.strerror or e}") from e
        if size % self._one("PRAGMA page_size") and not log.exists():
            raise RecordError(f"{self.path} is cut short; use a copy of it")

    def _one(self, sql: str) -> Any:
        return self._rows(sql)[0][0]

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        try:
            return guarded.rows(self._connection, self.path, sql, values)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as e:
            raise self._readable(e) from e

    def _table(self, kinds: tuple[Any, ...], sql: str, *values: Any) -> list[Any]:
        rows = self._rows(sql, *values)
        for row in rows:
            if not all(map(isinstance, row, kinds)):
                raise RecordError(f"{self.path} is damaged: it holds a value of the wrong type")
        return rows

    def _ordered(self, kinds: tuple[Any, ...], sql: str, *values: Any) -> list[Any]:
        """Return rows that are selected in the order of their key, the first column."""
        rows = self._table(kinds, sql, *values)
        if not guarded.ascending(rows):
            raise RecordError(f"{self.path} is damaged: its rows are in the wrong order")
        return rows
