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
from tests.signal.odd_models import Net, classes
from tests.signal.public_models import drawn, seeded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


make = seeded(Net)


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
