"""A perceptual hash in the same form as every descriptor: a yardstick that needs no training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pdqhash
from PIL import Image

from iscutils.descriptors.store import write_descriptors
from iscutils.files.artifacts import content_key, log
from iscutils.files.executor import Executor
from iscutils.files.images import ImageError, ImageSet

SIDE = 512  # px; larger images are reduced first, as PDQ's authors do


def extract_pdq(
    images: ImageSet, out: str | Path, executor: Executor, name: str = "images"
) -> Path:
    """PDQ hashes of N images as vectors of +-1/16, (N, 256): unit rows, searched like descriptors.

    The inner product of two of them is 1 - 2 h / 256 with h their Hamming distance, so equal hashes
    score 1 and unrelated ones about 0. Source: Facebook, "The TMK+PDQF Video-Hashing Algorithm and
    the PDQ Image-Hashing Algorithm", 2019. Unreadable images are left out and noted in the file.
    """
    path = Path(out) / f"{name}-pdq-{content_key(images.key())}.h5"
    if path.exists():
        log.info("%s is extracted already", path.name)
        return path
    hashes = executor.map(partial(_hash, images), range(len(images)), desc=f"hash {name}", chunk=16)
    rows = list(zip(images.ids, hashes, strict=True))
    good = [(image_id, row) for image_id, row in rows if not isinstance(row, str)]
    skipped = [(image_id, "", row) for image_id, row in rows if isinstance(row, str)]
    vectors = np.stack([row for _, row in good])
    return write_descriptors(path, vectors, [i for i, _ in good], model="pdq", skipped=skipped)


def _hash(images: ImageSet, index: int) -> np.ndarray | str:
    try:
        return pdq(images.load(index, min_side=SIDE))
    except ImageError as error:
        return str(error)


def pdq(image: Image.Image) -> np.ndarray:
    """PDQ hash of one RGB image as a unit vector (256,) of +-1/16."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    bits, _quality = pdqhash.compute(np.asarray(small))
    return (bits.astype(np.float32) * 2 - 1) / 16
