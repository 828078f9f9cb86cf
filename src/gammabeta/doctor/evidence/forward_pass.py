"""What one forward pass shows: calls of norms, outputs of modules, the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.doctor.evidence.examplewise import Trace


@dataclass
class Call:
    """One call of a norm in a pass.

    Attributes:
        layer: its path.
        module: the norm.
        shape: of the input.
        dim: the dim that indexes the features.
        values: number of values of a feature, hence of each statistic of a batch norm.
        mean, var: (C,) float64 by feature over all other dims, the variance biased; None if the
            input has no such dim.
        finite: whether all input values are finite.
        by_batch: whether it normalizes by statistics of the mini-batch in this call.
        number: which distinct input tensor of the pass this is, counted from 0.
        out: its output, summed up.
        halves: of a batch norm: (mean, var) of the first and of the second half of the batch; None
            if the batch cannot be halved.
        source: path of the layer whose output this is; "" if it is not known.
        rows: (N, C) float32 mean of each row of the input's first dim by feature, or None.
        axis: the dim of the input that indexes features according to the layer that made it; None
            if that is not known. See `gammabeta.doctor.evidence.feature_axis`.
        chosen: whether the layer's own code normalizes a part of its input, which is described
            here, such as the positions that are no padding.
    """

    layer: str
    module: Any
    shape: tuple[int, ...]
    dim: int
    values: int
    mean: Any
    var: Any
    finite: bool
    by_batch: bool
    number: int = 0
    out: Output | None = None
    halves: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    source: str = ""
    rows: Tensor | None = None
    axis: int | None = None
    chosen: bool = False


@dataclass
class Output:
    """What a module returned, summed up by feature (dim 1; the last of a 2- or 3-d output).

    An activation's features are in the dim of the layer before it, where that is known.

    Attributes:
        layer: path of the module; of a function, of the innermost module that called it.
        module: the module.
        shape: of the output.
        low, high, mean, var: (C,) float32, over all other dims; the variance biased.
        zeros: (C,) share of values that are exactly 0.
        finite: whether all values are finite.
        max_abs: largest magnitude of the finite values.
        dim: the dim that indexes the features.
        source: path of the layer whose output its input is, perhaps after an activation that was
            called as a function; "" if it is not known.
        function: name of an activation that was called as a function, such as ``"relu"``; "" for
            the output of a module.
        dtype: of the output.
    """

    layer: str
    module: nn.Module
    shape: tuple[int, ...]
    low: Tensor
    high: Tensor
    mean: Tensor
    var: Tensor
    zeros: Tensor
    finite: bool
    max_abs: float
    dim: int = 1
    source: str = ""
    function: str = ""
    dtype: torch.dtype = torch.float32


@dataclass
class Broken:
    """The first output of a pass that has non-finite values.

    Attributes:
        layer: path of the module that made it; "" is the model's own code.
        module: the module, or None.
        nan: whether there is a NaN among them.
        dtype: of the output.
        largest: largest magnitude of the finite values of its input.
        code: whether the module's own code made it, between its parts.
    """

    layer: str
    module: nn.Module | None
    nan: bool
    dtype: torch.dtype
    largest: float
    code: bool


@dataclass
class Functional:
    """A call of a functional norm that no norm module made.

    Attributes:
        layer: path of the innermost module of the model that was at work.
        name: name of the function, such as ``"batch_norm"``.
        training: whether it normalized by the batch.
        running: whether it was given running statistics.
        registered: whether its running statistics (or its weight) belong to the model.
        values: number of values of a feature.
        examples: size of the first dim of its input.
    """

    layer: str
    name: str
    training: bool
    running: bool
    registered: bool
    values: int
    examples: int = 0


@dataclass
class Pass:
    """One forward pass.

    Attributes:
        batch: index of the batch; −1 if it was made up from one.
        mode: ``"train"``: norms normalize by the batch, everything else (dropout) is in
            evaluation; ``"eval"``; ``"calibrated"``: evaluation with population statistics.
        calls: calls of norms, in order.
        functional: calls of functional norms that belong to no norm module, in order.
        unregistered: norm modules that were called but are not part of the model: path of the
            module that was at work → the norm.
        outputs: what each module without parts returned, summed up by feature; in order.
        dropouts: functional dropouts, those of modules included: path of the module that called
            it, p, and whether it was on.
        broken: the first module that made non-finite values, or None.
        traces: calls of all modules, example by example, inner ones first; only for the first
            batch in mode ``"eval"`` and for batches made from it.
        random: whether a random number was drawn on the CPU or on the first GPU.
        output: what the model returned.
        loss: the loss, or None if there is no loss function or no target.
        accuracy: share of correct predictions, or None if the batch is no classification.
    """

    batch: int
    mode: str
    calls: list[Call] = field(default_factory=list)
    functional: list[Functional] = field(default_factory=list)
    unregistered: list[tuple[str, nn.Module]] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    dropouts: list[tuple[str, float, bool]] = field(default_factory=list)
    broken: Broken | None = None
    traces: list[Trace] = field(default_factory=list)
    random: bool = False
    output: Any = None
    loss: float | None = None
    accuracy: float | None = None

    def of(self, layer: str) -> list[Call]:
        """Return the calls of the norm at this path."""
        return [call for call in self.calls if call.layer == layer]
