"""What a module is: by its class where torch or gammabeta wrote its forward, else by a probe."""

from __future__ import annotations

import copy
import functools
import re
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.layers import findings
from gammabeta.layers.standardized import standardized
from gammabeta.layers.traits import axes, has_own_forward, running, traits


class NormAct(nn.BatchNorm2d):
    """Norm and activation in one, as vision libraries have it; the activation may be none."""

    def __init__(self, c: int, act: nn.Module | None = None) -> None:
        super().__init__(c)
        self.drop, self.act = nn.Identity(), act or nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class ByHand(nn.BatchNorm2d):
    """The same in functions, without a call of the class it derives from."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1
        )
        return nn.functional.silu(y)


class LastBatch(nn.BatchNorm1d):
    """Of (N, L, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class LayerNorm2d(nn.LayerNorm):
    """Of (N, C, H, W), over C."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class InFloat(nn.LayerNorm):
    """In float32, whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.layer_norm(
            x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
        )
        return y.type_as(x)


class GroupAct(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


class Doubled(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OnlyInEval(nn.BatchNorm2d):
    """Batch norm in evaluation, something else in training."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if not self.training else super().forward(x) + 1


class Raises(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not in here")


class WithMask(nn.BatchNorm1d):
    """Needs a second argument."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x) * mask


class SlopeOff(nn.BatchNorm2d):
    """The right values, another gradient."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.detach() + 0.5 * (y - y.detach())


@pytest.mark.parametrize(
    ("norm", "dim", "activation"),
    [
        (NormAct(4), 1, "relu"),
        (NormAct(4, nn.Identity()), 1, None),
        (NormAct(4, nn.GELU()), 1, "gelu"),
        (ByHand(4), 1, "silu"),
        (LastBatch(4), -1, None),
        (LastBatch(3), -1, None),
        (LayerNorm2d(6), 1, None),
        (LayerNorm2d(2), 1, None),
        (InFloat(8), -1, None),
        (GroupAct(2, 4), 1, "sigmoid"),
        (gb.BatchNorm2d(4, activation="tanh"), 1, "tanh"),
        (nn.LayerNorm((3, 4)), -1, None),
        (nn.SyncBatchNorm(4), 1, None),
    ],
)
def test_what_is_known(norm: nn.Module, dim: int, activation: str | None) -> None:
    what = traits(norm)
    assert (what.normalizes, what.dim, what.activation, what.stranger) == (
        True,
        dim,
        activation,
        "",
    )


@pytest.mark.parametrize(
    ("norm", "base"),
    [
        (Doubled(4), "LayerNorm"),
        (OnlyInEval(4), "BatchNorm2d"),
        (Raises(2, 4), "GroupNorm"),
        (WithMask(4), "BatchNorm1d"),
        (SlopeOff(4), "BatchNorm2d"),
        (NormAct(4, nn.Softplus()), "BatchNorm2d"),
    ],
)
def test_strangers_are_called_by_name(norm: nn.Module, base: str) -> None:
    what = traits(norm)
    assert not what.normalizes
    assert what.stranger == (
        f"{type(norm).__name__} has a forward of its own, and does not compute the same as {base}"
    )
    with pytest.raises(TypeError, match=f"norm is a {type(norm).__name__}"):
        standardized(norm, torch.ones(2, 4, 3, 3))


def test_other_modules_are_no_strangers() -> None:
    assert traits(nn.Linear(2, 2)) == traits(nn.Sequential(NormAct(4)))
    assert not traits(nn.ReLU()).stranger


def test_whose_forward_it_is() -> None:
    class Renamed(gb.BatchNorm2d):
        pass

    replaced = nn.BatchNorm2d(4)
    replaced.forward = lambda x: x
    assert not has_own_forward(Renamed(4))
    assert has_own_forward(replaced)
    assert has_own_forward(NormAct(4))
    assert not traits(replaced).normalizes


@pytest.mark.parametrize("make", [lambda: NormAct(4), lambda: Doubled(4)])
def test_nothing_of_the_module_changes(make) -> None:
    norm = make()
    norm.running_mean = torch.randn(4) if hasattr(norm, "running_mean") else None
    called = []
    norm.register_forward_hook(lambda *_: called.append(1))
    norm.eval()
    before, rng = copy.deepcopy(norm.__dict__), torch.get_rng_state()
    findings._KNOWN.clear()
    traits(norm)
    assert not called
    assert torch.equal(torch.get_rng_state(), rng)
    assert norm.training is False
    for key in ("_parameters", "_buffers"):
        assert str(norm.__dict__[key]) == str(before[key])


def test_a_probe_runs_once_for_a_class_and_its_settings(monkeypatch) -> None:
    probed = []
    probe = findings.probe
    monkeypatch.setattr(findings, "probe", lambda m: probed.append(m) or probe(m))
    findings._KNOWN.clear()
    for norm in (NormAct(4), NormAct(4), NormAct(4).eval()):
        assert traits(norm).activation == "relu"
    assert len(probed) == 1
    assert traits(NormAct(8)).activation == "relu"
    assert traits(NormAct(4, nn.Tanh())).activation == "tanh"
    assert len(probed) == 3


class Masked(nn.LayerNorm):
    """What it does with a mask is not known."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x if mask is None else x * mask)


class WithResidual(gb.BatchNorm2d):
    """A residual is gammabeta's own."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return super().forward(x, residual)


def test_what_takes_more_than_its_input_is_a_stranger() -> None:
    assert traits(Masked(4)).stranger.endswith("has more arguments than its input (mask)")
    assert traits(WithResidual(4)).normalizes


def patched(kind: str) -> nn.BatchNorm2d:
    """A norm whose forward was replaced by one that refers to this very norm."""
    norm = nn.BatchNorm2d(4)
    old = norm.forward
    norm.forward = {
        "bound": lambda: lambda x: old(x).relu(),
        "itself": lambda: lambda x: nn.BatchNorm2d.forward(norm, x).relu(),
        "partial": lambda: functools.partial(nn.BatchNorm2d.forward, norm),
        "method": lambda: types.MethodType(lambda self, x: type(self).forward(self, x), norm),
    }[kind]()
    return norm


@pytest.mark.parametrize(
    ("kind", "known"), [("bound", False), ("itself", False), ("partial", True), ("method", True)]
)
def test_a_forward_that_would_run_the_module_itself_is_not_run(kind: str, known: bool) -> None:
    norm = patched(kind)
    what = traits(norm)
    assert what.normalizes is known
    assert ("a copy would share" in what.stranger) is not known
    assert norm.num_batches_tracked == 0
    assert not norm.running_mean.any()


def test_families_twins_and_running_statistics() -> None:
    ghost, frozen = gb.GhostBatchNorm1d(4), gb.FrozenBatchNorm1d(4)
    assert (traits(ghost).family, traits(ghost).lineage) == ("ghost", ("ghost", "batch"))
    assert traits(gb.LayerNorm(4)).twin is nn.LayerNorm
    assert traits(nn.LayerNorm(4)).twin is gb.LayerNorm
    assert traits(InFloat(4)).twin is None
    assert [traits(m).exact for m in (nn.GroupNorm(2, 4), GroupAct(2, 4))] == [True, False]
    assert [running(m).of for m in (ghost, frozen, nn.SyncBatchNorm(4))] == [
        *("batch", "fixed", "batch")
    ]
    recurrent = gb.RecurrentBatchNormLSTM(2, 3, max_length=4)
    assert running(recurrent) is None
    assert {its.of for m in recurrent.children() if (its := running(m))} == {"timestep"}
    assert running(nn.InstanceNorm1d(4)) is None
    assert running(nn.InstanceNorm1d(4, track_running_stats=True)).of == "instance"
    untracked = running(nn.BatchNorm1d(4, track_running_stats=False))
    assert (untracked.of, untracked.there) == ("batch", False)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2d(4), (3, 4, 5, 2)),
        (nn.InstanceNorm2d(4), (3, 4, 5, 2)),
        (nn.InstanceNorm1d(4), (4, 5)),
        (nn.GroupNorm(1, 4), (3, 4, 5)),
        (nn.LayerNorm((4, 5)), (3, 4, 5)),
        (LayerNorm2d(4), (3, 4, 5, 2)),
        (LastBatch(4), (3, 5, 4)),
    ],
)
def test_over_its_axes_the_mean_of_x_hat_is_zero(norm: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) + torch.arange(shape[-1])
    assert standardized(norm, x).mean(axes(norm, x)).abs().max() < 1e-5


def test_what_no_table_lists_may_not_appear_elsewhere() -> None:
    """Who is which norm is asked of the traits: no list of classes outside of the layers."""
    source = Path(gb.__file__).parent
    asks = re.compile(r"(isinstance|issubclass)\(.*Norm\b|_(Batch|Instance)Norm\b|\bNORMS\b")
    found = [
        f"{path.relative_to(source)}: {line.strip()}"
        for folder in ("statistics", "conversion", "signal")
        for path in (source / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if asks.search(line)
    ]
    # Re-exported for the laboratory.
    assert [line for line in found if not line.startswith("conversion/families.py")] == []


def test_x_hat_of_channels_that_come_last() -> None:
    x = torch.randn(5, 3, 4) * 2 + torch.arange(4)
    x_hat = standardized(LastBatch(4), x)
    assert x_hat.mean((0, 1)).abs().max() < 1e-6
    x = torch.randn(2, 6, 3, 3)
    assert standardized(LayerNorm2d(6), x).mean(1).abs().max() < 1e-6
