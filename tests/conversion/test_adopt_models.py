"""Models of transformers, tiny and with random weights, converted: their norms are adopted."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.conversion.adopt import is_adopted
from gammabeta.conversion.adopting import adopted, worth
from gammabeta.ops.cpu import support

transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

_TEXT = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _causal(name: str) -> Callable[[], Any]:
    def make() -> Any:
        config = getattr(transformers, f"{name}Config")(**_TEXT)
        return getattr(transformers, f"{name}ForCausalLM")(config)

    return make


def _t5() -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=64,
            d_model=64,
            d_kv=16,
            d_ff=96,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        )
    )


def _convnext() -> Any:
    return transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(
            num_channels=3, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], num_labels=5
        )
    )


MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    "llama": (_causal("Llama"), 5),
    "mistral": (_causal("Mistral"), 5),
    "gemma": (_causal("Gemma"), 5),
    "qwen2": (_causal("Qwen2"), 5),
    "qwen3": (_causal("Qwen3"), 9),  # norms of queries and keys, too
    "olmo2": (_causal("Olmo2"), 9),
    "t5": (_t5, 12),
    "convnext": (_convnext, 8),
}
"""Name → maker, number of adopted norms."""


@pytest.fixture(autouse=True)
def at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs, too, are for the kernels."""
    monkeypatch.setattr(support, "SMALL", {})
    monkeypatch.setattr(adopted, "_KNOWN", {})  # what was proved, with the sizes it is for
    monkeypatch.setattr(worth, "_LEAST", dict.fromkeys(worth._LEAST, (0, 0, 0, 0)))


each = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name][0]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def inputs(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    if name == "convnext":
        x = torch.randn(2, 3, 64, 64, generator=g, dtype=torch.float64).to(dtype)
        return {"pixel_values": x, "labels": torch.tensor([1, 3])}
    ids = torch.randint(3, 64, (4, 48), generator=g)
    return {"input_ids": ids, "labels": ids}


def outcome(model: Any, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    model = copy.deepcopy(model).to(dtype)
    given = model(**inputs(name, dtype))
    given.loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"logits": given.logits.detach(), **gradients}


@each
def test_it_computes_the_same(name: str) -> None:
    model = made(name)
    converted = gb.convert(copy.deepcopy(model))
    assert sum(map(is_adopted, converted.modules())) == MODELS[name][1]
    # Where the module casts to float32, its own code runs; else the kernels, in float64. Either
    # way far below what float32 would differ by.
    exact, ours = (outcome(one, name, torch.float64) for one in (model, converted))
    assert ours.keys() == exact.keys()
    for key, want in exact.items():
        torch.testing.assert_close(ours[key], want, rtol=1e-9, atol=1e-9 * float(want.abs().max()))
    # In float32 both round. Not twice as far from the truth as they are, in the mean of squares;
    # a tenth of ε of the largest value is allowed where they are exact by chance.
    theirs, ours = (outcome(one, name, torch.float32) for one in (model, converted))
    for key, want in exact.items():
        off = [float((one[key].double() - want).square().mean().sqrt()) for one in (ours, theirs)]
        assert off[0] <= 2 * off[1] + 1e-7 * float(want.abs().max()), key


@each
def test_its_state_and_its_way_back(name: str, tmp_path: Path) -> None:
    model = made(name)
    converted = copy.deepcopy(model)
    classes = [type(module) for module in converted.modules()]
    text, names = repr(converted), list(converted.state_dict())
    gb.convert(converted)
    assert list(converted.state_dict()) == names
    if name != "convnext":  # it has torch's layer norms, too
        assert repr(converted) == text
    assert not converted.load_state_dict(model.state_dict()).missing_keys
    assert not model.load_state_dict(converted.state_dict()).missing_keys

    converted.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    want = model(**inputs(name, torch.float32)).logits.detach()
    for other in (again, gb.convert(again), pickled(converted), saved(converted)):
        got = other(**inputs(name, torch.float32)).logits
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))

    gb.revert(converted)
    assert [type(module) for module in converted.modules()] == classes
    assert repr(converted) == text
    assert torch.equal(converted(**inputs(name, torch.float32)).logits, want)


def pickled(model: nn.Module) -> Any:
    other = pickle.loads(pickle.dumps(model))
    assert sum(map(is_adopted, other.modules())) == sum(map(is_adopted, model.modules()))
    return other


def saved(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert sum(map(is_adopted, other.modules())) == sum(map(is_adopted, model.modules()))
    return other


@pytest.mark.parametrize("name", ["llama", "gemma", "t5"])
def test_generate(name: str) -> None:
    model = made(name)
    ids = inputs(name, torch.float32)["input_ids"]
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    want = model.generate(ids, **options)
    assert torch.equal(gb.convert(model).generate(ids, **options), want)


def test_bfloat16_of_llama_is_as_near_to_the_truth() -> None:
    model = made("llama")
    exact = outcome(model, "llama", torch.float64)
    converted = gb.convert(copy.deepcopy(model))
    theirs, ours = (outcome(one, "llama", torch.bfloat16) for one in (model, converted))
    for key, want in exact.items():
        off = [float((one[key].double() - want).square().mean().sqrt()) for one in (ours, theirs)]
        # Two draws of one rounding error: a fifth more, and 1e-3 of the largest value.
        assert off[0] <= 1.2 * off[1] + 1e-3 * float(want.abs().max()), key


def test_training_goes_on_with_the_same_optimizer() -> None:
    model, reference = made("llama"), made("llama")
    steps: list[list[float]] = []
    for one in (model, reference):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3)
        losses: list[float] = []
        for step in range(6):
            if one is model and step == 2:
                gb.convert(one)
            if one is model and step == 4:
                gb.revert(one)
            loss = one(**inputs("llama", torch.float32)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        steps.append(losses)
    # float32, six steps: Adam divides small gradients by themselves.
    assert steps[0] == pytest.approx(steps[1], rel=1e-4)
    assert steps[0][-1] < steps[0][0]
