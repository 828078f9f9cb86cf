"""The doctor: normalization bugs found in a model and in its training, with evidence and the fix.

`examine` looks at a model, `gammabeta.watch(..., doctor=True)` at a training. A rule is one file in
`gammabeta.doctor.rules`.
"""

from gammabeta.doctor.evidence import Call, Evidence, Functional, Output, Pass
from gammabeta.doctor.examine import examine
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.healthy import assert_healthy
from gammabeta.doctor.intent import intended
from gammabeta.doctor.repair import Change
from gammabeta.doctor.report import Report, UnhealthyError
from gammabeta.doctor.rule import RULES, Rule, on_batches, on_graphs, static, while_training
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.doctor.training.clinic import Clinic, TrainingRule, Watched
from gammabeta.doctor.training.passes import Passed, Step
from gammabeta.signal.attending import Recorded, register

__all__ = [
    "RULES",
    "Call",
    "Change",
    "Clinic",
    "Evidence",
    "Finding",
    "Functional",
    "Norm",
    "Output",
    "Pass",
    "Passed",
    "Recorded",
    "Report",
    "Rule",
    "Step",
    "Subject",
    "TrainingRule",
    "UnhealthyError",
    "Watched",
    "assert_healthy",
    "examine",
    "intended",
    "on_batches",
    "on_graphs",
    "static",
    "while_training",
]

register(Clinic)
