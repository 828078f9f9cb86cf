"""The live page's server, asked over real sockets: what it says, to whom, and what never."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gammabeta.signal import Record, Run
from gammabeta.view import Server, page, server
from gammabeta.view.payload import snapshot
from tests.signal.recorded import fill


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with something beside it that is nobody's business."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.js").write_text("secret")
    with Record(folder / "run", "A title") as record:
        fill(record, 40)
    return record.path


@pytest.fixture(scope="module")
def site(recorded: Path) -> Iterator[str]:
    with Server(recorded, 0) as running:
        yield running.url


def address(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)


def raw(url: str, request: bytes) -> bytes:
    """Send bytes that no client would, and return the whole answer."""
    with socket.create_connection(address(url), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# What is served.


def test_the_page(site: str) -> None:
    answer = httpx.get(site)
    document, policy = page.live_page()
    assert (answer.status_code, answer.text) == (200, document)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == policy
    assert "default-src 'none'" in policy


def test_the_run(site: str, recorded: Path) -> None:
    answer = httpx.get(f"{site}run.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    with Run(recorded) as run:
        assert answer.json() == json.loads(json.dumps(snapshot(run)))
    assert len(answer.json()["frames"]) == 80


def test_the_run_to_keep(site: str, recorded: Path) -> None:
    answer = httpx.get(f"{site}run.html")
    with Run(recorded) as run:
        assert answer.text == page.exported_page(run)
    assert answer.headers["content-disposition"] == 'attachment; filename="run.html"'


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("v1.5 - a b", "v1.5---a-b"),
        ('a"; filename="evil.exe', "a---filename--evil.exe"),
        ("a\r\nX-Evil: 1", "a--X-Evil--1"),
        ("γ", "?"),
    ],
)
def test_its_name_is_harmless(recorded: Path, tmp_path: Path, stem: str, name: str) -> None:
    path = tmp_path / f"{stem}.sqlite"
    shutil.copy(recorded, path)
    with Server(path, 0) as running:
        answer = httpx.get(f"{running.url}run.html")
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}.html"'
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    ("name", "type_"), [("main.js", "text/javascript"), ("style.css", "text/css")]
)
def test_the_pages_files(site: str, name: str, type_: str) -> None:
    answer = httpx.get(f"{site}static/{name}")
    assert answer.content == (page.asset(name) or (b"", ""))[0]
    assert answer.headers["content-type"] == f"{type_}; charset=utf-8"


@pytest.mark.parametrize(
    "path",
    ["", "run.json", "run.html", "static/main.js", "static/no.js", "events", "events?after=x"],
)
def test_every_answer_is_taken_as_said_and_not_kept(site: str, path: str) -> None:
    headers = httpx.get(site + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


# What is not.


@pytest.mark.parametrize(
    "target",
    [
        *("/run.sqlite", "/secret.js", "/static/secret.js", "/static/", "/static", "/static/."),
        *("/static/index.html", "/static/page.py", "/static/../page.py", "/../secret.js"),
        *("/static/%2e%2e/page.py", "/static/..%2fpage.py", "/static/%2e%2e%2fserver.py"),
        *("/static/..%5cpage.py", "/static//etc/passwd", "//etc/passwd", "/static/%2fetc%2fpasswd"),
        *("/static/main.js%00", "/static/main.js%00.css", "/static/....//page.py", "/docs"),
        *("/openapi.json", "/favicon.ico", "/run.json/", "/events/1", "/.", "/%2e%2e/"),
        "file:///etc/passwd",
    ],
)
def test_nothing_outside_the_run_is_served(site: str, target: str) -> None:
    answer = raw(
        site, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    if status_of(answer) == 307:  # a slash too many: the way to the run itself
        assert b"location: http://localhost/run.json" in head
        return
    assert status_of(answer) == 404
    assert body.lower() in (b"not found", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["", "run.json", "events", "static/main.js"])
def test_it_can_only_be_read(site: str, method: str, path: str) -> None:
    assert httpx.request(method, site + path, content="x").status_code == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8501", 200),
        ("localhost", 200),
        ("localhost:1", 200),
        ("LocalHost", 200),
        ("evil.example", 400),
        ("evil.example:8501", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost.evil.example", 400),
        ("evil-localhost", 400),
        ("evil.example@127.0.0.1", 400),
        ("127.0.0.1@evil.example", 400),
        ("127.0.0.1, evil.example", 400),
        ("127.0.0.2", 400),
        ("0.0.0.0", 400),
        ("[::1]", 400),  # it does not listen there
        ("*", 400),
        ("", 400),
        (None, 400),
    ],
)
@pytest.mark.parametrize("path", ["/", "/run.json", "/run.html", "/static/main.js", "/events"])
def test_only_a_loopback_host_is_answered(
    site: str, host: str | None, status: int, path: str
) -> None:
    named = "" if host is None else f"Host: {host}\r\n"
    version = "1.0" if host is None else "1.1"
    answer = raw(site, f"GET {path} HTTP/{version}\r\n{named}Connection: close\r\n\r\n".encode())
    assert status_of(answer) == status
    if status != 200:
        assert b"A title" not in answer
        assert b"frames" not in answer


def test_two_hosts_are_none(site: str) -> None:
    request = (
        b"GET / HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert status_of(raw(site, request)) == 400


def test_it_listens_on_the_loopback_address_only(site: str) -> None:
    host, port = address(site)
    assert host == "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks which address would be used
            own = probe.getsockname()[0]
        except OSError:
            own = "127.0.0.2"  # no network: on Linux, another address of this machine
    for elsewhere in {own, "127.0.0.2"} - {host}:
        with pytest.raises(OSError), socket.create_connection((elsewhere, port), timeout=2):  # noqa: PT011
            pass


# Events.


@dataclass
class Event:
    """One server-sent event."""

    kind: str
    id: str
    data: Any


def events(response: httpx.Response) -> Iterator[Event]:
    """Read a stream as the standard says: fields by line, an event at each empty line."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if not line:
            if "data" in fields:
                data = json.loads(fields["data"])
                yield Event(fields.get("event", "message"), fields.get("id", ""), data)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


