"""Photometric agreement: do the pixels fit, once the reference is laid over the query?

Local zero-normalised cross-correlation does not see brightness, contrast and slow shading, which
edits change; it sees structure, which they keep. Matrices map reference to query in continuous
pixels of the gray thumbnails.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from iscutils.local.geometry import corners, jacobian, project

FRAME = 96  # px, long side of the common frame
WINDOWS = (9, 7, 5)  # px, side of the correlation window at full, half and quarter resolution
NOISE = 4.0  # gray levels squared, added to variances: flat places do not correlate
TEXTURE = 20.0  # gray levels; standard deviation beyond which a place counts no more
TEXTURED = 5.0  # gray levels; standard deviation of a place that shows something
CONTRARY = 0.3  # correlation below which it shows something else
ALIGNMENT = 64  # px, long side of the frame of the alignment
MAX_STRETCH = (0.6, 1.7)  # an alignment that changes a length more has gone astray


@dataclass(frozen=True)
class Overlay:
    """Query and warped reference in a common frame (h, w) float32, and where both exist.

    `matrix` (3, 3) maps query thumbnail pixels to the frame; `coverage` is the visible part of
    the query (0..1), `visible` that of the reference.
    """

    query: np.ndarray
    reference: np.ndarray
    mask: np.ndarray
    matrix: np.ndarray
    coverage: float
    visible: float


def overlay(
    query: np.ndarray, reference: np.ndarray, matrix: np.ndarray, side: int = FRAME
) -> Overlay | None:
    """Lay a reference thumbnail (h, w) uint8 over a query thumbnail, seen where it lies.

    The frame is the bounding box of the reference in the query, `side` px long. None when the two
    hardly overlap (less than 4 px).
    """
    height, width = query.shape
    outline = project(matrix, corners(reference.shape[::-1]))
    low = np.maximum(outline.min(axis=0), 0)
    high = np.minimum(outline.max(axis=0), (width, height))
    extent = high - low
    if not (extent > 4).all():
        return None
    zoom = side / extent.max()
    to_frame = np.array([[zoom, 0, -low[0] * zoom], [0, zoom, -low[1] * zoom], [0, 0, 1]])
    size = tuple(max(8, round(length * zoom)) for length in extent.tolist())
    warped = _warp(query, to_frame, size)
    laid = _warp(reference, to_frame @ matrix, size)
    ones = np.ones(reference.shape, np.uint8)
    mask = cv2.warpPerspective(ones, _centred(to_frame @ matrix), size, flags=cv2.INTER_NEAREST)
    area = mask.sum() / zoom**2  # px of the query thumbnail
    full = cv2.contourArea(outline.astype(np.float32))
    return Overlay(
        warped, laid, mask.astype(np.float32), to_frame,
        float(area / query.size), float(min(1.0, area / max(full, 1.0))),
    )  # fmt: skip


def _centred(matrix: np.ndarray) -> np.ndarray:
    """A map of continuous pixels as OpenCV counts them, the first pixel's centre being 0."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.linalg.inv(half) @ matrix @ half


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Warp (h, w) to `size` (width, height) as float32, averaging first where it shrinks."""
    inverse = np.linalg.inv(matrix)
    step = jacobian(inverse, np.array(size) / 2)  # source px per px of the result
    shrink = min(1.0, 1 / max(np.sqrt(abs(np.linalg.det(step))), 1e-6))
    small = shrunk(image, shrink)
    ratio = np.diag([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0], 1])
    return cv2.warpPerspective(
        small, _centred(matrix @ ratio), size, flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float32)  # fmt: skip


def shrunk(image: np.ndarray, ratio: float) -> np.ndarray:
    """Image (h, w) averaged down to `ratio` (at most 1) of its sides, 2 px at least."""
    if ratio >= 1:
        return image
    size = (max(2, round(image.shape[1] * ratio)), max(2, round(image.shape[0] * ratio)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def local_correlation(
    first: np.ndarray, second: np.ndarray, mask: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Zero-normalised cross-correlation in a square window around every pixel.

    Inputs (h, w) float32, mask 1 where both exist. Returns the correlation (-1..1), the standard
    deviation of the second image (gray levels), and where the mask fills 30 % of the window.
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, -1, (window, window), borderType=cv2.BORDER_REFLECT)

    share = mean(mask)
    filled = np.maximum(share, 1e-3)
    mean_first, mean_second = mean(first * mask) / filled, mean(second * mask) / filled
    variance_first = np.maximum(mean(first**2 * mask) / filled - mean_first**2, 0)
    variance_second = np.maximum(mean(second**2 * mask) / filled - mean_second**2, 0)
    covariance = mean(first * second * mask) / filled - mean_first * mean_second
    correlation = covariance / np.sqrt((variance_first + NOISE) * (variance_second + NOISE))
    return correlation, np.sqrt(variance_second), (mask > 0) & (share > 0.3)


def agreement(pair: Overlay) -> np.ndarray:
    """How well the pixels of an overlay agree, (3, 4): full, half, quarter resolution.

    Columns: mean local correlation weighted by the reference's texture; significance of that
    mean, i.e. the mean times the square root of the number of independent windows; share of the
    overlap that has texture and correlates above 0.6; correlation of the whole overlap.
    """
    query, reference, mask = pair.query, pair.reference, pair.mask
    rows = []
    for level, window in enumerate(WINDOWS):
        if level:
            query, reference = shrunk(query, 0.5), shrunk(reference, 0.5)
            mask = (shrunk(mask, 0.5) > 0.5).astype(np.float32)
        rows.append(_level(query, reference, mask, window))
    return np.array(rows)


def _level(query: np.ndarray, reference: np.ndarray, mask: np.ndarray, window: int) -> list[float]:
    correlation, texture, valid = local_correlation(query, reference, mask, window)
    if valid.sum() < 9:
        return [0.0] * 4
    weight = np.minimum(texture[valid], TEXTURE)
    values = correlation[valid]
    mean = float((values * weight).sum() / max(weight.sum(), 1e-6))
    mean *= min(1.0, float(weight.mean()) / 2)  # nearly flat pictures prove little
    independent = weight.sum() ** 2 / max((weight**2).sum(), 1e-6) / window**2
    strong = float(np.mean((values > 0.6) & (weight > 2)))
    a, b = query[mask > 0], reference[mask > 0]
    whole = np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std() + 1)
    return [mean, mean * float(np.sqrt(independent)), strong, float(whole)]


def contradiction(pair: Overlay) -> tuple[float, float]:
    """Where two pictures show different things (0..1 each).

    First the share of the reference's texture in whose place the query has another texture, as
    another word or another photograph has. Then, of all places where either picture has texture,
    the share where the other has none: a blurred or covered copy has such places, and so has a dark
    photograph in the frame of another one.
    """
    window = WINDOWS[0]
    correlation, texture, valid = local_correlation(pair.query, pair.reference, pair.mask, window)
    mean, square = (
        cv2.boxFilter(x, -1, (window, window), borderType=cv2.BORDER_REFLECT)
        for x in (pair.query, pair.query**2)
    )
    known, seen = texture > TEXTURED, square - mean**2 > TEXTURED**2
    against = valid & known & seen & (correlation < CONTRARY)
    alone = (valid & (known ^ seen)).sum() / ((valid & (known | seen)).sum() + 20)
    return float(against.sum() / ((valid & known).sum() + 20)), float(alone)


def align(query: np.ndarray, reference: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Improve a map by maximising the correlation of the thumbnails; unchanged where that fails.

    An affine correction in the common frame (Evangelidis, Psarakis, "Parametric image alignment
    using enhanced correlation coefficient maximization", PAMI 2008).
    """
    pair = overlay(query, reference, matrix, ALIGNMENT)
    if pair is None or pair.mask.sum() < 50:
        return matrix
    steps = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    try:
        _, found = cv2.findTransformECC(
            pair.query, pair.reference, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, steps,
            pair.mask.astype(np.uint8), 3,
        )  # fmt: skip
    except cv2.error:  # it did not converge
        return matrix
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    found = half @ np.vstack([found, [0, 0, 1]]).astype(np.float64) @ np.linalg.inv(half)
    stretch = np.linalg.svd(found[:2, :2], compute_uv=False)
    if not (MAX_STRETCH[0] < stretch[1] and stretch[0] < MAX_STRETCH[1]):
        return matrix
    aligned = np.linalg.inv(pair.matrix) @ np.linalg.inv(found) @ pair.matrix @ matrix
    return aligned / aligned[2, 2]
