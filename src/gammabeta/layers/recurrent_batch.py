"""The LSTM with recurrent batch normalization (Cooijmans et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, SupportsIndex, cast

import torch
from torch import Tensor

from gammabeta.layers.guard import guard_statistics
from gammabeta.layers.lstm import NormalizedLSTM, State, Step, Update
from gammabeta.layers.timestep import Statistics, TimestepBatchNorm


class RecurrentBatchNormLSTM(NormalizedLSTM):
    r"""An LSTM whose input term, recurrent term and cell output are batch-normalized.

    ``(i, f, g, o) = BN(W_h h_{t−1}; γ_h) + BN(W_x x_t; γ_x) + b``,
    ``c_t = σ(f) c_{t−1} + σ(i) tanh(g)``,
    ``h_t = σ(o) tanh(BN(c_t; γ_c, β_c))``.
    Each BN normalizes over the batch with statistics of its own for every timestep; γ and β are
    shared over time. c_t itself is left alone, so that its gradient flows on. In evaluation a
    timestep later than any that was trained uses the statistics of the last that was.

    It takes and returns what `torch.nn.LSTM` does, and names weights and biases alike, so that
    ``load_state_dict(lstm.state_dict(), strict=False)`` takes over an LSTM's.

    Args:
        input_size: features of x.
        hidden_size: H.
        num_layers: layers, one on the other.
        bias: whether there is a b, kept as torch does: as ``bias_ih + bias_hh``.
        batch_first: whether x is (N, T, features), not (T, N, features).
        dropout: probability between layers; reads the global RNG in training.
        bidirectional: whether a second LSTM reads each sequence from its end. Its timestep 0 is
            the sequence's last, and it has statistics of its own.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        max_length: T_max, the length of the longest training sequence: how many timesteps have
            running statistics.
        gamma: γ at first. With 1, tanh saturates and gradients vanish.
        eps: ε, added to the variances.
        momentum: weight of the newest batch in the running averages; None for a cumulative one.
        on_nonfinite: what to do with a timestep whose statistics are not finite, as in
            `BatchNorm1d`. Each of the norms inside (``norm_ih_l0``, …) keeps out what it sees,
            counts the batch in its ``refused_batches`` and warns once.

    Raises:
        ValueError: a size below 1, ``dropout`` no probability, ``gamma``
            not above 0, unknown ``on_nonfinite``; in ``forward``, a wrong shape or dtype or, in
            training, one sequence.

    Numerics:
        As in batch norm, the biased variance normalizes and ``running_var`` averages the unbiased
        one. The paper averages over the training set once trained: for that, give
        ``momentum=None``, and after training call ``reset_running_stats()`` and run the training
        batches once more, in training mode without gradients. Statistics are computed in float32
        or wider.

        *Lengths that differ.* In a packed batch a timestep's statistics are of the sequences that
        still run. When one runs alone, its timestep is normalized by the running statistics and
        gives nothing to them. Training steps past ``max_length`` use their own batch statistics
        and are not recorded. A timestep with a NaN or infinity is refused by the guard; the others
        of its batch enter.

        *Constant inputs.* Where all sequences agree (all-black first pixels, h_0 = 0) the variance
        is 0: outputs are fine, but gradients are multiplied by up to 1/√ε. The paper adds Gaussian
        noise to h_0: pass ``hx``.

    Source:
        Cooijmans, Ballas, Laurent, Gülçehre & Courville 2016, arXiv:1603.09025, sections 3 to 5,
        read in the TeX that its authors published: γ₀ = 0.1, β₀ = 0; separate BN of W_h h and W_x x
        whose β is fixed at 0, b being there; statistics per timestep, those of T_max beyond it.
        Their code adds ε = 1e-5 to the variance and starts the forget gate's b at 1 and W_h at
        orthogonal or identity matrices; here weights and b start as in `torch.nn.LSTM`.

    Example:
        >>> lstm = RecurrentBatchNormLSTM(3, 8, max_length=20)
        >>> output, (h, c) = lstm(torch.randn(20, 4, 3))
        >>> output.shape, torch.equal(output[-1], h[0])
        (torch.Size([20, 4, 8]), True)
        >>> lstm.eval()(torch.randn(50, 1, 3))[0].shape  # longer, and one at a time
        torch.Size([50, 1, 8])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        max_length: int,
        gamma: float = 0.1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        on_nonfinite: str = "refuse",
    ) -> None:
        if not isinstance(max_length, SupportsIndex) or max_length < 1:
            raise ValueError(
                f"max_length={max_length!r}: it is the length of the longest training sequence; "
                "give a whole number, 1 or more"
            )
        if not gamma > 0:
            raise ValueError(f"gamma={gamma}: the paper starts at 0.1; give above 0")
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
        )
        self.max_length = max_length
        self._add_norms(
            lambda features, shift: TimestepBatchNorm(
                features,
                max_length,
                eps,
                momentum,
                gamma,
                shift,
                device,
                dtype,
                on_nonfinite,
            )
        )
        guard_statistics(self)  # until it is part of a model, warnings name the norm in here

    def reset_running_stats(self) -> None:
        """Forget the running averages of every timestep."""
        for part in self.children():
            if isinstance(part, TimestepBatchNorm):
                part.reset_running_stats()

    def _checked(self, x: Tensor, hx: State | None, batched: bool) -> State:
        if x.shape[1] == 1 and any(part.training for part in self.children()):  # none if frozen
            raise ValueError(
                f"input has one sequence (shape {tuple(x.shape)} as (T, N, features)), too "
                "few for a batch variance; train on more than one, or call eval()"
            )
        return super()._checked(x, hx, batched)

    def _norm(self, name: str) -> TimestepBatchNorm:
        return cast(TimestepBatchNorm, self.get_submodule(name))

    def _normalizers(
        self, suffix: str, length: int, live: Tensor | None, updates: list[Update]
    ) -> tuple[Callable[[Tensor], Tensor], Step, Step]:
        input_norm = self._norm(f"norm_ih_{suffix}")

        def all_at_once(z: Tensor) -> Tensor:
            y, statistics = input_norm(z, *input_norm.population(length), live)
            if statistics is not None:
                updates.append(partial(_average, input_norm, [statistics]))
            return y  # type: ignore[no-any-return]

        def one_by_one(name: str) -> Step:
            norm = self._norm(name)
            mean, var = norm.population(length)
            seen: list[Statistics] = []

            def step(z: Tensor, t: int) -> Tensor:
                now = slice(t, t + 1)
                y, statistics = norm(
                    z.unsqueeze(0), mean[now], var[now], None if live is None else live[now]
                )
                if statistics is not None:
                    if not seen:
                        updates.append(partial(_average, norm, seen))
                    seen.append(statistics)
                return y.squeeze(0)  # type: ignore[no-any-return]

            return step

        return all_at_once, one_by_one(f"norm_hh_{suffix}"), one_by_one(f"norm_c_{suffix}")


def _average(norm: TimestepBatchNorm, seen: list[Statistics]) -> Callable[[], None]:
    """Compute ``norm``'s averages with the timesteps ``seen``; what is returned writes them."""
    batch = Statistics(*map(torch.cat, zip(*seen, strict=True)))
    return partial(norm.write, norm.averages(batch))
