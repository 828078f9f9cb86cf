"""The networks of the story."""

from gammabeta.models.inception import Inception
from gammabeta.models.stack import Stack

__all__ = ["Inception", "Stack"]
