"""Pictures at the size a detector sees them; light enough for every worker process."""

from __future__ import annotations

import numpy as np
from PIL import Image

from iscutils.edits.making import open_reduced
from iscutils.files.images import ImageError, ImageSet

Prepared = tuple[np.ndarray, tuple[int, int]]  # scaled pixels, and (width, height) of the original


def scale_picture(image: Image.Image, size: int) -> np.ndarray:
    """A PIL RGB picture at a long side of `size` px, larger or smaller, (H, W, 3) uint8."""
    factor = size / max(image.size)
    shape = tuple(max(1, round(side * factor)) for side in image.size)
    return np.array(image.resize(shape, Image.Resampling.BICUBIC), dtype=np.uint8)


def read_scaled(images: ImageSet, size: int, index: int) -> Prepared | str:
    """Picture `index` at a long side of `size` px, and its own size; the reason if it is broken."""
    try:
        # A JPEG may be decoded at reduced scale; the whole size is that of the upright file.
        image, whole = open_reduced(images, index, size)
    except ImageError as error:
        return str(error)
    return scale_picture(image, size), whole
