"""What a network of the zoo computes, and what it is prepared for."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.lab.bench.net_models import Network
from gammabeta.lab.bench.zoo_distance import tensors_of
from gammabeta.ops.cpu.support import SMALL


@dataclass(frozen=True)
class Outcome:
    """What a network computes: evaluation, training, gradients, running statistics."""

    evaluation: dict[str, Tensor]
    training: dict[str, Tensor]
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]


def prepare(network: Network) -> None:
    """Give norms a γ, a β and statistics that matter, and take dropout out; in place."""
    generator = torch.Generator().manual_seed(1)
    norms = [m for m in network.model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    with torch.no_grad():
        for module in network.model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if "Norm" in type(module).__name__ and isinstance(weight, Tensor):
                weight.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
                if isinstance(bias, Tensor):
                    bias.copy_(0.2 * torch.randn(bias.shape, generator=generator))
        momenta = [module.momentum for module in norms]
        for module in norms:
            module.momentum = 1.0  # the statistics are then those of this mini-batch
        network.model.train()(*network.args, **network.kwargs)
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
            if module.running_mean is not None and module.running_var is not None:
                # Not those of the mini-batch, or an update in training would change nothing.
                noise = torch.randn(module.running_mean.shape, generator=generator)
                module.running_mean += 0.2 * noise * module.running_var.sqrt()
                module.running_var *= 0.7 + 0.7 * torch.rand(noise.shape, generator=generator)


@contextlib.contextmanager
def kernels_at_any_size() -> Iterator[None]:
    """Have gammabeta's kernels compute small tensors too, which are otherwise left to torch."""
    kept = dict(SMALL)
    SMALL.clear()
    try:
        yield
    finally:
        SMALL.update(kept)


def run(model: nn.Module, network: Network) -> Outcome:
    """Run evaluation, then training, forward and backward; the model's state is put back."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = tuple(_leaf(tensor) for tensor in network.args)
    kwargs = {key: _leaf(tensor) for key, tensor in network.kwargs.items()}
    try:
        evaluation = evaluate(model, network)
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        training = tensors_of(model.train()(*args, **kwargs))
        generator = torch.Generator().manual_seed(2)
        loss: Any = sum(
            (out * torch.randn(out.shape, generator=generator).to(out)).sum()
            for out in training.values()
            if out.requires_grad
        )
        loss.backward()
        gradients = {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }
        inputs = {**{str(k): x for k, x in enumerate(args)}, **kwargs}
        gradients |= {f"input {k}": x.grad for k, x in inputs.items() if x.grad is not None}
        after = model.state_dict()
        buffers = {name: after[name].clone() for name, _ in model.named_buffers() if name in after}
        return Outcome(evaluation, _detached(training), gradients, buffers)
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.copy_(state[name])


def evaluate(model: nn.Module, network: Network) -> dict[str, Tensor]:
    """Return the outputs in evaluation mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        return _detached(tensors_of(model.eval()(*network.args, **network.kwargs)))


def double(network: Network) -> Network:
    """Return a copy of ``network`` in float64, with the same numbers."""
    return Network(
        network.name,
        copy.deepcopy(network.model).double(),
        network.shape,
        tuple(_double(tensor) for tensor in network.args),
        {key: _double(tensor) for key, tensor in network.kwargs.items()},
    )


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether shape, dtype and bits are the same; NaN is the same as NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b) or _same_nan(a, b))


def _same_nan(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _leaf(tensor: Tensor) -> Tensor:
    """Return pictures with a gradient; wav2vec2 refuses one of its waves."""
    pictures = tensor.is_floating_point() and tensor.dim() > 2
    return tensor.detach().requires_grad_() if pictures else tensor


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
