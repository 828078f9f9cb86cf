"""What the documents say the doctor prints is what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.forked import run_program

ROOT = Path(__file__).parents[2]
_SHOWN = re.compile(
    r"```python\n((?:(?!```).)*?gb\.examine(?:(?!```).)*?)```\n\n"  # a program
    r"((?:(?!```).)*?prints(?:(?!```).)*?:)\n\n```\n(.*?)```",  # prints: …
    re.S,
)
SHOWN = [
    pytest.param(code, shown, id=f"{page}-{number}")
    for page in ("README.md", "docs/doctor.md")
    for number, (code, _, shown) in enumerate(_SHOWN.findall((ROOT / page).read_text("utf-8")))
]
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


def test_there_are_some() -> None:
    assert len(SHOWN) == 4


@pytest.mark.parametrize(("code", "shown"), SHOWN)
def test_it_prints_what_is_shown(code: str, shown: str, tmp_path: Path) -> None:
    status, printed = run_program(code, tmp_path)
    assert status == 0, printed
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    for mine, theirs in pairs:  # processors round differently, and rules are added
        assert float(mine) == pytest.approx(float(theirs), rel=0.3)
