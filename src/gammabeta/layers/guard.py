"""Guard running statistics: skip updates that would make them non-finite.

In torch, one NaN in one batch makes the running averages NaN for good: training continues as
before, but every later evaluation is wrong. A guarded layer skips such an update, counts it and
warns once. Its output equals that of torch's layer, so a gradient scaler, for example, still sees
a NaN loss.

The kernel updates copies of the statistics, which replace the originals only if they are finite.
The check therefore reads 2C values and never the data. On the CPU it reads them on the host. On
other devices, and where values cannot be read (`torch.compile`, `torch.func.vmap`), it selects with
`torch.where`, without a device synchronization. Graphs that torch exports, traces or scripts are
torch's own and contain no guard.
"""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gammabeta.names import known
from gammabeta.ops.allocated import in_memory
from gammabeta.ops.commit import commit_statistics

ACTIONS = ("refuse", "raise", "accept")
"""How a layer handles a batch that would make its running statistics non-finite."""


class NonFiniteBatchError(ValueError):
    """Raised for a non-finite batch by a layer or `calibrate` that is set to raise."""


class NonFiniteBatchWarning(UserWarning):
    """A layer skipped an update of its running statistics for the first time."""


class Guarded(nn.Module):
    """Adds the guard to a layer with running statistics; mixed in before torch's class.

    Every attribute has a default here, so that a layer made without ``__init__`` (unpickled from
    an older version, or whose class was replaced) is guarded too.

    Attributes:
        on_nonfinite: ``"refuse"`` (skip, count, warn once), ``"raise"`` (skip, count, raise
            `NonFiniteBatchError`) or ``"accept"`` (torch's own behaviour). In a compiled graph,
            which cannot raise, ``"raise"`` acts as ``"refuse"``.
        qualified_name: the layer's name in its model, for messages; set by `guard_statistics`.
    """

    if TYPE_CHECKING:  # a script would take what is annotated here for no buffer
        running_mean: Tensor | None
        running_var: Tensor | None

    on_nonfinite: str = "refuse"
    qualified_name: str | None = None
    _refused: int = 0
    # What a device or a compiled graph counts, without the host waiting. Not a buffer: buffers are
    # broadcast, averaged and compared by third-party code, so ours have to be torch's.
    _device_count: Tensor | None = None
    _told: bool = False

    # Not for `torch.jit.script`, which compiles every property it finds.
    __jit_unused_properties__: ClassVar[list[str]] = ["refused_batches"]

    def _set_on_nonfinite(self, on_nonfinite: str) -> None:
        self.on_nonfinite = known("on_nonfinite", on_nonfinite, ACTIONS)
        self._counter()

    @property
    def refused_batches(self) -> int:
        """Number of batches skipped since the last reset; synchronizes with the device."""
        on_device = self._device_count
        if on_device is None or on_device.is_meta:
            return self._refused
        try:
            return self._refused + int(on_device)
        except RuntimeError:  # a fake tensor, a tracer: there is no value to read
            return self._refused

    def reset_running_stats(self) -> None:
        """Reset torch's running statistics, and with them the count of refused batches."""
        super().reset_running_stats()  # type: ignore[misc]
        self._forget()

    def _forget(self) -> None:
        """Reset the count of skipped batches and allow the warning again."""
        self._refused, self._told, self._device_count = 0, False, None
        self._counter()

    def train(self, mode: bool = True) -> "Guarded":
        """Switch between training and evaluation; warn of batches skipped on a device or graph."""
        if not self._told and self.refused_batches:
            self._tell()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Guarded":
        """Move or cast the layer; the count moves with the statistics."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._counter()
        return self

    def _statistics(self, updates: bool) -> tuple[Tensor | None, Tensor | None]:
        """Return the running statistics for a kernel: copies, if a guarded update follows.

        With copies, nothing the kernel saves for its backward pass is modified later, and a
        kernel that raises leaves the statistics unchanged.
        """
        mean, var = self.running_mean, self.running_var
        if not updates or mean is None or var is None or not self._on_guard(mean):
            return mean, var
        counter = self._buffers.get("num_batches_tracked")
        in_memory(running_mean=mean, running_var=var, num_batches_tracked=counter)
        return mean.clone(), var.clone()

    def _on_guard(self, mean: Tensor) -> bool:
        """Return whether updates of the running statistics, such as ``mean``, are checked."""
        if self.on_nonfinite == "accept" or mean.is_meta:  # meta has no values
            return False
        # An exported or traced graph is matched by others against torch's.
        traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        return not (traced or torch.compiler.is_exporting())

    def _commit(
        self, mean: Tensor | None, var: Tensor | None, batches: Tensor | None = None
    ) -> None:
        """Store the statistics that a kernel updated, if they are finite.

        Args:
            mean: from `_statistics`, updated since.
            var: likewise.
            batches: ``num_batches_tracked``, which counts the batches that enter, or None.

        Raises:
            NonFiniteBatchError: they are not finite, and ``on_nonfinite="raise"``.
        """
        old_mean, old_var = self.running_mean, self.running_var
        if mean is old_mean or mean is None or var is None or old_mean is None or old_var is None:
            if batches is not None:
                batches.add_(1)
            return
        if mean.is_cpu and not torch.compiler.is_compiling():
            try:
                finite = _finite(mean, var)
            except RuntimeError:  # under a transform or a trace there is no value to look at
                pass
            else:
                if finite:
                    if batches is not None:
                        batches.add_(1)
                    _write(old_mean, old_var, mean, var)
                else:
                    self._refuse()
                return
        if torch.compiler.is_compiling() and not _transformed():
            counter = self._device_count  # a graph counts only in a counter made before it
            if counter is not None and counter.device != mean.device:
                counter = None
            commit_statistics(mean, var, old_mean, old_var, batches, counter)
            return
        # Nothing from here to the judgement waits for the device or needs a value.
        # 0 · finite is 0, 0 · inf and NaN are NaN: no sum of these overflows.
        entered = torch.dot(mean * 0, var) == 0
        if batches is not None:
            batches.add_(entered)
        new_mean = torch.where(entered, mean, old_mean)
        new_var = torch.where(entered, var, old_var)
        _write(old_mean, old_var, new_mean, new_var)
        self._judge(entered)

    def _judge(self, entered: Tensor) -> None:
        """Count a batch as skipped unless ``entered``, one bool; warn where the value can be read.

        Raises:
            NonFiniteBatchError: the batch was skipped, and ``on_nonfinite="raise"``.
        """
        compiling = torch.compiler.is_compiling()
        if entered.is_cpu and not compiling:
            try:
                refused = not entered
            except RuntimeError:  # as in `_commit`
                return
            if refused:
                self._refuse()
            return
        # A transform may not change what it did not get, and its answer may be one an example:
        # there, nothing is counted. A graph counts only in a counter made before it.
        if not _transformed():
            counter = self._device_count if compiling else self._counter()
            if counter is not None and counter.device == entered.device:
                counter.add_(~entered)
        if self.on_nonfinite == "raise" and not compiling and not entered:
            raise NonFiniteBatchError(self._message())

    def _refuse(self) -> None:
        """Count a skipped batch, and warn or raise."""
        self._refused += 1
        if self.on_nonfinite == "raise":
            raise NonFiniteBatchError(self._message())
        self._tell()

    def _counter(self) -> Tensor | None:
        """Return the device's counter, created or moved to the statistics' device if needed."""
        mean = self.running_mean
        if mean is None or mean.is_meta:
            return None
        count = self._device_count
        if count is None or count.device != mean.device:
            start = self.refused_batches - self._refused
            with torch.inference_mode(False):  # a tensor made in it could not be added to outside
                self._device_count = torch.full((), start, dtype=torch.long, device=mean.device)
        return self._device_count

    def _tell(self) -> None:
        """Warn, the first time only."""
        if not self._told:
            self._told = True
            warnings.warn(self._message(), NonFiniteBatchWarning, stacklevel=2)

    def _message(self) -> str:
        kind = f"{type(self).__name__}({getattr(self, 'num_features', '')})"
        who = f"{self.qualified_name} ({kind})" if self.qualified_name else kind
        mean, var = self.running_mean, self.running_var
        if mean is not None and var is not None and not _finite(mean.flatten(), var.flatten()):
            return (
                f"{who}: the running statistics were already non-finite before this batch, and "
                "no update can repair them; call reset_running_stats(), or load finite ones"
            )
        return (
            f"{who}: the mean or variance of a mini-batch is not finite (in the dtype of the "
            "running statistics), so the update of the running statistics was skipped; the output "
            "is returned unchanged. Look for NaN or inf in the data, too high a learning rate, or "
            "overflow in half precision. Later skipped batches are only counted, in "
            'refused_batches; on_nonfinite="raise" raises at the first such batch, "accept" '
            "updates the statistics as torch does"
        )


def guard_statistics(model: nn.Module, on_nonfinite: str | None = None) -> list[str]:
    """Set the qualified name, and optionally ``on_nonfinite``, of every guarded layer of ``model``.

    Args:
        model: any module. Its layers from `gammabeta.layers` that track running statistics are
            guarded; torch's layers are not.
        on_nonfinite: ``"refuse"``, ``"raise"`` or ``"accept"``; None leaves each layer's own.

    Returns:
        The names of the guarded layers, in the order of ``model.named_modules()``.

    Raises:
        ValueError: ``on_nonfinite`` is not known.
        TypeError: ``model`` is no module.

    Example:
        >>> import gammabeta as gb
        >>> model = nn.Sequential(nn.Linear(4, 8), gb.BatchNorm1d(8))
        >>> guard_statistics(model, "raise")
        ['1']
        >>> model[1].on_nonfinite
        'raise'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    if on_nonfinite is not None:
        known("on_nonfinite", on_nonfinite, ACTIONS)
    names = []
    for name, module in model.named_modules():
        if isinstance(module, Guarded):
            module.qualified_name = name or None
            module._counter()  # for a layer made without ``__init__``, before it is compiled
            if on_nonfinite is not None:
                module.on_nonfinite = on_nonfinite
            names.append(name)
    return names


