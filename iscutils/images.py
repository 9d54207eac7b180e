"""Safe decoding of whatever people have on disc, and ordered lazy sets of images."""

from __future__ import annotations

import io
import os
import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from iscutils.artifacts import KitError, content_key, resolve

if TYPE_CHECKING:
    from iscutils.executor import Executor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
# Only these: a file is recognised by its content, and Pillow hands some other formats to external
# programs (EPS goes to Ghostscript), which a file from strangers must not reach.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")


class ImageError(KitError):
    """One image that cannot be read; `str(error)` is the reason, without the file's name."""


def decode(
    source: Path | bytes, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None
) -> Image.Image:
    """Decode one image to 8-bit RGB, upright.

    EXIF orientation is applied; CMYK, palette, 1-bit and 16-bit images are converted (16 bit by
    the range of the type, so that a dark scan stays dark); transparency is laid on white, as a web
    page shows it; of an animation the first frame is taken. With `min_side` (px) a JPEG may be
    decoded at 1/2, 1/4 or 1/8 scale, its short side staying at least `min_side`.

    Raises `ImageError` for anything that is not a whole image of one of `FORMATS`, and, before any
    pixel is decoded, for images of more than `max_pixels`.
    """
    head = b""
    try:
        # Bytes are read here, so that the file is closed whatever the decoder does.
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        head = data[:8]
        if not data:
            raise ImageError("empty file (0 bytes)")
        with _strict(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{width} x {height} pixels are more than the limit of {max_pixels}"
                )
            if min_side:
                image.draft(image.mode, (min_side, min_side))  # JPEG only, no-op for others
            image.load()
            return _to_rgb(_upright(image))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"more pixels than the limit of {max_pixels}") from error
    except Exception as error:  # decoders of hostile files raise nearly anything
        raise ImageError(_reason(error, head)) from error


class _strict:
    """Pillow's settings while decoding: truncated files are errors, large ones our own business.

    Other libraries switch `LOAD_TRUNCATED_IMAGES` on, which turns missing rows silently gray.
    """

    def __enter__(self) -> None:
        self.former = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *details: object) -> None:
        self.warnings.__exit__(*details)
        ImageFile.LOAD_TRUNCATED_IMAGES = self.former


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is common, and no reason to lose the picture
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_gray(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
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
        if head.startswith(_SIGNATURES):
            return "damaged or truncated: the header cannot be read"
        return "not a JPEG, PNG, WebP, BMP, TIFF or GIF image"
    if isinstance(error, OSError) and error.errno:
        return f"cannot open: {error.strerror}"
    if "truncated" in text.lower():
        return "truncated"
    return f"damaged: {text or type(error).__name__}"


class ImageSet:
    """An ordered set of images with unique ids; images are loaded one by one, on demand.

    Sub-classes say where image `i` comes from: `load(i, min_side=None)` gives PIL RGB (raises
    `ImageError`), `path(i)` its file (None when it has none), `subset(indices)` an ImageSet of some
    of them in the given order, `key()` ten hexadecimal digits that change with the content.
    """

    ids: list[str]

    def __init__(self, ids: Iterable[str]):
        self.ids = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images)"

    def load(self, i: int, min_side: int | None = None) -> Image.Image:
        raise NotImplementedError

    def path(self, i: int) -> Path | None:
        return None

    def subset(self, indices: Iterable[int]) -> ImageSet:
        raise NotImplementedError

    def key(self) -> str:
        raise NotImplementedError


