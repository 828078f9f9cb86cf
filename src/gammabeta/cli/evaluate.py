"""``gammabeta evaluate``: the errors of trained networks, and of their mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from gammabeta.cli.options import Option, Options
from gammabeta.cli.terminal import say
from gammabeta.lab.data import SOURCES, Stream, load_images
from gammabeta.lab.data.flat import DataError
from gammabeta.lab.train.checkpoint import BEST, CheckpointError
from gammabeta.lab.train.evaluate.evaluate import CROPS, STATISTICS
from gammabeta.lab.train.members import CALIBRATION, check, evaluate_members, load_member
from gammabeta.lab.train.network import describe
from gammabeta.lab.train.plan import Plan
from gammabeta.lab.train.ranks import ranks
from gammabeta.names import known


@dataclass
class EvaluateOptions(Options):
    """What ``gammabeta evaluate`` is asked for."""

    checkpoints: Annotated[
        list[Path],
        Option(
            "Checkpoint files or run folders (best checkpoint); several form an ensemble.",
            metavar="CHECKPOINT…",
            shown=False,
            positional=True,
        ),
    ]
    crops: Annotated[int, Option("Crops per image: 1 or 144.")] = CROPS[0]
    statistics: Annotated[
        str,
        Option(
            "Batch norm statistics: moving (moving averages) or population (Algorithm 2).",
            metavar="NAME",
        ),
    ] = STATISTICS[0]
    batches: Annotated[
        int, Option("Training batches used to estimate the population statistics.")
    ] = CALIBRATION
    data: Annotated[
        str | None,
        Option(
            f"Data set: {', '.join(SOURCES)}.",
            metavar="NAME",
            shown="that of the first checkpoint",
        ),
    ] = None
    data_dir: Annotated[Path | None, Option("Folder with the files of the data set.")] = None
    skip_unreadable: Annotated[bool, Option("Skip images that cannot be read.")] = (
        Plan.skip_unreadable
    )
    device: Annotated[str, Option("Device: cpu, cuda or auto.", metavar="NAME")] = Plan.device


def evaluate(options: EvaluateOptions) -> None:
    """Measure the top-1 and top-5 test error of trained networks and of their ensemble."""
    crops, batches, data_dir = options.crops, options.batches, options.data_dir
    if crops not in CROPS:
        raise ValueError(f"crops={crops} must be 1 or 144")
    known("statistics", options.statistics, STATISTICS)
    if not 1 <= batches <= 1_000_000:
        raise ValueError(f"batches={batches} must be between 1 and 1,000,000")
    console = Console(highlight=False, soft_wrap=True)
    with ranks(options.device) as alone:
        if alone.count > 1:
            raise ValueError("evaluate runs in one process; start it without torchrun")
        members = [load_member(place, device=alone.device) for place in options.checkpoints]
        plan = members[0].plan
        its_own = options.data is None and data_dir is None
        if its_own and plan.data_dir:
            data_dir = Path(plan.data_dir)
        try:
            images = load_images(
                options.data or plan.data,
                data_dir,
                size=int(members[0].data["size"]),
                skip_unreadable=options.skip_unreadable,
            )
        except ValueError as e:
            if not its_own or isinstance(e, DataError):
                raise
            raise CheckpointError(
                f"{members[0].path} was trained on data that cannot be loaded: {e}"
            ) from e
        if its_own and describe(images) != members[0].data:
            raise ValueError(
                f"data={plan.data!r} is not what {members[0].path} was trained on: its test images "
                "may have been used for training; restore the original files, or give the folder "
                "with --data-dir to test on the present ones"
            )
        check(members, images)
        for member in members:
            chosen = ", best on its own test split" if member.path.name == BEST else ""
            say(console, f"{member.path}  {member.recipe.name}, step {member.step}{chosen}")
        if images.note:
            say(console, images.note)
        total = None if isinstance(images.test, Stream) else len(images.test)
        with console.status("evaluating") as status:

            def tell(done: int) -> None:
                status.update(f"evaluating: {done:,}{'' if total is None else f' of {total:,}'}")

            found = evaluate_members(
                members,
                images,
                crops=crops,
                statistics=options.statistics,
                batches=batches,
                progress=tell,
            )
    console.print(str(found), markup=False)
