"""``gammabeta doctor``: exit codes, forms of the report, fixes, and one line for bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.cli.command import Shell

NETS = """
import torch
from torch import nn

print("a print of the module")

def healthy():
    print("a print of the factory")
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )

def keras():
    model = healthy()
    model[1].momentum = 0.99
    return model

def still():
    model = healthy()
    model[1].momentum = 0
    return model

def half():
    return healthy().bfloat16()

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.BatchNorm1d(4))

model = healthy()
number = 3
def needs(width, *, depth, height=1): pass
def raises(): raise RuntimeError("no such\\nthing")
def leaves(): raise SystemExit(3)
def wrong(): return {"a": 1}
def meta():
    with torch.device("meta"): return healthy()

def loader(): return [(torch.randn(16, 4), torch.randint(0, 3, (16,))) for _ in range(4)]
def stream(): yield from loader()
once = iter(loader())
def wide(): return [(torch.randn(16, 5), torch.zeros(16).long())]
def empty(): return []
def fails():
    yield torch.randn(4, 4)
    raise KeyError("label")
def each(y, t): return nn.functional.cross_entropy(y, t, reduction="none")
def unary(y): return y.sum()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").touch()
    (tmp_path / "pkg/deep.py").write_text("from nets import *\nimport nothing_like_it\n")
    (tmp_path / "pkg/fine.py").write_text("from nets import *")
    (tmp_path / "syntax.py").write_text("def f(:")
    (tmp_path / "script.py").write_text("import sys\nsys.exit('usage: script')")
    return tmp_path


class Doctor:
    def __init__(self, shell: Shell, folder: Path) -> None:
        self.shell, self.folder = shell, folder

    def __call__(self, *args: object, code: int = 0) -> str:
        result = self.shell("doctor", *args, folder=self.folder)
        assert result.code == code, result
        assert "Traceback" not in result.err
        assert max([len(line) for line in result.out.splitlines()], default=0) <= 80 or (
            result.out.startswith("{")
        )
        return result.out

    def refused(self, *args: object) -> str:
        result = self.shell("doctor", *args, folder=self.folder)
        lines = [line for line in result.err.splitlines() if not line.startswith("a print of")]
        assert (result.code, result.out, len(lines)) == (2, "", 1), result
        assert lines[0].startswith("gammabeta: ")
        assert len(lines[0]) < 1100
        return lines[0].removeprefix("gammabeta: ")


@pytest.fixture
def doctor(shell: Shell, folder: Path) -> Doctor:
    return Doctor(shell, folder)


def test_exit_codes_and_what_is_printed(doctor: Doctor) -> None:
    for name in ("nets:healthy", "nets:model", "nets:Net", "pkg.fine:Net"):
        assert re.fullmatch(r"\w+: healthy \(1 norm, \d+ rules\)\n", doctor(name))
    said = doctor("nets:keras")  # a warning
    assert said.startswith("Sequential: 1 warning (1 norm, ")
    assert "\n\nwarning GB103 momentum: 1\n    Momentum is the share" in said
    assert "error GB103" in doctor("nets:still", code=1)
    assert "healthy" in doctor("nets:still", "--ignore=GB103")
    assert "healthy (1 norm, 1 rule)" in doctor("nets:still", "--select=GB102")
    assert "(1 norm, 2 rules)" in doctor("nets:still", "--select=GB102, momentum", code=1)


def test_batches_and_a_loss(doctor: Doctor) -> None:
    for batches in ("nets:loader", "nets:stream", "nets:once"):
        said = doctor("nets:healthy", "--batches", batches)
        assert re.search(r"\d+ forward passes", said)
    for loss in ("torch.nn.functional:cross_entropy", "torch.nn:CrossEntropyLoss"):
        doctor("nets:healthy", "--batches=nets:loader", "--loss", loss)


