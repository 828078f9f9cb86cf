"""Find the batch norms of a model that can be folded, and what becomes of each layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gammabeta.conversion.folding.reasons import (
    dims_of,
    inputs_of,
    is_host,
    outputs_of,
    reason_host,
    reason_kind,
    reason_norm,
)
from gammabeta.conversion.folding.report import Folded
from gammabeta.conversion.folding.rest import ResidualActivation
from gammabeta.conversion.folding.values import (
    Affine,
    Weights,
    affine_of,
    fold_after,
    fold_before,
    reason_not_after,
    rounded,
    weights_of,
)
from gammabeta.conversion.graph.flow import Flow, Site
from gammabeta.conversion.graph.nodes import BlockedError, flattens_batch, has_residual
from gammabeta.conversion.graph.norms import activation_of, channels_of, is_norm, probed
from gammabeta.conversion.report import Left, label
from gammabeta.conversion.swap import places
from gammabeta.layers.masked import MaskedBatchNorm1d
from gammabeta.ops.activations import module_of


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        norms: a norm that is folded → the module left in its place.
        hosts: a layer that takes norms in → its weights then.
        affines: a norm that takes norms in → what it then computes.
        others: names of norms of other kinds, which nobody expects to be folded.
        mendable: norms that are left for a reason that a person can do something about.
        folded, left: for the report.
    """

    norms: dict[nn.Module, nn.Module] = field(default_factory=dict)
    hosts: dict[nn.Module, Weights] = field(default_factory=dict)
    affines: dict[nn.Module, Affine] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    mendable: set[nn.Module] = field(default_factory=set)
    folded: list[Folded] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def plan_folds(model: nn.Module, example: Any = None) -> Plan:
    """Plan all folds of ``model``; nothing is changed.

    Args:
        model: a model in evaluation.
        example: arguments that the result will be proved with, or None.
    """
    flow, plan = Flow(model, example), Plan()
    reasons: dict[nn.Module, str] = {}
    norms = [module for module in flow.names if is_norm(module)]
    progress = True
    while progress:  # a norm that is folded may bring another next to a convolution
        progress = False
        for norm in norms:
            if norm in plan.norms:
                continue
            reason = _try(flow, plan, norm)
            progress = progress or not reason
            reasons[norm] = reason
    for names, module in places(model):
        kind = reason_kind(module)
        reason = reasons.get(module) or kind
        if reason and module not in plan.norms:
            plan.left.append(Left(names, label(type(module)), reason))
            plan.others |= {names[0]} if kind else set()
    return plan


def _try(flow: Flow, plan: Plan, norm: nn.Module) -> str:
    """Fold ``norm`` if that is possible; else return why not."""
    plan.mendable.discard(norm)
    try:
        reason = reason_norm(norm)
        if reason:
            raise BlockedError(reason, True)
        sites = flow.check(norm)
        try:
            _into_before(flow, plan, norm, sites)
        except BlockedError as before:
            try:
                _into_after(flow, plan, norm, sites)
            except BlockedError as after:
                both = dict.fromkeys((str(before), str(after)))
                mendable = before.mendable or after.mendable
                raise BlockedError("; ".join(both), mendable) from None
    except BlockedError as error:
        if error.mendable:
            plan.mendable.add(norm)
        return str(error)
    if type(plan.norms[norm]) is nn.Identity:
        flow.passed.add(norm)
    return ""


def _into_before(flow: Flow, plan: Plan, norm: Any, sites: list[Site]) -> None:
    """Fold ``norm`` into the layer before it."""
    other = isinstance(norm, MaskedBatchNorm1d) or probed(norm) is not None
    if other and any(has_residual(site.node) for site in sites):
        raise BlockedError("it is called with more than its input")
    residual = any(has_residual(site.node) for site in sites)
    found = [flow.before(site) for site in sites]
    several = flow.concatenated(found[0]) if len(found) == 1 else None
    if several is not None:
        _into_several(flow, plan, norm, several, residual)
        return
    flattened = [flattens_batch(site.node) for site in found]
    if all(flattened):  # (N, L, C) of a linear layer as (N · L, C)
        found = [flow.before(site) for site in found]
    host = _same(flow, found, "its input comes from")
    if not is_host(host) or (any(flattened) and not isinstance(host, nn.Linear)):
        raise BlockedError(f"its input comes from {flow.describe(found[0].part, found[0].node)}")
    _check_host(flow, host, found)
    _check_fit(flow, host, norm, outputs_of(host))
    weights = fold_before(host, plan.hosts.get(host) or weights_of(host), _affine(plan, norm))
    _store(flow, plan, norm, {host: weights}, "before", residual)


def _into_several(flow: Flow, plan: Plan, norm: Any, found: list[Site], residual: bool) -> None:
    """Fold ``norm`` into the layers before it whose outputs are joined, each its channels."""
    hosts: list[Any] = []
    for site in found:
        host = flow.called(site) if site.node.op == "call_module" else None
        if host is None or not is_host(host):
            told = flow.describe(site.part, site.node)
            raise BlockedError(f"its input comes from cat, and that's from {told}")
        _check_host(flow, host, [site])
        _check_fit(flow, host, norm, channels_of(norm))
        hosts.append(host)
    counts = [outputs_of(host) for host in hosts]
    if sum(counts) != channels_of(norm):
        raise BlockedError(f"its input has {sum(counts)} channels, it has {channels_of(norm)}")
    affine = _affine(plan, norm)
    scales, shifts = (torch.split(one, counts) for one in (affine.scale, affine.shift))
    made = {
        host: fold_before(host, plan.hosts.get(host) or weights_of(host), Affine(scale, shift))
        for host, scale, shift in zip(hosts, scales, shifts, strict=True)
    }
    _store(flow, plan, norm, made, "before", residual)


