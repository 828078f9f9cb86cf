"""The live page's server, asked over real sockets: what it says, to whom, and what never."""

from __future__ import annotations

import logging
import shutil
import socket
import sqlite3
import time
import urllib.parse
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from gammabeta.signal import Record, Run
from gammabeta.signal.columns import Columns
from gammabeta.signal.record import Measured
from gammabeta.view import Server, page, server, store
from gammabeta.view.runs import Runs
from tests.signal.recorded import fill, summary
from tests.view.heard import events, listen
from tests.view.shown import as_heights, column, counts, told


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
    assert answer.json() == told(recorded)
    assert len(answer.json()["frames"]["step"]) == 80


def matrix(answer: httpx.Response, kind: str, *more: int) -> NDArray[Any]:
    """Two numbers, and what follows them."""
    assert (answer.status_code, answer.headers["content-type"]) == (
        *(200, "application/octet-stream"),
    )
    assert int(answer.headers["content-length"]) == len(answer.content)
    rows, probes = np.frombuffer(answer.content[:8], "<u4").tolist()
    return np.frombuffer(answer.content[8:], kind).reshape(rows, probes, *more)


@pytest.mark.parametrize("field", ["mean", "count", "rms", "saturated"])
@pytest.mark.parametrize("start", [0, 79, 80, 1000])
def test_a_column(site: str, recorded: Path, field: str, start: int) -> None:
    given = matrix(httpx.get(f"{site}column/{field}.bin?from={start}"), "<f4")
    expected = column(recorded, field)[start:]
    np.testing.assert_allclose(given, expected, rtol=1e-6)  # float32
    whole = matrix(httpx.get(f"{site}column/{field}.bin"), "<f4")
    np.testing.assert_array_equal(whole[start:], given)


def test_shapes(site: str, recorded: Path) -> None:
    answer = httpx.get(f"{site}shapes.bin?frames=3,5-7&probes=0,2-4,15")
    given = matrix(answer, "u1", 256).astype(int)
    assert given.shape == (4, 5, 256)
    expected = as_heights(counts(recorded)[np.ix_([3, 5, 6, 7], [0, 2, 3, 4, 15])]).astype(int)
    np.testing.assert_allclose(given, expected, atol=1)  # half a step may be rounded either way


def test_channels(tmp_path: Path) -> None:
    values = np.array([0.5, np.nan, 1 / 3], dtype=np.float32)
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        probe = record.probe(arm, 1, "bn", "gamma", None)
        columns = Columns.of({probe: summary(1)})
        record.write(arm, 5, {}, lambda: Measured(columns, {probe: values}, {}))
    with Server(record.path, 0) as running:
        answer = httpx.get(f"{running.url}channels.json?probe=0&step=7")
        assert answer.json() == {"values": [0.5, None, 0.3333333]}
        assert httpx.get(f"{running.url}channels.json?probe=0&step=4").json() == {"values": None}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("column/mean.bin?from=x", "from='x' must be a whole number, at least 0"),
        ("column/mean.bin?from=-1", "from='-1' must be a whole number, at least 0"),
        ("shapes.bin?frames=80&probes=0", "frames='80' must be below 80"),
        ("shapes.bin?frames=0&probes=3-16", "probes='3-16' must be below 16"),
        ("shapes.bin?frames=3-1&probes=0", "frames='3-1' must be numbers and ranges, such as 0,4"),
        ("shapes.bin?frames=1,,2&probes=0", "frames='1,,2' must be numbers and ranges, such as 0"),
        ("shapes.bin?frames=1-2-3&probes=0", "frames='1-2-3' must be numbers and ranges"),
        ("shapes.bin?frames=0-99999999999&probes=0", "frames='0-99999999999' must be below 80"),
        (f"shapes.bin?frames={'0-79,' * 300}0&probes=0", "are more than 20000 numbers"),
        (f"shapes.bin?frames={'0-79,' * 20}0&probes=0-15", "1601 frames × 16 probes are more than"),
        ("channels.json?probe=16&step=1", "probe=16 must be below 16"),
        ("channels.json?probe=0", "step='' must be a whole number, at least 0"),
        ("channels.json?probe=²&step=1", "probe='²' must be a whole number, at least 0"),
    ],
)
def test_a_bad_question(site: str, path: str, said: str) -> None:
    answer = httpx.get(site + path)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("path", ["run.json", "column/mean.bin", "shapes.bin?frames=1&probes=2"])
