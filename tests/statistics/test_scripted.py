"""Models with parts that `torch.jit` has compiled: calibrated, restored, or refused by name."""

import io
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import gammabeta as gb
from gammabeta.statistics.preserve import preserved

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def plain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def loaded(compiled):
    file = io.BytesIO()
    torch.jit.save(compiled, file)
    file.seek(0)
    return torch.jit.load(file)


MAKERS = {
    "scripted": lambda: torch.jit.script(plain()),
    "traced": lambda: torch.jit.trace(plain().eval(), torch.ones(3, 4)),
    "loaded": lambda: loaded(torch.jit.script(plain())),
    "traced and loaded": lambda: loaded(torch.jit.trace(plain().eval(), torch.ones(3, 4))),
}


def batches(count=3):
    generator = torch.Generator().manual_seed(1)
    return [2 + torch.randn(8, 4, generator=generator) for _ in range(count)]


def everything(model):
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        [getattr(module, "training", None) for module in model.modules()],
        [len(module._forward_pre_hooks) for module in model.modules()],
        torch.get_rng_state(),
    )


def changed(before, after):
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])
    return {key for key in before[0] if not torch.equal(before[0][key], after[0][key])}


@pytest.mark.parametrize("others", ["eval", "train"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("maker", MAKERS)
def test_a_compiled_part_is_named_and_the_rest_calibrated(maker, training, others):
    model = nn.Sequential(MAKERS[maker](), nn.Linear(4, 4), nn.BatchNorm1d(4))
    for module in model.modules():
        module.training = training
    before = everything(model)
    report = gb.calibrate(model, batches(), others=others)
    assert report.kept == ("0.1",)
    assert changed(before, everything(model)) == {
        f"2.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


@pytest.mark.parametrize("maker", MAKERS)
def test_an_error_leaves_a_compiled_part_as_it_was(maker):
    def broken():
        yield batches(1)[0]
        torch.rand(1)
        raise OSError("midway")

    model = nn.Sequential(MAKERS[maker](), nn.BatchNorm1d(4)).train()
    before = everything(model)
    with pytest.raises(OSError, match="midway"):
        gb.calibrate(model, broken(), others="train")
    assert changed(before, everything(model)) == set()


def test_a_compiled_batch_norm_normalizes_by_its_statistics_while_others_are_measured():
    part = torch.jit.script(nn.Sequential(nn.BatchNorm1d(1)))
    model = nn.Sequential(part, nn.BatchNorm1d(1)).train()
    gb.calibrate(model, [torch.tensor([[5.0], [9.0]])], others="train")
    assert model[1].running_mean.item() == pytest.approx(7, rel=1e-4)


def test_a_model_that_is_compiled_as_a_whole_has_nothing_to_calibrate():
    model = torch.jit.script(plain())
    with pytest.raises(
        ValueError, match=r"no batch norm.*left alone: 1 \(compiled by torch.jit\)$"
    ):
        gb.calibrate(model, batches())


def test_a_part_without_a_mode():
    part = torch.jit.freeze(torch.jit.script(plain().eval()))
    model = nn.Sequential(part, nn.BatchNorm1d(4))
    assert set(gb.calibrate(model, batches()).layers) == {"1"}
    assert "training" not in part.__dict__


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.lengths = [0]
        self.register_buffer("total", torch.zeros(1))
        self.register_buffer("replaced", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.lengths.append(len(x))
        self.total.add_(1)
        self.replaced = self.replaced + 1
        return x


def test_what_a_script_writes_is_undone():
    model = nn.Sequential(torch.jit.script(Counting()))
    replaced = model[0].replaced
    with preserved(model):
        model(torch.ones(3))
        model.eval()
        assert (model[0].calls, model[0].lengths, model[0].replaced.item()) == (1, [0, 3], 1)
    assert (model[0].calls, model[0].lengths) == (0, [0])
    assert model[0].total.item() == 0
    assert model[0].replaced.data_ptr() == replaced.data_ptr()
    assert model[0].training


@pytest.mark.parametrize("maker", MAKERS)
def test_freeze_refuses_a_compiled_batch_norm_by_name(maker):
    model = nn.Sequential(nn.BatchNorm1d(4), MAKERS[maker]())
    with pytest.raises(ValueError, match=r"layer '1.1' is a BatchNorm1d compiled by torch.jit"):
        gb.freeze(model)
    assert "train" not in model[0].__dict__
    assert model[0].weight.requires_grad
    assert gb.unfreeze(model) is model


@pytest.mark.parametrize("norm", [nn.InstanceNorm1d, nn.LayerNorm])
def test_other_compiled_layers_do_not_keep_a_model_from_being_frozen(norm):
    arguments = {"track_running_stats": True} if norm is nn.InstanceNorm1d else {}
    model = nn.Sequential(torch.jit.script(norm(4, **arguments)), nn.BatchNorm1d(4))
    said = pytest.warns(UserWarning, match="'0'") if arguments else nullcontext()
    with said:
        assert gb.freeze(model) is model
