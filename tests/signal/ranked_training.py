"""What ``torchrun`` runs for `test_harmless_ranks`: prints what each rank found, a line of JSON."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import gammabeta as gb
from tests.signal.public_models import PUBLIC, drawn, seeded

STEPS = 20


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 12), nn.LayerNorm(12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.norm(self.first(x))))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.25)
        self.blocks = nn.Sequential(*(Block() for _ in range(2)))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.drop(torch.relu(self.norm(self.stem(x))))))


def replicated() -> nn.Module:
    return DistributedDataParallel(seeded(Stack)())


def replicated_gpt2() -> nn.Module:
    return DistributedDataParallel(PUBLIC["GPT-2"].make())


def wrapped() -> nn.Module:
    """FSDP1: the blocks, and the whole."""
    model: Any = seeded(Stack)()
    cpu = torch.device("cpu")
    for index, block in enumerate(model.blocks):
        model.blocks[index] = FullyShardedDataParallel(block, device_id=cpu, use_orig_params=True)
    return FullyShardedDataParallel(model, device_id=cpu, use_orig_params=True)


def sharded() -> nn.Module:
    """FSDP2: each norm, each block, and the whole."""
    model: Any = seeded(Stack)()
    for block in model.blocks:
        fully_shard(block.norm)
        fully_shard(block)
    fully_shard(model.norm)
    fully_shard(model)
    return model  # type: ignore[no-any-return]


CASES: dict[str, Callable[[], nn.Module]] = {
    "DDP": replicated,
    "DDP from inside": replicated,
    "DDP of GPT-2": replicated_gpt2,
    "FSDP1": wrapped,
    "FSDP2": sharded,
}


def loss_of(case: str, model: nn.Module, number: int) -> Tensor:
    """Return the loss on this rank's own mini-batch."""
    seed = 1000 * dist.get_rank() + number
    if case == "DDP of GPT-2":
        return PUBLIC["GPT-2"].loss(model, seed)
    out = model(drawn(16, 6, seed=seed))
    return F.cross_entropy(out, torch.arange(16) % 4)


def trained(case: str, path: Path | None, **options: Any) -> dict[str, Any]:
    """Train a model, watched if there is a path, and return the digest of all bits."""
    model = CASES[case]()
    watched: Any = model.module if case == "DDP from inside" else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    signal, error = None, ""
    try:
        signal = None if path is None else gb.watch(watched, path, **options)
    except Exception as e:
        error = f"{type(e).__name__}: {e}"
    if errors := [text for text in gathered(error) if text]:  # no rank waits for one that failed
        return {"error": errors[0]}
    digest = hashlib.sha256()
    torch.manual_seed(dist.get_rank())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for number in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(case, model, number)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            digest.update(_bytes(loss))
            if signal is not None:
                signal.step(loss=loss)
        if signal is not None:
            signal.close()
    digest.update(_bytes(torch.get_rng_state()))
    for value in [*model.parameters(), *model.buffers()]:
        digest.update(_bytes(value))
        if value.grad is not None:
            digest.update(_bytes(value.grad))
    hooks = sum(
        len(value)
        for module in model.modules()
        for key, value in vars(module).items()
        if "hook" in key and isinstance(value, dict)
    )
    return {"digest": digest.hexdigest(), "hooks": hooks, "said": [str(w.message) for w in said]}


def gathered(value: Any) -> list[Any]:
    """Return the value of each rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _bytes(value: Tensor) -> bytes:
    value = value.detach()
    local: Tensor = value.to_local() if isinstance(value, DTensor) else value
    return local.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def main(folder: Path) -> None:
    """Train each case three times: plain, watched by rank 0, watched by all ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    for case in CASES:
        name = case.replace(" ", "-")
        found: dict[str, Any] = {"rank": dist.get_rank(), "case": case}
        for how, path, options in (
            ("plain", None, {}),
            ("defaults", folder / f"{name}-defaults", {}),
            ("every step", folder / f"{name}-every", {"every": 1}),
            ("all ranks", folder / f"{name}-all", {"every": 1, "ranks": "all"}),
        ):
            found[how] = trained(case, path, **options)
        print(json.dumps(found) + "\n", end="", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