def listen(url: str, after: str = "0:0", last: str | None = None) -> list[Event]:
    """Every event until the stream ends."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with httpx.stream("GET", f"{url}events?after={after}", headers=headers, timeout=30) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return list(events(response))


def joined(heard: list[Event]) -> dict[str, list[Any]]:
    """All rows of a stream's messages."""
    messages = [event.data for event in heard if event.kind == "message"]
    return {key: [row for m in messages for row in m[key]] for key in ("frames", "scalars")}


def rows(path: Path) -> dict[str, Any]:
    with Run(path) as run:
        data = json.loads(json.dumps(snapshot(run)))
    return {key: data[key] for key in ("frames", "scalars")}


def test_a_finished_run_is_told_and_ended(site: str, recorded: Path) -> None:
    heard = listen(site)
    assert joined(heard) == rows(recorded)
    assert [e.kind for e in heard] == ["message", "message", "end"]  # 80 frames, 64 a message
    assert heard[-1].data == "finished"


def test_one_who_has_it_all_hears_only_the_end(site: str, recorded: Path) -> None:
    with Run(recorded) as run:
        cursor = snapshot(run)["cursor"]
    heard = listen(site, f"{cursor['frame']}:{cursor['scalar']}")
    assert [(e.kind, e.data) for e in heard] == [("end", "finished")]


@pytest.mark.parametrize("way", ["after", "last-event-id"])
def test_one_who_comes_back_hears_exactly_the_rest(site: str, recorded: Path, way: str) -> None:
    first = listen(site)[0]
    # A browser repeats the address it began with, and names the last event it had.
    rest = listen(site, first.id) if way == "after" else listen(site, "0:0", last=first.id)
    assert 0 < len(first.data["frames"]) < len(rows(recorded)["frames"])
    assert joined([first, *rest]) == rows(recorded)
    cursor = first.data["cursor"]
    assert first.id == f"{cursor['frame']}:{cursor['scalar']}"


