"""From an image of a set to the bytes a network takes; light enough for every worker process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from iscutils.artifacts import KitError
from iscutils.images import ImageError, ImageSet


def prepare(image: Image.Image, size: int, resize: str = "squash") -> np.ndarray:
    """Resize an RGB image for a model: (size, size, 3) uint8, or short side = size with "short".

    Pillow's bicubic filter widens with the reduction, so small inputs do not alias.
    """
    if resize == "squash":
        shape = (size, size)
    elif resize == "short":
        factor = size / min(image.size)
        shape = tuple(max(1, round(side * factor)) for side in image.size)
    else:
        raise KitError(f"resize '{resize}' is unknown: choose squash or short")
    return np.asarray(image.resize(shape, Image.Resampling.BICUBIC), dtype=np.uint8)


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
