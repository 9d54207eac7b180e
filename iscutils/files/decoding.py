"""Safe decoding of one picture, whatever people have on disc."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from iscutils.files.artifacts import NOTE, KitError
from iscutils.files.damaged import complete_jpeg, complete_png, cut_rows
from iscutils.files.formats import HEAD, picture_kind, read_regular, unsupported
from iscutils.files.transparency import on_ground

MAX_PIXELS = 100_000_000  # held at once
MAX_BYTES = 2_000_000_000  # of a file
# A large JPEG is decoded at reduced scale. Its header may promise this many times the limit; one
# in scans (progressive) is held as a whole in another form, so that it may promise less.
JPEG_TIMES, SCANS_TIMES = 10, 2.5
ROWS = 0.9  # share of its rows that a picture without its last bytes must have to be used


class ImageError(KitError):
    """One image that cannot be read; `str(error)` is the reason, without the file's name."""


def decode(
    source: Path | bytes, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None
) -> Image.Image:
    """Decode one image to 8-bit RGB, upright; of an animation or several pages the first.

    EXIF orientation is applied; CMYK, palette, 1-bit and 16-bit images are converted (16 bit by
    the range of the type, so that a dark scan stays dark); transparency is laid on the ground on
    which the picture shows most, as a rule white. A JPEG or PNG that lacks its last bytes is used
    without the rows that are gone, at most one of ten. With `min_side` (px) a JPEG may be decoded
    at 1/2, 1/4 or 1/8 scale, its short side staying at least `min_side`; one of more than
    `max_pixels` is, where a scale makes it small enough.

    Raises `ImageError` for anything else that is not a whole image of one of `FORMATS`, and, before
    any pixel is decoded, for images of more than `max_pixels`.
    """
    return decode_frame(source, max_pixels=max_pixels, min_side=min_side)[0]


def decode_frame(
    source: Path | bytes,
    frame: int = 0,
    *,
    max_pixels: int = MAX_PIXELS,
    min_side: int | None = None,
) -> tuple[Image.Image, str]:
    """`decode` of one frame (from 0), and what is damaged about it: "" or `NOTE` and more."""
    with readable(source) as data:
        try:
            return _read(data, frame, max_pixels, min_side), ""
        except (OSError, SyntaxError) as error:  # a SyntaxError is Pillow's for a broken PNG
            rescued = None if frame else _rescue(data, max_pixels, min_side)
            if rescued is None:
                raise error
            return rescued


@contextmanager
def readable(source: Path | bytes) -> Iterator[bytes]:
    """The bytes of a picture; whatever goes wrong inside becomes an `ImageError` with a reason."""
    head = b""
    try:
        data = source if isinstance(source, bytes) else read_regular(source, MAX_BYTES + 1)
        head = data[:HEAD]
        if not data:
            raise ImageError("empty file (0 bytes)")
        if len(data) > MAX_BYTES:
            raise ImageError(f"more than {MAX_BYTES} bytes")
        reason = unsupported(picture_kind(head))
        if reason:
            raise ImageError(reason)
        yield data
    except ImageError:
        raise
    except Exception as error:  # decoders of hostile files raise nearly anything
        raise ImageError(_reason(error, head)) from error


@contextmanager
def opened(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """A picture opened by Pillow, not decoded yet, as its first bytes say and never otherwise."""
    kind = picture_kind(data[:HEAD])
    if not kind:
        raise UnidentifiedImageError
    # Pillow's own limit counts twice, and it guards what some formats hold when they are opened.
    limit = None if kind == "JPEG" else max_pixels
    with _strict(limit), Image.open(io.BytesIO(data), formats=(kind,)) as image:
        yield image


def _read(
    data: bytes, frame: int, max_pixels: int, min_side: int | None, rows: float = 1
) -> Image.Image:
    with opened(data, max_pixels) as image:
        if frame:
            image.seek(frame)
        fit(image, max_pixels, min_side)
        image.load()
        return to_rgb(_upright(image if rows == 1 else cut_rows(image, rows)))


def fit(image: Image.Image, max_pixels: int, min_side: int | None = None) -> None:
    """Choose the scale of a JPEG; `ImageError` for a picture that would be too large to hold."""
    width, height = image.size
    scale = min(width, height) // min_side if min_side else 1
    if picture_is_jpeg(image):
        times = SCANS_TIMES if image.info.get("progressive") else JPEG_TIMES
        if width * height <= times * max_pixels:
            scale = max(scale, 2 ** _halvings(width, height, max_pixels))
        if scale > 1:
            image.draft(image.mode, (max(1, width // scale), max(1, height // scale)))
    if image.width * image.height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are more than the limit of {max_pixels}")


def picture_is_jpeg(image: Image.Image) -> bool:
    """Whether an opened picture can be decoded at reduced scale."""
    return image.format in ("JPEG", "MPO")


def _halvings(width: int, height: int, max_pixels: int) -> int:
    count = 0
    while count < 3 and -(-width // 2**count) * -(-height // 2**count) > max_pixels:
        count += 1
    return count


def _rescue(data: bytes, max_pixels: int, min_side: int | None) -> tuple[Image.Image, str] | None:
    """A picture that lacks its last bytes, and a note; None where it cannot be used."""

    def stored(data: bytes) -> np.ndarray:
        with opened(data) as image:
            fit(image, max_pixels)
            return np.asarray(image)

    kind = picture_kind(data[:HEAD])
    try:
        if kind == "JPEG":
            whole, share = complete_jpeg(data, stored)
        elif kind == "PNG":
            with opened(data) as image:  # before a row is unpacked
                fit(image, max_pixels)
            whole, share = complete_png(data)
        else:
            return None
        if share < ROWS:
            return None
        image = _read(whole, 0, max_pixels, min_side, share)
    except Exception:  # the reason of the first try says it better
        return None
    return image, f"{NOTE}lacks its last bytes, {100 * share:.1f} % of its rows are there"


@contextmanager
def _strict(limit: int | None) -> Iterator[None]:
    """Pillow's settings while decoding: truncated files are errors, large ones our own business.

    Other libraries switch `LOAD_TRUNCATED_IMAGES` on, which turns missing rows silently gray.
    """
    former = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = former


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is common, and no reason to lose the picture
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a decoded picture, a copy of its own."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_gray(image).convert("RGB")
    if image.has_transparency_data:
        return on_ground(image)
    return image.convert("RGB")  # a copy also of RGB: the file-backed object is closed after


def _deep_gray(image: Image.Image) -> Image.Image:
    """8-bit gray of a 16-bit, 32-bit or float image, scaled by the range of its type.

    Pillow keeps 16-bit grays in "I" in some cases, and floats have no range of their own: for both
    the smallest usual white (1, 255, 65535, 2^31 - 1) that holds the brightest pixel is meant.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    whites = {"I": (65535, 2**31 - 1), "F": (1, 255, 65535, 2**31 - 1)}.get(image.mode, (65535,))
    brightest = values.max(initial=0)
    white = next((white for white in whites if brightest <= white), whites[-1])
    return Image.fromarray(np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8))


def _reason(error: Exception, head: bytes) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        if picture_kind(head):
            return "damaged or truncated: the header cannot be read"
        return "not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or JPEG 2000 image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than the limit of {MAX_PIXELS}"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot open: {error.strerror}"
    if "truncated" in text.lower():
        return "truncated"
    return f"damaged: {text or type(error).__name__}"
