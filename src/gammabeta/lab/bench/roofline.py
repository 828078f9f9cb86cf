"""The picture of a benchmark of norms: bandwidth reached against the size of the tensor, as SVG.

Written by hand, without a library: the same rows give the same bytes everywhere.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from gammabeta.lab.bench.inputs import FORMATS
from gammabeta.lab.bench.norm_report import LAYOUTS
from gammabeta.lab.bench.results import Row

Curve = list[tuple[float, float]]
"""Mebibytes of the input and GB/s, by size."""

SERIES = {
    ("copy", "torch"): ("copy", "copy"),
    ("relu", "torch"): ("relu", "ReLU alone"),
    ("bn+relu", "eager"): ("torch", "torch BN+ReLU"),
    ("bn+relu", "gammabeta"): ("ours", "gammabeta BN+ReLU"),
}
"""(what, who) → CSS class and label."""

WIDTH, HEIGHT = 1056, 404
LEFT, TOP, PLOT, TALL = 58, 84, 254, 236
STRIDE = PLOT + 26
APART = 15  # least distance of two names

# Own background: a picture is shown on pages whose theme it cannot know.
STYLE = """
.card{fill:#fcfbf9;stroke:#d8d4cc}.ink{fill:#1c1e22}.muted{fill:#63666d}
.grid{stroke:#e6e2da}.axis{stroke:#8a8780}
.copy{stroke:#8a8780}.relu{stroke:#7a5195}.ours{stroke:#0f6e84}.torch{stroke:#c7581a}
.copy-t{fill:#63666d}.relu-t{fill:#7a5195}.ours-t{fill:#0f6e84}.torch-t{fill:#b34d14}
path{fill:none;stroke-width:2;stroke-linejoin:round}.ours{stroke-width:3}
.copy{stroke-dasharray:5 4}
circle{stroke:none;opacity:.35}
text{font:13px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
.title{font-size:15px;font-weight:600}.head{font-weight:600}.small{font-size:11px}
.mid{text-anchor:middle}.end{text-anchor:end}
@media (prefers-color-scheme:dark){
.card{fill:#14161a;stroke:#2e323a}.ink{fill:#ecebe8}.muted{fill:#a0a4ac}
.grid{stroke:#262a31}.axis{stroke:#7f838b}
.copy{stroke:#8f939b}.relu{stroke:#c9a2e6}.ours{stroke:#5ccbe2}.torch{stroke:#ff9d5c}
.copy-t{fill:#a0a4ac}.relu-t{fill:#c9a2e6}.ours-t{fill:#5ccbe2}.torch-t{fill:#ff9d5c}}
"""


class Axes:
    """Two logarithmic axes that all panels share.

    Args:
        curves: all that will be drawn.
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        points = [point for curve in curves for point in curve]
        self.x_low, self.x_high = _widened([x for x, _ in points], 1.25)
        self.y_low, self.y_high = _widened([y for _, y in points], 1.15)

    def x(self, size: float) -> float:
        """Distance of ``size`` from the left edge of a panel."""
        return _share(size, self.x_low, self.x_high) * PLOT

    def y(self, bandwidth: float) -> float:
        """Vertical place of ``bandwidth``."""
        return TOP + (1 - _share(bandwidth, self.y_low, self.y_high)) * TALL


def curves(rows: Sequence[Row], name: str) -> dict[tuple[str, str], tuple[Curve, Curve]]:
    """Return what is drawn of the format ``name``.

    Args:
        rows: of `gammabeta.lab.bench.norm`.
        name: of `gammabeta.lab.bench.inputs.FORMATS`.

    Returns:
        (what, who) → a point a shape, and a curve of their medians at each size.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row.format == name and (row.what, row.who) in SERIES and not math.isnan(row.q50):
            size = math.prod(map(int, row.shape.split("x"))) * FORMATS[name][0].itemsize / 2**20
            found.setdefault((row.what, row.who), []).append((size, row.bytes / row.q50 / 1e9))
    return {key: (sorted(found[key]), _medians(found[key])) for key in SERIES if key in found}


def draw(rows: Sequence[Row]) -> str:
    """Return the picture of ``rows`` as SVG; panels for the formats there are.

    Args:
        rows: of `gammabeta.lab.bench.norm`, of BN+ReLU at least.

    Raises:
        ValueError: there is nothing to draw.
    """
    panels = {name: found for name in FORMATS if (found := curves(rows, name))}
    if not panels:
        raise ValueError("no rows of BN+ReLU, ReLU or copy to draw")
    axes = Axes([curve for found in panels.values() for curve, _ in found.values()])
    width = WIDTH - (3 - len(panels)) * STRIDE
    setting = rows[0].setting
    caption = (
        "BN+ReLU and ReLU: training, forward + backward, each input, output and gradient moved "
        "once. A dot is a shape, a line their medians."
    )
    machine = (
        f"{setting.cpu}, {setting.threads} threads, torch {setting.torch}, {setting.date[:10]}"
    )
    body = [
        _text(18, 30, "Bandwidth in GB/s, by tensor size in MiB", "ink title"),
        *(line for n, name in enumerate(panels) for line in _panel(n, name, panels[name], axes)),
        *_names(LEFT + (len(panels) - 1) * STRIDE + PLOT + 8, panels, axes),
        *(
            _text(18, HEIGHT - 34 + 17 * n, line, "muted small")
            for n, line in enumerate((caption, machine) if len(panels) > 1 else (machine,))
        ),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" '
        f'viewBox="0 0 {width} {HEIGHT}" role="img" aria-labelledby="d">\n'
        f'<desc id="d">{describe(panels)}</desc>\n<style>{STYLE}</style>\n'
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{HEIGHT - 1}" rx="8" class="card"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def describe(panels: Mapping[str, Mapping[tuple[str, str], tuple[Curve, Curve]]]) -> str:
    """Say what the picture shows, to those who cannot see it."""
    parts = []
    for name, found in panels.items():
        ends = [f"{SERIES[key][1]} {found[key][1][-1][1]:.3g}" for key in found]
        size = next(iter(found.values()))[1][-1][0]
        parts.append(f"{LAYOUTS[name]} at {size:.0f} MiB: {', '.join(ends)} GB/s")
    return "Bandwidth reached, by size of the tensor. " + "; ".join(parts) + "."


def _panel(
    number: int, name: str, found: Mapping[tuple[str, str], tuple[Curve, Curve]], axes: Axes
) -> Iterator[str]:
    """One format: grid, numbers at it, points, curves."""
    left = LEFT + number * STRIDE
    yield _text(left, TOP - 14, LAYOUTS[name], "ink head")
    for tick in _decades(axes.y_low, axes.y_high):
        y = axes.y(tick)
        yield f'<path d="M{left} {y:.1f}h{PLOT}" class="grid" style="stroke-width:1"/>'
        if number == 0:
            yield _text(left - 8, y + 4, f"{tick:g}", "muted small end")
    for tick in _decades(axes.x_low, axes.x_high):
        x = left + axes.x(tick)
        yield f'<path d="M{x:.1f} {TOP}v{TALL}" class="grid" style="stroke-width:1"/>'
        yield _text(x, TOP + TALL + 17, f"{tick:g}", "muted small mid")
    yield f'<path d="M{left} {TOP + TALL}h{PLOT}" class="axis" style="stroke-width:1"/>'
    for key, (points, middle) in found.items():
        kind = SERIES[key][0]
        for x, y in points:
            yield (
                f'<circle cx="{left + axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.5" '
                f'class="{kind}-t"/>'
            )
        line = "L".join(f"{left + axes.x(x):.1f} {axes.y(y):.1f}" for x, y in middle)
        yield f'<path d="M{line}" class="{kind}"/>'


def _names(
    left: float, panels: Mapping[str, Mapping[tuple[str, str], tuple[Curve, Curve]]], axes: Axes
) -> Iterator[str]:
    """The curves' names at their ends in the last panel, moved apart where they would meet."""
    found = list(panels.values())[-1]
    ends = sorted((axes.y(middle[-1][1]), key) for key, (_, middle) in found.items())
    place = -math.inf
    places = []
    for y, _ in ends:
        place = max(y, place + APART)
        places.append(place)
    too_low = max(0.0, places[-1] - (TOP + TALL)) if places else 0.0
    for (_, key), y in zip(ends, places, strict=True):
        kind, label = SERIES[key]
        yield _text(left, y - too_low + 4, label, f"{kind}-t" + (" head" if kind == "ours" else ""))


def _medians(points: Curve) -> Curve:
    by_size: dict[float, list[float]] = {}
    for size, bandwidth in points:
        by_size.setdefault(size, []).append(bandwidth)
    return [(size, statistics.median(by_size[size])) for size in sorted(by_size)]


def _widened(values: Sequence[float], by: float) -> tuple[float, float]:
    return min(values) / by, max(values) * by


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between ``low`` and ``high``, with 2s and 5s where those would be few."""
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [
            step * 10.0**power
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for step in steps
        ]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _text(x: float, y: float, words: str, classes: str) -> str:
    plain = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}">{plain}</text>'
