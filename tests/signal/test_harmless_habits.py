"""A watch changes no bit whatever else people do with a model while it trains."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import gammabeta as gb
from tests.signal.harmless import frames_of, plain_step, trace, train, unharmed, warned
from tests.signal.public_models import drawn, seeded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.25)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.norm(self.first(x))))
        return self.head(x + self.block(x))


make = seeded(Net)


def classes(model: nn.Module, step: int) -> Tensor:
    return F.cross_entropy(model(drawn(16, 6, seed=step)), torch.arange(16) % 4)


def around(enter: Callable[[], Any]) -> Callable[[nn.Module, int], Tensor]:
    """Return the loss, computed within a context manager."""

    def loss(model: nn.Module, step: int) -> Tensor:
        with enter():
            return classes(model, step)

    return loss


class Doubles(TorchFunctionMode):
    """A person's own mode, which changes what a function returns."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out * 2 if func is F.linear else out


class Counts(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


CONTEXTS: dict[str, Callable[[], Any]] = {
    "a function mode": Doubles,
    "a dispatch mode": Counts,
    "a counter of operations": lambda: FlopCounterMode(display=False),
    "a device": lambda: torch.device("cpu"),
    "anomaly detection": torch.autograd.detect_anomaly,
    "saved tensors elsewhere": save_on_cpu,
    "a profiler": torch.autograd.profiler.profile,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", CONTEXTS)
def test_within_a_context(name: str, path: Path) -> None:
    frames, said = unharmed(make, plain_step(around(CONTEXTS[name])), path)
    assert len(frames) == 20, said


class Inside(Net):
    """Enters a context in the middle of its forward pass, and leaves it there or not."""

    def __init__(self, enter: Callable[[], Any]) -> None:
        super().__init__()
        self.enter = enter

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        with self.enter():
            y = self.block(x)
        return self.head(x + y)


@pytest.mark.parametrize("name", ["a function mode", "a dispatch mode", "a device"])
def test_a_context_within_forward(name: str, path: Path) -> None:
    inside = seeded(lambda: Inside(CONTEXTS[name]))
    frames, said = unharmed(inside, plain_step(classes), path)
    assert len(frames) == 20, said


def test_several_passes_a_step_by_a_closure(path: Path) -> None:
    """L-BFGS runs the model as often as it likes."""
    optimizers: dict[int, torch.optim.Optimizer] = {}

    def step(model: nn.Module, _: torch.optim.Optimizer, number: int) -> Tensor:
        found = optimizers.setdefault(id(model), torch.optim.LBFGS(model.parameters(), lr=0.1))

        def closure() -> Tensor:
            found.zero_grad()
            loss = classes(model, number)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        loss: Any = found.step(closure)  # type: ignore[arg-type]
        return loss.detach()  # type: ignore[no-any-return]

    frames, said = unharmed(make, step, path, steps=5)
    assert [frame.step for frame in frames] == [1, 2, 3, 4, 5], said


def test_a_step_in_another_thread(path: Path) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        found: list[Tensor] = []
        state = torch.get_rng_state()

        def work() -> None:
            found.append(plain_step(classes)(model, optimizer, number))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        torch.set_rng_state(state)
        return found[0]

    frames, said = unharmed(make, step, path)
    assert len(frames) == 20, said


def test_two_threads_share_a_model(path: Path) -> None:
    """Two passes at once, as a server's or of asynchronous actors: none may fail."""
    model = make()
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(30):
                model(drawn(16, 6, seed=100 * seed + number)).square().mean().backward()
        except BaseException as e:
            failed.append(e)

    with warned(), gb.watch(model, path, every=1) as signal:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            signal.step()
            threading.Event().wait(0.002)
        for thread in threads:
            thread.join()
    assert not failed, failed
    assert torch.overrides._get_current_function_mode() is None  # type: ignore[no-untyped-call]
    assert trace(model) == trace(make())


def test_two_watches_of_one_model(path: Path) -> None:
    def begun(model: nn.Module) -> None:
        found.append(gb.watch(model, path.with_name(f"other{len(found)}"), every=1))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        loss = plain_step(classes)(model, optimizer, number)
        if found:
            found[-1].step(loss=loss)
        return loss

    found: list[gb.Watch] = []
    plain = make()
    expected = train(plain, step)
    model = make()
    with warned() as said, gb.watch(model, path, every=1) as signal:
        begun(model)
        outcome = train(model, step, signal)
        found[0].close()
    assert (outcome.losses, outcome.state, outcome.rng) == (
        expected.losses,
        expected.state,
        expected.rng,
    )
    assert trace(model) == trace(plain)
    assert not [text for text in said if "training continues" in text]
    for name in ("run", "other0"):
        assert len(frames_of(path.with_name(name))) == 20


def test_a_part_is_watched_by_itself(path: Path) -> None:
    plain, model = make(), make()
    expected = train(plain, plain_step(classes))
    part = model.get_submodule("block")
    with (
        warned(),
        gb.watch(model, path, every=1) as whole,
        gb.watch(part, path.with_name("part"), every=1) as signal,
    ):

        def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
            loss = plain_step(classes)(model, optimizer, number)
            whole.step(loss=loss)
            return loss

        found = train(model, step, signal)
    assert (found.losses, found.state, found.rng) == (expected.losses, expected.state, expected.rng)
    assert trace(model) == trace(plain)
    assert len(frames_of(path)) == len(frames_of(path.with_name("part"))) == 20


def changes(change: Callable[[nn.Module, int], object]) -> Any:
    """Return a step that changes the model before the seventh."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        if number == 6:
            change(model, number)
        return plain_step(classes)(model, optimizer, number)

    return step


def replace_a_part(model: nn.Module, _: int) -> None:
    model.set_submodule("block.1", seeded(lambda: nn.RMSNorm(8))())


def replace_a_weight(model: nn.Module, _: int) -> None:
    weight = model.get_parameter("block.0.weight")
    model.get_submodule("block.0").weight = nn.Parameter(weight.detach() * 0.5)


def freeze_a_part(model: nn.Module, _: int) -> None:
    model.get_submodule("block").requires_grad_(False)


def prune_a_part(model: nn.Module, _: int) -> None:
    prune.l1_unstructured(model.get_submodule("first"), "weight", amount=0.5)  # type: ignore[no-untyped-call]


def to_double(model: nn.Module, _: int) -> None:
    model.get_submodule("block").double()
    model.get_submodule("block").register_forward_pre_hook(lambda m, x: (x[0].double(),))
    model.get_submodule("block").register_forward_hook(lambda m, x, y: y.float())


def load_a_state(model: nn.Module, _: int) -> None:
    model.load_state_dict(make().state_dict(), assign=True)


def converted(model: nn.Module, _: int) -> None:
    gb.convert(model)


@pytest.mark.parametrize(
    "change",
    [
        *(replace_a_part, replace_a_weight, freeze_a_part, prune_a_part, to_double, load_a_state),
        converted,
    ],
)
def test_a_model_that_changes(change: Callable[[nn.Module, int], object], path: Path) -> None:
    frames, said = unharmed(make, changes(change), path)
    assert not [text for text in said if "training continues" in text]
    assert len(frames) == 20, said


def exported(model: nn.Module) -> None:
    model.eval()
    torch.export.export(model, (drawn(4, 6, seed=0),))
    model.train()


def exported_in_training(model: nn.Module) -> None:
    torch.export.export(model, (drawn(4, 6, seed=0),))


def traced(model: nn.Module) -> None:
    torch.jit.trace(model.eval(), drawn(4, 6, seed=0))
    model.train()


def symbolically(model: nn.Module) -> None:
    torch.fx.symbolic_trace(model)


def averaged(model: nn.Module) -> None:
    AveragedModel(model).update_parameters(model)


def summarized(model: nn.Module) -> None:
    with torch.device("meta"):
        meta = Net()
    meta(torch.empty(4, 6, device="meta"))


USES = [exported, exported_in_training, traced, symbolically, averaged, summarized]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("use", USES)
def test_a_model_that_is_used_in_between(use: Callable[[nn.Module], object], path: Path) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        if number in (3, 4):
            use(model)
        return plain_step(classes)(model, optimizer, number)

    frames, said = unharmed(make, step, path, steps=8)
    assert not [text for text in said if "training continues" in text]
    assert len(frames) == 8, said


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradients[0]


class Recursive(nn.Module):
    """Calls itself, its own functions and an autograd function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        x = Square.apply(torch.tanh(self.linear(x)))
        return self(x, depth - 1) if depth else self.head(x)


class Sparse(nn.Module):
    """Sparse gradients, bags, a padded word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.bag = nn.Embedding(20, 6, sparse=True), nn.EmbeddingBag(20, 6, sparse=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x.abs() * 10).long().clamp(max=19)
        return self.head(self.words(ids).sum(1) + self.bag(ids))


class Attends(nn.Module):
    """torch's own attention, with weights and without, and its fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None].expand(-1, 3, -1).contiguous()
        y, _ = self.attention(x, x, x)
        z = F.scaled_dot_product_attention(y, x, x, is_causal=True)
        w, _ = self.attention(z, x, x, need_weights=False)
        return self.head((x + w).mean(1))


class Cells(nn.Module):
    """A loop over time with a cell, a GRU on packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.gru, self.head = nn.LSTMCell(6, 6), nn.GRU(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for _ in range(3):
            state = self.cell(x, state)
        assert state is not None
        packed = nn.utils.rnn.pack_padded_sequence(
            torch.stack([x, state[0]]), [2] * len(x), enforce_sorted=False
        )
        _, last = self.gru(packed)
        return self.head(last[0])


class Strided(nn.Module):
    """Views, transposes, expanded and channels-last tensors, scalars, integers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.scale, self.head = nn.Parameter(torch.tensor(1.5)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        picture = x[:, None, :, None].expand(-1, 1, -1, 5)
        y = self.norm(self.conv(picture.contiguous(memory_format=torch.channels_last)))
        y = F.leaky_relu(y.transpose(2, 3)) * self.scale
        y = F.max_pool2d(y + y.flip(-1), 2)
        return self.head(y[..., ::2].mean((2, 3)))


class Precisions(nn.Module):
    """Half precision and double precision side by side, random activations."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(6, 6).bfloat16(), nn.Linear(6, 6).double()
        self.act, self.head = nn.RReLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.low(x.bfloat16()).float()
        z = self.high(y.double())
        noisy = F.gumbel_softmax(z, hard=True) + F.alpha_dropout(z, 0.2, self.training)
        return self.head(self.act(noisy.float()))


class Infinite(Net):
    """NaN and infinities in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = torch.where(y > 1, torch.full_like(y, torch.inf), y)
        y = torch.where(y < -1, torch.full_like(y, torch.nan), y)
        return self.head(self.block(torch.nan_to_num(F.relu(y), 0.0, 1.0, -1.0)))


@pytest.mark.filterwarnings("ignore:RNN module weights")
@pytest.mark.parametrize(
    "kind",
    [Recursive, Sparse, Attends, Cells, Strided, Precisions, Infinite],
    ids=lambda k: k.__name__,
)
def test_other_models(kind: type[nn.Module], path: Path) -> None:
    frames, said = unharmed(seeded(kind), plain_step(classes), path)
    assert not [text for text in said if "training continues" in text]
    assert len(frames) == 20, said


@pytest.mark.parametrize("how", ["interrupted", "exhausted"])
def test_what_ends_a_pass_is_not_swallowed(how: str, path: Path) -> None:
    """Ctrl-C within forward, and a generator's end, reach the training.

    torch runs no hooks after Ctrl-C: what a watch has begun ends with the next pass.
    """
    error: type[BaseException] = KeyboardInterrupt if how == "interrupted" else StopIteration
    model = make()
    before = trace(model)

    def raises(*_: object) -> None:
        raise error

    with warned(), gb.watch(model, path, every=1) as signal:
        handle = model.get_submodule("block").register_forward_hook(raises)
        with pytest.raises(error):
            classes(model, 0)
        handle.remove()
        train(model, plain_step(classes), signal, 2)
        assert torch.overrides._get_current_function_mode() is None  # type: ignore[no-untyped-call]
    assert trace(model) == before
    assert len(frames_of(path)) == 2
