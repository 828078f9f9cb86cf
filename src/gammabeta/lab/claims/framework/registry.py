"""All claims in the order of the report. Each has its own file, named after the claim."""

from __future__ import annotations

import importlib
from functools import cache

from gammabeta.lab.claims.framework.claim import Claim
from gammabeta.names import known

ORDER = (
    "fewer-steps",
    "inception",
    "higher-learning-rates",
    "bolder-initialization",
    "saturating-nonlinearity",
    "stable-distributions",
    "two-parameters",
    "regularizer",
    "ensemble",
    "smoother-landscape",
    "covariate-shift",
    "noisy-bn",
    "train-eval-gap",
    "batch-of-one",
    "recurrent",
    "transformers",
)
"""A claim called ``fewer-steps`` is the ``CLAIM`` of ``gammabeta/lab/claims/fewer_steps.py``."""


@cache
def claims() -> dict[str, Claim]:
    """Return every claim by its name, in `ORDER`."""
    modules = {name: f"gammabeta.lab.claims.{name.replace('-', '_')}" for name in ORDER}
    return {name: importlib.import_module(module).CLAIM for name, module in modules.items()}


def claim(name: str) -> Claim:
    """Return the claim called ``name``.

    Raises:
        ValueError: unknown name; the nearest is offered.
    """
    return claims()[known("claim", name, claims())]
