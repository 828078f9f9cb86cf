"""Pictures as people have them: whatever their metadata hold, what decodes is used."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gammabeta.lab.data import Distortions, load_images
from gammabeta.lab.data import folder as folders
from gammabeta.lab.data.bare import bare
from gammabeta.lab.data.distort import opened
from gammabeta.lab.data.order import draw
from gammabeta.lab.data.quiet import quiet
from gammabeta.lab.data.raw import DataError

WIDTH, HEIGHT = 40, 24
PIXELS = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
PHOTO = Image.fromarray(PIXELS)
UPRIGHT, SIDEWAYS = (WIDTH, HEIGHT), (HEIGHT, WIDTH)
TURN, SHORT, LONG, RATIONAL, SIGNED = 0x112, 3, 4, 5, 10


def saved(form: str, image: Image.Image = PHOTO, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def tag(number: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", number, kind, count, value)


def exif(*tags: bytes, after: int = 0, rest: bytes = b"") -> bytes:
    """EXIF data of one directory; what lies outside its tags begins at 14 + 12 a tag."""
    directory = struct.pack("<H", len(tags)) + b"".join(tags) + struct.pack("<I", after)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + rest


SIXTH = tag(TURN, SHORT, 1, 6)


def jpeg(segment: bytes, number: int = 0xE1, **options: Any) -> bytes:
    whole = struct.pack(">BBH", 0xFF, number, len(segment) + 2) + segment
    return saved("JPEG", extra=whole, **options)


def chunk(kind: bytes, data: bytes, spoil: int = 0) -> bytes:
    """A PNG's; its checksum wrong by ``spoil``."""
    checksum = struct.pack(">I", zlib.crc32(kind + data) ^ spoil)
    return struct.pack(">I", len(data)) + kind + data + checksum


def png(*chunks: bytes, at: int = 33) -> bytes:
    """With ``chunks`` after the header, or at another place."""
    raw = saved("PNG")
    return raw[:at] + b"".join(chunks) + raw[at:]


def tiff(*tags: bytes, **options: Any) -> bytes:
    """Tags after the others, by a directory written anew at the end."""
    raw = saved("TIFF", **options)
    (at,) = struct.unpack_from("<I", raw, 4)
    (count,) = struct.unpack_from("<H", raw, at)
    entries = [raw[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12)]
    entries = sorted([*entries, *tags], key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return raw[:4] + struct.pack("<I", len(raw)) + raw[8:] + directory


XMP = b'<x:xmpmeta tiff:Orientation="6"/>'
BOMB = b"Comment\0\0" + zlib.compress(bytes(2**21))
SENSIBLE = {
    "negative": jpeg(exif(SIXTH, tag(0x11A, SIGNED, 1, 38), rest=struct.pack("<ii", -72, 1))),
    "cyclic": jpeg(exif(SIXTH, tag(0x8769, LONG, 1, 8), after=8)),
    "cut-off": jpeg(exif(SIXTH, tag(0x11A, RATIONAL, 1, 38))[:-7]),
    "enormous": jpeg(exif(SIXTH, tag(0x10E, 2, 2**31, 99))),
    "short-photoshop": jpeg(b"Photoshop 3.0\x008BIM\x03\xed", 0xED, exif=exif(SIXTH)),
    "short-jfif": jpeg(b"JFIF", 0xE0, exif=exif(SIXTH)),
    "two-orientations": jpeg(exif(tag(TURN, SHORT, 2, 6 | 8 << 16))),
    "xmp": png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "text-bomb": png(chunk(b"zTXt", BOMB), chunk(b"eXIf", exif(SIXTH)[6:])),
    "checksum": png(chunk(b"eXIf", exif(SIXTH)[6:]), chunk(b"tEXt", b"a\0b", spoil=1)),
    "tiff": tiff(SIXTH, tag(0x8825, 9, 1, 2**32 - 8)),
    "packed-tiff": tiff(SIXTH, tag(0x8769, LONG, 1, 8), compression="tiff_lzw"),
    "webp": saved("WEBP", exif=exif(SIXTH, tag(0x11A, SIGNED, 1, 38)), lossless=True),
}
"""Odd, with an orientation that can be read."""

NONSENSE = {
    "no-such-orientation": jpeg(exif(tag(TURN, SHORT, 1, 9))),
    "orientation-in-words": jpeg(exif(tag(TURN, 2, 1, 6))),
    "no-exif-at-all": jpeg(b"Exif\0\0" + bytes(range(200))),
    "profile": saved("JPEG", icc_profile=b"none"),
    "malformed-mpo": jpeg(b"MPF\0II*\0\xff\xff\xff\xff", 0xE2),
    "png-profile": png(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**21)))),
    "png-text": png(chunk(b"iTXt", b"x"), chunk(b"tEXt", b"\xff" * 99), chunk(b"zTXt", b"a\0\7z")),
    "png-checksum": png(chunk(b"eXIf", exif(SIXTH)[6:], spoil=1)),
    "png-text-at-the-end": png(chunk(b"zTXt", BOMB), at=-12),
    "png-raw-profile": png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  9\nzz")),
    "png-resolution": png(chunk(b"pHYs", b"\0")),
    "webp-cut-off": saved("WEBP", exif=exif(SIXTH, rest=bytes(400)), lossless=True)[:-200],
    "tiff-resolution": tiff(
        tag(0x11A, 2, 4, 0), tag(0x11B, 2, 4, 0x41414141), tag(0x128, SHORT, 1, 3)
    ),
    "tiff-orientation": tiff(tag(TURN, 2, 4, 0x41414141)),
    "tiff-bare-xmp": tiff(tag(700, 12, 1, 8), tag(0x8773, 12, 1, 8)),
    "gif": saved("GIF", PHOTO.quantize(), comment=b"\xff" * 300),
}
"""Odd, with none."""


