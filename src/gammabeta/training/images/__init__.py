"""Images to train on: where they are, in which order they come, how they are distorted."""

from gammabeta.training.images.distort import Central, Distortions
from gammabeta.training.images.examples import Arrays, Examples, Images, Picture, Stream
from gammabeta.training.images.feed import Batch, Draws, Feed, Position
from gammabeta.training.images.load import SOURCES, load_images
from gammabeta.training.images.order import Order
from gammabeta.training.images.stream import Streamed

__all__ = [
    "SOURCES",
    "Arrays",
    "Batch",
    "Central",
    "Distortions",
    "Draws",
    "Examples",
    "Feed",
    "Images",
    "Order",
    "Picture",
    "Position",
    "Stream",
    "Streamed",
    "load_images",
]
