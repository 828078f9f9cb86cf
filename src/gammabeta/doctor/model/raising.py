"""Find the norm that refused its input, from the error that a forward pass raised."""

from __future__ import annotations

from types import TracebackType

from gammabeta.doctor.subject import Norm, Subject

_TOO_FEW = ("Expected more than 1 spatial element", "Expected more than 1 value per channel")
_FAMILIES = ("instance", "group")


def refusing_norm(subject: Subject, error: BaseException) -> Norm | None:
    """Return the instance or group norm that ``error`` says has one value for each statistic.

    Torch refuses such an input in every mode, so the model cannot run at all.
    """
    if not str(error).startswith(_TOO_FEW):
        return None
    norms = {id(n.module): n for n in subject.norms if n.family in _FAMILIES and not n.is_batch}
    found, frame = None, error.__traceback__
    while isinstance(frame, TracebackType):
        found = norms.get(id(frame.tb_frame.f_locals.get("self")), found)
        frame = frame.tb_next
    return found