def _into_after(flow: Flow, plan: Plan, norm: Any, sites: list[Site]) -> None:
    """Fold ``norm`` into the layer after it."""
    if activation_of(norm) is not None:
        raise BlockedError(f"its activation {activation_of(norm)!r} comes after it")
    if any(has_residual(site.node) for site in sites):
        raise BlockedError("its residual comes after it")
    found = [flow.after(site) for site in sites]
    host = _same(flow, found, "its output goes to")
    into_norm = is_norm(host) and probed(host) is None and not reason_norm(host)
    if not is_host(host) and not into_norm:
        raise BlockedError(f"its output goes to {flow.describe(found[0].part, found[0].node)}")
    _check_host(flow, host, found)
    for site, its in zip(sites, found, strict=True):
        if flow.before(its).node is not site.node:
            raise BlockedError(f"{flow.name(host)!r} gets its output in a way of its own")
        flow.check_between(site, its)
    affine = _affine(plan, norm)
    if into_norm:
        if channels_of(norm) != channels_of(host):
            raise BlockedError(f"{flow.name(host)!r} has another number of channels")
        plan.affines[host] = affine.then(_affine(plan, host))
        _note(flow, plan, norm, [host], "after")
        return
    _check_fit(flow, host, norm, inputs_of(host))
    reason = reason_not_after(host, affine)
    if reason:
        raise BlockedError(f"{flow.name(host)!r} after it {reason}")
    weights = fold_after(host, plan.hosts.get(host) or weights_of(host), affine)
    _store(flow, plan, norm, {host: weights}, "after")


def _affine(plan: Plan, norm: nn.Module) -> Affine:
    return plan.affines.get(norm) or affine_of(norm)


def _same(flow: Flow, found: list[Site], saying: str) -> Any:
    """The one module that all of ``found`` are calls of."""
    modules: set[nn.Module] = set()
    for site in found:
        if site.node.op != "call_module":
            raise BlockedError(f"{saying} {flow.describe(site.part, site.node)}")
        modules.add(flow.called(site))
    if len(modules) > 1:
        names = sorted(repr(flow.name(module)) for module in modules)
        raise BlockedError(f"it is called {len(found)} times, and {saying} {', '.join(names[:3])}")
    return modules.pop()


def _check_host(flow: Flow, host: nn.Module, found: list[Site]) -> None:
    """Raise unless ``host`` can take a norm in and is called nowhere but in ``found``."""
    name = repr(flow.name(host))
    reason = reason_host(host) if is_host(host) else ""
    if reason:
        raise BlockedError(f"{name}: {reason}", True)
    try:
        calls = flow.check(host)
    except BlockedError as error:
        raise BlockedError(f"{name}: {error}", error.mendable) from None
    if {site.node for site in calls} != {site.node for site in found}:
        raise BlockedError(f"{name} is called {len(calls)} times, not only with this norm")


def _check_fit(flow: Flow, host: nn.Module, norm: Any, channels: int) -> None:
    name = repr(flow.name(host))
    if channels != channels_of(norm):
        raise BlockedError(f"{name} has {channels} channels there, the norm {channels_of(norm)}")
    dims = dims_of(norm)
    if dims is not None and dims != (dims_of(host) or 1):
        raise BlockedError(f"{name} is a {type(host).__name__}, the norm a {type(norm).__name__}")


def _store(
    flow: Flow, plan: Plan, norm: Any, made: dict[Any, Weights], where: str, residual: bool = False
) -> None:
    """Note the new weights of each layer, unless its type has no room for them."""
    for host, weights in made.items():
        there = rounded(weights.weight, host.weight.dtype)
        bias = None if weights.bias is None else rounded(weights.bias, host.weight.dtype)
        if there is None or (bias is None and weights.bias is not None):
            raise BlockedError(
                f"the weights of {flow.name(host)!r} would not fit into {host.weight.dtype}"
            )
    plan.hosts |= made
    _note(flow, plan, norm, list(made), where, residual)


def _note(
    flow: Flow, plan: Plan, norm: Any, hosts: list[Any], where: str, residual: bool = False
) -> None:
    """Note that ``norm`` is part of ``hosts``, and what is left in its place."""
    activation = activation_of(norm)
    left: nn.Module = ResidualActivation(activation)
    if not residual:
        left = nn.Identity() if activation is None else module_of(activation)
    plan.norms[norm] = left
    new_bias = any(is_host(h) and h.bias is None and plan.hosts[h].bias is not None for h in hosts)
    plan.folded.append(
        Folded(
            tuple(flow.names[norm]),
            label(type(norm)),
            ", ".join(map(flow.name, hosts)),
            ", ".join(dict.fromkeys(label(type(host)) for host in hosts)),
            where,
            label(type(left)),
            new_bias,
        )
    )
