"""The normalized LSTMs keep nn.LSTM's habits: layouts, dtypes, copies, devices, misuse."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from gammabeta.layers import LayerNormLSTM, RecurrentBatchNormLSTM

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
        (X, STATE, r"hx must be a pair of tensors, \(h_0, c_0\), not Tensor"),
        (X, (STATE,) * 3, "hx must be a pair.*not 3 items"),
        (X, (STATE, STATE.float()), "c_0 has dtype torch.float32, but input has torch.float64"),
    ],
)
def test_state_is_untouched_when_forward_raises(make, x, hx, match):
    lstm = make(3, 4)
    before = snapshot(lstm)
    with pytest.raises(ValueError, match=match) as error:
        lstm(x, hx)
    assert "\n" not in str(error.value)
    assert same(snapshot(lstm), before)


@BOTH
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"input_size": 0}, "input_size=0.*1 or more"),
        ({"hidden_size": -1}, "hidden_size=-1"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"dropout": 1.5, "num_layers": 2}, "dropout=1.5.*0 to 1"),
    ],
)
def test_bad_arguments(make, arguments, match):
    with pytest.raises(ValueError, match=match) as error:
        make(**{"input_size": 3, "hidden_size": 4, **arguments})
    assert "\n" not in str(error.value)


@BOTH
def test_dropout_without_a_second_layer_warns_as_nn_lstm_does(make):
    with pytest.warns(UserWarning, match=r"dropout=0\.5 has no effect with num_layers=1") as caught:
        make(3, 4, dropout=0.5)
    assert len(caught) == 1


@BOTH
def test_on_another_device(make):
    # The meta device refuses to be mixed with any other: nothing is made on the wrong one.
    lstm = make(3, 4, bidirectional=True, device="meta")
    output, (h, _) = lstm(torch.empty(6, 5, 3, dtype=torch.float64, device="meta"))
    assert (output.shape, output.device.type, h.device.type) == ((6, 5, 8), "meta", "meta")


@BOTH
def test_description(make):
    text = repr(make(3, 4, num_layers=2, bidirectional=True))
    assert "3, 4, num_layers=2, bidirectional=True" in text


@pytest.mark.parametrize("cls", [LayerNormLSTM, RecurrentBatchNormLSTM])
def test_functional_calls_and_parametrized_weights(cls):
    arguments = {"max_length": 4} if cls is RecurrentBatchNormLSTM else {}
    lstm, x = cls(3, 4, dtype=torch.float64, **arguments).eval(), normal(4, 5, 3)

    def loss(parameters):
        return torch.func.functional_call(lstm, parameters, (x,))[0].square().sum()

    lstm(x)[0].square().sum().backward()
    grads = torch.func.grad(loss)({name: p.detach() for name, p in lstm.named_parameters()})
    for name, parameter in lstm.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, msg=name)
    plain = lstm(x)[0]
    nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    torch.testing.assert_close(lstm(x)[0], plain)
