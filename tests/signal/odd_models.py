"""Small models that do what public ones do not: each is a habit of somebody's code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gammabeta as gb
from tests.signal.public_models import drawn


def classes(model: nn.Module, step: int) -> Tensor:
    """Cross entropy of the model's output on 16 × 6 numbers."""
    out = model(drawn(16, 6, seed=step))
    return F.cross_entropy(out, torch.arange(16) % out.shape[1])


def block(width: int = 6) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.25)
    )


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = block(), block(), block()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = checkpoint(self.second, x, use_reentrant=self.reentrant)
        return checkpoint(self.third, x, use_reentrant=self.reentrant)


class Residual(nn.Module):
    """Blocks with a residual sum, plain functions, shared and repeated modules."""

    def __init__(self, shared: bool = True) -> None:
        super().__init__()
        self.first, self.block, self.norm = nn.Linear(6, 6), block(), nn.LayerNorm(6)
        self.shared = self.first if shared else nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for _ in range(2):
            x = x + self.block(x)
        x = x + F.gelu(self.shared(self.norm(x)))
        return self.head(x)


class InPlace(nn.Module):
    """Operations in place on what was just measured."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x += 1
        x = F.relu_(self.norm(x).mul_(2.0))
        y = x.clone()
        y[:, 0] = 0
        y.add_(x)
        return self.head(F.dropout(y, 0.5, self.training, inplace=True)).clamp_(-3, 3)


class Hooked(nn.Module):
    """A model with hooks of its own, some of which change what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.head = nn.Linear(6, 6), block(), nn.Linear(6, 4)
        self.seen = 0
        self.first.register_forward_hook(lambda m, i, out: out * 1.5)
        self.block.register_forward_pre_hook(lambda m, i: (i[0] + 1,))
        self.block.register_full_backward_hook(lambda m, i, out: (i[0] * 0.5,))
        self.head.register_full_backward_pre_hook(lambda m, out: (out[0] * 2,))
        self.head.weight.register_hook(lambda g: g * 0.5)
        self.head.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.seen += 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.first(x))
        x.register_hook(lambda g: g * 3)
        return self.head(x)


class Frozen(nn.Module):
    """A frozen trunk, a part run without gradients, a part in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.probe, self.head = block(), block(), nn.Linear(6, 4)
        self.trunk.requires_grad_(False)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.eval()
        x = self.norm(self.trunk(x))
        with torch.no_grad():
            y = self.probe(x)
        return self.head(x + y.detach())


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.jit.script(block())
        self.second = torch.jit.trace(block().eval(), torch.ones(2, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


@dataclass
class Answer:
    scores: Tensor
    name: str = "answer"


class Answers(nn.Module):
    """Returns what ``wrap`` makes of its scores, and keeps them."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.block, self.head, self.wrap = block(), nn.Linear(6, 4), wrap

    def forward(self, x: Tensor) -> Any:
        self.scores = self.head(self.block(x))
        return self.wrap(self.scores)


def kept_scores(model: nn.Module, step: int) -> Tensor:
    model(drawn(16, 6, seed=step))
    scores, model.scores = model.scores, None  # type: ignore[assignment]
    return F.cross_entropy(scores, torch.arange(16) % 4)  # type: ignore[arg-type]


