"""The doctor's benchmark: what counts as found, what as an alarm, and that other tools run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gammabeta.lab.bench import doctor, doctor_nets, doctor_report, doctor_speed
from gammabeta.lab.bench.doctor import Plan, measure
from gammabeta.lab.bench.doctor_case import Case, judge
from gammabeta.lab.bench.doctor_limit import limited
from gammabeta.lab.bench.doctor_rivals import RIVALS
from gammabeta.lab.bench.doctor_set import Script, load, scripts
from gammabeta.lab.bench.doctor_speed import large, measure_speed
from gammabeta.lab.bench.doctor_table import Cases, read
from gammabeta.lab.bench.doctor_tools import OURS, Complaint, Seen, ours
from gammabeta.lab.bench.rivals import Absent

BUILDS = '''
import torch
from torch import nn
CODE, LAYER, FIX = "GB103", "1", "momentum"
def build(faulty):
    """Return a model."""
    norm = nn.BatchNorm1d(8, momentum=0.99 if faulty else 0.1)
    return {"model": nn.Sequential(nn.Linear(4, 8, bias=False), norm)}
'''

TRAINS = '''
import torch, torch.nn.functional as F
from torch import nn
CODE, LAYER, FIX = "GB301", "", "train()"
def train(faulty, watch):
    """Train."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train(not faulty)
    x, y = torch.randn(64, 4), torch.arange(64) % 2
    with watch(model, optimizer=optimizer) as signal:
        for batch in torch.arange(64).split(16):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
    return {"model": model, "batches": list(zip(x.split(16), y.split(16)))}
