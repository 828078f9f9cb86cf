"""A layer is dead: all of its units are off for every input.

## What it is

All inputs of a ReLU are negative, so that its output is zero and no gradient passes; or a sigmoid
or tanh is saturated in all units.

## Why it matters

A dead ReLU never comes back: its gradient is zero, and so is that of everything before it that has
no other way to the loss. The network predicts a constant, or goes around the layer.

## How it is detected

In a recorded frame, all sampled outputs of a rectifying activation are exactly zero, or at least
95% of its units have been off in 32 sampled values in a row and 90% of its outputs are zero; or 95%
of the units of a sigmoid or tanh have been saturated for as long, or 98% of its outputs are. In two
frames in a row, two steps or more apart; at the end of a run that has only one, from the first one
on. A layer whose activation gets exactly zeros, such as a branch with a norm whose γ was
initialized to zero, is silent; so is a gate that is open for every input, and the network's last
activation, which may well saturate. After updates that replace the weights the learning rate is the
cause (GB314), and the verdict waits for it. The first dead layer in the order of the network is
named first.

## Fix

```python
nn.init.kaiming_normal_(layer.weight)
nn.init.zeros_(layer.bias)  # and a norm before the ReLU
```

## Source

Lu et al. 2019, *Dying ReLU and Initialization*, arXiv:1903.06733; Maas et al. 2013,
*Rectifier nonlinearities improve neural network acoustic models*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import TrainingRule, Watched
from gammabeta.signal.attending import Recorded

_DEAD, _ZEROS, _SATURATED, _SAMPLED = 0.95, 0.9, 0.98, 64
_STEPS, _OPEN = 2, 0.5
_FIX = (
    "nn.init.kaiming_normal_(layer.weight); nn.init.zeros_(layer.bias)"
    "  # and a norm before the activation"
)


@while_training("GB319", "dead-layers", "a layer is dead: all of its units are off for every input")
class Rule(TrainingRule):
    """Looks at the activations of each frame."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._since: dict[str, int] = {}
        self._found: dict[str, Finding] = {}
        self._first: int | None = None
        self._sure = False

    def frame(self, frame: Recorded) -> None:
        """Look at the activations of a frame."""
        self._first = frame.step if self._first is None else self._first
        order = [name for name, stage in frame.rows if stage == "activation"]
        last = order[-1] if order else ""
        after = _has_layers_after(frame, last)
        now: dict[str, int] = {}
        for name in order:
            rectified = _rectified(frame.rows, name)
            if rectified or (_saturated(frame.rows, name) and (name != last or after)):
                now[name] = self._since.get(name, frame.step)
        self._since = now
        self._sure = any(frame.step - since >= _STEPS for since in now.values())
        self._found = {
            name: self._finding(name, since, frame)
            for name, since in now.items()
            if frame.step - since >= _STEPS or since == self._first
        }

    def numbers(self, step: int, scalars: Mapping[str, float]) -> Iterator[Finding]:
        """Yield the findings, once it is known whether the learning rate is the cause."""
        course = self.watched.course
        if not self._found or not self._sure or course.count < 10:
            return
        born = all(f.step == self._first for f in self._found.values())
        if born or course.has_learned or course.largest_update < 0.1 or course.count > 31:
            yield from self._say()

    def end(self) -> Iterator[Finding]:
        """Yield the findings of a short run."""
        yield from self._say()

    def _say(self) -> Iterator[Finding]:
        found, self._found = list(self._found.values()), {}
        if found and not self.watched.course.blamed - {"GB319"}:
            self.watched.course.blamed.add("GB319")
            yield found[0]

    def _finding(self, name: str, since: int, frame: Recorded) -> Finding:
        values = frame.rows[name, "activation"]
        rectified = _rectified(frame.rows, name)
        return Finding(
            severity="error" if rectified else "warning",
            layer=name,
            layers=(
                *tuple(self._since)[tuple(self._since).index(name) :],
                *_activation_of(name, self.watched.subject.modules),
            ),
            cause="all of its units are off, so that no gradient passes"
            if rectified
            else "nearly all of its units are saturated, so that hardly any gradient passes",
            numbers={
                "outputs that are 0": values["zeros"] / max(1.0, values["sampled"]),
                "dead units": values["dead"],
                "dead layers": len(self._since),
            },
            fix=_FIX,
            step=since,
        )


def _activation_of(name: str, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield the path of the activation that comes after a layer in an `nn.Sequential`."""
    parent, _, last = name.rpartition(".")
    around = modules.get(parent)
    if not isinstance(around, nn.Sequential) or last not in around._modules:
        return
    names = list(around._modules)
    for after in names[names.index(last) + 1 :]:
        module = around._modules[after]
        if type(module).__module__ == nn.ReLU.__module__:
            yield f"{parent}.{after}" if parent else after
            return
        if not (isinstance(module, nn.Identity) or "Norm" in type(module).__name__):
            return


_Rows = Mapping[tuple[str, str], Mapping[str, float]]


def _rectified(rows: _Rows, name: str) -> bool:
    """Whether the activation of row ``name`` is off, although its inputs are not all zero."""
    values = rows[name, "activation"]
    sampled = values["sampled"]
    if not sampled >= _SAMPLED:
        return False
    share = values["zeros"] / sampled
    if not (share == 1 or (values["dead"] >= _DEAD and share >= _ZEROS)):
        return False
    before = [rows[key] for stage in ("residual", "affine", "z") if (key := (name, stage)) in rows]
    return bool(before) and (before[0]["std"] > 0 or before[0]["mean"] < 0)


def _saturated(rows: _Rows, name: str) -> bool:
    """Whether the sigmoid or tanh of row ``name`` is saturated in all units."""
    values = rows[name, "activation"]
    bounded = values["maximum"] <= 1 and values["minimum"] >= -1 and values["std"] > 0
    if values["minimum"] > _OPEN:  # a gate that begins open; what it lets pass learns
        return False
    most = values["dead"] >= _DEAD or values.get("saturated", 0.0) >= _SATURATED
    return bounded and most and values["zeros"] < values["sampled"] / 2


def _has_layers_after(frame: Recorded, name: str) -> bool:
    names = [row for row, stage in frame.rows if stage == "z"]
    return name in names and names.index(name) < len(names) - 1
