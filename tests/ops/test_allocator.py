"""Freed memory is kept where a person asks for it, and only there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from gammabeta.ops import allocator, reuse_memory

# Page faults of one iteration that makes and frees a tensor of 40 MB, more than glibc ever keeps
# unasked (32 MB); in a process of its own, as the setting is for good.
FAULTS = """
import resource, threading, warnings
import torch
import gammabeta as gb

def iteration():
    torch.ones(10_000_000)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def measure():
    counts = []
    for _ in range(16):
        before = faults()
        iteration()
        counts.append(faults() - before)
    # The first ones grow the heap. The median: so may a later one, now and then.
    print(sorted(counts[7:])[4])

{call}
{measure}
"""
IN_A_THREAD = "thread = threading.Thread(target=measure); thread.start(); thread.join()"
PAGES = 40_000_000 // os.sysconf("SC_PAGE_SIZE")

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def run(
    call: str, measure: str = "measure()", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call, measure=measure)],
        env={**os.environ, allocator.VARIABLE: "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )


@glibc
def test_reused_memory_costs_no_page_faults() -> None:
    assert int(run("assert gb.ops.reuse_memory()").stdout) < PAGES / 100


@glibc
def test_a_thread_reuses_memory_too() -> None:
    assert int(run("gb.ops.reuse_memory()", IN_A_THREAD).stdout) < PAGES / 100


@glibc
def test_the_environment_can_ask_for_it() -> None:
    ran = run("", **{allocator.VARIABLE: "1"})
    assert int(ran.stdout) < PAGES / 100
    assert not ran.stderr


@glibc
@pytest.mark.parametrize("value", ["", "0", "yes"])
def test_unasked_nothing_changes(value: str) -> None:
    ran = run("", **{allocator.VARIABLE: value})
    # A page may be a huge one, where the kernel hands those out unasked: 512 times fewer faults.
    assert int(ran.stdout) > PAGES / 600
    warned = f"{allocator.VARIABLE}='yes' is neither 0 nor 1" in ran.stderr
    assert warned == (value == "yes")


def test_without_glibc_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not reuse_memory()
    monkeypatch.setenv(allocator.VARIABLE, "1")
    with pytest.warns(UserWarning, match="GAMMABETA_REUSE_MEMORY=1 has no effect"):
        allocator.reuse_memory_if_asked()


@glibc
def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = iter((1, 2))
    monkeypatch.setattr(allocator, "_address", lambda function: next(addresses))
    assert not reuse_memory()