'''

HEALTHY = (
    TRAINS.replace("def train(faulty, watch)", "def train(watch)")
    .replace("    model.train(not faulty)\n", "")
    .replace("torch.arange(64).split(16)", "torch.randint(0, 64, (60, 16))")
)

Write = Callable[..., Script]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a script of the set and import it."""

    def write(text: str, *, fault: bool = True, name: str = "gb000_mine") -> Script:
        folder = tmp_path / ("faults" if fault else "healthy")
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        return load(path, fault=fault)

    return write


# The set.


def test_scripts_are_chosen_by_the_beginnings_of_their_names(write: Write, tmp_path: Path) -> None:
    write(BUILDS, name="gb103_a")
    write(BUILDS, name="gb104_b")
    found = scripts(tmp_path / "faults", faults=True, names=["gb103"])
    assert [script.name for script in found] == ["gb103_a"]
    assert len(scripts(tmp_path / "faults", faults=True)) == 2


@pytest.mark.parametrize(
    ("text", "fault", "said"),
    [
        ("CODE = 'GB103'\ndef build(faulty): ...", True, "has no LAYER, FIX"),
        ("CODE = LAYER = FIX = ''", True, "has no build or train"),
        ("def build(faulty): ...", False, "has no train"),
    ],
)
def test_a_script_that_lacks_something(text: str, fault: bool, said: str, write: Write) -> None:
    with pytest.raises(ValueError, match=said):
        write(text, fault=fault)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no folder faults; give the folder benchmarks"):
        Plan(tmp_path).cases()


# The doctor on a script.


def test_the_doctor_examines_what_a_script_builds(write: Write) -> None:
    script = write(BUILDS)
    assert [each.code for each in ours(script, True).alarms] == ["GB103"]
    assert ours(script, False).alarms == []


def test_the_doctor_watches_what_a_script_trains(write: Write) -> None:
    script = write(TRAINS)
    seen = ours(script, True)
    assert [each.code for each in seen.alarms] == ["GB301"]
    assert seen.passes == 0  # a fault that trains is not examined afterwards
    assert ours(script, False).alarms == []
    with pytest.raises(ValueError, match="never calls watch"):
        ours(write("CODE = LAYER = FIX = ''\ndef train(faulty, watch): ..."), True)


def test_a_healthy_net_is_watched_and_examined(write: Write) -> None:
    seen = ours(write(HEALTHY, fault=False), False)
    assert seen.alarms == []
    assert seen.passes > 0


def test_the_random_state_stays(write: Write) -> None:
    before = torch.random.get_rng_state()
    ours(write(TRAINS), True)
    assert torch.equal(torch.random.get_rng_state(), before)


# What counts.


def seen(*complaints: Complaint) -> Seen:
    return Seen(list(complaints))


def complaint(code: str, severity: str = "error", layer: str = "1", fix: str = "") -> Complaint:
    return Complaint(code, severity, (layer,), fix, f"{code} {layer}: it is so")


def judged(write: Write, tool: str, faulty: Seen, healthy: Seen) -> Case:
    return judge(write(BUILDS), tool, lambda _, broken: faulty if broken else healthy)


def test_a_fault_is_found_by_code_layer_and_fix(write: Write) -> None:
    hit = complaint("GB103", fix="norm.momentum = 0.1")
    case = judged(write, OURS, seen(hit), seen())
    assert (case.found, case.layer, case.fix, case.extra, case.alarms) == (True, True, True, 0, 0)
    assert case.right
    case = judged(write, OURS, seen(complaint("GB103", layer="0")), seen())
    assert (case.found, case.layer, case.fix, case.right) == (True, False, False, False)
    case = judged(write, OURS, seen(complaint("GB104")), seen())
    assert (case.found, case.extra) == (False, 1)


def test_what_is_more_than_information_is_an_alarm(write: Write) -> None:
    hit = complaint("GB103", fix="momentum")
    case = judged(
        write, OURS, seen(hit, complaint("GB116", "info")), seen(complaint("GB1", "info"))
    )
    assert case.right
    case = judged(write, OURS, seen(hit, complaint("GB104", "warning")), seen(complaint("GB103")))
    assert (case.extra, case.alarms, case.right) == (1, 1, False)
    assert case.said == "extra: GB104 1: it is so; alarm: GB103 1: it is so"


def test_another_tool_has_found_what_it_says_of_the_faulty_twin_only(write: Write) -> None:
    same, other = complaint("a", "warning", "0"), complaint("b", "info", "1")
    assert not judged(write, "torch-audit", seen(same), seen(same)).found
    case = judged(write, "torch-audit", seen(same, other), seen(same))
    assert (case.found, case.layer, case.alarms, case.extra) == (True, True, 1, 0)
    assert judged(write, "torch-audit", seen(complaint("a", "error", "0")), seen(same)).found


# Other tools.

TOOLS = {"torchtest2": "torchtest2", "torch-audit": "torch_audit"}

DEAD = """
import torch, torch.nn.functional as F
from torch import nn
CODE, LAYER, FIX = "GB319", "0", ""
class Net(nn.Module):
    def __init__(self, faulty):
        super().__init__()
        self.a, self.b, self.faulty = nn.Linear(16, 16), nn.Linear(16, 2), faulty
    def forward(self, x):
        return self.b(x if self.faulty else F.relu(self.a(x)))
def build(faulty):
    torch.manual_seed(0)
    model = Net(faulty)
    batches = [(torch.randn(8, 16), torch.arange(8) % 2)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return dict(model=model, batches=batches, loss=F.cross_entropy, optimizer=optimizer)
"""
"""A layer that is never called, which both tools document that they find."""


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_finds_what_it_is_made_for(tool: str, write: Write) -> None:
    pytest.importorskip(TOOLS[tool])
    case = judge(write(DEAD), tool, RIVALS[tool])
    assert case.found, case
    built = RIVALS[tool](write(DEAD), False)
    assert built.notes == []


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_finds_it_in_a_loop(tool: str, write: Write) -> None:
    pytest.importorskip(TOOLS[tool])
    loop = DEAD.replace("build(faulty)", "train(faulty, watch)").replace(
        "    return dict(model=model, batches=batches, loss=F.cross_entropy, optimizer=optimizer)",
        """
    with watch(model, optimizer=optimizer) as signal:
        for x, y in batches * 3:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step(); signal.step(loss=loss)
        signal.close()
""",
    )
    case = judge(write(loop), tool, RIVALS[tool])
    assert case.found, case
    assert case.note == ""


def test_torchtest2_gets_the_loss_that_the_loop_calls(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("torchtest2")
    calls: list[dict[str, Any]] = []

    def check(model: nn.Module, inputs: Any, targets: Any, **options: Any) -> list[Any]:
        calls.append(
            {
                "inputs": inputs,
                "skip": options["skip"],
                "targets": targets,
                "loss": options["loss_fn"](model(inputs), targets),
            }
        )
        return []

    monkeypatch.setattr(library, "check_model", check)
    RIVALS["torchtest2"](write(TRAINS), False)
    assert len(calls) == 2  # after the first step and at the end
    assert calls[0]["inputs"].shape == (16, 4)
    assert calls[0]["targets"].tolist() == [0, 1] * 8
    assert calls[1]["loss"].shape == ()
    assert [call["skip"] for call in calls] == [(), ("initial_loss",)]


def test_a_static_fault_has_no_batch_for_torchtest2(write: Write) -> None:
    pytest.importorskip("torchtest2")
    assert RIVALS["torchtest2"](write(BUILDS), True).notes == ["needs a batch"]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_is_not_installed(
    tool: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, TOOLS[tool], None)
    with pytest.raises(Absent, match="not installed: pip install"):
        RIVALS[tool](write(BUILDS), True)
    case = doctor._of_script(write(BUILDS), tool)
    assert case.note.startswith("Absent: not installed")
    assert not case.found


def test_a_tool_that_waits_for_ever_is_ended(write: Write) -> None:
    def wait(script: Script, faulty: bool) -> Seen:
        time.sleep(60 * faulty)
        return seen(complaint("a"))

    look = limited(wait, 0.5)
    began = time.monotonic()
    assert look(write(BUILDS), True).notes == ["did not end within 0.5 s"]
    assert time.monotonic() - began < 30
    assert limited(wait, 30)(write(BUILDS), False).complaints == [complaint("a")]


def test_a_tool_that_ends_its_process_or_raises(write: Write) -> None:
    def end(script: Script, faulty: bool) -> Seen:
        if faulty:
            os._exit(1)
        raise Absent("not installed: pip install it")

    assert limited(end)(write(BUILDS), True).notes == ["its process ended"]
    with pytest.raises(Absent, match="pip install it"):
        limited(end)(write(BUILDS), False)


# The whole.


def test_cases_are_measured_and_kept(write: Write, tmp_path: Path) -> None:
    write(BUILDS, name="gb103_a")
    write("CODE, LAYER, FIX = 'GB1', '', ''\ndef build(faulty): raise KeyError('x')", name="gb1_b")
    write(HEALTHY, fault=False, name="gb_net")
    cases = Plan(tmp_path, ["gb"], [OURS]).cases()
    table = Cases(tmp_path / "out/doctor.csv")
    for case in measure(cases):
        table.add(case)
    found = {case.name: case for case in read(table.path)}
    assert list(found) == ["gb103_a", "gb1_b", "gb_net"]
    assert found["gb103_a"].right
    assert found["gb1_b"].note == "KeyError: 'x'"
    assert found["gb_net"].right
    again = Cases(table.path)
    assert [case.key for case in again.cases] == [case.key for case in table.cases]
    again.keep([("fault", "gb103_a", OURS)])
    again.write()
    assert [case.name for case in read(table.path)] == ["gb103_a"]
    assert "gb1_b, gammabeta: missed (KeyError: 'x')" in doctor_report.wrong(table.cases)


def test_a_name_that_nothing_begins_with(write: Write, tmp_path: Path) -> None:
    write(BUILDS)
    write(HEALTHY, fault=False, name="net")
    with pytest.raises(ValueError, match="names=nothing begins the name of no script"):
        Plan(tmp_path, ["nothing"]).cases()
    with pytest.raises(ValueError, match="tools='lint' is not known"):
        Plan(tmp_path, tools=["lint"]).cases()
    assert len(Plan(tmp_path, ["net"]).cases()) == 3


def test_a_file_that_is_another(tmp_path: Path) -> None:
    (tmp_path / "doctor.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not a file of gammabeta bench doctor"):
        Cases(tmp_path / "doctor.csv")


def test_reports() -> None:
    cases = [
        Case("fault", "gb103_a", OURS, "GB103", True, True, True, passes=20),
        Case("fault", "gb103_b", OURS, "GB103", True, False, True, extra=1, said="extra: GB1"),
        Case("fault", "gb103_a", "torchtest2", "GB103", True),
        Case("healthy", "net", OURS, passes=3),
        Case("healthy", "net", "torchtest2", alarms=2),
        Case("network", "pytorchcv:resnet18", OURS, passes=2, alarms=1, said="alarm: GB2"),
        Case("speed", "read", OURS, seconds=0.5),
    ]
    rules = doctor_report.rules_table(cases).splitlines()
    assert rules[1].split() == ["GB103", "momentum", "2", "2", "1", "2", "1", "0", "1", "–"]
    assert rules[2].split() == ["all", "2", "2", "1", "2", "1", "0", "1", "–"]
    tools = doctor_report.tools_table(cases)
    assert "torchtest2        1 of 1               0 of 1                      1 of 1" in tools
    verdicts = {v.of: v for v in doctor_report.verdicts(cases)}
    assert verdicts["faults found with the right code"].met
    assert verdicts["… and the right layer"].value == 0.5
    assert not verdicts["extra complaints a fault"].met
    assert not verdicts["networks of pytorchcv"].met
    assert math.isnan(verdicts["false alarms, networks of transformers"].value)
    assert verdicts["most forward passes"].value == 20
    assert doctor_report.wrong(cases) == [
        "gb103_b, gammabeta: found, wrong layer, 1 extra (extra: GB1)",
        "pytorchcv:resnet18, gammabeta: 1 false alarm (alarm: GB2)",
    ]


def test_networks_come_as_they_are_built() -> None:
    pytest.importorskip("transformers")
    network = doctor_nets.fresh("transformers:levit")
    norms: list[Any] = [m for m in network.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(int(m.num_batches_tracked) == 0 for m in norms)
    first, second = doctor_nets.batches(network)
    assert first["kwargs"].keys() == second["kwargs"].keys()
    assert not torch.equal(first["kwargs"]["pixel_values"], second["kwargs"]["pixel_values"])
    words = torch.arange(6).view(2, 3)
    assert sorted(doctor_nets.like(words).flatten().tolist()) == list(range(6))


def test_a_network_is_examined() -> None:
    pytest.importorskip("transformers")
    name = "transformers:levit"
    (case,) = measure({("network", name, OURS): lambda: doctor._of_network(name)})
    assert (case.alarms, case.note) == (0, "")
    assert 0 < case.passes <= 20


def test_a_real_fault_of_a_network_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen(complaint("GB103", "warning"), complaint("GB104", "warning"))
    monkeypatch.setattr(doctor_nets, "examined", lambda name: found)
    case = doctor._of_network("transformers:mobilenet_v1")
    assert (case.found, case.alarms, case.said) == (True, 1, "alarm: GB104 1: it is so")
    assert doctor_report.real([case]) == ["transformers:mobilenet_v1 (GB103)"]
    assert doctor._of_network("transformers:bert").alarms == 2
    assert set(doctor_nets.REAL) <= set(doctor_nets.NETWORKS)


def test_there_are_enough_networks() -> None:
    names = doctor_nets.NETWORKS
    assert len(set(names)) == len(names)
    assert sum(name.startswith("pytorchcv:") for name in names) >= 100
    assert sum(name.startswith("transformers:") for name in names) >= 20


def test_a_large_model_is_read_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_speed, "_ROUNDS", 1)
    assert len(list(large().modules())) >= 1000
    case = measure_speed()
    assert case.alarms == 0
    # processor time of one thread, but that of a busy machine: 0.4 s on an idle one
    assert case.seconds <= 2 * doctor_speed.SECONDS
