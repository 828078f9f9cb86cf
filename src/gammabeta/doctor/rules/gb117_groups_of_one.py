"""A norm takes each statistic over one value, so its output does not depend on its input.

## What it is

A layer norm over one feature, a group norm with one channel a group on 1×1 inputs or vectors, an
instance norm on 1×1 inputs: the mean is the value itself, so x̂ = 0 and the output is β. With two
values x̂ is +1 and −1, whatever they are. An RMS norm over one feature returns its sign.

## Why it matters

Nothing passes through the layer, and no gradient comes back. PyTorch raises in some of these cases
only: not for a group norm if the batch is larger than one.

## How it is detected

Layer and RMS norms are read. Group norms with one channel a group are reported if they come right
after a linear layer, a flattening or a pooling to 1×1. With batches, the shapes of all calls
decide; where torch refuses the first batch for this reason, the norm that it names. One value is an
error, two are a warning.

## Fix

```python
nn.GroupNorm(8, channels)  # at least 4 values a group; or nn.LayerNorm(channels)
```

## Source

Wu & He 2018, arXiv:1803.08494; the check in `torch.nn.functional.group_norm` counts all examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from gammabeta.conversion.graph.flow import Site
from gammabeta.conversion.graph.nodes import BlockedError, input_of
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject

_FAMILIES = ("layer", "rms", "group", "instance")
_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
          nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)  # fmt: skip


@static("GB117", "groups-of-one", "a norm takes its statistics over one value")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each such norm."""
    norms = [norm for norm in subject.norms if norm.family in _FAMILIES and not norm.is_batch]
    shapes = _shapes(subject, norms)
    for norm in norms:
        values = _most(norm, shapes[norm.path]) if norm.path in shapes else _read(subject, norm)
        values = 1 if norm is subject.refusing else values
        if values is None or values > 2:
            continue
        rms = norm.family == "rms"
        if rms and values == 2:
            continue
        yield Finding(
            severity="error" if values == 1 else "warning",
            layer=norm.path,
            cause=_cause(values, rms),
            numbers={"values": values, "norm": type(norm.module).__name__},
            fix=_fix(norm),
        )


def _cause(values: int, rms: bool) -> str:
    if values == 2:
        return "it takes each statistic over two values, so they become +1 and −1"
    if rms:
        return "it takes each statistic over one value, so only the sign of its input is left"
    return "it takes each statistic over one value, so its output is β whatever its input is"


def _fix(norm: Norm) -> str:
    if norm.family in ("layer", "rms"):
        return "nn.LayerNorm(features)  # over more than one feature, or no norm here"
    channels = _channels(norm.module) or "channels"
    groups = next((g for g in (8, 4, 2) if isinstance(channels, int) and channels >= 4 * g), 1)
    return f"nn.GroupNorm({groups}, {channels})  # several channels a group"


def _channels(module: Any) -> int | None:
    return getattr(module, "num_channels", None) or getattr(module, "num_features", None)


# From the shapes that were seen


def _shapes(subject: Subject, norms: list[Norm]) -> dict[str, set[tuple[int, ...]]]:
    evidence = subject.evidence
    found: dict[str, set[tuple[int, ...]]] = {}
    if evidence is None or not evidence.spent:
        return found
    wanted = {norm.path for norm in norms}
    for each in evidence.evaluated:
        for call in each.calls:
            if call.layer in wanted:
                found.setdefault(call.layer, set()).add(call.shape)
    return found


def _most(norm: Norm, shapes: set[tuple[int, ...]]) -> int | None:
    counts = [n for shape in shapes if (n := _values(norm, shape)) is not None]
    return max(counts, default=None)


def _values(norm: Norm, shape: tuple[int, ...]) -> int | None:
    """Return how many values each statistic is taken over."""
    module = norm.module
    if norm.family in ("layer", "rms"):
        over = getattr(module, "normalized_shape", None)
        if over is not None:
            return int(math.prod(over))
        return shape[norm.traits.dim] if norm.traits.normalizes and shape else None
    if len(shape) < 2:
        return None
    if norm.family == "group":
        groups = getattr(module, "num_groups", None)
        if not isinstance(groups, int):
            return None
        return shape[1] // max(1, groups) * math.prod(shape[2:])
    if getattr(module, "track_running_stats", False):
        return None
    return math.prod(shape[2:]) if len(shape) > 2 else shape[1]  # (C, L) is one example


# From the model alone


def _read(subject: Subject, norm: Norm) -> int | None:
    module = norm.module
    if norm.family in ("layer", "rms"):
        over = getattr(module, "normalized_shape", None)
        return int(math.prod(over)) if over is not None else None
    channels, groups = _channels(module), getattr(module, "num_groups", None)
    if norm.family == "group":
        if not isinstance(groups, int) or channels is None or channels // groups > 2:
            return None
        each = channels // groups
    else:
        each = 1
    return each if _is_vector(subject, norm) else None


def _is_vector(subject: Subject, norm: Norm) -> bool:
    """Whether all calls come after a layer that leaves one value a channel."""
    flow = subject.flow
    sites = flow.sites.get(norm.module, []) if flow is not None else []
    try:
        ones = [_leaves_one(subject, s.part, input_of(s.node), norm.family) for s in sites]
    except BlockedError:
        return False
    return bool(ones) and all(ones)


_KEEP_SIZE = (nn.ReLU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Dropout, nn.Identity, nn.Sigmoid)


def _leaves_one(subject: Subject, part: Any, node: Any, family: str, depth: int = 8) -> bool:
    """Whether the output of a node has one value a channel."""
    flow = subject.flow
    if flow is None or depth == 0:
        return False
    if node.op == "call_module":
        layer = flow.called(Site(part, node))
        if isinstance(layer, _POOLS):
            sizes: Any = layer.output_size
            return all(s == 1 for s in (sizes if isinstance(sizes, tuple) else (sizes,)))
        if isinstance(layer, (nn.Linear, nn.Flatten)):
            return family == "group"
        pointwise = isinstance(layer, nn.modules.conv._ConvNd) and set(layer.kernel_size) == {1}
        if pointwise or isinstance(layer, _KEEP_SIZE):
            return _leaves_one(subject, part, input_of(node), family, depth - 1)
        return False
    name = str(getattr(node.target, "__name__", node.target))
    if name.startswith(("adaptive_avg_pool", "adaptive_max_pool")):
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
        return given in (1, (1, 1), (1, 1, 1), [1, 1])
    if name in ("mean", "amax"):
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        over = tuple(given) if isinstance(given, (tuple, list)) else ()
        return over in ((2, 3), (-2, -1), (-1, -2), (2, 3, 4)) and (
            node.kwargs.get("keepdim") is True or family == "group"
        )
    return False
