"""The native extension, if it was built, and the choice of kernels."""

from __future__ import annotations

import os
from typing import Any

import torch  # noqa: F401  torch's OpenMP has to be there before the extension asks for one

from gammabeta.names import known

try:
    from gammabeta.kernels import _native as extension
except ImportError:  # no compiler, or another platform
    extension = None  # type: ignore[assignment]

native: Any = extension
"""The extension in use, or None."""
