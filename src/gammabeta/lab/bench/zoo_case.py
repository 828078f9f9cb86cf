"""One network of the zoo: converted, fused, folded and reverted, beside the original."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

import gammabeta
from gammabeta.lab.bench.net_models import Network
from gammabeta.lab.bench.net_variants import converted
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.zoo_distance import CHAOS, as_near, distance, finite, perturb
from gammabeta.lab.bench.zoo_models import load
from gammabeta.lab.bench.zoo_outcome import (
    Outcome,
    double,
    evaluate,
    kernels_at_any_size,
    prepare,
    run,
    same,
)

CHECKS = ("evaluation", "training", "gradients", "statistics")
"""What is compared under float32."""

SLOW = 10.0
"""Seconds of processor time that the original's step may take."""

_FEW, _MANY = 3, 9

_Made = TypeVar("_Made")


@dataclass
class Result:
    """What came of one network.

    Attributes:
        network: its name.
        status: ``"same"``, ``"differs"``, ``"chaotic"`` (torch's own results are no better than
            chance: judged in float64 only), ``"no norms"``, or ``"left out"``.
        input, parameters, norms: what it is: normalization layers, those that were converted.
        layout: of pictures.
        step: seconds of processor time of the original's step.
        fused: layers that fuse with what follows.
        figures: check → distances from float64 (median), torch's and ours.
        failures: what differs, one phrase each.
        note: why it was left out, and the like.
        made: date and versions.
    """

    network: str
    status: str = "left out"
    input: str = ""
    layout: str = ""
    parameters: int = 0
    norms: int = 0
    converted: int = 0
    fused: int = 0
    folded: int = -1
    step: float = 0.0
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    note: str = ""
    made: str = ""


def examine(name: str, layout: str) -> Result:
    """Compare a network with itself converted, fused, folded and reverted.

    Args:
        name: of the zoo.
        layout: ``"nchw"`` or ``"channels_last"``.
    """
    result = Result(name, layout=layout)
    try:
        network = load(name)
    except Absent as e:
        result.note = str(e)
        return result
    prepare(network)
    result.input = network.shape
    result.parameters = sum(p.numel() for p in network.model.parameters())
    start = time.process_time()
    try:
        network = in_layout(network, layout)
    except RuntimeError:  # it views what only NCHW can be viewed as
        result.layout = "nchw"
        try:
            network = in_layout(network, "nchw")
        except RuntimeError as e:
            result.note = f"torch's own step raises: {' '.join(str(e).split())[:120]}"
            return result
    result.step = time.process_time() - start
    if result.step > SLOW:
        result.note = f"a step takes {result.step:.0f} s"
        return result
    compare(network, result)
    return result


def in_layout(network: Network, layout: str) -> Network:
    """Return ``network`` in ``layout``, in which it has run once."""
    formats = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
    network.model.to(memory_format=formats[layout])  # type: ignore[call-overload]
    args, kwargs = network.inputs(layout)
    laid_out = Network(network.name, network.model, network.shape, args, kwargs)
    run(laid_out.model, laid_out)
    return laid_out


def compare(network: Network, result: Result) -> None:
    """Fill ``result`` with what is the same and what differs."""
    original = network.model
    reports: list[Any] = []
    fused = gammabeta.convert(copy.deepcopy(original), report=reports.append)
    result.converted = len(reports[0].changes)
    result.norms = result.converted + len(reports[0].left)
    result.fused = sum(len(f.names) for f in reports[0].fusions if f.fuses)
    if not result.converted:
        result.status = "no norms"
        result.note = "; ".join(dict.fromkeys(left.reason for left in reports[0].left))[:200]
        return
    exact = double(network)
    truth = run(exact.model, exact)
    if not (finite(truth.evaluation) and finite(truth.training)):
        result.note = "its outputs are not finite in float64"
        return
    result.status = "same"
    forms: dict[str, nn.Module] = {"fused": fused, "converted": converted(original, fuse=False)}
    theirs = [run(original, network)]
    for form, model in forms.items():
        _judge(form, model, network, truth, theirs, result)
    with kernels_at_any_size():
        _judge("kernels", fused, network, truth, theirs, result)
        _in_double(exact, truth, result)
    _states(original, fused, result)
    _reverted(original, fused, network, result)
    _folded(network, truth, theirs, result)
    if result.failures:
        result.status = "differs"


def _judge(
    form: str,
    model: nn.Module,
    network: Network,
    truth: Outcome,
    theirs: list[Outcome],
    result: Result,
) -> None:
    """Judge ``model`` in float32; more roundings are drawn if the first look worse than torch's."""
    ours = [run(model, network)]
    for check in CHECKS:
        true = getattr(truth, check)
        got, wanted = set(getattr(ours[0], check)), set(getattr(theirs[0], check))
        if got != wanted:
            odd = sorted(got ^ wanted)
            result.failures.append(f"{form}: {check} of other tensors: {', '.join(odd[:3])}")
            continue
        true = {key: true[key] for key in wanted if key in true}
        for rounds in (1, _FEW, _MANY):
            _extend(ours, model, network, rounds)
            _extend(theirs, network.model, network, rounds)
            far = [distance(getattr(each, check), true) for each in ours[:rounds]]
            near = [distance(getattr(each, check), true) for each in theirs[:rounds]]
            if as_near(far, near):
                break
        else:
            said = (
                f"{form}: {check} {statistics.median(far):.1e}, torch {statistics.median(near):.1e}"
            )
            result.failures.append(said)
        result.figures[f"{form} {check}"] = (statistics.median(near), statistics.median(far))
        if statistics.median(near) > CHAOS and result.status == "same":
            result.status = "chaotic"


