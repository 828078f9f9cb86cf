"""Watch a model train: measure the forward passes that become frames, and record them."""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gammabeta.signal.cadence import Cadence
from gammabeta.signal.capture import Capture
from gammabeta.signal.record import Record
from gammabeta.signal.summary import Summary


def watch(
    model: nn.Module,
    record: Record | str | os.PathLike[str],
    *,
    arm: str = "model",
    cadence: Cadence | None = None,
    title: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Watch:
    """Record the signal of every layer of ``model`` while it trains.

    Call the model as ever; close each optimizer step with ``signal.step(loss=loss)``.

    Args:
        model: any module; its linears, convolutions, normalizations and activations are found
            where they are modules called in ``forward``. Nothing in it is changed: hooks are
            added, and removed when the watch closes.
        record: the file to create (``"runs/first"`` is ``runs/first.sqlite``, ``~`` the home
            folder), or a `Record` that several watches share, one arm each.
        arm: name of this model's column, such as ``"with batch norm"``.
        cadence: which steps become frames.
        title: what the page calls the run; for a new record.
        settings: shown with the run; for a new record.

    Returns:
        A `Watch`, which is a context manager.

    Raises:
        RecordError: the file exists or cannot be created.
        ValueError: the shared record already has an arm of that name.
        TypeError: ``model`` is no module, or another argument is of the wrong type.

    Numerics:
        Only forward passes in training mode are measured, the first of each step. x̂ is computed
        from z with the layer's own per-channel (or per-example) statistics. A gradient is the L2
        norm of ∂loss/∂signal as the backward pass delivers it, loss scaling included.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, tempfile.mkdtemp() + "/first") as signal:
        ...     for _ in range(3):
        ...         loss = model(torch.randn(16, 4)).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...         signal.step(loss=loss)
        >>> signal.steps
        3
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    for name, value, kinds, remedy in (
        ("record", record, (Record, str, os.PathLike), "give a path or a gammabeta.Record"),
        ("arm", arm, str, "give a name, such as 'model'"),
        ("cadence", cadence, (Cadence, type(None)), "give a gammabeta.Cadence"),
        ("title", title, str, "give text"),
        ("settings", settings, (Mapping, type(None)), "give a dict"),
    ):
        if not isinstance(value, kinds):
            raise TypeError(f"{name} is a {type(value).__name__}; {remedy}")
    owned = not isinstance(record, Record)
    if not isinstance(record, Record):
        record = Record(record, title or type(model).__name__, settings)
    elif arm in record.arms:
        raise ValueError(
            f"arm={arm!r} is in this record already; give each watched model a name of its own"
        )
    return Watch(model, record, arm, cadence or Cadence(), owned)


class Watch:
    """A model being watched; made by `watch`.

    Attributes:
        record: where the frames go.
        steps: optimizer steps closed so far.
    """

    def __init__(
        self, model: nn.Module, record: Record, arm: str, cadence: Cadence, owned: bool
    ) -> None:
        self.record = record
        self.steps = 0
        self._arm = record.arm(arm)
        self._cadence = cadence
        self._owned = owned
        self._model = model
        self._names = {module: name for name, module in model.named_modules()}
        self._began = time.monotonic()
        self._warned = False
        self._rows: dict[str, int] = {}  # layer's name → its row, 1 for the first
        self._passing: Capture | None = None  # the pass that is under way
        self._passed: Capture | None = None  # the one this step will record
        self._stance: contextlib.AbstractContextManager[object] | None = None
        # Two hooks stay; those that measure are there only while a pass is being captured.
        self._handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, with_kwargs=True, always_call=True),
        ]

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, RuntimeWarning, stacklevel=3)

    def step(self, loss: Tensor | float | None = None, **scalars: Tensor | float) -> None:
        """Close an optimizer step: record its scalars, and its frame where the cadence says so.

        Args:
            loss: of this step.
            **scalars: more numbers of this step, such as ``accuracy``, drawn as curves.

        Raises:
            ValueError: one of them is not one number, or too large for a float.
            TypeError: one of them is no number.

        Infinite numbers and NaN are recorded like others.
        """
        numbers = dict(scalars) if loss is None else {"loss": loss, **scalars}
        values = {name: _number(name, value) for name, value in numbers.items()}
        self.steps += 1
        signals = self._frame() if self._passed is not None else {}
        if not signals and self._cadence.due(self.steps):
            self._warn(self._why_nothing())
        self._passed = None
        self.record.write(
            self._arm, self.steps, values, signals or None, time.monotonic() - self._began
        )
        if self.record.error is not None:
            self._warn(
                f"recording stopped, training goes on: {self.record.path}: {self.record.error}"
            )

    def _why_nothing(self) -> str:
        """What a person may have done so that a step shows no signal."""
        if self._passed is not None and self._passed.error is not None:
            return f"a signal could not be measured, training goes on: {self._passed.error}"
        if self._passed is not None:
            return (
                "nothing was measured: no linear, convolution, normalization or activation that "
                "is a module was called in the forward pass"
            )
        if not self._model.training:
            return "nothing was measured: the model is in eval(), and only training is recorded"
        return (
            "nothing was measured: the watched model was not called since the last step. Call "
            "it as model(x), and watch what you call: the compiled model, not the one inside"
        )

    def close(self, status: str = "finished") -> None:
        """Take the hooks off the model; end the record if this watch began it."""
        self._stop()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._passed = None
        if self._owned:
            self.record.close(status)

    def _frame(self) -> dict[int, Summary]:
        """The captured signals, by probe; none of a pass in which measuring failed."""
        if self._passed is None or self._passed.error is not None:
            return {}
        if not self._rows:
            self._rows = _order(self._passed)
            self._say_strangers(self._passed.strangers)
        signals = {}
        for name, layer in self._passed.layers.items():
            if name not in self._rows:
                continue
            for stage, summary in layer.signals.items():
                probe = self.record.probe(
                    self._arm, self._rows[name], name, stage, layer.activation
                )
                signals[probe] = replace(summary, gradient=layer.gradients.get(stage))
        return signals

    def _say_strangers(self, strangers: Mapping[str, str]) -> None:
        """Name the normalization layers that are not drawn as such."""
        if strangers:
            named = "; ".join(f"{name or 'the model'}: {why}" for name, why in strangers.items())
            warnings.warn(f"not drawn as normalizations: {named}", RuntimeWarning, stacklevel=4)

    def _begin(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():  # the model inside a compiled one: see _why_nothing
            return
        self._stop()  # of a pass that never ended
        if (
            model.training
            and self._handles
            and self._passed is None
            and self._cadence.due(self.steps + 1)
        ):
            if hasattr(model, "_orig_mod"):  # compiled: this one pass is run as it was written
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()
            self._passing = Capture(self._names)
            self._passing.attach(model)
            self._passing.enter(model, args, kwargs)

    def _end(self, model: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if self._passing is not None and output is not None:  # None: the pass has raised
            self._passing.leave(model, args, kwargs, output)
            self._passed = self._passing
        self._stop()

    def _stop(self) -> None:
        """End the pass that is under way, if one is."""
        passing, self._passing = self._passing, None
        if passing is not None:
            passing.detach()
        stance, self._stance = self._stance, None
        if stance is not None:
            stance.__exit__(None, None, None)

    def __reduce__(self) -> tuple[Any, ...]:
        # A watched model may be copied (for an average of weights, say) or pickled, and its hooks
        # with it. The copy is not watched.
        return _inert, ()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close("finished" if kind is None else "interrupted" if interrupted else "failed")


def _order(passed: Capture) -> dict[str, int]:
    """Number the layers as called; a bare linear at the end is the model's output."""
    layers = list(passed.layers.values())
    if len(layers) > 1 and layers[-1].norm is None and layers[-1].activation is None:
        layers.pop()
    return {layer.name: row for row, layer in enumerate(layers, 1)}


def _number(name: str, value: Any) -> float:
    """``value`` as a float."""
    if isinstance(value, (Tensor, np.ndarray)):
        if math.prod(value.shape) != 1:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; give one number, its mean say"
            )
        if isinstance(value, Tensor) and value.is_meta:
            raise ValueError(f"{name} is on the meta device and has no value; leave it out")
        value = value.item()
    if not isinstance(value, (str, bytes, bytearray)):  # float("1") would do
        try:
            return float(value)
        except OverflowError as e:
            raise ValueError(f"{name} is too large for a float; give math.inf instead") from e
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{name} is a {type(value).__name__}; give one number, such as loss.item()")


def _inert() -> Watch:
    """What a copy of a watched model carries: hooks that do nothing."""
    inert = Watch.__new__(Watch)
    inert._handles, inert._passing, inert._passed, inert._stance = [], None, None, None
    return inert
