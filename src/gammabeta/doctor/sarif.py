"""A report as a SARIF 2.1.0 log, the form in which code hosts and editors read findings.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gammabeta.doctor.finding import Finding, plain
from gammabeta.doctor.printed import page_text, places, sentence
from gammabeta.doctor.rule import RULES, Rule

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def log(
    findings: Iterable[Finding],
    intended: Iterable[Finding] = (),
    notes: Iterable[str] = (),
    checked: Iterable[str] = (),
    *,
    file: str = "",
    line: int = 1,
) -> dict[str, Any]:
    """Return a report as a SARIF log with one run.

    Intended findings are results that are suppressed in the source; notes are notifications.

    Args:
        findings, intended, notes, checked: as those of a `gammabeta.doctor.Report`.
        file: where the model is made: a path relative to the repository; ``""`` if unknown.
        line: the line in it.
    """
    import gammabeta

    rules = [RULES[code] for code in checked]
    index = {rule.code: number for number, rule in enumerate(rules)}
    results = [_result(each, index, file, line) for each in findings]
    silenced = [_result(each, index, file, line) for each in intended]
    if silenced:  # all results of a run have suppressions, or none (3.27.23)
        results = [each | {"suppressions": []} for each in results]
        results += [each | {"suppressions": [{"kind": "inSource"}]} for each in silenced]
    told = [{"level": "warning", "message": {"text": note}} for note in notes]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "gammabeta doctor",
                        "version": gammabeta.__version__,
                        "semanticVersion": gammabeta.__version__,
                        "rules": [_rule(rule) for rule in rules],
                    }
                },
                "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": told}],
                "results": results,
                "columnKind": "unicodeCodePoints",
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": sentence(rule.title)},
        "fullDescription": {"text": _plain(rule.page.split("\n\n## ")[0])},
        "help": {"text": page_text(rule.page), "markdown": rule.page},
        "properties": {"tags": [rule.kind, "normalization"]},
    }


def _result(finding: Finding, index: dict[str, int], file: str, line: int) -> dict[str, Any]:
    logical = [{"fullyQualifiedName": layer, "kind": "member"} for layer in finding.layers if layer]
    location: dict[str, Any] = {"logicalLocations": logical} if logical else {}
    if file:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": Path(file).as_uri() if file[:1] == "/" else quote(file)},
            "region": {"startLine": line},
        }
    identity = "\n".join((finding.code, finding.cause, *finding.layers))
    shown = finding.as_dict()
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": _LEVELS[finding.severity],
        "message": {"text": _message(finding)},
        "locations": [location] if location else [],
        "partialFingerprints": {"finding/v1": hashlib.sha256(identity.encode()).hexdigest()[:32]},
        "properties": {key: plain(shown[key]) for key in ("numbers", "cost", "fix")},
    }
    if finding.code in index:
        result["ruleIndex"] = index[finding.code]
    return result


def _plain(markdown: str) -> str:
    """Return a paragraph of a page in one line."""
    return " ".join(markdown.replace("``", "`").split())


def _message(finding: Finding) -> str:
    parts = [f"{places(finding.layers)}: {sentence(finding.cause)}"]
    if finding.cost:
        parts.append(sentence(f"Cost: {finding.cost}"))
    if finding.fix:
        parts.append(f"Fix: {finding.fix}")
    return "\n".join(parts)
