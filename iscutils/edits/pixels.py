"""Between PIL pictures and arrays without Pillow's slow copies: edits cross over at every step."""

from __future__ import annotations

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image


def to_pixels(image: Image.Image) -> np.ndarray:
    """A PIL RGB picture as a new (H, W, 3) uint8 array; other modes as `np.asarray` gives them.

    Pillow lends its memory, four bytes a pixel, through the Arrow interface: dropping the fourth
    takes a third of the time of `np.asarray` and less.
    """
    if image.mode != "RGB":
        return np.asarray(image)
    try:
        lent = pa.array(image)
    except ValueError:  # large pictures (over 16 MB) lie in several blocks
        return np.array(image)
    four = lent.flatten().to_numpy().reshape(image.height, image.width, 4)
    return cv2.cvtColor(four, cv2.COLOR_RGBA2RGB)


def to_image(pixels: np.ndarray) -> Image.Image:
    """An array (H, W, 3) uint8 as a PIL RGB picture; other shapes as `Image.fromarray` does."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        return Image.fromarray(pixels)
    four = pa.array(cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA).reshape(-1))
    # Pillow copies what is lent to it before the first change.
    size = pixels.shape[1::-1]
    return Image.fromarrow(pa.FixedSizeListArray.from_arrays(four, 4), "RGB", size)
