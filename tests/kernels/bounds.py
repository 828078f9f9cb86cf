"""Runs the kernels on sizes of every kind: what `test_native_bounds` and the sanitizers look at.

A program, so that a crash is its own: ``python -m tests.kernels.bounds GUARD [LIBRARY]``.

GUARD is where a page stands that may not be touched, beside every tensor the kernels get: "after",
"before", or "none" where a sanitizer watches instead. LIBRARY is a built extension other than the
installed one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import sys
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
TAILS = [(None, False), ("relu", False), ("relu", True), ("gelu", True)]
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
    spec = importlib.util.spec_from_file_location("gammabeta.kernels._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def main(guard: str, path: str | None = None) -> None:
    if path:
        load(path)
    from gammabeta import kernels
    from gammabeta.kernels import library

    def place(t: Tensor) -> Tensor:
        return t if guard == "none" else guarded(t, guard).copy_(t)

    def empty_like(t: Tensor, **options: Any) -> Tensor:
        return _empty_like(t, **options) if guard == "none" else guarded(t, guard)

    def empty(size: Any, **options: Any) -> Tensor:
        made = _empty(size, **options)
        return made if guard == "none" else guarded(made, guard)

    calls = 0
    for name in library.available()[1:]:
        library.use(name)
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            wide = dtype if dtype is torch.float64 else torch.float32
            for n, c, s in SIZES:
                for rows in (False, True):
                    if n * s < 2:
                        continue
                    torch.set_num_threads(2 if n * c * s > 32768 else 1)
                    for activation, residual in TAILS:
                        x, g, r = torch.randn(3, n, c, s).to(dtype).unbind()
                        if rows:
                            x, g, r = (t.mT.contiguous().mT for t in (x, g, r))
                        x, g, r = place(x), place(g), place(r)
                        leaves = [x, *(place(torch.randn(c, dtype=wide)) for _ in range(2))]
                        leaves += [r] if residual else []
                        running = place(torch.zeros(c).to(wide)), place(torch.ones(c).to(wide))
                        for training in (True, False):
                            for leaf in leaves:
                                leaf.requires_grad_()
                            with (
                                mock.patch.object(torch, "empty_like", empty_like),
                                mock.patch.object(torch, "empty", empty),
                            ):
                                y = kernels.batch_norm(
                                    x,
                                    *running,
                                    *leaves[1:3],
                                    training=training,
                                    momentum=0.1,
                                    eps=1e-5,
                                    activation=activation,
                                    residual=r if residual else None,
                                )
                                found = torch.autograd.grad(y, leaves, g)
                            assert type(y.grad_fn).__name__ == "_NormBackward"
                            assert all(bool(t.isfinite().all()) for t in (y, *found))
                            calls += 1
                            for leaf in leaves:
                                leaf.requires_grad_(False)
                    _maps.clear()
    print(f"{calls} calls, {', '.join(library.available()[1:])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
