"""Whether a norm is part of an architecture as its authors publish it."""

from __future__ import annotations

from gammabeta.doctor.subject import Norm, Subject


def is_published(subject: Subject, norm: Norm) -> bool:
    """Whether ``norm`` is part of an architecture of transformers.

    Some of them carry TensorFlow's momentum, or an ε that is large for their random weights. They
    come with trained weights and statistics, and whoever uses them did not choose these settings.
    """
    parent = subject.modules.get(norm.path.rpartition(".")[0], subject.model)
    return type(parent).__module__.startswith("transformers.")
