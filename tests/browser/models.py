"""Records of the size of real models, made from a formula, and the pages that show them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page

from gammabeta.signal.stages import LAYER_STAGES
from gammabeta.view import Server
from tests.view.big_record import places, record

LAYERS = 24
STAGES = (*LAYER_STAGES, "weight", "gamma", "beta", "mean_shift", "var_ratio")


class Models:
    """Makes each record when it is first asked for.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages: list[Page] = []

    def path(self, fault: str = "none", frames: int = 40, seed: int = 0, **rest) -> Path:
        """Return the record of a residual network of `LAYERS` layers."""
        named = "-".join([fault, str(frames), str(seed), *map(str, rest.values())])
        path = self.folder / f"{named.replace('/', '')[:80]}.sqlite"
        if not path.exists():
            rest = {"layers": LAYERS, "stages": STAGES, **rest}
            record(path, frames=frames, fault=fault, seed=seed, every=2, **rest)
        return path

    @contextmanager
    def served(self, *paths: Path) -> Iterator[str]:
        """Serve records side by side and yield their address; close the pages before the server."""
        with Server(list(paths) if len(paths) > 1 else paths[0], 0) as server:
            try:
                yield server.url
            finally:
                while self.pages:
                    self.pages.pop().close()


def faulty() -> str:
    """Return the name of the module in which `record` plants a fault."""
    where = list(places(LAYERS, STAGES))
    return where[len(where) // 2].name
