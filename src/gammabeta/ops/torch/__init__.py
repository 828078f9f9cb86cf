"""The torch backend: every norm in torch's own operators, on any device, under any transform."""

from gammabeta.ops.torch.norms import forward
from gammabeta.ops.torch.phases import apply, backward, statistics

__all__ = ["apply", "backward", "forward", "statistics"]
