"""``gammabeta train``: train a recipe's network, so that it can be killed and resumed anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gammabeta.cli.options import Option, Options
from gammabeta.cli.running import go, said_once
from gammabeta.lab.data import SOURCES
from gammabeta.lab.train import run as runs
from gammabeta.lab.train.plan import DISTORTIONS, FREE, PRECISIONS, Plan
from gammabeta.lab.train.recipes import RECIPES, Recipe, recipe
from gammabeta.lab.train.vary import vary as varied

DEFAULT_OUT = Path("runs")
_RECIPE, _DATA, _MODEL, _RUN = "The recipe", "The data", "The network", "The run"


@dataclass
class TrainOptions(Options):
    """What ``gammabeta train`` is asked for; what has a name of `Plan`'s goes into the plan."""

    recipe: Annotated[
        str | None,
        Option(
            f"Recipe to train: {', '.join(RECIPES)}.",
            metavar="RECIPE",
            shown=False,
            positional=True,
        ),
    ] = None
    resume: Annotated[
        Path | None, Option("Continue a run: its folder or one of its checkpoints.")
    ] = None
    data: Annotated[str, Option(f"Data set: {', '.join(SOURCES)}.", _DATA, metavar="NAME")] = (
        Plan.data
    )
    data_dir: Annotated[Path | None, Option("Folder with the files of the data set.", _DATA)] = None
    size: Annotated[
        int, Option("Height and width of the network's input.", _DATA, shown="the data's own")
    ] = Plan.size
    distortions: Annotated[
        str,
        Option(
            f"Distortions of the training images: {', '.join(DISTORTIONS)}.", _DATA, metavar="NAME"
        ),
    ] = Plan.distortions
    shard: Annotated[int, Option("Examples per shard.", _DATA)] = Plan.shard
    skip_unreadable: Annotated[bool, Option("Skip images that cannot be read.", _DATA)] = (
        Plan.skip_unreadable
    )
    workers: Annotated[int, Option("Threads that prepare distorted images.", _DATA)] = Plan.workers
    base_lr: Annotated[
        float, Option("Learning rate of the baseline; each recipe multiplies it.", _RECIPE)
    ] = Recipe.base_lr
    batch_size: Annotated[int, Option("Examples per step and process.", _RECIPE)] = (
        Recipe.batch_size
    )
    lasting: Annotated[
        int | None,
        Option(
            "Number of steps that stands for the paper's 31 million in the learning rate schedule.",
            _RECIPE,
        ),
    ] = None
    dropout: Annotated[
        float | None, Option("Dropout before the classifier.", _RECIPE, shown="the recipe's")
    ] = None
    vary: Annotated[
        int | None,
        Option(
            "Ensemble member (0-based); also used as the seed unless --seed is given.",
            _RECIPE,
            shown="none",
        ),
    ] = None
    width: Annotated[float, Option("Factor on the number of channels.", _MODEL)] = Plan.width
    stem: Annotated[
        str,
        Option(
            "Stem of the network: separable, plain, small or fine.",
            _MODEL,
            metavar="NAME",
            shown="by size",
        ),
    ] = Plan.stem
    channels: Annotated[
        str,
        Option(
            "Channel counts: written (the cells of the paper's table) or printed (its output "
            "column).",
            _MODEL,
            metavar="NAME",
        ),
    ] = Plan.channels
    sync_bn: Annotated[bool, Option("Synchronize batch norm over all GPUs.", _MODEL)] = Plan.sync_bn
    steps: Annotated[int, Option("Total number of optimizer steps.", _RUN)] = Plan.steps
    seed: Annotated[int, Option("Random seed.", _RUN)] = Plan.seed
    out: Annotated[
        Path | None, Option("Output folder of the run.", _RUN, shown=f"{DEFAULT_OUT}/RECIPE-DATA")
    ] = None
    device: Annotated[str, Option("Device: cpu, cuda or auto.", _RUN, metavar="NAME")] = Plan.device
    precision: Annotated[
        str, Option(f"Precision: {' or '.join(PRECISIONS)} (autocast).", _RUN, metavar="NAME")
    ] = Plan.precision
    channels_last: Annotated[bool, Option("Use the channels_last memory format.", _RUN)] = (
        Plan.channels_last
    )
    evaluate_every: Annotated[int, Option("Steps between evaluations.", _RUN)] = Plan.evaluate_every
    checkpoint_every: Annotated[int, Option("Steps between checkpoints.", _RUN)] = (
        Plan.checkpoint_every
    )
    log_every: Annotated[int, Option("Steps between log lines.", _RUN)] = Plan.log_every
    keep: Annotated[int, Option("Number of checkpoints to keep, besides the best.", _RUN)] = (
        Plan.keep
    )
    watch: Annotated[bool, Option("Record the signal for gammabeta view.", _RUN)] = Plan.watch


def train(options: TrainOptions) -> None:
    """Train a network by one of the paper's recipes.

    Also works under torchrun. Exit code 3 means that the loss was not finite.
    """
    of_plan = options.given(Plan)
    if options.data_dir is not None:
        of_plan["data_dir"] = str(options.data_dir.absolute())
    free = {name: value for name, value in of_plan.items() if name in FREE}
    with said_once():
        if options.resume is not None:
            fixed = [name for name in options.given() if name not in ("resume", *FREE)]
            if fixed:
                raise ValueError(
                    f"{fixed[0]} cannot change when a run is resumed; omit it. These can: "
                    f"{', '.join('--' + name.replace('_', '-') for name in FREE)}"
                )
            place, chosen, plan = options.resume, None, None
            device = runs.device_of(place)
        else:
            chosen = _recipe(options)
            if options.vary is not None:
                of_plan.setdefault("seed", options.vary)
            plan = Plan().with_changes(**of_plan)
            name = f"{chosen.name}-{plan.data}".replace("/", "-").replace(":", "-")
            place, device = options.out or DEFAULT_OUT / name, plan.device
    go(place, chosen, plan, free, device)


def _recipe(options: TrainOptions) -> Recipe:
    if options.recipe is None:
        raise ValueError(
            f"recipe is missing; choose one of {', '.join(RECIPES)}, or --resume FOLDER"
        )
    dropout, lasting, vary = options.dropout, options.lasting, options.vary
    # Checked here because the recipe has other names for them.
    for option, value, least in (("lasting", lasting, 1), ("vary", vary, 0)):
        if value is not None and not least <= value <= 10**9:
            raise ValueError(f"{option}={value} must be at least {least} and at most 1,000,000,000")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
    made = recipe(options.recipe).with_changes(**options.given(Recipe))
    if dropout is not None:
        made = made.with_changes(dropout_fraction=dropout, no_dropout=dropout == 0)
    if vary is not None:
        made = varied(made, vary)
    return made if lasting is None else made.lasting(lasting)
