"""The stages of a signal: what a probe measures, in one table."""

from __future__ import annotations

from typing import Literal, NamedTuple

Place = Literal["layer", "row", "parameter", "statistic"]
"""Where a stage is measured: in a layer, in a row of its own, of a layer's parameters, or of a
normalization's statistics, one value a channel."""


class Stage(NamedTuple):
    """A stage: its name on the page, what it is, and where it is measured."""

    title: str
    description: str
    place: Place


STAGES: dict[str, Stage] = {
    "z": Stage("z", "output of the linear or convolution, or input of the normalization", "layer"),
    "normalized": Stage("x̂", "normalized to mean 0 and variance 1", "layer"),
    "affine": Stage("γx̂ + β", "output of the normalization", "layer"),
    "activation": Stage("activation", "output of the activation", "layer"),
    "residual": Stage("residual", "the residual stream after a sum", "row"),
    "attention": Stage("attention", "softmax probabilities", "row"),
    "attended": Stage("attended", "output of the attention", "row"),
    "weight": Stage("weight", "the layer's weights", "parameter"),
    "gamma": Stage("γ", "scale, one value a channel", "parameter"),
    "beta": Stage("β", "shift, one value a channel", "parameter"),
    "mean_shift": Stage(
        "mean shift", "(batch mean − running mean) ÷ running σ, one value a channel", "statistic"
    ),
    "var_ratio": Stage(
        "variance ratio", "ln(batch variance ÷ running variance), one value a channel", "statistic"
    ),
}
"""Every stage by the name it has in a record."""

LAYER_STAGES = tuple(name for name, stage in STAGES.items() if stage.place == "layer")
"""z, x̂, γx̂ + β and the output of the activation, in this order."""

PER_CHANNEL = ("gamma", "beta", "mean_shift", "var_ratio")
"""Stages with one value a channel."""
