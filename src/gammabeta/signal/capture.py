"""Measure one forward pass: a function mode sees every function that ``forward`` calls.

A row of the picture begins where values are multiplied by weights: z, then its normalization into x̂
and γx̂ + β, and the activation. The parts of a row are found by following tensors: the output of one
function is recognized when the next one is called with it, whether a module calls it or not. A sum
of two signals is a row of its own, and so is an attention.

Hooks on the modules tell which module is at work, and show norms and activations that are not made
of known functions.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gammabeta.layers.deferred import Deferred, peek
from gammabeta.signal import functions
from gammabeta.signal.functions import argument, first_tensor, name_of
from gammabeta.signal.mode import Mode
from gammabeta.signal.modules import Known, Modules, is_function
from gammabeta.signal.regions import Regions, row_of
from gammabeta.signal.rows import Row, Signal
from gammabeta.signal.sampling import SAMPLE, CannotSampleError

Wanted = Callable[[str, str], bool]


class Capture:
    """The signals of one forward pass, and the gradients of its backward pass.

    Args:
        regions: the modules of the model.
        parameters: id → name of each parameter.
        wanted: whether a row's stage is to be measured, by their names.
        known: what was found out about modules in earlier frames; more is added.
        most, phase: how samples are taken, see `gammabeta.signal.sampling.take`.

    Attributes:
        rows: rows by name, in the order in which they were computed.
        error: why measuring stopped; None if it did not. Errors are never raised into the training.
        strangers: name → reason, for normalizations that are not measured as such.
        unseen: name → reason, for modules with weights that could not be measured.
        norms: id of γ or β → name of the row that it belongs to.
        seconds: time that measuring has taken from the training.
    """

    def __init__(
        self,
        regions: Regions,
        parameters: Mapping[int, str],
        wanted: Wanted,
        known: Known,
        most: int = SAMPLE,
        phase: int = 0,
    ) -> None:
        self.rows: dict[str, Row] = {}
        self.error: str | None = None
        self.strangers: dict[str, str] = {}
        self.unseen: dict[str, str] = dict.fromkeys(regions.scripted.values(), "it is scripted")
        self.norms: dict[int, str] = {}
        self.seconds = 0.0
        self.stack: list[nn.Module] = []
        self.names = {**regions.open, **regions.compiled}
        self._parameters = parameters
        self._title = regions.title
        self._wanted = wanted
        self._most, self._phase = most, phase
        self._regions = regions
        self._seen: dict[int, tuple[weakref.ref[Tensor], Row, str]] = {}
        self._mode = Mode(self)
        self._modules = Modules(self, known)
        self._handles: list[RemovableHandle] = []
        self._gates: list[Callable[[], None]] = []

    # Begin and end.

    def attach(self, root: nn.Module) -> None:
        """Begin to see: put hooks on the modules, and enter the function mode.

        The hooks of ``root``, the model, are already running; see `enter`.
        """
        began = time.perf_counter()
        for module in self._regions.open:
            self._modules.ask(module)
            if module is not root and not is_function(module):
                self._handles += self._modules.hooks(module)
        for module in self._regions.compiled:
            if module is not root:
                self._gate(module)
        if root in self._regions.open:
            self._mode.enter()
        self.seconds += time.perf_counter() - began

    def enter(self, root: nn.Module, args: Any, kwargs: Any) -> None:
        """Do what a hook would do before ``root``."""
        if root in self._regions.open:
            self._modules.before(root, args, kwargs)

    def leave(self, root: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Do what a hook would do after ``root``."""
        if root in self._regions.open:
            self._modules.after(root, args, kwargs, output)
        else:
            self.guarded(self.unknown, root, output)

    def detach(self) -> None:
        """Stop seeing: remove the hooks and leave the mode. The measurements stay in `rows`."""
        began = time.perf_counter()
        self._mode.leave()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for gate in self._gates:
            gate()
        self._gates.clear()
        self._seen = {}
        self.stack.clear()
        self.seconds += time.perf_counter() - began

    def _gate(self, module: nn.Module) -> None:
        """Let a compiled module run without the mode, which would be compiled along."""
        compiled = vars(module).get("_compiled_call_impl")
        if compiled is None:  # torch.compile(module): its own hooks are not compiled
            before = module.register_forward_pre_hook(lambda *_: self._mode.leave())
            after = module.register_forward_hook(self._after_compiled, always_call=True)
            self._handles += [before, after]
            return

        def gated(*args: Any, **kwargs: Any) -> Any:
            self._mode.leave()
            try:
                output = compiled(*args, **kwargs)
            finally:
                self._mode.enter()
            self.guarded(self.unknown, module, output)
            return output

        vars(module)["_compiled_call_impl"] = gated
        self._gates.append(lambda: vars(module).__setitem__("_compiled_call_impl", compiled))

    def _after_compiled(self, module: nn.Module, args: Any, output: Any) -> None:
        self._mode.enter()
        self.guarded(self.unknown, module, output)

    def guarded(self, measure: Callable[..., None], *args: Any) -> None:
        """Call ``measure``; an error is stored, and ends the measuring, not the training."""
        if self.error is not None:
            return
        began = time.perf_counter()
        try:
            with torch._C.DisableTorchFunction():
                measure(*args)
        except CannotSampleError as e:
            self.unseen.setdefault(self.place() or "the model", str(e))
        except Exception as e:
            self.error = f"{self.place() or 'the model'}: {type(e).__name__}: {e}"
        self.seconds += time.perf_counter() - began

    # What functions do.

    def function(self, function: Callable[..., Any], args: Any, kwargs: Any, output: Any) -> None:
        """Measure what a function has computed."""
        name = name_of(function)
        if name in functions.PASSED_THROUGH:
            self._pass_through(args, output)
        elif name in functions.ACTIVATIONS:
            self.activation(name, args[0] if args else kwargs.get("input"), output)
        elif name in functions.SUMS:
            self._sum(args, output)
        elif name in functions.PRODUCERS:
            weight, dim = self._weight_in(args, kwargs), functions.PRODUCERS[name]
            self._product(weight, output, dim, "embedding" in name)
        elif name in functions.PRODUCTS:
            self._matrix_product(args, output)
        elif name in functions.NORM_FUNCTIONS:
            self._norm_function(name, function, args, kwargs, output)
        elif name == functions.SOFTMAX:
            self._softmax(output)
        elif name == functions.ATTENTION:
            self._own_row("attended", output)

    def _pass_through(self, args: Any, output: Any) -> None:
        row, stage = self.recognize(args[0]) if args else (None, "")
        if row is not None and isinstance(output, Tensor):
            self.remember(output, row, stage)

    def _weight_in(self, args: Any, kwargs: Any) -> str:
        """Return the name of the first matrix of parameters among the arguments; "" if none."""
        nested = (x for each in args if isinstance(each, (list, tuple)) for x in each)
        for each in (*args, *kwargs.values(), *nested):
            if isinstance(each, Tensor) and each.dim() >= 2:
                name = self._parameters.get(id(each)) or self._parameters.get(id(each._base))
                if name:
                    return name
        return ""

    def _product(self, weight: str, output: Any, dim: int, embeds: bool = False) -> None:
        z = first_tensor(output)
        name = self.row_of(weight) if weight else self.place() or self._title
        if z is not None and z.is_complex():
            self.unseen.setdefault(name, "complex tensors cannot be measured")
        elif z is not None and z.is_floating_point():
            self.start(name, z, dim).embeds = embeds

    def _matrix_product(self, args: Any, output: Any) -> None:
        weight = self._weight_in(args, {})
        if weight:
            self._product(weight, output, -1)
        elif any(self.recognize(factor)[1] == "attention" for factor in args):
            self._own_row("attended", output)

    def activation(self, name: str, x: Any, output: Any) -> None:
        """Measure the output of an activation, and what entered it."""
        if not isinstance(x, Tensor) or not isinstance(output, Tensor):
            return
        row, stage = self.recognize(x)
        if row is None:
            if not x.is_floating_point() or output is x or self._modules.is_inside_leaf(x):
                return
            place = f"{self.place()}.{name}" if self.place() else name
            row = self.start(self._free(place), x, 1 if x.dim() == 4 else -1)
            stage = "z"
        if row.activation is not None or stage not in (row.preactivation, "z"):
            return
        row.activation = name
        self.measure(row, "activation", output, row.dim)

    def _sum(self, args: Any, output: Any) -> None:
        if len(args) < 2 or not all(isinstance(each, Tensor) for each in args[:2]):
            return
        a, b = args[:2]
        both = self._is_stream(a) and self._is_stream(b)
        if (a.shape != b.shape and not both) or a.dim() < 2 or not isinstance(output, Tensor):
            return
        top = self.stack[-1] if self.stack else None
        leaf = top is not None and len(self.stack) > 1 and next(top.children(), None) is None
        if leaf or not (self._is_stream(a) or self._is_stream(b)):
            return
        self._own_row("residual", output, "sum")

    def _is_stream(self, x: Tensor) -> bool:
        row, stage = self.recognize(x)
        return row is not None and stage != "attention"

    def _softmax(self, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() >= 3:
            self._own_row("attention", output, "softmax")

    def _own_row(self, stage: str, output: Any, word: str = "") -> None:
        y = first_tensor(output)
        if y is None:
            return
        place = self.place()
        row = Row(self._free(f"{place}.{word or stage}" if place else word or stage), -1)
        row.dim = 1 if y.dim() == 4 and stage == "residual" else -1
        self.rows[row.name] = row
        self.measure(row, stage, y, row.dim)

    def _norm_function(self, name: str, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        weight_at, bias_at, dim = functions.NORM_FUNCTIONS[name]
        if function is torch.batch_norm or function is torch.instance_norm:
            weight_at, bias_at = 1, 2
        x = args[0] if args else kwargs.get("input")
        weight = argument(args, kwargs, weight_at, "weight")
        bias = argument(args, kwargs, bias_at, "bias")
        if isinstance(x, Tensor) and isinstance(output, Tensor):
            self._modules.norm_output(x, output, weight, bias, dim)

    # Rows and their signals.

    def place(self) -> str:
        """Return the name of the module at work; "" for the model itself."""
        return self.names.get(self.stack[-1], "") if self.stack else ""

    def name_of(self, parameter: Any) -> str:
        """Return the name of a parameter of the model; "" if it is none."""
        return self._parameters.get(id(parameter), "")

    def row_of(self, parameter: str) -> str:
        """Return the name of the row that a parameter belongs to, see `row_of`."""
        return row_of(parameter, self._title)

    def start(self, name: str, z: Tensor, dim: int) -> Row:
        """Begin a row. One that was begun before in this pass is followed, but not measured."""
        row = Row(name, dim if dim >= 0 or z.dim() > 1 else 0, again=name in self.rows)
        self.rows.setdefault(name, row)
        self.measure(row, "z", z, dim)
        return row

    def unknown(self, module: nn.Module, output: Any) -> None:
        """Measure the output of a module that cannot be looked into."""
        y = first_tensor(output)
        if y is not None and y.is_floating_point():
            name = self.names.get(module, "") or self._title
            self.start(name, y, 1 if y.dim() == 4 else -1)

    def measure(self, row: Row, stage: str, x: Tensor, dim: int) -> None:
        """Take a sample of ``x`` as a stage of ``row``, and later one of its gradient."""
        wanted = self._wanted(row.name, stage)
        wanted = wanted or (stage == "affine" and self._wanted(row.name, "normalized"))
        if wanted and not row.again:
            signal = row.signals[stage] = self.sample(peek(x), dim)
            if type(x) is not Deferred and x.requires_grad:
                x.register_hook(_Gradient(self, signal))  # type: ignore[no-untyped-call]
        self.remember(x, row, stage)

    def sample(self, x: Tensor, dim: int) -> Signal:
        """Take a sample of ``x``, whose features are indexed by ``dim``."""
        return Signal.of(x, dim, self._most, self._phase)

    def remember(self, x: Tensor, row: Row, stage: str) -> None:
        """Recognize ``x`` from now on."""
        self._seen[id(x)] = (weakref.ref(x), row, stage)

    def recognize(self, x: Any) -> tuple[Row | None, str]:
        """Return the row and the stage as which ``x`` was measured in this pass."""
        entry = self._seen.get(id(x))
        if entry is None or entry[0]() is not x:
            return None, ""
        return entry[1], entry[2]

    def _free(self, name: str) -> str:
        """Return ``name``, with a number if a row has it already."""
        if name not in self.rows:
            return name
        number = 2
        while f"{name}{number}" in self.rows:
            number += 1
        return f"{name}{number}"


class _Gradient:
    """A hook on a tensor: takes a sample of its gradient in the backward pass."""

    __slots__ = ("_capture", "_signal")

    def __init__(self, capture: Capture, signal: Signal) -> None:
        self._capture = capture
        self._signal = signal

    def __call__(self, gradient: Tensor) -> None:
        self._capture.guarded(self._signal.take_gradient, gradient)
