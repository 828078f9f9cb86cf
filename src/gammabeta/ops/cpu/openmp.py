"""Which OpenMP libraries are in this process.

There has to be one. The extension asks for ``libgomp.so.1``, and torch has loaded its own copy of
that name before; a second library would have threads of its own, beside torch's and deaf to
`torch.set_num_threads`.
"""

from __future__ import annotations

import re
from pathlib import Path

_OPENMP = re.compile(r"lib(gomp|iomp5|omp)[-.\w]*\.so[.\d]*$")


def loaded(maps: Path = Path("/proc/self/maps")) -> list[str] | None:
    """Return the paths of the OpenMP libraries of this process; None where nobody can tell.

    Args:
        maps: Linux's table of what is mapped where.

    Example:
        >>> loaded(Path("/nowhere")) is None
        True
    """
    try:
        lines = maps.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    paths = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if _OPENMP.search(Path(path).name))
