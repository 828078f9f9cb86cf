"""Every rule is one file that documents it, and docs/rules is what the script makes of these."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest

from gammabeta.doctor import RULES, Rule

ROOT = Path(__file__).parents[2]
FILES = ROOT / "src/gammabeta/doctor/rules"
OWN = [rule for rule in RULES if rule.module.startswith("gammabeta.")]


def test_the_pages_are_what_the_script_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    made = importlib.import_module("make_rules").pages()
    written = {path.name: path.read_text("utf-8") for path in (ROOT / "docs/rules").glob("*.md")}
    assert sorted(written) == sorted(made), "run python scripts/make_rules.py"
    for name, text in made.items():
        assert written[name] == text, f"{name}: run python scripts/make_rules.py"


def test_a_file_is_a_rule() -> None:
    named = {path.stem for path in FILES.glob("gb*.py")}
    rules = {f"{rule.code.lower()}_{rule.name.replace('-', '_')}" for rule in OWN}
    assert named == rules
    assert {rule.module.rpartition(".")[2] for rule in OWN} == rules
    assert len({rule.name for rule in OWN}) == len(OWN)


@pytest.mark.parametrize("rule", OWN, ids=lambda rule: rule.code)
def test_a_page_has_all_its_parts(rule: Rule) -> None:
    parts = re.findall(r"^## (.*)", rule.page, re.M)
    wanted = ["What it is", "Why it matters", "How it is detected", "Fix", "Source"]
    assert [part for part in parts if part in wanted] == wanted
    head = rule.page.partition("\n\n")[0]
    assert head.endswith(".")
    assert len(rule.title) <= 90
    fix = rule.page.partition("## Fix")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", fix, re.S)
    assert blocks
    for block in blocks:
        ast.parse(textwrap.dedent(block))
    assert "/work" not in rule.page
