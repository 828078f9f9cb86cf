"""Random calls of every layer that torch has too, beside torch's: the same values, or an error.

What may go wrong: a crash (seen by the process that started this one), an internal error, an error
where torch has a value, a value where torch has an error, another value.
"""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.ops.activations import ACTIVATIONS
from tests.fuzz.comparison import Wrong, compare

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

JUNK: tuple[Any, ...] = (
    None,
    0,
    -1,
    2.5,
    "a",
    [],
    (),
    {},
    object(),
    True,
    math.nan,
    math.inf,
    10**30,
)
KINDS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm", "RMSNorm")
KINDS += ("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")


@dataclass
class Call:
    """One layer and what is done with it.

    Attributes:
        ours: gammabeta's layer.
        torchs: torch's, with the same parameters and settings.
        args: what both are called with; a tensor, if all is well.
        residual: what ours adds.
        sane: whether nothing was broken on purpose, so that ours may not raise.
        story: what was done, for the report.
    """

    ours: nn.Module
    torchs: nn.Module
    x: Any
    residual: Tensor | None = None
    sane: bool = True
    story: list[str] = field(default_factory=list)


def run(seed: int, index: int) -> bool:
    """Make call ``index`` of ``seed``; returns whether it gave a value.

    Raises:
        Wrong: ours is not what torch's is.
    """
    draw = random.Random(f"{seed}:{index}")
    torch.manual_seed(draw.getrandbits(40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = drawn(draw)
        number = draw.choice((1, 1, 1, 2, 3, 16))
        if torch.get_num_threads() != number:
            torch.set_num_threads(number)
        grad = draw.random() < 0.7
        for _ in range(draw.choice((1, 1, 2))):
            try:
                compare(call.ours, call.torchs, call.x, call.residual, grad=grad, sane=call.sane)
            except Wrong as e:
                raise Wrong(f"{e}\n  {'; '.join(call.story)}") from e.__cause__
    return call.sane


def drawn(draw: random.Random) -> Call:
    """Draw a layer, its twin and an input."""
    kind = draw.choice(KINDS)
    story = [kind]
    dims = int(kind[-2]) if kind[-1] == "d" else draw.choice((0, 1, 2))
    c = draw.choice((1, 2, 3, 4, 6, 8, 16, 17, 32, 65))
    n = draw.choice((1, 2, 3, 5, 8, 33))
    spatial = [draw.choice((1, 2, 3, 5, 7, 14, 33)) for _ in range(dims)]
    if draw.random() < 0.04:
        n = 0
    if draw.random() < 0.02 and spatial:
        spatial[-1] = 0
    if kind == "BatchNorm1d" and draw.random() < 0.5:
        spatial = []
    shape = [n, c, *spatial]
    dtype = draw.choice(DTYPES)
    options: dict[str, Any] = {"eps": draw.choice((1e-5, 1e-3, 1e-8, 1.0))}
    if kind == "LayerNorm" or kind == "RMSNorm":
        count = draw.randint(1, len(shape) - 1)
        first: Any = shape[-count:]
        key = "elementwise_affine"
        if kind == "RMSNorm" and draw.random() < 0.3:
            options["eps"] = None
    elif kind == "GroupNorm":
        first, key = draw.choice([g for g in range(1, c + 1) if c % g == 0]), "affine"
    else:
        first, key = c, "affine"
        options["momentum"] = draw.choice((0.1, 0.1, None, 0.0, 1.0, 0.5))
        options["track_running_stats"] = draw.random() < 0.7
    options[key] = draw.random() < 0.8
    if kind == "LayerNorm":
        options["bias"] = draw.random() < 0.8
    arguments = (first, c) if kind == "GroupNorm" else (first,)
    torchs = getattr(nn, kind)(*arguments, **options)
    more = {}
    activation = draw.choice((None, None, None, *ACTIVATIONS))
    if activation == "hardsigmoid" and dtype is torch.float64:
        activation = "hardswish"  # torch's derivative of the former has the sixth of float32
    if kind.startswith("Batch"):
        more["memory"] = draw.choice(("default", "default", "lean"))
    if kind.startswith(("Batch", "Instance")):
        more["on_nonfinite"] = "accept"  # torch's own behaviour
    story.append(f"{arguments} {options} {more} activation={activation} {shape} {dtype}")
    ours = getattr(gb, kind)(*arguments, **options, **more, activation=activation)
    with torch.no_grad():
        for p in torchs.parameters():
            p.copy_(torch.randn_like(p))
        for name, b in torchs.named_buffers():
            if "running" in name:
                b.copy_(torch.rand_like(b) + 0.1)
    if draw.random() < 0.6 or dtype is torch.float64:
        torchs.to(dtype)
    ours.to(next((t.dtype for t in (*torchs.parameters(), *torchs.buffers())), dtype))
    ours.load_state_dict(torchs.state_dict())
    x = signal(draw, shape, story).to(dtype)
    x = laid_out(draw, x, story)
    residual = None
    if draw.random() < 0.3:
        residual = laid_out(draw, torch.randn(shape).to(dtype), story)
    call = Call(ours, torchs, x, residual, story=story)
    if draw.random() < 0.35:
        for layer in (ours, torchs):
            layer.eval()
        story.append("eval")
    if draw.random() < 0.35:
        draw.choice(FAULTS)(draw, call)
    return call


def signal(draw: random.Random, shape: list[int], story: list[str]) -> Tensor:
    """Values of several kinds."""
    x = torch.randn(shape)
    kind = draw.choice(("normal",) * 6 + ("offset", "constant", "large", "nan", "inf", "zero"))
    if kind == "offset":
        x = x + 30
    elif kind == "constant":
        x = torch.full(shape, 0.5)
    elif kind == "large":
        x = x * 1e3
    elif kind in ("nan", "inf") and x.numel():
        x.view(-1)[draw.randrange(x.numel())] = float(kind)
    elif kind == "zero":
        x = torch.zeros(shape)
    if kind != "normal":
        story.append(kind)
    return x


def laid_out(draw: random.Random, x: Tensor, story: list[str]) -> Tensor:
    """The same values in another layout."""
    kind = draw.choice(("dense",) * 4 + ("last", "strided", "part", "negative", "transposed"))
    if kind == "last" and x.dim() in (4, 5):
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        x = x.to(memory_format=last)
    elif kind == "last" and x.dim() == 3:
        x = x.mT.contiguous().mT
    elif kind == "strided":
        x = torch.stack([x, x], -1)[..., 1]
    elif kind == "part":
        x = torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape)
    elif kind == "negative":
        x = torch._neg_view(-x)
    elif kind == "transposed":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    if kind != "dense":
        story.append(kind)
    return x


# ---- what is broken on purpose -----------------------------------------------------------------


def no_tensor(draw: random.Random, call: Call) -> None:
    call.x = draw.choice(JUNK)
    call.story.append(f"input is {call.x!r}")


def wrong_shape(draw: random.Random, call: Call) -> None:
    x = call.x
    call.x = draw.choice((x[:, :-1], x[None], x.flatten(), x[..., :-1], x.sum(), x.unsqueeze(-1)))
    call.residual = None
    call.story.append(f"input has shape {tuple(call.x.shape)}")


def wrong_dtype(draw: random.Random, call: Call) -> None:
    call.x = call.x.to(draw.choice((torch.int64, torch.bool, torch.complex64, *DTYPES)))
    call.residual = None
    call.story.append(f"input is {call.x.dtype}")


def junk_attribute(draw: random.Random, call: Call) -> None:
    names = [
        n for n in ("eps", "momentum", "num_groups", "normalized_shape") if hasattr(call.ours, n)
    ]
    name, value = draw.choice(names), draw.choice(JUNK)
    for layer in (call.ours, call.torchs):
        setattr(layer, name, value)
    call.story.append(f"{name} = {value!r}")


def missing_tensor(draw: random.Random, call: Call) -> None:
    names = [*call.torchs._parameters, *call.torchs._buffers]
    name = draw.choice(names)
    for layer in (call.ours, call.torchs):
        setattr(layer, name, None)
    call.story.append(f"{name} = None")


def other_tensor(draw: random.Random, call: Call) -> None:
    """A parameter or statistic of another shape, type, layout or sign, or frozen."""
    names = [n for n, t in call.torchs.state_dict(keep_vars=True).items() if t.dim() == 1]
    if not names:
        return
    name = draw.choice(names)
    t = getattr(call.torchs, name).detach()
    kind = draw.choice(("shape", "dtype", "strided", "negative", "part", "frozen", "integer"))
    if kind == "shape":
        t = t[:-1]
    elif kind == "dtype":
        t = t.to(draw.choice(DTYPES))
    elif kind == "strided":
        t = torch.stack([t, t], -1)[:, 1]
    elif kind == "negative":
        t = torch._neg_view(-t)
    elif kind == "part":
        t = torch.cat([t[:1], t])[1:]
    elif kind == "integer":
        t = t.long()
    for layer in (call.ours, call.torchs):
        if name in layer._parameters:
            learned = kind not in ("frozen", "integer")
            layer._parameters[name] = nn.Parameter(t, requires_grad=learned)
        else:
            layer._buffers[name] = t.clone() if kind == "frozen" else copy.deepcopy(t)
    call.story.append(f"{name}: {kind} {t.dtype}")


def freed_tensor(draw: random.Random, call: Call) -> None:
    names = [n for n, t in call.ours.state_dict(keep_vars=True).items() if t.dim() == 1]
    if not names:
        return
    name = draw.choice(names)
    call.sane = False
    getattr(call.ours, name).untyped_storage().resize_(0)
    call.story.append(f"{name} freed")


def counter(draw: random.Random, call: Call) -> None:
    if getattr(call.ours, "num_batches_tracked", None) is None:
        return
    value = draw.choice(
        (torch.tensor(3.0), torch.tensor(2**62), torch.tensor([1]), torch.tensor(1j))
    )
    for layer in (call.ours, call.torchs):
        layer._buffers["num_batches_tracked"] = value.clone()
    call.story.append(f"num_batches_tracked = {value}")


def junk_option(draw: random.Random, call: Call) -> None:
    value = draw.choice([j for j in JUNK if j is not None])
    call.ours.activation = value
    call.sane = False
    call.story.append(f"activation = {value!r}")


def junk_residual(draw: random.Random, call: Call) -> None:
    call.residual = draw.choice((3, "a", torch.zeros(2), torch.zeros(()), [call.x]))
    call.sane = False
    call.story.append(f"residual = {call.residual!r}")


FAULTS: tuple[Callable[[random.Random, Call], None], ...] = (
    *(no_tensor, wrong_shape, wrong_dtype, junk_attribute, missing_tensor, other_tensor),
    *(freed_tensor, counter, junk_option, junk_residual),
)
