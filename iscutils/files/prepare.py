"""From an image of a set to the bytes a network takes; light enough for every worker process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from iscutils.files.artifacts import KitError
from iscutils.files.images import ImageError, ImageSet

SHARD = 2048  # decoded pictures a file
BLUR_RADIUS = 5  # px at native size, of D2LV's blurred sets
VARIANTS = ("none", "gray", "blur", "blur+gray")
# How D2LV prepares images for the models of each of its training sets: queries, then references
# and training images (its public test code).
SET_VARIANTS = {
    "base": ("none", "none"),
    "base_bw": ("gray", "gray"),
    "blur": ("none", "blur"),
    "blur_bw": ("gray", "blur+gray"),
    "color": ("none", "none"),
    "color_bw": ("gray", "gray"),
    "dark": ("none", "none"),
    "face": ("none", "none"),
    "face_bw": ("gray", "gray"),
    "opaque": ("none", "none"),
    "occlude": ("none", "none"),
}


def set_variant(training_set: str, kind: str) -> str:
    """Variant of `VARIANTS` for a model of one of D2LV's training sets.

    `kind` is "queries", or anything else for references and background.
    """
    if training_set not in SET_VARIANTS:
        raise KitError(
            f"training set '{training_set}' is unknown: choose one of {', '.join(SET_VARIANTS)}"
        )
    return SET_VARIANTS[training_set][kind != "queries"]


def vary(image: Image.Image, variant: str) -> Image.Image:
    """An RGB image blurred (Gaussian, radius 5 px) and then turned gray (mode L), as named."""
    if variant not in VARIANTS:
        raise KitError(f"variant '{variant}' is unknown: choose one of {', '.join(VARIANTS)}")
    if variant.startswith("blur"):
        image = image.filter(ImageFilter.GaussianBlur(BLUR_RADIUS))
    return image.convert("L") if variant.endswith("gray") else image


def prepare(image: Image.Image, size: int, resize: str = "squash") -> np.ndarray:
    """Resize an image for a model: (size, size, 3) uint8, or short side = size with "short".

    Pillow's bicubic filter widens with the reduction, so small inputs do not alias. A gray image
    (mode L) gives one channel, which stands for three equal ones.
    """
    if resize == "squash":
        shape = (size, size)
    elif resize == "short":
        factor = size / min(image.size)
        shape = tuple(max(1, round(side * factor)) for side in image.size)
    else:
        raise KitError(f"resize '{resize}' is unknown: choose squash or short")
    pixels = np.asarray(image.resize(shape, Image.Resampling.BICUBIC), dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def load_prepared(
    images: ImageSet, sizes: Sequence[int], resize: str, index: int
) -> list[np.ndarray] | str:
    """Decode one image once and resize it to every size; the reason as text if it is broken."""
    try:
        # A JPEG may be decoded at reduced scale, to no less than twice the size wanted.
        image = images.load(index, min_side=2 * max(sizes))
    except ImageError as error:
        return str(error)
    return [prepare(image, size, resize) for size in sizes]
