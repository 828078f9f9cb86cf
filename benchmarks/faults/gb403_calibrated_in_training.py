"""Ranges for static quantization are calibrated in training mode."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.ao import quantization

CODE = "GB403"
LAYER = "2"
FIX = "eval()"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        quantization.QuantStub(),
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        quantization.DeQuantStub(),
    )
    for _ in range(30):
        model(torch.randn(8, 3, 8, 8))
    model.train(faulty)
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation of this API
        prepared = quantization.prepare(model)
        prepared(torch.randn(8, 3, 8, 8))
    return {"model": prepared}
