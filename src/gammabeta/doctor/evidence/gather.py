"""Run forward passes of the examined model on batches, each once and at most twenty in all.

Every pass leaves the model as it was: buffers, modes, hooks and random states are restored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.doctor.evidence.batch import first_tensor, intact, target_of
from gammabeta.doctor.evidence.forward_pass import Pass
from gammabeta.doctor.evidence.modes import switch, train_norms, write_statistics
from gammabeta.doctor.evidence.observe import Look, observing
from gammabeta.doctor.evidence.score import accuracy_of, loss_of
from gammabeta.doctor.model.hidden import hidden_norms
from gammabeta.doctor.subject import Subject
from gammabeta.statistics.feed import Feed
from gammabeta.statistics.preserve import preserved
from gammabeta.statistics.targets import select

PASSES = 20
"""Most forward passes of one examination."""
TRAINED = 8
"""Most batches that are run with norms in training mode."""
EVALUATED = 4
"""Most batches that are evaluated, before and after the calibration."""


class SpentError(RuntimeError):
    """A rule asked for a forward pass, but the examination has run all it may."""


class Evidence:
    """What rules on batches may look at. Passes are run when they are first asked for.

    Args:
        subject: what is examined.
        batches: an iterable of batches, see `gammabeta.calibrate`.
        forward: called with each batch in place of the model; or None.
        done: called before each pass, for a progress bar.

    Attributes:
        batches: the first `TRAINED` batches.
        source: the iterable that was given, such as a DataLoader.
        complete: whether ``batches`` is everything there is.
        spent: number of forward passes so far.
        refused: index of a batch that cannot be run in training mode, such as one with one value
            per channel → what the model said.
    """

    def __init__(
        self,
        subject: Subject,
        batches: Iterable[Any],
        forward: Callable[[Any], Any] | None = None,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self.subject, self.source = subject, batches
        taken = list(islice(iter(batches), TRAINED + 1))
        self.complete = len(taken) <= TRAINED
        self.batches = taken[:TRAINED]
        self.spent = 0
        self.refused: dict[int, str] = {}
        self._forward = forward or Feed(subject.model)
        self._done = done

    # Batches

    def input(self, index: int) -> Tensor | None:
        """Return the first tensor of a batch, which is the model's input; None if there is none."""
        return first_tensor(self.batches[index])

    def target(self, index: int) -> Any:
        """Return what the loss compares with: the last item of a tuple, ``labels`` of a mapping."""
        return target_of(self.batches[index])

    @cached_property
    def sizes(self) -> list[int]:
        """Number of examples of each batch."""
        inputs = [self.input(index) for index in range(len(self.batches))]
        return [int(x.shape[0]) if x is not None and x.dim() else 1 for x in inputs]

    # Passes

    @cached_property
    def trained(self) -> list[Pass]:
        """A pass in mode ``"train"`` for each batch that the model accepts; see `refused`."""
        passes = []
        for index, batch in enumerate(self.batches):
            try:
                passes.append(self.run(batch, "train", index))
            except ValueError as error:  # one value per channel
                self.refused[index] = str(error)
        return passes

    @cached_property
    def evaluated(self) -> list[Pass]:
        """A pass in mode ``"eval"`` for the first batches."""
        few = self.batches[:EVALUATED]
        return [self.run(batch, "eval", index) for index, batch in enumerate(few)]

    @property
    def in_both_modes(self) -> list[Pass]:
        """`evaluated` and, if there is a batch norm, `trained`: otherwise they do not differ."""
        return [*self.evaluated, *(self.trained if self.subject.batch_norms else ())]

    @cached_property
    def with_dropout(self) -> Pass | None:
        """The largest of the first batches in mode ``"train"`` with dropout on.

        None if batch norms keep no statistics, if the model has no dropout, or if no pass is left.
        """
        ran = [p for p in self.trained if p.batch < EVALUATED] if self.targets else []
        if not ran or not has_dropout(self.subject.model, ran) or self.spent >= PASSES:
            return None
        index = max(ran, key=lambda p: self.sizes[p.batch]).batch
        return self.run(self.batches[index], "train", index, dropout=True)

    @cached_property
    def calibrated(self) -> list[Pass]:
        """The same with the statistics that `trained` measured; [] if there are none."""
        if not self.statistics:
            return []
        few = self.batches[:EVALUATED]
        return [self.run(batch, "calibrated", index) for index, batch in enumerate(few)]

    @cached_property
    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Path of a batch norm → mean and unbiased variance of its input, by channel, pooled.

        Only of batch norms whose running statistics evaluation uses, and that are not frozen.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for path in self.targets:
            calls = [
                c for p in self.trained for c in p.of(path) if c.by_batch and c.mean is not None
            ]
            total = sum(c.values for c in calls)
            if total < 2:
                continue
            mean = sum(c.mean * (c.values / total) for c in calls)
            # the paper's Algorithm 2: the mean of unbiased variances, spread of means included
            square = sum((c.var + (c.mean - mean).square()) * (c.values / total) for c in calls)
            found[path] = (mean, square * (total / (total - 1)))
        return found

    @cached_property
    def targets(self) -> dict[str, Any]:
        """Path → batch norm that keeps running statistics and is not frozen."""
        try:
            return {
                path: t.layer for path, t in select(self.subject.model, "pooled").targets.items()
            }
        except (TypeError, ValueError):
            return {}

    def run(
        self,
        batch: Any,
        mode: str,
        index: int = -1,
        *,
        dropout: bool = False,
        look: Look | None = None,
    ) -> Pass:
        """Run the model on ``batch`` and restore it; counts as one pass.

        Args:
            batch: as those of ``batches``.
            mode: see `Pass`.
            index: index of the batch, if it is one of them.
            dropout: with ``"train"``, whether everything is in training mode, not only norms.
            look: called with each call of a norm and the norm's input.

        Raises:
            SpentError: `PASSES` passes were run.
        """
        if self.spent >= PASSES:
            raise SpentError(f"the examination may run {PASSES} forward passes, and has")
        self._done()
        self.spent += 1
        model, result = self.subject.model, Pass(index, mode)
        with preserved(model), preserved(self._hidden), intact(batch), self._without_gradients():
            if mode == "train":
                train_norms(self.subject, self.targets.values(), dropout=dropout)
            else:
                switch(model, False)
            if mode == "calibrated":
                write_statistics(self.targets, self.statistics)
            drawn, traced = _random_states(), mode == "eval" and index <= 0
            with observing(self.subject, result, look, traced=traced):
                result.output = self._forward(batch)
            result.random = any(
                not torch.equal(a, b) for a, b in zip(drawn, _random_states(), strict=False)
            )
        result.loss = loss_of(self.subject.loss, result.output, target_of(batch))
        result.accuracy = accuracy_of(result.output, target_of(batch))
        return result

    @cached_property
    def _hidden(self) -> nn.Module:
        """Norms that the model calls but does not contain: a pass must not change them either."""
        return nn.ModuleList([each.norm for each in hidden_norms(self.subject)])

    def _without_gradients(self) -> AbstractContextManager[Any]:
        """Return the context of a pass: tensors of the inference mode are only written in it."""
        if any(buffer.is_inference() for buffer in self.subject.model.buffers()):
            return torch.inference_mode()
        return torch.no_grad()


def _random_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return states


def has_dropout(model: nn.Module, passes: list[Pass]) -> bool:
    """Whether a model sets values to 0 at random while it trains, as far as can be seen."""
    if any(p > 0 for each in passes for _, p, _ in each.dropouts):
        return True
    return any(
        "Drop" in type(module).__name__
        and any(
            isinstance(p := getattr(module, name, None), (int, float)) and p > 0
            for name in ("p", "drop_prob", "drop_p", "drop_rate", "prob", "rate")
        )
        for module in model.modules()
    )
