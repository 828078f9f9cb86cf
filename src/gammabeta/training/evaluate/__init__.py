"""How good a trained model is: one crop or 144, one model or several, either kind of statistics."""

from gammabeta.training.evaluate.crops import Crop, centre_crop, crops_144, many_crops
from gammabeta.training.evaluate.evaluate import evaluate
from gammabeta.training.evaluate.evaluation import Errors, Evaluation

__all__ = [
    "Crop",
    "Errors",
    "Evaluation",
    "centre_crop",
    "crops_144",
    "evaluate",
    "many_crops",
]
