"""Recurrent batch norm's running statistics: one set a timestep, the last trained one for ever."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

from gammabeta.layers import (
    NonFiniteBatchError,
    NonFiniteBatchWarning,
    RecurrentBatchNormLSTM,
    guard_statistics,
)
from gammabeta.ops.reference import other_norms

# Float64 against float64 through up to ten timesteps: errors of 1e-16 may grow by 1/√ε = 300
# where all sequences nearly agree.
EXACT = {"rtol": 1e-10, "atol": 1e-11}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch_lstm(
    *sizes: int, dtype: torch.dtype = torch.float64, **arguments
) -> RecurrentBatchNormLSTM:
    torch.manual_seed(0)
    return RecurrentBatchNormLSTM(*sizes, dtype=dtype, **{"max_length": 8, **arguments})


def snapshot(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def randomized(lstm: RecurrentBatchNormLSTM) -> RecurrentBatchNormLSTM:
    """The same LSTM with every γ and β its own."""
    for seed, (name, parameter) in enumerate(lstm.named_parameters()):
        if name.startswith("norm_"):
            with torch.no_grad():
                parameter.copy_(0.5 + 0.3 * normal(*parameter.shape, seed=seed))
    return lstm


def bn(weight: Tensor, bias: Tensor | float = 0.0):
    """The paper's BN with the statistics of the batch, in the reference's form."""

    def normalize(z: Tensor, t: int) -> Tensor:
        var = z.var(0, correction=0)
        return weight * (z - z.mean(0)) / torch.sqrt(var + 1e-5) + bias

    return normalize


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_of_each_timestep(momentum):
    lstm = randomized(batch_lstm(3, 2, momentum=momentum))
    batches = [normal(length, 6, 3, seed=length) * 2 + 1 for length in (5, 3, 4)]
    mean = torch.zeros(8, 8, dtype=torch.float64)
    var = torch.ones(8, 8, dtype=torch.float64)
    for count, x in enumerate(batches):
        lstm(x)
        z = x @ lstm.weight_ih_l0.detach().T
        for t in range(x.shape[0]):
            factor = momentum or 1 / (1 + sum(len(b) > t for b in batches[:count]))
            mean[t] += factor * (z[t].mean(0) - mean[t])
            var[t] += factor * (z[t].var(0) - var[t])
    part = lstm.norm_ih_l0
    torch.testing.assert_close(part.running_mean, mean, **EXACT)
    torch.testing.assert_close(part.running_var, var, **EXACT)
    for part in lstm.children():
        assert part.num_batches_tracked.tolist() == [3, 3, 3, 2, 1, 0, 0, 0]


def test_hidden_and_cell_statistics_are_those_of_what_they_normalize():
    lstm = randomized(batch_lstm(3, 2, momentum=1.0))
    seen: dict[str, list[Tensor]] = {"hidden": [], "cell": []}

    def recording(key, normalize):
        def step(z: Tensor, t: int) -> Tensor:
            seen[key].append(z.detach())
            return normalize(z, t)

        return step

    x, zeros = normal(4, 6, 3), torch.zeros(6, 2, dtype=torch.float64)
    other_norms.lstm(
        x,
        zeros,
        zeros,
        lstm.weight_ih_l0,
        lstm.weight_hh_l0,
        lstm.bias_ih_l0 + lstm.bias_hh_l0,
        bn(lstm.norm_ih_l0.weight),
        recording("hidden", bn(lstm.norm_hh_l0.weight)),
        recording("cell", bn(lstm.norm_c_l0.weight, lstm.norm_c_l0.bias)),
    )
    lstm(x)
    for key, part in (("hidden", lstm.norm_hh_l0), ("cell", lstm.norm_c_l0)):
        values = torch.stack(seen[key])
        torch.testing.assert_close(part.running_mean[:4], values.mean(1), **EXACT)
        torch.testing.assert_close(part.running_var[:4], values.var(1), **EXACT)
        assert int(part.running_mean[4:].count_nonzero()) == 0


def test_evaluation_beyond_training_reuses_the_last_trained_timestep():
    lstm = randomized(batch_lstm(3, 2, momentum=1.0))
    lstm(normal(3, 6, 3) * 2 + 1)  # trains timesteps 0, 1, 2 of the 8 there is room for
    lstm.eval()

    def population(name: str):
        part = lstm.get_submodule(name)

        def normalize(z: Tensor, t: int) -> Tensor:
            t = min(t, 2)
            y = (z - part.running_mean[t]) / torch.sqrt(part.running_var[t] + part.eps)
            return y * part.weight + (0 if part.bias is None else part.bias)

        return normalize

    x, zeros = normal(12, 1, 3, seed=7), torch.zeros(1, 2, dtype=torch.float64)
    expected = other_norms.lstm(
        x,
        zeros,
        zeros,
        lstm.weight_ih_l0,
        lstm.weight_hh_l0,
        lstm.bias_ih_l0 + lstm.bias_hh_l0,
        population("norm_ih_l0"),
        population("norm_hh_l0"),
        population("norm_c_l0"),
    )[0]
    before = snapshot(lstm)
    torch.testing.assert_close(lstm(x)[0], expected, **EXACT)
    assert same(snapshot(lstm), before)


def test_training_beyond_max_length_uses_the_batch_and_records_no_more():
    short, long = randomized(batch_lstm(3, 2, max_length=3)), randomized(batch_lstm(3, 2))
    x = normal(6, 5, 3)
    torch.testing.assert_close(short(x)[0], long(x)[0], rtol=0, atol=0)
    for name, part in short.named_children():
        assert torch.equal(part.running_mean, long.get_submodule(name).running_mean[:3])
        assert part.num_batches_tracked.tolist() == [1, 1, 1]


def test_a_sequence_that_outlives_all_others_is_normalized_by_the_running_statistics():
    lstm = randomized(batch_lstm(3, 2))
    lstm(normal(5, 6, 3) + 1)
    before = snapshot(lstm)
    lengths = torch.tensor([5, 3, 3])
    x = normal(5, 3, 3, seed=3)
    output, _ = lstm(pack_padded_sequence(x, lengths))
    assert bool(output.data.isfinite().all())
    for name, part in lstm.named_children():
        assert part.num_batches_tracked.tolist() == [2, 2, 2, 1, 1, 0, 0, 0]
        assert torch.equal(part.running_var[3:], before[f"{name}.running_var"][3:])
    # Its input term, at t = 4, as evaluation would have it.
    part = lstm.norm_ih_l0
    live = torch.arange(5).unsqueeze(1) < lengths
    z = x @ lstm.weight_ih_l0.T
    means, variances = (before[f"norm_ih_l0.running_{name}"][:5] for name in ("mean", "var"))
    normalized, _ = part(z, means, variances, live)
    expected = (z[4, 0] - means[4]) / (variances[4] + part.eps).sqrt() * part.weight
    torch.testing.assert_close(normalized[4, 0], expected, **EXACT)


def test_padding_never_matters():
    lstm = batch_lstm(3, 2, bidirectional=True)
    results = []
    for fill in (0.0, float("nan")):
        twin = copy.deepcopy(lstm)
        x = normal(5, 3, 3)
        x[3:, 1] = fill
        packed = pack_padded_sequence(x, torch.tensor([5, 3, 5]), enforce_sorted=False)
        twin(packed)[0].data.square().sum().backward()
        results.append([*twin.state_dict().values(), *(p.grad for p in twin.parameters())])
    for a, b in zip(*results, strict=True):
        assert bool(b.isfinite().all())
        assert torch.equal(a, b)


def test_reset_running_stats():
    lstm = batch_lstm(3, 4)
    before = snapshot(lstm)
    lstm(normal(6, 5, 3))
    assert not same(snapshot(lstm), before)
    lstm.reset_running_stats()
    assert same(snapshot(lstm), before)


def bad_batch() -> Tensor:
    x = normal(4, 5, 3)
    x[2, 0] = float("nan")
    return x


def test_a_non_finite_timestep_is_refused_by_the_guard():
    lstm, norms = batch_lstm(3, 4), ("norm_ih_l0", "norm_hh_l0", "norm_c_l0")
    with pytest.warns(NonFiniteBatchWarning) as told:
        lstm(bad_batch())
    assert sorted(str(w.message).split(" ")[0] for w in told) == sorted(norms)
    lstm(bad_batch())  # told once: another warning would be an error
    assert lstm.norm_ih_l0.num_batches_tracked.tolist() == [2, 2, 0, 2, 0, 0, 0, 0]
    assert lstm.norm_c_l0.num_batches_tracked.tolist() == [2, 2, 0, 0, 0, 0, 0, 0]
    assert all(bool(value.isfinite().all()) for value in lstm.state_dict().values())
    assert [lstm.get_submodule(name).refused_batches for name in norms] == [2, 2, 2]
    lstm.reset_running_stats()
    assert lstm.norm_c_l0.refused_batches == 0
    assert guard_statistics(nn.ModuleDict({"a": lstm})) == [f"a.{name}" for name in norms]


@pytest.mark.parametrize("state_only", [False, True])
def test_a_non_finite_timestep_that_is_to_raise_leaves_all_as_it_was(state_only):
    lstm = batch_lstm(3, 4, num_layers=2, on_nonfinite="raise")
    before = snapshot(lstm)
    x, h = bad_batch(), normal(2, 5, 4)
    if state_only:  # the input's norms would have nothing to object
        x, h[1, 0, 0] = normal(4, 5, 3), float("inf")
    with pytest.raises(NonFiniteBatchError):
        lstm(x, (h, h))
    assert same(snapshot(lstm), before)


def test_a_non_finite_timestep_may_enter_as_in_torch():
    lstm = batch_lstm(3, 4, on_nonfinite="accept")
    lstm(bad_batch())
    assert lstm.norm_ih_l0.num_batches_tracked.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert bool(lstm.norm_ih_l0.running_mean[2].isnan().all())
    assert lstm.norm_ih_l0.refused_batches == 0


def test_a_variance_too_large_for_half_buffers_is_refused():
    lstm = batch_lstm(3, 4, dtype=torch.float32)
    lstm.norm_ih_l0.half()
    with pytest.warns(NonFiniteBatchWarning, match="norm_ih_l0"):
        lstm(3e4 * normal(4, 5, 3, dtype=torch.float32))
    assert bool(lstm.norm_ih_l0.running_var.isfinite().all())


def test_an_error_in_the_second_layer_leaves_the_first_as_it_was():
    lstm, x = batch_lstm(3, 4, num_layers=2), normal(6, 5, 3)
    before = snapshot(lstm)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = lstm.norm_c_l1.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        lstm(x)
    assert same(snapshot(lstm), before)
    handle.remove()
    lstm(x)
    assert not same(snapshot(lstm), before)


def test_one_sequence_cannot_train():
    lstm, one = batch_lstm(3, 4), normal(6, 1, 3)
    before = snapshot(lstm)
    for x in (one, one[:, 0], pack_sequence([one[:, 0]])):
        with pytest.raises(ValueError, match=r"input has one sequence.*call eval"):
            lstm(x)
    assert same(snapshot(lstm), before)
    assert lstm.eval()(one)[0].shape == (6, 1, 4)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_length": 0}, "max_length=0.*1 or more"),
        ({"max_length": 2.5}, "max_length=2.5.*a whole number"),
        ({"gamma": 0.0}, "gamma=0.0.*above 0"),
        ({"on_nonfinite": "rase"}, "on_nonfinite='rase' is not known; did you mean 'raise'"),
    ],
)
def test_bad_batch_norm_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        batch_lstm(3, 4, **arguments)
