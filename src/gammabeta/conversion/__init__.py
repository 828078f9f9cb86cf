"""Swap a model's normalization layers for gammabeta's twins or another family; fold them."""

from gammabeta.conversion.convert import convert
from gammabeta.conversion.fold import fold
from gammabeta.conversion.opacus_validators import watch_for_opacus
from gammabeta.conversion.revert import revert
from gammabeta.conversion.torch_tools import guard_torch_tools

__all__ = ["convert", "fold", "revert"]

watch_for_opacus()
guard_torch_tools()
