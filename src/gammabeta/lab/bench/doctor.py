"""The doctor's benchmark: faults with their healthy twins, healthy nets, other tools, and speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gammabeta.lab.bench import doctor_nets
from gammabeta.lab.bench.doctor_case import (
    FAULT,
    HEALTHY,
    NETWORK,
    SPEED,
    Case,
    failed,
    fill,
    judge,
)
from gammabeta.lab.bench.doctor_limit import limited
from gammabeta.lab.bench.doctor_rivals import RIVALS, version
from gammabeta.lab.bench.doctor_set import Script, scripts
from gammabeta.lab.bench.doctor_speed import NAME, measure_speed
from gammabeta.lab.bench.doctor_tools import OURS, ours
from gammabeta.lab.bench.rivals import Absent
from gammabeta.names import known

TOOLS = (OURS, *RIVALS)
"""Who looks at the scripts; at networks of other libraries, only the doctor does."""

SET = Path("benchmarks")
"""Folder of the set, in a checkout."""

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        folder: with the folders ``faults`` and ``healthy``.
        names: beginnings of the names of scripts and networks; None for all.
        tools: of `TOOLS`.
    """

    folder: Path = SET
    names: Sequence[str] | None = None
    tools: Sequence[str] = field(default=TOOLS)

    @property
    def complete(self) -> bool:
        """Whether nothing is left out."""
        return self.names is None and set(self.tools) == set(TOOLS)

    def cases(self) -> dict[Key, Callable[[], Case]]:
        """Return what is run, by the key of its row.

        Raises:
            ValueError: a tool is not known, or no script and no network has such a name.
        """
        found: dict[Key, Callable[[], Case]] = {}
        for tool in self.tools:
            known("tools", tool, TOOLS)
        for kind, folder in ((FAULT, "faults"), (HEALTHY, "healthy")):
            for script in scripts(self.folder / folder, faults=kind == FAULT, names=self.names):
                for tool in self.tools:
                    found[kind, script.name, tool] = partial(_of_script, script, tool)
        if OURS in self.tools:
            for name in filter(self._is_wanted, doctor_nets.NETWORKS):
                found[NETWORK, name, OURS] = partial(_of_network, name)
            if self._is_wanted(NAME):
                found[SPEED, NAME, OURS] = measure_speed
        if not found:
            raise ValueError(
                f"names={' '.join(self.names or ())} begins the name of no script in "
                f"{self.folder} and of no network, such as gb103 or pytorchcv:resnet"
            )
        return found

    def _is_wanted(self, name: str) -> bool:
        return self.names is None or name.startswith(tuple(self.names))


def measure(cases: dict[Key, Callable[[], Case]]) -> Iterator[Case]:
    """Yield one case after the other, as they are done."""
    for case in cases.values():
        yield case()


def _of_script(script: Script, tool: str) -> Case:
    """Have a tool look at a script."""
    look = ours if tool == OURS else limited(RIVALS[tool])
    try:
        case = judge(script, tool, look)
    except Exception as error:  # a script that does not run here is a row, too
        case = failed(_empty(script, tool), error)
    if tool != OURS:
        case.made = f"{tool} {version(tool) or 'not installed'}"
    return case


def _empty(script: Script, tool: str) -> Case:
    return Case(FAULT if script.fault else HEALTHY, script.name, tool, script.code)


def _of_network(name: str) -> Case:
    """Have the doctor look at a network of another library."""
    case = Case(NETWORK, name, OURS, doctor_nets.REAL.get(name, ""))
    try:
        seen = doctor_nets.examined(name)
    except (Absent, RuntimeError, ValueError) as error:
        return failed(case, error)
    case.found = bool(case.code and seen.of(case.code))
    fill(case, [seen], [], [each for each in seen.alarms if each.code != case.code])
    return case
