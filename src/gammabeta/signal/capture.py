"""Measure one forward pass: hooks on the modules follow the tensors from one to the next.

A *layer* begins at a linear or a convolution: its output z, the normalization of z into x̂ and
γx̂ + β, and the activation after it. The parts of a layer are found by following tensors: the output
of one module is recognized when the next module is called with it. A normalization whose input
comes from no linear or convolution starts a layer of its own, as in a transformer.
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
from gammabeta.layers.traits import affine, channel_dim, traits
from gammabeta.ops.activations import MODULES
from gammabeta.signal.schema import Summary
from gammabeta.signal.summary import saturation, summarize

STAGES = ("z", "normalized", "affine", "activation")
"""In order: z, x̂, γx̂ + β, the output of the activation."""

_PRODUCERS = (nn.Linear, nn.modules.conv._ConvNd)
# Activations whose output is measured, but which have no saturated zone in `SATURATION`.
_OTHER_ACTIVATIONS = (
    *(nn.ReLU6, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.RReLU, nn.Mish, nn.Softplus, nn.Softsign),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, *MODULES),
)
# Modules between the parts of a layer that are not parts themselves.
_PASSED_THROUGH = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)

_Hook = Callable[..., None]


@dataclass
class Layer:
    """What is known of a layer so far in this forward pass."""

    name: str
    feature_dim: int
    z: Tensor | None = None  # None again when the pass ends
    norm: nn.Module | None = None
    activation: str | None = None
    signals: dict[str, Summary] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)

    @property
    def preactivation(self) -> str:
        """The stage that is the input of the activation."""
        return "affine" if self.norm is not None else "z"


class Capture:
    """The signals of one forward pass, and the gradients of its backward pass.

    Args:
        names: all modules of the model with their names.

    Attributes:
        layers: layers by name, in the order in which they were called.
        error: why measuring stopped; None if it did not. Errors are never raised into the training.
        strangers: name → reason, for subclasses of normalizations that are not measured as such.
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
        """Put hooks on all modules that can be measured, except ``root``, see `enter`."""
        for module, name in self._names.items():
            try:
                before, after = self._hooks(module)
            except Exception as e:  # asking an unknown module for its traits can fail in any way
                self.error = f"{name or type(module).__name__}: {e}"
                return
            if module is not root and before is not None:
                hook = module.register_forward_pre_hook(self._safely(before), with_kwargs=True)
                self._handles.append(hook)
            if module is not root and after is not None:
                hook = module.register_forward_hook(self._safely(after), with_kwargs=True)
                self._handles.append(hook)

    def enter(self, root: nn.Module, args: Any, kwargs: Any) -> None:
        """Do what a hook would do before ``root``, the model, whose hooks are already running."""
        before, _ = self._hooks(root)
        if before is not None:
            self._safely(before)(root, args, kwargs)

    def leave(self, root: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Do what a hook would do after ``root``."""
        _, after = self._hooks(root)
        if after is not None:
            self._safely(after)(root, args, kwargs, output)

    def detach(self) -> None:
        """Remove the hooks. The measurements stay in `layers`."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen = {}
        for layer in self.layers.values():
            layer.z = None

    def _hooks(self, module: nn.Module) -> tuple[_Hook | None, _Hook | None]:
        """Return the hooks that measure ``module``, one before and one after its call."""
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
        """Wrap ``hook`` so that its errors are stored in `error` instead of ending the training."""

        def safe(module: nn.Module, *args: Any) -> None:
            if self.error is not None or module not in self._names:  # a copy of the model
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
        """Begin a layer at ``module``; return None if it was called before in this pass."""
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
                return  # called before in this pass, as part of another layer
            layer = self._start(norm, x, channel_dim(norm, x))
        if layer is None:
            return
        layer.norm = norm
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            try:
                x_hat = standardized(norm, x)
            except (ValueError, RuntimeError):  # the layer itself will raise for this input
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
        """Measure a layer with a fused activation; compute the activation's input from x̂."""
        weight, bias = affine(norm)
        y = x_hat if weight is None else x_hat * _along(norm, weight, x_hat)
        y = y if bias is None else y + _along(norm, bias, x_hat)
        layer.signals["affine"] = summarize(y)
        y = y + residual if isinstance(residual, Tensor) else y
        self._saturate(layer, activation, y)

    def _saturate(self, layer: Layer, activation: str | None, x: Tensor) -> None:
        """Measure the saturation of the activation's input ``x``, and of z as if z were it."""
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
        weight = affine(norm)[0]

        def normalized_gradient(gradient: Tensor) -> None:
            # y = γx̂ + β, so ∂loss/∂x̂ = γ · ∂loss/∂y.
            if weight is not None:
                gradient = gradient * _along(norm, weight.detach(), gradient)
            layer.gradients["normalized"] = _norm_of(gradient)

        self._at_gradient(output, normalized_gradient)

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
        """Copy the saturation of the activation's input to its output."""
        before = layer.signals[layer.preactivation]
        layer.signals["activation"] = replace(
            layer.signals["activation"], saturated=before.saturated, dead=before.dead
        )

    def _recognize(self, x: Tensor) -> tuple[Layer | None, str]:
        """Return the layer and the stage as which ``x`` was measured in this pass."""
        entry = self._seen.get(id(x))
        if entry is None or entry[0]() is not x:
            return None, ""
        return entry[1], entry[2]

    def _measure(self, layer: Layer, stage: str, x: Tensor) -> None:
        if x.is_complex():
            raise TypeError("complex tensors cannot be measured")
        with torch.no_grad():
            layer.signals[stage] = summarize(x)
        self._seen[id(x)] = (weakref.ref(x), layer, stage)
        gradients = layer.gradients

        def gradient_of_stage(gradient: Tensor) -> None:
            gradients[stage] = _norm_of(gradient)

        self._at_gradient(x, gradient_of_stage)

    def _at_gradient(self, x: Tensor, measure: Callable[[Tensor], None]) -> None:
        """Call ``measure`` with the gradient of ``x``; an error must not end the backward pass."""

        def hook(gradient: Tensor) -> None:
            try:
                measure(gradient)
            except Exception as e:
                self.error = f"a gradient: {e}"

        if x.requires_grad:
            x.register_hook(hook)  # type: ignore[no-untyped-call]


def _along(norm: nn.Module, parameter: Tensor, x: Tensor) -> Tensor:
    """Return a view of γ or β that broadcasts along the features of ``x``."""
    dim = channel_dim(norm, x)
    return parameter if dim == -1 else parameter.reshape(-1, *(1,) * (x.dim() - 1 - dim))


def _activation_name(module: nn.Module) -> str | None:
    """Return the name of an activation module; None if ``module`` is not an activation."""
    if type(module) in MODULES:
        return MODULES[type(module)]
    return type(module).__name__.lower() if isinstance(module, _OTHER_ACTIVATIONS) else None


def _norm_of(gradient: Tensor) -> float:
    """Return the L2 norm, computed in float64 so that small squares do not underflow."""
    return float(gradient.detach().double().norm())
