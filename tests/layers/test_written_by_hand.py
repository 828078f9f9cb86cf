"""Norms that derive from none of torch's: recognized by what they compute, else strangers."""

from __future__ import annotations

import copy
import logging
import random

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.layers import findings
from gammabeta.layers.code import code_of
from gammabeta.layers.standardized import standardized
from gammabeta.layers.traits import affine, traits


class Scaled(nn.Module):
    """A module with γ, and whatever else is said."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps


class RMSNorm(Scaled):
    """As in Llama: in float32, whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class FromZero(Scaled):
    """γ = 1 + weight, as in Gemma."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


class Annotated(nn.Module):
    """As in The Annotated Transformer: n − 1, and ε beside σ."""

    def __init__(self, size: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2


class Shifted(Scaled):
    """A layer norm with weight and bias over dim 1, as in SAM, and perhaps an activation."""

    def __init__(self, size: int, act: nn.Module | None = None) -> None:
        super().__init__(size, 1e-5)
        self.bias, self.act = nn.Parameter(torch.zeros(size)), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + self.eps)
        shape = (-1, *(1,) * (x.dim() - 2))
        return self.act(self.weight.view(shape) * x + self.bias.view(shape))


class FixedNorm(nn.Module):
    """Without γ and β."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


class ScaleNorm(nn.Module):
    """One scale for all features of x / ‖x‖."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.g


class Frozen(nn.Module):
    """As in DETR: everything is a buffer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(size))
        self.register_buffer("bias", torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


class BatchNorm(Frozen):
    """Batch norm in training."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(var, 0.1)
        scale = self.weight * (var + 1e-5).rsqrt()
        return x * scale.view(1, -1, 1, 1) + (self.bias - mean * scale).view(1, -1, 1, 1)


RECOGNIZED = {
    "rms": (lambda: RMSNorm(8), (5, 3, 8), "rms", -1, None),
    "rms, wide": (lambda: RMSNorm(2048, 1e-5), (2, 2048), "rms", -1, None),
    "1 + weight": (lambda: FromZero(8), (5, 3, 8), "rms", -1, None),
    "annotated": (lambda: Annotated(4), (5, 3, 4), "layer", -1, None),
    "channels first": (lambda: Shifted(6), (2, 6, 5, 4), "layer", 1, None),
    "and activation": (lambda: Shifted(6, nn.GELU()), (2, 6, 5, 4), "layer", 1, "gelu"),
    "fixed": (FixedNorm, (4, 7), "rms", -1, None),
    "one scale": (ScaleNorm, (4, 7), "rms", -1, None),
    "frozen": (lambda: Frozen(6), (2, 6, 5, 4), "frozen", 1, None),
    "batch": (lambda: BatchNorm(6), (8, 6, 5, 4), "batch", 1, None),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RECOGNIZED)
def test_what_is_recognized_and_its_stages(name: str, training: bool) -> None:
    make, shape, family, dim, activation = RECOGNIZED[name]
    generator = torch.Generator().manual_seed(0)
    norm = make().train(training)
    with torch.no_grad():
        for tensor in (*norm.parameters(), *norm.buffers()):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    what = traits(norm)
    assert (what.normalizes, what.family, what.dim) == (True, family, dim)
    assert (what.activation, what.stranger) == (activation, "")
    assert (what.exact, what.twin, what.lineage) == (False, None, ())
    for scale in (1.0, 1e-3):  # the second shows whether ε is right
        x = scale * torch.randn(shape, generator=generator)
        y = standardized(norm, x)
        for parameter, combine in zip(affine(norm), (torch.mul, torch.add), strict=True):
            if parameter is not None:
                ones = [1] * (x.dim() - 1 - dim % x.dim())
                y = combine(y, parameter.reshape(-1, *ones))
        y = F.gelu(y) if activation else y
        # Float32 of order 1, in another order of operations.
        torch.testing.assert_close(copy.deepcopy(norm)(x), y, rtol=2e-5, atol=2e-5)


def test_transformers_norms() -> None:
    pytest.importorskip("transformers")
    logging.disable(logging.WARNING)
    try:
        from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
        from transformers.models.llama.modeling_llama import LlamaRMSNorm
        from transformers.models.t5.modeling_t5 import T5LayerNorm
        from transformers.models.vitdet.modeling_vitdet import VitDetLayerNorm
    finally:
        logging.disable(logging.NOTSET)
    rms = [traits(norm) for norm in (LlamaRMSNorm(16), T5LayerNorm(16), GemmaRMSNorm(16))]
    assert [(what.family, what.dim) for what in rms] == [("rms", -1)] * 3
    assert [what.finding.formula.offset for what in rms] == [0, 0, 1]
    what = traits(VitDetLayerNorm(16))
    assert (what.family, what.dim) == ("layer", 1)


class Doubled(Scaled):
    """Wrong by a factor."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class GatedNorm(RMSNorm):
    """What comes in is not what is normalized, if there is a gate."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(x if gate is None else x * gate)


class PrintingNorm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        print("called")
        return super().forward(x)


COUNTED: list[int] = []


def counted() -> None:
    COUNTED.append(1)


class CountingNorm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        counted()
        return super().forward(x)


class SyncNorm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        torch.distributed.all_reduce(x.sum())
        return super().forward(x)


class RaisingNorm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not in here")


class UncopiedNorm(RMSNorm):
    def __deepcopy__(self, memo: object) -> object:
        raise RuntimeError("only one")


class Norm(nn.Module):
    """Without a forward."""


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: type("DoubledNorm", (Doubled,), {})(4), "does not match a known formula"),
        (lambda: GatedNorm(4), r"has more arguments than its input \(gate\)"),
        (lambda: PrintingNorm(4), r"has side effects \(print\)"),
        (lambda: CountingNorm(4), r"has side effects \(append\)"),
        (lambda: RMSNorm(2**18), "is too large for a trial run"),
        (lambda: RMSNorm(4).to("meta"), "has tensors without values"),
        (lambda: RaisingNorm(4), "does not match a known formula"),
        (lambda: UncopiedNorm(4), "does not match a known formula"),
        (Norm, "does not match a known formula"),
    ],
)
def test_strangers_are_named_with_the_reason(make, why: str, capsys) -> None:
    COUNTED.clear()
    norm = make()
    what = traits(norm)
    assert not what.normalizes
    with pytest.raises(TypeError, match=f"{type(norm).__name__} is no subclass of .*, and {why}$"):
        standardized(norm, torch.ones(2, 4))
    assert not COUNTED
    assert not capsys.readouterr().out


def test_no_other_process_is_waited_for() -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        assert traits(SyncNorm(4)).stranger
        SyncNorm(4)(torch.ones(2, 4))  # alone it would have worked
    finally:
        torch.distributed.destroy_process_group()


class LayerScale(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        COUNTED.append(1)
        return x * self.weight


class Block(nn.Module):
    """A part does the work."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_other_modules_are_not_called_and_no_strangers() -> None:
    COUNTED.clear()
    for module in (LayerScale(4), Block(), nn.PReLU(4), Doubled(4)):
        assert traits(module) == traits(nn.ReLU())
    assert not COUNTED


def test_nothing_of_the_process_changes(monkeypatch) -> None:
    norm = Shifted(4, nn.SiLU())
    calls: list[str] = []
    norm.register_forward_hook(lambda *_: calls.append("its own"))
    norm.eval().weight.requires_grad_(False)
    before = copy.deepcopy(norm.state_dict())
    everywhere = nn.modules.module.register_module_forward_hook(
        lambda module, *_: calls.append("all") if isinstance(module, Shifted) else None
    )
    torch.manual_seed(5)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: calls.append("other devices"))
    states = torch.get_rng_state(), numpy.random.get_state()[1].copy(), random.getstate()
    try:
        findings._KNOWN.clear()
        findings._ONE_BY_ONE.clear()
        assert traits(norm).activation == "silu"
    finally:
        everywhere.remove()
    assert not calls
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == numpy.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    assert not norm.training
    assert not norm.weight.requires_grad
    assert norm.bias.requires_grad
    assert norm.weight.grad is None
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("where", ["autocast", "default device", "inference", "fake", "no grad"])
def test_it_is_recognized_wherever_it_is_asked(where: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    norm = RMSNorm(4, 1e-4)
    findings._KNOWN.clear()
    context = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "default device": lambda: torch.device("meta"),
        "inference": torch.inference_mode,
        "fake": FakeTensorMode,
        "no grad": torch.no_grad,
    }[where]
    with context():
        assert traits(norm).family == "rms"


def test_a_probe_runs_once(monkeypatch) -> None:
    probed = []
    probe = findings.probe
    monkeypatch.setattr(findings, "probe", lambda m: probed.append(m) or probe(m))
    findings._KNOWN.clear()
    for _ in range(3):
        assert traits(RMSNorm(4)).normalizes
    held = RMSNorm(4)
    held.config = object()  # settings that cannot be compared
    for _ in range(3):
        assert traits(held).normalizes
    assert len(probed) == 2
    held.forward = lambda x: x
    assert not traits(held).normalizes
    assert len(probed) == 3


weight = torch.ones(4)  # of a notebook, say: no business of a layer that has an attribute so named
doubles = False


def test_the_attributes_of_a_module_are_no_names_of_its_file() -> None:
    assert not code_of(RMSNorm(4)).shares

    class Reads(RMSNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * weight

    assert code_of(Reads(4)).shares


def test_a_switch_that_is_read_within_a_lambda_is_seen() -> None:
    class Reads(RMSNorm):
        def forward(self, x: Tensor) -> Tensor:
            return (lambda y: y * (2 if doubles else 1))(super().forward(x))

    assert ("doubles", __name__) in code_of(Reads(4)).switches
