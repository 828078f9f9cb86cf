"""Rules on how norms are held, made, wrapped and exported: each fires, and each stays silent."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

import gammabeta as gb
from gammabeta.doctor import Finding, Report

torchs_own_warnings = pytest.mark.filterwarnings("ignore")


def of(code: str, model: Any, **kwargs: Any) -> list[Finding]:
    """Return the findings of one rule, which must not have failed."""
    report: Report = gb.examine(model, select=[code], **kwargs)
    assert not report.notes
    return report.findings


def severities(code: str, model: Any, **kwargs: Any) -> list[str]:
    return [each.severity for each in of(code, model, **kwargs)]


class Held(nn.Module):
    """A linear layer and a norm that is held in some way."""

    def __init__(self, norm: Any, features: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features, bias=False)
        self.held = norm

    def forward(self, x: Tensor) -> Tensor:
        held = self.held
        if isinstance(held, dict):
            held = held["a"]
        if isinstance(held, (list, tuple, nn.ModuleList)):
            held = held[0]
        y: Tensor = held(self.linear(x))
        return y


BATCHES = [torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) for _ in range(2)]


# GB108


class Plain:
    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm

    def __call__(self, x: Tensor) -> Any:
        return self.norm(x)


@pytest.mark.parametrize(
    "hold",
    [
        lambda norm: [norm],
        lambda norm: (norm,),
        lambda norm: {"a": norm},
        lambda norm: {"a": [norm]},
        lambda norm: [nn.Sequential(nn.ReLU(), norm)],
        lambda norm: lambda x: norm(x),
        lambda norm: lambda x, norm=norm: norm(x),
        lambda norm: functools.partial(norm),
        lambda norm: norm.forward,
        lambda norm: Plain(norm),
    ],
)
def test_norms_that_are_not_submodules_are_found(hold: Any) -> None:
    (found,) = of("GB108", Held(hold(nn.BatchNorm1d(8))))
    assert (found.severity, found.layer) == ("error", "")


def test_unregistered_norms_are_found_as_class_attribute_global_and_assigned_past_torch() -> None:
    class Shared(Held):
        norm = nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x)  # type: ignore[no-any-return]

    class Global(Held):
        def forward(self, x: Tensor) -> Tensor:
            return _GLOBAL(x)  # type: ignore[no-any-return]

    hidden = Held(None)
    object.__setattr__(hidden, "held", nn.BatchNorm1d(8))
    assert severities("GB108", Shared(nn.Identity())) == ["error"]
    assert severities("GB108", Global(nn.Identity())) == ["error"]
    assert severities("GB108", nn.Sequential(hidden)) == ["error"]


_GLOBAL = nn.BatchNorm1d(8)


def test_batches_find_unregistered_norms_that_no_attribute_leads_to() -> None:
    cache: dict[str, nn.Module] = {}

    class Cached(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return made(x.shape[1])(x)

    def made(features: int) -> nn.Module:
        key = f"norm{features}"
        if key not in globals()["_CACHE"]:
            cache[key] = _CACHE[key] = nn.BatchNorm1d(features)
        return _CACHE[key]

    model = nn.Sequential(nn.Linear(8, 8), Cached())
    model(BATCHES[0])
    found = of("GB108", model, batches=BATCHES)
    assert [each.severity for each in found] == ["error"]
    assert found[0].layer == "1"
    assert not of("GB109", model, batches=BATCHES)


_CACHE: dict[str, nn.Module] = {}


def test_registering_mends_the_model() -> None:
    model = Held([nn.BatchNorm1d(8)]).eval()
    assert model.held[0].training
    report = gb.examine(model, select=["GB108"])
    repair = report.findings[0].repair
    assert repair is not None
    repair(model)
    assert "held.0.running_mean" in model.state_dict()
    assert not model.held[0].training
    assert not of("GB108", model)


def test_an_examination_leaves_hidden_norms_as_they_were() -> None:
    model = Held([nn.BatchNorm1d(8)])
    gb.examine(model, BATCHES)
    assert int(model.held[0].num_batches_tracked) == 0


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(8),
        nn.ModuleList([nn.BatchNorm1d(8)]),
        [nn.LayerNorm(8, elementwise_affine=False)],
        [nn.ReLU()],
    ],
)
def test_registered_norms_and_norms_without_state_are_fine(norm: Any) -> None:
    assert not of("GB108", Held(norm))
    assert not of("GB108", Held(norm), batches=BATCHES)


def test_globals_that_only_the_construction_mentions_are_fine() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held, self._GLOBAL = nn.Linear(8, _GLOBAL.num_features), nn.Identity()

        def forward(self, x: Tensor) -> Any:
            return self._GLOBAL(self.held(x))

    assert not of("GB108", Wrapper())


def test_teachers_parents_and_leftovers_are_fine() -> None:
    teacher = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval().requires_grad_(False)
    assert not of("GB108", Held([teacher]))
    child = Held(nn.BatchNorm1d(8))
    parent = nn.Sequential(child, nn.BatchNorm1d(8))
    child.parent = [parent]
    assert not of("GB108", parent)
    assert not of("GB108", child)
    leftover = Held(nn.BatchNorm1d(8))
    leftover.before_conversion = [nn.BatchNorm1d(8)]
    assert severities("GB108", leftover) == ["info"]
    assert not of("GB108", leftover, batches=BATCHES)


# GB109


class Anew(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return self.normalized(x)

    def normalized(self, x: Tensor) -> Any:
        return nn.Sequential(nn.BatchNorm1d(x.shape[1]), nn.ReLU())(x)


class AnewInstance(nn.Module):
    def forward(self, x: Tensor) -> Any:
        norm = nn.InstanceNorm1d(4)
        return norm(nn.LayerNorm(x.shape[-1:], elementwise_affine=False)(x))


class AnewLayer(nn.Module):
    def forward(self, x: Tensor) -> Any:
        self.norm = nn.LayerNorm(x.shape[-1])
        return self.norm(x)


class Lazily(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm: nn.Module | None = None

    def forward(self, x: Tensor) -> Any:
        if self.norm is None:
            norm = nn.BatchNorm1d(x.shape[1])
            self.norm = norm
        if isinstance(self.norm, nn.BatchNorm1d) and self.norm.eps > 1:
            raise ValueError("eps")
        return self.norm(x)


class Off(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.makes = False

    def forward(self, x: Tensor) -> Any:
        if self.makes and x.dim() > 1:
            return nn.BatchNorm1d(8)(x)
        return x


class FromFactory(nn.Module):
    """Its forward names things differently, and makes norms by a class it was given."""

    def __init__(me, once: bool, norm_layer: Any = nn.BatchNorm1d) -> None:
        super().__init__()
        me.norm_layer, me.once = norm_layer, once
        me.norm = norm_layer(8) if once else None

    def forward(me, x: Tensor) -> Any:
        norm = me.norm if me.once else me.norm_layer(x.shape[1])
        return norm(x)


def factory(features: int) -> nn.Module:
    return nn.BatchNorm1d(features)


class Built(nn.Module):
    """Makes its norm by a method and a function, once."""

    def __init__(self) -> None:
        super().__init__()
        self.built = False

    def build(self, features: int) -> None:
        self.norm = factory(features)
        self.built = True

    def forward(self, x: Tensor) -> Any:
        if not self.built:
            self.build(x.shape[1])
        return self.norm(x)


def test_conditions_that_the_model_decides_are_followed() -> None:
    assert severities("GB109", FromFactory(False)) == ["error"]
    assert not of("GB109", FromFactory(True))
    assert not of("GB109", Built())


def test_norms_made_in_forward_are_found_in_source_and_on_batches() -> None:
    for kwargs in ({}, {"batches": BATCHES}):
        (found,) = of("GB109", nn.Sequential(nn.Linear(8, 8), Anew()), **kwargs)
        assert (found.severity, found.layer) == ("error", "1")
        assert severities("GB109", AnewLayer(), **kwargs) == ["warning"]
    hidden: dict[str, Any] = {"nn": nn}
    exec("def forward(self, x): return nn.BatchNorm1d(8)(x)", hidden)  # without source
    sourceless = type("Sourceless", (nn.Module,), {"forward": hidden["forward"]})()
    assert severities("GB109", sourceless, batches=BATCHES) == ["error"]
    assert severities("GB109", sourceless, batches=BATCHES[:1]) == ["error"]
    assert not of("GB108", sourceless, batches=BATCHES)


@pytest.mark.parametrize("model", [AnewInstance(), Lazily(), Off()])
def test_norms_made_once_or_without_state_are_fine(model: nn.Module) -> None:
    assert not of("GB109", model)
    assert not of("GB109", model, batches=[torch.randn(4, 4, 8).mean(1) for _ in range(2)])
    assert not of("GB108", model, batches=[torch.randn(4, 4, 8).mean(1) for _ in range(2)])


# GB110


class Functional(nn.Module):
    """Holds statistics; subclasses call the function."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.plain_mean, self.plain_var = torch.zeros(8), torch.ones(8)
        self.weight = nn.Parameter(torch.ones(8))
        self.conv_weight = nn.Parameter(torch.randn(8, 8))


