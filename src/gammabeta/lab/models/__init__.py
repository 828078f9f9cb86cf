"""The networks of the story."""

from gammabeta.lab.models.inception import Inception
from gammabeta.lab.models.stack import Stack

__all__ = ["Inception", "Stack"]
