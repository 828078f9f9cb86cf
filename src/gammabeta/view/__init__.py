"""Show the record of a run as a page: live, or as one HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gammabeta.view.page import export

if TYPE_CHECKING:
    from gammabeta.view.server import Server

__all__ = ["Server", "export"]


def __getattr__(name: str) -> Any:
    """Import the server on first use, because it imports Starlette and Uvicorn."""
    if name == "Server":
        from gammabeta.view.server import Server

        return Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
