"""A frozen layer stays as it is, whoever resets batch norms to measure them anew."""

import copy
import importlib
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import gammabeta as gb

freeze_module = importlib.import_module("gammabeta.statistics.freeze")


class Subclass(nn.BatchNorm1d):
    def reset_parameters(self):
        self.running_mean.zero_()
        super().reset_parameters()


NORMS = [
    *(nn.BatchNorm1d, nn.SyncBatchNorm, gb.BatchNorm1d, Subclass),
    *(gb.GhostBatchNorm1d, gb.BatchRenorm1d, gb.MaskedBatchNorm1d),
]


def filled(module):
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(5)
    return module


def net(norm):
    return nn.Sequential(nn.Linear(4, 4), filled(norm(4)), nn.ReLU())


def recurrent(_=None):
    return gb.RecurrentBatchNormLSTM(4, 4, max_length=3)


def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 4, generator=generator) for _ in range(3)]


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def moved(before, module):
    return {
        key for key, value in module.state_dict().items() if not torch.equal(value, before[key])
    }


COPIES = {
    "itself": lambda model: model,
    "a copy": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "averaged": lambda model: AveragedModel(model).module,
    "averaged with buffers": lambda model: AveragedModel(model, use_buffers=True).module,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("norm", NORMS)
def test_update_bn_moves_nothing_of_a_frozen_layer(norm, how):
    model = COPIES[how](gb.freeze(net(norm)))
    before, momentum = state(model), model[1].momentum
    update_bn(batches(), model)
    assert moved(before, model) == set()
    assert model[1].momentum == momentum
    gb.unfreeze(model)
    update_bn(batches(), model)
    assert moved(before, model) == {
        f"1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_an_average_of_weights_goes_on_over_frozen_layers():
    model = gb.freeze(net(nn.BatchNorm1d))
    averaged = AveragedModel(model)
    for _ in range(2):
        with torch.no_grad():
            model[0].weight.add_(1)
        averaged.update_parameters(model)
    before = state(model[1])
    update_bn(batches(), averaged)
    assert moved(before, averaged.module[1]) == set()


@pytest.mark.parametrize("make", [*NORMS, recurrent])
@pytest.mark.parametrize("reset", ["reset_running_stats", "reset_parameters"])
def test_resets_have_no_effect_on_a_frozen_layer(make, reset):
    model = gb.freeze(filled(make(4)))
    before = state(model)
    for module in model.modules():
        if hasattr(module, reset) and (module is not model or make is not recurrent):
            getattr(module, reset)()
    model.reset_running_stats()
    assert moved(before, model) == set()
    gb.unfreeze(model)
    model.reset_running_stats()
    assert moved(before, model) != set()


@pytest.mark.parametrize("norm", NORMS)
def test_gamma_and_beta_that_are_not_frozen_can_be_reset(norm):
    layer = gb.freeze(filled(norm(4)), affine=False)
    before = state(layer)
    layer.reset_parameters()
    assert moved(before, layer) == {"weight", "bias"}
    assert layer.weight.tolist() == [1] * 4
    gb.freeze(layer)
    layer.weight.data.fill_(7)
    layer.reset_parameters()
    assert layer.weight.tolist() == [7] * 4


@pytest.mark.parametrize("make", [*NORMS, recurrent])
def test_unfreezing_leaves_nothing_behind(make):
    model = make(4)
    before = [sorted(module.__dict__) for module in model.modules()]
    gb.unfreeze(gb.freeze(model))
    assert [sorted(module.__dict__) for module in model.modules()] == before


def test_methods_that_a_person_put_on_the_layer_come_back():
    calls = []
    layer = nn.BatchNorm1d(4)
    own = {
        "train": lambda mode=True: calls.append(mode) or layer,
        "reset_running_stats": lambda: calls.append("stats"),
        "reset_parameters": lambda: calls.append("parameters"),
    }
    layer.__dict__.update(own)
    gb.freeze(layer, affine=False)
    layer.train()
    layer.reset_running_stats()
    assert calls == []
    layer.reset_parameters()
    assert calls == ["parameters"]
    gb.unfreeze(layer)
    assert {name: layer.__dict__[name] for name in own} == own


def test_a_layer_frozen_by_an_older_version_can_be_unfrozen():
    layer = gb.freeze(nn.BatchNorm1d(4))
    hold = layer.__dict__["train"]
    del hold.__dict__["own"], hold.__dict__["affine"]
    del layer.__dict__["reset_running_stats"], layer.__dict__["reset_parameters"]
    gb.unfreeze(pickle.loads(pickle.dumps(layer))).train()
    assert "train" not in gb.unfreeze(layer).__dict__


def test_nothing_is_half_frozen(monkeypatch):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4)).train()
    model(batches()[0]).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    keys = [sorted(module.__dict__) for module in model]
    freeze_layer, seen = freeze_module._freeze_layer, []

    def interrupted(layer, affine, undo):
        freeze_layer(layer, affine, undo)
        seen.append(layer)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(freeze_module, "_freeze_layer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gb.freeze(model)
    assert [sorted(module.__dict__) for module in model] == keys
    assert all(module.training for module in model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [parameter.grad is g for parameter, g in zip(model.parameters(), gradients, strict=True)]


def test_one_layer_that_cannot_be_unfrozen_keeps_no_other_from_being_unfrozen():
    class Stuck(nn.BatchNorm1d):
        def __setattr__(self, name, value):
            if name == "training" and value and "train" not in self.__dict__ and self.stuck:
                raise OSError("stuck")
            super().__setattr__(name, value)

        stuck = False

    model = gb.freeze(nn.Sequential(Stuck(4), nn.BatchNorm1d(4)).train())
    model[0].stuck = True
    with pytest.raises(OSError, match="stuck"):
        gb.unfreeze(model)
    assert model[1].training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_parameters_made_in_inference_mode():
    with torch.inference_mode():
        model = nn.Sequential(nn.BatchNorm1d(4))
    gb.unfreeze(gb.freeze(model))
    assert all(parameter.requires_grad for parameter in model.parameters())
