"""Averaged weights are evaluated with running statistics that are not theirs.

## What it is

Stochastic weight averaging (SWA) averages the weights of several steps or epochs. Nothing computes
the running statistics of the averaged network: ``update_bn`` was forgotten.

## Why it matters

The activations of the average are not those of any network on the way. With the statistics of the
last one, or the first one, its batch norms normalize wrongly: the average looks worse than what it
averages.

## How it is detected

A `torch.optim.swa_utils.AveragedModel` of the model, with the equal average of SWA and
``use_buffers=False``, has averaged at least twice, and only ``update_parameters`` ever wrote its
running statistics. If it, or the module inside, is in evaluation mode when watching ends, that is a
warning; else it is information, because ``update_bn`` may still come. For an average of your own
making, see GB308.

## Fix

```python
torch.optim.swa_utils.update_bn(loader, swa_model)  # or gb.calibrate(swa_model.module, batches)
```

## Source

Izmailov et al. 2018, arXiv:1803.05407, section 3.2; documentation of
`torch.optim.swa_utils.update_bn`.
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.rules.gb308_averaged_without_statistics import (
    averages_exponentially,
    has_own_statistics,
)
from gammabeta.doctor.training.clinic import TrainingRule

_AVERAGED = 2


@while_training("GB309", "swa-without-update", "averaged weights have no statistics of their own")
class Rule(TrainingRule):
    """Looks at the averages of the model when watching ends."""

    def end(self) -> Iterator[Finding]:
        """Yield a finding for each average without statistics of its own."""
        for copy in list(self.watched.copies.found.values()):
            wrapper = copy.wrapper() if copy.wrapper is not None else None
            if wrapper is None or wrapper.use_buffers or averages_exponentially(wrapper):
                continue
            averaged = int(wrapper.n_averaged)
            if averaged < _AVERAGED or has_own_statistics(copy, wrapper):
                continue
            layers = tuple(n.path for n in self.watched.batch_norms)
            yield Finding(
                severity="info" if wrapper.training and wrapper.module.training else "warning",
                layer="",
                layers=("", *layers),
                cause="its averaged weights (SWA) have the running statistics of another network",
                numbers={"models averaged": averaged},
                fix="torch.optim.swa_utils.update_bn(loader, swa_model)  # before evaluating it",
                step=max(1, copy.step),
            )
