"""JAX and flax as a rival: forward and backward in one compiled program."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from torch import Tensor

from gammabeta.lab.bench.inputs import Inputs
from gammabeta.lab.bench.timing import Call


def build(what: str, inputs: Inputs) -> Call:
    """Return a call that runs ``what`` forward and backward, and waits until it is done.

    What torch would make is made: the output, all gradients, the new running statistics. Channels
    come last where they do in the format. XLA runs it on its own pool of threads, as many as there
    are cores for the process.

    Args:
        what: the operation, of `gammabeta.lab.bench.inputs.OPS`.
        inputs: the tensors; they are copied.

    Raises:
        ImportError: JAX or flax is not installed.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")
    linen: Any = importlib.import_module("flax.linen")

    last = inputs.channels_last
    x, residual, upstream = (
        _array(jnp, tensor, last) for tensor in (inputs.x, inputs.residual, inputs.upstream)
    )
    norm = linen.BatchNorm(
        use_running_average=False, momentum=0.9, epsilon=1e-5, axis=-1 if last else 1, dtype=x.dtype
    )
    variables = norm.init(jax.random.key(0), x)

    def forward(parameters: Any, statistics: Any, x: Any, residual: Any) -> tuple[Any, Any]:
        y, updated = norm.apply(
            {"params": parameters, "batch_stats": statistics}, x, mutable=["batch_stats"]
        )
        if what == "bn+add+relu":
            y = y + residual
        return y if what == "bn" else jax.nn.relu(y), updated["batch_stats"]

    adds = what == "bn+add+relu"

    def both(parameters: Any, statistics: Any, x: Any, residual: Any, upstream: Any) -> Any:
        def of(parameters: Any, x: Any, residual: Any) -> tuple[Any, Any]:
            return forward(parameters, statistics, x, residual)

        y, pull, updated = jax.vjp(of, parameters, x, residual, has_aux=True)
        of_parameters, of_x, of_residual = pull(upstream)
        return y, of_x, of_parameters, updated, of_residual if adds else None

    compiled = jax.jit(both)

    def call() -> Any:
        return jax.block_until_ready(
            compiled(variables["params"], variables["batch_stats"], x, residual, upstream)
        )

    return call


def _array(jnp: Any, tensor: Tensor, channels_last: bool) -> Any:
    """A copy of ``tensor`` as JAX's array, its dims in the order of its memory."""
    plain = tensor.detach().float()
    if channels_last:
        plain = plain.permute(0, 2, 3, 1)
    dtype = jnp.bfloat16 if tensor.dtype is torch.bfloat16 else jnp.float32
    return jnp.asarray(plain.contiguous().numpy()).astype(dtype)
