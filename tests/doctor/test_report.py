"""What a report says: in 80 columns, as JSON and as SARIF; and what its fixes change."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gammabeta as gb
from gammabeta import doctor
from gammabeta.doctor import Finding, Report, UnhealthyError
from gammabeta.doctor.finding import merged
from gammabeta.doctor.printed import code_lines, columns
from tests.doctor.rules import finds, rule

SCHEMA = json.loads((Path(doctor.__file__).with_name("report.schema.json")).read_text("utf-8"))


def finding(severity: str = "error", layer: str = "bn", **kwargs: Any) -> Finding:
    given = {"code": "XY101", "name": "made-up", "cause": "something is wrong"} | kwargs
    return Finding(severity=severity, layer=layer, **given)


def examined(*findings: Finding) -> Report:
    with rule(finds(*findings)):
        return gb.examine(nn.BatchNorm1d(2), select=["XY101"])


def test_a_healthy_model_is_one_line() -> None:
    report = examined()
    assert str(report) == "BatchNorm1d: healthy (1 norm, 1 rule)"
    assert report.healthy
    assert gb.assert_healthy(nn.Linear(2, 2)).findings == []


def test_a_finding_prints_as_in_a_report_and_a_report_is_a_short_object() -> None:
    one = finding(layers=("bn", "cn"), step=3, fix="x = 1")
    report = examined(one, finding("info", ""))
    (first, _) = report.findings
    assert str(first) == (
        "error XY101 made-up: bn, cn, since step 3\n    Something is wrong.\n    fix:  x = 1"
    )
    assert str(first) in str(report)
    assert repr(report) == (
        "<Report of BatchNorm1d: 1 error, 1 info (1 norm, 1 rule): XY101 bn; XY101 the model>"
    )
    assert repr(examined()) == "<Report of BatchNorm1d: healthy (1 norm, 1 rule)>"
    shown: list[str] = []

    class Printer:  # what IPython hands over
        text = shown.append

    report._repr_pretty_(Printer, cycle=False)
    assert shown == [str(report)]


def test_it_reads_like_a_review() -> None:
    report = examined(
        finding("info", "c", cause="a habit"),
        finding(
            layer="a",
            cause="`x` is wrong",
            numbers={"share": 0.123456, "n": 3},
            cost="loss 2 instead of 1",
            fix="model.a = 1\nmodel.b = 2",
        ),
        finding("warning", "b", cause="it may be wrong", step=12),
    )
    assert str(report).splitlines() == [
        "BatchNorm1d: 1 error, 1 warning, 1 info (1 norm, 1 rule)",
        "",
        "error XY101 made-up: a",
        "    `x` is wrong.",
        "    share: 0.123, n: 3",
        "    cost: loss 2 instead of 1",
        "    fix:  model.a = 1",
        "          model.b = 2",
        "",
        "warning XY101 made-up: b, since step 12",
        "    It may be wrong.",
        "",
        "info XY101 made-up: c",
        "    A habit.",
    ]


def test_the_same_fault_of_many_layers_is_said_once() -> None:
    many = [finding(layer=f"layers.{n}.bn", fix="norm.eps = 1e-5") for n in range(3000)]
    report = examined(*many)
    assert [len(f.layers) for f in report.findings] == [3000]
    assert "layers.0.bn, layers.1.bn, layers.2.bn and 2997 more" in str(report)
    assert len(str(report).splitlines()) == 5
    assert merged([many[0], many[0]])[0].layers == ("layers.0.bn",)


LONG = "encoder.very_long_module_name_of_somebody.block.17.another_long_one.norm_before_attention"
FIXES = [
    f"model.{LONG.replace('.17', '[17]')}.momentum = 0.01  # 1 − 0.99, which is PyTorch's share",
    f"model.get_submodule({LONG * 3!r}).momentum = 0.01",
    "optimizer = SGD([{'params': decayed, 'weight_decay': 1e-4}, {'params': rest}], lr=0.1)",
    "for norm in (m for m in model.modules() if isinstance(m, BatchNorm2d)): norm.eps = 1e-3",
    'f("a # b \\" c", g(h(i(j(k(l(m(n(o(p(q(r(s(t(u(v(w(x(y(1.5e-3, a.b.c.d.e, "f" ' + ")" * 20,
]


@pytest.mark.parametrize("fix", FIXES)
@pytest.mark.parametrize("width", [40, 70])
def test_a_long_fix_stays_the_same_code(fix: str, width: int) -> None:
    lines = code_lines(fix, width)
    if "very_long" not in fix or width == 70:  # else a name alone is wider
        assert max(map(columns, lines)) <= width
    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(fix))


@pytest.mark.parametrize(
    "what",
    [
        finding(layer=LONG * 3),
        finding(layer="", layers=("", *(f"{LONG}.{n}" for n in range(100)))),
        finding(layer="層" * 60, cause="層 " * 60 + "σ" * 90, fix="層" * 90),
        finding(layer="x\x1b[2J\n\ty", cause="a\x07b", fix="\x1b[31m", cost="c\rd"),
        finding(
            cause="word " * 60, cost="much " * 40, numbers={"n" * 50: 1e300, "m" * 70: "v" * 99}
        ),
        finding(
            fix="Ask somebody who knows about it, and then ask somebody else who knows it better"
        ),
        finding(fix="x = '" + "y" * 200 + "'"),
        *(finding(fix=fix) for fix in FIXES),
    ],
    ids=str,
)
def test_it_fits_80_columns(what: Finding) -> None:
    report = examined(what)
    report.notes += ["a note that is long " * 10]
    assert max(map(columns, str(report).splitlines())) <= 80
    assert all(c.isprintable() for c in str(report).replace("\n", ""))


def test_notes_are_said_once() -> None:
    assert str(Report(model="M", notes=["x", "x"])).count("note: x") == 1


def test_levels() -> None:
    report = examined(finding("info"), finding("warning", cause="b"))
    assert not report.healthy
    assert [f.severity for f in report.at_least("info")] == ["warning", "info"]
    assert report.raise_on("error") is report
    with pytest.raises(UnhealthyError, match="XY101"):
        report.raise_on("warning")
    with pytest.raises(ValueError, match="severity='bad' is not known"):
        report.at_least("bad")
    assert [len(report.of(code)) for code in ("XY101", "GB101")] == [2, 0]


def test_assert_healthy() -> None:
    with rule(finds(finding("warning"))):
        with pytest.raises(AssertionError, match="made-up: bn\n    Something is wrong"):
            gb.assert_healthy(nn.BatchNorm1d(2), select=["XY101"])
        assert not gb.assert_healthy(nn.BatchNorm1d(2), severity="error", select="XY101").healthy


# JSON and SARIF


def full() -> Report:
    report = examined(
        finding(
            numbers={"a": float("nan"), "b": True, "c": None, "d": "x", "e": torch.tensor(2)},
            layers=("bn", "cn"),
            cost="much",
            fix="x = 1",
            step=3,
        ),
        finding("info", ""),
        finding("warning", "w"),
    )
    report.intended = [finding("warning", "meant")]
    report.notes = ["a note"]
    report.fixed = [doctor.Change("XY101", "bn.eps: 1 → 2", False)]
    return report


def test_json_has_the_form_of_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for report in (examined(), full()):
        jsonschema.validate(json.loads(report.to_json()), SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(examined().to_json()) | {"schema": 2}, SCHEMA)


def test_the_schema_names_what_json_has() -> None:
    """Without jsonschema, and in both directions."""
    written = json.loads(full().to_json())
    assert set(written) == set(SCHEMA["properties"]) == set(SCHEMA["required"])
    for part, name in (("findings", "finding"), ("fixed", "change")):
        described = SCHEMA["$defs"][name]
        assert set(written[part][0]) == set(described["properties"]) == set(described["required"])
    assert SCHEMA["properties"]["schema"]["const"] == written["schema"]
    assert written["findings"][0]["numbers"] == {"a": "nan", "b": True, "c": None, "d": "x", "e": 2}


def test_sarif() -> None:
    with rule(finds()):
        log = full().to_sarif("pkg/a file.py", 7)
        assert "physicalLocation" not in str(full().to_sarif())
    json.dumps(log, allow_nan=False)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    (described,) = run["tool"]["driver"]["rules"]
    assert described["id"] == "XY101"
    assert described["name"] == "MadeUp"
    assert described["shortDescription"]["text"] == "A rule of a test."
    assert [r["level"] for r in run["results"]] == ["error", "warning", "note", "warning"]
    first, *_, last = run["results"]
    assert first["ruleId"] == "XY101"
    assert first["ruleIndex"] == 0
    assert first["message"]["text"].startswith("bn, cn: Something is wrong.\nCost: much.\nFix:")
    (place,) = first["locations"]
    assert [each["fullyQualifiedName"] for each in place["logicalLocations"]] == ["bn", "cn"]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "pkg/a%20file.py"},
        "region": {"startLine": 7},
    }
    assert last["suppressions"] == [{"kind": "inSource"}]
    assert first["suppressions"] == []  # all results have them, or none
    with rule(finds(finding())):
        plain = gb.examine(nn.BatchNorm1d(2), select=["XY101"]).to_sarif("/srv/a file.py")
    (result,) = plain["runs"][0]["results"]
    assert "suppressions" not in result
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"] == {"uri": "file:///srv/a%20file.py"}
    assert run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"] == "a note"
    prints = [r["partialFingerprints"]["finding/v1"] for r in run["results"]]
    assert len(set(prints)) == 4


# Fixes


def setting(path: str) -> Any:
    def repair(model: nn.Module) -> str:
        norm: Any = model.get_submodule(path)
        norm.eps = 0.5
        return f"{path}.eps: → 0.5"

    return repair


def test_fixes_change_the_model_and_are_told() -> None:
    def stored(model: nn.Module) -> str:
        model.get_buffer("1.running_var").fill_(1)
        return "1.running_var: NaN → 1"

    def fails(model: nn.Module) -> str:
        raise KeyError("no")

    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model.get_buffer("1.running_var").fill_(torch.nan)
    report = examined(
        *(finding(layer=str(n), repair=setting(str(n))) for n in range(2)),
        finding(layer="1", cause="another", repair=stored),
        finding(layer="1", cause="a third", repair=fails),
        finding(layer="1", cause="a fourth"),
        finding(layer="1", cause="a fifth", repair=lambda model: ""),
    )
    changes = report.fix(model)
    assert [(str(c), c.stored) for c in changes] == [
        ("XY101 0.eps: → 0.5", False),
        ("XY101 1.eps: → 0.5", False),
        ("XY101 1.running_var: NaN → 1", True),
    ]
    assert [norm.eps for norm in model] == [0.5, 0.5]
    assert report.notes == ["XY101 was not repaired: KeyError: 'no'"]
    assert report.fixed == changes
    assert not any(change.stored for change in report.fix(model))  # as it was: nothing new
    with pytest.raises(TypeError, match="model is of type list"):
        report.fix([])  # type: ignore[arg-type]


def test_thousands_of_fixes() -> None:
    model = nn.Sequential(*(nn.BatchNorm1d(1) for _ in range(2000)))
    report = examined(*(finding(layer=str(n), repair=setting(str(n))) for n in range(2000)))
    assert len(report.fix(model)) == 2000
