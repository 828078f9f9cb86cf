"""Runs every kernel on sizes of every kind: what `test_native_bounds` and the sanitizers look at.

A program, so that a crash is its own:
``python -m tests.ops.bounds GUARD [--threads] [--best] [LIBRARY]``.

GUARD is where a page stands that may not be touched, beside every tensor the kernels get: "after",
"before", or "none" where a sanitizer watches instead. The kernels' workspace has the exact size in
each case, and ends at such a page. With ``--threads`` fewer sizes run on 1 to 256 threads; with
``--best`` only the best instruction set of this machine runs. LIBRARY is a built extension other
than the installed one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import mmap
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE
SIZES = [
    *((n, c, s) for n in (1, 2) for c in (1, 17) for s in (2, 49, 130)),
    *((1, 1, 4097), (2, 3, 5000), (130, 2, 3), (70, 3, 1), (3, 100, 1), (9, 33, 7), (600, 5, 1)),
    *((5, 3, 2200), (4400, 9, 1)),  # with more than one thread
]
# Channels by the thread and channels shared, folded planes, chunks of rows, examples shared.
THREADED = [(2, 3, 5000), (4, 17, 49), (9, 33, 7), (600, 5, 1), (3, 100, 130), (1, 32, 400)]
THREADS = (1, 2, 3, 7, 31, 96, 256)
LOOKED_UP = "gelu, or a PReLU with a slope a channel where there are channels"
FEWER_THREADS = (3, 31, 96)  # under a sanitizer, where a thread costs more
TAILS = [(None, False), ("relu", False), ("relu", True), (LOOKED_UP, True)]
# Who works on what is planned from the shape and the number of threads: of the tail it matters only
# which tensors and sums it brings (none, or all there are), of the instruction set how wide its
# vectors are. So two tails; and each number of threads in the best set, but three in the others.
THREADED_TAILS = [TAILS[0], TAILS[-1]]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
KINDS = ("batch", "batch, evaluation", "layer", "rms", "group", "instance")
_empty_like, _empty = torch.empty_like, torch.empty
_maps: list[mmap.mmap] = []  # kept: tensors point into them


def guarded(t: Tensor, guard: str) -> Tensor:
    """A tensor like ``t``, dense in its order, whose memory ends or begins at a forbidden page."""
    size = max(t.numel() * t.element_size(), 1)
    room = (size + PAGE - 1) // PAGE * PAGE
    pages = mmap.mmap(-1, room + 2 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (start, start + PAGE + room):
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    _maps.append(pages)
    at = PAGE + (room - size if guard == "after" else 0)
    flat = torch.frombuffer(pages, dtype=t.dtype, count=t.numel(), offset=at)
    return flat.as_strided(t.shape, _empty_like(t).stride())


def load(path: str) -> None:
    """Have gammabeta use the extension at ``path``."""
    spec = importlib.util.spec_from_file_location("gammabeta.ops.cpu._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def call(kind: str, x: Tensor, weight: Tensor, bias: Tensor, running: Any, **after: Any) -> Tensor:
    from tests.ops import calls

    c = x.shape[1]
    if kind.startswith("batch"):
        training = kind == "batch"
        return calls.batch_norm(
            x, *running, weight, bias, training=training, momentum=0.1, eps=1e-5, **after
        )
    if kind == "group":
        groups = next(g for g in (4, 3, 2, 1) if c % g == 0)
        return calls.group_norm(x, groups, weight, bias, eps=1e-5, **after)
    if kind == "instance":
        return calls.instance_norm(
            x, None, None, weight, bias, use_input_stats=True, momentum=0.1, eps=1e-5, **after
        )
    if kind == "rms":
        return calls.rms_norm(x, x.shape[1:], weight, eps=1e-5, **after)
    return calls.layer_norm(x, x.shape[1:], weight, bias, eps=1e-5, **after)


def cases(threads: Sequence[int]) -> Iterator[tuple[int, tuple[int, int, int], str, bool]]:
    """Number of threads, (n, c, s), kind of norm, and whether the channels come last."""
    for n, c, s in THREADED if threads else SIZES:
        for kind, last in itertools.product(KINDS, (False, True)):
            if n * s < 2 or (kind == "instance" and s < 2) or (kind in ("layer", "rms") and last):
                continue
            if threads:
                yield from ((k, (n, c, s), kind, last) for k in threads)
            else:
                yield 2 if n * c * s > 32768 else 1, (n, c, s), kind, last


def main(guard: str, *rest: str) -> None:
    threads = "--threads" in rest
    loaded = [path for path in rest if not path.startswith("--")]
    for path in loaded:
        load(path)
    from gammabeta.ops.cpu import library, support

    library.extension.exact_workspace(True)
    support.SMALL = {}  # however small, the kernels compute it

    def place(t: Tensor) -> Tensor:
        return t if guard == "none" else guarded(t, guard).copy_(t)

    def empty_like(t: Tensor, **options: Any) -> Tensor:
        return _empty_like(t, **options) if guard == "none" else guarded(t, guard)

    def empty(size: Any, **options: Any) -> Tensor:
        made = _empty(size, **options)
        return made if guard == "none" else guarded(made, guard)

    def run(kind: str, size: tuple[int, int, int], last: bool, dtype: torch.dtype) -> None:
        n, c, s = size
        wide = dtype if dtype is torch.float64 else torch.float32
        for activation, residual in tails:
            x, g, r = torch.randn(3, n, c, 1, s).to(dtype).unbind()
            if last:
                x, g, r = (t.to(memory_format=torch.channels_last) for t in (x, g, r))
            x, g, r = place(x), place(g), place(r)
            shape = (c, 1, s) if kind in ("layer", "rms") else (c,)
            leaves = [x, *(place(torch.randn(shape, dtype=wide)) for _ in range(2))]
            running = place(torch.zeros(c, dtype=wide)), place(torch.ones(c, dtype=wide))
            leaves += [r] if residual else []
            after = {"activation": activation, "residual": r if residual else None}
            if activation == LOOKED_UP and shape != (c,):
                after["activation"] = "gelu"
            elif activation == LOOKED_UP:
                leaves.append(place(torch.randn(c, dtype=wide)))
                after |= {"activation": "leaky_relu", "slope": leaves[-1]}
            for leaf in leaves:
                leaf.requires_grad_()
            with (
                mock.patch.object(torch, "empty_like", empty_like),
                mock.patch.object(torch, "empty", empty),
            ):
                y = call(kind, *leaves[:3], running, **after)
                assert type(y.grad_fn).__name__ == "_NormBackward"
                found = torch.autograd.grad(y, leaves, g, allow_unused=kind == "rms")
            assert all(bool(t.isfinite().all()) for t in (y, *found) if t is not None)

    calls = 0
    tails = THREADED_TAILS if threads else TAILS
    best = library.available()[-1]
    names = (best,) if "--best" in rest else library.available()[1:]
    for name in names:
        library.use(name)
        every = name == best and not loaded
        counts = () if not threads else THREADS if every else FEWER_THREADS
        for number, size, kind, last in cases(counts):
            if threads:
                # Every thread takes part, however small x is; and both orders of channels_last.
                library.extension.tune(1, 8 << 20, 16 * (number % 2))
            torch.set_num_threads(number)
            for dtype in DTYPES if not threads else (DTYPES[0], DTYPES[3]):
                run(kind, size, last, dtype)
                calls += len(tails)
            _maps.clear()
    print(f"{calls} calls, {', '.join(names)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
