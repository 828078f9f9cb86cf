"""Images to train on: where they are, in which order they come, how they are distorted."""

from gammabeta.training.images.examples import Arrays, Examples, Images, Picture
from gammabeta.training.images.feed import Batch, Draws, Feed, Position
from gammabeta.training.images.load import SOURCES, load_images
from gammabeta.training.images.order import Order

__all__ = [
    "SOURCES",
    "Arrays",
    "Batch",
    "Draws",
    "Examples",
    "Feed",
    "Images",
    "Order",
    "Picture",
    "Position",
    "load_images",
]
