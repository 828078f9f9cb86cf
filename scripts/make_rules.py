"""Write the pages of the doctor's rules from their docstrings: python scripts/make_rules.py

Writes docs/rules/GBNNN.md for each rule in gammabeta.doctor.rules, and the index
docs/rules/README.md; deletes pages without a rule. A test compares both
(tests/doctor/test_rule_pages.py).
"""

from __future__ import annotations

import re
from pathlib import Path

from gammabeta.doctor import RULES, Rule

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/rules"
KINDS = {
    "static": "On the model alone",
    "batches": "On batches",
    "training": "While a model trains",
    "graph": "On exported, traced and quantized graphs",
}
HOW = {
    "static": "`gammabeta.examine(model)` checks it.",
    "batches": "`gammabeta.examine(model, batches)` checks it.",
    "training": "`gammabeta.watch(model, path, doctor=True)` checks it.",
    "graph": "`gammabeta.examine(model)` checks it.",
}


def own() -> list[Rule]:
    """The rules of this package, by code."""
    return [rule for rule in RULES if rule.module.startswith("gammabeta.")]


def pages() -> dict[str, str]:
    """File name → Markdown."""
    made = {f"{rule.code}.md": page(rule) for rule in own()}
    return {"README.md": index(), **made}


def page(rule: Rule) -> str:
    """The documentation of one rule."""
    source = rule.module.rpartition(".")[2]
    return (
        f"<!-- made by scripts/make_rules.py from src/gammabeta/doctor/rules/{source}.py -->\n\n"
        f"# {rule.code} {rule.name}\n\n{markdown(rule.page)}\n\n---\n\n{HOW[rule.kind]} If it is "
        f"meant: `gammabeta.intended({rule.code!r}, module)`. [All rules](README.md)\n"
    )


def index() -> str:
    """The table of all rules."""
    parts = ["<!-- made by scripts/make_rules.py -->\n\n# The doctor's rules\n"]
    for kind, title in KINDS.items():
        rows = [
            f"| [{r.code}]({r.code}.md) | {r.name} | {escaped(r.title)} |"
            for r in own()
            if r.kind == kind
        ]
        if rows:
            table = "\n".join(["| code | name | what is wrong |", "|---|---|---|", *rows])
            parts.append(f"## {title}\n\n{table}\n")
    parts.append(
        "[The doctor](../doctor.md) says how the rules are run, "
        "[Contributing](../../CONTRIBUTING.md#add-a-rule-of-the-doctor) how one is added.\n"
    )
    return "\n".join(parts)


def markdown(text: str) -> str:
    """A docstring as Markdown. Its code is that of a person's model and is not executed: ``py``."""
    text = re.sub(r"(?<!`)``([^`\n]+)``(?!`)", r"`\1`", text)
    return text.replace("```python\n", "```py\n")


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    made = pages()
    for old in PAGES.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")
