"""The view: a run's record as a page, live or as one file."""

from gammabeta.view.page import export
from gammabeta.view.server import Server

__all__ = ["Server", "export"]
