"""SIFT points of one picture: size, detector, RootSIFT, and descriptors of the mirrored picture.

Source: published code of imgFp (arXiv 2112.02373), its VLFeat settings translated to OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from iscutils.local.config import LocalConfig

SIGMA = 1.6
MIN_SIDE = 16  # px; smaller pictures have no features
MIN_POINTS = 10  # with fewer, a picture counts as having none
STRETCH_RANGE = 16  # gray levels; flatter pictures are not stretched further (noise)
DOUBLED = 1 << 8 | 255  # OpenCV's packed field of a point: layer 1 of octave -1


@dataclass(frozen=True)
class ImageFeatures:
    """Local features of one picture.

    `keypoints` (M, 4) float32: x, y, size, angle (degrees, clockwise) in pixels of the shrunk
    picture as OpenCV counts them (the centre of the first pixel is 0). `descriptors` (M, 128)
    uint8 RootSIFT. `responses` (M,) float32: strength of each point. `size`: original (width,
    height). `thumbnail` (h, w) uint8 gray, or None.
    """

    keypoints: np.ndarray
    descriptors: np.ndarray
    responses: np.ndarray
    size: tuple[int, int]
    thumbnail: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keypoints)


def shrunk_size(size: tuple[int, int], short_side: int = 300) -> tuple[int, int]:
    """(width, height) at which points are detected: never larger than the input.

    ratio = min(1, short_side / (short side + 1e-5)), rounded down: a side of 300 becomes 299.
    """
    ratio = min(1.0, short_side / (min(size) + 1e-5))
    return int(size[0] * ratio), int(size[1] * ratio)


def gray_picture(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """ITU-R 601 luma (h, w) uint8 at `size` (width, height), bicubic with anti-aliasing."""
    gray = image.convert("L")
    return np.asarray(gray if gray.size == size else gray.resize(size, Image.Resampling.BICUBIC))


def stretch_contrast(gray: np.ndarray) -> np.ndarray:
    """Map the 1st and 99th percentile of gray levels (h, w) uint8 to 0 and 255.

    Dark and faded copies keep their points that way. Pictures of less than 16 levels are treated
    as if they had 16, as their structure is mostly noise.
    """
    low, high = np.percentile(gray, [1, 99])
    high = max(high, low + STRETCH_RANGE)
    stretched = (gray.astype(np.float32) - low) * (255 / (high - low))
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """RootSIFT integers round(255 sqrt(v / sum v)) of SIFT rows (M, 128), as uint8.

    Squared norms are about 255^2 = 65025. Zero rows stay zero.
    """
    values = np.asarray(descriptors, dtype=np.float64)
    total = values.sum(axis=1, keepdims=True)
    return np.rint(255 * np.sqrt(values / np.where(total > 0, total, 1))).astype(np.uint8)


def _mirror_order() -> np.ndarray:
    bins = np.array([0, 7, 6, 5, 4, 3, 2, 1])
    return np.concatenate([32 * row + 8 * cell + bins for row in (3, 2, 1, 0) for cell in range(4)])


MIRROR = _mirror_order()  # descriptors[:, MIRROR]: those of the mirrored picture; its own inverse


def mirror_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (M, 128) that the mirrored picture would have at the mirrored places.

    Cell rows and directions are reversed. One mirror is enough: SIFT turns with the picture, so a
    vertical flip is a mirror and a half turn.
    """
    return descriptors[:, MIRROR]


NEGATIVE = np.arange(128).reshape(16, 8)[::-1].ravel()  # descriptors of the negative picture


def negative_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (M, 128) that the negative (inverted) picture would have at the same places.

    All gradients turn round, and with them the point's direction: seen from there the cells are
    turned by half a turn, the directions in them unchanged.
    """
    return descriptors[:, NEGATIVE]


@lru_cache(maxsize=4)
def _detector(layers: int, peak: float, edge: float) -> cv2.SIFT:
    # OpenCV divides the threshold by the number of layers, VLFeat does not.
    return cv2.SIFT_create(0, layers, peak / 255 * layers, edge, SIGMA)


def detect(gray: np.ndarray, config: LocalConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SIFT points of a gray picture (h, w) uint8: keypoints (M, 4), descriptors, responses.

    Rows are sorted by (y, x, size, angle). Fewer than 10 points count as none.
    """
    detector = _detector(config.octave_layers, config.peak_threshold, config.edge_threshold)
    # The octave is the low byte of a packed field; 255 (-1) is the doubled picture.
    points = [p for p in detector.detect(gray) if config.upsample or p.octave & 255 != 255]
    if len(points) < MIN_POINTS:
        return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8), np.zeros(0, np.float32)
    # Most points lie in the doubled picture. Describing the others alone is faster than describing
    # all; the last point, of octave -1, has them described in the same scale space as before.
    _, descriptors = detector.compute(gray, [*points, cv2.KeyPoint(8, 8, 3, 0, 0, DOUBLED)])
    keypoints = np.array([(*p.pt, p.size, p.angle) for p in points], np.float32)
    responses = np.array([p.response for p in points], np.float32)
    order = np.lexsort((keypoints[:, 3], keypoints[:, 2], keypoints[:, 0], keypoints[:, 1]))
    if config.max_points:
        order = order[np.isin(order, order_of_strongest(responses, config.max_points))]
    return keypoints[order], root_sift(descriptors[order]), responses[order]


def order_of_strongest(responses: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest responses (all for 0), strongest first, ties by index."""
    order = np.argsort(-responses, kind="stable")
    return order[:count] if count else order


def extract_image(image: Image.Image, config: LocalConfig) -> ImageFeatures:
    """Features of one PIL RGB picture; its sides must be 16 px or more."""
    gray = gray_picture(image, shrunk_size(image.size, config.short_side))
    keypoints, descriptors, responses = detect(
        stretch_contrast(gray) if config.stretch else gray, config
    )
    thumbnail = None
    if config.thumbnail:
        ratio = min(1.0, config.thumbnail / max(image.size))
        size = tuple(max(1, round(side * ratio)) for side in image.size)
        thumbnail = gray_picture(image, size)
    return ImageFeatures(keypoints, descriptors, responses, image.size, thumbnail)
