"""The registry: codes, choices, and the rules of a stranger's installed package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import gammabeta as gb
from gammabeta.doctor import RULES, Rule
from gammabeta.doctor.rule import Registry
from tests.doctor.rules import finds, rule
from tests.forked import run_program

CONTRIBUTING = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")


def made(code: str = "XY101", module: str = "m") -> Rule:
    return Rule(code, "made-up", "a title", "static", finds(), module)


def test_choices() -> None:
    every = [each.code for each in RULES]
    assert every == sorted(every)
    assert [r.code for r in RULES.chosen("GB103")] == ["GB103"]
    assert [r.code for r in RULES.chosen(["gb103", "momentum", "GB301"])] == ["GB103", "GB301"]
    first = [r.code for r in RULES.chosen(["GB1"])]
    assert first == [code for code in every if code.startswith("GB1")]
    assert [r.code for r in RULES.chosen(None, ["GB1"])] == [c for c in every if c not in first]
    assert RULES["GB103"] is RULES["momentum"] is RULES["gb103"]
    for wrong in ("GB9", "", "nothing"):
        with pytest.raises(ValueError, match=f"select='{wrong}' matches no rule; .*--list"):
            RULES.chosen([wrong])
    with pytest.raises(TypeError, match="ignore holds 103, which is no text"):
        RULES.chosen(None, [103])  # type: ignore[list-item]


def test_codes() -> None:
    registry = Registry()
    for code in ("xy101", "XY1", "101", "XY1011", "ABCDEF101", "X101"):
        with pytest.raises(ValueError, match=f"code='{code}' must be capitals and three digits"):
            registry.add(made(code))
    registry.add(made())
    registry.add(made())  # its module is loaded again
    with pytest.raises(ValueError, match="code='XY101' is that of made-up in m"):
        registry.add(made(module="another"))


def test_a_rule_without_a_docstring_explains_itself_by_its_title() -> None:
    with rule(finds()) as it:
        assert it.page == "Rules that exist for one test."
    assert made(module="math").page.startswith("This module provides access")


# The example of CONTRIBUTING, as a package that somebody has installed.


def block(language: str, holds: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", CONTRIBUTING, re.S)
    (one,) = [each for each in found if holds in each]
    return str(one)


def install(folder: Path, name: str, source: str, entry_points: str) -> None:
    """Put a package and its metadata where ``pip install`` puts them."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    (folder / name / "rules.py").write_text(source)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)


def entry(name: str) -> str:
    return f"[gammabeta.rules]\n{name} = {name}.rules\n"


PROGRAM = """
import sys
sys.path.insert(0, "site")
import torch
from torch import nn
import gammabeta as gb
"""


def test_a_strangers_rule(tmp_path: Path) -> None:
    table = block("toml", "gammabeta.rules")
    assert re.search(r'\[project.entry-points."gammabeta.rules"\]\nacme = "acme.rules"', table)
    install(tmp_path / "site", "acme", block("python", "ACME101"), entry("acme"))
    code = """
model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.95))
report = gb.examine(model)
(found,) = report.findings
assert (found.code, found.layer) == ("ACME101", "1"), report
assert "GB103" in report.checked and report.notes == []
print(report.fix(model)[0], "|", model[1].p)
model[1].p = 0.95
gb.intended("ACME101", model[1])
assert gb.examine(model).findings == []
from gammabeta.cli import main
sys.argv = ["gammabeta", "doctor", "--explain", "ACME101"]
main()
"""
    status, printed = run_program(PROGRAM + code, tmp_path)
    assert status == 0, printed
    assert printed.startswith("ACME101 1.p: 0.95 → 0.5 | 0.5\nACME101 heavy-dropout\n\nA dropout")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def f(:", "SyntaxError"),
        (
            "from gammabeta.doctor import static\n"
            "@static('GB103', 'mine', 'mine')\ndef check(subject): return []",
            "ValueError: code='GB103' is that of momentum in gammabeta",
        ),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_strangers_broken_package_is_a_note(tmp_path: Path, source: str, said: str) -> None:
    install(tmp_path / "site", "broken", source, entry("broken"))
    install(tmp_path / "site", "acme", block("python", "ACME101"), entry("acme"))
    code = """
report = gb.examine(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.95)))
assert [f.code for f in report.findings] == ["ACME101"]
print(report.notes)
"""
    status, printed = run_program(PROGRAM + code, tmp_path)
    assert status == 0, printed
    assert "rules of broken could not be loaded: " in printed
    assert said in printed


def test_watch_names_its_own_argument(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^doctor='GB9' matches no rule"):
        gb.watch(torch.nn.Linear(2, 2), tmp_path / "run", doctor=["GB9"])
