"""The picture shows the rows, and its words do not meet."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from gammabeta.lab.bench.roofline import APART, curves, draw
from tests.lab.bench.rows import timed

SHAPES = ("32x64x112x112", "32x64x28x28", "32x16x56x56", "32x64x7x7")
ROWS = [
    timed(what, who, 1e-9 * slow * n**2, shape, dtype=dtype, layout=layout)
    for dtype, layout in (("fp32", "nchw"), ("fp32", "channels_last"), ("bf16", "channels_last"))
    for n, shape in enumerate(SHAPES, 100)
    for what, who, slow in (
        ("copy", "torch", 1.0),
        ("relu", "torch", 2.5),
        ("bn+relu", "gammabeta", 2.6),
        ("bn+relu", "eager", 9.0),
    )
]
SVG = "{http://www.w3.org/2000/svg}"


def test_bandwidth_is_bytes_over_time() -> None:
    row = timed("bn+relu", "gammabeta", 0.5, "1024x1024")  # 4 MiB, five times
    (points, middle) = curves([row], "fp32-nchw")["bn+relu", "gammabeta"]
    assert points == middle == [(4.0, pytest.approx(5 * 4 * 2**20 / 0.5 / 1e9))]


def test_shapes_of_one_size_are_points_of_their_own_and_one_place_of_the_line() -> None:
    (points, middle) = curves(ROWS, "fp32-nchw")["relu", "torch"]
    sizes = [x for x, _ in points]
    # 64 × 28 × 28 and 16 × 56 × 56 are as large.
    assert len(sizes) == 4
    assert [x for x, _ in middle] == sorted(set(sizes)) == [0.3828125, 6.125, 98.0]
    assert middle[1][1] == pytest.approx((points[1][1] + points[2][1]) / 2)


def test_every_row_is_drawn_within_its_panel() -> None:
    root = ET.fromstring(draw(ROWS))
    dots = root.findall(f"{SVG}circle")
    assert len(dots) == len(ROWS)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for dot in dots:
        assert 0 < float(dot.attrib["cx"]) < width - 150
        assert 60 < float(dot.attrib["cy"]) < height - 60
    heads = [t.text for t in root.findall(f"{SVG}text") if t.attrib["class"] == "ink head"]
    assert heads == ["fp32 NCHW", "fp32 channels_last", "bf16 channels_last"]


def test_more_bandwidth_is_higher_and_larger_is_further_right() -> None:
    rows = [row for row in ROWS if row.format == "fp32-nchw" and row.what == "copy"]
    dots = ET.fromstring(draw(rows)).findall(f"{SVG}circle")
    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in dots]
    drawn = curves(rows, "fp32-nchw")["copy", "torch"][0]
    for (x, y), (size, speed) in zip(places, drawn, strict=True):
        for (other_x, other_y), (other_size, other_speed) in zip(places, drawn, strict=True):
            assert (x < other_x) == (size < other_size)
            assert (y < other_y) == (speed > other_speed)


def test_the_curves_are_named_at_their_ends_and_the_names_keep_apart() -> None:
    root = ET.fromstring(draw(ROWS))
    named = {
        str(t.text): float(t.attrib["y"])
        for t in root.findall(f"{SVG}text")
        if re.match("(copy|relu|ours|torch)-t", t.attrib["class"])
    }
    assert set(named) == {"copy", "ReLU alone", "gammabeta BN+ReLU", "torch BN+ReLU"}
    places = sorted(named.values())
    assert all(b - a >= APART - 0.11 for a, b in itertools.pairwise(places))


def test_the_picture_says_in_words_what_it_shows() -> None:
    root = ET.fromstring(draw(ROWS))
    described = root.findtext(f"{SVG}desc")
    assert described is not None
    assert "fp32 NCHW at 98 MiB: copy " in described


def test_fewer_formats_make_a_narrower_picture() -> None:
    rows = [row for row in ROWS if row.dtype == "bf16"]
    narrow, wide = (float(ET.fromstring(draw(r)).attrib["width"]) for r in (rows, ROWS))
    assert narrow < wide


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match=r"no rows of BN\+ReLU"):
        draw([timed("bn", "gammabeta", 1.0)])
