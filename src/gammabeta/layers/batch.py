"""Batch normalization over 1, 2 and 3 spatial dims (Ioffe & Szegedy 2015, Algorithms 1 and 2)."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gammabeta import ops
from gammabeta.layers.deferred import defer, may_defer, pays
from gammabeta.layers.epilogue import Epilogue, check_residual, without_tensor
from gammabeta.layers.guard import Guarded
from gammabeta.layers.held import held
from gammabeta.layers.lean import Lean
from gammabeta.ops.torch.norms import finish


class _FusedForward(Guarded, Epilogue, Lean, _BatchNorm):
    """Implement ``forward`` for the batch norms and their lazy twins; precedes torch's class."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(batch_norm(input) + residual)``.

        Args:
            input: (N, C, ...) as torch's layer of the same name takes it.
            residual: added before the activation; has the shape of ``input``.

        Raises:
            ValueError: wrong number of dims, a residual of another shape, or (in training) one
                value per feature, too few for a variance. If an error is raised, the running
                statistics and ``num_batches_tracked`` are unchanged.
        """
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            self._check_input_dim(input)  # type: ignore[no-untyped-call]
            return self._scripted(input, residual)
        if not isinstance(input, Tensor):
            return without_tensor(self, input, residual)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        parameters, buffers = self._parameters, self._buffers
        mean, var = held(buffers, "running_mean", self), held(buffers, "running_var", self)
        alone = not self.training and residual is None and self.activation is None
        if alone and not (self.fuses is not None and pays(input)):
            weight, bias = held(parameters, "weight", self), held(parameters, "bias", self)
            y = ops.evaluate(input, weight, bias, mean, var, self.eps)
            if y is not None:
                return y
        check_residual(input, residual)
        updates = self.training and self.track_running_stats
        # Untracked buffers are neither updated in training nor read: torch's own rule.
        read = updates or not self.training
        call = ops.Call(
            ops.BATCH,
            input,
            held(parameters, "weight", self),
            held(parameters, "bias", self),
            self.eps,
            self.activation,
            residual,
            running_mean=mean if read else None,
            running_var=var if read else None,
            training=self.training or (mean is None and var is None),
            momentum=self.momentum,
            memory=self.memory,
        )
        if self.fuses is not None and may_defer(self, call):
            follows = self.fuses[self.training]
            if follows:
                return defer(self, call, partial(self._complete, updates), follows)
        return self._complete(updates, call)

    def _complete(self, updates: bool, call: ops.Call) -> Tensor:
        """Compute ``call``, and update the running statistics if ``updates``."""
        if not updates:
            return ops.normalize(call)
        batches = held(self._buffers, "num_batches_tracked", self)
        if batches is not None:
            call.batches, call.guarded = batches, self.on_nonfinite != "accept"
            done = ops.normalize_and_count(call)
            if done is not None:
                if not call.entered:
                    self._refuse()
                return done
            call.batches = None
            if self.momentum is None:
                # Cumulative average: the t-th batch weighs 1/t.
                call.momentum = 1.0 / (float(batches) + 1.0)
        mean, var = self._statistics(updates)
        call.running_mean, call.running_var = mean, var
        y = ops.normalize(call)
        self._commit(mean, var, batches)
        return y

    def _scripted(self, input: Tensor, residual: Tensor | None) -> Tensor:
        """Compute the output for `torch.jit.script`: torch's operators, without the guard."""
        factor = 0.0
        if self.momentum is not None:
            factor = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        read = not self.training or self.track_running_stats
        y = F.batch_norm(
            input,
            self.running_mean if read else None,
            self.running_var if read else None,
            self.weight,
            self.bias,
            self.training or (self.running_mean is None and self.running_var is None),
            factor,
            self.eps,
        )
        return finish(y, self.activation, residual)