def test_json_is_alone_on_stdout_and_of_the_schema(doctor: Doctor) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from tests.doctor.test_report import SCHEMA

    for name, code in (("healthy", 0), ("keras", 0), ("still", 1)):
        report = json.loads(doctor(f"nets:{name}", "--json", code=code))
        jsonschema.validate(report, SCHEMA)
        assert [f["code"] for f in report["findings"]] == ["GB103"] * (name != "healthy")


def test_sarif_names_the_factory(doctor: Doctor) -> None:
    for name in ("nets", "pkg.fine"):  # the latter imports it
        (run,) = json.loads(doctor(f"{name}:still", "--sarif", code=1))["runs"]
        (result,) = run["results"]
        (place,) = result["locations"]
        line = NETS.splitlines().index("def still():") + 1
        assert place["physicalLocation"] == {
            "artifactLocation": {"uri": "nets.py"},
            "region": {"startLine": line},
        }
        assert place["logicalLocations"][0]["fullyQualifiedName"] == "1"
        described = run["tool"]["driver"]["rules"][result["ruleIndex"]]
        assert described["id"] == result["ruleId"] == "GB103"
        assert "## Fix" in described["help"]["markdown"]
        assert "\nFIX\n" in described["help"]["text"]


def test_explain(doctor: Doctor) -> None:
    said = doctor("--explain", "GB103")
    assert said.startswith("GB103 momentum\n\nThe momentum of a batch norm")
    assert "\nFIX\n\n    norm.momentum = 0.01  # 1 − 0.99\n" in said
    assert "``" not in said
    listed = doctor("--list")
    assert "\n  GB103 momentum: the momentum is 0" in listed
    assert "GB401 exported" in listed.split("quantized graphs:\n")[1]
    assert max(map(len, (said + listed).splitlines())) <= 80
    assert doctor("--explain", "momentum") == said == doctor("--explain", "gb103")
    assert "code='GB999' is no rule; give a code" in doctor.refused("--explain", "GB999")


# Checkpoints and fixes


def saved(doctor: Doctor, name: str, content: Any) -> str:
    torch.save(content, doctor.folder / name)
    return name


def healthy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def with_nan() -> dict[str, Any]:
    state = healthy().state_dict()
    state["1.running_var"][3] = torch.nan
    state["1.num_batches_tracked"] += 100
    return state


def test_a_checkpoint_is_what_is_examined(doctor: Doctor) -> None:
    state = with_nan()
    kinds: dict[str, Any] = {
        "plain.pt": state,
        "nested.pt": {"epoch": 3, "state_dict": state, "optimizer": {"state": {}}},
        "ddp.pt": {"model": {f"module.{key}": value for key, value in state.items()}},
        "both.pt": {f"module._orig_mod.{key}": value for key, value in state.items()},
    }
    for name, content in kinds.items():
        said = doctor("nets:healthy", "--checkpoint", saved(doctor, name, content), code=1)
        assert "error GB107" in said
    assert "error GB107" in doctor("nets:meta", "--checkpoint=plain.pt", code=1)
    old = {key: value for key, value in state.items() if "num_batches" not in key}  # torch < 0.4.1
    saved(doctor, "old.pt", old)
    assert "error GB107" in doctor("nets:healthy", "--checkpoint=old.pt", code=1)
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(state, doctor.folder / "x.safetensors")
    assert "error GB107" in doctor("nets:healthy", "--checkpoint=x.safetensors", code=1)


def test_a_checkpoint_of_parameters_only_is_a_finding(doctor: Doctor) -> None:
    state = {key: torch.randn_like(value) for key, value in healthy().named_parameters()}
    state["1.weight"] = torch.ones(8)
    said = doctor("nets:healthy", "--checkpoint", saved(doctor, "parameters.pt", state))
    assert "warning GB106" in said


