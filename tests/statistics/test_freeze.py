"""`gammabeta.freeze` and `unfreeze`."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import gammabeta as gb
from gammabeta.statistics.freeze import is_frozen

NORMS = [nn.BatchNorm1d, gb.BatchNorm1d, nn.SyncBatchNorm]


class Subclass(nn.BatchNorm1d):
    pass


def net(norm=nn.BatchNorm1d):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), norm(4), nn.ReLU(), nn.Linear(4, 2))
    model[1].running_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return model


def x(seed=0):
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))


def state(model):
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [(id(p), p.requires_grad) for p in model.parameters()],
        [m.training for m in model.modules()],
        [sorted(m.__dict__) for m in model.modules()],
    )


def same(a, b):
    return (
        a[1:] == b[1:]
        and a[0].keys() == b[0].keys()
        and all(torch.equal(a[0][k], b[0][k]) for k in a[0])
    )


def train(model, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        model(x(step)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("norm", [*NORMS, Subclass])
def test_training_moves_nothing_of_a_frozen_layer(norm):
    model = gb.freeze(net(norm))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert model.train() is model
    assert model[1].train(True) is model[1]
    train(model)
    after = model.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert [m.training for m in model] == [True, False, True, True]
    y = model[1](torch.zeros(2, 4))
    torch.testing.assert_close(y[0], -torch.tensor([1.0, 2.0, 3.0, 4.0]) / (1 + 1e-5) ** 0.5)


def test_freezing_statistics_only():
    model = gb.freeze(net(), affine=False)
    mean, weight = model[1].running_mean.clone(), model[1].weight.clone()
    train(model.train())
    assert torch.equal(model[1].running_mean, mean)
    assert not torch.equal(model[1].weight, weight)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_unfreezing_at_once_is_as_if_nothing_had_been(training, norm):
    model = net(norm).train(training)
    model[1].weight.requires_grad_(False)
    before = state(model)
    assert gb.unfreeze(gb.freeze(model)) is model
    assert same(state(model), before)
    assert not model[1].weight.requires_grad
    assert model[1].bias.requires_grad


@pytest.mark.parametrize("last", [True, False])
def test_an_unfrozen_layer_is_in_the_mode_last_asked_for(last):
    model = gb.freeze(net().train(not last))
    model.train(last)
    assert not model[1].training
    gb.unfreeze(model)
    assert model[1].training is last


def test_freezing_twice_is_freezing_once():
    model = net()
    before = state(model)
    gb.freeze(gb.freeze(model, affine=False))
    assert not model[1].weight.requires_grad
    gb.freeze(model)
    gb.unfreeze(model)
    assert same(state(model), before)


def test_layers_that_share_a_parameter():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    gb.unfreeze(gb.freeze(model))
    assert all(p.requires_grad for p in model.parameters())
    gb.freeze(model[0])
    gb.freeze(model)
    gb.unfreeze(model)
    assert all(p.requires_grad for p in model.parameters())


def test_a_gradient_left_over_moves_nothing():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(x()).sum().backward()
    gb.freeze(model)
    weight = model[1].weight.clone()
    optimizer.step()
    assert torch.equal(model[1].weight, weight)


def copies():
    def saved(model):
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    return [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved]


@pytest.mark.parametrize("how", copies())
def test_a_copy_is_frozen_and_on_its_own(how):
    model = gb.freeze(net())
    twin = how(model).train()
    assert is_frozen(twin[1])
    assert not twin[1].training
    assert twin[1].train() is twin[1]
    gb.unfreeze(twin)
    assert twin[1].training
    assert twin[1].weight.requires_grad
    assert is_frozen(model[1])
    assert not model[1].weight.requires_grad


def test_state_dicts_are_as_before():
    frozen, plain = gb.freeze(net()), net()
    assert frozen.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(frozen.state_dict())
    frozen.load_state_dict(plain.state_dict())
    assert is_frozen(frozen[1])
    assert repr(frozen) == repr(plain)


def test_a_batch_norm_by_itself():
    norm = gb.freeze(nn.BatchNorm1d(3))
    assert norm.train() is norm
    assert not norm.training
    assert gb.unfreeze(norm).training


def test_a_part_can_be_unfrozen():
    model = gb.freeze(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)).train())
    gb.unfreeze(model[0])
    assert [m.training for m in model.train()] == [True, False]


def test_a_mode_that_is_none():
    with pytest.raises(ValueError, match="boolean"):
        gb.freeze(nn.BatchNorm1d(3)).train("yes")


def test_other_layers_are_not_touched():
    model = nn.Sequential(
        nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True), nn.LayerNorm(3)
    )
    with pytest.warns(UserWarning, match=r"left unchanged: '1' \(InstanceNorm1d\)$") as said:
        gb.freeze(model.train())
    assert said[0].filename == __file__
    assert [m.training for m in model] == [False, True, True]
    assert model[2].weight.requires_grad
    with pytest.raises(ValueError, match=r"no batch norm.*: '1' \(InstanceNorm1d\)$"):
        gb.freeze(nn.Sequential(nn.ReLU(), model[1]))


def test_a_norm_written_by_hand_is_named():
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(3))
            self.register_buffer("running_var", torch.ones(3))

    model = nn.Sequential(ByHand(), nn.BatchNorm1d(3), gb.FrozenBatchNorm1d(3))
    with pytest.warns(UserWarning, match=r"left unchanged: '0' \(ByHand\)$"):
        gb.freeze(model)


def test_freezing_again_mends_a_mode_that_was_set_by_hand():
    model = gb.freeze(nn.Sequential(nn.BatchNorm1d(3)).train())
    model[0].training = True
    assert not gb.freeze(model)[0].training
    assert gb.unfreeze(model)[0].training


def test_nothing_to_freeze():
    with pytest.raises(ValueError, match="model=Sequential has no batch norm"):
        gb.freeze(nn.Sequential(nn.Linear(3, 3)))


def test_a_layer_without_statistics_is_named_and_none_is_frozen():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    before = state(model)
    with pytest.raises(ValueError, match=r"layer '1' has no running statistics"):
        gb.freeze(model)
    assert same(state(model), before)


def test_compiled():
    model = gb.freeze(net())
    compiled = torch.compile(model, backend="eager").train()
    torch.testing.assert_close(compiled(x()), model(x()), rtol=0, atol=0)
    assert not model[1].training