@pytest.mark.parametrize(
    ("raw", "size"),
    [pytest.param(raw, SIDEWAYS, id=name) for name, raw in SENSIBLE.items()]
    + [pytest.param(raw, UPRIGHT, id=name) for name, raw in NONSENSE.items()],
)
@pytest.mark.parametrize("decoded", [5000, 0], ids=["decoded", "heads"])
def test_odd_metadata_lose_no_picture(
    raw: bytes, size: tuple[int, int], decoded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "DECODED", decoded)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number in range(2):
            (tmp_path / kind / f"{number}.jpg").write_bytes(raw)  # a suffix is only a name
    found = load_images("folder", tmp_path)
    assert (len(found.train), len(found.test)) == (2, 2)  # type: ignore[arg-type]
    picture, _ = found.train.example(0)  # type: ignore[union-attr]
    assert picture.size == opened(picture).size == size  # turned once
    assert Distortions(8, weak=True)(raw, draw(0)).shape == (3, 8, 8)
    if raw[:1] not in (b"\xff", b"G"):  # else it is not exact
        pixels = PIXELS if size == UPRIGHT else np.rot90(PIXELS, -1)
        assert (np.asarray(picture) == pixels).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_metadata_that_raise_anything(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = saved(form, exif=exif(SIXTH))

    def broken(image: Image.Image) -> None:
        raise RecursionError

    monkeypatch.setattr(Image.Image, "getexif", broken)
    assert opened(raw).size == UPRIGHT


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_what_is_no_longer_a_picture_is_not_taken_for_one(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    raw = saved(form, exif=exif(SIXTH), **options)
    with pytest.raises((OSError, SyntaxError, ValueError)):
        opened(raw[: len(raw) // 2])


@pytest.mark.parametrize(
    ("form", "image"),
    [
        *((form, PHOTO) for form in ("JPEG", "PNG", "TIFF", "WEBP", "BMP")),
        *((form, PHOTO.convert("CMYK")) for form in ("JPEG", "TIFF")),
        *((form, PHOTO.quantize()) for form in ("PNG", "TIFF", "GIF")),
    ],
)
def test_without_its_metadata_a_file_has_the_same_pixels(form: str, image: Image.Image) -> None:
    raw = saved(form, image, exif=exif(SIXTH, rest=b"odd"), icc_profile=b"odd" * 9, xmp=XMP)
    for orientation in (True, False):
        rest = bare(raw, orientation=orientation)
        assert (b"odd" in rest) == (orientation and form in ("JPEG", "PNG")) or form == "TIFF"
        with Image.open(io.BytesIO(raw)) as before, Image.open(io.BytesIO(rest)) as after:
            kept = [key for key in ("exif", "icc_profile", "xmp") if key in after.info]
            assert kept == (["exif"] if orientation and form in ("JPEG", "PNG") else [])
            assert (TURN in getattr(after, "tag_v2", ())) == (orientation and form == "TIFF")
            pixels = before.convert("RGB")
            turned = {pixels.tobytes(), pixels.rotate(90, expand=True).tobytes()}
            assert after.convert("RGB").tobytes() in turned


def test_a_jpeg_keeps_what_tells_its_colours() -> None:
    """Adobe's segment alone says that these are not luminance and colour differences."""
    raw = saved("JPEG", Image.new("RGB", (8, 8), (200, 0, 0)), keep_rgb=True, comment=b"odd")
    for number, letter in enumerate(b"RGB", 1):
        for after in (b"\x11", b"\0"):
            raw = raw.replace(bytes([letter]) + after, bytes([number]) + after)
    rest = bare(raw)
    assert b"odd" not in rest
    for file in (raw, rest):
        assert opened(file).getpixel((0, 0)) == pytest.approx((200, 0, 0), abs=3)


def test_pictures_of_every_mode() -> None:
    clear = Image.new("P", (9, 9))
    clear.putpalette([200, 100, 50] * 256)
    files = [
        saved("PNG", Image.new("1", (9, 9), 1)),
        saved("PNG", Image.new("LA", (9, 9), (255, 0))),
        saved("PNG", Image.new("L", (9, 9), 255), transparency=255),
        saved("JPEG", Image.new("CMYK", (9, 9))),
        saved("MPO", Image.new("RGB", (9, 9), "white"), save_all=True, append_images=[PHOTO]),
        saved("TIFF", Image.new("RGBA", (9, 9), "white")),
    ]
    for raw in files:
        assert opened(raw).mode == "RGB"
        assert set(np.asarray(opened(raw)).ravel()) == {255}, raw[:20]
    assert opened(Image.new("La", (9, 9), (255, 255))).getpixel((0, 0)) == (255,) * 3
    shades = opened(saved("PNG", clear, transparency=bytes(range(256))))
    assert shades.getpixel((0, 0)) == (200, 100, 50)


def warns(image: Image.Image) -> None:
    warnings.warn_explicit("odd", UserWarning, "Image.py", 1, module="PIL.Image")


@pytest.mark.parametrize("action", ["error", "always"])
def test_what_pillow_warns_of_is_neither_shown_nor_an_error(
    action: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are the filters of somebody else's warnings other ones afterwards."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(20):
            PHOTO.save(tmp_path / name / f"{number}.png")
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda image: (warns(image), load(image))[1])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter(action)
        before = list(warnings.filters)
        found = load_images("folder", tmp_path)
        with ThreadPoolExecutor(8) as pool:
            assert len(list(pool.map(found.train.example, range(32)))) == 32  # type: ignore[union-attr]
        assert warnings.filters == before
    assert not said


def test_the_last_thread_that_leaves_puts_the_filters_back() -> None:
    before, entered, leave = list(warnings.filters), threading.Event(), threading.Event()

    def reads() -> None:
        with quiet():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=reads)
    with quiet():
        thread.start()
        entered.wait(10)
    warns(PHOTO)  # an error, were it not for the other thread
    leave.set()
    thread.join()
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="odd"):
        warns(PHOTO)


def test_a_picture_that_is_too_large_is_still_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 3)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        PHOTO.save(tmp_path / name / "a.png", pnginfo=PngImagePlugin.PngInfo())
    with pytest.raises(DataError, match="exceeds limit"):
        load_images("folder", tmp_path)
