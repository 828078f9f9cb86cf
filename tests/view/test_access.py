"""The token: who needs it, what a wrong one gets, and that all of it works behind a prefix."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from gammabeta.signal import Record
from gammabeta.view import Server
from gammabeta.view.access import Gate
from tests.signal.recorded import fill

ADDRESSES = [
    *("", "run.json", "run.html", "events", "static/main.js", "column/mean.bin", "nothing"),
    *("shapes.bin?frames=0&probes=0", "channels.json?probe=0&step=1"),
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Record(tmp_path_factory.mktemp("served") / "run", "A title") as record:
        fill(record, 3)
    return record.path


@pytest.fixture(scope="module")
def server(recorded: Path) -> Iterator[Server]:
    with Server(recorded, 0, "127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def site(server: Server) -> str:
    """The address without the token."""
    assert server.token is not None
    assert len(server.token) >= 32
    assert server.url.endswith(f"/?token={server.token}")
    return server.url.split("?")[0]


def with_token(address: str, token: str | None) -> str:
    return f"{address}{'&' if '?' in address else '?'}token={token}"


@pytest.mark.parametrize("address", ADDRESSES)
def test_without_a_token_nothing_is_said(site: str, address: str) -> None:
    answer = httpx.get(site + address)
    assert answer.status_code == 403
    assert answer.text == (
        "a token is required; open the address that gammabeta view has printed\n"
    )
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("wrong", ["", "x", "{token}x", "{short}", "{token}&token=x", "%00", "γ"])
@pytest.mark.parametrize("address", ["", "run.json"])
def test_a_wrong_token(site: str, server: Server, address: str, wrong: str) -> None:
    token = wrong.format(token=server.token, short=str(server.token)[:-1])
    answer = httpx.get(with_token(site + address, token))
    if not wrong:  # an empty value is no value
        assert answer.status_code == 403
        return
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert answer.text == (
        "this token is wrong; open the address that gammabeta view has printed\n"
    )


@pytest.mark.parametrize("address", [a for a in ADDRESSES if a not in ("", "nothing", "events")])
def test_with_the_token(site: str, server: Server, address: str) -> None:
    answer = httpx.get(with_token(site + address, server.token))
    assert answer.status_code == 200
    assert "set-cookie" in answer.headers


def test_the_token_is_taken_from_the_address_into_a_cookie(site: str, server: Server) -> None:
    with httpx.Client() as client:
        first = client.get(f"{site}?token={server.token}&a=b%26c")
        assert (first.status_code, first.headers["location"]) == (303, "./?a=b%26c")
        name, _, rest = first.headers["set-cookie"].partition("=")
        value, *attributes = rest.split("; ")
        assert (value, attributes) == (server.token, ["HttpOnly", "SameSite=Strict"])
        assert re.fullmatch("gammabeta-[0-9a-f]{12}", name)
        assert client.get(site).status_code == 200
        for address in ADDRESSES[:-3]:
            with client.stream("GET", site + address) as answer:
                assert answer.status_code == 200, address
        other = httpx.get(site, headers={"Cookie": f"a=b; {name}={value}; c=d"})
        assert other.status_code == 200


@pytest.mark.parametrize(
    "cookie",
    [
        "{name}=x",
        "{name}=",
        "{other}={token}",
        "{name}={token}x",
        "token={token}",
        "\x7f;;=",
        "{name}",
    ],
)
def test_a_wrong_cookie(site: str, server: Server, cookie: str) -> None:
    given = httpx.get(server.url).headers["set-cookie"].partition("=")[0]
    text = cookie.format(name=given, other="gammabeta-000000000000", token=server.token)
    answer = httpx.get(f"{site}run.json", headers={"Cookie": text})
    assert answer.status_code == 403


def test_the_cookies_of_two_servers_do_not_meet(recorded: Path, server: Server) -> None:
    """Cookies are the same for all ports of a host."""
    with Server(recorded, 0, "127.0.0.1") as other, httpx.Client() as client:
        assert other.token != server.token
        for each in (server, other, server):
            client.get(each.url)
        for each in (server, other):
            assert client.get(each.url.split("?")[0] + "run.json").status_code == 200


@pytest.mark.parametrize("host", ["hub.example.org", "127.0.0.1", "container:8501"])
def test_any_host_is_answered_with_a_token(site: str, server: Server, host: str) -> None:
    """A proxy passes on its own name."""
    url = with_token(f"{site}run.json", server.token)
    assert httpx.get(url, headers={"Host": host}).status_code == 200
    assert httpx.get(f"{site}run.json", headers={"Host": host}).status_code == 403


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(
        "gammabeta.view.access.hmac.compare_digest", lambda *both: bool(seen.append(both))
    )
    gate: Any = Gate(None, "right")  # type: ignore[arg-type]
    assert not gate._fits("right")
    assert seen == [(b"right", b"right")]


# Addresses to listen on.


def test_all_addresses(recorded: Path) -> None:
    with Server(recorded, 0, "0.0.0.0") as server:
        assert server.local_url is not None
        assert server.url.split("/")[2].split(":")[0] == socket.gethostname()
        assert server.local_url.startswith("http://127.0.0.1:")
        with httpx.Client() as client:
            assert client.get(server.local_url, follow_redirects=True).status_code == 200


def test_the_other_kind_of_addresses(recorded: Path) -> None:
    try:
        server = Server(recorded, 0, "::1")
    except ValueError as e:
        pytest.skip(f"no IPv6 here: {e}")
    with server:
        assert server.url.startswith("http://[::1]:")
        assert httpx.get(with_token(server.url.split("?")[0] + "run.json", server.token)).is_success


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no-such-host.invalid", "300.1.1.1", "a b", "x" * 300]
)
def test_an_address_of_another_machine(recorded: Path, host: str) -> None:
    with pytest.raises(
        ValueError, match=r"^host=.* cannot be used: .*; give an address of this mac"
    ) as e:
        Server(recorded, 0, host)
    assert "\n" not in str(e.value)


def test_a_port_in_use_on_an_address(recorded: Path, server: Server) -> None:
    port = int(server.url.split(":")[2].split("/")[0])
    with pytest.raises(ValueError, match=rf"^port={port} cannot be used: .*; give another, or 0"):
        Server(recorded, port, "127.0.0.1")


# Behind a prefix.


class Proxy:
    """What jupyter-server-proxy does, in a few lines: one path of a site is another server.

    The prefix is cut off, the ``Host`` stays that of the site, answers are passed on as they come.
    """

    prefix = "/user/ada/proxy/8501"

    def __init__(self, target: str) -> None:
        self.target = target.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if not path.startswith(f"{self.prefix}/"):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"the site itself"})
            return
        url = self.target + path.removeprefix(self.prefix) + "?" + scope["query_string"].decode()
        async with (
            httpx.AsyncClient(timeout=20) as client,
            client.stream("GET", url, headers=scope["headers"]) as answer,
        ):
            start = {"type": "http.response.start", "status": answer.status_code}
            await send({**start, "headers": answer.headers.raw})
            async for chunk in answer.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def proxied(site: str) -> Iterator[str]:
    """The address of the page behind the proxy, under the proxy's own name."""
    config = uvicorn.Config(Proxy(site), port=0, log_level="error", lifespan="off")
    proxy = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=proxy.run, args=([listening],), daemon=True)
    thread.start()
    while not proxy.started:
        time.sleep(0.01)
    yield f"http://localhost:{listening.getsockname()[1]}{Proxy.prefix}/"
    proxy.should_exit = True
    thread.join(5)


