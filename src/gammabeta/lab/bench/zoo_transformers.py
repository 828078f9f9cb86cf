"""Architectures of transformers in tiny configurations, with random weights."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.lab.bench.rivals import Absent

ARCHITECTURES = (
    *("albert", "bert", "bit", "bloom", "cohere", "convbert", "convnext", "convnextv2", "cvt"),
    *("deberta", "deberta-v2", "deit", "dinov2", "distilbert", "efficientnet", "electra", "falcon"),
    *("fnet", "gemma", "gemma2", "gpt2", "gpt_neo", "gpt_neox", "gptj", "granite", "hubert"),
    *("levit", "llama", "mamba", "mistral", "mobilebert", "mobilenet_v1", "mobilenet_v2"),
    *("mobilevit", "mpt", "nystromformer", "olmo2", "opt", "phi", "phi3", "poolformer", "pvt"),
    *("qwen2", "qwen3", "regnet", "resnet", "roberta", "roformer", "segformer", "stablelm"),
    *("starcoder2", "swin", "swinv2", "t5", "vit", "wav2vec2", "xlnet", "yolos"),
)
"""Types of models, by transformers' names."""

WORDS, LENGTH, BATCH, PICTURE = 99, 16, 4, 64

_SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "d_ff": 48,
    "d_kv": 8,
    "embedding_size": 16,
    "image_size": PICTURE,
    "patch_size": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
"""Settings of a configuration, where it has them; None in `_OWN` leaves one alone."""

_FOUR_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_hidden_layers": None}
_TWO_STAGES = {
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 2],
    "patch_size": 4,
    "num_attention_heads": None,
    "num_hidden_layers": None,
}

_OWN: dict[str, dict[str, Any]] = {
    "bit": {
        "hidden_sizes": [32, 32, 64, 64],
        "depths": [1, 1, 1, 1],
        "embedding_size": 32,
        "num_groups": 8,
    },
    "convnext": {**_FOUR_STAGES, "patch_size": 4},
    "convnextv2": {**_FOUR_STAGES, "patch_size": 4},
    "cvt": {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "efficientnet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
    "gptj": {"rotary_dim": 4},
    "hubert": {"conv_dim": (16, 16, 16), "conv_kernel": (8, 3, 3), "conv_stride": (4, 2, 2)},
    "falcon": {"head_dim": None},
    "levit": {
        "image_size": 64,
        "patch_size": None,
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32, "hidden_size": 64},
    "mobilevit": {"image_size": PICTURE, "patch_size": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "bloom": {"n_layer": 2, "n_head": 4},
    "phi": {"partial_rotary_factor": 0.5},
    "poolformer": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 2, 1], "patch_size": 16},
    "pvt": {
        "hidden_sizes": [16, 16, 32, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
    },
    "regnet": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 2, 1], "groups_width": 8},
    "resnet": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 2, 1]},
    "segformer": {"hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 1, 2, 2]},
    "swin": _TWO_STAGES,
    "swinv2": _TWO_STAGES,
    "t5": {"d_model": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
    "wav2vec2": {"conv_dim": (16, 16, 16), "conv_kernel": (8, 3, 3), "conv_stride": (4, 2, 2)},
    "xlnet": {
        "d_model": 32,
        "n_layer": 2,
        "n_head": 4,
        "d_inner": 48,
        "max_position_embeddings": None,
    },
    "yolos": {"image_size": [PICTURE, PICTURE], "num_detection_tokens": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.35},
}


def tiny(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a tiny network of an architecture, without dropout, and its input.

    Args:
        name: of `ARCHITECTURES`.

    Raises:
        Absent: this version of transformers does not have it, or not in this size.
    """
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    try:
        default = transformers.AutoConfig.for_model(name)
        sizes = {key: value for key, value in _SIZES.items() if hasattr(default, key)}
        sizes |= {key: 0.0 for key in vars(default) if _drops(key, getattr(default, key))}
        sizes |= _OWN.get(name, {})
        sizes = {key: value for key, value in sizes.items() if value is not None}
        config = transformers.AutoConfig.for_model(name, **sizes)
        model: nn.Module = transformers.AutoModel.from_config(config, attn_implementation="eager")
    except Exception as e:  # a size that an architecture does not take ends in any of them
        raise Absent(f"{type(e).__name__}: {' '.join(str(e).split())[:120]}") from e
    return model, _input(model, config)


def _drops(key: str, value: object) -> bool:
    named = any(part in key for part in ("drop", "pdrop", "layerdrop", "mask_time_prob"))
    return named and isinstance(value, float)


def _input(model: Any, config: Any) -> dict[str, Tensor]:
    what = model.main_input_name
    if what == "pixel_values":
        size = getattr(config, "image_size", None) or PICTURE
        height = size if isinstance(size, int) else size[0]
        return {what: torch.randn(BATCH, 3, height, height)}
    if what == "input_values":
        return {what: torch.randn(BATCH, 800)}
    words = {what: torch.randint(3, WORDS, (BATCH, LENGTH))}
    if getattr(config, "is_encoder_decoder", False):
        words["decoder_input_ids"] = words[what].flip(1)
    return words
