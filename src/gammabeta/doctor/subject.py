"""What is examined: a model, and what is known of it without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from gammabeta.conversion.graph.flow import Flow
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.renamed import renamed
from gammabeta.layers.running import Running, running
from gammabeta.layers.traits import Traits, lineage, traits


@dataclass(frozen=True, eq=False)
class Norm:
    """A module that normalizes, or is called a norm.

    Attributes:
        path: its (first) name in the model.
        module: the module.
        traits: what it is, see `gammabeta.layers.traits.traits`.
        running: its running statistics, or None.
    """

    path: str
    module: Any
    traits: Traits
    running: Running | None

    @property
    def family(self) -> str:
        """``"batch"``, ``"layer"``, ``"group"``, … or ``""``; see `Traits.family`."""
        return self.traits.family

    @property
    def is_batch(self) -> bool:
        """Whether it is a batch norm or a variant of it, which normalizes by the mini-batch."""
        return "batch" in lineage(self.module) or self.family in ("batch", "batch-renorm", "ghost")


@dataclass
class Subject:
    """What is examined.

    Attributes:
        model: the model; it is only read.
        optimizer: its optimizer, or None.
        loss: the loss function, or None.
        exported: the `torch.export.ExportedProgram` that was given, or None.
        notes: what could not be examined, and why; rules may add to it.
        evidence: the forward passes on batches, for static rules too; None without batches.
        findings: what the rules before this one found; rules run in the order of their codes.
        refusing: the norm that refused the first batch because it takes each statistic over one
            value; then there is no evidence. None if there is none.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    loss: Callable[..., Any] | None = None
    exported: Any = None
    notes: list[str] = field(default_factory=list)
    evidence: Any = None
    findings: list[Finding] = field(default_factory=list)
    refusing: Norm | None = None

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Path → module, each module once; the model itself is ``""``."""
        return dict(self.model.named_modules())

    @cached_property
    def paths(self) -> dict[nn.Module, str]:
        """Module → its (first) path."""
        return {module: path for path, module in self.modules.items()}

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        """All modules that normalize, or are called norms, in order."""
        found = []
        for path, module in self.modules.items():
            what = traits(module)
            its = running(module) or renamed(module)
            keeps = its is not None and (
                its.of in ("compiled", "timestep") or renamed(module) is not None
            )
            if what.normalizes or what.stranger or what.lineage or keeps:
                found.append(Norm(path, module, what, its))
        return tuple(found)

    @cached_property
    def batch_norms(self) -> tuple[Norm, ...]:
        """The norms of the batch norm family; frozen ones (`FrozenBatchNorm2d`) are not."""
        return tuple(norm for norm in self.norms if norm.is_batch)

    @cached_property
    def flow(self) -> Flow | None:
        """What comes before and after each layer, as far as it can be traced; None if nothing."""
        try:
            return Flow(self.model)
        except Exception as error:
            self.notes.append(f"the model could not be traced: {type(error).__name__}: {error}")
            return None

    def calls(self, module: nn.Module) -> list[fx.Node]:
        """Return the traced calls of ``module``; their ``args`` and ``users`` say what is around.

        Example:
            >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            >>> subject = Subject(model)
            >>> call, = subject.calls(model[1])
            >>> subject.module_of(call.args[0]) is model[0]
            True
        """
        return [] if self.flow is None else [site.node for site in self.flow.sites.get(module, [])]

    def module_of(self, node: object) -> nn.Module | None:
        """Return the module that ``node`` calls; None if it calls none."""
        if not isinstance(node, fx.Node) or node.op != "call_module" or self.flow is None:
            return None
        for module, sites in self.flow.sites.items():
            if any(site.node is node for site in sites):
                return module
        return None

    @cached_property
    def graphs(self) -> list[tuple[str, Any]]:
        """Path → graph of the parts that are exported, traced or scripted."""
        found: list[tuple[str, Any]] = []
        if self.exported is not None:
            found.append(("", self.exported.graph))
        for path, module in self.modules.items():
            if isinstance(module, fx.GraphModule):
                found.append((path, module.graph))
            elif isinstance(module, torch.jit.ScriptModule) and not any(
                is_within(path, other) for other, _ in found
            ):
                graph = getattr(module, "inlined_graph", None)
                if graph is not None:
                    found.append((path, graph))
        return found

    def is_moving(self, norm: Norm) -> bool:
        """Whether a forward pass of the model, in its present mode, updates ``norm``'s statistics.

        `gammabeta.freeze` and ``eval()`` stop it, and ``track_running_stats=False``.
        """
        its, module = norm.running, norm.module
        if its is None or its.of not in ("batch", "compiled") or its.mean is None:
            return False
        return bool(module.training) and getattr(module, "track_running_stats", True) is not False

    def is_explained(self, layer: str, codes: Iterable[str]) -> bool:
        """Whether a rule of ``codes`` has found a fault above information at ``layer``."""
        known = tuple(codes)
        return any(
            found.code in known and found.severity != "info" and layer in found.layers
            for found in self.findings
        )

    def each_parameter(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield path and parameter, each parameter once."""
        yield from self.model.named_parameters()


def is_within(path: str, outer: str) -> bool:
    """Whether the module at ``path`` is the one at ``outer`` or a part of it.

    Example:
        >>> is_within("layer1.0", "layer1"), is_within("layer10", "layer1"), is_within("head", "")
        (True, False, True)
    """
    return not outer or path == outer or path.startswith(f"{outer}.")
