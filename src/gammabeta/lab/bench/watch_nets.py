"""The networks that `gammabeta.lab.bench.watch` watches: public ones, with random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gammabeta.lab.bench.nets import CLASSES, default
from gammabeta.lab.bench.rivals import Absent

CONVOLUTIONAL = (
    *("resnet18", "resnet50", "mobilenetv2_w1", "bninception", "densenet121"),
    "efficientnet_b0",
)
"""Networks of pytorchcv, by its names."""

NETWORKS = (*CONVOLUTIONAL, "gpt2", "small")
"""All networks: pytorchcv's, a small GPT-2, and a few convolutions that need no other library."""

_WORDS, _LENGTH = 1000, 128


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
            words = torch.randint(0, _WORDS, (batch, _LENGTH))
            return Network(name, _gpt2(), _Language(words), f"{batch}x{_LENGTH}")
        model = default(2, 16) if name == "small" else _convolutional(name)
        pictures = torch.randn(batch, 3, size, size)
    return Network(name, model.train(), _Classes(pictures), f"{batch}x3x{size}x{size}")


def _convolutional(name: str) -> nn.Module:
    """Return pytorchcv's network; its last pooling takes any size."""
    try:
        provider: Any = importlib.import_module("pytorchcv.model_provider")
    except ImportError as e:
        raise Absent("pytorchcv is not installed: pip install pytorchcv==0.0.67") from e
    model: nn.Module = provider.get_model(name, num_classes=CLASSES, pretrained=False)
    model.set_submodule("features.final_pool", nn.AdaptiveAvgPool2d(1))
    return model


def _gpt2() -> nn.Module:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as e:
        raise Absent("transformers is not installed: pip install transformers") from e
    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        vocab_size=_WORDS,
        n_positions=_LENGTH,
        n_embd=128,
        n_layer=4,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model.train()


@dataclass(frozen=True)
class _Classes:
    """Cross entropy of pictures' classes."""

    pictures: Tensor

    def __call__(self, model: nn.Module) -> Tensor:
        out: Any = model(self.pictures)
        scores: Tensor = out if isinstance(out, Tensor) else out[0]
        return functional.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[1])


@dataclass(frozen=True)
class _Language:
    """Cross entropy of the next word."""

    words: Tensor

    def __call__(self, model: nn.Module) -> Tensor:
        loss: Tensor = model(input_ids=self.words, labels=self.words).loss
        return loss
