"""Who is measured: each builds one call that runs an operation forward and backward.

All get the same tensors, want gradients of the input, the residual, γ and β, and update running
statistics. Gradients are returned, not accumulated: adding them up is the optimizer's business.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

import gammabeta
from gammabeta.lab.bench.inputs import Inputs
from gammabeta.lab.bench.timing import Call

Forward = Callable[[Tensor, Tensor], Tensor]


class Absent(Exception):
    """A rival cannot take part; the message says why."""


def build(who: str, what: str, inputs: Inputs) -> Call:
    """Return the call that is timed.

    Args:
        who: of `RIVALS`, ``"gammabeta"``, ``"relu"`` (bare `torch.relu`, forward and backward) or
            ``"copy"`` (``y.copy_(x)``).
        what: the operation, of `gammabeta.lab.bench.inputs.OPS`; nothing to relu and copy.
        inputs: the tensors.

    Returns:
        A call that returns what it made (gradients last), so that nothing can be left out.

    Raises:
        Absent: ``who`` cannot take part here.

    Example:
        >>> from gammabeta.lab.bench.inputs import draw
        >>> call = build("gammabeta", "bn+relu", draw((4, 3, 2, 2), "fp32-nchw"))
        >>> [tuple(gradient.shape) for gradient in call()]
        [(4, 3, 2, 2), (3,), (3,)]
    """
    return _BUILDERS[who](what, inputs)


def forget() -> None:
    """Forget what was compiled for earlier shapes: torch.compile gives up after eight."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def _copy(what: str, inputs: Inputs) -> Call:
    x = inputs.x.detach()
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


def _relu(what: str, inputs: Inputs) -> Call:
    return _differentiated(lambda x, residual: torch.relu(x), inputs, ())


def gammabeta_forward(what: str, inputs: Inputs) -> tuple[Forward, nn.Module]:
    """Return the operation of gammabeta's layer, and the layer.

    Args:
        what: the operation.
        inputs: what it will be called with.
    """
    cls = gammabeta.BatchNorm2d if inputs.x.dim() == 4 else gammabeta.BatchNorm1d
    layer = cls(inputs.x.shape[1], activation=None if what == "bn" else "relu")

    def adds(x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = layer(x, residual=residual)
        return y

    def plain(x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = layer(x)
        return y

    return adds if what == "bn+add+relu" else plain, layer


def torch_forward(what: str, inputs: Inputs, inplace: bool = False) -> tuple[Forward, nn.Module]:
    """Return the operation of torch's layers, and the norm in it.

    Args:
        what: the operation.
        inputs: what it will be called with.
        inplace: whether the activation overwrites what it is given.
    """
    cls = nn.BatchNorm2d if inputs.x.dim() == 4 else nn.BatchNorm1d
    norm, relu = cls(inputs.x.shape[1]), nn.ReLU(inplace=inplace)

    def bn(x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = norm(x)
        return y

    def bn_relu(x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = relu(norm(x))
        return y

    def bn_add_relu(x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = relu(norm(x) + residual)
        return y

    return {"bn": bn, "bn+relu": bn_relu, "bn+add+relu": bn_add_relu}[what], norm


def _gammabeta(what: str, inputs: Inputs) -> Call:
    forward, layer = gammabeta_forward(what, inputs)
    return _differentiated(forward, inputs, layer.parameters(), what == "bn+add+relu")


def _eager(what: str, inputs: Inputs, inplace: bool = False) -> Call:
    forward, norm = torch_forward(what, inputs, inplace)
    return _differentiated(forward, inputs, norm.parameters(), what == "bn+add+relu")


def _inplace(what: str, inputs: Inputs) -> Call:
    if what == "bn":
        raise Absent("has no activation to do in place")
    return _eager(what, inputs, inplace=True)


def _compile(what: str, inputs: Inputs) -> Call:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise Absent("torch.compile needs a C++ compiler, and there is no g++ or clang++")
    forward, norm = torch_forward(what, inputs)
    try:
        compiled: Forward = torch.compile(forward, dynamic=False)
        call = _differentiated(compiled, inputs, norm.parameters(), what == "bn+add+relu")
        call()
    except Exception as e:  # a compiler may fail in any way
        raise Absent(f"torch.compile failed: {type(e).__name__}: {str(e)[:120]}") from e
    return call


def _onednn(what: str, inputs: Inputs) -> Call:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise Absent("this torch is built without oneDNN")
    if inputs.x.dim() != 4:
        raise Absent("torch's oneDNN batch norm takes (N, C, H, W) only")
    x, residual, upstream = map(_in_onednn, (inputs.x, inputs.residual, inputs.upstream))
    own = Inputs(x.requires_grad_(), residual.requires_grad_(), upstream, inputs.format)
    call = _eager(what, own)
    try:
        call()
    except RuntimeError as e:
        raise Absent(f"torch's oneDNN tensors refuse it: {str(e).splitlines()[0][:120]}") from e
    return call


def _in_onednn(tensor: Tensor) -> Tensor:
    """``tensor`` in the blocked layout of oneDNN's convolutions, where its norms are fastest.

    `to_mkldnn` alone keeps the plain layout, in which they are several times slower. A 1 × 1
    convolution by the unit matrix changes no bit.
    """
    channels = tensor.shape[1]
    unit = torch.eye(channels, dtype=tensor.dtype).view(channels, channels, 1, 1)
    with torch.no_grad():
        return torch.mkldnn_convolution(
            tensor.detach().to_mkldnn(), unit, None, (0, 0), (1, 1), (1, 1), 1
        )


def _jax(what: str, inputs: Inputs) -> Call:
    from gammabeta.lab.bench import rival_jax  # JAX is slow to import, and seldom there

    try:
        return rival_jax.build(what, inputs)
    except ImportError as e:
        raise Absent(f"{e}; pip install jax flax") from e


def _differentiated(
    forward: Forward, inputs: Inputs, parameters: Iterable[Tensor], adds: bool = False
) -> Call:
    """``forward`` and the gradients of all it reads."""
    x, residual, upstream = inputs.x, inputs.residual, inputs.upstream
    wanted = [x, *parameters, *([residual] if adds else [])]

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(x, residual), wanted, upstream)

    return call


_BUILDERS: dict[str, Callable[[str, Inputs], Call]] = {
    "copy": _copy,
    "relu": _relu,
    "gammabeta": _gammabeta,
    "eager": _eager,
    "inplace": _inplace,
    "compile": _compile,
    "onednn": _onednn,
    "jax": _jax,
}

RIVALS = {
    "eager": "torch's layers, one after the other",
    "inplace": "the same with nn.ReLU(inplace=True)",
    "compile": "the same under torch.compile, compiled for each shape",
    "onednn": "the same on torch's oneDNN tensors, in the layout its convolutions make",
    "jax": "flax's BatchNorm, forward and backward in one jit, on XLA's own threads",
}
"""Name → what it is."""
