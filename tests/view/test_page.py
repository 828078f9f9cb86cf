"""The exported page: one file that needs nothing, and in which every name is text."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import gammabeta.view
from gammabeta import atomic_files as whole
from gammabeta.signal import Record, RecordError, Run
from gammabeta.view import export, page
from tests.signal.recorded import fill, summary
from tests.view.shown import told

STATIC = Path(gammabeta.view.__file__).parent / "static"
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, not an address: nothing is loaded from it


class Elements(HTMLParser):
    """Every element of a document with its attributes and its text, as a browser finds them."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self._open = False
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def tags(self) -> list[str]:
        return [tag for tag, _, _ in self.found]

    def texts(self, tag: str, **wanted: str) -> list[str]:
        return [
            text
            for found, attributes, text in self.found
            if found == tag and wanted.items() <= attributes.items()
        ]


def packed_run(elements: Elements) -> Any:
    """What is said of the runs inside a page."""
    (text,) = elements.texts("script", id="run")
    container = base64.b64decode(text, validate=True)
    (length,) = struct.unpack_from("<I", container, 8)
    index = json.loads(zlib.decompress(container[12 : 12 + length]))
    del index["packed"]
    return index


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    with Record(tmp_path / "run", "A title", {"lr": 0.1}) as record:
        fill(record, 3)
    return record.path


def exported(path: Path, to: Path) -> Elements:
    with Run(path) as run:
        assert export(run, to) == to
    return Elements(to.read_text("utf-8"))


def test_the_page_holds_the_run(recorded: Path, tmp_path: Path) -> None:
    elements = exported(recorded, tmp_path / "page.html")
    assert packed_run(elements) == told(recorded)
    assert elements.texts("title") == ["A title · gammabeta"]


def test_the_page_of_two_runs(recorded: Path, tmp_path: Path) -> None:
    with Record(tmp_path / "other") as record:
        fill(record, 2)
    with Run(recorded) as one, Run(record.path) as two:
        export([one, two], tmp_path / "page.html")
    elements = Elements((tmp_path / "page.html").read_text("utf-8"))
    shown, expected = packed_run(elements), told(recorded, record.path)
    assert shown.pop("cursor") != expected.pop("cursor")  # of several runs it is each time another
    assert shown == expected
    assert elements.texts("title") == ["run · other · gammabeta"]


def test_the_page_holds_its_modules(recorded: Path, tmp_path: Path) -> None:
    elements = exported(recorded, tmp_path / "page.html")
    (text,) = elements.texts("script", type="importmap")
    modules = json.loads(text)["imports"]
    assert set(modules) == {f"gammabeta/{file.name}" for file in STATIC.glob("*.js")}
    for name, url in modules.items():
        source = base64.b64decode(url.removeprefix("data:text/javascript;base64,"), validate=True)
        assert source == STATIC.joinpath(name.removeprefix("gammabeta/")).read_bytes()
        imported = re.findall(r'\bfrom "([^"]+)"', source.decode())
        assert set(imported) <= set(modules), name
        assert imported or name != "gammabeta/main.js"
    (style,) = elements.texts("style")
    assert style == STATIC.joinpath("style.css").read_text("utf-8")


def test_the_page_refers_to_nothing_outside_itself(recorded: Path, tmp_path: Path) -> None:
    elements = exported(recorded, tmp_path / "page.html")
    for tag, attributes, text in elements.found:
        assert "src" not in attributes, tag
        if "href" in attributes:
            assert str(attributes["href"]).startswith("data:"), tag
        inner = text
        if attributes.get("type") == "importmap":
            sources = json.loads(text)["imports"].values()
            inner = "".join(base64.b64decode(url.split(",")[1]).decode() for url in sources)
        inner = inner.replace(NAMESPACE, "")
        assert not re.search(r"\b(?:https?|wss?|ftp|file):", inner), tag
        if tag == "style":
            assert "@import" not in inner
            assert "url(" not in inner.replace("url(data:", "")
    (policy,) = (
        str(attributes["content"])
        for tag, attributes, _ in elements.found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    # No rule lets a request out: whatever a name might become, it could tell nobody.
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources == {"'none'", "'unsafe-inline'", "data:", "blob:"}


HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "</title><script>alert(1)</script>",
    "<!--<script>",
    "]]>\"'><svg onload=alert(1)>",
    "%%RUN%%",
    "&lt;b&gt; & {{x}} ${y}",
    "\\u003c/script\\u003e\x00\u2028",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup(tmp_path: Path, recorded: Path, name: str) -> None:
    with Record(tmp_path / "hostile", name, {name: name, "note": name}) as record:
        arm = record.arm(name)
        probe = record.probe(arm, 1, name, "z", name)
        record.write(arm, 1, {name: 1.0}, {probe: summary(1)})
    hostile = exported(record.path, tmp_path / "hostile.html")
    harmless = exported(recorded, tmp_path / "harmless.html")
    assert hostile.tags() == harmless.tags()
    assert [text.replace("\ufffd", "\x00") for text in hostile.texts("title")] == [
        f"{name} · gammabeta"
    ]
    run = packed_run(hostile)
    assert run["title"] == run["note"] == name
    assert run["settings"] == {name: name}
    assert run["arms"] == [{"id": 0, "name": name, "run": 0}]
    assert (run["probes"][0]["name"], run["probes"][0]["activation"]) == (name, name)
    assert run["scalars"] == [{"arm": 0, "name": name, "steps": [1], "values": [1.0]}]


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed"])
def test_a_run_that_has_ended_says_how(tmp_path: Path, status: str) -> None:
    record = Record(tmp_path / "run")
    fill(record, 1)
    record.close(status)
    assert packed_run(exported(record.path, tmp_path / "page.html"))["status"] == status


def test_a_run_that_goes_on_becomes_a_snapshot(tmp_path: Path) -> None:
    """The file will never hear of more, so it must not wait for it."""
    with Record(tmp_path / "run") as record:
        fill(record, 2)
        record.flush()
        data = packed_run(exported(record.path, tmp_path / "page.html"))
        assert (data["status"], len(data["frames"]["step"])) == ("snapshot", 4)
        assert told(record.path)["status"] == "running"


# Writing the file.


def scratch_files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"run.sqlite", "page.html", "sub"}


