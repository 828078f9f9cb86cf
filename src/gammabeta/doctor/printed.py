"""Findings and rules as text of 80 columns, for a terminal."""

from __future__ import annotations

import ast
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gammabeta.doctor.finding import Finding

WIDTH = 80
_MOST_LAYERS = 3


def paragraph(finding: Finding) -> list[str]:
    """Return the lines that describe ``finding``."""
    step = "" if finding.step is None else f", since step {finding.step}"
    name = f" {finding.name}:" if finding.name else ""
    head = f"{finding.severity} {finding.code}{name} {places(finding.layers)}{step}"
    lines = wrapped(head, "", "    ") + wrapped(sentence(finding.cause), "    ", "    ")
    counted = ("layers", len(finding.layers))  # is in the head
    shown = [f"{k}: {_shown(v)}" for k, v in finding.numbers.items() if (k, v) != counted]
    if shown:
        lines += wrapped(", ".join(shown), "    ", "    ")
    if finding.cost:
        lines += wrapped(f"cost: {finding.cost}", "    ", "          ")
    for number, line in enumerate(_fix(finding.fix)):
        lines.append(("          " if number else "    fix:  ") + line)
    return lines


def _fix(text: str) -> list[str]:
    """Return a fix, which is code or words, in lines that fit behind a margin of 10."""
    width = WIDTH - 10
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return [each for line in text.splitlines() for each in wrapped(line, width=width)]
    found = []
    for line in (part for whole in text.splitlines() for part in code_lines(whole, width)):
        while columns(line) > width:  # a text or a name that nothing can be said shorter
            cut = _cut(line, width)
            found.append(line[:cut])
            line = line[cut:]
        found.append(line)
    return found


def wrapped(text: str, first: str = "", rest: str = "", width: int = WIDTH) -> list[str]:
    """Return ``text`` in lines of ``width`` columns; wide characters count twice.

    Args:
        text: words; control characters are shown as �.
        first: what the first line begins with.
        rest: what the other lines begin with.
        width: most columns of a line.
    """
    text = visible(text)
    if columns(text) == len(text):
        return textwrap.wrap(
            text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
        )
    lines, line = [], first
    for word in text.split():
        if line.strip() and columns(f"{line} {word}") > width:
            lines.append(line)
            line = rest
        line = f"{line} {word}" if line.strip() else f"{line}{word}"
        while columns(line) > width:
            cut = _cut(line, width)
            lines.append(line[:cut])
            line = rest + line[cut:]
    return [*lines, line] if line.strip() else lines


def page_text(page: str) -> str:
    """Return a rule's page, which is Markdown, as plain text of 80 columns.

    Headings are in capitals, code is indented, and code within a sentence has single backticks.

    Example:
        >>> print(page_text("A ``norm``.\\n\\n## Fix\\n\\n```python\\nx = 1\\n```"))
        A `norm`.
        <BLANKLINE>
        FIX
        <BLANKLINE>
            x = 1
    """
    lines: list[str] = []
    words: list[str] = []
    code = False
    for line in [*page.splitlines(), ""]:
        if words and (code or not line.strip() or line.startswith(("```", "- ", "|", "#"))):
            rest = "  " if words[0].startswith("- ") else ""
            lines += wrapped(" ".join(words).replace("``", "`"), "", rest)
            words = []
        if line.startswith("```"):
            code = not code
        elif code:
            lines.append(f"    {line}".rstrip())
        elif line.startswith("#"):
            lines.append(line.lstrip("# ").upper())
        elif line.startswith("|"):
            lines.append(line.replace("``", "`"))
        elif line.strip():
            words.append(line.strip())
        else:
            lines.append("")
    return "\n".join(lines).strip("\n")


