"""The LSTM with layer normalization (Ba, Kiros & Hinton 2016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gammabeta.layers.layer import LayerNorm
from gammabeta.layers.lstm import NormalizedLSTM, Step, Update


class LayerNormLSTM(NormalizedLSTM):
    r"""An LSTM whose input term, recurrent term and cell output are layer-normalized.

    ``(i, f, g, o) = LN(W_h h_{t−1}; γ_h) + LN(W_x x_t; γ_x) + b``,
    ``c_t = σ(f) c_{t−1} + σ(i) tanh(g)``,
    ``h_t = σ(o) tanh(LN(c_t; γ_c, β_c))``.
    Each LN normalizes over the features of one sequence at one timestep, the first two over all
    four gates together. No statistics are kept: training, evaluation, a batch of one and any
    length are the same computation.

    It takes and returns what `torch.nn.LSTM` does, and names weights and biases alike, so that
    ``load_state_dict(lstm.state_dict(), strict=False)`` takes over an LSTM's.

    Args:
        input_size: features of x.
        hidden_size: H.
        num_layers: layers, one on the other.
        bias: whether there are a b, kept as torch does: as ``bias_ih + bias_hh``, and a β_c.
        batch_first: whether x is (N, T, features), not (T, N, features).
        dropout: probability between layers; reads the global RNG in training.
        bidirectional: whether a second LSTM reads each sequence from its end.
        device: of the parameters.
        dtype: of the parameters.
        eps: ε, added to the variances.

    Raises:
        ValueError: a size below 1, ``dropout`` no probability; in
            ``forward``, a wrong shape or dtype.

    Numerics:
        Where h_0 = 0, W_h h_0 has variance 0, and its LN is 0 with gradients multiplied by 1/√ε;
        only an h_0 that is learned feels it. With ``hidden_size=1`` the LN of c is β_c alone.

    Source:
        Ba, Kiros & Hinton 2016, arXiv:1607.06450, supplementary material. Its shifts of the two LN
        terms and b are one sum, so they are one b here. The supplement says that the vectors it
        calls gains start at 0 and the shifts at 1, which would switch the network off; its
        authors' published code starts gains at 1 and shifts at 0, normalizes the four gates
        together and has ε = 1e-5: so does this. Weights and b start as in `torch.nn.LSTM`.

    Example:
        >>> lstm = LayerNormLSTM(3, 8, num_layers=2, batch_first=True)
        >>> output, (h, c) = lstm(torch.randn(4, 20, 3))
        >>> output.shape, h.shape
        (torch.Size([4, 20, 8]), torch.Size([2, 4, 8]))
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
        eps: float = 1e-5,
    ) -> None:
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
        self._add_norms(
            lambda features, shift: LayerNorm(features, eps, bias=shift, device=device, dtype=dtype)
        )

    def _normalizers(
        self, suffix: str, length: int, live: Tensor | None, updates: list[Update]
    ) -> tuple[Callable[[Tensor], Tensor], Step, Step]:
        hidden = self.get_submodule(f"norm_hh_{suffix}")
        cell = self.get_submodule(f"norm_c_{suffix}")
        return (
            self.get_submodule(f"norm_ih_{suffix}"),
            lambda z, t: hidden(z),
            lambda z, t: cell(z),
        )
