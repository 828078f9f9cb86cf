"""A call of a norm that waits: it may be computed alone, or with the operations that follow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta import ops
from gammabeta.ops.spec import Call

Finish = Callable[[Call], Tensor]


class Waiting:
    """One call of a norm, which may be computed alone, or with what follows.

    Attributes:
        call: what is asked of it, but for what follows.
        finish: computes a call.
        layer: for messages.
        follows: of `ACTIVATION` and so on: what is expected.
        done: whether it was computed, and the batch entered the running statistics.
    """

    __slots__ = (
        "call",
        "done",
        "finish",
        "follows",
        "grad",
        "inference",
        "layer",
        "version",
        "versions",
    )

    def __init__(self, call: Call, finish: Finish, layer: nn.Module, follows: str) -> None:
        self.call, self.finish, self.layer, self.follows = call, finish, layer, follows
        self.done = False
        self.grad, self.inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        self.version, self.versions = version(call.x), versions(call)

    def same_modes(self) -> bool:
        """Whether gradients are recorded here as they were where the norm was called."""
        return (
            self.grad == torch.is_grad_enabled()
            and self.inference == torch.is_inference_mode_enabled()
        )

    def compute(
        self, residual: Tensor | None = None, activation: str | None = None, slope: Any = 0.01
    ) -> Tensor:
        """Return the output, with what follows.

        Raises:
            RuntimeError: the norm's input was changed in place since.
        """
        call, finish = self.call, self.finish
        if version(call.x) != self.version:
            self.done = True
            raise RuntimeError(
                f"layer {_name(self.layer)}: its input was changed in place before its output was "
                "used; use the output first, or convert the model with fuse=False"
            )
        if self.done:  # once more, for another consumer: the batch is in the statistics already
            if self.versions != versions(call):
                raise RuntimeError(
                    f"layer {_name(self.layer)}: its parameters were changed before its output, "
                    "which had become part of a fused call, was used once more; convert the model "
                    "with fuse=False"
                )
            call, finish = again(call), ops.normalize
        call.residual, call.activation = residual, activation
        call.slope = slope
        self.done = True
        if self.same_modes():
            return finish(call)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self.inference))
            stack.enter_context(torch.set_grad_enabled(self.grad))
            return finish(call)

    def __del__(self) -> None:
        # Nobody has used the output, but the batch belongs into the running statistics.
        call = self.call
        if not self.done and call.training and call.running_mean is not None:
            self.grad = False
            self.compute()


def version(x: Tensor) -> int:
    """Return how often ``x`` was changed in place; −1 where that is not counted."""
    return -1 if x.is_inference() else x._version


def versions(call: Call) -> tuple[int, ...]:
    """Return the same of a call's parameters."""
    return tuple(-1 if t is None else version(t) for t in (call.weight, call.bias))


def _name(layer: nn.Module) -> str:
    return getattr(layer, "qualified_name", None) or type(layer).__name__


def again(call: Call) -> Call:
    """The same call, which leaves the running statistics alone."""
    running = None if call.training else (call.running_mean, call.running_var)
    return Call(
        call.kind,
        call.x,
        call.weight,
        call.bias,
        call.eps,
        normalized_shape=call.normalized_shape,
        num_groups=call.num_groups,
        running_mean=None if running is None else running[0],
        running_var=None if running is None else running[1],
        training=call.training,
        memory=call.memory,
    )
