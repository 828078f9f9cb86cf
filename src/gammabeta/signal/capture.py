"""One forward pass being measured: hooks on the modules, tensors followed from one to the next.

A *layer* is what one linear or convolution starts: its output z, the normalization of z into x̂ and
γx̂ + β, the activation after it. Layers are found by following tensors through the pass: what a
module returns is recognized when the next module is called with it. A normalization whose input no
such module gave starts a layer of its own, as in a transformer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gammabeta.layers.standardized import standardized
from gammabeta.layers.traits import channel_dim, traits
from gammabeta.ops.activations import MODULES
from gammabeta.signal.summary import Summary, saturation, summarize

STAGES = ("z", "normalized", "affine", "activation")
"""z; x̂; γx̂ + β; the activation's output."""

_PRODUCERS = (nn.Linear, nn.modules.conv._ConvNd)
# Activations without a zone of saturation here; their output is measured all the same.
_OTHER_ACTIVATIONS = (
    *(nn.ReLU6, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.RReLU, nn.Mish, nn.Softplus, nn.Softsign),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, *MODULES),
)
# What stands between a layer's parts without being one.
_PASSED_THROUGH = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)

_Hook = Callable[..., None]


@dataclass
class Layer:
    """What one forward pass has shown of a layer so far."""

    name: str
    feature_dim: int
    z: Tensor | None = None  # until the pass ends
    norm: nn.Module | None = None
    activation: str | None = None
    signals: dict[str, Summary] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)

    @property
    def preactivation(self) -> str:
        """The stage that enters the activation."""
        return "affine" if self.norm is not None else "z"


