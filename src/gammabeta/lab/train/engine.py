"""The training loop. A run that was killed can be resumed with the same result.

It runs in one process or, under ``torchrun``, in several with `DistributedDataParallel`. The step
is in `step`, random states are in `state`, and what a run saves is in `snapshot`, `checkpoint` and
`journal`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gammabeta.lab.data import Batch, Images
from gammabeta.lab.train import checkpoint, snapshot
from gammabeta.lab.train.accuracy import count_correct, evaluating
from gammabeta.lab.train.journal import Journal
from gammabeta.lab.train.network import Standardize, Trainable, build, describe
from gammabeta.lab.train.plan import Plan, due
from gammabeta.lab.train.progress import Outcome, Progress, Since
from gammabeta.lab.train.ranks import Ranks
from gammabeta.lab.train.state import (
    averaged_buffers,
    random_state,
    seed_all,
    set_random_state,
    synchronized,
    warmed_up,
)
from gammabeta.lab.train.step import quiet_layers, take_step
from gammabeta.lab.train.supply import feed_of, held_out
from gammabeta.signal import Cadence, Watch, watch

FLUSH = 20
"""Steps between checks of the loss if a check makes a GPU or other ranks wait."""


class Trainer:
    """A run: the network, its optimizer and its position in the data.

    Args:
        recipe: the network, its optimizer and learning rate.
        plan: all other settings.
        images: the data set.
        ranks: this process among others.
        folder: folder of the run; this process must hold it (`gammabeta.lab.train.journal.Held`).
        resumed: the checkpoint to resume from, see `checkpoint.read`.
        report: called with the progress, on the first rank.

    Raises:
        ValueError: the plan does not suit the data, the device or the number of ranks.

    `run` seeds the global random states (torch, Python, NumPy) and restores them at the end.
    """

    def __init__(
        self,
        recipe: Trainable,
        plan: Plan,
        images: Images,
        ranks: Ranks,
        folder: Path,
        *,
        resumed: dict[str, Any] | None = None,
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        self.recipe, self.plan, self.images, self.ranks = recipe, plan, images, ranks
        self.folder = folder
        self.outcome = Outcome()
        self.stop = False
        """Set to True, for example in a signal handler, to end the run at the next check."""
        self.notes: list[str] = []
        """Information for the user, one line each."""
        self._report = report or (lambda _: None)
        self._data = describe(images)
        self._feed = feed_of(recipe, plan, images, ranks)
        model = build(recipe, plan, self._data).to(ranks.device)
        if plan.sync_bn:
            model = synchronized(model, ranks)
        self.model: nn.Module = model
        self.optimizer = recipe.optimizer(model)
        self._ready = Standardize(self._data, ranks.device, plan.channels_last)
        self._flush = 1 if ranks.count == 1 and ranks.device.type == "cpu" else FLUSH
        self._position: dict[str, int] = {}
        self._random: dict[str, Any] | None = None
        self._losses: list[Tensor] = []
        self._since = Since()
        self._kept = math.nan
        """Accuracy of the best checkpoint on disk; its step may be repeated after a resume."""
        if resumed is not None:
            best = folder / checkpoint.BEST
            with contextlib.suppress(checkpoint.CheckpointError):
                self._kept = checkpoint.read(best)["best"][0] if best.exists() else math.nan
            found = snapshot.put_back(resumed, self._parts(), ranks)
            self._random, self._position, note = found
            if note:
                self.notes.append(note)
            steps = f"{self.outcome.step} of {plan.steps}"
            self.notes.append(
                f"resumed after step {steps}"
                if self.outcome.step < plan.steps
                else f"finished before: {steps} steps; more --steps go on"
            )

    def run(self) -> Outcome:
        """Train until the last step, or until the loss is not finite.

        Raises:
            CheckpointError: a checkpoint could not be written. Earlier ones are intact.
        """
        outside = random_state(self.ranks.device)
        if self._random is None:
            seed_all(self.plan.seed, self.ranks.rank, self.outcome.step)
        else:
            set_random_state(self._random, self.ranks.device)
        batches = self._feed.batches(self._position)
        try:
            with self._journal() as journal, self._watched() as signal, quiet_layers():
                self._loop(batches, journal, signal)
        finally:
            with contextlib.suppress(AttributeError):  # an iterator need not have it
                batches.close()  # type: ignore[attr-defined]
            set_random_state(outside, self.ranks.device)
        return self.outcome

    def _loop(
        self, batches: Iterator[Batch], journal: Journal | None, signal: Watch | None
    ) -> None:
        plan, outcome = self.plan, self.outcome
        network = self._distributed()
        self.model.train()
        if (
            outcome.step == 0
        ):  # from here on the run can be resumed, and a full disk has been noticed
            first = self._save(checkpoint.path_of(self.folder, 0))
            if self.ranks.first:
                checkpoint.read(first)  # a recipe may hold values that cannot be read back
        self._since.begin()
        while outcome.step < plan.steps:
            step = outcome.step + 1
            loss = self._step(network, next(batches), step)
            outcome.step = step
            if signal is not None:
                signal.step(loss=loss, learning_rate=self.recipe.learning_rate(step - 1))
            evaluating = due(step, plan.evaluate_every, plan.steps)
            saving = due(step, plan.checkpoint_every, plan.steps)
            logging = due(step, plan.log_every, plan.steps)
            if not (evaluating or saving or logging or step % self._flush == 0):
                continue
            finite = self._look()
            if not finite:
                self._diverge(journal)
                return
            stopping = outcome.stopped
            accuracy = self._measure(step) if evaluating else None
            saved = None
            # The best one first: if killed between the two, a resumed run repeats this.
            if accuracy is not None and outcome.best_step == step and not self._kept > accuracy:
                self._save(self.folder / checkpoint.BEST)
            if saving or stopping:
                saved = self._save(checkpoint.path_of(self.folder, step))
            if (evaluating or saving or logging or stopping) and self.ranks.first:
                self._tell(journal, accuracy, saved)
            self._since.again()
            if stopping:
                return

    def _step(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
        """Take one optimizer step; return its loss, still on the device."""
        x = self._ready(batch.x)
        y = batch.y.to(self.ranks.device, non_blocking=True)
        rate = self.recipe.learning_rate(step - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, _ = take_step(network, self.optimizer, x, y, precision=self._precision())
        self._position = batch.after
        self._losses.append(loss)
        self._since.images += len(batch.y) * self.ranks.count
        return loss

    def _look(self) -> bool:
        """Fetch the losses since the last look; False if one was not finite, on any rank."""
        losses = torch.stack(self._losses).tolist()
        self._losses.clear()
        *sums, stops = self.ranks.sum([*losses, float(self.stop)])
        means = [total / self.ranks.count for total in sums]
        for number, mean in enumerate(means, self.outcome.step - len(means) + 1):
            if not math.isfinite(mean):
                self.outcome.diverged = number
                return False
        self._since.losses += means
        self.outcome.stopped = stops > 0 and self.outcome.step < self.plan.steps
        return True

    def _measure(self, step: int) -> float:
        """Return the accuracy on the test split, in evaluation mode."""
        self._since.pause()
        with (
            evaluating(self.model),
            averaged_buffers(self.model, self.ranks),
            self._precision(),
        ):
            batches = (
                (self._ready(x), y.to(self.ranks.device))
                for x, y in held_out(self.images, self.ranks)
            )
            counts = count_correct(self.model, batches)
        right, seen = self.ranks.sum([float(count) for count in counts])
        accuracy = right / seen
        outcome = self.outcome
        outcome.accuracies[step] = accuracy
        if not accuracy <= outcome.best:  # the first: best is NaN
            outcome.best, outcome.best_step = accuracy, step
        return accuracy

    def _tell(self, journal: Journal | None, accuracy: float | None, saved: Path | None) -> None:
        step, since = self.outcome.step, self._since
        speed, each = since.speed()
        progress = Progress(
            step,
            self.plan.steps,
            since.loss(),
            self.recipe.learning_rate(step - 1),
            speed,
            (self.plan.steps - step) * each,
            accuracy,
            None if math.isnan(self.outcome.best) else self.outcome.best,
            saved,
        )
        if journal is not None:
            row: dict[str, Any] = {
                "step": step,
                "loss": progress.loss,
                "learning_rate": progress.learning_rate,
                "images_per_second": round(speed, 1),
            }
            journal.add(**row, **({} if accuracy is None else {"accuracy": accuracy}))
        self._report(progress)
        since.reset()

    def _diverge(self, journal: Journal | None) -> None:
        """Save the state for inspection, and log the step."""
        self._save(self.folder / checkpoint.DIVERGED)
        if journal is not None:
            journal.add(step=self.outcome.diverged, loss=math.nan, diverged=True)

    def _save(self, path: Path) -> Path:
        """Write a checkpoint of all ranks; it succeeds on all ranks or on none."""
        self._since.pause()
        own = snapshot.own(self.model, self.ranks.device, self._position)
        held = self.ranks.gather(own)
        problem: checkpoint.CheckpointError | None = None
        with averaged_buffers(self.model, self.ranks):
            if self.ranks.first:
                try:
                    whole = snapshot.whole(self._parts(), self.plan, self.recipe, self._data, held)
                    checkpoint.write(path, whole)
                    if path.name not in (checkpoint.BEST, checkpoint.DIVERGED):
                        checkpoint.prune(path, self.plan.keep)
                except checkpoint.CheckpointError as e:
                    problem = e
        self.ranks.agree(problem)
        if path.name != checkpoint.BEST:
            self.outcome.checkpoint = path
        return path

    def _parts(self) -> snapshot.Parts:
        return snapshot.Parts(self.model, self.optimizer, self.outcome)

    def _distributed(self) -> nn.Module:
        """The network to call in training."""
        if self.ranks.count == 1:
            return self.model
        # Each rank has running statistics of its own mini-batches, as the paper's workers did;
        # they are averaged when they are used.
        size, channels = self._data["size"], self._data["channels"]
        zeros = torch.zeros(2, channels, size, size, dtype=torch.uint8)
        with self._precision(), warmed_up(self.model, self.ranks.device):
            network = DistributedDataParallel(self.model, forward_sync_buffers=False)
            for _ in range(2):
                network(self._ready(zeros)).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)
        return network

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.plan.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.ranks.device.type, torch.bfloat16)

    @contextlib.contextmanager
    def _journal(self) -> Iterator[Journal | None]:
        if not self.ranks.first:
            yield None
            return
        journal = Journal(self.folder, self.outcome.step)
        try:
            yield journal
        finally:
            journal.close()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[Watch | None]:
        if not (self.plan.watch and self.ranks.first):
            yield None
            return
        began = self.outcome.step
        with watch(
            self.model,
            self.folder / "signal",
            arm=self.recipe.name,
            cadence=Cadence(last=self.plan.steps),
            resume=began,
            title=f"{self.recipe.name} · {self.images.name}",
            settings={**self.plan.as_dict(), "recipe": self.recipe.name},
        ) as signal:
            signal.steps = began
            yield signal
