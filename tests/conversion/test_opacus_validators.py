"""Opacus, in whichever order it is imported, refuses gammabeta's batch norms as it does torch's.

Opacus itself is not needed: it looks validators up by exact class in two dicts, as here.
"""

import importlib
import subprocess
import sys

import pytest
from torch import nn

import gammabeta as gb
from gammabeta.conversion.opacus_validators import watch_for_opacus

OPACUS = """
from torch import nn


class ModuleValidator:
    VALIDATORS, FIXERS = {}, {}

    @classmethod
    def validate(cls, model):
        found = [(type(m), m) for m in model.modules()]
        return [error for kind, m in found for error in cls.VALIDATORS.get(kind, list_of)(m)]


def list_of(module):
    return []


def fix(module, **options):
    return nn.GroupNorm(2, module.num_features)


BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
for kind in BATCH:
    ModuleValidator.VALIDATORS[kind] = lambda module: ["batch norm"]
    ModuleValidator.FIXERS[kind] = fix
for kind in INSTANCE:
    ModuleValidator.VALIDATORS[kind] = (
        lambda module: ["tracks"] if module.track_running_stats else []
    )
    ModuleValidator.FIXERS[kind] = lambda module, **options: module
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs an Opacus of which the text of ``validators`` is given, not imported yet."""

    def install(text):
        package = tmp_path / "opacus" / "validators"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").touch()
        (package / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not ours(f)])
        for name in ("opacus", "opacus.validators"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    def ours(finder):
        return type(finder).__module__.startswith("gammabeta")

    yield install
    for name in ("opacus", "opacus.validators"):
        sys.modules.pop(name, None)


def imported(first):
    """``opacus.validators``, imported before gammabeta looks for it, or after."""
    if first == "gammabeta":
        watch_for_opacus()
    validators = importlib.import_module("opacus.validators")
    if first == "opacus":
        watch_for_opacus()
    return validators


@pytest.mark.parametrize("first", ["opacus", "gammabeta"])
def test_what_opacus_refuses_of_torchs_it_refuses_of_ours(installed, first):
    installed(OPACUS)
    validator = imported(first).ModuleValidator
    for module in (
        *(gb.BatchNorm1d(4), gb.BatchNorm2d(4), gb.BatchNorm3d(4), gb.GhostBatchNorm2d(4)),
        *(gb.BatchRenorm1d(4), gb.MaskedBatchNorm1d(4)),
        gb.InstanceNorm2d(4, track_running_stats=True),
        gb.BatchNorm2d(4, track_running_stats=False),
        gb.RecurrentBatchNormLSTM(2, 4, max_length=3),
    ):
        assert validator.validate(module), module
    for module in (
        *(gb.InstanceNorm2d(4, affine=True), gb.GroupNorm(2, 4), gb.LayerNorm(4), gb.RMSNorm(4)),
        *(gb.FrozenBatchNorm2d(4), gb.FilterResponseNorm2d(4), nn.Linear(2, 2)),
    ):
        assert not validator.validate(module), module


def test_what_opacus_makes_of_ours_keeps_the_activation(installed):
    installed(OPACUS)
    fixers = imported("gammabeta").ModuleValidator.FIXERS
    new = fixers[gb.BatchNorm2d](gb.BatchNorm2d(4, activation="relu"))
    assert type(new) is gb.GroupNorm
    assert new.activation == "relu"
    kept = gb.InstanceNorm2d(4, affine=True)
    assert fixers[gb.InstanceNorm2d](kept) is kept


@pytest.mark.parametrize("first", ["opacus", "gammabeta"])
def test_another_opacus_is_imported_all_the_same(installed, first):
    installed("class ModuleValidator:\n    pass\n")
    with pytest.warns(UserWarning, match=r"could not be registered with Opacus \(AttributeError"):
        imported(first)


def test_importing_gammabeta_looks_for_opacus_and_does_not_import_it():
    code = (
        "import sys, gammabeta; assert 'opacus' not in sys.modules; "
        "homes = [type(finder).__module__ for finder in sys.meta_path]; "
        "assert 'gammabeta.conversion.when_imported' in homes"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
