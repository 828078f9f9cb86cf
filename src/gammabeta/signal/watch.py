"""Watch a model while it trains: measure the forward passes that become frames, and record them."""

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
from gammabeta.signal.schema import Summary


def watch(
    model: nn.Module,
    record: Record | str | os.PathLike[str],
    *,
    arm: str = "model",
    cadence: Cadence | None = None,
    title: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Watch:
    """Record the signal in every layer of ``model`` while it trains.

    Train as usual, and call ``signal.step(loss=loss)`` after each optimizer step.

    Args:
        model: any module. Its linear, convolution, normalization and activation modules are
            measured when ``forward`` calls them. The model is not changed: the watch adds hooks,
            and removes them when it closes.
        record: the file to create (``"runs/first"`` creates ``runs/first.sqlite``; ``~`` is the
            home folder), or a `Record` that several watches share, one arm each.
        arm: name of this model in the record, for example ``"with batch norm"``.
        cadence: which steps become frames.
        title: title of the run on the page; only for a new record.
        settings: settings of the run, shown on the page; only for a new record.

    Returns:
        A `Watch`, which is a context manager.

    Raises:
        RecordError: the file exists or cannot be created.
        ValueError: the shared record already has an arm with this name.
        TypeError: ``model`` is not a module, or another argument has the wrong type.

    Numerics:
        Only forward passes in training mode are measured, and only the first one of each step. x̂ is
        computed from z with the layer's own per-channel (or per-example) statistics. A gradient is
        the L2 norm of ∂loss/∂signal as the backward pass computes it, including any loss scaling.

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
            f"arm={arm!r} already exists in this record; give each watched model its own name"
        )
    return Watch(model, record, arm, cadence or Cadence(), owned)


class Watch:
    """A model that is being watched; created by `watch`.

    Attributes:
        record: the record that the frames are written to.
        steps: number of calls of `step` so far.
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
        self._rows: dict[str, int] = {}  # name of a layer → its number, from 1
        self._passing: Capture | None = None  # the current pass
        self._passed: Capture | None = None  # the pass that this step will record
        self._stance: contextlib.AbstractContextManager[object] | None = None
        # These two hooks stay; those that measure exist only while a pass is being captured.
        self._handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, with_kwargs=True, always_call=True),
        ]

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, RuntimeWarning, stacklevel=3)

    def step(self, loss: Tensor | float | None = None, **scalars: Tensor | float) -> None:
        """End an optimizer step: record its scalars, and its signals if the step is a frame.

        Args:
            loss: loss of this step.
            **scalars: more numbers of this step, for example ``accuracy``; drawn as curves.
                Infinite numbers and NaN are allowed.

        Raises:
            ValueError: an argument has several elements, or is too large for a float.
            TypeError: an argument is not a number.
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
                f"recording stopped, training continues: {self.record.path}: {self.record.error}"
            )

    def _why_nothing(self) -> str:
        """Return the likely reason why a step has no signal."""
        if self._passed is not None and self._passed.error is not None:
            return f"a signal could not be measured, training continues: {self._passed.error}"
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
        """Remove the hooks from the model, and close the record if this watch created it."""
        self._stop()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._passed = None
        if self._owned:
            self.record.close(status)

    def _frame(self) -> dict[int, Summary]:
        """Return the captured signals by probe; none if measuring failed in this pass."""
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
        """Warn about normalization layers that are not measured as such."""
        if strangers:
            named = "; ".join(f"{name or 'the model'}: {why}" for name, why in strangers.items())
            warnings.warn(f"not measured as normalizations: {named}", RuntimeWarning, stacklevel=4)

    def _begin(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():  # inside a compiled model, see _why_nothing
            return
        self._stop()  # in case the last pass never ended
        if (
            model.training
            and self._handles
            and self._passed is None
            and self._cadence.due(self.steps + 1)
        ):
            if hasattr(model, "_orig_mod"):  # a compiled model: run this pass uncompiled
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()
            self._passing = Capture(self._names)
            self._passing.attach(model)
            self._passing.enter(model, args, kwargs)

    def _end(self, model: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if self._passing is not None and output is not None:  # None if the pass raised
            self._passing.leave(model, args, kwargs, output)
            self._passed = self._passing
        self._stop()

    def _stop(self) -> None:
        """End the current pass, if there is one."""
        passing, self._passing = self._passing, None
        if passing is not None:
            passing.detach()
        stance, self._stance = self._stance, None
        if stance is not None:
            stance.__exit__(None, None, None)

    def __reduce__(self) -> tuple[Any, ...]:
        # A watched model may be copied (for example, to average weights) or pickled, together with
        # its hooks. The copy is not watched.
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
    """Number the layers in the order of their calls, without a bare linear at the end.

    That linear is the model's output.
    """
    layers = list(passed.layers.values())
    if len(layers) > 1 and layers[-1].norm is None and layers[-1].activation is None:
        layers.pop()
    return {layer.name: row for row, layer in enumerate(layers, 1)}


def _number(name: str, value: Any) -> float:
    """Return ``value`` as a float."""
    if isinstance(value, (Tensor, np.ndarray)):
        if math.prod(value.shape) != 1:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; give one number, such as its mean"
            )
        if isinstance(value, Tensor) and value.is_meta:
            raise ValueError(f"{name} is on the meta device and has no value; omit it")
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
    """Return a watch that does nothing, for the hooks of a copied model."""
    inert = Watch.__new__(Watch)
    inert._handles, inert._passing, inert._passed, inert._stance = [], None, None, None
    return inert