class Capture:
    """The signals of one forward pass, and the gradients its backward pass will bring.

    Args:
        names: every module of the model and its name.

    Attributes:
        layers: by name, in the order of their calls.
        error: why measuring stopped; None while all is well. It never reaches the training.
        strangers: name → why a normalization's subclass is not measured as one.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.layers: dict[str, Layer] = {}
        self.error: str | None = None
        self.strangers: dict[str, str] = {}
        self._names = names
        self._handles: list[RemovableHandle] = []
        self._seen: dict[int, tuple[weakref.ref[Tensor], Layer, str]] = {}
        self._inside: dict[nn.Module, Layer] = {}  # called, not yet returned

    def attach(self, root: nn.Module) -> None:
        """Put hooks on every module that can be measured, but ``root``: see `enter`."""
        for module, name in self._names.items():
            try:
                before, after = self._hooks(module)
            except Exception as e:  # of a stranger's module, which is asked what it is
                self.error = f"{name or type(module).__name__}: {e}"
                return
            if module is not root and before is not None:
                hook = module.register_forward_pre_hook(self._safely(before), with_kwargs=True)
                self._handles.append(hook)
            if module is not root and after is not None:
                hook = module.register_forward_hook(self._safely(after), with_kwargs=True)
                self._handles.append(hook)

    def enter(self, root: nn.Module, args: Any, kwargs: Any) -> None:
        """What a hook would do before ``root``, the model, whose hooks are running already."""
        before, _ = self._hooks(root)
        if before is not None:
            self._safely(before)(root, args, kwargs)

    def leave(self, root: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """What a hook would do after ``root``."""
        _, after = self._hooks(root)
        if after is not None:
            self._safely(after)(root, args, kwargs, output)

    def detach(self) -> None:
        """Take the hooks off; what was measured stays in `layers`."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen = {}
        for layer in self.layers.values():
            layer.z = None

    def _hooks(self, module: nn.Module) -> tuple[_Hook | None, _Hook | None]:
        """What measures ``module``, before its call and after it."""
        if isinstance(module, _PRODUCERS):
            return None, self._linear
        what = traits(module)
        if what.normalizes:
            return self._norm_input, self._norm_output
        if what.stranger:
            self.strangers[self._names[module]] = what.stranger
            return None, None
        if _activation_name(module) is not None:
            return self._activation_input, self._activation_output
        return None, self._pass_through if isinstance(module, _PASSED_THROUGH) else None

    def _safely(self, hook: _Hook) -> _Hook:
        """``hook``, whose failure must not cost anybody a training run."""

        def safe(module: nn.Module, *args: Any) -> None:
            if self.error is not None or module not in self._names:  # in a copy of the model
                return
            try:
                hook(module, *args)
            except Exception as e:
                self.error = f"{self._names[module] or type(module).__name__}: {e}"

        return safe

    # Hooks.

    def _pass_through(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        layer, stage = self._recognize(args[0]) if args else (None, "")
        if layer is not None and isinstance(output, Tensor):
            self._seen[id(output)] = (weakref.ref(output), layer, stage)

    def _linear(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            conv = not isinstance(module, nn.Linear)
            self._start(module, output, feature_dim=1 if conv else -1)

    def _start(self, module: nn.Module, z: Tensor, feature_dim: int) -> Layer | None:
        """Begin the layer that ``module`` starts; None if it was called before in this pass."""
        name = self._names[module]
        if name in self.layers:
            return None
        layer = self.layers[name] = Layer(name, feature_dim, z=z.detach())
        self._measure(layer, "z", z)
        return layer

    def _norm_input(self, norm: nn.Module, args: Any, kwargs: Any) -> None:
        x = args[0] if args else kwargs.get("input", kwargs.get("x"))
        if not isinstance(x, Tensor):
            return
        layer, stage = self._recognize(x)
        if layer is None or layer.norm is not None or stage != "z":
            if any(known.norm is norm for known in self.layers.values()):
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
            activation = traits(norm, x).activation
            if activation is not None:
                residual = args[1] if len(args) > 1 else kwargs.get("residual")
                self._fused(layer, norm, activation, x_hat, residual)
        self._inside[norm] = layer

    def _fused(
        self, layer: Layer, norm: nn.Module, activation: str, x_hat: Tensor, residual: Any
    ) -> None:
        """A fused layer returns its activation; what enters it is rebuilt from x̂."""
        weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
        y = x_hat if weight is None else x_hat * _along(norm, weight, x_hat)
        y = y if bias is None else y + _along(norm, bias, x_hat)
        layer.signals["affine"] = summarize(y)
        y = y + residual if isinstance(residual, Tensor) else y  # what enters the activation
        self._saturate(layer, activation, y)

    def _saturate(self, layer: Layer, activation: str | None, x: Tensor) -> None:
        """Measure the saturation of what enters the activation, and of z, had it entered."""
        layer.activation = activation
        entering = {layer.preactivation: x}
        if layer.preactivation != "z" and layer.z is not None:
            entering["z"] = layer.z
        for stage, values in entering.items():
            saturated, dead = saturation(values, activation, layer.feature_dim)
            layer.signals[stage] = replace(layer.signals[stage], saturated=saturated, dead=dead)

    def _norm_output(self, norm: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        layer = self._inside.pop(norm, None)
        if layer is None or not isinstance(output, Tensor):
            return
        if layer.activation is not None:
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

    def _activation_input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        x = args[0] if args else None
        layer, stage = self._recognize(x) if isinstance(x, Tensor) else (None, "")
        if layer is None or layer.activation is not None or stage != layer.preactivation:
            return
        self._saturate(layer, _activation_name(module), args[0])
        self._inside[module] = layer

    def _activation_output(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        layer = self._inside.pop(module, None)
        if layer is not None and isinstance(output, Tensor):
            self._measure(layer, "activation", output)
            self._copy_saturation(layer)

    def _copy_saturation(self, layer: Layer) -> None:
        """The activation's output is as saturated as what entered it."""
        before = layer.signals[layer.preactivation]
        layer.signals["activation"] = replace(
            layer.signals["activation"], saturated=before.saturated, dead=before.dead
        )

    def _recognize(self, x: Tensor) -> tuple[Layer | None, str]:
        """The layer and stage ``x`` was measured as in this pass."""
        entry = self._seen.get(id(x))
        if entry is None or entry[0]() is not x:
            return None, ""
        return entry[1], entry[2]

    def _measure(self, layer: Layer, stage: str, x: Tensor) -> None:
        if x.is_complex():
            raise TypeError("complex numbers have no place on a real axis")
        with torch.no_grad():
            layer.signals[stage] = summarize(x)
        self._seen[id(x)] = (weakref.ref(x), layer, stage)
        if x.requires_grad:
            gradients = layer.gradients

            def gradient_of_stage(gradient: Tensor) -> None:
                gradients[stage] = _norm_of(gradient)

            x.register_hook(gradient_of_stage)  # type: ignore[no-untyped-call]


def _along(norm: nn.Module, parameter: Tensor, x: Tensor) -> Tensor:
    """View γ or β so that it broadcasts along the features of ``x``."""
    dim = channel_dim(norm, x)
    return parameter if dim == -1 else parameter.reshape(-1, *(1,) * (x.dim() - 1 - dim))


def _activation_name(module: nn.Module) -> str | None:
    """What an activation's module is called here; None if it is none."""
    if type(module) in MODULES:
        return MODULES[type(module)]
    return type(module).__name__.lower() if isinstance(module, _OTHER_ACTIVATIONS) else None


def _norm_of(gradient: Tensor) -> float:
    """The L2 norm in float64: a sum of many small squares must not vanish."""
    return float(gradient.detach().double().norm())
