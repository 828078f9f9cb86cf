"""Figures of claims: Matplotlib, as SVG whose colours follow the reader's light or dark page."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gammabeta.atomic_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, PAPER = "#1c1e22", "#63666d", "#e3e0da", "#fcfbf9"
WARM, COOL, PLUM, OLIVE, BAD = "#b8450f", "#0f6e84", "#8a3a82", "#5a6b12", "#b3261e"
"""As on the view's page: warm is without batch norm, cool is with it. Use no other colours."""

_DARK = {
    INK: ("ink", "#ecebe8"),
    MUTED: ("muted", "#a0a4ac"),
    LINE: ("line", "#2e323a"),
    PAPER: ("paper", "#14161a"),
    WARM: ("warm", "#ff9d5c"),
    COOL: ("cool", "#5ccbe2"),
    PLUM: ("plum", "#e39ad8"),
    OLIVE: ("olive", "#b6cc5c"),
    BAD: ("bad", "#ff8a80"),
}
_FONTS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
PANEL = (3.6, 2.7)
"""Inches of one panel."""


@dataclass(frozen=True)
class Sheet:
    """A figure being drawn.

    Attributes:
        figure: Matplotlib's.
        panels: its axes, row by row.
    """

    figure: Figure
    panels: list[Axes]


@contextmanager
def sheet(
    path: Path,
    describe: str,
    columns: int = 1,
    rows: int = 1,
    panel: tuple[float, float] = PANEL,
    **options: Any,
) -> Iterator[Sheet]:
    """Draw a figure and save it at ``path`` when the block ends.

    Args:
        path: of the SVG, see `gammabeta.lab.claims.framework.context.Context.figure`.
        describe: what it shows, for who cannot see it; two sentences with the numbers.
        columns, rows: of panels.
        panel: width and height of one, in inches (72 points; a panel of 3.6 fits a phone).
        **options: `matplotlib.figure.Figure.subplots`', such as ``sharey=True``.

    Raises:
        ModuleNotFoundError: Matplotlib is missing.
    """
    need_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": path.stem,
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "text.color": INK,
        "grid.color": LINE,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, **options)
        yield Sheet(figure, list(panels.flat))
        for axes in panels.flat:
            axes.patch.set_alpha(0)
            _plain_numbers(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    write_whole(path, _themed(text.getvalue(), path.stem, describe))


def band(
    axes: Axes, x: Any, seeds: Any, colour: str, text: str = "", **options: Any
) -> tuple[float, float, str, str]:
    """Draw the median over seeds, and shade from the smallest to the largest.

    Args:
        axes: where to.
        x: of the points, (points,).
        seeds: their y, (seeds, points), an array.
        colour: of both.
        text: of the curve.
        **options: of the line, such as ``marker="o"``.

    Returns:
        The curve's end, as `labels` takes it.
    """
    import numpy as np

    middle = np.median(seeds, 0)
    axes.fill_between(x, seeds.min(0), seeds.max(0), color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, middle, color=colour, **options)
    return float(x[-1]), float(middle[-1]), text, colour


def label(axes: Axes, x: float, y: float, text: str, colour: str, **options: Any) -> None:
    """Write ``text`` beside the point (x, y), such as a curve's last, in the curve's colour."""
    axes.annotate(
        text,
        (x, y),
        xytext=options.pop("offset", (4, 0)),
        textcoords="offset points",
        color=colour,
        va=options.pop("va", "center"),
        annotation_clip=False,
        **options,
    )


def labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]], size: float = 8) -> None:
    """Write a `label` at the end of each curve, moved apart where they would overlap.

    Call it last, when limits and scales are set.

    Args:
        axes: of the curves.
        ends: x, y, text and colour of each.
        size: of the letters, in points.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not ends:
        return
    figure.draw_without_rendering()
    points = [
        (axes.transData.transform((x, y))[1] * 72 / figure.dpi, x, y, text, colour)
        for x, y, text, colour in ends
    ]
    right = max(x for x, *_ in ends)
    below = -math.inf
    for height, _, y, text, colour in sorted(points):
        place = max(height, below + 1.25 * size)
        below = place
        label(axes, right, y, text, colour, fontsize=size, offset=(5, place - height))


def inlined(svg: str) -> str:
    """Return a saved figure for the inside of a page that has the same colours as variables."""
    svg = svg[svg.index("<svg") :]
    return re.sub(r"<style id=\"theme\">.*?</style>", "", svg, flags=re.S)


def _plain_numbers(axes: Axes) -> None:
    """Write 100 on a logarithmic axis, not a power; and numbers between, where tens are few."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if axis.get_scale() != "log" or not isinstance(axis.get_minor_locator(), LogLocator):
            continue
        if isinstance(axis.get_major_formatter(), LogFormatterSciNotation):
            axis.set_major_formatter("{x:,.0f}" if limits[0] >= 0.9 else "{x:g}")
        tens = math.floor(math.log10(limits[1])) - math.ceil(math.log10(limits[0])) + 1
        if tens < 2 or limits[1] / limits[0] < 30:
            axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
            axis.set_minor_formatter(axis.get_major_formatter())
        else:
            axis.set_minor_formatter(NullFormatter())


def need_matplotlib() -> None:
    """Raise one clear line unless Matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            "figures need Matplotlib: pip install 'gammabeta[claims]'", name="matplotlib"
        ) from e


def _themed(svg: str, stem: str, describe: str) -> str:
    """Name the colours, so that a page can change them; make ids this figure's own."""
    svg = svg[svg.index("<svg") :]
    for colour, (name, _) in _DARK.items():
        svg = re.sub(colour, f"var(--{name}, {colour})", svg, flags=re.I)
    svg = re.sub(r"'DejaVu Sans', '?sans-serif'?|'DejaVu Sans'", _FONTS, svg)
    svg = re.sub(r'\bid="', f'id="{stem}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{stem}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    dark = "".join(f"--{name}:{colour};" for name, colour in _DARK.values())
    theme = (
        f'<style id="theme">@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>'
        f'<title id="{stem}-title">{html.escape(describe)}</title>'
    )
    head, body = svg.split(">", 1)
    return f'{head} role="img" aria-labelledby="{stem}-title">{theme}{body}'