class FileImages(ImageSet):
    """Images in files; `files` are their paths, one for each id."""

    def __init__(self, ids: Iterable[str], files: Iterable[str | Path]):
        super().__init__(ids)
        self.files = [str(file) for file in files]  # plain strings: small when sent to workers

    def load(self, i: int, min_side: int | None = None) -> Image.Image:
        try:
            return decode(Path(self.files[i]), min_side=min_side)
        except ImageError as error:
            error.add_note(f"file: {self.files[i]}")  # shown where nobody catches the error
            raise

    def path(self, i: int) -> Path:
        return Path(self.files[i])

    def subset(self, indices: Iterable[int]) -> FileImages:
        indices = list(indices)
        return FileImages([self.ids[i] for i in indices], [self.files[i] for i in indices])

    def key(self) -> str:
        stamps = []
        for file in self.files:
            try:
                stat = os.stat(file)
                stamps.append([stat.st_size, stat.st_mtime_ns])
            except OSError:
                stamps.append(None)
        return content_key(self.ids, stamps)


class GeneratedImages(ImageSet):
    """Images drawn by a function: `draw(item)` gives PIL RGB for the item of each id.

    `draw` is deterministic and picklable (a module-level function, or a `functools.partial` of
    one); `parameters` (JSON-able) is everything beside the items that changes what it draws.
    """

    def __init__(
        self,
        ids: Iterable[str],
        draw: Callable[[Any], Image.Image],
        items: Sequence[Any],
        parameters: Any,
    ):
        super().__init__(ids)
        self.draw, self.items, self.parameters = draw, list(items), parameters

    def load(self, i: int, min_side: int | None = None) -> Image.Image:
        return self.draw(self.items[i])

    def subset(self, indices: Iterable[int]) -> GeneratedImages:
        indices = list(indices)
        ids, items = [self.ids[i] for i in indices], [self.items[i] for i in indices]
        return GeneratedImages(ids, self.draw, items, self.parameters)

    def key(self) -> str:
        return content_key(self.ids, self.items, self.parameters)


def image_id(file: str | Path) -> str:
    """Image id of a file: its stem, as composed Unicode (macOS stores accents decomposed).

    Bytes that are not UTF-8 become U+FFFD, so that every id can be written to a CSV.
    """
    stem = os.fsencode(Path(file).stem).decode("utf-8", "replace")
    return unicodedata.normalize("NFC", stem)


def image_files(path: str | Path, recursive: bool = True) -> list[str]:
    """The image files of a folder; hidden files and folders are left out.

    Raises `KitError` for a missing folder and one without images.
    """
    folder = resolve(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise KitError(f"image folder {folder} {what}: give a folder that holds images")
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        found += [
            os.path.join(where, name)
            for name in sorted(names)
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    if not found:
        endings = " ".join(sorted(SUFFIXES))
        raise KitError(f"image folder {folder} holds no images (expected {endings})")
    return found


def open_folder(path: str | Path, recursive: bool = True) -> FileImages:
    """The image files of a folder, sorted by id; hidden files and folders are left out.

    Raises `KitError` for a missing folder, one without images, and two files of the same stem.
    """
    found: dict[str, str] = {}
    for file in image_files(path, recursive):
        identity = image_id(file)
        if identity in found:
            raise KitError(
                f"two images have the id '{identity}': {found[identity]} and {file}; "
                "rename one of them (the id is the file's name without its ending)"
            )
        found[identity] = file
    ids = sorted(found)
    return FileImages(ids, [found[identity] for identity in ids])


def find_unreadable(images: ImageSet, executor: Executor) -> list[tuple[str, str, str]]:
    """Decode every file completely and return (image_id, file, reason) of those that fail.

    Generated images have no file and are taken as readable.
    """
    files = [i for i in range(len(images)) if images.path(i) is not None]
    reasons = executor.map(partial(_failure, images), files, desc="reading images", chunk=8)
    return [
        (images.ids[i], str(images.path(i)), reason)
        for i, reason in zip(files, reasons, strict=True)
        if reason
    ]


def _failure(images: ImageSet, i: int) -> str:
    try:
        images.load(i)
    except ImageError as error:
        return str(error)
    return ""


def drop(images: ImageSet, bad_ids: Collection[str]) -> ImageSet:
    """The set without the images of `bad_ids`, in the same order."""
    bad_ids = set(bad_ids)
    return images.subset(i for i, identity in enumerate(images.ids) if identity not in bad_ids)
