"""The fields of a recorded signal, in one table: `Summary`.

Each field of `Summary` is declared once: its name, its type, and what it means. `FIELDS` lists them
for everything that handles fields without knowing them: the columns of a frame
(`gammabeta.signal.columns`), the reader (`gammabeta.signal.run`), and the page (`gammabeta.view`).

To add a field, declare it in `Summary` and compute it in `gammabeta.signal.summary`.
Older files do not have it, so its type must be ``float`` (NaN for them) or ``float | None``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from torch import Tensor

Show = Literal["number", "percent", "share of values", "share of sample"]
"""How the page shows a field: as it is; as a percentage; or as its percentage of ``count`` or of
the sampled values, if it is not 0."""


@dataclass(frozen=True)
class Field:
    """The description of one field of `Summary`.

    Attributes:
        name: name of the attribute of `Summary`, and of the column in the file.
        sql: type of the value, as SQLite names it; a BLOB is a histogram.
        missing: the value that stands for NULL: ``"nan"`` for NaN, ``"none"`` for None (the field
            was not measured), or ``"never"`` if the column is NOT NULL.
        description: what is measured, in a few words.
        unit: what the value counts or is a fraction of; empty for the signal's own unit.
        label: name on the page; empty if the page does not list the field.
        show: how the page shows the value.
    """

    name: str
    sql: Literal["INTEGER", "REAL", "BLOB"]
    missing: Literal["never", "nan", "none"]
    description: str
    unit: str = ""
    label: str = ""
    show: Show = "number"

    @property
    def absent(self) -> float | int | None:
        """The value where there is nothing to measure: NaN, None or 0."""
        return {"nan": math.nan, "none": None, "never": 0}[self.missing]


_KINDS: dict[Any, tuple[str, str]] = {
    int: ("INTEGER", "never"),
    float: ("REAL", "nan"),
    float | None: ("REAL", "none"),
    Tensor: ("BLOB", "never"),
}


def _about(description: str, **rest: str) -> Mapping[str, Any]:
    return {"description": description, **rest}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is measured of one signal at one step; `FIELDS` describes the fields.

    ``int`` fields are always known, ``float`` fields are NaN if no value was finite, and
    ``float | None`` fields are None if they were not measured. Of a large signal, everything but
    ``count`` comes from a sample, see `gammabeta.signal.sampling.SAMPLE`.
    """

    count: int = field(metadata=_about("number of values, finite or not", unit="values"))
    mean: float = field(metadata=_about("mean of the sampled finite values", label="mean"))
    std: float = field(
        metadata=_about("standard deviation of the sampled finite values (divisor n)", label="std")
    )
    p15: float = field(
        metadata=_about("15th percentile of the sampled finite values", label="15th percentile")
    )
    p50: float = field(metadata=_about("median of the sampled finite values", label="median"))
    p85: float = field(
        metadata=_about("85th percentile of the sampled finite values", label="85th percentile")
    )
    minimum: float = field(
        metadata=_about("smallest of the sampled finite values", label="smallest")
    )
    maximum: float = field(metadata=_about("largest of the sampled finite values", label="largest"))
    histogram: Tensor = field(
        metadata=_about(
            "(BINS,) int64 counts of the sampled finite values on the axis", unit="sampled values"
        )
    )
    under: int = field(
        metadata=_about(
            "number of sampled finite values below the axis",
            unit="sampled values",
            label="below the axis",
            show="share of sample",
        )
    )
    over: int = field(
        metadata=_about(
            "number of sampled finite values above the axis",
            unit="sampled values",
            label="above the axis",
            show="share of sample",
        )
    )
    nonfinite: int = field(
        metadata=_about(
            "number of NaN and infinite values, estimated from the sample",
            unit="values",
            label="not finite",
            show="share of values",
        )
    )
    zeros: int = field(
        metadata=_about(
            "number of sampled values that are exactly 0; the histogram has them too",
            unit="sampled values",
            label="exactly 0",
            show="share of sample",
        )
    )
    saturated: float | None = field(
        default=None,
        metadata=_about(
            "fraction of the sampled values in the activation's saturated zone",
            unit="fraction of values",
            label="saturated",
            show="percent",
        ),
    )
    dead: float | None = field(
        default=None,
        metadata=_about(
            "fraction of units whose sampled values are all saturated",
            unit="fraction of units",
            label="dead units",
            show="percent",
        ),
    )
    gradient: float | None = field(
        default=None,
        metadata=_about(
            "L2 norm of the gradient of the loss with respect to the signal",
            unit="loss per unit of the signal",
            label="gradient norm",
        ),
    )
    sampled: float | None = field(
        default=None,
        metadata=_about("number of values in the sample", unit="values", label="values sampled"),
    )
    stderr: float | None = field(
        default=None,
        metadata=_about(
            "standard error of the mean, as if the sampled values were independent; 0 if the "
            "sample is everything",
            label="standard error of the mean",
        ),
    )
    norm: float | None = field(
        default=None, metadata=_about("L2 norm, of parameters", label="norm")
    )
    update: float | None = field(
        default=None,
        metadata=_about(
            "RMS of the last optimizer step's change, divided by the RMS of the weights",
            unit="fraction",
            label="update ÷ weight",
        ),
    )


def fields_of(summary: type) -> tuple[Field, ...]:
    """Return the description of each field of ``summary``, in order.

    Args:
        summary: `Summary` or a dataclass that extends it.

    Raises:
        TypeError: a field has a type that a record cannot hold, or no description.

    Example:
        >>> mean = fields_of(Summary)[1]
        >>> mean.name, mean.sql, mean.missing, mean.label
        ('mean', 'REAL', 'nan', 'mean')
    """
    types = get_type_hints(summary)
    found = []
    for each in dataclasses.fields(summary):
        type_ = types[each.name]
        if type_ not in _KINDS:
            raise TypeError(
                f"{each.name} is declared {type_}; use int, float, float | None or Tensor"
            )
        if "description" not in each.metadata:
            raise TypeError(f'{each.name} has no description; give metadata={{"description": ...}}')
        sql, missing = _KINDS[type_]
        found.append(Field(each.name, sql, missing, **each.metadata))  # type: ignore[arg-type]
    return tuple(found)


FIELDS = fields_of(Summary)
"""The fields of `Summary`, which are those of every file that is written."""
