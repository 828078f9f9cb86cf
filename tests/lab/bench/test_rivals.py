"""Every rival computes the same thing, so that times are comparable at all."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gammabeta.lab.bench import rivals
from gammabeta.lab.bench.inputs import FORMATS, OPS, Inputs, bytes_moved, draw

SHAPE = (8, 4, 5, 5)


def exact(what: str, inputs: Inputs) -> list[Tensor]:
    """Gradients by torch in float64."""
    x, residual, upstream = (
        tensor.detach().double() for tensor in (inputs.x, inputs.residual, inputs.upstream)
    )
    same = Inputs(x.requires_grad_(), residual.requires_grad_(), upstream, inputs.format)
    forward, norm = rivals.torch_forward(what, same)
    norm.double()
    wanted = [x, *norm.parameters(), *([residual] if what == "bn+add+relu" else [])]
    return list(torch.autograd.grad(forward(x, residual), wanted, upstream))


def made_by(who: str, what: str, inputs: Inputs) -> list[Tensor]:
    made: Any = rivals.build(who, what, inputs)()
    if who == "jax":
        y, of_x, of_parameters, _, of_residual = made
        dense = [of_x, of_parameters["scale"], of_parameters["bias"], of_residual]
        found = [torch.tensor(np.asarray(g, dtype="float32")) for g in dense if g is not None]
        if inputs.channels_last:
            found = [g.permute(0, 3, 1, 2) if g.dim() == 4 else g for g in found]
        assert y.shape == dense[0].shape
        return found
    return [g.to_dense() if g.is_mkldnn else g for g in made]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("what", OPS)
@pytest.mark.parametrize("who", ["gammabeta", "eager", "inplace", "onednn", "jax"])
def test_gradients_are_those_of_float64(who: str, what: str, name: str) -> None:
    if who == "jax":
        pytest.importorskip("flax")
    inputs = draw(SHAPE, name)
    if (who, what) == ("inplace", "bn"):
        with pytest.raises(rivals.Absent, match="no activation to do in place"):
            rivals.build(who, what, inputs)
        return
    found = made_by(who, what, inputs)
    truth = exact(what, inputs)
    assert [tuple(g.shape) for g in found] == [tuple(g.shape) for g in truth]
    # float32: sums of 200 values of size 1. bfloat16: 8 bits, in ∂γ and ∂β added up 200 times,
    # and a value within a rounding of 0 may be cut by the ReLU or not.
    tolerance = 1e-4 if name.startswith("fp32") else 0.1
    for mine, right in zip(found, truth, strict=True):
        worst = (mine.double() - right).abs().quantile(0.97) / right.abs().max()
        assert worst < tolerance


def test_a_relu_alone_and_a_copy_do_what_they_say() -> None:
    inputs = draw(SHAPE, "fp32-nchw")
    (gradient,) = rivals.build("relu", "relu", inputs)()  # type: ignore[misc]
    assert torch.equal(gradient, inputs.upstream * (inputs.x > 0))
    assert torch.equal(rivals.build("copy", "copy", inputs)(), inputs.x)  # type: ignore[arg-type]


def test_gradients_are_returned_and_never_accumulated() -> None:
    inputs = draw(SHAPE, "fp32-nchw")
    call = rivals.build("gammabeta", "bn+add+relu", inputs)
    first, second = call(), call()
    assert inputs.x.grad is None
    assert all(map(torch.equal, first, second))  # type: ignore[arg-type]


def test_what_cannot_take_part_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(rivals.Absent, match=r"\(N, C, H, W\) only"):
        rivals.build("onednn", "bn", draw((8, 4), "fp32-nchw"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(rivals.Absent, match="needs a C\\+\\+ compiler"):
        rivals.build("compile", "bn", draw((8, 4), "fp32-nchw"))


def test_bytes_are_those_of_the_tensors_in_and_out() -> None:
    one = 4 * 8 * 4 * 25
    of = {what: bytes_moved(what, (8, 4, 5, 5), "fp32-nchw") / one for what in ("copy", *OPS)}
    # copy: x, y. bn: x, y; ∂y, x, ∂x. With a residual: r in, ∂r out as well.
    assert of == {"copy": 2, "bn": 5, "bn+relu": 5, "bn+add+relu": 7}
    assert bytes_moved("bn", SHAPE, "bf16-channels_last") == 5 * one / 2


def test_tensors_are_laid_out_as_the_format_says() -> None:
    assert draw(SHAPE, "fp32-nchw").x.is_contiguous()
    drawn = draw(SHAPE, "bf16-channels_last", seed=3)
    for tensor in (drawn.x, drawn.residual, drawn.upstream):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert tensor.dtype is torch.bfloat16
    assert torch.equal(drawn.x, draw(SHAPE, "bf16-channels_last", seed=3).x)
    assert not torch.equal(drawn.x, draw(SHAPE, "bf16-channels_last", seed=4).x)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_rival_computes_the_same() -> None:
    inputs = draw(SHAPE, "fp32-channels_last")
    rivals.forget()
    try:
        found = made_by("compile", "bn+add+relu", inputs)
    except rivals.Absent as e:  # a compiler alone is not all it needs
        pytest.skip(str(e))
    finally:
        rivals.forget()
    for mine, right in zip(found, exact("bn+add+relu", inputs), strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-4)