class Recurrent(nn.Module):
    """A recurrent network, an embedding, attention with fused kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 6)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.embed(x)[:, None].expand(-1, 3, -1))
        return self.head(self.encoder(y).mean(1))


class Complex(nn.Module):
    """Complex numbers in the middle, integers beside them, float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix = nn.Linear(6, 6), nn.Linear(4, 4, dtype=torch.complex64)
        self.head = nn.Linear(6, 4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = self.mix(torch.fft.rfft(F.relu(self.first(x))))
        return self.head(torch.fft.irfft(spectrum, 6).double())


class Empty(nn.Module):
    """Passes no example through one branch, one value through another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.none, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.one = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.head(x + F.relu(self.none(x[:0])).sum() + self.one(x[:1]))


class Raises(Residual):
    """Raises in the middle of some passes."""

    raising = False

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.block(torch.tanh(self.first(x)))
        if self.raising:
            raise InterruptedError
        return self.head(self.norm(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.25)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.norm(self.first(x))))
        return self.head(x + self.block(x))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradients[0]


class Recursive(nn.Module):
    """Calls itself, its own functions and an autograd function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        x = Square.apply(torch.tanh(self.linear(x)))
        return self(x, depth - 1) if depth else self.head(x)


class Sparse(nn.Module):
    """Sparse gradients, bags, a padded word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.bag = nn.Embedding(20, 6, sparse=True), nn.EmbeddingBag(20, 6, sparse=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x.abs() * 10).long().clamp(max=19)
        return self.head(self.words(ids).sum(1) + self.bag(ids))


class Attends(nn.Module):
    """torch's own attention, with weights and without, and its fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None].expand(-1, 3, -1).contiguous()
        y, _ = self.attention(x, x, x)
        z = F.scaled_dot_product_attention(y, x, x, is_causal=True)
        w, _ = self.attention(z, x, x, need_weights=False)
        return self.head((x + w).mean(1))


class Cells(nn.Module):
    """A loop over time with a cell, a GRU on packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.gru, self.head = nn.LSTMCell(6, 6), nn.GRU(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for _ in range(3):
            state = self.cell(x, state)
        assert state is not None
        packed = nn.utils.rnn.pack_padded_sequence(
            torch.stack([x, state[0]]), [2] * len(x), enforce_sorted=False
        )
        _, last = self.gru(packed)
        return self.head(last[0])


class Strided(nn.Module):
    """Views, transposes, expanded and channels-last tensors, scalars, integers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.scale, self.head = nn.Parameter(torch.tensor(1.5)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        picture = x[:, None, :, None].expand(-1, 1, -1, 5)
        y = self.norm(self.conv(picture.contiguous(memory_format=torch.channels_last)))
        y = F.leaky_relu(y.transpose(2, 3)) * self.scale
        y = F.max_pool2d(y + y.flip(-1), 2)
        return self.head(y[..., ::2].mean((2, 3)))


class Precisions(nn.Module):
    """Half precision and double precision side by side, random activations."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(6, 6).bfloat16(), nn.Linear(6, 6).double()
        self.act, self.head = nn.RReLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.low(x.bfloat16()).float()
        z = self.high(y.double())
        noisy = F.gumbel_softmax(z, hard=True) + F.alpha_dropout(z, 0.2, self.training)
        return self.head(self.act(noisy.float()))


class Infinite(Net):
    """NaN and infinities in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = torch.where(y > 1, torch.full_like(y, torch.inf), y)
        y = torch.where(y < -1, torch.full_like(y, torch.nan), y)
        return self.head(self.block(torch.nan_to_num(F.relu(y), 0.0, 1.0, -1.0)))


SMALL: dict[str, Callable[[], nn.Module]] = {
    "residual, shared, repeated": Residual,
    "in place": InPlace,
    "hooks of its own": Hooked,
    "frozen parameters": Frozen,
    "scripted parts": Scripted,
    "recurrent": Recurrent,
    "complex": Complex,
    "empty": Empty,
    "a bare layer": lambda: nn.Linear(6, 4),
    "parametrized": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),
    ),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), block()),
    "gammabeta": lambda: nn.Sequential(
        nn.Linear(6, 6), gb.BatchNorm1d(6, activation="relu", memory="lean"), nn.Linear(6, 4)
    ),
    "recursive": Recursive,
    "sparse gradients": Sparse,
    "attention": Attends,
    "cells": Cells,
    "views and strides": Strided,
    "precisions": Precisions,
    "infinities": Infinite,
}
"""Name → how to build it; the input is 16 × 6 numbers, the output 16 × 4."""
