"""The networks of the story."""

from gammabeta.models.stack import Stack

__all__ = ["Stack"]