class AlwaysTraining(Functional):
    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.conv_weight)
        return F.batch_norm(y, self.mean, self.var, training=True)


class Positional(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return torch.batch_norm(x, None, None, self.mean, self.var, True, 0.1, 1e-5, False)


class OnTheSpot(Functional):
    def forward(self, x: Tensor) -> Tensor:
        zeros, mode = torch.zeros, self.training
        return F.batch_norm(x, zeros(8), torch.ones(8), self.weight, None, mode)


class NoBuffers(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.plain_mean, self.plain_var, training=self.training)


class ByMode(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.training)


class Branched(Functional):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.mean, self.var, training=False)
        return F.batch_norm(x, self.mean, self.var, training=True)


class Standardized(Functional):
    """Weight standardization, as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(self.conv_weight.reshape(1, 8, -1), None, None, training=True)
        again = F.batch_norm(self.weight.view(2, 4), None, None, training=True)
        return F.linear(x, weight.reshape_as(self.conv_weight)) + again.sum()


class Adaptive(Functional):
    """Adaptive instance normalization, as MUNIT writes it."""

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape
        rows = x.contiguous().view(1, n * c // 4, 4)
        return F.batch_norm(rows, None, None, None, None, True).view(n, c)


@pytest.mark.parametrize("cls", [AlwaysTraining, Positional, NoBuffers])
def test_functional_norms_by_the_batch_are_found_in_source(cls: type[nn.Module]) -> None:
    (found,) = of("GB110", nn.Sequential(nn.Linear(8, 8), cls()).eval())
    assert (found.severity, found.layer) == ("error", "1")


@pytest.mark.parametrize("cls", [AlwaysTraining, Positional, NoBuffers, OnTheSpot])
def test_functional_norms_by_the_batch_are_found_on_batches(cls: type[nn.Module]) -> None:
    (found,) = of("GB110", nn.Sequential(nn.Linear(8, 8), cls()), batches=BATCHES)
    assert (found.severity, found.layer) == ("error", "1")


@pytest.mark.parametrize("cls", [ByMode, Branched, Standardized, Adaptive])
def test_functional_norms_that_follow_the_mode_or_the_example_are_fine(cls: Any) -> None:
    assert not of("GB110", nn.Sequential(nn.Linear(8, 8), cls()))
    assert not of("GB110", nn.Sequential(nn.Linear(8, 8), cls()), batches=BATCHES)


# GB111, GB112, GB113


@contextmanager
def processes(number: int) -> Iterator[None]:
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=number)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def net(norm: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8, bias=False), norm or nn.BatchNorm1d(8))


def synced(process_group: Any = None) -> nn.Module:
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(net(), process_group)
    return converted


@torchs_own_warnings
def test_sync_batch_norms_that_do_not_synchronize_are_found() -> None:
    assert severities("GB111", nn.DataParallel(synced())) == ["warning"]
    assert severities("GB111", nn.Sequential(synced(), net())) == ["warning"]
    with processes(1):
        wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(DistributedDataParallel(net()))
    assert severities("GB111", wrapped) == ["warning"]
    with processes(2):
        assert severities("GB111", synced(distributed.new_group([0]))) == ["warning"]
        assert severities("GB111", synced()) == ["error"]
        assert not of("GB111", synced().eval())


@torchs_own_warnings
def test_sync_batch_norms_in_one_process_are_fine() -> None:
    assert not of("GB111", synced())
    assert not of("GB111", nn.Sequential(synced(), gb.freeze(net())))
    assert not of("GB111", nn.DataParallel(net()))
    with processes(1):
        assert "error" not in severities("GB111", synced())


@torchs_own_warnings
def test_ddp_that_lets_norms_differ_is_found() -> None:
    with processes(2):
        off = DistributedDataParallel(net(), broadcast_buffers=False)
        frozen = net()
        frozen[1].requires_grad_(False)
        unfrozen = DistributedDataParallel(frozen)
        frozen[1].requires_grad_(True)
        swapped = DistributedDataParallel(net())
        swapped.module[1] = nn.GroupNorm(2, 8)
        partly = nn.Sequential(DistributedDataParallel(net()), nn.LayerNorm(8))
        small = DistributedDataParallel(net())
    (found,) = of("GB112", off)
    assert (found.severity, found.layer) == ("warning", "module.1")
    assert severities("GB112", unfrozen) == ["error"]
    assert "error" in severities("GB112", swapped)
    (found,) = of("GB112", partly)
    assert (found.severity, found.layer) == ("warning", "1")
    assert small.broadcast_buffers


@torchs_own_warnings
def test_ddp_as_it_should_be_is_fine() -> None:
    with processes(2):
        models = [
            DistributedDataParallel(net()),
            DistributedDataParallel(net().eval(), broadcast_buffers=False),
            DistributedDataParallel(net(nn.GroupNorm(2, 8)), broadcast_buffers=False),
            DistributedDataParallel(gb.freeze(net()), broadcast_buffers=False),
        ]
    for model in models:
        assert not of("GB112", model)


@torchs_own_warnings
def test_fsdp_is_told_of_low_precision_and_of_local_statistics() -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    device = torch.device("cpu")
    low = fsdp.MixedPrecision(buffer_dtype=torch.bfloat16)
    with processes(1):
        wrapped = fsdp.FullyShardedDataParallel(net(), mixed_precision=low, device_id=device)
        assert severities("GB113", wrapped) == ["warning"]
        wrapped = fsdp.FullyShardedDataParallel(net(), device_id=device)
        assert not of("GB113", wrapped)
        wrapped = fsdp.FullyShardedDataParallel(net(nn.LayerNorm(8)), device_id=device)
        assert not of("GB113", wrapped)
    with processes(2):
        wrapped = fsdp.FullyShardedDataParallel(net(), device_id=device)
        assert severities("GB113", wrapped) == ["warning"]


# GB114


class GradSampleModule(nn.Sequential):
    """Called as in Opacus."""


def test_gradients_of_single_examples_through_batch_norm_are_found() -> None:
    (found,) = of("GB114", GradSampleModule(net()))
    assert (found.severity, found.layer) == ("error", "0.1")
    model = net()
    model[0].weight.grad_sample = torch.zeros(3, 8, 8)
    assert severities("GB114", model) == ["error"]

    class DPOptimizer(torch.optim.SGD):
        pass

    model = net()
    assert severities("GB114", model, optimizer=DPOptimizer(model.parameters())) == ["error"]

    def loss(output: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(torch.sum))(output).sum()

    assert severities("GB114", net(), loss=loss) == ["error"]


def test_gradients_of_single_examples_through_other_norms_are_fine() -> None:
    for model in (
        net(nn.LayerNorm(8)),
        net(nn.GroupNorm(2, 8)),
        net().eval(),
        gb.freeze(net()),
    ):
        assert not of("GB114", GradSampleModule(model).train(model.training))
    model = net()
    assert not of("GB114", model, loss=nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters()))


# GB115, GB116


def test_decay_of_norms_is_information() -> None:
    model = net()
    adam = torch.optim.AdamW(model.parameters())
    (found,) = of("GB115", model, optimizer=adam)
    assert (found.severity, found.layers) == ("info", ("1",))
    assert not of("GB115", model, optimizer=torch.optim.Adam(model.parameters()))
    assert not of("GB115", model, optimizer=torch.optim.AdamW(model[0].parameters()))
    assert not of("GB115", model)


def biased(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(3, 8, 1), nn.Identity(), norm, nn.ReLU(), nn.Conv1d(8, 3, 1))


def test_a_bias_before_a_training_batch_norm_is_information() -> None:
    (found,) = of("GB116", biased(nn.BatchNorm1d(8)))
    assert (found.severity, found.layers) == ("info", ("0",))


@pytest.mark.parametrize(
    "model",
    [
        biased(nn.LayerNorm(8)),
        biased(nn.GroupNorm(2, 8)),
        biased(nn.InstanceNorm1d(8)),
        gb.freeze(biased(nn.BatchNorm1d(8))),
        biased(nn.BatchNorm1d(8)).eval(),
        nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.BatchNorm1d(8)),
        nn.Sequential(nn.Conv1d(3, 8, 1, bias=False), nn.BatchNorm1d(8)),
    ],
)
def test_a_bias_that_has_an_effect_is_fine(model: nn.Module) -> None:
    assert not of("GB116", model)


def test_a_bias_that_goes_elsewhere_too_is_fine() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return y + self.norm(y)

    assert not of("GB116", Residual())


# GB117


@pytest.mark.parametrize(
    ("model", "shape", "severity"),
    [
        (nn.LayerNorm(1), (4, 1), "error"),
        (nn.LayerNorm(2), (4, 2), "warning"),
        (nn.RMSNorm(1), (4, 1), "error"),
        (nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(8, 8)), (4, 8), "error"),
        (nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(4, 8)), (4, 8), "warning"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(8, 8)), (4, 8, 3, 3), "error"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.LayerNorm([1, 1])), (4, 8, 3, 3), "error"),
    ],
)
def test_statistics_over_one_value_are_found(
    model: nn.Module, shape: tuple[int, ...], severity: str
) -> None:
    assert severities("GB117", model) == [severity]
    assert severities("GB117", model, batches=[torch.randn(shape)]) == [severity]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.LayerNorm(8), (4, 8)),
        (nn.RMSNorm(2), (4, 2)),
        (nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(1, 8)), (4, 8)),
        (nn.GroupNorm(8, 8), (1, 8, 3, 3)),
        (nn.InstanceNorm2d(8), (1, 8, 3, 3)),
        (nn.InstanceNorm1d(8), (8, 5)),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.GroupNorm(8, 8)), (4, 8, 3, 3)),
        (nn.BatchNorm1d(1), (4, 1)),
    ],
)
def test_statistics_over_several_values_are_fine(model: nn.Module, shape: tuple[int, ...]) -> None:
    assert not of("GB117", model)
    assert not of("GB117", model, batches=[torch.randn(shape)])


# GB401, GB402, GB403


def exported(training: bool) -> Any:
    return torch.export.export(net().train(training), (BATCHES[0],))


@torchs_own_warnings
def test_exported_graphs_in_training_mode_are_found() -> None:
    program = exported(True)
    batches = {"batches": BATCHES}
    for model, kwargs in (
        (program, {}),
        (program, batches),
        (program.module(), {}),
        (program.module(), batches),
        (program.run_decompositions(), {}),
        (nn.Sequential(program.module()), {}),
    ):
        (found,) = of("GB401", model, **kwargs)
        assert found.severity == "error"
        assert found.layer == ("0.1" if isinstance(model, nn.Sequential) else "1")


@torchs_own_warnings
def test_exported_graphs_in_evaluation_and_for_training_are_fine() -> None:
    program = exported(False)
    for model in (program, program.module(), program.run_decompositions()):
        assert not of("GB401", model)
    trained = exported(True).module()
    optimizer = torch.optim.SGD(trained.parameters())
    assert severities("GB401", trained, optimizer=optimizer) == ["info"]
    instance = torch.export.export(nn.InstanceNorm1d(8), (torch.randn(2, 8, 5),))
    assert not of("GB401", instance.run_decompositions())


class ModeAsArgument(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, None, None, self.training)


@torchs_own_warnings
def test_traced_graphs_in_training_mode_are_found() -> None:
    for training in (True, False):
        model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(net())).train(training)
        traced = torch.jit.trace(model, BATCHES[0], check_trace=False).eval()
        layers = [found.layer for found in of("GB402", nn.Sequential(traced))]
        assert layers == (["0.1.0.1"] if training else [])
        by_fx = torch.fx.symbolic_trace(nn.Sequential(ModeAsArgument()).train(training))
        assert [f.layer for f in of("GB402", by_fx)] == (["0"] if training else [])
        assert not of("GB110", by_fx)
        assert not of("GB402", torch.fx.symbolic_trace(model))
        assert not of("GB402", torch.jit.script(model))


def test_quantized_and_calibrated_models_in_training_mode_are_found() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for training in (True, False):
            calibrated = net().train(training)
            calibrated.qconfig = quantization.get_default_qconfig("fbgemm")
            calibrated = quantization.prepare(calibrated)
            dynamic = quantization.quantize_dynamic(net(), {nn.Linear}).train(training)
            for model in (calibrated, dynamic):
                assert severities("GB403", model) == (["error"] if training else [])


def test_quantization_aware_training_is_information_until_ranges_are_fixed() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8)).train()
        model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        model = quantization.fuse_modules_qat(model, [["0", "1"]])
        model = quantization.prepare_qat(model)
        assert severities("GB403", model) == ["info"]
        model(torch.randn(4, 8, 3))
        optimizer = torch.optim.SGD(model.parameters())
        assert severities("GB403", model, optimizer=optimizer) == ["info"]
        assert severities("GB403", model) == ["warning"]
        model.apply(quantization.disable_observer)
        assert severities("GB403", model, optimizer=optimizer) == ["warning"]
        model.apply(torch.ao.nn.intrinsic.qat.freeze_bn_stats)
        assert not of("GB403", model)
