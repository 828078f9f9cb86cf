"""An LSTM with a place for normalization: what the normalized LSTMs share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gammabeta.layers.allocated import check_allocated
from gammabeta.layers.epilogue import without_tensor
from gammabeta.layers.sizes import check_size

State = tuple[Tensor, Tensor]
Step = Callable[[Tensor, int], Tensor]
"""Normalizes the (N, features) values of one timestep: values, timestep → values."""
Update = Callable[[], Callable[[], None]]
"""Computes new statistics, or raises; what it returns writes them."""


class NormalizedLSTM(nn.Module):
    """Layers, directions, states and packed sequences; a subclass says what is normalized, how."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            check_size(name, size, "a size")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout}: it is a probability; give 0 to 1")
        if dropout > 0 and num_layers == 1:  # a warning, as nn.LSTM's: configurations rely on it
            warnings.warn(
                f"dropout={dropout} has no effect with num_layers=1: it is applied between "
                "layers; give dropout=0 or more layers",
                stacklevel=3,
            )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional = bidirectional
        for layer in range(num_layers):
            size = input_size if layer == 0 else hidden_size * self._directions
            for suffix in self._suffixes(layer):
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (4 * hidden_size, size),
                    "weight_hh": (4 * hidden_size, hidden_size),
                }
                if bias:
                    shapes["bias_ih"] = shapes["bias_hh"] = (4 * hidden_size,)
                for name, shape in shapes.items():
                    parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    self.register_parameter(f"{name}_{suffix}", parameter)
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        """Torch's names of one layer's directions: ``l0``, and ``l0_reverse`` if there is one."""
        return [f"l{layer}", f"l{layer}_reverse"][: self._directions]

    def _tensor(self, name: str) -> Tensor:
        """A weight or bias: a parameter, or what a parametrization or `torch.func` puts there."""
        tensor: Tensor = getattr(self, name)
        return tensor

    def _add_norms(self, make: Callable[[int, bool], nn.Module]) -> None:
        """Add what normalizes W_x x, W_h h and c of each direction: ``make(features, has β)``."""
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                # The first two are added to b, which is their β.
                for part, features, shift in (
                    ("ih", 4 * self.hidden_size, False),
                    ("hh", 4 * self.hidden_size, False),
                    ("c", self.hidden_size, self.bias),
                ):
                    self.add_module(f"norm_{part}_{suffix}", make(features, shift))

    def reset_parameters(self) -> None:
        """Draw weights and biases as nn.LSTM does, from U(±1/√H); reads the global RNG."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith(("weight_", "bias_")):
                nn.init.uniform_(parameter, -bound, bound)

    def _normalizers(
        self, suffix: str, length: int, live: Tensor | None, updates: list[Update]
    ) -> tuple[Callable[[Tensor], Tensor], Step, Step]:
        """Return what normalizes W_x x (all timesteps at once), W_h h and c of one direction.

        Args:
            suffix: which layer and direction.
            length: T.
            live: (T, N) bool, True where a sequence has not ended; None for everywhere.
            updates: to append what moves statistics once the whole forward pass has succeeded.
        """
        raise NotImplementedError

    def forward(
        self, input: Tensor | PackedSequence, hx: State | None = None
    ) -> tuple[Tensor | PackedSequence, State]:
        """Return the last layer's h_1 … h_T, and (h_n, c_n), as nn.LSTM does.

        Args:
            input: (T, N, input_size), (N, T, input_size) if ``batch_first``, (T, input_size) for
                one sequence, or a `torch.nn.utils.rnn.PackedSequence` of sequences of several
                lengths.
            hx: h_0 and c_0, each (num_layers · directions, N, hidden_size), or without N for one
                sequence; None for zeros.

        Returns:
            The output, (T, N, directions · hidden_size) in the layout of ``input`` (packed if it
            was), and (h_n, c_n), shaped as ``hx``; each sequence's at its own end.

        Raises:
            ValueError: a shape or dtype other than the above, or a sequence of no steps.

        Numerics:
            Under `torch.autocast` the products are in the lower precision. With a float32 b, the
            gates, the state and so the output are float32, where nn.LSTM's are not.
        """
        if isinstance(input, PackedSequence):
            check_allocated(self, input=input.data)
            # In the packed order, longest first, so that output.data lines up with input.data.
            order, back = input.sorted_indices, input.unsorted_indices
            x, lengths = pad_packed_sequence(PackedSequence(input.data, input.batch_sizes))
            h, c = self._checked(x, hx, batched=True)
            if order is not None:
                h, c = h[:, order], c[:, order]
            output, (h, c) = self._layers(x, (h, c), lengths.to(x.device))
            data = pack_padded_sequence(output, lengths).data
            if back is not None:
                h, c = h[:, back], c[:, back]
            return PackedSequence(data, input.batch_sizes, order, back), (h, c)
        if not isinstance(input, Tensor):
            traced: tuple[Tensor, State] = without_tensor(self, input, hx)
            return traced
        check_allocated(self, input=input)
        if input.dim() not in (2, 3):
            raise ValueError(
                f"input has shape {tuple(input.shape)}; give (T, N, {self.input_size}), or "
                f"(T, {self.input_size}) for one sequence"
            )
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        if batched and self.batch_first:
            x = x.transpose(0, 1)
        state = self._checked(x, hx, batched)
        output, (h, c) = self._layers(x, state, None)
        if not batched:
            return output.squeeze(1), (h.squeeze(1), c.squeeze(1))
        return output.transpose(0, 1) if self.batch_first else output, (h, c)

    def _checked(self, x: Tensor, hx: State | None, batched: bool) -> State:
        """Return h_0 and c_0, (layers · directions, N, H), for x, (T, N, input size)."""
        steps, n, size = x.shape
        if size != self.input_size:
            raise ValueError(
                f"input has {size} features; the layer expects input_size={self.input_size}"
            )
        if steps == 0:
            raise ValueError("input has no timesteps; give sequences of at least one")
        dtype = self._tensor("weight_ih_l0").dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"input has dtype {x.dtype}, the parameters {dtype}; give input.to({dtype}), "
                f"call to({x.dtype}) on the layer, or use torch.autocast"
            )
        shape = (self.num_layers * self._directions, n, self.hidden_size)
        if hx is None:
            return x.new_zeros(shape), x.new_zeros(shape)
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            given = f"{len(hx)} items" if isinstance(hx, (tuple, list)) else type(hx).__name__
            raise ValueError(f"hx must be a pair of tensors, (h_0, c_0), not {given}")
        if not batched and hx[0].dim() == hx[1].dim() == 2:
            hx = hx[0].unsqueeze(1), hx[1].unsqueeze(1)
        for name, state in zip(("h_0", "c_0"), hx, strict=True):
            if tuple(state.shape) != shape:
                raise ValueError(
                    f"hx: {name} has shape {tuple(state.shape)}; input needs {shape} (num_layers · "
                    "directions, batch, hidden_size)"
                )
            if state.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
                raise ValueError(f"hx: {name} has dtype {state.dtype}, but input has {x.dtype}")
        return hx

    def _layers(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Run every layer and direction over x, (T, N, features)."""
        live = backwards = None
        if lengths is not None:
            time = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
            live = time < lengths
            # A sequence is reversed within its own length; its padding stays where it is.
            backwards = torch.where(live, lengths - 1 - time, time).unsqueeze(2)
        updates: list[Update] = []
        last_h, last_c = [], []
        for layer in range(self.num_layers):
            outputs = []
            for direction, suffix in enumerate(self._suffixes(layer)):
                index = layer * self._directions + direction
                h, c = state[0][index], state[1][index]
                forwards = direction == 0
                seen = x if forwards else _reversed(x, backwards)
                output, h, c = self._run(seen, h, c, suffix, live, updates)
                outputs.append(output if forwards else _reversed(output, backwards))
                last_h.append(h)
                last_c.append(c)
            x = torch.cat(outputs, dim=2)
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        # Statistics move only now: an error in any layer leaves every layer as it was.
        for write in [update() for update in updates]:
            write()
        return x, (torch.stack(last_h), torch.stack(last_c))

    def _run(
        self,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        suffix: str,
        live: Tensor | None,
        updates: list[Update],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one direction of one layer; return its outputs (T, N, H) and last h, c (N, H)."""
        normalize_input, normalize_hidden, normalize_cell = self._normalizers(
            suffix, x.shape[0], live, updates
        )
        weight_hh = self._tensor(f"weight_hh_{suffix}")
        from_input = normalize_input(F.linear(x, self._tensor(f"weight_ih_{suffix}")))
        if self.bias:
            from_input = from_input + (
                self._tensor(f"bias_ih_{suffix}") + self._tensor(f"bias_hh_{suffix}")
            )
        outputs = []
        for t in range(x.shape[0]):
            gates = from_input[t] + normalize_hidden(F.linear(h, weight_hh), t)
            i, f, g, o = gates.chunk(4, dim=1)
            new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            new_h = o.sigmoid() * normalize_cell(new_c, t).tanh()
            if live is None:
                h, c = new_h, new_c
            else:
                runs = live[t].unsqueeze(1)
                h, c = torch.where(runs, new_h, h), torch.where(runs, new_c, c)
            outputs.append(h)
        return torch.stack(outputs), h, c

    def extra_repr(self) -> str:
        """The arguments, in torch's manner."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        for name, default in defaults.items():
            if getattr(self, name) != default:
                shown.append(f"{name}={getattr(self, name)}")
        return ", ".join(shown)


def _reversed(x: Tensor, backwards: Tensor | None) -> Tensor:
    """Reverse x, (T, N, features), in time: wholly, or by the indices ``backwards``, (T, N, 1)."""
    return x.flip(0) if backwards is None else x.gather(0, backwards.expand_as(x))
