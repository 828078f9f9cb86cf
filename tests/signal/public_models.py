"""Networks that nobody here wrote: random weights, tiny configurations, tiny inputs.

Each has a class of modules, functions or wiring that the others lack. Pictures are 32 × 32 or less,
so that a step takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[nn.Module, int], Tensor]
"""Run the model on the mini-batch of a step and return its loss."""

_CLASSES = 10
_WORDS = 50


@dataclass(frozen=True)
class Public:
    """A public model.

    Attributes:
        name: of the model, as its own library calls it.
        make: builds it, in training mode, with the same weights each time.
        loss: its loss on the mini-batch of a step.
    """

    name: str
    make: Callable[[], nn.Module]
    loss: Loss

    def __str__(self) -> str:
        return self.name


def drawn(*shape: int, seed: int) -> Tensor:
    """Return normally distributed numbers, without touching the global generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words(*shape: int, seed: int) -> Tensor:
    """Return words of a vocabulary, likewise."""
    return torch.randint(0, _WORDS, shape, generator=torch.Generator().manual_seed(seed))


def seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return a ``build`` that draws the same weights each time and leaves the generator alone."""

    def make() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build().train()

    return make


def picture_loss(size: int, batch: int = 4) -> Loss:
    """Return the cross entropy of a classifier of pictures."""

    def loss(model: nn.Module, step: int) -> Tensor:
        out = model(drawn(batch, 3, size, size, seed=step))
        if not isinstance(out, Tensor):  # a network with auxiliary heads
            out = out[0]
        return F.cross_entropy(out, torch.arange(batch) % out.shape[1])

    return loss


def convolutional(name: str, size: int = 32, batch: int = 4) -> Public:
    """Return a network of pytorchcv, with a last pooling that takes any size."""

    def build() -> nn.Module:
        get_model = pytest.importorskip("pytorchcv.model_provider").get_model
        model: nn.Module = get_model(name, num_classes=_CLASSES, pretrained=False)
        for path, module in list(model.named_modules()):
            last = path.rsplit(".", 1)[-1] in ("final_pool", "pool")
            if last and isinstance(module, nn.AvgPool2d):
                model.set_submodule(path, nn.AdaptiveAvgPool2d(1))
        return model

    return Public(name, seeded(build), picture_loss(size, batch))


CONVOLUTIONAL = [
    convolutional("resnet18_wd4"),
    convolutional("preresnet10"),
    convolutional("seresnet20_cifar10", 16),
    convolutional("mobilenetv2_wd4"),
    convolutional("mobilenetv3_small_w7d20"),
    convolutional("densenet40_k12_cifar10", 8),
    convolutional("efficientnet_b0", 32, 2),
    convolutional("shufflenetv2_wd2"),
    convolutional("shufflenet_g1_wd4"),
    convolutional("squeezenet_v1_1"),
    convolutional("fdmobilenet_wd4"),
    convolutional("dla46c"),
    convolutional("darknet_tiny"),
    convolutional("hardnet39ds"),
]
"""Networks of pytorchcv."""


def _bn_inception() -> nn.Module:
    """pytorchcv's BN-Inception; its poolings within the branches stay as they are."""
    get_model = pytest.importorskip("pytorchcv.model_provider").get_model
    model: nn.Module = get_model("bninception", num_classes=_CLASSES, pretrained=False)
    model.set_submodule("features.final_pool", nn.AdaptiveAvgPool2d(1))
    return model


CONVOLUTIONAL.append(Public("bninception", seeded(_bn_inception), picture_loss(32, 2)))


def _transformers() -> Any:
    """Return the library of that name, which otherwise warns about tools that no test needs."""
    library = pytest.importorskip("transformers")
    library.logging.set_verbosity_error()
    return library


_SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_TEXT = {**_SMALL, "vocab_size": _WORDS}
_VISION = {**_SMALL, "image_size": 16, "patch_size": 4}


def _text_loss(model: nn.Module, step: int) -> Tensor:
    ids = words(2, 9, seed=step)
    loss: Tensor = model(input_ids=ids, labels=ids).loss
    return loss


def _vision_loss(model: nn.Module, step: int) -> Tensor:
    pictures = drawn(2, 3, 16, 16, seed=step)
    loss: Tensor = model(pixel_values=pictures, labels=torch.tensor([0, 1])).loss
    return loss


def _speech_loss(model: nn.Module, step: int) -> Tensor:
    features, ids = drawn(2, 8, 16, seed=step), words(2, 9, seed=step)
    loss: Tensor = model(input_features=features, labels=ids).loss
    return loss


def _pair_loss(model: nn.Module, step: int) -> Tensor:
    ids, pictures = words(2, 9, seed=step), drawn(2, 3, 16, 16, seed=step)
    loss: Tensor = model(input_ids=ids, pixel_values=pictures, return_loss=True).loss
    return loss


def transformer(
    name: str, model: str, config: str, loss: Loss = _text_loss, **settings: Any
) -> Public:
    """Return a model of transformers, named by its class and the class of its configuration."""

    def build() -> nn.Module:
        library = _transformers()
        made: nn.Module = getattr(library, model)(getattr(library, config)(**settings))
        return made

    return Public(name, seeded(build), loss)


TRANSFORMERS = [
    transformer(
        "GPT-2",
        *("GPT2LMHeadModel", "GPT2Config"),
        vocab_size=_WORDS,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    ),
    transformer("Llama", "LlamaForCausalLM", "LlamaConfig", **_TEXT, num_key_value_heads=1),
    transformer("BERT", "BertForMaskedLM", "BertConfig", **_TEXT),
    transformer(
        "T5",
        *("T5ForConditionalGeneration", "T5Config"),
        vocab_size=_WORDS,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    ),
    transformer(
        "Mixtral",
        *("MixtralForCausalLM", "MixtralConfig"),
        **_TEXT,
        num_key_value_heads=1,
        num_local_experts=2,
    ),
    transformer(
        "Mamba",
        *("MambaForCausalLM", "MambaConfig"),
        vocab_size=_WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        state_size=4,
    ),
    transformer("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", **_TEXT),
    transformer(
        "Gemma-2",
        *("Gemma2ForCausalLM", "Gemma2Config"),
        **_TEXT,
        num_key_value_heads=1,
        head_dim=8,
    ),
    transformer(
        "ViT", "ViTForImageClassification", "ViTConfig", _vision_loss, **_VISION, num_labels=3
    ),
    transformer(
        "Swin",
        *("SwinForImageClassification", "SwinConfig", _vision_loss),
        image_size=16,
        patch_size=2,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[1, 2],
        window_size=4,
        num_labels=3,
    ),
    transformer(
        "ConvNeXt",
        *("ConvNextForImageClassification", "ConvNextConfig", _vision_loss),
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_stages=2,
        patch_size=4,
        num_labels=3,
    ),
    transformer(
        "CLIP",
        *("CLIPModel", "CLIPConfig", _pair_loss),
        text_config={**_TEXT, "eos_token_id": 2},
        vision_config=_VISION,
        projection_dim=8,
    ),
    transformer(
        "Whisper",
        *("WhisperForConditionalGeneration", "WhisperConfig", _speech_loss),
        vocab_size=_WORDS,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=8,
        max_target_positions=16,
        decoder_start_token_id=0,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    ),
]
"""Models of transformers."""

PUBLIC = {public.name: public for public in (*CONVOLUTIONAL, *TRANSFORMERS)}
"""All of them by name."""