@pytest.mark.parametrize(
    "after",
    [
        "x",
        "1",
        "1:2:3",
        ":",
        "1:",
        "1.5:0",
        "nan:0",
        "1:-1",
        "-1:0",
        f"{2**63}:0",
        f"0:{10**30}",
    ],
)
@pytest.mark.parametrize("way", ["after", "last-event-id"])
def test_a_bad_cursor(site: str, after: str, way: str) -> None:
    query, headers = (after, {}) if way == "after" else ("0:0", {"Last-Event-ID": after})
    answer = httpx.get(f"{site}events", params={"after": query}, headers=headers)
    assert answer.status_code == 400
    assert answer.json() == {"error": f"after={after!r} is not a cursor, such as 0:0"}


def test_a_run_is_heard_as_it_is_recorded(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record, Server(record.path, 0) as running:
        fill(record, 1)
        record.flush()
        known = httpx.get(f"{running.url}run.json").json()
        assert known["status"] == "running"
        after = f"{known['cursor']['frame']}:{known['cursor']['scalar']}"
        heard: list[Event] = []
        with httpx.stream("GET", f"{running.url}events?after={after}", timeout=20) as response:
            stream = events(response)
            for step in range(2, 6):
                arm = record.arm(f"arm of step {step}")
                record.write(arm, step, {"loss": step / 7}, {})
                record.flush()
                heard.append(next(stream))  # before anything else is recorded
                assert heard[-1].data["frames"] == [{"arm": arm, "step": step, "signals": []}]
                assert heard[-1].data["arms"][-1]["name"] == f"arm of step {step}"
            record.close("interrupted")
            heard.extend(stream)
        assert [e.kind for e in heard] == ["message"] * 4 + ["end"]
        assert heard[-1].data == "interrupted"
        everything = {k: known[k] + joined(heard)[k] for k in ("frames", "scalars")}
        assert everything == rows(record.path)


def test_it_answers_a_page_while_others_listen(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record, Server(record.path, 0) as running:
        fill(record, 1)
        record.flush()
        with (
            httpx.stream("GET", f"{running.url}events", timeout=20) as one,
            httpx.stream("GET", f"{running.url}events", timeout=20) as two,
        ):
            first, second = events(one), events(two)
            assert next(first).data == next(second).data
            assert httpx.get(f"{running.url}run.json").status_code == 200
            record.close()
            assert [e.data for e in first] == [e.data for e in second] == ["finished"]


# A record that goes away.


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"x" * 5000), "is not a run"),
        (lambda path: path.write_bytes(path.read_bytes()[:20_000]), "damaged or cut short"),
    ],
)
def test_a_record_lost_while_it_is_served(
    recorded: Path, tmp_path: Path, harm: Any, said: str
) -> None:
    path = tmp_path / "run.sqlite"
    shutil.copy(recorded, path)
    with Server(path, 0) as running:
        assert httpx.get(f"{running.url}run.json").status_code == 200
        harm(path)
        for name in ("run.json", "run.html"):
            answer = httpx.get(running.url + name)
            assert answer.status_code == 503
            assert said in answer.json()["error"]
        (trouble,) = listen(running.url)
        assert trouble.kind == "trouble"
        assert said in trouble.data
        assert httpx.get(running.url).status_code == 200  # the server lives
        shutil.copy(recorded, path)
        assert httpx.get(f"{running.url}run.json").status_code == 200  # and can be helped


