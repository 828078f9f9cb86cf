"""What is measured of a watched network, as rows of the results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from gammabeta.lab.bench.results import Row, Setting
from gammabeta.lab.bench.watch_nets import Network


def network_row(
    setting: Setting,
    network: Network,
    what: str,
    who: str,
    values: np.ndarray[Any, Any] | None,
    note: str = "",
    unit: str = "s",
) -> Row:
    """Return the row of a figure about ``network``, with the quantiles of its ``values``.

    Without values the figures are NaN, and ``note`` says why.
    """
    q20, q50, q80 = (
        (math.nan,) * 3 if values is None else map(float, np.quantile(values, (0.2, 0.5, 0.8)))
    )
    return Row(
        setting,
        "watch",
        case=network.name,
        dtype="fp32",
        layout="nchw",
        shape=network.shape,
        what=what,
        who=who,
        unit=unit,
        q20=q20,
        q50=q50,
        q80=q80,
        rounds=0 if values is None else len(values),
        note=note,
    )


def absent_row(setting: Setting, name: str, why: str) -> Row:
    """Return the row of a network that cannot be built here."""
    nothing = Network(name, nn.Identity(), lambda net: torch.zeros(()), "")
    return network_row(setting, nothing, "step", "plain", None, why)