def test_what_has_not_changed_is_not_sent_again(site: str, path: str) -> None:
    first = httpx.get(site + path)
    tag = first.headers["etag"]
    for header in (tag, f'W/{tag}, "other"', f'"other", {tag}'):
        again = httpx.get(site + path, headers={"If-None-Match": header})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert httpx.get(site + path, headers={"If-None-Match": '"other"'}).content == first.content


def test_what_has_changed_is_sent_again(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record, Server(record.path, 0) as running:
        fill(record, 1)
        record.flush()
        url = f"{running.url}column/mean.bin"
        first = httpx.get(url)
        record.write(0, 9, {}, {0: summary(9)})
        record.flush()
        time.sleep(0.2)  # what is known is fresh for a tenth of a second
        again = httpx.get(url, headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 200
        assert again.headers["etag"] != first.headers["etag"]
        assert len(again.content) > len(first.content)


def test_the_run_to_keep(site: str, recorded: Path) -> None:
    answer = httpx.get(f"{site}run.html")
    assert answer.text == page.exported_page(Runs([recorded]).now())
    assert answer.headers["content-disposition"] == 'attachment; filename="run.html"'
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


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
    [
        *("", "run.json", "run.html", "static/main.js", "static/no.js", "events", "events?after=x"),
        *(
            "column/mean.bin",
            "column/no.bin",
            "shapes.bin?frames=0&probes=0",
            "shapes.bin?frames=x",
        ),
    ],
)
def test_every_answer_is_taken_as_said_and_not_kept_unasked(site: str, path: str) -> None:
    headers = httpx.get(site + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == ("private, no-cache" if "etag" in headers else "no-store")
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
        *("/column/", "/column/mean", "/column/mean.csv", "/column/histogram.bin", "/column/.bin"),
        *("/column/__class__.bin", "/column/../run.json", "/column/mean.bin/x"),
        "file:///etc/passwd",
    ],
)
def test_nothing_outside_the_run_is_served(site: str, target: str) -> None:
    answer = raw(
        site, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(answer) == 404
    assert b"location" not in head
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


# A record that goes away, or is damaged.


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
        time.sleep(0.2)  # what is known is fresh for a tenth of a second
        for name in ("run.json", "run.html", "column/mean.bin", "shapes.bin?frames=0&probes=0"):
            answer = httpx.get(running.url + name)
            assert answer.status_code == 503
            assert said in answer.json()["error"]
        (trouble,) = listen(running.url)
        assert trouble.kind == "trouble"
        assert said in trouble.data
        assert httpx.get(running.url).status_code == 200  # the server lives
        shutil.copy(recorded, path)
        assert httpx.get(f"{running.url}run.json").status_code == 200  # and can be helped


@pytest.mark.parametrize("path", ["column/mean.bin", "shapes.bin?frames=0-79&probes=0-15"])
def test_a_frame_that_is_damaged_is_told_in_one_line(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Also if it comes late in an answer: the reason cannot be sent after its beginning."""
    monkeypatch.setattr(store, "_BLOCK", 640)
    damaged = tmp_path / "run.sqlite"
    shutil.copy(recorded, damaged)
    connection = sqlite3.connect(damaged)
    with connection:
        connection.execute("UPDATE frame SET crc = crc + 1 WHERE id = 78")
    connection.close()
    with Server(damaged, 0) as running:
        answer = httpx.get(running.url + path)
        assert answer.status_code == 503
        assert answer.json() == {
            "error": f"{damaged} is damaged: the numbers of step 39 were changed"
        }
        assert httpx.get(f"{running.url}shapes.bin?frames=0-9&probes=0").status_code == 200


def test_a_record_lost_while_a_page_listens(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    fill(record, 1)
    record.flush()
    with (
        Server(record.path, 0) as running,
        httpx.stream("GET", f"{running.url}events", timeout=20) as response,
    ):
        heard = events(response)
        assert len(next(heard).data["frames"]["step"]) == 2
        record.path.unlink()
        (trouble,) = heard
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
                heard = events(response)
                next(heard)
                began = time.monotonic()
                running.stop()
                assert time.monotonic() - began < 3
                assert list(heard) == []  # no false end: the run goes on, a browser asks again
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
            heard = events(response)
            next(heard)
            began = time.monotonic()
            running.drain(seconds=0.3)  # one stays too long
            assert 0.3 <= time.monotonic() - began < 2
            record.close()
            running.drain(seconds=10)
            assert [e.data for e in heard] == ["finished"]
            assert time.monotonic() - began < 5


@pytest.mark.parametrize("port", ["8501", 80.5, b"1"])
def test_a_port_that_is_no_number(port: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^port=.* must be a whole number between 0 and 65535$"):
        Server(tmp_path / "run.sqlite", port)  # type: ignore[arg-type]
