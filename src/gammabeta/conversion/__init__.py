"""Swapping a model's normalization layers: for gammabeta's twins, and for another family."""

from gammabeta.conversion.convert import convert
from gammabeta.conversion.opacus_validators import watch_for_opacus
from gammabeta.conversion.revert import revert

__all__ = ["convert", "revert"]

watch_for_opacus()
