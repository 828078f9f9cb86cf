"""``gammabeta evaluate``: the errors of trained networks, and of their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gammabeta.cli.parse import data_folder, path, whole
from gammabeta.cli.terminal import say
from gammabeta.lab.data import SOURCES, Stream, load_images
from gammabeta.lab.data.flat import DataError
from gammabeta.lab.train.checkpoint import BEST, CheckpointError
from gammabeta.lab.train.evaluate.evaluate import CROPS, STATISTICS
from gammabeta.lab.train.members import CALIBRATION, check, evaluate_members, load_member
from gammabeta.lab.train.network import describe
from gammabeta.lab.train.ranks import ranks
from gammabeta.names import known


def evaluate(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            parser=path,
            metavar="CHECKPOINT…",
            help="Checkpoint files or run folders (best checkpoint); several form an ensemble.",
            show_default=False,
        ),
    ],
    crops: Annotated[
        int, typer.Option(parser=whole, metavar="COUNT", help="Crops per image: 1 or 144.")
    ] = 1,
    statistics: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Batch norm statistics: moving (moving averages) or population (Algorithm 2).",
        ),
    ] = "moving",
    batches: Annotated[
        int,
        typer.Option(
            parser=whole,
            metavar="COUNT",
            help="Training batches used to estimate the population statistics.",
        ),
    ] = CALIBRATION,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Data set: {', '.join(SOURCES)}.",
            show_default="that of the first checkpoint",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(parser=data_folder, help="Folder with the files of the data set.")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Skip images that cannot be read.")
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="Device: cpu, cuda or auto.")
    ] = "auto",
) -> None:
    """Measure the top-1 and top-5 test error of trained networks and of their ensemble."""
    if crops not in CROPS:
        raise ValueError(f"crops={crops} must be 1 or 144")
    known("statistics", statistics, STATISTICS)
    if not 1 <= batches <= 1_000_000:
        raise ValueError(f"batches={batches} must be between 1 and 1,000,000")
    console = Console(highlight=False, soft_wrap=True)
    with ranks(device) as alone:
        if alone.count > 1:
            raise ValueError("evaluate runs in one process; start it without torchrun")
        members = [load_member(place, device=alone.device) for place in checkpoints]
        plan = members[0].plan
        its_own = data is None and data_dir is None
        if its_own and plan.data_dir:
            data_dir = Path(plan.data_dir)
        try:
            images = load_images(
                data or plan.data,
                data_dir,
                size=int(members[0].data["size"]),
                skip_unreadable=skip_unreadable,
            )
        except ValueError as e:
            if not its_own or isinstance(e, DataError):
                raise
            raise CheckpointError(f"{members[0].path} names data that cannot be had: {e}") from e
        if its_own and describe(images) != members[0].data:
            raise ValueError(
                f"data={plan.data!r} is not what {members[0].path} was trained on, so that it may "
                "have been trained on images it would be tested on; bring back the same files, or "
                "give the folder with --data-dir to test on what is there"
            )
        check(members, images)
        for member in members:
            chosen = ", the best on its own test split" if member.path.name == BEST else ""
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
                statistics=statistics,
                batches=batches,
                progress=tell,
            )
    console.print(str(found), markup=False)
