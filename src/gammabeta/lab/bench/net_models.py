"""Networks by name: pytorchcv's, transformers', or anybody's, with random weights, and an input."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gammabeta.lab.bench.nets import CLASSES, INCEPTIONS, default, find
from gammabeta.lab.bench.nets import load as load_module
from gammabeta.lab.bench.rivals import Absent
from gammabeta.names import known

WORDS, LENGTH = 1000, 128
"""Vocabulary, and words in a sequence."""

CONVOLUTIONAL = (
    *("resnet18", "resnet50", "mobilenetv2_w1", "bninception", "densenet121"),
    "efficientnet_b0",
)
"""Networks of pytorchcv, by its names."""

SMALL = "small"
"""Two convolutions with batch norm: a network that needs no other library."""

_TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    ),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {}),
    "bert": (
        "BertForSequenceClassification",
        "BertConfig",
        {
            "hidden_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
    ),
    "llama": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "hidden_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 688,
        },
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 256, "n_layer": 6, "n_head": 4}),
}
"""Name → model class, configuration class, and what differs from the configuration's defaults."""

_PICTURES = frozenset({"vit", "convnext"})

TRANSFORMERS = tuple(_TRANSFORMERS)
"""Networks of transformers, by our names."""


@dataclass(frozen=True)
class Network:
    """A network and a mini-batch.

    Attributes:
        name: the name it was loaded by.
        model: in training mode.
        shape: shape of the mini-batch, as in `gammabeta.lab.bench.results.Row.shape`.
        args, kwargs: the mini-batch, as the model takes it.
    """

    name: str
    model: nn.Module
    shape: str
    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Tensor] = field(default_factory=dict)

    def inputs(self, layout: str) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return ``args`` and ``kwargs`` with pictures in ``layout``."""
        if layout != "channels_last":
            return self.args, self.kwargs
        return tuple(map(_last, self.args)), {k: _last(v) for k, v in self.kwargs.items()}


def _last(tensor: Tensor) -> Tensor:
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def takes_pictures(name: str) -> bool:
    """Return whether the network's mini-batch is (N, C, H, W), so that there are two layouts of it.

    Example:
        >>> takes_pictures("pytorchcv:resnet18"), takes_pictures("transformers:bert")
        (True, False)
    """
    home, _, own = name.partition(":")
    return home != "transformers" or own in _PICTURES


def check(name: str) -> None:
    """Check that ``name`` names a network, without building it.

    Args:
        name: as of `load`.

    Raises:
        ValueError: it does not.
    """
    home, _, own = name.partition(":")
    if home == "pytorchcv":
        with contextlib.suppress(Absent):
            known("pytorchcv", own, pytorchcv_provider()._models)
    elif home == "transformers":
        known("transformers", own, TRANSFORMERS)
    elif home and own:
        find(name)
    else:
        choices = (*INCEPTIONS, SMALL)
        if name not in choices:
            raise ValueError(
                f"networks={name!r} must be pytorchcv:NAME, transformers:NAME, module:function or "
                f"one of: {', '.join(choices)}"
            )


def load(name: str, batch: int, size: int) -> Network:
    """Build a network with random weights, the same each time, and its mini-batch.

    Args:
        name: ``"pytorchcv:NAME"`` (a name of pytorchcv's model provider), ``"transformers:NAME"``
            (of `TRANSFORMERS`), ``"module:function"`` (returns a module that takes pictures of
            three channels), one of `gammabeta.lab.bench.nets.INCEPTIONS`, or ``"small"``.
        batch: examples in the mini-batch.
        size: height and width of a picture; sequences have 128 words.

    Raises:
        Absent: the library that has the network is not installed.
        ValueError: ``name`` names no network.

    Example:
        >>> network = load("small", 2, 8)
        >>> network.model(*network.args).shape, network.shape
        (torch.Size([2, 10]), '2x3x8x8')
    """
    check(name)
    home, _, own = name.partition(":")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pictures = torch.randn(batch, 3, size, size)
        shape = f"{batch}x3x{size}x{size}"
        if home == "pytorchcv":
            return Network(name, from_pytorchcv(own).train(), shape, (pictures,))
        if home == "transformers":
            model = from_transformers(own, image_size=size)
            if own in _PICTURES:
                return Network(name, model, shape, kwargs={"pixel_values": pictures})
            words = torch.randint(0, WORDS, (batch, LENGTH))
            return Network(name, model, f"{batch}x{LENGTH}", kwargs={"input_ids": words})
        if name == SMALL:
            return Network(name, default(2, 16).train(), shape, (pictures,))
        return Network(name, load_module(name, size)[1].train(), shape, (pictures,))


def from_pytorchcv(name: str, **options: Any) -> nn.Module:
    """Return pytorchcv's network with 10 classes; its last pooling takes any size.

    Args:
        name: of pytorchcv's model provider.
        **options: for the network's own function; None takes an option away.

    Raises:
        Absent: pytorchcv is not installed.
        ValueError: it has no network ``name``.
    """
    provider = pytorchcv_provider()
    known("pytorchcv", name, provider._models)
    options = {"num_classes": CLASSES, "pretrained": False} | options
    options = {key: value for key, value in options.items() if value is not None}
    model: nn.Module = provider.get_model(name, **options)
    pool = dict(model.named_modules()).get("features.final_pool")
    if isinstance(pool, nn.AvgPool2d):
        model.set_submodule("features.final_pool", nn.AdaptiveAvgPool2d(1))
    return model


def pytorchcv_provider() -> Any:
    """Return pytorchcv's module of all networks.

    Raises:
        Absent: pytorchcv is not installed.
    """
    try:
        return importlib.import_module("pytorchcv.model_provider")
    except ImportError as e:
        raise Absent("pytorchcv is not installed: pip install pytorchcv==0.0.67") from e


def from_transformers(name: str, **options: Any) -> nn.Module:
    """Return a network of transformers, in training mode, with 10 classes or 1000 words.

    Args:
        name: of `TRANSFORMERS`.
        **options: for its configuration, beside those of the moderate size used here; what the
            configuration does not know is left out.

    Raises:
        Absent: transformers is not installed.
        ValueError: ``name`` is not of `TRANSFORMERS`.
    """
    known("transformers", name, TRANSFORMERS)
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as e:
        raise Absent("transformers is not installed: pip install transformers") from e
    transformers.logging.set_verbosity_error()
    cls, configuration, sizes = _TRANSFORMERS[name]
    if name in _PICTURES:
        sizes = {"num_labels": CLASSES, **sizes}
    else:
        sizes = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0, **sizes}
        options.pop("image_size", None)
        if name == "bert":
            sizes |= {"num_labels": CLASSES}
    if name == "convnext":
        options.pop("image_size", None)
    model: nn.Module = getattr(transformers, cls)(
        getattr(transformers, configuration)(**(sizes | options))
    )
    return model.train()


def scores_of(out: Any) -> Tensor:
    """Return the scores in a model's output: itself, its ``logits``, or its first tensor.

    Raises:
        ValueError: there is no tensor in it.

    Example:
        >>> scores_of((torch.ones(2, 3), None)).shape
        torch.Size([2, 3])
    """
    if isinstance(out, Tensor):
        return out
    if isinstance(logits := getattr(out, "logits", None), Tensor):
        return logits
    parts = (
        out.values() if hasattr(out, "values") else out if isinstance(out, (list, tuple)) else ()
    )
    for part in parts:
        try:
            return scores_of(part)
        except ValueError:
            continue
    raise ValueError(f"the network returned a {type(out).__name__} without a tensor in it")


def loss_of(out: Any) -> Tensor:
    """Return the cross entropy of fixed labels, or the mean square where there are no classes.

    Args:
        out: a model's output; scores of shape (N, classes) or (N, length, classes).

    Example:
        >>> loss_of(torch.zeros(2, 4)).exp()
        tensor(4.)
    """
    scores = scores_of(out).float()
    if scores.dim() not in (2, 3):
        return scores.square().mean()
    scores = scores.flatten(0, -2)
    return functional.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[1])
