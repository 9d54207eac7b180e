"""Pictures that the kit draws to train on and to compare with: things on plain ground."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from iscutils.artifacts import KitError
from iscutils.datasets.drawing.clothes import clothes
from iscutils.datasets.drawing.textures import Surfaces
from iscutils.datasets.photographs import TEXTURES, photograph_names
from iscutils.datasets.scenes import frame, photographed
from iscutils.images import GeneratedImages

VERSION = 1  # raise it when the drawing changes: it is part of the key of the images


def drawn_images(count: int, seed: int = 0) -> GeneratedImages:
    """Clothes, shoes and bags laid out on plain ground, `count` of them, drawn when loaded.

    They look alike as wholes, as the pictures of shops and catalogues do, and no two are the same.
    Training on them, or normalising scores by them, teaches what photographs of landscapes and
    animals cannot. Image i is the same for every count.
    """
    if count < 1 or seed < 0:
        raise KitError(f"{count} drawn images of seed {seed}: give a number from 1, a seed from 0")
    ids = [f"drawn_{i:06d}" for i in range(count)]
    parameters = ["drawn", VERSION, seed, photograph_names(TEXTURES)]
    return GeneratedImages(ids, partial(_draw, seed), range(count), parameters)


def _draw(seed: int, index: int) -> Image.Image:
    """Picture `index` as PIL RGB, long side 320 px; the same bytes for the same numbers."""
    rng = np.random.default_rng([seed, index, VERSION])
    width, height = frame(rng, 320)  # clothes are taller than wide: seven of ten upright
    return photographed(rng, clothes(rng, height, width, Surfaces(rng)))
