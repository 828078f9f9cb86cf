"""The networks whose training step is measured: a small default, the paper's, any other one."""

from __future__ import annotations

import importlib
import os
import sys

import torch
from torch import nn

from gammabeta.conversion import revert
from gammabeta.lab.models import Inception

CLASSES = 10

INCEPTIONS = {"bn-inception": 1.0, "small-inception": 0.25}
"""Name → width of the paper's network."""


def default(depth: int = 8, width: int = 64) -> nn.Module:
    """Return a plain convolutional network: ``depth`` × (conv 3×3, batch norm, ReLU), a head.

    Args:
        depth: number of convolutions.
        width: their channels.

    Example:
        >>> default(1, 4)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    blocks: list[nn.Module] = []
    channels = 3
    for _ in range(depth):
        blocks += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)
    )


def load(model: str | None, size: int = 32, seed: int = 0) -> tuple[str, nn.Module]:
    """Return the name and the module that ``model`` stands for.

    Args:
        model: of `INCEPTIONS`, in torch's layers; or ``"module:function"``, where the function
            takes nothing and returns a module built of torch's layers; it is looked for in the
            current folder too. None for `default`.
        size: height and width of the images, which decide BN-Inception's stem.
        seed: of its weights.

    Raises:
        ValueError: ``model`` names no such function, or what it returns is no module.
    """
    torch.manual_seed(seed)
    if model is None:
        return "8 × conv 3×3, width 64", default()
    if model in INCEPTIONS:
        net = Inception(CLASSES, input_size=size, width=INCEPTIONS[model], seed=seed)
        return model, revert(net, fused="split")
    function = find(model)
    made = function() if callable(function) else function
    if not isinstance(made, nn.Module):
        raise ValueError(f"model={model!r} made a {type(made).__name__}, no torch.nn.Module")
    return model, made


def find(model: str) -> object:
    """Return what ``"module:function"`` names; the module may be in the current folder.

    Raises:
        ValueError: ``model`` is not of this form, or there is no such module or function.

    Example:
        >>> find("torch.nn:Identity")
        <class 'torch.nn.modules.linear.Identity'>
    """
    home, _, name = model.partition(":")
    if not home or not name:
        raise ValueError(
            f"model={model!r} must be module:function, such as mynets:resnet, or one of: "
            f"{', '.join(INCEPTIONS)}"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = getattr(importlib.import_module(home), name)
    except ImportError as e:
        raise ValueError(f"model={model!r}: cannot import {home}: {e}") from e
    except AttributeError as e:
        raise ValueError(f"model={model!r}: {home} has no {name}") from e
    return found
