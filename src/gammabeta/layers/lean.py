"""The choice between time and memory: whether autograd keeps a layer's output."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
from torch import nn

from gammabeta.names import known

MEMORIES = ("default", "lean")
"""Whether a layer's output is stored for the backward pass or recomputed in it."""


class Lean(nn.Module):
    """Adds ``memory=`` to a layer whose kernel can recompute its output.

    Attributes:
        memory: a name in `MEMORIES`; may be changed between calls.
    """

    memory: str = "default"

    def _set_memory(self, memory: str) -> None:
        self.memory = known("memory", memory, MEMORIES)

    def extra_repr(self) -> str:
        """The description so far, and the choice where it is not the default."""
        own = super().extra_repr()
        return own if self.memory == "default" else f"{own}, memory={self.memory!r}"
