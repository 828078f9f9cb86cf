"""GB209–GB216: dropout, shared norms, last batches, small n, dead features, non-finite values."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gammabeta as gb
from gammabeta.doctor.evidence import PASSES, Evidence
from gammabeta.doctor.evidence.producers import Producers
from gammabeta.doctor.model.fresh import is_fresh
from gammabeta.doctor.subject import Subject


def found(code, model, batches, **given):
    report = gb.examine(model, batches, select=[code], progress=False, **given)
    assert not report.notes
    assert report.passes <= PASSES
    return report.findings


def normal(count, *shape):
    torch.manual_seed(0)
    return [torch.randn(*shape) for _ in range(count)]


def mlp(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), *between, nn.Linear(64, 32), nn.BatchNorm1d(32))


# GB209


class TestDropoutBeforeNorm:
    def test_untrained_is_information_with_the_ratio(self):
        (it,) = found("GB209", mlp(nn.ReLU(), nn.Dropout(0.5)), normal(3, 64, 8))
        assert (it.severity, it.layers) == ("info", ("4", "2"))
        assert it.numbers["variance with dropout / without"] > 1.3
        assert "model[2].p = 0.0" in it.fix

    @pytest.mark.parametrize(
        "between",
        [(nn.ReLU(), nn.Dropout(0.0)), (nn.ReLU(),)],
    )
    def test_silent(self, between):
        assert not found("GB209", mlp(*between), normal(3, 64, 8))

    def test_silent_behind_the_last_norm_and_for_layer_norm(self):
        model = mlp(nn.ReLU())
        behind = nn.Sequential(model, nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))
        assert not found("GB209", behind, normal(2, 64, 8))
        layer = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.LayerNorm(8))
        report = gb.examine(layer, normal(2, 64, 8), select=["GB209"])
        assert not report.findings

    def test_alpha_dropout_keeps_the_variance(self):
        model = nn.Sequential(nn.AlphaDropout(0.2), nn.Linear(16, 64), nn.BatchNorm1d(64))
        assert not found("GB209", model, normal(1, 2000, 16))

    def test_no_pass_without_dropout(self):
        evidence = Evidence(Subject(mlp(nn.ReLU())), normal(2, 16, 8))
        assert evidence.with_dropout is None
        assert evidence.spent == 2

    def test_learned_statistics_without_a_loss_are_a_warning(self):
        model = mlp(nn.ReLU(), nn.Dropout(0.5))
        model.train()
        with torch.no_grad():
            for x in normal(60, 64, 8):
                model(x)
        model.eval()
        (it,) = found("GB209", model, normal(3, 64, 8))
        assert it.severity == "warning"
        assert it.numbers["running variance is that with dropout"]
        assert "GB201" not in {f.code for f in gb.examine(model, normal(3, 64, 8)).findings}
        gb.calibrate(model, normal(8, 64, 8))
        (it,) = found("GB209", model, normal(3, 64, 8))
        assert it.severity == "info"

    def test_functional_dropout(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = mlp(nn.ReLU())

            def forward(self, x):
                return self.net(F.dropout(x, 0.5, self.training))

        (it,) = found("GB209", Net(), normal(2, 64, 8))
        assert it.layer == "net.3"


# GB210


class Twice(nn.Module):
    def __init__(self, scale, shift):
        super().__init__()
        self.norm, self.scale, self.shift = nn.BatchNorm1d(16), scale, shift

    def forward(self, x):
        return self.norm(x) + self.norm(x.flip(1) * self.scale + self.shift)


class TestSharedNorm:
    @pytest.mark.parametrize(("scale", "shift"), [(1, 2), (3, 0)])
    def test_two_distributions(self, scale, shift):
        (it,) = found("GB210", Twice(scale, shift), normal(4, 32, 16))
        assert (it.layer, it.severity, it.numbers["calls"]) == ("norm", "info", 2)
        assert "nn.BatchNorm1d(16)" in it.fix

    def test_damage_decides_but_not_for_a_discriminator(self):
        class Pair(nn.Module):
            def __init__(self, part):
                super().__init__()
                self.add_module(part, Twice(5, 3))
                self.part = part

            def forward(self, x):
                return self.get_submodule(self.part)(x)

        def loss(y):  # 1e-3 if each call is normalized by its own statistics
            return y.mean(0).square().mean() + 1e-3

        for part, severity in (("encoder", "error"), ("discriminator", "info")):
            (it,) = found("GB210", Pair(part), normal(4, 32, 16), loss=loss)
            assert it.severity == severity

    @pytest.mark.parametrize("count", [1, 2, 5])
    @pytest.mark.parametrize("size", [4, 16])
    def test_one_distribution_is_silent(self, count, size):
        torch.manual_seed(count)
        batches = [torch.randn(size, 1) * 2 + torch.randn(size, 16) for _ in range(count)]

        class Siamese(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm1d(8)

            def forward(self, x):
                return self.norm(x[:, :8]) - self.norm(x[:, 8:])

        assert not found("GB210", Siamese(), batches)

    def test_halves_with_labels_are_a_warning_and_without_information(self):
        model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 1), nn.Flatten(0))
        halves = [
            torch.cat([x + 2, y]) for x, y in zip(normal(4, 16, 8), normal(4, 16, 8), strict=True)
        ]
        labels = torch.cat([torch.ones(16), torch.zeros(16)])
        (it,) = found("GB210", model, [(x, labels) for x in halves])
        assert it.severity == "warning"
        assert it.numbers["each half has its own label"]
        (it,) = found("GB210", model, halves)
        assert it.severity == "info"

    def test_shuffled_halves_are_silent(self):
        model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 1))
        assert not found("GB210", model, normal(4, 32, 8))


# GB211


def loader(size, batch=8, shape=(8,), **given):
    return DataLoader(TensorDataset(torch.randn(size, *shape)), batch_size=batch, **given)


class TestLastBatchOfOne:
    def test_an_error_where_torch_refuses_it(self):
        (it,) = found("GB211", mlp(), loader(33))
        assert (it.severity, it.layer) == ("error", "2")
        assert "Expected more than 1 value" in it.cost
        assert "33 = 4 × 8 + 1" in it.fix

    @pytest.mark.parametrize(
        "batches", [loader(32), loader(34), loader(33, drop_last=True), loader(3, 1)]
    )
    def test_silent(self, batches):
        model = nn.Sequential(nn.Conv1d(8, 4, 1), nn.BatchNorm1d(4))
        model = nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Upsample(4), model)
        assert not found("GB211", model, batches)

    def test_information_with_many_values(self):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        (it,) = found("GB211", model, loader(17, shape=(1, 8, 8)))
        assert it.severity == "info"
        assert it.numbers["values per channel in the last batch"] == 36

    def test_lists(self):
        x = torch.randn(101, 8)
        assert found("GB211", mlp(), list(x.split(10)))[0].severity == "error"
        assert not found("GB211", mlp(), list(x[:100].split(10)))

    def test_silent_without_batch_norm_and_for_frozen_ones(self):
        assert not found("GB211", nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)), loader(33))
        assert not found("GB211", gb.freeze(mlp()), loader(33))


# GB212


class TestBiasedVariance:
    def test_few_values_are_information(self):
        (it,) = found("GB212", mlp(), normal(3, 4, 8))
        assert it.severity == "info"
        assert it.numbers["σ of evaluation / of training"] == pytest.approx(
            (4 / 3) ** 0.5, abs=1e-4
        )

    def test_silent_with_many(self):
        assert not found("GB212", mlp(), normal(3, 32, 8))

    def test_measured_on_a_data_set_of_one_batch(self):
        model, (x,) = mlp(), normal(1, 12, 8)
        with torch.no_grad():
            for _ in range(150):
                model(x)
        (it,) = found("GB212", model, [x])
        assert it.numbers["measured running variance / batch variance"] == pytest.approx(
            12 / 11, abs=1e-3
        )


# GB213


class TestDeadFeatures:
    def test_a_dead_layer_is_an_error_and_half_of_it_a_warning(self):
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        nn.init.constant_(model[0].bias, -50.0)
        (it,) = found("GB213", model, normal(2, 32, 8))
        assert (it.severity, it.layers) == ("error", ("0", "1"))
        assert it.fix.startswith("nn.init.zeros_(model[0].bias)")
        with torch.no_grad():
            model[0].bias[:12] = 0
        (it,) = found("GB213", model, normal(2, 32, 8))
        assert (it.severity, it.numbers["dead features"]) == ("warning", 20)

    def test_zero_gamma_is_meant(self):
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        nn.init.zeros_(model[1].weight)
        assert not found("GB213", model, normal(2, 4, 3, 8, 8))

    @pytest.mark.parametrize("seed", range(4))
    def test_chance_in_a_deep_untrained_network_is_silent(self, seed):
        torch.manual_seed(seed)
        layers = [m for _ in range(12) for m in (nn.Linear(24, 24), nn.ReLU())]
        assert not found("GB213", nn.Sequential(*layers), [torch.randn(4, 24) for _ in range(3)])

    def test_stale_statistics_are_not_dead_features(self):
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
        nn.init.constant_(model[1].running_mean, 100.0)
        assert not found("GB213", model, normal(2, 32, 8))

    @pytest.mark.parametrize(("bias", "number"), [(-30.0, 1), (0.0, 0)])
    def test_gelu(self, bias, number):
        model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
        nn.init.constant_(model[0].bias, bias)
        assert len(found("GB213", model, normal(2, 4, 5, 8))) == number

    def test_features_of_a_convolution_over_time(self):
        model = nn.Sequential(nn.Conv1d(4, 16, 3), nn.ReLU())
        nn.init.constant_(model[0].bias, -50.0)
        assert found("GB213", model, normal(2, 8, 4, 9))[0].numbers["features"] == 16


# GB214


class TestSaturatedFeatures:
    def test_large_inputs(self):
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
        (it,) = found("GB214", model, [1000 * x for x in normal(2, 32, 8)])
        assert (it.severity, it.layers) == ("warning", ("0", "1"))
        assert not found("GB214", model, normal(2, 32, 8))

    def test_the_last_activation_is_silent(self):
        model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid())
        assert not found("GB214", model, [1000 * x for x in normal(2, 32, 8)])

    def test_a_gate_is_information_at_most(self):
        class Gate(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

            def forward(self, x):
                return self.out(x * torch.sigmoid(self.fc(x)))

        findings = found("GB214", Gate(), [1000 * x for x in normal(2, 32, 8)])
        assert {f.severity for f in findings} == {"info"}


# GB215


class TestConstantFeatures:
    def test_share_decides(self):
        model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2))
        batches = normal(2, 32, 8)
        for x in batches:
            x[:, 0] = 3.0
        assert found("GB215", model, batches)[0].severity == "info"
        for x in batches:
            x[:, :4] = 0.0
        assert found("GB215", model, batches)[0].severity == "warning"
        assert not found("GB215", model, normal(2, 32, 8))

    def test_tiny_inputs(self):
        model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
        (it,) = found("GB215", model, [1e-6 * x for x in normal(2, 32, 8)])
        assert it.severity == "warning"

    def test_zero_gamma_before_it_is_meant(self):
        model = nn.Sequential(
            nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)
        )
        nn.init.zeros_(model[0].weight)
        assert not found("GB215", model, normal(2, 32, 8))

    def test_layer_norm_of_tiny_inputs(self):
        model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 2))
        assert found("GB215", model, [1e-6 * x for x in normal(2, 4, 5, 8)])
        assert not found("GB215", model, normal(2, 4, 5, 8))


# GB216


class TestNonFinite:
    def test_the_batch_itself(self):
        x, other = normal(2, 8, 8)
        x[2, 3] = float("nan")
        (it,) = found("GB216", mlp(), [other, x])
        assert (it.layer, it.numbers["batch"]) == ("", 1)

    def test_weights(self):
        model = mlp()
        with torch.no_grad():
            model[1].weight[0, 0] = float("inf")
        (it,) = found("GB216", model, normal(2, 8, 8))
        assert (it.layer, it.severity) == ("1", "error")
        assert "weight" in it.fix

    def test_nan_statistics_are_left_to_gb107(self):
        model = mlp()
        model[2].running_var[0] = float("nan")
        assert not found("GB216", model, normal(2, 8, 8))

    def test_code_between_layers(self):
        class Inner(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = mlp()

            def forward(self, x):
                return self.body(torch.log(x - x))

        (it,) = found("GB216", nn.Sequential(nn.Identity(), Inner()), normal(2, 8, 8))
        assert it.layer == "1"
        assert "clamp" in it.fix

    def test_the_loss_alone(self):
        model = nn.Sequential(nn.Linear(8, 1), nn.ReLU())
        nn.init.constant_(model[0].bias, -50.0)
        batches = [(x, torch.ones(8, 1)) for x in normal(2, 8, 8)]
        (it,) = found("GB216", model, batches, loss=lambda y, t: -(t * y.log()).mean())
        assert "loss" in it.cause

    def test_a_mask_is_meant(self):
        class Masked(nn.Module):
            def __init__(self):
                super().__init__()
                self.out = nn.Linear(8, 4)

            def forward(self, x):
                return self.out(x).masked_fill(torch.arange(4) == 2, float("-inf"))

        assert not found("GB216", Masked(), normal(2, 8, 8))


# What they rest on


def test_fresh():
    model = mlp(nn.ReLU())
    assert is_fresh(Subject(model))
    model(torch.randn(4, 8))
    assert not is_fresh(Subject(model))
    other = nn.Sequential(nn.Linear(4, 4))
    assert is_fresh(Subject(other, SimpleNamespace(state={})))
    assert not is_fresh(Subject(other, SimpleNamespace(state={other[0].weight: {"step": 1}})))


def test_producers_do_not_keep_tensors():
    made = Producers()
    x = torch.ones(2)
    made.add(x, "a", 0)
    assert made.of(x) == ("a", 0)
    assert made.of(3) == ("", None)


def test_sources_pass_through_functions():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 2, 1)

        def forward(self, x):
            return self.fc(F.relu(self.conv(x)))

    (p,) = Evidence(Subject(Net()), normal(1, 2, 2, 6)).evaluated
    assert [(o.layer, o.function, o.source, o.dim) for o in p.outputs] == [
        ("conv", "", "", 1),
        ("", "relu", "conv", 1),
        ("fc", "", "conv", 1),
    ]
