"""The formulas of the layers torch lacks, as their papers write them: the oracle of their tests.

As in `reference`, nothing here is fast: one timestep, one virtual batch, one channel after the
other, in whatever precision it is given (the tests give float64), and no code is shared with the
layers. Gradients of these are autograd's.

Sources:
    Ioffe 2017, *Batch Renormalization*, Algorithm 1.
    Hoffer, Hubara & Soudry 2017, *Train longer, generalize better*, Algorithm 1 (Ghost BN).
    Singh & Krishnan 2019, *Filter Response Normalization Layer*, section 3.
    Zhu, Chen, He, LeCun & Liu 2025, *Transformers without Normalization*, equation 1.
    Cooijmans et al. 2016, *Recurrent Batch Normalization*, section 3.
    Ba, Kiros & Hinton 2016, *Layer Normalization*, supplementary material (LSTM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gammabeta.ops.reference.torch_norms import batch_norm

Normalize = Callable[[Tensor, int], Tensor]
"""What normalizes the (n, features) values of one timestep: values, timestep → values."""


def batch_renorm(
    x: Tensor,
    mean: Tensor,
    std: Tensor,
    r_max: float,
    d_max: float,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1 of batch renormalization.

    Args:
        x: (N, C, ...).
        mean: μ, (C,), the moving average before this batch.
        std: σ, (C,), the moving average of √(σ²_B + ε).
        r_max: bound of r, in [1 / r_max, r_max].
        d_max: bound of d, in [−d_max, d_max].
        weight: γ, (C,).
        bias: β, (C,).
        eps: ε.

    Returns:
        y, shaped as x; μ_B and σ_B = √(ε + biased variance), (C,), for the moving averages.
    """
    y = torch.empty_like(x)
    batch_mean, batch_std = torch.empty_like(mean), torch.empty_like(std)
    for c in range(x.shape[1]):
        values = x[:, c]
        mean_b = values.mean()
        std_b = torch.sqrt(((values - mean_b) ** 2).mean() + eps)
        with torch.no_grad():  # stop_gradient
            r = min(max(float(std_b / std[c]), 1 / r_max), r_max)
            d = min(max(float((mean_b - mean[c]) / std[c]), -d_max), d_max)
        y[:, c] = weight[c] * ((values - mean_b) / std_b * r + d) + bias[c]
        batch_mean[c], batch_std[c] = mean_b.detach(), std_b.detach()
    return y, batch_mean, batch_std


def ghost_batch_norm(
    x: Tensor, sizes: Sequence[int], weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Batch-normalize consecutive virtual batches of ``sizes`` examples, each by itself."""
    parts, start = [], 0
    for size in sizes:
        parts.append(batch_norm(x[start : start + size], weight, bias, eps)[0])
        start += size
    return torch.cat(parts)


def masked_batch_norm(
    x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Batch-normalize the values of x, (N, C, L), where ``mask``, (N, L), is True; 0 elsewhere."""
    y = torch.zeros_like(x)
    for c in range(x.shape[1]):
        values = x[:, c][mask]  # the real values of one channel, in one row
        var = ((values - values.mean()) ** 2).mean()
        y[:, c][mask] = weight[c] * (values - values.mean()) / torch.sqrt(var + eps) + bias[c]
    return y


def filter_response_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """γ x / √(ν² + ε) + β with ν² = mean of x² over the positions of one map of one example."""
    y = torch.empty_like(x)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            nu2 = (x[n, c] ** 2).mean()
            y[n, c] = weight[c] * x[n, c] / torch.sqrt(nu2 + eps) + bias[c]
    return y


def thresholded_linear_unit(x: Tensor, tau: Tensor) -> Tensor:
    """max(x, τ) = ReLU(x − τ) + τ, one τ a channel; x: (N, C, ...)."""
    return torch.stack([torch.relu(x[:, c] - tau[c]) + tau[c] for c in range(x.shape[1])], dim=1)


def dynamic_tanh(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """γ tanh(α x) + β, with tanh z = 1 − 2 / (e^{2z} + 1)."""
    return weight * (1 - 2 / (torch.exp(2 * alpha * x) + 1)) + bias


def lstm(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    normalize_input: Normalize,
    normalize_hidden: Normalize,
    normalize_cell: Normalize,
    lengths: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM whose W_x x, W_h h and c are normalized; both papers' equations.

    (i, f, g, o) = N_h(W_h h_{t−1}) + N_x(W_x x_t) + b
    c_t = σ(f) c_{t−1} + σ(i) tanh(g)
    h_t = σ(o) tanh(N_c(c_t))

    Args:
        x: (T, N, input size).
        h: h_0, (N, H).
        c: c_0, (N, H).
        weight_ih: W_x, (4H, input size), gates in torch's order i, f, g, o.
        weight_hh: W_h, (4H, H).
        bias: b, (4H,).
        normalize_input: N_x. It sees only the sequences that still run.
        normalize_hidden: N_h.
        normalize_cell: N_c.
        lengths: of the N sequences; None for T each.

    Returns:
        h_1 … h_T, (T, N, H), 0 after a sequence's end; its last h and c, (N, H).
    """
    lengths = [x.shape[0]] * x.shape[1] if lengths is None else lengths
    outputs = []
    for t in range(x.shape[0]):
        running = torch.tensor([n for n, length in enumerate(lengths) if t < length])
        gates = (
            normalize_hidden(h[running] @ weight_hh.T, t)
            + normalize_input(x[t, running] @ weight_ih.T, t)
            + bias
        )
        i, f, g, o = torch.chunk(gates, 4, dim=1)
        new_c = torch.sigmoid(f) * c[running] + torch.sigmoid(i) * torch.tanh(g)
        new_h = torch.sigmoid(o) * torch.tanh(normalize_cell(new_c, t))
        h, c = h.index_put((running,), new_h), c.index_put((running,), new_c)
        outputs.append(torch.zeros_like(h).index_put((running,), new_h))
    return torch.stack(outputs), h, c
