"""Pictures that lack their last bytes: which of their rows are there.

Pillow fills missing rows of a JPEG with gray; here they are found and cut off.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

_EOI = b"\xff\xd9"
# Data that cannot be meant, in place of what is missing; behind each the next restart marker, as a
# picture with restart intervals needs.
_FILLERS = (b"\x00" * 64, b"\xaa" * 64)
_RESTARTS = 16
_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types of a PNG


def complete_jpeg(data: bytes, read: Callable[[bytes], np.ndarray]) -> tuple[bytes, float]:
    """A JPEG with the end it lacks, and the share of its rows that are there.

    What is missing is completed in three ways; a row that all of them decode to the same pixels
    does not depend on it. `read` decodes bytes to an array of rows.
    """
    data = data.rstrip(b"\xff")
    scan = data.rfind(b"\xff\xda")
    last = max((data.rfind(bytes((255, 0xD0 + k)), scan), k) for k in range(8))
    first = (last[1] + 1) % 8 if last[0] >= 0 else 0
    marks = [bytes((255, 0xD0 + (first + k) % 8)) for k in range(_RESTARTS)]
    whole = read(data + _EOI)
    differs = np.zeros(len(whole), bool)
    for filler in _FILLERS:
        other = read(data + b"".join(filler + mark for mark in marks) + _EOI)
        differs |= (whole != other).reshape(len(whole), -1).any(axis=1)
    # One row less: the colours of a row are mixed with those of the next.
    rows = max(0, int(differs.argmax()) - 1) if differs.any() else len(whole)
    return data + _EOI, rows / len(whole)


def complete_png(data: bytes) -> tuple[bytes, float]:
    """A PNG whose missing rows are black, and the share of its rows that are there.

    Raises:
        ValueError: it is interlaced, or damaged in another way.
    """
    kept, packed = [], []
    for kind, content in _chunks(data):
        if kind == b"IDAT":
            packed.append(content)
        elif not packed:
            kept.append((kind, content))
    if not kept or kept[0][0] != b"IHDR":
        raise ValueError("no header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", kept[0][1])
    if interlaced or colour not in _CHANNELS:
        raise ValueError("rows are not in order")
    stride = 1 + (width * depth * _CHANNELS[colour] + 7) // 8
    raw = _inflate(b"".join(packed), stride * height)
    rows = len(raw) // stride
    raw = raw[: rows * stride].ljust(stride * height, b"\0")
    parts = [*kept, (b"IDAT", zlib.compress(raw, 1)), (b"IEND", b"")]
    return _PNG + b"".join(_chunk(*part) for part in parts), rows / height


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the chunks; the last one may be cut."""
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        content = data[place + 8 : place + 8 + length]
        check = data[place + 8 + length : place + 12 + length]
        if len(check) == 4 and int.from_bytes(check, "big") != zlib.crc32(kind + content):
            raise ValueError("a chunk is damaged")
        yield kind, content
        place += 12 + length


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I4s", len(content), kind)
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _inflate(packed: bytes, most: int) -> bytes:
    return zlib.decompressobj().decompress(packed, most)


def cut_rows(image: Image.Image, share: float) -> Image.Image:
    """The first rows of a picture, of which a share is there."""
    return image.crop((0, 0, image.width, int(image.height * share + 1e-6)))