def test_an_existing_file_is_kept(recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("mine")
    with Run(recorded) as run:
        with pytest.raises(RecordError, match=r"page\.html exists; give another path"):
            export(run, path)
        assert path.read_text() == "mine"
        assert export(run, str(path), overwrite=True) == path
    assert packed_run(Elements(path.read_text("utf-8")))["title"] == "A title"
    assert scratch_files(tmp_path) == set()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_folders_are_made_and_others_may_read_if_the_person_lets_them(
    mask: int, mode: int, recorded: Path, tmp_path: Path
) -> None:
    path = tmp_path / "sub" / "deep" / "page.html"
    before = os.umask(mask)
    try:
        exported(recorded, path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("where", ["run.sqlite/page.html", "n" * 300, "/proc/page.html"])
def test_a_path_that_cannot_be_written(
    recorded: Path, tmp_path: Path, where: str, overwrite: bool
) -> None:
    before = recorded.read_bytes()
    with Run(recorded) as run, pytest.raises(RecordError, match=r"cannot be written: [A-Z]"):
        export(run, tmp_path / where, overwrite)
    assert scratch_files(tmp_path) == set()
    assert recorded.read_bytes() == before


def test_a_folder_is_not_replaced(recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with Run(recorded) as run, pytest.raises(RecordError, match="cannot be written: Is a dir"):
        export(run, tmp_path / "sub", overwrite=True)
    assert scratch_files(tmp_path) == set()


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_midway_leaves_the_old_file(
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    error: BaseException,
) -> None:
    path = tmp_path / "page.html"
    path.write_text("mine")

    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(whole.os, call, fail)
    expected = RecordError if isinstance(error, OSError) else KeyboardInterrupt
    with Run(recorded) as run, pytest.raises(expected):
        export(run, path, overwrite=True)
    assert path.read_text() == "mine"
    assert scratch_files(tmp_path) == set()


# The page's own files.


def test_its_own_files_are_served() -> None:
    types = {".js": "text/javascript", ".css": "text/css"}
    names = [file.name for file in STATIC.iterdir() if file.suffix in types]
    assert {"main.js", "style.css"} <= set(names)
    for name in names:
        assert page.asset(name) == (STATIC.joinpath(name).read_bytes(), types[Path(name).suffix])


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "static", "index.html", "page.py", "../page.py", "../server.py"),
        *("/etc/passwd", str(STATIC / "main.js"), "./main.js", "../static/main.js", "main.js/"),
        *("%2e%2e%2fpage.py", "..%2fpage.py", "..\\page.py", "main.js\0", "main.js\0.css"),
        *("MAIN.JS", "nothing.js", "*.js", "main.js?x", "C:main.js", "a" * 5000 + ".js"),
    ],
)
def test_nothing_else_is(name: str) -> None:
    assert page.asset(name) is None


def test_the_live_pages_policy_allows_its_own_scripts_only() -> None:
    document, policy = page.live_page()
    elements = Elements(document)
    (imports,) = elements.texts("script", type="importmap")
    digest = base64.b64encode(hashlib.sha256(imports.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'self' 'sha256-{digest}'"
    assert rules["frame-ancestors"] == "'none'"
    others = [s for t, s, _ in elements.found if t == "script" and s.get("type") != "importmap"]
    assert [s.get("src") for s in others] == ["./static/main.js"]
    assert json.loads(imports) == {"imports": {"gammabeta/": "./static/"}}


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_regular_file_is_not_replaced(kind: str, recorded: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    if kind == "fifo":
        os.mkfifo(page)
    else:
        page.symlink_to("/dev/null")
    with Run(recorded) as run, pytest.raises(RecordError, match="is not a regular file; give anot"):
        export(run, page, overwrite=True)
    assert not page.is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"run": "run.sqlite"}, "run is a str; give a gammabeta.Run(path)"),
        ({"run": None}, "run is a NoneType; give a gammabeta.Run(path)"),
        ({"run": ["run.sqlite"]}, "run holds a str; give gammabeta.Run(path)s"),
        ({"path": 5}, "path is a int; give the path of a file"),
        ({"path": None}, "path is a NoneType; give the path of a file"),
    ],
)
def test_an_argument_of_the_wrong_type(
    arguments: dict[str, Any], said: str, recorded: Path, tmp_path: Path
) -> None:
    with Run(recorded) as run, pytest.raises(TypeError) as caught:
        export(**{"run": run, "path": tmp_path / "page.html", **arguments})
    assert str(caught.value) == said


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run is an empty list; give a gammabeta\.Run\(path\)"):
        export([], tmp_path / "page.html")


def test_an_empty_path(recorded: Path) -> None:
    with Run(recorded) as run, pytest.raises(RecordError, match=r"^path='' names no file"):
        export(run, "")


def test_a_run_that_is_closed(recorded: Path, tmp_path: Path) -> None:
    with Run(recorded) as run:
        pass
    with pytest.raises(RecordError, match="cannot be read: Cannot operate on a closed database"):
        export(run, tmp_path / "page.html")
