"""How alike two pictures are without a model: thumbnails, hashes, and points under a homography."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from iscutils.edits.negatives import NEAR, hash_distance
from iscutils.files.images import ImageError, ImageSet

INLIERS = 20  # matches under one homography from which on two pictures are taken for copies
LONG_SIDE = 320  # px, at which points are looked for
SIDE = 16  # px of the thumbnails


def thumbnails(images: ImageSet) -> np.ndarray:
    """Simple descriptors (N, D) float32 of unit length: colours of 16 x 16 px without their mean.

    An unreadable image has a zero row, which is like nothing.
    """
    rows = np.zeros((len(images), 3 * SIDE * SIDE), np.float32)
    for i in range(len(images)):
        try:
            picture = images.load(i, min_side=2 * SIDE).resize((SIDE, SIDE), Image.Resampling.BOX)
        except ImageError:
            continue
        pixels = np.asarray(picture, np.float32).ravel()
        rows[i] = pixels - pixels.mean()
    return unit_rows(rows)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) divided by their lengths; zero rows stay zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def no_copy(images: ImageSet, held_out: ImageSet, job: tuple[int, Sequence[int]]) -> bool:
    """Whether a held-out picture can be read and is a copy of none of the references named."""
    i, likely = job
    try:
        picture = held_out.load(i)
        own = keypoints(picture)
        others = (images.load(r) for r in likely)
        return not any(may_be_copies(picture, other, own) for other in others)
    except ImageError:
        return False


def may_be_copies(a: Image.Image, b: Image.Image, points: tuple | None = None) -> bool:
    """Whether two pictures are so alike that one may be a copy of the other.

    `points` are those of `a`, where they are at hand.
    """
    return hash_distance(a, b) <= NEAR or homography_inliers(a, b, points) >= INLIERS


def homography_inliers(a: Image.Image, b: Image.Image, points: tuple | None = None) -> int:
    """Number of SIFT matches (Lowe's ratio 0.75) of two pictures that agree on one homography."""
    return _inliers(keypoints(a) if points is None else points, keypoints(b))


def keypoints(picture: Image.Image) -> tuple[tuple, np.ndarray | None]:
    """SIFT points of a picture of at most 320 px, 500 of them, and their descriptors."""
    small = picture.convert("L")
    small.thumbnail((LONG_SIDE, LONG_SIDE))
    return cv2.SIFT_create(500).detectAndCompute(np.asarray(small), None)


def _inliers(a: tuple, b: tuple) -> int:
    (ours, our_rows), (theirs, their_rows) = a, b
    if min(len(ours), len(theirs)) < 4:
        return 0
    pairs = cv2.BFMatcher().knnMatch(our_rows, their_rows, k=2)
    good = [m for m, n in pairs if m.distance < 0.75 * n.distance]
    if len(good) < 4:
        return 0
    start = np.float32([ours[m.queryIdx].pt for m in good])
    end = np.float32([theirs[m.trainIdx].pt for m in good])
    cv2.setRNGSeed(0)
    inliers = cv2.findHomography(start, end, cv2.RANSAC, 5.0)[1]
    return 0 if inliers is None else int(inliers.sum())
