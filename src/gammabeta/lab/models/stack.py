"""The stack: a few fully connected layers, each linear → norm → activation, and a classifier.

The network of the paper's MNIST experiment (section 4.1), with its size and parts as arguments.
Two stacks built with the same seed start from the same weights whatever their normalization,
so that a pair of them differs in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gammabeta.layers import BatchNorm1d, GroupNorm, LayerNorm, RMSNorm
from gammabeta.names import known

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}
NORMS = ("none", "batch", "layer", "group", "rms")
GROUPS = 8
"""G of group norm, unless asked otherwise."""


class StackLayer(nn.Module):
    """One layer of the stack: z = Wu + b, its normalization, the activation.

    Attributes:
        linear: gives z, (N, width).
        norm: gives γx̂ + β, (N, width); an identity for ``norm="none"``.
        activation: gives the layer's output, (N, width).
    """

    def __init__(self, inputs: int, width: int, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.norm = norm
        self.activation = activation

    def forward(self, u: Tensor) -> Tensor:
        """Return ``activation(norm(linear(u)))``: (N, inputs) → (N, width)."""
        y: Tensor = self.activation(self.norm(self.linear(u)))
        return y


class Stack(nn.Module):
    """``depth`` layers of ``width`` units and a linear classifier.

    Args:
        inputs: features of an example.
        classes: outputs of the classifier.
        depth: number of layers, at least 1.
        width: units a layer, at least 1; a multiple of ``groups`` for ``norm="group"``.
        activation: ``"sigmoid"``, ``"tanh"``, ``"relu"`` or ``"gelu"``.
        norm: ``"none"``, ``"batch"``, ``"layer"``, ``"group"`` or ``"rms"``.
        init_scale: multiplies the Glorot-normal standard deviation √(2 / (fan_in + fan_out)) of
            the layers' weights; biases start at 0, the classifier is not scaled.
        seed: of the weights. The global random state is neither read nor moved.
        momentum: of batch norm's running averages.
        groups: G of group norm.

    Raises:
        ValueError: a name that is not known, or a number out of range.

    Example:
        >>> plain, steady = Stack(64, 10, norm="none"), Stack(64, 10, norm="batch")
        >>> torch.equal(plain.layers[0].linear.weight, steady.layers[0].linear.weight)
        True
        >>> steady(torch.randn(32, 64)).shape
        torch.Size([32, 10])
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        depth: int = 4,
        width: int = 64,
        activation: str = "tanh",
        norm: str = "batch",
        init_scale: float = 1.0,
        seed: int = 0,
        momentum: float = 0.1,
        groups: int = GROUPS,
    ) -> None:
        super().__init__()
        for argument, value in (
            ("inputs", inputs),
            ("classes", classes),
            ("depth", depth),
            ("width", width),
            ("groups", groups),
        ):
            if value < 1:
                raise ValueError(f"{argument}={value} must be at least 1")
        if not (math.isfinite(init_scale) and init_scale > 0):
            raise ValueError(f"init_scale={init_scale} must be a positive number")
        activation_type = ACTIVATIONS[known("activation", activation, ACTIVATIONS)]
        known("norm", norm, NORMS)
        if norm == "group" and width % groups:
            raise ValueError(f"width={width} must be a multiple of groups={groups} (norm='group')")
        make_norm: dict[str, Callable[[], nn.Module]] = {
            "none": nn.Identity,
            "batch": lambda: BatchNorm1d(width, momentum=momentum),
            "layer": lambda: LayerNorm(width),
            "group": lambda: GroupNorm(groups, width),
            "rms": lambda: RMSNorm(width),
        }
        self.layers = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):  # torch's constructors draw; ours are drawn below
            for index in range(depth):
                self.layers.append(
                    StackLayer(
                        inputs if index == 0 else width, width, make_norm[norm](), activation_type()
                    )
                )
            self.classifier = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    gain = 1.0 if module is self.classifier else init_scale
                    nn.init.xavier_normal_(module.weight, gain, generator)
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores: x (N, inputs) or (N, ...) with as many features → (N, classes)."""
        u = x.flatten(1)
        for layer in self.layers:
            u = layer(u)
        y: Tensor = self.classifier(u)
        return y
