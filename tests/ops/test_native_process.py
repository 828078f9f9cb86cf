"""Threads of Python, forked processes, and what torch is told about threads."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from tests.forked import run_program

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("native")]


def train(seed: int, steps: int = 12) -> list[Tensor]:
    """Train a small model on 2 · 32768 elements a layer, and return what is left of it."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 6, 1, 1, generator=generator)
    model = nn.Sequential(
        nn.Conv2d(6, 6, 1, bias=False), gb.BatchNorm2d(6, activation="relu"), gb.BatchNorm2d(6)
    )
    with torch.no_grad():
        model[0].weight.copy_(weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        x = torch.randn(7, 6, 40, 41, generator=generator)
        if step % 2:
            x = x.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        model(x).pow(3).mean().backward()
        optimizer.step()
    return [t.detach().clone() for t in model.state_dict().values()]


def test_two_python_threads_train_as_one_after_the_other() -> None:
    expected = [train(seed) for seed in range(3)]
    found: dict[int, list[Tensor]] = {}
    go = threading.Barrier(3)

    def work(seed: int) -> None:
        go.wait()
        found[seed] = train(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed in range(3):
        assert all(torch.equal(a, b) for a, b in zip(expected[seed], found[seed], strict=True))


FORK = """
import os, warnings, torch
import gammabeta as gb
warnings.simplefilter("ignore")  # newer Pythons warn of every fork beside a thread
gb.ops.use({native!r})
torch.set_num_threads(2)
layer = gb.BatchNorm2d(8, activation="relu")
x = torch.randn(16, 8, 64, 64)
a = x.clone().requires_grad_()
def step():
    y = layer(a, x)
    return [y.detach(), *torch.autograd.grad(y, [a, layer.weight], x)]
parent = step()
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    found = step()
    torch.set_num_threads(1)  # what torch itself does with threads here would hang
    same = all(torch.equal(a, b) for a, b in zip(found, parent))
    os.write(w, b"same" if same else b"other")
    os._exit(0)
os.waitpid(pid, 0)
print(os.read(r, 10).decode(), all(torch.equal(a, b) for a, b in zip(step(), parent)))
"""


def test_a_forked_child_computes_and_does_not_wait_for_threads_it_lacks(
    native: str, tmp_path: Path
) -> None:
    # A child that does wait for them hangs for ever: the timeout is the failure.
    assert run_program(FORK.format(native=native), tmp_path, 60) == (0, "same True\n")


COUNT = """
import os, threading, torch
import gammabeta as gb
gb.ops.use({native!r})
torch.set_num_threads(1)
layer, x = gb.BatchNorm2d(64), torch.randn(8, 64, 56, 56)
layer(x)
before = len(os.listdir("/proc/self/task"))
started = []
def work():
    layer(x)
    started.append(len(os.listdir("/proc/self/task")))
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(started[0] - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_new_python_thread_uses_as_many_threads_as_torch_was_told(
    native: str, tmp_path: Path
) -> None:
    # OpenMP keeps the number a thread; a new one would have as many as there are processors.
    assert run_program(COUNT.format(native=native), tmp_path) == (0, "1\n")
