"""Measures of how hard a network is to train, for any `torch.nn.Module` (Santurkar et al. 2018)."""

from gammabeta.lab.measures.covariate_shift import CovariateShift, LayerShift, covariate_shift
from gammabeta.lab.measures.landscape import Landscape, landscape
from gammabeta.lab.measures.noise import Noise, noisy

__all__ = [
    "CovariateShift",
    "Landscape",
    "LayerShift",
    "Noise",
    "covariate_shift",
    "landscape",
    "noisy",
]
