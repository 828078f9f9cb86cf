"""Start a run in a folder, or resume it from a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gammabeta.atomic_files import tidy
from gammabeta.lab.data import Images, load_images
from gammabeta.lab.data.raw import DataError
from gammabeta.lab.train import checkpoint
from gammabeta.lab.train.checkpoint import CheckpointError
from gammabeta.lab.train.engine import Trainer
from gammabeta.lab.train.journal import LOG, Held
from gammabeta.lab.train.network import Trainable, describe
from gammabeta.lab.train.plan import FREE, Plan
from gammabeta.lab.train.progress import Outcome, Progress
from gammabeta.lab.train.ranks import Ranks, ranks
from gammabeta.lab.train.snapshot import Rebuild, made_by
from gammabeta.names import known

Report = Callable[[Progress], None]


def fit(
    recipe: Trainable,
    plan: Plan,
    folder: str | Path,
    *,
    images: Images | None = None,
    report: Report | None = None,
) -> Outcome:
    """Train ``recipe`` with the settings of ``plan``, in ``folder``.

    Args:
        recipe: the network, its optimizer and learning rate; a frozen dataclass.
        plan: all other settings.
        folder: folder for checkpoints and the log; it must not contain a run.
        images: the data set; None loads the plan's.
        report: called with the progress.

    Returns:
        How it ended; also if it diverged.

    Raises:
        ValueError: the plan, the recipe and the data do not go together; the folder is in use.
        CheckpointError: a checkpoint could not be written.

    The global random states are as they were afterwards.

    Example:
        >>> import tempfile
        >>> from gammabeta.lab.train.recipes import recipe
        >>> plan = Plan(steps=2, width=0.125)
        >>> fit(recipe("bn-x5"), plan, f"{tempfile.mkdtemp()}/first").step
        2
    """
    with (
        ranks(plan.device) as all_ranks,
        opened(Path(folder), recipe, plan, {}, all_ranks, images=images, report=report) as trainer,
    ):
        return trainer.run()


def resume(
    place: str | Path,
    *,
    images: Images | None = None,
    rebuild: Rebuild | None = None,
    report: Report | None = None,
    **changes: Any,
) -> Outcome:
    """Resume a run; the final weights are bit-identical to those of an uninterrupted run.

    Args:
        place: the run's folder, or one of its checkpoints.
        images: the data set; None loads the plan's.
        rebuild: makes a recipe that is not one of the paper's from the checkpoint.
        report: called with the progress.
        **changes: of the plan; only what changes no weight, see `gammabeta.lab.train.plan.FREE`.

    Returns:
        How it ended.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or another run's.
        ValueError: as `fit`; or a change that may not be.
    """
    place = Path(place)
    with (
        ranks(device_of(place, rebuild)) as all_ranks,
        opened(
            place, None, None, changes, all_ranks, images=images, rebuild=rebuild, report=report
        ) as trainer,
    ):
        return trainer.run()


def device_of(place: Path, rebuild: Rebuild | None = None) -> str:
    """Return the device that the run at ``place`` asked for.

    Raises:
        CheckpointError: as `checkpoint.read`.
    """
    path = _checkpoint(place)
    return made_by(path, checkpoint.read(path), rebuild)[1].device


@contextlib.contextmanager
def opened(
    place: Path,
    recipe: Trainable | None,
    plan: Plan | None,
    changes: Mapping[str, Any],
    all_ranks: Ranks,
    *,
    images: Images | None = None,
    rebuild: Rebuild | None = None,
    report: Report | None = None,
) -> Iterator[Trainer]:
    """Hold the folder of a run and give its trainer, ready to run.

    Without ``recipe`` and ``plan`` the run at ``place`` is resumed.
    """
    with contextlib.ExitStack() as stack:
        trainer: Trainer | None = None
        problem: Exception | None = None
        try:
            if recipe is None or plan is None:
                trainer = _resumed(stack, place, changes, all_ranks, images, rebuild, report)
            else:
                trainer = _begun(stack, place, recipe, plan, all_ranks, images, report)
        except (ValueError, OSError) as e:
            problem = e
        all_ranks.agree(problem)
        if trainer is not None:  # or `agree` has raised
            yield trainer


def _begun(
    stack: contextlib.ExitStack,
    folder: Path,
    recipe: Trainable,
    plan: Plan,
    all_ranks: Ranks,
    images: Images | None,
    report: Report | None,
) -> Trainer:
    _check_log(folder)
    found = images or _load(plan)
    # Made before the folder is: what cannot be trained leaves nothing behind.
    trainer = Trainer(recipe, plan, found, all_ranks, folder, report=report)
    if all_ranks.first:
        stack.enter_context(Held(folder))
        if checkpoint.steps(folder):
            raise ValueError(
                f"out={folder} has a run in it; give another folder, or resume the run: "
                f"gammabeta train --resume {folder}"
            )
        tidy(folder)
    return trainer


def _resumed(
    stack: contextlib.ExitStack,
    place: Path,
    changes: Mapping[str, Any],
    all_ranks: Ranks,
    images: Images | None,
    rebuild: Rebuild | None,
    report: Report | None,
) -> Trainer:
    for name in changes:
        known("change", name, FREE)
    path = _checkpoint(place)
    folder = path.parent
    _check_log(folder)
    if all_ranks.first:
        stack.enter_context(Held(folder))
        tidy(folder)
    held = checkpoint.read(path)
    if held["diverged"] is not None:
        raise CheckpointError(
            f"{path} is the state after a non-finite loss in step {held['diverged']}; resume an "
            f"earlier checkpoint, or inspect this one with torch.load"
        )
    recipe, plan = made_by(path, held, rebuild)
    plan = plan.with_changes(**changes)
    if held["step"] > plan.steps:
        raise ValueError(
            f"steps={plan.steps} is less than the {held['step']} that {path} has taken already"
        )
    with checkpoint.naming(path):
        try:
            found = images or _load(plan)
            if describe(found) != held["data"]:
                raise CheckpointError(
                    f"data={plan.data!r} is not what it was trained on; restore the same files"
                )
            return Trainer(recipe, plan, found, all_ranks, folder, resumed=held, report=report)
        except (CheckpointError, DataError):
            raise
        except ValueError as e:
            raise CheckpointError(f"the run cannot be resumed: {e}") from e


def _checkpoint(place: Path) -> Path:
    is_file = place.suffix == checkpoint.SUFFIX and not place.is_dir()
    return place if is_file else checkpoint.newest(place)


def _check_log(folder: Path) -> None:
    """Refuse a log that is a FIFO: reading it would block."""
    log = folder / LOG
    if log.exists() and not log.is_file():
        raise ValueError(f"out={folder} cannot be used: {log} is not a regular file")


def _load(plan: Plan) -> Images:
    return load_images(
        plan.data,
        Path(plan.data_dir) if plan.data_dir else None,
        size=plan.size or None,
        skip_unreadable=plan.skip_unreadable,
    )
