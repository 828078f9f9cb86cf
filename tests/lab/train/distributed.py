"""What ``torchrun`` runs for `test_distributed`: prints what each rank found, a line of JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gammabeta.lab.train.ranks import RankError, ranks
from gammabeta.lab.train.run import fit, opened, resume
from tests.lab.train.small import PLAN, Small, last, rebuild, same, state


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with ranks("cpu"):
        rank = int(os.environ["RANK"])
        found: dict[str, Any] = {"rank": rank}
        outcome = fit(Small(), replace(PLAN, watch=True), folder / "whole")
        found["accuracies"] = list(outcome.accuracies.values())
        fit(Small(), replace(PLAN, steps=25, checkpoint_every=9), folder / "halved")
        resume(folder / "halved", rebuild=rebuild, steps=60)
        dist.barrier()
        whole, halved = last(folder / "whole", 60), last(folder / "halved", 60)
        found["same"] = same(state(whole), state(halved))
        found["parts"] = len(whole["ranks"])
        own = [part["buffers"]["2.running_mean"] for part in whole["ranks"]]
        found["own_statistics"] = not torch.equal(own[0], own[1])
        found["averaged"] = torch.allclose(whole["model"]["2.running_mean"], sum(own) / len(own))
        with (
            ranks("cpu") as everybody,
            opened(
                folder / "whole", None, None, {"steps": 61}, everybody, rebuild=rebuild
            ) as trainer,
        ):
            held = trainer.model.state_dict()["1.weight"]
            found["weights"] = float(held.double().sum())
        try:
            fit(Small(batch_size=1000), PLAN, folder / "large")
        except RankError as e:
            found["refused"] = [type(e).__name__, str(e)]
        except ValueError as e:
            found["refused"] = [type(e).__name__, str(e)]
        diverged = fit(Small(lr=1e30), PLAN, folder / "diverged")
        found["diverged"] = diverged.diverged
        print(json.dumps(found) + "\n", end="", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
