"""Settings and running statistics that a norm keeps under other names, or in other types."""

from __future__ import annotations

from numbers import Real

from torch import Tensor, nn

from gammabeta.layers.running import Running

_NAMES = (("moving_mean", "moving_var"), ("moving_mean", "moving_variance"))


def renamed(module: nn.Module) -> Running | None:
    """Return the running statistics of a norm that calls them as other frameworks do, or None.

    Example:
        >>> layer = nn.Module()
        >>> layer.moving_mean, layer.moving_var = Tensor([0.0]), Tensor([1.0])
        >>> renamed(layer).of
        'other'
    """
    for pair in _NAMES:
        mean, var = (getattr(module, name, None) for name in pair)
        if isinstance(mean, Tensor) and isinstance(var, Tensor):
            return Running("other", mean, var, None, type(module).__name__)
    return None


def number(value: object) -> float | None:
    """Return a setting as a number; None if it is none.

    Example:
        >>> number(1), number(Tensor([0.5])[0]), number(True), number(None)
        (1.0, 0.5, None, None)
    """
    if isinstance(value, Tensor):
        plain = value.numel() == 1 and not value.requires_grad and not value.is_meta
        return float(value) if plain else None
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
