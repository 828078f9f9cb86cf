"""Test-time adaptation: normalize by the batches a model is tested on."""

from __future__ import annotations

import math
import numbers
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import nn

from gammabeta.statistics.adapted import AdaptedForward, Session, adapted_forward
from gammabeta.statistics.arguments import check_bool, check_module
from gammabeta.statistics.targets import sort_layers, warn_of_strangers
from gammabeta.statistics.undo import undo_all


@dataclass(frozen=True)
class Adaptation:
    """What `gammabeta.adapt` adapts; ``print`` shows it.

    Attributes:
        layers: names of the batch norms that normalize by the test batches.
        kept: name of each layer that goes by its own running statistics → why.
        untracked: names of the batch norms without running statistics, which always normalize by
            the batch.
    """

    layers: tuple[str, ...]
    kept: Mapping[str, str] = field(default_factory=dict)
    untracked: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"adapted: {', '.join(name or '(model)' for name in self.layers)}"]
        if self.kept:
            kept = (f"{name or '(model)'} ({why})" for name, why in self.kept.items())
            lines.append(f"left alone: {', '.join(kept)}")
        if self.untracked:
            lines.append(f"without running statistics: {', '.join(self.untracked)}")
        return "\n".join(lines)


@contextmanager
def adapt(model: nn.Module, *, prior: float = 0, running: bool = False) -> Iterator[Adaptation]:
    """Let the batch norms of ``model`` normalize by the batches it is tested on.

    Running statistics are those of the training data. Where the test data are shifted (another
    camera, noise, weather), those of the test data often serve better, and need no labels. Inside
    the block each batch norm normalizes a batch of n examples, mean μ_t and variance σ²_t, by

    - the batch (``prior=0``): ``μ_t`` and ``σ²_t``, as in training;
    - a mixture (``prior=N``) with its running statistics μ_s and σ²_s, which count as N examples:
      ``μ = (N μ_s + n μ_t) / (N + n)`` and ``σ² = (N σ²_s + n σ²_t) / (N + n)``;
    - a running mixture (``running=True``): the same, where n, μ_t and σ²_t are those of all
      batches of the block so far, this one included.

    All other modules are in evaluation, dropout too. Afterwards everything is as before: modes,
    buffers (which never change), and which attributes the layers have; also if the block raises.

    Args:
        model: any module, in either mode. Layers that `gammabeta.freeze` holds are left alone;
            for the others `gammabeta.calibrate` says what is adapted.
        prior: N, a number of examples, 0 or more; the larger, the smaller the test batches and the
            milder the shift. An example is a row of the layer's input.
        running: whether the batches of the block are added up, for a stream of small batches of one
            kind; begin another block where the kind changes.

    Yields:
        Which layers are adapted and which are not, and why.

    Raises:
        ValueError: ``prior`` is negative or not finite; the model has no batch norm to adapt. In a
            forward pass: a layer gets one value per channel, which has no variance, and
            ``prior=0``. The message names the layer.
        TypeError: an argument of a wrong type.

    Numerics:
        *The batch*: the layer's own computation in training mode, bit for bit, on copies of its
        running statistics: the biased variance; ghost batch norm's virtual batches; batch renorm
        without its correction; gradients through μ_t and σ²_t, as entropy minimization needs.
        *Mixtures*: the layer's evaluation with μ and σ² in the place of its running statistics,
        measured in float64 over the whole batch. σ²_t is unbiased, as ``running_var`` is; where a
        channel has one value, σ² = σ²_s. μ and σ² are constants of a backward pass. A batch that
        is not finite is not added to a running mixture.

        *One example*: a convolution's channel has a value for each position, so that a batch of
        one image works, but with ``prior=0`` it is instance normalization. A layer on (N, C) has
        one value: an error with ``prior=0``, and a mixture of the means alone otherwise.

        *Threads* may share the model: each call of a layer has it for itself. A thread that has
        opened a block goes by its own, and one that has not by the latest of the others. A block
        inside a block goes first. What `torch.compile` compiled runs as it was written.

        A layer that has a ``forward`` of its own runs twice for a mixture: once to be measured.

    Source:
        Schneider et al. 2020, arXiv:2006.16963, equation 2; Nado et al. 2020, arXiv:2006.10963, for
        the batch alone. Wang et al. 2021, arXiv:2006.10726 (Tent), go on to train γ and β.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(1, affine=False)).eval()
        >>> x = torch.tensor([[10.0], [12.0]])
        >>> with adapt(model):
        ...     y = model(x)
        >>> y.flatten().round(decimals=2), model(x).flatten().round(decimals=2)
        (tensor([-1.,  1.]), tensor([10., 12.]))
    """
    check_module(model)
    check_bool("running", running)
    if isinstance(prior, bool) or not isinstance(prior, numbers.Real):
        raise TypeError(f"prior={prior!r} is of type {type(prior).__name__}; give a number")
    if not math.isfinite(prior) or prior < 0:
        raise ValueError(f"prior={prior} must be 0 or more, and finite: a number of examples")
    found = sort_layers(model)
    warn_of_strangers(found.kept)
    session = Session(float(prior), running)
    session.names.update((layer, name) for name, layer in found.chosen.items())
    undo: list[Callable[[], object]] = []
    try:
        with _LOCK:
            _EAGER.enter()
            undo.append(_EAGER.leave)
            for module in model.modules():
                _hold_mode(module)
                undo.append(partial(_release_mode, module))
            for layer in found.chosen.values():
                stand_in = adapted_forward(layer)
                if stand_in is None:
                    stand_in = AdaptedForward(layer)
                stand_in.sessions.append(session)
                undo.append(partial(stand_in.leave, session))
                layer.__dict__["forward"] = stand_in
        yield Adaptation(tuple(found.chosen), found.kept, tuple(found.untracked))
    finally:
        with _LOCK:
            undo_all(reversed(undo))


# Blocks may overlap, in threads: what they share is put back by the last one to end.

_LOCK = threading.RLock()
_MODES: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()
"""Module → in how many blocks it is, and its mode before the first."""


def _hold_mode(module: nn.Module) -> None:
    """Put ``module`` in evaluation."""
    blocks, mode = _MODES.get(module, (0, module.training))
    _MODES[module] = blocks + 1, mode
    module.training = False


def _release_mode(module: nn.Module) -> None:
    """Give ``module`` its mode back if this was the last block."""
    blocks, mode = _MODES.pop(module)
    if blocks > 1:
        _MODES[module] = blocks - 1, mode
    elif module.training is not mode:
        module.training = mode


class _Eager:
    """Runs what `torch.compile` compiled as it was written, while there is a block."""

    def __init__(self) -> None:
        self._blocks = 0
        self._stance: torch.compiler.set_stance | None = None  # type: ignore[valid-type]

    def enter(self) -> None:
        """Begin a block."""
        self._blocks += 1
        if self._stance is None and "torch._dynamo" in sys.modules:  # else nothing is compiled
            self._stance = torch.compiler.set_stance("force_eager")

    def leave(self) -> None:
        """End a block."""
        self._blocks -= 1
        if not self._blocks and self._stance is not None:
            stance, self._stance = self._stance, None
            stance.__exit__(None, None, None)


_EAGER = _Eager()
