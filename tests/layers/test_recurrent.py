"""The normalized LSTMs against their papers' equations, and against nn.LSTM where they are one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from gammabeta.layers import LayerNormLSTM, RecurrentBatchNormLSTM
from gammabeta.layers.timestep import TimestepBatchNorm
from gammabeta.ops.reference import other_norms

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
    return other_norms.lstm(
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
