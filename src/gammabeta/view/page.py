"""Build the page from one template and one set of modules, for the server or as one file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from gammabeta.atomic_files import write_whole
from gammabeta.signal.paths import RecordError, file_path
from gammabeta.signal.run import Run
from gammabeta.view.packing import Check, pack
from gammabeta.view.payload import plain, title
from gammabeta.view.runs import Runs, Shown

_STATIC = resources.files(__package__).joinpath("static")
_TYPES = {".js": "text/javascript", ".css": "text/css"}


def asset(name: str) -> tuple[bytes, str] | None:
    """Return the bytes and the media type of a file of the page; None if there is no such file."""
    suffix = Path(name).suffix
    if suffix not in _TYPES or name not in _names():
        return None
    return _STATIC.joinpath(name).read_bytes(), _TYPES[suffix]


def live_page() -> tuple[str, str]:
    """Return the HTML of the live page and its Content-Security-Policy."""
    imports = json.dumps({"imports": {"gammabeta/": "./static/"}})
    digest = base64.b64encode(hashlib.sha256(imports.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; "
        "connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    # Modules import one another; named here, they are all requested at once. The import map has to
    # come first.
    preloads = "".join(
        f'<link rel="modulepreload" href="./static/{name}">'
        for name in _names()
        if name.endswith(".js")
    )
    page = _fill(
        TITLE="gammabeta",
        POLICY="",
        STYLE='<link rel="stylesheet" href="./static/style.css">',
        ICON=_icon(),  # inline: a browser requests it again at each change of the hash
        IMPORTS=f'<script type="importmap">{imports}</script>{preloads}',
        RUN="",
        MAIN='<script type="module" src="./static/main.js"></script>',
    )
    return page, policy


def exported_page(shown: Shown, check: Check = lambda: None) -> str:
    """Return runs as one HTML document that needs no server and no network.

    An import map contains the modules as data: URLs, so they are the same files that the live page
    loads. The runs are a container (`gammabeta.view.packing`) in base64, so that no name in them
    can become markup.

    Args:
        shown: the runs.
        check: called now and then; it may raise an error to end the work.

    Raises:
        RecordError: a record cannot be read.
    """
    modules = {
        f"gammabeta/{name}": f"data:text/javascript;base64,{_base64(_read(name))}"
        for name in _names()
        if name.endswith(".js")
    }
    data = _base64(pack(shown, check))
    policy = (
        "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return _fill(
        TITLE=html.escape(f"{plain(title(shown.index))} · gammabeta"),
        POLICY=f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        STYLE=f"<style>{_read('style.css').decode()}</style>",
        ICON=_icon(),
        IMPORTS=f'<script type="importmap">{json.dumps({"imports": modules})}</script>',
        RUN=f'<script type="application/octet-stream" id="run">{data}</script>',
        MAIN='<script type="module">import "gammabeta/main.js";</script>',
    )


def export(run: Run | Sequence[Run], path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write ``run`` to ``path`` as one self-contained HTML file.

    Args:
        run: the run, or several that are shown side by side.
        path: path of the file; a leading ``~`` is expanded to the home folder.
        overwrite: whether to replace an existing file. It is replaced completely or not at all.
            Anything but a regular file (a device, a FIFO) is never replaced.

    Returns:
        The path.

    Raises:
        RecordError: the file exists and ``overwrite`` is False, or it cannot be written.
        ValueError: there is no run.
        TypeError: ``run`` is not a `Run`, or ``path`` is not a path.
    """
    runs = [run] if isinstance(run, Run) else run
    if not isinstance(runs, (list, tuple)):
        raise TypeError(f"run is a {type(run).__name__}; give a gammabeta.Run(path)")
    for each in runs:
        if not isinstance(each, Run):
            raise TypeError(f"run holds a {type(each).__name__}; give gammabeta.Run(path)s")
        each.arms()  # one that is closed is an error
    if not runs:
        raise ValueError("run is an empty list; give a gammabeta.Run(path)")
    path = file_path("path", path)
    try:
        if path.exists() and not overwrite:
            raise RecordError(f"{path} exists; give another path, or move it away")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise RecordError(f"{path} is not a regular file; give another path")
        write_whole(path, exported_page(Runs([each.path for each in runs]).now()))
    except OSError as e:
        raise RecordError(f"{path} cannot be written: {e.strerror or e}") from e
    return path


def _fill(**parts: str) -> str:
    """Insert ``parts`` into the template in one pass, so that no part is searched for marks."""
    pieces = _read("index.html").decode().split("%%")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _names() -> list[str]:
    return sorted(entry.name for entry in _STATIC.iterdir() if entry.is_file())


def _read(name: str) -> bytes:
    return _STATIC.joinpath(name).read_bytes()


def _icon() -> str:
    return f"data:image/svg+xml;base64,{_base64(_read('icon.svg'))}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
