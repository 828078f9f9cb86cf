"""Time of a training step of compiled networks: gammabeta's layers beside torch's.

    python scripts/measure_compiled.py [--threads 2] [--rounds 15]

All are compiled with `torch.compile(fullgraph=True)`: torch's layers, gammabeta's as inductor
decomposes them, and gammabeta's as registered operators. Steps are interleaved; the ratios are
medians over rounds. The
networks are pytorchcv's ResNet-18 (batch 4, 224²) and, if transformers is installed, its ViT (6
layers of 192, batch 4, 224²), with random weights.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.ops.operators import in_compiled_graphs


def networks() -> dict[str, Callable[[], nn.Module]]:
    from pytorchcv.model_provider import get_model

    found: dict[str, Callable[[], nn.Module]] = {"ResNet-18": lambda: get_model("resnet18")}
    try:
        from transformers import ViTConfig, ViTForImageClassification
    except ImportError:
        return found

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            size = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6}
            more = {"num_attention_heads": 3, "image_size": 224, "num_labels": 100}
            self.net = ViTForImageClassification(ViTConfig(**size, **more))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x, return_dict=False)[0]
            return logits

    return found | {"ViT": ViT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 1000  # layers of one class, each compiled by itself
    torch._dynamo.config.accumulated_recompile_limit = 10000
    for name, make in networks().items():
        torch.manual_seed(0)
        plain = make().train()
        contenders: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
            "torch": (plain, ()),
            "decomposed": (gb.convert(copy.deepcopy(plain)), ()),
            "operators": (gb.convert(copy.deepcopy(plain)), ("batch", "layer")),
        }
        x = torch.randn(4, 3, 224, 224)
        steps = {}
        for who, (model, kinds) in contenders.items():
            in_compiled_graphs(*kinds)
            compiled = torch.compile(model, fullgraph=True)

            def step(compiled: Callable[[Tensor], Tensor] = compiled, x: Tensor = x) -> None:
                compiled(x).square().mean().backward()

            step()
            step()
            steps[who] = step
        times: dict[str, list[float]] = {who: [] for who in steps}
        for _ in range(options.rounds):
            for who, step in steps.items():
                in_compiled_graphs(*contenders[who][1])
                began = time.perf_counter()
                step()
                times[who].append(time.perf_counter() - began)

        def over_torch(who: str, times: dict[str, list[float]] = times) -> float:
            pairs = zip(times[who], times["torch"], strict=True)
            return statistics.median(ours / torchs for ours, torchs in pairs)

        print(
            f"{name}: torch {statistics.median(times['torch']) * 1e3:.1f} ms; beside it "
            f"gammabeta decomposed {over_torch('decomposed'):.3f}, "
            f"as operators {over_torch('operators'):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
