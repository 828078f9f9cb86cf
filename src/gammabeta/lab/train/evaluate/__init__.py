"""How good a trained model is: one crop or 144, one model or several, either kind of statistics."""

from gammabeta.lab.data.crops import Crop, centre_crop, crops_144, many_crops
from gammabeta.lab.train.evaluate.evaluate import CROPS, STATISTICS, evaluate
from gammabeta.lab.train.evaluate.evaluation import Errors, Evaluation

__all__ = [
    "CROPS",
    "STATISTICS",
    "Crop",
    "Errors",
    "Evaluation",
    "centre_crop",
    "crops_144",
    "evaluate",
    "many_crops",
]
