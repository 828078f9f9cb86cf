"""One training step. Every training loop of the laboratory takes its steps here."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.layers import NonFiniteBatchWarning

Loss = Callable[[Any, Tensor], Tensor]
"""(the model's output, the target) → the loss; of several elements, the sum is minimized."""


class Step(NamedTuple):
    """What one step computed, detached and still on the device: the loss and the output."""

    loss: Tensor
    output: Tensor


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss = F.cross_entropy,
    clip: float | None = None,
    skip_nonfinite: bool = False,
    precision: AbstractContextManager[Any] | None = None,
) -> Step:
    """Take one optimizer step on a mini-batch.

    Args:
        model: the network, in training mode.
        optimizer: updates the parameters of ``model``.
        x, y: inputs and targets.
        loss: the loss function.
        clip: largest allowed norm of the gradient; None for no limit.
        skip_nonfinite: leave the parameters unchanged if the loss is not finite. Checking waits
            for the device.
        precision: context of the forward pass and the loss, such as `torch.autocast`.

    Returns:
        The loss before the step, and the output of the model.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> step = take_step(model, optimizer, torch.ones(8, 4), torch.zeros(8, dtype=torch.int64))
        >>> step.loss.shape, step.output.shape
        (torch.Size([]), torch.Size([8, 3]))
    """
    optimizer.zero_grad(set_to_none=True)
    with precision or contextlib.nullcontext():
        output = model(x)
        value = loss(output, y)
    done = Step(value.detach(), output.detach())
    if skip_nonfinite and not bool(done.loss.isfinite().all()):
        return done
    (value if value.dim() == 0 else value.sum()).backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return done


@contextlib.contextmanager
def quiet_layers() -> Iterator[None]:
    """Silence `NonFiniteBatchWarning`: a run that diverges is reported by its result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonFiniteBatchWarning)
        yield
