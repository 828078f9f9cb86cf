"""Every fault of the set is found, with layer and fix, and nothing is found in what is healthy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gammabeta.doctor import RULES
from gammabeta.lab.bench.doctor_set import Script, scripts
from gammabeta.lab.bench.doctor_tools import ours

SET = Path(__file__).parents[2] / "benchmarks"

FAULTS = scripts(SET / "faults", faults=True)
HEALTHY = scripts(SET / "healthy", faults=False)

TOLD_ANYWAY = {"gb111_head_left_out", "gb113_low_precision_buffers"}
"""Scripts of one process, of which the doctor says, as information, that there are no others."""


@pytest.mark.parametrize("script", FAULTS, ids=lambda script: script.name)
def test_a_fault_is_found(script: Script) -> None:
    seen = ours(script, faulty=True)
    hits = seen.of(script.code)
    assert hits, f"{script.code} was not found, but: {[each.text for each in seen.complaints]}"
    layers = [each.layers for each in hits]
    assert any(script.layer in each for each in layers), layers
    assert any(script.fix in each.fix for each in hits), [each.fix for each in hits]
    for each in seen.complaints:
        ast.parse(each.fix.replace("…", "..."))  # a person can paste it
    extra = [each.text for each in seen.alarms if each.code != script.code]
    assert (extra, seen.notes) == ([], [])
    assert seen.passes <= 20


@pytest.mark.parametrize("script", FAULTS, ids=lambda script: script.name)
def test_its_healthy_twin_is_healthy(script: Script) -> None:
    seen = ours(script, faulty=False)
    assert ([each.text for each in seen.alarms], seen.notes) == ([], [])
    assert not seen.of(script.code) or script.name in TOLD_ANYWAY


@pytest.mark.parametrize("script", HEALTHY, ids=lambda script: script.name)
def test_a_healthy_net_is_healthy(script: Script) -> None:
    seen = ours(script, faulty=False)
    assert ([each.text for each in seen.alarms], seen.notes) == ([], [])
    assert 0 < seen.passes <= 20


def test_the_set_has_faults_of_every_rule() -> None:
    codes = [rule.code for rule in RULES if rule.code.startswith("GB")]
    found = {script.code for script in FAULTS}
    assert sorted(set(codes) - found) == []
    assert sorted(found - set(codes)) == []
    assert len(FAULTS) >= 60


@pytest.mark.parametrize("script", FAULTS, ids=lambda script: script.name)
def test_a_fault_is_named_after_its_code(script: Script) -> None:
    assert re.fullmatch(script.code.lower() + r"_[a-z0-9_]+", script.name)
    assert (script.module.__doc__ or "").strip()
    assert script.fix
