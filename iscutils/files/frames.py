"""Frames of animations and pages of files: how many, and which of them to look at."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from iscutils.files.artifacts import NOTE
from iscutils.files.decoding import MAX_PIXELS, ImageError, decode_frame, fit, opened, readable
from iscutils.files.formats import HEAD, may_have_frames, picture_kind, read_regular

# What is looked through for distinct frames: a film of a minute must not take minutes.
MOST_FRAMES, FRAME_PIXELS = 250, 100_000_000
LIMIT = 3  # frames of a file that are described: the first, the middle and the last
_SUBFILE = 254  # TIFF tag; its first bit marks a smaller copy of another page
_MOST_PAGES = 100_000


def has_frames(source: Path | str | bytes) -> bool:
    """Whether a picture may have several frames, by its header; False where it cannot be read."""
    try:
        head = source[:HEAD] if isinstance(source, bytes) else read_regular(source, HEAD)
        if picture_kind(head) != "PNG":
            return may_have_frames(head)
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            return _is_apng(file)
    except OSError:
        return False


def _is_apng(file: BinaryIO) -> bool:
    """Whether a PNG says before its pixels that it is an animation."""
    place = 8
    for _ in range(100):
        file.seek(place)
        chunk = file.read(8)
        if len(chunk) < 8 or chunk[4:] == b"IDAT":
            return False
        if chunk[4:] == b"acTL":
            return True
        place += 12 + int.from_bytes(chunk[:4], "big")
    return False


def decode_noted(
    source: Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    min_side: int | None = None,
    frame: int | None = None,
) -> tuple[Image.Image, str]:
    """`decode`, and a note on what is not there or not looked at: "", or `NOTE` and more.

    With a `frame` (from 0) that one, and no note on the others.
    """
    image, note = decode_frame(source, frame or 0, max_pixels=max_pixels, min_side=min_side)
    if frame is None and not note and has_frames(source):
        note = frames_note(source, [0])
    return image, note


def frame_count(source: Path | bytes) -> int:
    """Number of frames or pages; smaller copies among the pages of a TIFF do not count.

    Raises `ImageError` for a file that cannot be opened.
    """
    with readable(source) as data, opened(data) as image:
        return len(_numbers(data, image))


def distinct_frames(source: Path | bytes, limit: int = LIMIT) -> list[int]:
    """Numbers (from 0) of the first, middle and last of the frames that differ in pixels.

    `limit` of them, evenly chosen. Of long films the first `MOST_FRAMES` or `FRAME_PIXELS` are
    looked through, of files of many pages as many evenly chosen ones. Frames behind a damaged one
    are left out; of an unreadable file the result is [0].
    """
    found: dict[bytes, int] = {}
    try:
        with readable(source) as data, opened(data) as image:
            for number, digest in _digests(data, image):
                found.setdefault(digest, number)
    except ImageError:
        pass  # what was found before stays
    numbers = list(found.values()) or [0]
    return sorted({numbers[i] for i in _evenly(len(numbers), limit)})


def decode_frames(
    source: Path | bytes,
    limit: int = LIMIT,
    *,
    max_pixels: int = MAX_PIXELS,
    min_side: int | None = None,
) -> list[tuple[int, Image.Image]]:
    """`decode` of the frames of `distinct_frames`: (number, PIL RGB) each."""
    return [
        (number, decode_frame(source, number, max_pixels=max_pixels, min_side=min_side)[0])
        for number in distinct_frames(source, limit)
    ]


def frames_note(source: Path | bytes, used: list[int]) -> str:
    """What to say of a file of which some frames are used; "" where these are all."""
    try:
        count = frame_count(source)
    except ImageError:
        return ""
    if count <= len(used):
        return ""
    listed = ", ".join(map(str, used))
    return f"{NOTE}frame{'s' if len(used) > 1 else ''} {listed} of {count}, counted from 0"


def _digests(data: bytes, image: Image.Image) -> Iterator[tuple[int, bytes]]:
    """Number and digest of the pixels of the frames that are looked through."""
    budget = FRAME_PIXELS
    for number in _candidates(data, image):
        image.seek(number)
        budget -= image.width * image.height
        if budget < 0 and number:
            return
        fit(image, MAX_PIXELS)
        image.load()
        # Frame 0 of a GIF has a palette and the others have not.
        frame = image.convert("RGBA") if image.mode in ("1", "L", "P", "RGB") else image
        digest = hashlib.blake2b(repr((frame.mode, frame.size)).encode())
        digest.update(frame.tobytes())
        yield number, digest.digest()


def _candidates(data: bytes, image: Image.Image) -> list[int]:
    numbers = _numbers(data, image)
    most = max(LIMIT, min(MOST_FRAMES, FRAME_PIXELS // max(1, image.width * image.height)))
    if image.format != "TIFF":  # to decode a late frame means to decode all before it
        return numbers[:most]
    return [numbers[i] for i in _evenly(len(numbers), most)]


def _numbers(data: bytes, image: Image.Image) -> list[int]:
    """Numbers of the frames that are pictures of their own."""
    if image.format == "TIFF":
        return tiff_pages(data) or [0]
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: views of one scene
    return list(range(count))


def tiff_pages(data: bytes) -> list[int]:
    """Numbers of the pages of a TIFF that are no smaller copies of others.

    Read from the chain of its directories (TIFF 6.0, section 2, and BigTIFF), as opening every page
    takes Pillow a thousand times as long.
    """
    order = "little" if data[:2] == b"II" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    def is_copy(entry: int) -> bool:
        size = 2 if number(entry + 2, 2) == 3 else 4  # SHORT or LONG
        return number(entry, 2) == _SUBFILE and bool(number(entry + 4 + width, size) & 1)

    big = number(2, 2) == 43
    width, counts, entry = (8, 8, 20) if big else (4, 2, 12)  # bytes
    place, seen, pages = number(8 if big else 4, width), set(), []
    while 0 < place < len(data) and place not in seen and len(seen) < _MOST_PAGES:
        page = len(seen)
        seen.add(place)
        count, first = number(place, counts), place + counts
        end = first + count * entry
        # Entries are sorted by tag, and this one has the lowest of all that are in use.
        if not page or not is_copy(first):
            pages.append(page)
        place = number(end, width)
    return pages


def _evenly(count: int, limit: int) -> list[int]:
    """Up to `limit` of the numbers below `count`: the first, the last, and evenly between."""
    if limit == 1 or count == 1:
        return [0]
    if count <= limit:
        return list(range(count))
    return sorted({round(i * (count - 1) / (limit - 1)) for i in range(limit)})
