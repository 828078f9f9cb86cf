"""The table: its scaled forms, and the page that shows it."""

from __future__ import annotations

import re
from pathlib import Path

from gammabeta.lab.models.inception_table import TABLE, halved, modules, scaled
from gammabeta.lab.train.recipe_table import describe
from gammabeta.lab.train.recipes import RECIPES, SWITCHES

PAGE = (Path(__file__).parents[3] / "docs/inception.md").read_text()


def test_the_page_shows_the_table() -> None:
    size, inputs = 28, 192
    rows = dict(re.findall(r"^\| (\d[a-e]) \| (.*) \|$", PAGE, re.M))
    assert list(rows) == [module.name for module in TABLE]
    for module in TABLE:
        inputs, size = module.outputs(inputs), module.out_size(size)
        assert rows[module.name].split(" | ") == [
            *map(str, (module.one, module.reduce, module.three)),
            *map(str, (module.double_reduce, module.double)),
            f"{module.pool}, {module.project}",
            f"{size}² × {inputs}",
        ]


def test_the_page_shows_the_recipes_and_every_switch() -> None:
    assert f"```\n{describe(*RECIPES.values())}\n```" in PAGE
    assert re.findall(r"^\| `(\w+)` \| [a-z]", PAGE, re.M)[-7:] == list(SWITCHES)


def test_half_and_a_quarter_are_exact() -> None:
    counted = ("one", "reduce", "three", "double_reduce", "double", "project")
    for width in (2.0, 0.5, 0.25, 0.125):
        for one, other in zip(TABLE, modules(width=width), strict=True):
            assert [getattr(other, f) for f in counted] == [
                getattr(one, f) * width for f in counted
            ]
    assert [scaled(channels, 0.3) for channels in (0, 32, 96, 352)] == [0, 8, 28, 104]
    assert scaled(64, 0.001) == 4


def test_stride_two_rounds_up() -> None:
    assert [halved(size) for size in (224, 28, 7, 1)] == [112, 14, 4, 1]
