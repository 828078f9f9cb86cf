"""The model trains in ``eval()`` mode.

## What it is

Gradient steps are taken while the model, and its batch norms, are in evaluation mode: dropout is
off, and batch norms normalize by running statistics that do not follow.

## Why it matters

A validation loop, a checkpoint or a trainer called ``model.eval()`` and nothing called
``model.train()`` afterwards. The loss still falls, so nobody notices. Models that
``from_pretrained`` returns are in evaluation mode, too.

## How it is detected

A backward pass reached an output of the model that was computed in evaluation mode, none reached
one computed in training mode, and an optimizer stepped. It is an error if a batch norm learns: its
γ or β, or a weight beside it, requires gradients. It is a warning if the model has no such batch
norm, but dropout, which is off.

The same is said of batch norms inside a model that is itself in training mode, if the modules
around them are in evaluation mode, too, and either they moved in earlier steps or nothing else
learns.

It is silent if a part that learns is in training mode (``model.eval(); model.head.train()``), if
only the batch norms are in evaluation mode, which freezes them on purpose, or if `gammabeta.freeze`
did. What becomes of the loss afterwards is a consequence, and no finding of its own.

## Fix

```python
model.train()  # at the start of each epoch
```

## Source

Lightning-AI/pytorch-lightning#20216 (``eval()`` is left on in ``training_step``);
wkentaro/pytorch-fcn#56 (after validation); documentation of `torch.nn.Module.eval`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Step, TrainingRule, Watched


@while_training("GB301", "training-in-eval", "the model trains in eval() mode")
class Rule(TrainingRule):
    """Looks at the mode of each call with a backward pass."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._moved: set[str] = set()
        self._still: frozenset[str] = frozenset()

    def step(self, step: Step) -> Iterator[Finding]:
        """Yield the finding at the first step in evaluation mode."""
        learned = [p for p in step.passes if p.backward and p.grad]
        if not learned or not step.own_steps:
            return
        if any(p.training for p in learned):
            yield from self._of_parts(step)
            return
        modules = self.watched.subject.modules
        roots = [module for p in learned if (module := modules.get(p.path)) is not None]
        if any(_a_part_trains(root) for root in roots):
            return
        norms = [n.path for n in self.watched.batch_norms if _learns(n.path, n.module, modules)]
        dropped = [m for root in roots for m in root.modules() if _drops(m)]
        if not norms and not dropped:
            return
        if norms:  # a loss that leaves is a consequence
            self.watched.course.blamed.add("GB301")
        yield Finding(
            severity="error" if norms else "warning",
            layer="",
            layers=("", *norms),
            cause="it is trained in eval() mode: "
            + ("dropout is off and running statistics stand still" if norms else "dropout is off"),
            numbers={"batch norms in evaluation mode": len(norms), "dropouts": len(dropped)},
            fix="model.train()",
            step=step.number,
        )

    def _of_parts(self, step: Step) -> Iterator[Finding]:
        """Look at batch norms that stand still inside a model in training mode."""
        self._moved.update(step.updates)
        if all(step.modes.values()):
            self._still = frozenset()
            return
        still = frozenset(path for path, on in step.modes.items() if not on) - step.updates.keys()
        if still == self._still:
            return
        self._still = still
        modules = self.watched.subject.modules
        alone = not any(
            m.training and any(p.requires_grad for p in m.parameters(recurse=False))
            for m in modules.values()
        )
        found = [
            path
            for path in step.modes
            if path in still
            and (alone or path in self._moved)
            and _learns(path, modules[path], modules)
            and not modules[path.rpartition(".")[0]].training
        ]
        if found:
            self.watched.course.blamed.add("GB301")
            yield Finding(
                severity="error",
                layer="" if alone else found[0],
                layers=("", *found) if alone else tuple(found),
                cause="it is trained in eval() mode, inside a model in train() mode: running "
                "statistics stand still",
                numbers={"batch norms in evaluation mode": len(found)},
                fix="model.train()",
                step=step.number,
            )


def _a_part_trains(root: nn.Module) -> bool:
    """Whether a part with parameters that learn is in training mode, and so was meant to be."""
    return any(m.training and any(p.requires_grad for p in m.parameters()) for m in root.modules())


def _learns(path: str, norm: Any, modules: dict[str, nn.Module]) -> bool:
    if norm.training or "train" in norm.__dict__:  # `gammabeta.freeze` replaces it
        return False
    own = [p.requires_grad for p in norm.parameters(recurse=False)]
    if own:
        return any(own)
    around = modules.get(path.rpartition(".")[0], norm)
    return any(p.requires_grad for p in around.parameters())


def _drops(module: nn.Module) -> bool:
    p = getattr(module, "p", None)
    return isinstance(module, nn.modules.dropout._DropoutNd) and bool(p) and not module.training
