"""``gammabeta train``: train a recipe's network, so that it can be killed and resumed anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gammabeta.cli.parse import data_folder, number, path, whole
from gammabeta.cli.running import go, said_once
from gammabeta.lab.data import SOURCES
from gammabeta.lab.train import run as runs
from gammabeta.lab.train.plan import DISTORTIONS, FREE, PRECISIONS, Plan
from gammabeta.lab.train.recipes import RECIPES, Recipe, recipe
from gammabeta.lab.train.vary import vary as varied

DEFAULT_OUT = Path("runs")
_RECIPE, _DATA, _MODEL, _RUN = "The recipe", "The data", "The network", "The run"


def _whole(help: str, panel: str, default: str | None = None) -> Any:
    return typer.Option(
        parser=whole,
        metavar="COUNT",
        help=help,
        rich_help_panel=panel,
        show_default=default or True,
    )


def _number(help: str, panel: str, default: str | None = None) -> Any:
    return typer.Option(
        parser=number,
        metavar="NUMBER",
        help=help,
        rich_help_panel=panel,
        show_default=default or True,
    )


def train(
    recipe_name: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help=f"Recipe to train: {', '.join(RECIPES)}.", show_default=False
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(parser=path, help="Continue a run: its folder or one of its checkpoints."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Data set: {', '.join(SOURCES)}.",
            show_default="digits",
            rich_help_panel=_DATA,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            parser=data_folder, help="Folder with the files of the data set.", rich_help_panel=_DATA
        ),
    ] = None,
    size: Annotated[
        int | None, _whole("Height and width of the network's input.", _DATA, "the data's own")
    ] = None,
    distortions: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Distortions of the training images: {', '.join(DISTORTIONS)}.",
            show_default="auto",
            rich_help_panel=_DATA,
        ),
    ] = None,
    shard: Annotated[int | None, _whole("Examples per shard.", _DATA, "1024")] = None,
    skip_unreadable: Annotated[
        bool | None,
        typer.Option(
            "--skip-unreadable", help="Skip images that cannot be read.", rich_help_panel=_DATA
        ),
    ] = None,
    workers: Annotated[
        int | None, _whole("Threads that prepare distorted images.", _DATA, "2")
    ] = None,
    base_lr: Annotated[
        float | None,
        _number("Learning rate of the baseline; each recipe multiplies it.", _RECIPE, "0.0015"),
    ] = None,
    batch_size: Annotated[
        int | None, _whole("Examples per step and process.", _RECIPE, "32")
    ] = None,
    lasting: Annotated[
        int | None,
        _whole(
            "Number of steps that stands for the paper's 31 million in the learning rate schedule.",
            _RECIPE,
        ),
    ] = None,
    dropout: Annotated[
        float | None, _number("Dropout before the classifier.", _RECIPE, "the recipe's")
    ] = None,
    vary: Annotated[
        int | None,
        _whole(
            "Ensemble member (0-based); also used as the seed unless --seed is given.",
            _RECIPE,
            "none",
        ),
    ] = None,
    width: Annotated[
        float | None, _number("Factor on the number of channels.", _MODEL, "1")
    ] = None,
    stem: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Stem of the network: separable, plain, small or fine.",
            show_default="by size",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Channel counts: written (the cells of the paper's table) or printed (its output "
            "column).",
            show_default="written",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    sync_bn: Annotated[
        bool | None,
        typer.Option(
            "--sync-bn", help="Synchronize batch norm over all GPUs.", rich_help_panel=_MODEL
        ),
    ] = None,
    steps: Annotated[int | None, _whole("Total number of optimizer steps.", _RUN, "1000")] = None,
    seed: Annotated[int | None, _whole("Random seed.", _RUN, "0")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Output folder of the run.",
            show_default="runs/RECIPE-DATA",
            rich_help_panel=_RUN,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Device: cpu, cuda or auto.",
            show_default="auto",
            rich_help_panel=_RUN,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Precision: {' or '.join(PRECISIONS)} (autocast).",
            show_default="fp32",
            rich_help_panel=_RUN,
        ),
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last", help="Use the channels_last memory format.", rich_help_panel=_RUN
        ),
    ] = None,
    evaluate_every: Annotated[int | None, _whole("Steps between evaluations.", _RUN, "200")] = None,
    checkpoint_every: Annotated[
        int | None, _whole("Steps between checkpoints.", _RUN, "200")
    ] = None,
    log_every: Annotated[int | None, _whole("Steps between log lines.", _RUN, "20")] = None,
    keep: Annotated[
        int | None, _whole("Number of checkpoints to keep, besides the best.", _RUN, "3")
    ] = None,
    watch: Annotated[
        bool | None,
        typer.Option("--watch", help="Record the signal for gammabeta view.", rich_help_panel=_RUN),
    ] = None,
) -> None:
    """Train a network by one of the paper's recipes.

    Also works under torchrun. Exit code 3 means that the loss was not finite.
    """
    of_plan = {
        "steps": steps,
        "evaluate_every": evaluate_every,
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
        "keep": keep,
        "workers": workers,
        "watch": watch,
        "skip_unreadable": skip_unreadable,
        "data": data,
        "data_dir": None if data_dir is None else str(data_dir.absolute()),
        "size": size,
        "distortions": distortions,
        "shard": shard,
        "width": width,
        "stem": stem,
        "channels": channels,
        "sync_bn": sync_bn,
        "seed": seed,
        "device": device,
        "precision": precision,
        "channels_last": channels_last,
    }
    free = {name: of_plan[name] for name in FREE}
    fixed = {name: value for name, value in of_plan.items() if name not in FREE}
    of_recipe: dict[str, Any] = {
        "vary": vary,
        "lasting": lasting,
        "base_lr": base_lr,
        "batch_size": batch_size,
        "dropout": dropout,
    }
    with said_once():
        if resume is not None:
            given = {"recipe": recipe_name, "out": out} | fixed | of_recipe
            taken = [name for name, value in given.items() if value is not None]
            if taken:
                raise ValueError(
                    f"{taken[0]} cannot change when a run is resumed: leave it out; only "
                    f"{', '.join('--' + name.replace('_', '-') for name in free)} can"
                )
            place, chosen, plan = resume, None, None
            device = runs.device_of(resume)
        else:
            chosen = _recipe(recipe_name, **of_recipe)
            if vary is not None and seed is None:
                fixed["seed"] = vary
            plan = Plan().with_changes(**free, **fixed)
            name = f"{chosen.name}-{plan.data}".replace("/", "-").replace(":", "-")
            place, device = out or DEFAULT_OUT / name, plan.device
    go(place, chosen, plan, free, device)


def _recipe(
    name: str | None,
    vary: int | None,
    lasting: int | None,
    base_lr: float | None,
    batch_size: int | None,
    dropout: float | None,
) -> Recipe:
    if name is None:
        raise ValueError(f"recipe is missing; give one of {', '.join(RECIPES)}, or --resume FOLDER")
    # Said here in the options' names: in a recipe they are others.
    for option, value, least in (("lasting", lasting, 1), ("vary", vary, 0)):
        if value is not None and not least <= value <= 10**9:
            raise ValueError(f"{option}={value} must be at least {least} and at most 1,000,000,000")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
    made = recipe(name).with_changes(base_lr=base_lr, batch_size=batch_size)
    if dropout is not None:
        made = made.with_changes(dropout_fraction=dropout, no_dropout=dropout == 0)
    if vary is not None:
        made = varied(made, vary)
    return made if lasting is None else made.lasting(lasting)