def test_behind_a_prefix(proxied: str, server: Server) -> None:
    with httpx.Client(timeout=20) as client:
        client.headers["Host"] = "hub.example.org"
        assert client.get(proxied).status_code == 403
        first = client.get(f"{proxied}?token={server.token}")
        assert first.status_code == 303
        # As a browser does: the address and the cookie's path are relative to this page.
        page = str(httpx.URL(proxied).join(first.headers["location"]))
        assert page == proxied
        assert "path" not in first.headers["set-cookie"].lower()
        cookie = first.headers["set-cookie"].split(";")[0]
        client.headers["Cookie"] = cookie
        document = client.get(page).text
        linked = re.findall(r'(?:src|href)="([^"]+)"', document)
        assert "./static/main.js" in linked
        for link in linked:
            if not link.startswith("data:"):
                assert link.startswith("./")
                assert client.get(str(httpx.URL(page).join(link))).status_code == 200
        for address in ADDRESSES[1:-3]:
            with client.stream("GET", page + address) as answer:
                assert answer.status_code == 200, address
                if address == "events":
                    assert next(answer.iter_lines()) == "retry: 1000"


def test_no_file_of_the_page_names_an_absolute_path() -> None:
    static = Path(str(__import__("gammabeta.view").view.__file__)).parent / "static"
    for file in sorted(static.glob("*.js")):
        text = file.read_text("utf-8")
        found = re.findall(r"""(?:fetch|EventSource|import)\(\s*[`"'](/[^`"']*)""", text)
        assert found == [], file.name