def visible(text: str) -> str:
    """Return ``text`` with � for each control character, which a terminal would obey.

    Example:
        >>> visible("a\\x1b[2J")
        'a�[2J'
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def columns(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes.

    Example:
        >>> columns("σ"), columns("層")
        (1, 2)
    """
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def code_lines(line: str, width: int) -> list[str]:
    """Return a line of Python in lines of at most ``width`` columns that mean the same.

    A comment goes before the code. Code is continued at a space or a dot: within brackets as it is,
    outside with a backslash; a long text within brackets becomes several.

    Example:
        >>> for each in code_lines("optimizer = SGD(groups, lr=0.1)  # γ and β apart", 20):
        ...     print(each)
        # γ and β apart
        optimizer = SGD(
            groups, lr=0.1)
    """
    line = visible(line)
    if columns(line) <= width:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    code, comment = _comment_apart(line)
    lines: list[str] = []
    if comment:
        words = textwrap.wrap(comment, max(8, width - len(indent) - 2))
        lines = [f"{indent}# {each}" for each in words]
    if not code.strip():
        return lines
    rest = code.rstrip()
    opened = ""
    while columns(rest) > width:
        at, end, begin = _break(rest, width, opened)
        if at == 0:
            break
        lines.append(rest[:at].rstrip() + end)
        opened = _opened(rest[:at], opened)
        rest = f"{indent}    {begin}{rest[at:].lstrip() if not begin else rest[at:]}"
    return [*lines, rest]


def _break(code: str, width: int, opened: str) -> tuple[int, str, str]:
    """Return where to break ``code``, what ends the line there and what begins the next.

    0 if there is no such place. ``opened`` are the brackets that are open before ``code``.
    """
    start = len(code) - len(code.lstrip())
    best: dict[str, int] = {}
    used = 0
    for index, depth, quote in _scan(code, opened):
        used += columns(code[index])
        if index > start and not quote and code[index] == " ":
            if depth and used <= width + 1:
                best["space"] = index + 1
            elif not depth and used <= width - 1:
                best["space outside"] = index + 1
        elif index > start and not quote and code[index - 1] in "([{" and depth and used <= width:
            best["bracket"] = index
        elif index > start and not quote and code[index] == "." and code[index - 1].isidentifier():
            if depth and used <= width + 1:
                best["dot"] = index
            elif not depth and used <= width - 1:
                best["dot outside"] = index
        if quote and depth and used < width and index > start + 8:
            best["text"] = index + 1
            mark = quote
    inner = max((best.get(kind, 0) for kind in ("space", "bracket")), default=0)
    if inner:
        return inner, "", ""
    for kind, end in (("space outside", " \\"), ("dot", ""), ("dot outside", "\\")):
        if best.get(kind):
            return best[kind], end, ""
    if best.get("text") and code[best["text"] - 1] != "\\":
        return best["text"], mark, mark
    return 0, "", ""


def _scan(code: str, opened: str = "") -> Iterator[tuple[int, int, str]]:
    """Yield each index of ``code``, how many brackets are open there, and the open quote."""
    depth, quote, escaped = len(opened), "", False
    for index, character in enumerate(code):
        if quote:
            closes = character == quote and not escaped
            yield index, depth, "" if closes else quote
            escaped = character == "\\" and not escaped
            quote = "" if closes else quote
            continue
        yield index, depth, ""
        if character in "\"'":
            quote = character
        depth += (character in "([{") - (character in ")]}")


def _opened(code: str, before: str) -> str:
    depth = len(before)
    for index, now, quote in _scan(code, before):
        depth = now if quote else now + (code[index] in "([{") - (code[index] in ")]}")
    return "(" * max(0, depth)


def _comment_apart(line: str) -> tuple[str, str]:
    for index, _, quote in _scan(line):
        if line[index] == "#" and not quote:
            return line[:index], line[index + 1 :].strip()
    return line, ""


def _cut(text: str, width: int) -> int:
    used = 0
    for index, character in enumerate(text):
        used += columns(character)
        if used > width:
            return index
    return len(text)


def places(layers: Sequence[str]) -> str:
    """Return the paths of a few layers and the number of the others, in words.

    Example:
        >>> places(["bn"]), places(["", "a", "b", "c", "d"])
        ('bn', 'the model, a, b and 2 more')
    """
    named = [layer or "the model" for layer in layers[:_MOST_LAYERS]]
    more = len(layers) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def sentence(text: str) -> str:
    """Return ``text`` as a sentence; a first word that is code or a symbol keeps its case.

    Example:
        >>> sentence("momentum is 0"), sentence("γ is frozen"), sentence("running_var is NaN.")
        ('Momentum is 0.', 'γ is frozen.', 'running_var is NaN.')
    """
    word = text.split(" ", 1)[0].rstrip(",:;")
    plain = word.isascii() and word.replace("-", "").replace("'", "").isalpha()
    first = text[:1].upper() if plain else text[:1]
    return first + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
