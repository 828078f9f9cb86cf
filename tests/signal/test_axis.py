"""The axis never changes, and a value is counted once: in its bin, below the axis or above it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gammabeta.signal import axis

EDGES = axis.edges()


def test_the_axis_is_frozen() -> None:
    """Recorded runs hold counts, not edges: another axis would move every recorded shape."""
    assert (axis.LIMIT, axis.LINEAR, axis.BINS) == (100.0, 0.5, 256)


def test_edges() -> None:
    assert EDGES.dtype == torch.float64
    assert EDGES.shape == (257,)
    assert (EDGES[0].item(), EDGES[128].item(), EDGES[256].item()) == (-100.0, 0.0, 100.0)
    assert bool((EDGES.diff() > 0).all())
    assert torch.equal(EDGES, -EDGES.flip(0))  # to the last bit: no drift between the two halves
    # Equal steps of asinh(x / LINEAR); 1e-12 is rounding of numbers up to asinh(200) = 6.
    u = np.arcsinh(EDGES.numpy() / axis.LINEAR)
    np.testing.assert_allclose(
        np.diff(u), 2 * math.asinh(100 / axis.LINEAR) / 256, rtol=0, atol=1e-12
    )
    # By hand: sinh(a/2) = √((cosh a − 1)/2), and cosh(asinh 200) = √40001, so the edge halfway
    # along the upper half is 0.5 · √((200.0025 − 1)/2) = 4.987516.
    assert EDGES[192].item() == pytest.approx(4.987516, abs=1e-6)


def place(x: float) -> int | str:
    """The bin of x by walking the edges: the definition, not the implementation."""
    if x < -100:
        return "under"
    if x > 100:
        return "over"
    inside = [i for i in range(256) if EDGES[i].item() <= x < EDGES[i + 1].item()]
    return inside[0] if inside else 255  # LIMIT itself


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.one_of(finite, st.floats(-100, 100), st.sampled_from(EDGES.tolist()))))
def test_counts_by_definition(values: list[float]) -> None:
    counts, under, over = axis.histogram(np.sort(np.array(values, dtype=np.float64)))
    places = [place(x) for x in values]
    assert counts.dtype == np.int64
    assert counts.shape == (256,)
    assert counts.tolist() == [places.count(i) for i in range(256)]
    assert (under, over) == (places.count("under"), places.count("over"))
    assert int(counts.sum()) + under + over == len(values)


@pytest.mark.parametrize("index", range(257))
def test_an_edge_belongs_to_the_bin_on_its_right(index: int) -> None:
    edge = EDGES[index]
    below, above = (torch.nextafter(edge, torch.tensor(s * 1e9).double()) for s in (-1, 1))
    counts, under, over = axis.histogram(torch.stack([below, edge, above]).numpy())
    expected = [0] * 256
    if index > 0:
        expected[index - 1] += 1  # just below it
    if index < 256:
        expected[index] += 2  # it and just above it
    else:
        expected[255] += 1  # the last edge closes the axis
    assert counts.tolist() == expected
    assert (under, over) == (int(index == 0), int(index == 256))


@pytest.mark.parametrize("index", range(257))
def test_an_edge_between_two_float32_parts_them(index: int) -> None:
    """Of float32 values, too, each is in the bin that its exact value is in."""
    near = np.float32(EDGES[index].item())
    values = np.array(
        [np.nextafter(near, np.float32(-1e9)), near, np.nextafter(near, np.float32(1e9))]
    )
    assert values.dtype == np.float32
    counts, under, over = axis.histogram(values)
    exact, exact_under, exact_over = axis.histogram(values.astype(np.float64))
    assert counts.tolist() == exact.tolist()
    assert (under, over) == (exact_under, exact_over)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype(dtype: torch.dtype) -> None:
    x = (40 * torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    exact = x.double().numpy().ravel()
    kept = x.ravel() if dtype == torch.float64 else x.ravel().float()
    counts, under, over = axis.histogram(kept.sort().values.numpy())
    on_axis = exact[np.abs(exact) <= 100]
    assert counts.tolist() == np.histogram(on_axis, bins=EDGES.numpy())[0].tolist()
    assert (under, over) == (int((exact < -100).sum()), int((exact > 100).sum()))
    assert under > 0
    assert over > 0


def test_nothing_at_all() -> None:
    counts, under, over = axis.histogram(np.empty(0))
    assert (int(counts.sum()), counts.shape, under, over) == (0, (256,), 0, 0)
