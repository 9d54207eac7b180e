"""Which files are pictures, by their first bytes, and which of them Pillow may open."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

from PIL import features

HEAD = 64  # bytes that tell the format
# Files of these endings are listed with the reason when their bytes are no picture.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff"}
    | {".gif", ".avif", ".jp2", ".j2k", ".jpx", ".heic", ".heif", ".hif", ".jxl"}
)
# They begin like a TIFF, of which Pillow would read the thumbnail.
RAW_SUFFIXES = frozenset(
    {".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".dng", ".orf", ".rw2", ".pef", ".raf", ".srw"}
)
# Only these: a file is recognised by its content, and Pillow hands some other formats to external
# programs (EPS goes to Ghostscript), which a file from strangers must not reach.
_EXTRA = {"AVIF": "avif", "JPEG2000": "jpg_2000"}  # as Pillow was built
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"),
    *(name for name, feature in _EXTRA.items() if features.check(feature)),
)
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",  # a bare codestream
    b"\0\0\0\x0cJXL \r\n\x87\n": "JXL",
    b"\xff\x0a": "JXL",
}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes; "BM" alone begins many a text
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def picture_kind(head: bytes) -> str:
    """The format that the first bytes of a file (`HEAD` of them) tell; "" for no picture.

    One of JPEG, PNG, GIF, BMP, TIFF, WEBP, AVIF, HEIF, JPEG2000 and JXL.
    """
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        return _iso_kind(head)
    return ""


def _iso_kind(head: bytes) -> str:
    """AVIF or HEIF by the brands of an ISO base media file; "" for a film."""
    end = min(len(head), int.from_bytes(head[:4], "big"))
    major, others = head[8:12], {head[i : i + 4] for i in range(16, end - 3, 4)}
    if major in _AVIF or (major in _HEIC and others & _AVIF):
        return "AVIF"
    return "HEIF" if major in _HEIC else ""


def may_have_frames(head: bytes) -> bool:
    """Whether a file with this head may hold several frames; of a PNG its head does not tell."""
    kind = picture_kind(head)
    if kind == "WEBP":
        return head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 2)
    if kind == "AVIF":
        return b"avis" in head[8:]
    return kind in ("GIF", "TIFF", "PNG")


def unsupported(kind: str) -> str:
    """Why pictures of a kind cannot be read here; "" if they can."""
    if kind == "JXL":
        return "JPEG XL is not supported: convert it to JPEG or PNG"
    if kind == "HEIF" and not _heif():
        return "HEIC needs a further package: pip install 'iscutils[heif]'"
    if kind in _EXTRA and kind not in FORMATS:
        return f"{kind} is not supported by the Pillow that is installed: convert it to JPEG or PNG"
    return ""


@cache
def _heif() -> bool:
    """Whether Pillow can be taught HEIC, which needs the extra `[heif]`."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def read_regular(path: str | Path, count: int | None = None) -> bytes:
    """The bytes of a regular file, at most `count` of them; pipes and devices are refused at once.

    Raises:
        OSError: the file cannot be opened, or is not regular.
    """
    # Without O_NONBLOCK a named pipe waits for somebody who writes.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, f"{kind_of_file(status.st_mode)}, not a file")
        left = status.st_size if count is None else min(count, status.st_size)
        parts = []
        while left and (part := os.read(descriptor, left)):
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


def kind_of_file(mode: int) -> str:
    """What a path is, in words, by `st_mode`."""
    kinds = {
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISDIR: "a folder",
        stat.S_ISREG: "a file",
    }
    return next((words for check, words in kinds.items() if check(mode)), "a device")


def looks_like_picture(path: str | Path) -> bool:
    """Whether the first bytes of a regular file are a picture's; False where it cannot be read."""
    try:
        return bool(picture_kind(read_regular(path, HEAD)))
    except OSError:
        return False
