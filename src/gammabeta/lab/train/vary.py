"""Variations of a recipe for the members of an ensemble (section 4.2.3)."""

from __future__ import annotations

from typing import Any

from gammabeta.lab.train.recipes import Recipe

LARGER = 1.5
"""Factor of the larger initial weights. The paper does not print its own."""

_LARGER: dict[str, Any] = {"init_scale": LARGER}
_DROP_5: dict[str, Any] = {"no_dropout": False, "dropout_fraction": 0.05}
_DROP_10: dict[str, Any] = {"no_dropout": False, "dropout_fraction": 0.1}
_PER_ACTIVATION: dict[str, Any] = {"per_activation": 1}

MEMBERS: tuple[dict[str, Any], ...] = (
    _LARGER,
    _DROP_5,
    _PER_ACTIVATION,
    {**_LARGER, **_DROP_10},
    {**_DROP_5, **_PER_ACTIVATION},
    {**_LARGER, **_DROP_10, **_PER_ACTIVATION},
    _DROP_10,
    {**_LARGER, **_DROP_5},
    {**_LARGER, **_PER_ACTIVATION},
    {**_DROP_10, **_PER_ACTIVATION},
    {**_LARGER, **_DROP_5, **_PER_ACTIVATION},
)
"""Changes of each member: all non-empty combinations. Among the first six, the size of the paper's
ensemble, each change occurs two to four times."""


def vary(recipe: Recipe, k: int) -> Recipe:
    """Return the recipe of member ``k`` of an ensemble around ``recipe``.

    Each member has some of these: larger initial weights (× 1.5); dropout of 5 % or 10 %; γ and β
    per activation in the last module. They depend on ``k`` only and repeat from 11 on. The seed is
    not part of the recipe: give each member its own.

    Args:
        recipe: the paper's is ``bn-x30``.
        k: 0 is the first member.

    Raises:
        ValueError: ``k`` is negative, or the recipe is without batch norm.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.2.3.

    Example:
        >>> from gammabeta.lab.train.recipes import recipe
        >>> member = vary(recipe("bn-x30"), 3)
        >>> member.name, member.init_scale, member.dropout, member.per_activation
        ('bn-x30/3', 1.5, 0.1, 0)
    """
    if k < 0:
        raise ValueError(f"k={k} must be at least 0, the first member")
    if recipe.norm != "batch":
        raise ValueError(
            f"recipe={recipe.name!r} is without batch norm; vary a recipe that has it, "
            "such as 'bn-x30'"
        )
    changes = dict(MEMBERS[k % len(MEMBERS)])
    if "init_scale" in changes:
        changes["init_scale"] *= recipe.init_scale
    return recipe.with_changes(name=f"{recipe.name}/{k}", **changes)
