"""The normalized LSTMs against their papers' equations, and against nn.LSTM where they are one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from gammabeta.kernels import reference_family
from gammabeta.layers import LayerNormLSTM, RecurrentBatchNormLSTM
from gammabeta.layers.timestep import TimestepBatchNorm

# Float64 against float64 through up to ten timesteps: errors of 1e-16 may grow by 1/√ε = 300
# where all sequences nearly agree.
EXACT = {"rtol": 1e-10, "atol": 1e-11}

LSTM = LayerNormLSTM | RecurrentBatchNormLSTM


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch_lstm(*sizes: int, dtype: torch.dtype = torch.float64, **arguments) -> LSTM:
    torch.manual_seed(0)
    return RecurrentBatchNormLSTM(*sizes, dtype=dtype, **{"max_length": 8, **arguments})


def layer_lstm(*sizes: int, dtype: torch.dtype = torch.float64, **arguments) -> LSTM:
    torch.manual_seed(0)
    return LayerNormLSTM(*sizes, dtype=dtype, **arguments)


BOTH = pytest.mark.parametrize("make", [batch_lstm, layer_lstm])


def snapshot(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def randomized(lstm: LSTM) -> LSTM:
    """The same LSTM with every γ and β its own."""
    for seed, (name, parameter) in enumerate(lstm.named_parameters()):
        if name.startswith("norm_"):
            with torch.no_grad():
                parameter.copy_(0.5 + 0.3 * normal(*parameter.shape, seed=seed))
    return lstm


def without_normalization(lstm: LSTM) -> LSTM:
    """The same LSTM with every normalization the identity, by its own parameters and buffers."""
    for part in lstm.children():
        assert isinstance(part, TimestepBatchNorm)
        nn.init.ones_(part.weight)
        part.running_var.fill_(1 - part.eps)
    return lstm.eval()


def bn(weight: Tensor, bias: Tensor | float = 0.0):
    """The paper's BN with the statistics of the batch, in the reference's form."""

    def normalize(z: Tensor, t: int) -> Tensor:
        var = z.var(0, correction=0)
        return weight * (z - z.mean(0)) / torch.sqrt(var + 1e-5) + bias

    return normalize


def ln(weight: Tensor, bias: Tensor | float = 0.0):
    def normalize(z: Tensor, t: int) -> Tensor:
        mean = z.mean(1, keepdim=True)
        var = ((z - mean) ** 2).mean(1, keepdim=True)
        return weight * (z - mean) / torch.sqrt(var + 1e-5) + bias

    return normalize


def expected_of(lstm: LSTM, normalize, x: Tensor, h: Tensor, c: Tensor, suffix="l0", lengths=None):
    """One direction of the reference LSTM with the weights of ``lstm``."""
    part = lstm.get_submodule
    return reference_family.lstm(
        x,
        h,
        c,
        lstm.get_parameter(f"weight_ih_{suffix}"),
        lstm.get_parameter(f"weight_hh_{suffix}"),
        lstm.get_parameter(f"bias_ih_{suffix}") + lstm.get_parameter(f"bias_hh_{suffix}"),
        normalize(part(f"norm_ih_{suffix}").weight),
        normalize(part(f"norm_hh_{suffix}").weight),
        normalize(part(f"norm_c_{suffix}").weight, part(f"norm_c_{suffix}").bias),
        lengths,
    )


@pytest.mark.parametrize(("make", "normalize"), [(batch_lstm, bn), (layer_lstm, ln)])
def test_agrees_with_the_papers_equations(make, normalize):
    lstm = randomized(make(3, 4))
    x, h, c = normal(6, 5, 3), normal(5, 4, seed=1), normal(5, 4, seed=2)
    expected = expected_of(lstm, normalize, x, h, c)
    output, (h_n, c_n) = lstm(x, (h[None], c[None]))
    torch.testing.assert_close(output, expected[0], **EXACT)
    torch.testing.assert_close(h_n[0], expected[1], **EXACT)
    torch.testing.assert_close(c_n[0], expected[2], **EXACT)


@pytest.mark.parametrize(("make", "normalize"), [(batch_lstm, bn), (layer_lstm, ln)])
def test_two_layers_two_directions(make, normalize):
    lstm = randomized(make(3, 4, num_layers=2, bidirectional=True))
    x, h, c = normal(6, 5, 3), normal(4, 5, 4, seed=1), normal(4, 5, 4, seed=2)
    output, (h_n, c_n) = lstm(x, (h, c))
    seen = x
    for layer in range(2):
        ahead = expected_of(lstm, normalize, seen, h[2 * layer], c[2 * layer], f"l{layer}")
        i = 2 * layer + 1
        back = expected_of(lstm, normalize, seen.flip(0), h[i], c[i], f"l{layer}_reverse")
        seen = torch.cat([ahead[0], back[0].flip(0)], dim=2)
        for index, direction in ((i - 1, ahead), (i, back)):
            torch.testing.assert_close(h_n[index], direction[1], **EXACT)
            torch.testing.assert_close(c_n[index], direction[2], **EXACT)
    torch.testing.assert_close(output, seen, **EXACT)


@pytest.mark.parametrize(("make", "normalize"), [(batch_lstm, bn), (layer_lstm, ln)])
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences(make, normalize, reverse):
    lstm = randomized(make(3, 4, bidirectional=reverse))
    lengths = [2, 6, 4, 6]  # unsorted, and at least two run to the end
    sequences = [normal(length, 3, seed=length + n) for n, length in enumerate(lengths)]
    h, c = normal(2, 4, 4, seed=1), normal(2, 4, 4, seed=2)
    x = nn.utils.rnn.pad_sequence(sequences, padding_value=float("nan"))
    state = (h, c) if reverse else (h[:1], c[:1])
    packed = pack_sequence(sequences, enforce_sorted=False)
    output, (h_n, c_n) = lstm(packed, state)
    assert torch.equal(output.batch_sizes, packed.batch_sizes)
    assert torch.equal(output.sorted_indices, packed.sorted_indices)
    padded, back_lengths = nn.utils.rnn.pad_packed_sequence(output)
    assert back_lengths.tolist() == lengths
    ahead = expected_of(lstm, normalize, x, h[0], c[0], lengths=lengths)
    torch.testing.assert_close(padded[..., :4], ahead[0], **EXACT)
    torch.testing.assert_close(h_n[0], ahead[1], **EXACT)
    torch.testing.assert_close(c_n[0], ahead[2], **EXACT)
    if reverse:
        flipped = nn.utils.rnn.pad_sequence([s.flip(0) for s in sequences])
        back = expected_of(lstm, normalize, flipped, h[1], c[1], "l0_reverse", lengths)
        for n, length in enumerate(lengths):
            torch.testing.assert_close(padded[:length, n, 4:], back[0][:length, n].flip(0), **EXACT)
        torch.testing.assert_close(h_n[1], back[1], **EXACT)


@pytest.mark.parametrize("arguments", [{}, {"bias": False}, {"bidirectional": True}])
@pytest.mark.parametrize("packed", [False, True])
def test_with_normalization_the_identity_it_is_nn_lstm(arguments, packed):
    torch.manual_seed(0)
    plain = nn.LSTM(3, 4, num_layers=2, dtype=torch.float64, **arguments)
    lstm = without_normalization(batch_lstm(3, 4, num_layers=2, **arguments))
    result = lstm.load_state_dict(plain.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all(name.startswith("norm_") for name in result.missing_keys)
    x = normal(10, 5, 3)  # longer than max_length: the last timestep's identity is reused
    state = (normal(len(plain.all_weights), 5, 4, seed=1),) * 2
    data = x
    if packed:
        data = pack_padded_sequence(x, torch.tensor([3, 10, 1, 10, 7]), enforce_sorted=False)
    expected, (h_expected, c_expected) = plain(data, state)
    output, (h, c) = lstm(data, state)
    if packed:
        expected, output = expected.data, output.data
    # 1 − ε + ε is 1 within half a unit in the last place.
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(h, h_expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(c, c_expected, rtol=1e-12, atol=1e-12)


def test_layer_norm_lstm_without_its_norms_is_nn_lstm():
    torch.manual_seed(0)
    plain = nn.LSTM(3, 4, dtype=torch.float64, batch_first=True)
    lstm = layer_lstm(3, 4, batch_first=True)
    lstm.load_state_dict(plain.state_dict(), strict=False)
    for name, _ in list(lstm.named_children()):
        setattr(lstm, name, nn.Identity())
    x = normal(5, 7, 3)
    torch.testing.assert_close(lstm(x)[0], plain(x)[0], rtol=1e-12, atol=1e-12)


def test_starts_as_the_papers_do():
    lstm = RecurrentBatchNormLSTM(3, 4, max_length=5)
    parts = dict(lstm.named_children())
    assert set(parts) == {"norm_ih_l0", "norm_hh_l0", "norm_c_l0"}
    for name, part in parts.items():
        assert part.weight.tolist() == pytest.approx([0.1] * part.num_features)
        assert part.running_mean.shape == (5, part.num_features)
        assert part.eps == 1e-5
        assert (part.bias is None) == (name != "norm_c_l0")  # β_h = β_x = 0: b is there
    assert parts["norm_c_l0"].bias.tolist() == [0] * 4
    for name, part in LayerNormLSTM(3, 4).named_children():
        assert (part.weight.tolist(), part.eps) == ([1] * len(part.weight), 1e-5)
        assert part.bias is None or (name, part.bias.tolist()) == ("norm_c_l0", [0] * 4)


@BOTH
def test_weights_start_as_those_of_nn_lstm(make):
    lstm = make(3, 4, num_layers=2)
    torch.manual_seed(0)
    plain = nn.LSTM(3, 4, num_layers=2, dtype=torch.float64)
    assert list(plain.state_dict()) == [n for n in lstm.state_dict() if not n.startswith("norm_")]
    for name, parameter in plain.named_parameters():
        assert torch.equal(lstm.get_parameter(name), parameter)


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
    reference_family.lstm(
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
    expected = reference_family.lstm(
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


@BOTH
def test_layouts(make):
    lstm, first = make(3, 4).eval(), make(3, 4, batch_first=True).eval()
    x = normal(6, 5, 3)
    output, (h, c) = lstm(x)
    again, (h2, c2) = first(x.transpose(0, 1))
    assert torch.equal(again, output.transpose(0, 1))
    assert torch.equal(h, h2)
    assert torch.equal(c, c2)
    one, (h1, c1) = lstm(x[:, 0], (h[:, 0] * 0, c[:, 0] * 0))
    assert (one.shape, h1.shape, c1.shape) == ((6, 4), (1, 4), (1, 4))
    torch.testing.assert_close(one, output[:, 0], **EXACT)
    # The state carries over: two halves are the whole, if the timesteps are normalized alike.
    if make is layer_lstm:
        left, state = lstm(x[:2])
        right, _ = lstm(x[2:], state)
        torch.testing.assert_close(torch.cat([left, right]), output, **EXACT)


@BOTH
@pytest.mark.parametrize("lengths", [None, [3, 2, 3]])
def test_gradients(make, lengths):
    lstm = randomized(make(2, 2, **({"momentum": 0.0} if make is batch_lstm else {})))
    names = [name for name, _ in lstm.named_parameters()]
    v = normal(3, 3, 2, seed=5)

    def loss(x: Tensor, h: Tensor, c: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        if lengths is not None:
            x = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        output, (h_n, c_n) = torch.func.functional_call(lstm, named, (x, (h, c)))
        if isinstance(output, PackedSequence):
            output = nn.utils.rnn.pad_packed_sequence(output)[0]
        return (output * v).sum((1, 2)), (h_n * c_n).sum()

    inputs = [normal(3, 3, 2), normal(1, 3, 2, seed=1), normal(1, 3, 2, seed=2)]
    inputs = [value.requires_grad_() for value in inputs] + list(lstm.parameters())
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


@BOTH
def test_state_dict_pickle_and_deepcopy(make):
    lstm = randomized(make(3, 4, num_layers=2, dropout=0.5, dtype=torch.float32))
    x = normal(6, 5, 3, dtype=torch.float32)
    lstm(x)
    again = make(3, 4, num_layers=2, dropout=0.5, dtype=torch.float32)
    again.load_state_dict(lstm.state_dict())
    lstm.eval()
    expected = lstm(x)[0]
    for twin in (again.eval(), copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert torch.equal(twin(x)[0], expected)
    again.reset_parameters()
    assert not torch.equal(again(x)[0], expected)


def test_reset_running_stats():
    lstm = batch_lstm(3, 4)
    before = snapshot(lstm)
    lstm(normal(6, 5, 3))
    assert not same(snapshot(lstm), before)
    lstm.reset_running_stats()
    assert same(snapshot(lstm), before)


@BOTH
def test_dropout_is_between_layers_and_reads_the_global_rng(make):
    lstm = make(3, 4, num_layers=2, dropout=0.5)
    x, outputs = normal(6, 5, 3), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(lstm(x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    lstm.eval()
    assert torch.equal(lstm(x)[0], lstm(x)[0])


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_need_autocast_or_half_parameters(make, dtype):
    lstm = make(3, 4, dtype=torch.float32)
    x = normal(6, 5, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match=f"input has dtype {dtype}.*torch.float32"):
        lstm(x.to(dtype))
    expected = lstm(x)[0]
    # Outputs below 1 with the linear maps rounded to 8 bits at each of six timesteps.
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(lstm(x.to(dtype))[0].float(), expected, rtol=0, atol=0.03)
    output, (h, _) = make(3, 4, dtype=torch.float32).to(dtype)(x.to(dtype))
    assert (output.dtype, h.dtype) == (dtype, dtype)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.03)


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(make, training):
    lstm = make(3, 4).train(training)
    before = snapshot(lstm)
    output, (h, _) = lstm(torch.zeros(6, 0, 3, dtype=torch.float64))
    assert (output.shape, h.shape) == ((6, 0, 4), (1, 0, 4))
    assert same(snapshot(lstm), before)


def test_a_non_finite_timestep_is_not_recorded():
    lstm = batch_lstm(3, 4)
    x = normal(4, 5, 3)
    x[2, 0] = float("nan")
    lstm(x)
    assert lstm.norm_ih_l0.num_batches_tracked.tolist() == [1, 1, 0, 1, 0, 0, 0, 0]
    assert lstm.norm_c_l0.num_batches_tracked.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert all(bool(value.isfinite().all()) for value in lstm.state_dict().values())


X = torch.ones(6, 5, 3, dtype=torch.float64)
STATE = torch.ones(1, 5, 4, dtype=torch.float64)


@BOTH
@pytest.mark.parametrize(
    ("x", "hx", "match"),
    [
        (X[..., :2], None, "input has 2 features.*input_size=3"),
        (X[0, 0], None, r"input has shape \(3,\)"),
        (X[None], None, r"input has shape \(1, 6, 5, 3\)"),
        (X[:0], None, "no timesteps"),
        (X, (STATE[:, :4], STATE), r"h_0 has shape \(1, 4, 4\).*\(1, 5, 4\)"),
        (X, (STATE, STATE[..., :3]), "c_0 has shape"),
        (X, (STATE[0], STATE[0]), "h_0 has shape"),
    ],
)
def test_state_is_untouched_when_forward_raises(make, x, hx, match):
    lstm = make(3, 4)
    before = snapshot(lstm)
    with pytest.raises(ValueError, match=match) as error:
        lstm(x, hx)
    assert "\n" not in str(error.value)
    assert same(snapshot(lstm), before)


def test_an_error_in_the_second_layer_leaves_the_first_as_it_was():
    lstm = batch_lstm(3, 4, num_layers=2)
    before = snapshot(lstm)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = lstm.norm_c_l1.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        lstm(X)
    assert same(snapshot(lstm), before)
    handle.remove()
    lstm(X)
    assert not same(snapshot(lstm), before)


def test_one_sequence_cannot_train():
    lstm = batch_lstm(3, 4)
    before = snapshot(lstm)
    for x in (X[:, :1], X[:, 0], pack_sequence([X[:, 0]])):
        with pytest.raises(ValueError, match=r"input has one sequence.*call eval"):
            lstm(x)
    assert same(snapshot(lstm), before)
    assert layer_lstm(3, 4)(X[:, :1])[0].shape == (6, 1, 4)


@BOTH
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"input_size": 0}, "input_size=0.*1 or more"),
        ({"hidden_size": -1}, "hidden_size=-1"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"dropout": 1.5, "num_layers": 2}, "dropout=1.5.*0 to 1"),
        ({"dropout": 0.5}, "dropout=0.5 comes between layers"),
    ],
)
def test_bad_arguments(make, arguments, match):
    with pytest.raises(ValueError, match=match) as error:
        make(**{"input_size": 3, "hidden_size": 4, **arguments})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"max_length": 0}, "max_length=0.*1 or more"), ({"gamma": 0.0}, "gamma=0.0.*above 0")],
)
def test_bad_batch_norm_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        batch_lstm(3, 4, **arguments)


@BOTH
def test_description(make):
    text = repr(make(3, 4, num_layers=2, bidirectional=True))
    assert "3, 4, num_layers=2, bidirectional=True" in text


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(lambda v: [*v, max(v)]),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 99),
)
def test_any_lengths_agree_with_the_equations(lengths, sizes, seed):
    # max(v) twice, so that no sequence ever runs alone.
    lstm = batch_lstm(*sizes)
    sequences = [normal(length, sizes[0], seed=seed + n) for n, length in enumerate(lengths)]
    x = nn.utils.rnn.pad_sequence(sequences)
    h, c = (normal(len(lengths), sizes[1], seed=s) for s in (1, 2))
    expected = expected_of(lstm, bn, x, h, c, lengths=lengths)
    output, (h_n, c_n) = lstm(pack_sequence(sequences, enforce_sorted=False), (h[None], c[None]))
    padded = nn.utils.rnn.pad_packed_sequence(output)[0]
    torch.testing.assert_close(padded, expected[0], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(h_n[0], expected[1], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(c_n[0], expected[2], rtol=1e-7, atol=1e-7)
