"""Strip comments, profiles and thumbnails from the bytes of a picture file."""

from __future__ import annotations

import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_SCAN = 0xDA  # the JPEG marker after which the pixels come
_KEPT = {0xE0: 14, 0xEE: 12}  # JFIF's and Adobe's tell the colours, if they are this long
_COLOURS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
_ORIENTATION = 274
_DESCRIBING = {269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316}
_FOREIGN = 700  # a TIFF's tags from here on are XMP, EXIF, profiles and other people's


def bare(raw: bytes, *, orientation: bool = True) -> bytes:
    """Return a JPEG, PNG, WebP or TIFF without its metadata; return other bytes unchanged.

    Args:
        raw: the file's bytes.
        orientation: keep the orientation of the camera: EXIF data of a JPEG or PNG, a tag of a
            TIFF.

    Raises:
        IndexError, struct.error: the file ends within its metadata.
    """
    if raw.startswith(b"\xff\xd8"):
        return _jpeg(raw, orientation)
    if raw.startswith(_PNG):
        return _png(raw, orientation)
    if raw.startswith(b"RIFF") and raw[8:12] == b"WEBP":
        return _webp(raw)
    if raw[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(raw, orientation)
    return raw


def _jpeg(raw: bytes, orientation: bool) -> bytes:
    """Of the segments before the scan, those numbered E0 … EF and FE have no pixels."""
    kept, at = [raw[:2]], 2
    while raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == _SCAN:
            return b"".join([*kept, raw[at:]])
        if marker == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + struct.unpack_from(">H", raw, at + 2)[0]
        body = raw[at + 4 : end]
        exif = orientation and marker == 0xE1 and body.startswith(b"Exif\0")
        if (marker < 0xE0 or exif) or len(body) >= _KEPT.get(marker, len(raw)):
            kept.append(raw[at:end])
        at = end
    return raw


def _png(raw: bytes, orientation: bool) -> bytes:
    """Chunks that the pixels need have a capital first letter."""
    kept, at = [_PNG], len(_PNG)
    while at < len(raw):
        (length,) = struct.unpack_from(">I", raw, at)
        chunk = raw[at : at + 12 + length]
        if chunk[4:5].isupper() or (orientation and chunk[4:8] == b"eXIf"):
            kept.append(chunk)
        at += len(chunk)
    return b"".join(kept)


def _webp(raw: bytes) -> bytes:
    kept, at = [], 12
    while at + 8 <= len(raw):
        (length,) = struct.unpack_from("<I", raw, at + 4)
        chunk = raw[at : at + 8 + length + length % 2]
        if chunk[:4] in _COLOURS:
            kept.append(chunk)
        at += len(chunk)
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(raw: bytes, orientation: bool) -> bytes:
    """The first directory, shortened in its place; no other follows it."""
    order = "<" if raw.startswith(b"II") else ">"
    (at,) = struct.unpack_from(order + "I", raw, 4)
    (count,) = struct.unpack_from(order + "H", raw, at)
    entries = [raw[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12)]
    tags = [struct.unpack_from(order + "H", entry)[0] for entry in entries]
    dropped = _DESCRIBING if orientation else {*_DESCRIBING, _ORIENTATION}
    kept = [
        entry
        for tag, entry in zip(tags, entries, strict=True)
        if tag not in dropped and tag < _FOREIGN
    ]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return raw[:at] + directory + raw[at + len(directory) :]
