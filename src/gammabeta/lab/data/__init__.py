"""Data sets of images: reading, order and distortion."""

from gammabeta.lab.data.distort import Central, Distortions
from gammabeta.lab.data.examples import Arrays, Examples, Images, Picture, Stream
from gammabeta.lab.data.feed import Batch, Draws, Feed, Position
from gammabeta.lab.data.load import SOURCES, load_images
from gammabeta.lab.data.order import Order
from gammabeta.lab.data.stream import Streamed

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
