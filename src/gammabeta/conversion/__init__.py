"""Swapping a model's normalization layers: for gammabeta's twins, and for another family."""

from gammabeta.conversion.convert import convert
from gammabeta.conversion.revert import revert

__all__ = ["convert", "revert"]
