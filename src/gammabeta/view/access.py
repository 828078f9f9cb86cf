"""Who may see the page: this machine's own browser, or whoever has the token.

Without a token the server listens on the loopback address only, and answers only requests whose
``Host`` is a loopback name. A browser of this machine can be made to send requests there by any web
site; but the site cannot read the answers, because they belong to another origin, unless it points
its own name to 127.0.0.1. Then the ``Host`` is that name, and the request is refused.

A proxy on this machine (jupyter-server-proxy, a cluster's portal) passes on its own name as
``Host``, which cannot be told from such a site's. Something that the site does not know has to make
the difference: with ``--host 127.0.0.1``, or any other address, a token is required and the
``Host`` may be any. The token is in the address that is printed. It is taken from there once, and
put into a cookie that scripts cannot read (HttpOnly), that other sites' pages do not send
(SameSite), and that has no Path, so that a browser sends it below the folder of the page, whatever
prefix a proxy puts before it. The cookie is named after the token, because cookies do not tell
ports apart.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import urllib.parse
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gammabeta.view.sending import SAFE

LOOPBACK = "127.0.0.1"
_NAMES = (LOOPBACK, "localhost")
_HOST = re.compile(r"([^:]*)(?::\d+)?")
_QUERY = "token"


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(24)


class Gate:
    """ASGI middleware that lets requests pass, or answers them with one line.

    Args:
        app: the application.
        token: the token that is required; None to require a loopback ``Host`` instead.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app = app
        self._token = token
        digest = hashlib.sha256((token or "").encode()).hexdigest()
        self._cookie = f"gammabeta-{digest[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        if self._token is None:
            if _is_loopback(headers.getlist("host")):
                await self.app(scope, receive, send)
            else:
                text = (
                    f"only requests to {LOOPBACK} are answered; behind a proxy, start with --host\n"
                )
                await _refused(400, text)(scope, receive, send)
            return
        query = urllib.parse.parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=100)
        given = [value for name, value in query if name == _QUERY]
        if given:
            if not all(self._fits(each) for each in given):
                text = "this token is wrong; open the address that gammabeta view has printed\n"
                await _refused(403, text)(scope, receive, send)
            elif scope["path"].removeprefix(scope.get("root_path", "")) in ("", "/"):
                # Out of the address, so that it is not copied from there or kept in the history.
                rest = urllib.parse.urlencode([each for each in query if each[0] != _QUERY])
                answer = Response(status_code=303, headers=SAFE)
                answer.headers["Location"] = f"./?{rest}" if rest else "./"
                answer.headers["Set-Cookie"] = self._set_cookie
                await answer(scope, receive, send)
            else:
                await self.app(scope, receive, self._with_cookie(send))
        elif self._has_cookie(headers.getlist("cookie")):
            await self.app(scope, receive, send)
        else:
            text = "a token is required; open the address that gammabeta view has printed\n"
            await _refused(403, text)(scope, receive, send)

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), (self._token or "").encode())

    def _has_cookie(self, given: list[str]) -> bool:
        for each in given:
            try:
                found = SimpleCookie(each).get(self._cookie)
            except CookieError:
                continue
            if found is not None and self._fits(found.value):
                return True
        return False

    @property
    def _set_cookie(self) -> str:
        return f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict"

    def _with_cookie(self, send: Send) -> Send:
        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("Set-Cookie", self._set_cookie)
            await send(message)

        return with_cookie


def _is_loopback(hosts: list[str]) -> bool:
    found = _HOST.fullmatch(hosts[0].strip()) if len(hosts) == 1 else None
    return found is not None and found[1].lower() in _NAMES


def _refused(status: int, text: str) -> Response:
    return PlainTextResponse(text, status, headers=SAFE)