def test_fix_shows_what_it_changed_and_what_remains(doctor: Doctor) -> None:
    said = doctor("nets:still", "--fix")
    assert re.match(
        r"Fixed 1:\n  GB103 1\.momentum: 0 → 0\.1  \(a setting: change it in the code, too\)\n\n"
        r"Sequential: healthy",
        said,
    )
    assert doctor("nets:healthy", "--fix").startswith("Nothing to fix.\n\nSequential: healthy")
    report = json.loads(doctor("nets:still", "--fix", "--json"))
    assert report["healthy"]
    assert report["fixed"] == [{"code": "GB103", "text": "1.momentum: 0 → 0.1", "stored": False}]
    for batches in ("nets:stream", "nets:once"):  # examined twice
        assert "Fixed 1" in doctor("nets:still", "--fix", "--batches", batches)


def test_a_fixed_checkpoint_has_the_form_of_the_old_one(doctor: Doctor) -> None:
    state = {f"module.{key}": value for key, value in healthy().bfloat16().state_dict().items()}
    before = saved(doctor, "old.pt", {"epoch": 3, "state_dict": state})
    raw = (doctor.folder / before).read_bytes()
    said = doctor("nets:half", "--checkpoint=old.pt", "--fix", "--out=sub/new.pt")
    assert re.search(r"GB105 1.* → float32 \(in the code, too\)\n", said)
    assert "a setting" not in said
    assert "Wrote sub/new.pt.\n\n" in said
    assert (doctor.folder / before).read_bytes() == raw
    new = torch.load(doctor.folder / "sub/new.pt", weights_only=True)
    assert new["epoch"] == 3
    assert list(new["state_dict"]) == list(state)
    assert new["state_dict"]["module.1.running_var"].dtype is torch.float32
    assert torch.equal(new["state_dict"]["module.0.weight"], state["module.0.weight"])
    assert "healthy" in doctor("nets:healthy", "--checkpoint=sub/new.pt")
    doctor("nets:keras", "--fix", "--out=made.pt")  # without a checkpoint
    assert list(torch.load(doctor.folder / "made.pt")) == list(healthy().state_dict())
    said = doctor("nets:keras", "--fix", "--out=same.pt")
    assert "Wrote same.pt.\nIts tensors are as before: a state dict" in said
    pytest.importorskip("safetensors")
    doctor("nets:keras", "--fix", "--out=made.safetensors")
    assert "healthy" in doctor("nets:healthy", "--checkpoint=made.safetensors")


# Bad input


def test_a_factory_that_will_not_do(doctor: Doctor) -> None:
    cases = {
        "nets": "must be package.module:name, such as train:make_model",
        "nets.py:healthy": "there is no module 'nets.py' .*; did you mean nets:healthy",
        "./nets.py:healthy": "must be package.module:name, such as nets:healthy",
        "nets.healthy": "must be package.module:name, such as nets:healthy",
        ":healthy": "must be package.module:name",
        "nets:": "must be package.module:name",
        "nope:x": "there is no module 'nope' in .* or on PYTHONPATH",
        "pkg.nope:x": "there is no module 'pkg.nope'",
        "pkg.deep:healthy": "importing pkg.deep raised ModuleNotFoundError: .*nothing_like_it",
        "syntax:f": "importing syntax raised SyntaxError: .*",
        "script:f": "importing script raised SystemExit: usage: script",
        "nets:health": "name='health' is not known; did you mean 'healthy'",
        "nets:number": "is an int; name a function that returns the model",
        "nets:needs": "needs the arguments width, depth; name a function without",
        "nets:raises": "raised RuntimeError: no such; it must return the model",
        "nets:leaves": "raised SystemExit: 3",
        "nets:wrong": "returned a dict; it must return a torch.nn.Module",
        "pkg:x": "pkg defines nothing",
    }
    for name, said in cases.items():
        assert re.match(f"factory={name!r}:? ?.*{said}", doctor.refused(name)), doctor.refused(name)
    assert "on the meta device and has no values; load" in doctor.refused("nets:meta")
    assert "factory is missing; give package.module:name" in doctor.refused()