def _extend(outcomes: list[Outcome], model: nn.Module, network: Network, rounds: int) -> None:
    """Add outcomes of other roundings, up to ``rounds`` of them."""
    if len(outcomes) < rounds:
        start = len(outcomes)
        outcomes += redrawn(model, rounds, lambda: run(model, network), start)


def redrawn(
    model: nn.Module, rounds: int, call: Callable[[], _Made], start: int = 0
) -> Iterator[_Made]:
    """Yield ``call()`` with the first weight moved by one rounding, other ones each time.

    Round 0 has the weight as it is.
    """
    weight = next((p for p in model.parameters() if p.dim() >= 2), None)
    for turn in range(start, rounds):
        if turn == 0 or weight is None:
            yield call()
            continue
        kept = weight.detach().clone()
        perturb(weight, turn)
        try:
            made = call()
        finally:
            with torch.no_grad():
                weight.copy_(kept)
        yield made


def _in_double(exact: Network, truth: Outcome, result: Result) -> None:
    """Judge the converted network in float64, where chaos begins 2²⁹ times later.

    The distance allowed is torch's in float32, scaled by the ratio of the roundings and 100. A
    chaotic network's is as large as can be and says nothing: there it is 100 × that by which
    torch's float64 moves if a weight does by one rounding.
    """
    ours = run(gammabeta.convert(copy.deepcopy(exact.model), report=lambda _: None), exact)
    moved: Outcome | None = None
    for check in CHECKS:
        found, true = getattr(ours, check), getattr(truth, check)
        if found.keys() != true.keys():
            result.failures.append(f"float64: {check} of other tensors")
            continue
        far = distance(found, true)
        theirs = result.figures.get(f"kernels {check}", (0.0, 0.0))[0]
        result.figures[f"float64 {check}"] = (0.0, far)
        if far <= 100 * 2.0**-29 * max(theirs, 2.0**-22):
            continue
        moved = moved or next(redrawn(exact.model, 2, lambda: run(exact.model, exact), 1))
        if result.status != "chaotic" or far > 100 * distance(getattr(moved, check), true):
            result.failures.append(f"float64: {check} {far:.1e}")


def _states(original: nn.Module, model: nn.Module, result: Result) -> None:
    """Compare the state dicts, and load each into the other."""
    theirs, ours = original.state_dict(), model.state_dict()
    if list(theirs) != list(ours):
        odd = sorted(theirs.keys() ^ ours.keys())[:3]
        result.failures.append(f"state_dict: other keys or another order: {', '.join(odd)}")
        return
    for into, state in ((copy.deepcopy(model), theirs), (copy.deepcopy(original), ours)):
        with torch.no_grad():
            for tensor in into.state_dict().values():
                tensor.zero_()
        into.load_state_dict(state)
        off = [name for name, tensor in into.state_dict().items() if not same(tensor, state[name])]
        if off:
            result.failures.append(f"state_dict: not loaded: {', '.join(off[:3])}")


def _reverted(original: nn.Module, model: nn.Module, network: Network, result: Result) -> None:
    """Revert, and compare classes, state and results bit by bit."""
    back = gammabeta.revert(copy.deepcopy(model), report=lambda _: None)
    theirs, ours = dict(original.named_modules()), dict(back.named_modules())
    wrong = [k for k in theirs if k not in ours or type(ours[k]) is not type(theirs[k])]
    if wrong or theirs.keys() != ours.keys():
        result.failures.append(f"reverted: other classes: {', '.join(wrong[:3])}")
        return
    first, second = run(original, network), run(back, network)
    again = run(original, network)
    for check in CHECKS:
        a, b, c = (getattr(each, check) for each in (first, second, again))
        if not all(same(a[key], c[key]) for key in a):
            continue  # torch's own bits differ from run to run
        if a.keys() != b.keys() or not all(same(a[key], b[key]) for key in a):
            result.failures.append(f"reverted: other bits: {check}")


def _folded(network: Network, truth: Outcome, theirs: list[Outcome], result: Result) -> None:
    """Fold for evaluation, and compare with float64."""
    fold: Callable[..., nn.Module] | None = getattr(gammabeta, "fold", None)
    if fold is None:
        return
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    reports: list[Any] = []
    try:
        model = fold(network.model.eval(), report=reports.append).eval()
    except ValueError as e:
        if not str(e).startswith("no norm of model="):
            result.failures.append(f"folded: ValueError: {str(e)[:120]}")
            return
        result.folded = 0
        result.note = f"not folded: {str(e).partition(': ')[2][:200]}"
        return
    except Exception as e:  # whatever else is raised is a finding
        result.failures.append(f"folded: {type(e).__name__}: {' '.join(str(e).split())[:120]}")
        return
    after = network.model.state_dict()
    if any(not same(after[name], tensor) for name, tensor in before.items()):
        result.failures.append("folded: the original changed")
    result.folded = len(reports[0].folded) if reports and hasattr(reports[0], "folded") else 0
    for rounds in (1, _FEW, _MANY):
        _extend(theirs, network.model, network, rounds)
        near = [distance(each.evaluation, truth.evaluation) for each in theirs[:rounds]]
        far = [
            distance(evaluated, truth.evaluation)
            for evaluated in redrawn(model, rounds, lambda: evaluate(model, network))
        ]
        result.figures["folded evaluation"] = (statistics.median(near), statistics.median(far))
        if as_near(far, near):
            return
    said = f"folded: evaluation {statistics.median(far):.1e}, torch {statistics.median(near):.1e}"
    result.failures.append(said)
