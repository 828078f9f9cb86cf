"""The networks that `gammabeta.lab.bench.watch` watches: public ones, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gammabeta.lab.bench.net_models import (
    CONVOLUTIONAL,
    LENGTH,
    WORDS,
    from_pytorchcv,
    from_transformers,
    scores_of,
)
from gammabeta.lab.bench.nets import default

NETWORKS = (*CONVOLUTIONAL, "gpt2", "small")
"""All networks: pytorchcv's, a small GPT-2, and a few convolutions that need no other library."""

_GPT2 = {"n_positions": LENGTH, "n_embd": 128, "n_layer": 4, "n_head": 4}


@dataclass(frozen=True)
class Network:
    """A network and a mini-batch.

    Attributes:
        name: of `NETWORKS`.
        model: in training mode.
        loss: runs the model on the mini-batch and returns the loss.
        shape: shape of the mini-batch, as in `gammabeta.lab.bench.results.Row.shape`.
    """

    name: str
    model: nn.Module
    loss: Callable[[nn.Module], Tensor]
    shape: str


def load(name: str, batch: int, size: int) -> Network:
    """Build a network with random weights, the same each time, and its mini-batch.

    Args:
        name: of `NETWORKS`.
        batch: examples in the mini-batch.
        size: height and width of a picture; GPT-2 has sequences of 128 words.

    Raises:
        Absent: the library that has the network is not installed.

    Example:
        >>> network = load("small", 2, 8)
        >>> network.loss(network.model).shape, network.shape
        (torch.Size([]), '2x3x8x8')
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "gpt2":
            words = torch.randint(0, WORDS, (batch, LENGTH))
            return Network(
                name, from_transformers("gpt2", **_GPT2), _Language(words), f"{batch}x{LENGTH}"
            )
        model = default(2, 16) if name == "small" else from_pytorchcv(name)
        pictures = torch.randn(batch, 3, size, size)
    return Network(name, model.train(), _Classes(pictures), f"{batch}x3x{size}x{size}")


@dataclass(frozen=True)
class _Classes:
    """Cross entropy of pictures' classes."""

    pictures: Tensor

    def __call__(self, model: nn.Module) -> Tensor:
        scores = scores_of(model(self.pictures))
        return functional.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[1])


@dataclass(frozen=True)
class _Language:
    """Cross entropy of the next word."""

    words: Tensor

    def __call__(self, model: nn.Module) -> Tensor:
        loss: Tensor = model(input_ids=self.words, labels=self.words).loss
        return loss
