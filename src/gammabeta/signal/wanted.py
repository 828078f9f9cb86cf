"""Which rows and stages are to be measured: globs of module names, and names of stages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from gammabeta.names import known
from gammabeta.signal.regions import clean, parents
from gammabeta.signal.stages import STAGES


class Wanted:
    """The rows and stages that are measured.

    Args:
        model: the model whose modules the patterns name.
        modules: globs such as ``"layer3.*"``; a module that matches is measured with everything in
            it. One that begins with ``!`` leaves modules out. None for all.
        stages: names from `gammabeta.signal.stages.STAGES`; None for all.

    Raises:
        ValueError: a pattern matches no module, or a stage is unknown.
        TypeError: an argument is no text or list of texts.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: str | Iterable[str] | None = None,
        stages: str | Iterable[str] | None = None,
    ) -> None:
        names = [clean(path) for path, _ in model.named_modules() if path]
        patterns = _texts("modules", modules)
        for pattern in patterns:
            glob = pattern.removeprefix("!")
            if not any(fnmatchcase(name, glob) for name in names):
                raise ValueError(f"modules={pattern!r} matches no module; {_nearest(glob, names)}")
        self._shown = [p for p in patterns if not p.startswith("!")]
        self._hidden = [p[1:] for p in patterns if p.startswith("!")]
        self._stages = {known("stages", stage, STAGES) for stage in _texts("stages", stages)}
        self._answers: dict[str, bool] = {}

    def __call__(self, name: str, stage: str) -> bool:
        """Return whether ``stage`` of the row ``name`` is measured."""
        if self._stages and stage not in self._stages:
            return False
        if name not in self._answers:
            self._answers[name] = self._shows(name)
        return self._answers[name]

    def _shows(self, name: str) -> bool:
        around = list(parents(name))
        if any(fnmatchcase(each, glob) for each in around for glob in self._hidden):
            return False
        shown = self._shown
        return not shown or any(fnmatchcase(each, glob) for each in around for glob in shown)


def _texts(argument: str, value: Any) -> list[str]:
    """Return one text or several as a list."""
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else list(value) if _is_iterable(value) else [value]
    if not texts or not all(isinstance(each, str) for each in texts):
        raise TypeError(f"{argument}={value!r} must be a text or a list of texts")
    return texts


def _is_iterable(value: Any) -> bool:
    return isinstance(value, Iterable)


def _nearest(glob: str, names: list[str]) -> str:
    near = difflib.get_close_matches(glob, names, n=3, cutoff=0.4) or names[:3]
    if not near:
        return "the model has no modules inside"
    return f"the nearest names are {', '.join(near)}"
