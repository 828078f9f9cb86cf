"""The doctor's findings on the page: marks on the scrubber, a list, and nothing that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gammabeta.signal import Record, Run
from gammabeta.view import export
from tests.browser.conftest import Open
from tests.signal.recorded import summary

HOSTILE = "<img src=x onerror=alert(1)> 'γ' \u202e</script>"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Twelve layers, forty steps, and four findings."""
    with Record(tmp_path / "run") as record:
        arm = record.arm("model")
        probes = [record.probe(arm, i + 1, f"layer{i}.fc", "z", None) for i in range(12)]
        for step in range(1, 41):
            signals = {probe: summary(step + probe) for probe in probes}
            record.write(arm, step, {"loss": 1 / step}, signals)
        for step, severity, code, layer in (
            *((5, "info", "GB116", "layer2"), (20, "warning", "GB315", "")),
            *((30, "info", "GB311", "layer9.fc"), (30, "error", "GB316", "layer7.fc")),
        ):
            found = {"severity": severity, "code": code, "layer": layer, "layers": [layer]}
            found["name"] = f"name-of-{code}"
            found |= {
                "cause": f"cause {HOSTILE}",
                "fix": f"fix {HOSTILE}",
                "numbers": {"σ": 3.14159},
            }
            record.finding(arm, step, f"{code} {layer}", found)
    with Run(record.path) as run:
        return export(run, tmp_path / "run.html").as_uri()


@pytest.fixture
def crowd(tmp_path: Path) -> str:
    """Eight findings within four steps, of several layers each."""
    with Record(tmp_path / "crowd") as record:
        arm = record.arm("model")
        probe = record.probe(arm, 1, "layer1", "z", None)
        for step in range(1, 41):
            record.write(arm, step, {"loss": 1 / step}, {probe: summary(step)})
        layers = ["layer1", "layer2", "layer3", "layer4"]
        for number, some in enumerate(
            [["", *layers[:2]], ["", *layers], layers, *[[each] for each in layers], ["head"]]
        ):
            severity = "error" if number == 7 else "warning"
            found = {"severity": severity, "code": f"GB30{number}", "cause": "it is odd"}
            found |= {"layer": some[0], "layers": some}
            record.finding(arm, 20 + number // 2, f"GB30{number}", found)
    with Run(record.path) as run:
        return export(run, tmp_path / "crowd.html").as_uri()


def test_marks_lead_to_step_and_layer(open_page: Open, url: str) -> None:
    page = open_page(url)
    marks = page.locator(".verdictmark")
    assert marks.count() == 3  # two are at the same step
    assert [m.get_attribute("class") for m in marks.all()] == [
        f"verdictmark {severity}" for severity in ("info", "warning", "error")
    ]
    shapes = {m.locator(".shape").get_attribute("d") for m in marks.all()}
    assert len(shapes) == 3  # told apart without colour
    marks.nth(1).hover()
    assert f"the model: cause {HOSTILE}" in page.locator(".tip").inner_text()
    marks.nth(2).hover()
    said = page.locator(".tip").inner_text()
    assert said.startswith("2 findings · step 30")
    assert "error GB316" in said
    marks.nth(2).focus()
    page.keyboard.press("Enter")
    assert page.locator(".step").inner_text() == "step 30 / 40"
    assert page.locator(".item[aria-selected='true'] .label").inner_text().endswith("fc")
    assert "GB316" in page.locator(".verdicts li.pointed").inner_text()


def test_focus_shows_what_a_mark_says(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.locator(".slider").focus()
    page.keyboard.press("Tab")
    assert page.locator(".verdictmark").first.evaluate("e => e === document.activeElement")
    assert "GB116" in page.locator(".tip").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_list(open_page: Open, url: str, scheme: str) -> None:
    page = open_page(url, color_scheme=scheme)
    section = page.locator(".verdicts")
    assert section.locator("h2").inner_text() == "Findings: 1 error, 1 warning, 2 info"
    assert section.locator("li").count() == 4
    assert section.locator("img, script").count() == 0
    first = section.locator("li").first
    assert first.locator("p").first.inner_text().split("\n")[:2] == ["info", "GB116"]
    assert "name-of-GB116" in first.inner_text()
    assert first.locator(".cause").inner_text() == f"Cause {HOSTILE}."
    first.locator("summary").click()
    assert first.locator("dd").last.inner_text() == "gammabeta doctor --explain GB116"
    assert first.locator("dd").first.inner_text() == "3.142"
    assert first.locator("pre").inner_text() == f"fix {HOSTILE}"
    section.locator("li").nth(3).locator("button").click()
    assert page.locator(".step").inner_text() == "step 30 / 40"


def test_layers_in_words_and_marks_that_are_near_each_other(open_page: Open, crowd: str) -> None:
    page = open_page(crowd, viewport={"width": 420, "height": 800})
    places = page.locator(".verdicts .link").all_inner_texts()
    assert places[:3] == [
        "the model, layer1, layer2",
        "the model and 4 of its layers",
        "layer1 and 3 more layers",
    ]
    (mark,) = page.locator(".verdictmark").all()
    mark.hover()
    said = page.locator(".tip").inner_text()
    assert said.startswith("8 findings · steps 20 to 23")
    assert said.index("error GB307") < said.index("warning GB300")  # the worst first
    assert said.endswith("and 2 more")
    box, page_width = page.locator(".verdicts").bounding_box(), 420
    assert box is not None
    assert box["x"] + box["width"] <= page_width


def test_a_run_without_findings(open_page: Open, demo_page: str) -> None:
    page = open_page(demo_page)
    assert page.locator(".verdicts").is_hidden()
    assert page.locator(".verdictmark").count() == 0
