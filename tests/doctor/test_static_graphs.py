"""Exported, traced and quantized graphs: GB401, GB402, GB403."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from tests.doctor.static_models import (
    BATCHES,
    Functional,
    net,
    of,
    severities,
    torchs_own_warnings,
)

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
        (*scripted,) = severities("GB402", torch.jit.script(model))
        assert scripted == (["info"] if training else [])  # eval() mends it


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


@torchs_own_warnings
def test_exported_graphs_that_are_quantized_are_told_apart() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    for stage, severity in (("FakeQuantize", "info"), ("MinMaxObserver", "error")):
        graph = exported(True).module()
        graph.activation_post_process_0 = getattr(quantization, stage)()
        (found,) = gb.examine(graph, select=["GB4"]).findings
        assert (found.code, found.severity, found.layer) == ("GB403", severity, "1")
        assert "move_exported_model_to_eval" in found.fix


def test_a_part_in_training_mode_of_a_prepared_model_in_evaluation() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    model = nn.Sequential(quantization.FakeQuantize(), net())
    assert severities("GB403", model) == ["info"]
    model.eval()
    assert not of("GB403", model)
    model[1].train()
    assert severities("GB403", model) == ["warning"]
