"""A batch norm of a class from scratch updates its statistics itself, and a person is told."""

import pytest
import torch
from torch import nn

import gammabeta as gb


class ByHand(nn.Module):
    """A batch norm from scratch, which averages in a way of its own."""

    def __init__(self, size):
        super().__init__()
        self.g, self.b = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x):
        if self.training:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(var, 0.1)
        else:
            mean, var = self.running_mean, self.running_var
        return (x - mean) / torch.sqrt(var + 1e-5) * self.g + self.b


WORDS = "^1: left alone: no subclass of torch's batch norms, so only its own code"


def test_calibrate_and_adapt_say_that_they_leave_it_alone():
    model = nn.Sequential(nn.BatchNorm1d(4), ByHand(4))
    batches = [torch.randn(8, 4) for _ in range(3)]
    with pytest.warns(UserWarning, match=WORDS):
        report = gb.calibrate(model, batches)
    assert report.kept == ("1",)
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    with pytest.warns(UserWarning, match=WORDS), gb.adapt(model.eval()):
        model(batches[0])


def test_alone_in_a_model_it_is_named_in_the_error():
    with pytest.raises(ValueError, match="no subclass of torch's batch norms"):
        gb.calibrate(ByHand(4), [torch.randn(8, 4)])


class FrozenByHand(ByHand):
    """One that updates nothing."""

    def forward(self, x):
        scale = self.g * (self.running_var + 1e-5).rsqrt()
        return x * scale + (self.b - self.running_mean * scale)


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm1d(4, track_running_stats=True), FrozenByHand(4), gb.FrozenBatchNorm1d(4)],
)
def test_what_normalizes_by_no_batch_is_nothing_to_warn_of(norm, recwarn):
    gb.calibrate(nn.Sequential(nn.BatchNorm1d(4), norm), [torch.randn(8, 4, 4)])
    assert not recwarn.list