def test_a_record_lost_while_a_page_listens(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    fill(record, 1)
    record.flush()
    with (
        Server(record.path, 0) as running,
        httpx.stream("GET", f"{running.url}events", timeout=20) as response,
    ):
        stream = events(response)
        assert len(next(stream).data["frames"]) == 2
        record.path.unlink()
        (trouble,) = stream
        assert trouble.kind == "trouble"
        # Gone, or caught in the midst of going: in either case it is the file that is named.
        assert trouble.data.startswith(str(record.path))
    record.close()


def test_a_record_lost_while_it_is_opened(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.sqlite"
    shutil.copy(recorded, path)
    ask = Run._one

    def lose(run: Run, sql: str) -> Any:
        path.unlink(missing_ok=True)
        return ask(run, sql)

    with Server(path, 0) as running:
        monkeypatch.setattr(Run, "_one", lose)
        answer = httpx.get(f"{running.url}run.json")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
    assert answer.json()["error"].startswith(str(path))


# Ports, and the end.


def taken() -> socket.socket:
    """A port that somebody listens on."""
    occupied = socket.socket()
    occupied.bind(("127.0.0.1", 0))
    occupied.listen()
    return occupied


def test_a_port_in_use_is_refused(recorded: Path) -> None:
    with taken() as occupied:
        port = occupied.getsockname()[1]
        with pytest.raises(ValueError, match=rf"^port={port} cannot be used: .*give another, or 0"):
            Server(recorded, port)


def test_the_default_port_in_use_is_replaced(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.DEFAULT_PORT == 8501
    with taken() as occupied:
        port = occupied.getsockname()[1]
        monkeypatch.setattr(server, "DEFAULT_PORT", port)
        with Server(recorded) as running:
            assert address(running.url)[1] not in (0, port)
            assert httpx.get(running.url).status_code == 200
    with Server(recorded) as running:  # free again: the default it is
        assert address(running.url)[1] == port


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_out_of_range(recorded: Path, port: int) -> None:
    with pytest.raises(ValueError, match=rf"^port={port} must be between 0 and 65535"):
        Server(recorded, port)


def test_stopping_frees_the_port(recorded: Path) -> None:
    running = Server(recorded, 0).start()
    port = address(running.url)[1]
    with httpx.Client() as client:  # keeps its connection open
        assert client.get(running.url).status_code == 200
        running.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    with Server(recorded, port) as again:
        assert httpx.get(again.url).status_code == 200
    running.stop()  # twice is no error


def test_one_that_never_started_frees_its_port(recorded: Path) -> None:
    idle = Server(recorded, 0)
    idle.stop()
    with Server(recorded, address(idle.url)[1]):
        pass


def test_stopping_sends_listeners_away_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Record(tmp_path / "run") as record:
        fill(record, 1)
        record.flush()
        with caplog.at_level(logging.WARNING):
            running = Server(record.path, 0).start()
            with httpx.stream("GET", f"{running.url}events", timeout=20) as response:
                stream = events(response)
                next(stream)
                began = time.monotonic()
                running.stop()
                assert time.monotonic() - began < 3
                assert list(stream) == []  # no false end: the run goes on, a browser asks again
        assert caplog.messages == []


def test_waiting_for_those_who_listen(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    fill(record, 1)
    record.flush()
    with Server(record.path, 0) as running:
        began = time.monotonic()
        running.drain(seconds=10)  # nobody is there
        assert time.monotonic() - began < 1
        running.drain(seconds=10, first=0.3)  # nobody comes
        assert 0.3 <= time.monotonic() - began < 2
        with httpx.stream("GET", f"{running.url}events", timeout=20) as response:
            stream = events(response)
            next(stream)
            began = time.monotonic()
            running.drain(seconds=0.3)  # one stays too long
            assert 0.3 <= time.monotonic() - began < 2
            record.close()
            running.drain(seconds=10)
            assert [e.data for e in stream] == ["finished"]
            assert time.monotonic() - began < 5


@pytest.mark.parametrize("port", ["8501", 80.5, b"1"])
def test_a_port_that_is_no_number(port: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^port=.* must be a whole number between 0 and 65535$"):
        Server(tmp_path / "run.sqlite", port)  # type: ignore[arg-type]
