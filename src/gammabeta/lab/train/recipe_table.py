"""Recipes side by side, as a table that a person can read."""

from __future__ import annotations

from collections.abc import Callable

from gammabeta.lab.train.recipes import Recipe
from gammabeta.table import table

_Text = Callable[[Recipe], str]


def describe(*recipes: Recipe) -> str:
    """Return a table of ``recipes``: a line a setting, a column a recipe.

    What one of the switches of section 4.2.1 has changed bears a star.

    Example:
        >>> from gammabeta.lab.train.recipes import recipe
        >>> print("\\n".join(describe(recipe("inception"), recipe("bn-x30")).splitlines()[:4]))
        setting                 inception    bn-x30
        normalization                none     batch
        activation                   relu      relu
        initial learning rate      0.0015   0.045 *
    """
    return table(
        ["setting", *(recipe.name for recipe in recipes)],
        [[label, *(text(recipe) for recipe in recipes)] for label, text in _ROWS],
    )


def _starred(text: str, changed: bool) -> str:
    return f"{text} *" if changed else text


def _rate(recipe: Recipe) -> str:
    return _starred(f"{recipe.lr:g}", recipe.rate_factor != 1)


def _dropout(recipe: Recipe) -> str:
    return _starred(f"{recipe.dropout:.0%}", recipe.no_dropout)


def _l2(recipe: Recipe) -> str:
    return _starred(f"{recipe.weight_decay:g}", recipe.weaker_l2)


def _decay(recipe: Recipe) -> str:
    return _starred(f"{recipe.decay_every:,.0f}", recipe.faster_decay)


def _local(recipe: Recipe) -> str:
    return _starred("yes" if recipe.local_response_norm else "no", recipe.no_local_response_norm)


def _shuffled(recipe: Recipe) -> str:
    return "yes *" if recipe.shuffle_within_shards else "no"


def _distortions(recipe: Recipe) -> str:
    return "weak *" if recipe.weak_distortions else "full"


_ROWS: list[tuple[str, _Text]] = [
    ("normalization", lambda r: r.norm),
    ("activation", lambda r: r.activation),
    ("initial learning rate", _rate),
    ("rate multiplied by", lambda r: f"{r.decay_rate:g}"),
    ("  every so many steps", _decay),
    ("dropout", _dropout),
    ("weight of L2 penalty", _l2),
    ("local response norm", _local),
    ("shuffled within shards", _shuffled),
    ("distortions of colour", _distortions),
    ("batch size", lambda r: str(r.batch_size)),
    ("momentum", lambda r: f"{r.momentum:g}"),
    ("initial weights", lambda r: f"{r.init} × {r.init_scale:g}"),
    ("per-activation modules", lambda r: str(r.per_activation)),
]
