"""What rules on batches look at: forward passes, each run once, and what was seen in them."""

from gammabeta.doctor.evidence.batch import first_tensor, target_of
from gammabeta.doctor.evidence.forward_pass import Broken, Call, Functional, Output, Pass
from gammabeta.doctor.evidence.gather import EVALUATED, PASSES, TRAINED, Evidence, SpentError
from gammabeta.doctor.evidence.score import LossError, loss_of

__all__ = [
    "EVALUATED",
    "PASSES",
    "TRAINED",
    "Broken",
    "Call",
    "Evidence",
    "Functional",
    "LossError",
    "Output",
    "Pass",
    "SpentError",
    "first_tensor",
    "loss_of",
    "target_of",
]