def _finite(mean: Tensor, var: Tensor) -> bool:
    """Return whether both are finite; read their values."""
    # A dot product with a non-finite operand is non-finite, so one operator confirms the common
    # case. It can also overflow for finite operands, so a negative result is checked exactly.
    if math.isfinite(torch.dot(mean, var).item()):
        return True
    return bool(mean.isfinite().all() and var.isfinite().all())


def _write(mean: Tensor, var: Tensor, new_mean: Tensor, new_var: Tensor) -> None:
    """Put the new statistics into the buffers ``mean`` and ``var`` as torch's operators do."""
    if _transformed():
        # Through an alias, which a transform takes for its own: as torch's instance norm does.
        torch.ops.aten.alias(mean).copy_(new_mean)
        torch.ops.aten.alias(var).copy_(new_var)
    elif torch.compiler.is_compiling() or mean.is_neg() or var.is_neg():
        mean.copy_(new_mean)
        var.copy_(new_var)
    else:
        # Torch's update leaves autograd's version counters alone, so that a backward pass through
        # an earlier evaluation of the layer still runs. ``data`` has a counter of its own.
        torch._foreach_copy_([mean.data, var.data], [new_mean, new_var])


def _transformed() -> bool:
    """Whether this runs under a `torch.func` transform, where one tensor may stand for many."""
    # torch has no public question for this. Not "is not None": under `torch.compile` that is
    # always true.
    functorch = torch._C._functorch
    return isinstance(functorch.peek_interpreter_stack(), functorch.CInterpreter)