class _FusedBatchNorm(_FusedForward):
    """Base class of the three batch norms: torch's arguments and gammabeta's keywords."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        on_nonfinite: str = "refuse",
        memory: str = "default",
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self._set_activation(activation)
        self._set_on_nonfinite(on_nonfinite)
        self._set_memory(memory)

    def _check_features(self, input: Tensor) -> None:
        """Raise unless dim 1 of ``input`` is C; for layers whose kernel does not check it."""
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"input has {input.shape[1]} features (shape {tuple(input.shape)}); the layer "
                f"expects num_features={self.num_features}"
            )


class BatchNorm1d(_FusedBatchNorm, nn.BatchNorm1d):
    r"""Batch normalization of (N, C) or (N, C, L), with an optional residual and activation.

    ``y = activation(γ · (x − μ) / √(σ² + ε) + β + residual)``, where μ and σ² are, per feature,
    the mini-batch's mean and biased variance in training, and running averages in evaluation.

    It is a `torch.nn.BatchNorm1d`: same arguments, parameters, buffers and ``state_dict``.

    Torch's functions that take batch norms apart either keep the activation or raise an error;
    docs/fold.md lists them. Other code may copy only the attributes of torch's batch norm. Before
    you call it, call ``gammabeta.revert(model, fused="split")``, which makes each activation a
    separate module.

    Args:
        num_features: C.
        eps: ε, added to the variance.
        momentum: weight of the newest batch in the running averages; None for a cumulative one.
        affine: whether γ and β are learned.
        track_running_stats: whether to maintain running averages; if not, evaluation also uses
            the mini-batch.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether the layer has a β.
        activation: ``"relu"``, ``"leaky_relu"`` (of slope 0.01), ``"silu"``, ``"gelu"``,
            ``"sigmoid"``, ``"tanh"``, ``"relu6"``, ``"hardswish"``, ``"hardsigmoid"``, ``"mish"``,
            ``"gelu_tanh"`` or None.
        on_nonfinite: how to handle a batch whose statistics are not finite. ``"refuse"``: skip the
            update of the running statistics, count the batch in ``refused_batches`` and warn
            once. ``"raise"``: skip the update and raise. ``"accept"``: update, as torch does.
        memory: ``"lean"``: do not store the output for the backward pass of the next operation,
            such as a convolution; recompute it, bit for bit. Applies to plain tensors on the CPU,
            without a residual. ``"default"``: store the output. See docs/memory.md.

    Raises:
        ValueError: unknown ``activation``, ``on_nonfinite`` or ``memory``.

    Numerics:
        Normalization uses the biased variance (divisor m); ``running_var`` averages the unbiased
        variance (divisor m − 1), as in torch. ``num_batches_tracked`` counts only the batches that
        updated the running averages, so a cumulative average (``momentum=None``) remains a mean.
        An empty batch is counted but changes no average, as in torch.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1.

    Example:
        >>> layer = BatchNorm1d(3, activation="relu")
        >>> y = layer(torch.randn(8, 3), residual=torch.ones(8, 3))
        >>> y.shape, bool((y >= 0).all())
        (torch.Size([8, 3]), True)
    """


class BatchNorm2d(_FusedBatchNorm, nn.BatchNorm2d):
    r"""Batch normalization of (N, C, H, W), with an optional residual and activation.

    Each feature map has one γ and β; μ and σ² are taken over batch and positions, m = N·H·W
    (section 3.2 of the paper). Arguments, formula and numerics are those of `BatchNorm1d`; it is a
    `torch.nn.BatchNorm2d`.

    Example:
        >>> layer = BatchNorm2d(4, activation="relu")
        >>> x = torch.randn(2, 4, 5, 5)
        >>> layer(x, residual=x).shape
        torch.Size([2, 4, 5, 5])
    """


class BatchNorm3d(_FusedBatchNorm, nn.BatchNorm3d):
    r"""Batch normalization of (N, C, D, H, W), with an optional residual and activation.

    Arguments, formula and numerics are those of `BatchNorm1d`; it is a `torch.nn.BatchNorm3d`.

    Example:
        >>> BatchNorm3d(4)(torch.randn(2, 4, 3, 5, 5)).shape
        torch.Size([2, 4, 3, 5, 5])
    """
