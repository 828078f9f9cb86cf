"""Watch a model train: hooks that measure each layer's signal and put it in a record.

A *layer* is what one linear or convolution starts: its output z, the normalization of z into x̂ and
γx̂ + β, the activation after it. Layers are found by following tensors through the first recorded
forward pass: what a module returns is recognized when the next module is called with it. A
normalization whose input no such module gave starts a layer of its own, as in a transformer.
"""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.kernels.activations import MODULES
from gammabeta.layers.epilogue import Epilogue
from gammabeta.layers.standardized import NORMS, channel_dim, standardized
from gammabeta.signal.cadence import Cadence
from gammabeta.signal.record import Record
from gammabeta.signal.summary import Summary, saturation, summarize

STAGES = ("z", "normalized", "affine", "activation")
"""z; x̂; γx̂ + β; the activation's output."""

_PRODUCERS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass
class _Layer:
    """What one forward pass has shown of a layer so far."""

    name: str
    feature_dim: int
    norm: nn.Module | None = None
    activation: str | None = None
    signals: dict[str, Summary] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)

    @property
    def preactivation(self) -> str:
        """The stage that enters the activation."""
        return "affine" if self.norm is not None else "z"


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
        record: the file to create (``"runs/first"`` is ``runs/first.sqlite``), or a `Record`
            that several watches share, one arm each.
        arm: name of this model's column, such as ``"with batch norm"``.
        cadence: which steps become frames.
        title: what the page calls the run; for a new record.
        settings: shown with the run; for a new record.

    Returns:
        A `Watch`, which is a context manager.

    Raises:
        RecordError: the file exists or cannot be created.
        TypeError: ``model`` is no module.

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
    owned = not isinstance(record, Record)
    if not isinstance(record, Record):
        record = Record(record, title or type(model).__name__, settings)
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
        self._layers: dict[str, _Layer] = {}
        self._seen: dict[int, tuple[weakref.ref[Tensor], _Layer, str]] = {}
        self._inside: dict[nn.Module, _Layer] = {}  # called, not yet returned
        self._capturing = False
        self._captured = False
        self._handles = [model.register_forward_pre_hook(self._begin)]
        for module in model.modules():
            if isinstance(module, _PRODUCERS):
                self._handles.append(module.register_forward_hook(self._linear))
            elif isinstance(module, NORMS):
                # Both sides: the input is measured before a layer may work in place.
                self._handles.append(
                    module.register_forward_pre_hook(self._norm_input, with_kwargs=True)
                )
                self._handles.append(
                    module.register_forward_hook(self._norm_output, with_kwargs=True)
                )
            elif type(module) in MODULES:
                self._handles.append(module.register_forward_pre_hook(self._activation_input))
                self._handles.append(module.register_forward_hook(self._activation_output))
        # After all others: the model itself may be a layer.
        self._handles.append(model.register_forward_hook(self._end))

    def step(self, loss: Tensor | float | None = None, **scalars: Tensor | float) -> None:
        """Close an optimizer step: record its scalars, and its frame where the cadence says so.

        Args:
            loss: of this step.
            **scalars: more numbers of this step, such as ``accuracy``, drawn as curves.
        """
        self.steps += 1
        numbers = dict(scalars) if loss is None else {"loss": loss, **scalars}
        values = {
            name: float(value.detach() if isinstance(value, Tensor) else value)
            for name, value in numbers.items()
        }
        signals = self._frame() if self._captured else None
        self._reset()
        self.record.write(self._arm, self.steps, values, signals, time.monotonic() - self._began)
        if self.record.error is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"recording stopped, training goes on: {self.record.path}: {self.record.error}",
                RuntimeWarning,
                stacklevel=2,
            )

    def close(self, status: str = "finished") -> None:
        """Take the hooks off the model; end the record if this watch began it."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._reset()
        if self._owned:
            self.record.close(status)

    def _reset(self) -> None:
        self._layers, self._seen, self._inside = {}, {}, {}
        self._capturing = self._captured = False

    def _frame(self) -> dict[int, Summary]:
        """The captured signals, by probe."""
        if not self._rows:
            self._rows = self._order()
        signals = {}
        for name, layer in self._layers.items():
            if name not in self._rows:
                continue
            for stage, summary in layer.signals.items():
                probe = self.record.probe(
                    self._arm, self._rows[name], name, stage, layer.activation
                )
                signals[probe] = replace(summary, gradient=layer.gradients.get(stage))
        return signals

    def _order(self) -> dict[str, int]:
        """Number the layers as called; a bare linear at the end is the model's output."""
        layers = list(self._layers.values())
        if len(layers) > 1 and layers[-1].norm is None and layers[-1].activation is None:
            layers.pop()
        return {layer.name: row for row, layer in enumerate(layers, 1)}

    # Hooks. Each returns at once unless this forward pass is being captured.

    def _begin(self, model: nn.Module, args: Any) -> None:
        # Set either way: a pass that raised has left it on.
        self._capturing = (
            model.training and not self._captured and self._cadence.due(self.steps + 1)
        )
        if self._capturing:
            self._layers, self._seen, self._inside = {}, {}, {}

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        if self._capturing:
            self._capturing, self._captured = False, True
            self._seen = {}

    def _linear(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._capturing and isinstance(output, Tensor):
            conv = not isinstance(module, nn.Linear)
            self._start(module, output, feature_dim=1 if conv else -1)

    def _start(self, module: nn.Module, z: Tensor, feature_dim: int) -> _Layer | None:
        """Begin the layer that ``module`` starts; None if it was called before in this pass."""
        name = self._names[module]
        if name in self._layers:
            return None
        layer = self._layers[name] = _Layer(name, feature_dim)
        self._measure(layer, "z", z)
        return layer

    def _norm_input(self, norm: nn.Module, args: Any, kwargs: Any) -> None:
        x = args[0] if args else kwargs.get("input", kwargs.get("x"))
        if not self._capturing or not isinstance(x, Tensor):
            return
        layer, stage = self._recognize(x)
        if layer is None or layer.norm is not None or stage != "z":
            if any(known.norm is norm for known in self._layers.values()):
                return  # called before in this pass, as another layer's
            layer = self._start(norm, x, channel_dim(norm, x))
        if layer is None:
            return
        layer.norm = norm
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            try:
                x_hat = standardized(norm, x)
            except (ValueError, RuntimeError):  # an input the layer itself is about to refuse
                return
            layer.signals["normalized"] = summarize(x_hat)
            if isinstance(norm, Epilogue) and norm.activation is not None:
                residual = args[1] if len(args) > 1 else kwargs.get("residual")
                self._fused(layer, norm, x_hat, residual)
        self._inside[norm] = layer

    def _fused(self, layer: _Layer, norm: Epilogue, x_hat: Tensor, residual: Any) -> None:
        """A fused layer returns its activation; what enters it is rebuilt from x̂."""
        weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
        y = x_hat if weight is None else x_hat * _along(norm, weight, x_hat)
        y = y if bias is None else y + _along(norm, bias, x_hat)
        y = y if residual is None else y + residual
        layer.activation = norm.activation
        saturated, dead = saturation(y, layer.activation, layer.feature_dim)
        layer.signals["affine"] = replace(summarize(y), saturated=saturated, dead=dead)

    def _norm_output(self, norm: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        layer = self._inside.pop(norm, None) if self._capturing else None
        if layer is None or not isinstance(output, Tensor):
            return
        if isinstance(norm, Epilogue) and norm.activation is not None:
            self._measure(layer, "activation", output)
            self._copy_saturation(layer)
            return
        self._measure(layer, "affine", output)
        weight = getattr(norm, "weight", None)
        if output.requires_grad:

            def normalized_gradient(gradient: Tensor) -> None:
                # y = γx̂ + β, so ∂loss/∂x̂ = γ · ∂loss/∂y.
                if weight is not None:
                    gradient = gradient * _along(norm, weight.detach(), gradient)
                layer.gradients["normalized"] = _norm_of(gradient)

            output.register_hook(normalized_gradient)  # type: ignore[no-untyped-call]

    def _activation_input(self, module: nn.Module, args: Any) -> None:
        if not self._capturing or not (args and isinstance(args[0], Tensor)):
            return
        x = args[0]
        layer, stage = self._recognize(x)
        if layer is None or layer.activation is not None or stage != layer.preactivation:
            return
        layer.activation = MODULES[type(module)]
        saturated, dead = saturation(x, layer.activation, layer.feature_dim)
        layer.signals[stage] = replace(layer.signals[stage], saturated=saturated, dead=dead)
        self._inside[module] = layer

    def _activation_output(self, module: nn.Module, args: Any, output: Any) -> None:
        layer = self._inside.pop(module, None) if self._capturing else None
        if layer is not None and isinstance(output, Tensor):
            self._measure(layer, "activation", output)
            self._copy_saturation(layer)

    def _copy_saturation(self, layer: _Layer) -> None:
        """The activation's output is as saturated as what entered it."""
        before = layer.signals[layer.preactivation]
        layer.signals["activation"] = replace(
            layer.signals["activation"], saturated=before.saturated, dead=before.dead
        )

    def _recognize(self, x: Tensor) -> tuple[_Layer | None, str]:
        """The layer and stage ``x`` was measured as in this pass."""
        entry = self._seen.get(id(x))
        if entry is None or entry[0]() is not x:
            return None, ""
        return entry[1], entry[2]

    def _measure(self, layer: _Layer, stage: str, x: Tensor) -> None:
        with torch.no_grad():
            layer.signals[stage] = summarize(x)
        self._seen[id(x)] = (weakref.ref(x), layer, stage)
        if x.requires_grad:
            gradients = layer.gradients

            def gradient_of_stage(gradient: Tensor) -> None:
                gradients[stage] = _norm_of(gradient)

            x.register_hook(gradient_of_stage)  # type: ignore[no-untyped-call]

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


def _along(norm: nn.Module, parameter: Tensor, x: Tensor) -> Tensor:
    """View γ or β so that it broadcasts along the features of ``x``."""
    dim = channel_dim(norm, x)
    return parameter if dim == -1 else parameter.reshape(-1, *(1,) * (x.dim() - 1 - dim))


def _norm_of(gradient: Tensor) -> float:
    """The L2 norm in float64: a sum of many small squares must not vanish."""
    return float(gradient.detach().double().norm())


def _inert() -> Watch:
    """What a copy of a watched model carries: hooks that do nothing."""
    inert = Watch.__new__(Watch)
    inert._capturing, inert._captured = False, True
    return inert