def test_batches_and_losses_that_will_not_do(doctor: Doctor) -> None:
    for batches, said in {
        "nets:wide": r"does not accept the first batch \(of shape \(16, 5\)\): RuntimeError",
        "nets:empty": "batches is empty",
        "nets:fails": "batches raised KeyError: 'label'",
        "nets:number": "batches='nets:number' is an int; name a function",
        "nets:nothing": "batches='nets:nothing': name='nothing' is not known",
        "nets:needs": "needs the arguments width, depth",
        "nets:raises": "batches='nets:raises' raised RuntimeError",
        "torch:get_num_threads": "returned an int; it must return an iterable of batches",
    }.items():
        assert re.search(said, doctor.refused("nets:healthy", "--batches", batches))
    for loss, said in {
        "nets:each": r"loss returned a tensor of shape \(16,\); it must return a scalar",
        "nets:unary": "loss raised TypeError: .* called with the model's output",
        "nets:number": "loss='nets:number' is an int",
        "nets:nothing": "loss='nets:nothing': name='nothing' is not known",
    }.items():
        given = ("nets:healthy", "--batches=nets:loader", "--loss", loss)
        assert re.search(said, doctor.refused(*given))
    assert "loss needs batches" in doctor.refused("nets:healthy", "--loss=nets:each")


def test_checkpoints_that_will_not_do(doctor: Doctor) -> None:
    state = healthy().state_dict()
    renamed = {key.replace("0.weight", "0.weigth"): value for key, value in state.items()}
    (doctor.folder / "junk.pt").write_text("hello")
    (doctor.folder / "empty.pt").touch()
    (doctor.folder / "junk.safetensors").write_text("hello")
    for name, said in {
        saved(doctor, "pickle.pt", healthy()): r"pickled Python objects \(torch.nn.*Sequential\).*"
        r"save model.state_dict\(\)",
        saved(doctor, "keys.pt", renamed): "missing keys '0.weight'; unexpected keys '0.weigth'",
        saved(doctor, "shape.pt", state | {"0.weight": torch.zeros(8, 5)}): r"'0.weight' is "
        r"\(8, 5\) in the file and \(8, 4\) in the model",
        saved(doctor, "list.pt", [1, 2]): "holds a list and no state dict",
        saved(doctor, "dict.pt", {"a": 1, "b": 2}): "a dict with the keys 'a', 'b' and no state",
        saved(doctor, "none.pt", {}): "holds .* no state dict",
        "junk.pt": "is damaged or not a file of torch.save",
        "empty.pt": "is damaged or not a file of torch.save",
        "junk.safetensors": "is damaged or not a file of torch.save|needs the package safetensors",
        "gone.pt": "does not exist",
        "pkg": "is not a regular file",
    }.items():
        refusal = doctor.refused("nets:healthy", "--checkpoint", name)
        assert re.match(f"checkpoint='{name}' .*({said})", refusal), refusal


def test_options_that_contradict_each_other(doctor: Doctor) -> None:
    (doctor.folder / "there.pt").touch()
    for args, said in {
        ("--json", "--sarif"): "json and sarif exclude each other",
        ("--out=x.pt",): "out='x.pt' needs --fix",
        ("--fix", "--out=there.pt"): "out='there.pt' exists; give the path of a new file",
        ("--select=GB9",): "select='GB9' matches no rule",
        ("--ignore=nothing",): "ignore='nothing' matches no rule",
        ("--select=",): "select='' matches no rule",
        ("--select=GB2",): "leaves only rules that need batches",
        ("--select=GB103", "--ignore=GB1"): r"select=\['GB103'\] without ignore=\['GB1'\] leaves",
        ("--select=GB301",): r"only rules about trainings; .* gammabeta.watch\(doctor=True\)",
    }.items():
        assert re.search(said, doctor.refused("nets:healthy", *args))
    exported = "class ExportedProgram: ...\n\n\ngraph = ExportedProgram()\n"  # only its name counts
    (doctor.folder / "graphs.py").write_text(exported)
    assert "fix: an exported graph cannot be changed" in doctor.refused("graphs:graph", "--fix")
    assert sorted(path.name for path in doctor.folder.glob("*.pt")) == ["there.pt"]
