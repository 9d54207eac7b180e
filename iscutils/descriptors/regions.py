"""Regions that look like things of their own: selective search, small and fast.

Source: Uijlings, van de Sande, Gevers and Smeulders, "Selective Search for Object Recognition",
IJCV 2013; the first segments: Felzenszwalb and Huttenlocher, IJCV 2004 (scikit-image's).
"""

from __future__ import annotations

import heapq

import cv2
import numpy as np
from PIL import Image

SIDE = 640  # px, most of the long side of the picture on which the limits below apply
# Segments are found on a copy of half that size, in a quarter of the time; see `segment`.
SEGMENT_SIDE = 320
SCALE, SIGMA, MIN_SIZE = 500.0, 0.9, 10  # of Felzenszwalb's segments, as D2LV sets them
LEAST_PIXELS = 2000  # of a region
MOST_RATIO = 2.0  # of the two sides of its box
MOST_OVERLAP = 0.5  # intersection over union of two boxes
MOST_REGIONS = 20
COLOURS, DIRECTIONS, STRENGTHS = 25, 8, 10  # bins: of each channel, of edges and of their strength


def find_regions(image: Image.Image) -> np.ndarray:
    """Boxes (N, 4) int px of an RGB image: x0, y0, x1, y1, the largest first, at most 20.

    A region has 2,000 pixels or more where the long side is 640 px at most, and neither side of its
    box is more than twice the other; of boxes that overlap by half the larger stays. The whole
    picture, which is a part of its own, is not among them.
    """
    pixels = np.asarray(_reduced(image, SEGMENT_SIDE))
    counts, boxes = group(pixels, segment(pixels))
    height, width = pixels.shape[:2]
    measured = _reduced_size(image.size, SIDE)
    counts = counts * (measured[0] * measured[1] / (width * height))  # pixels at `SIDE`
    boxes = boxes * np.tile(np.array(image.size) / (width, height), 2)  # px of the original
    return choose_boxes(boxes, counts, image.size)


def choose_boxes(boxes: np.ndarray, counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Those of the boxes (N, 4) px that are kept, truncated to whole pixels, the largest first.

    Args:
        counts: pixels of each region, (N,), where the long side is `SIDE` px at most.
        size: width and height of the picture.
    """
    boxes = boxes.astype(np.int64)
    sides = boxes[:, 2:] - boxes[:, :2]
    good = (counts >= LEAST_PIXELS) & (sides.min(1) > 0)
    boxes = boxes[good & (sides.max(1) <= MOST_RATIO * sides.min(1))]
    whole = np.array([[0, 0, *size]])  # it suppresses what nearly is the whole picture
    boxes = np.unique(np.concatenate([whole, boxes]), axis=0)
    kept = suppress(boxes)
    return kept[(kept != whole).any(1)][:MOST_REGIONS]


def suppress(boxes: np.ndarray, most_overlap: float = MOST_OVERLAP) -> np.ndarray:
    """Boxes (N, 4) by falling area (ties by x0, y0), without those that overlap an earlier one."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    boxes = boxes[np.lexsort((*boxes.T[::-1], -area))]
    kept = []
    while len(boxes):
        first, boxes = boxes[0], boxes[1:]
        kept.append(first)
        corner, end = np.maximum(first[:2], boxes[:, :2]), np.minimum(first[2:], boxes[:, 2:])
        shared = np.clip(end - corner, 0, None).prod(1)
        union = (first[2:] - first[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared
        boxes = boxes[shared <= most_overlap * union]
    return np.array(kept, np.int64).reshape(-1, 4)


def segment(pixels: np.ndarray) -> np.ndarray:
    """Labels (H, W) from 0 of small segments of uint8 pixels (H, W, 3)."""
    from skimage.segmentation import felzenszwalb  # slow to import, and few need it

    # Edges are about twice as steep on half the side, segments have a quarter of the pixels: with
    # half the scale, pasted pictures are found as often as with the full scale on the full side.
    scale = SCALE * SEGMENT_SIDE / SIDE
    return felzenszwalb(
        pixels.astype(np.float32) / 255, scale=scale, sigma=SIGMA, min_size=MIN_SIZE
    )


def group(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join the two most similar neighbours again and again; every region that ever existed.

    Similarity = that of colours + of texture + share of the picture the two leave free + share
    that their common box does not exceed them by (equations 1 to 6 of the paper, all weights 1).

    Args:
        pixels: uint8 RGB (H, W, 3).
        labels: (H, W) segments 0..R-1.

    Returns:
        Number of pixels (2R-1,) and boxes (2R-1, 4) of the R segments, then of the R-1 joints in
        their order.
    """
    n = int(labels.max()) + 1
    total = 2 * n - 1
    features, counts, boxes = _describe(pixels, labels, total)
    neighbours = [set() for _ in range(total)]
    heap = []
    pairs = _touching(labels)
    similarity = _similarity(features, counts, boxes, pairs[:, 0], pairs[:, 1], labels.size)
    for (i, j), value in zip(pairs.tolist(), similarity.tolist(), strict=True):
        neighbours[i].add(j)
        neighbours[j].add(i)
        heap.append((-value, i, j))
    heapq.heapify(heap)
    alive = bytearray(b"\1" * n + b"\0" * (n - 1))
    new = n
    while heap:
        _, i, j = heapq.heappop(heap)
        if not (alive[i] and alive[j]):
            continue
        alive[i] = alive[j] = 0
        alive[new] = 1
        counts[new] = counts[i] + counts[j]
        features[new] = (features[i] * counts[i] + features[j] * counts[j]) / counts[new]
        boxes[new, :2] = np.minimum(boxes[i, :2], boxes[j, :2])
        boxes[new, 2:] = np.maximum(boxes[i, 2:], boxes[j, 2:])
        around = sorted((neighbours[i] | neighbours[j]) - {i, j})
        for other in around:
            neighbours[other] -= {i, j}
            neighbours[other].add(new)
        neighbours[new] = set(around)
        if around:
            similarity = _similarity(features, counts, boxes, new, np.array(around), labels.size)
            for other, value in zip(around, similarity.tolist(), strict=True):
                heapq.heappush(heap, (-value, other, new))
        new += 1
    return counts, boxes


def _similarity(
    features: np.ndarray, counts: np.ndarray, boxes: np.ndarray, i, j, pixels: int
) -> np.ndarray:
    alike = np.minimum(features[i], features[j]).sum(-1)  # colours and texture at once
    joint = counts[i] + counts[j]
    corner, end = np.minimum(boxes[i], boxes[j]), np.maximum(boxes[i], boxes[j])
    box = (end[..., 2] - corner[..., 0]) * (end[..., 3] - corner[..., 1])
    return alike + (1 - joint / pixels) + (1 - (box - joint) / pixels)


def _describe(
    pixels: np.ndarray, labels: np.ndarray, rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histograms (rows, 75 + 80), pixel counts and boxes of the segments; further rows are 0.

    Colours: 25 bins of each channel of HSV. Texture: 10 bins of the strength of luminance edges in
    each of 8 directions. Each of the two sums to 1.
    """
    n, flat = int(labels.max()) + 1, labels.ravel()
    counts = np.bincount(flat, minlength=n)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL).reshape(-1, 3)
    colours = [_histogram(flat, hsv[:, c] * np.uint16(COLOURS) >> 8, n, COLOURS) for c in range(3)]
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    dx, dy = (cv2.GaussianBlur(cv2.Scharr(gray, cv2.CV_32F, *d), (0, 0), 1) / 32
              for d in ((1, 0), (0, 1)))  # fmt: skip
    texture = []
    for k in range(DIRECTIONS):
        angle = 2 * np.pi * k / DIRECTIONS
        edge = np.clip(dx * np.float32(np.cos(angle)) + dy * np.float32(np.sin(angle)), 0, None)
        # Root: most edges are weak, and equal bins would hold nearly all of them in the first.
        bins = np.minimum(np.sqrt(edge) * (STRENGTHS / 10), STRENGTHS - 1).astype(np.uint16)
        texture.append(_histogram(flat, bins.ravel(), n, STRENGTHS))
    features = np.zeros((rows, 3 * COLOURS + DIRECTIONS * STRENGTHS), np.float32)
    features[:n, : 3 * COLOURS] = np.concatenate(colours, 1) / (3 * counts[:, None])
    features[:n, 3 * COLOURS :] = np.concatenate(texture, 1) / (DIRECTIONS * counts[:, None])
    all_counts, boxes = np.zeros(rows, np.int64), np.zeros((rows, 4), np.int64)
    all_counts[:n] = counts
    boxes[:n] = _boxes(labels, n)
    return features, all_counts, boxes


def _histogram(labels: np.ndarray, values: np.ndarray, n: int, bins: int) -> np.ndarray:
    return np.bincount(labels * bins + values, minlength=n * bins).reshape(n, bins)


def _boxes(labels: np.ndarray, n: int) -> np.ndarray:
    """Boxes (n, 4) of labels (H, W): x0, y0, x1, y1, the upper bounds exclusive."""
    height, width = labels.shape
    boxes = np.tile(np.array([width, height, 0, 0]), (n, 1))
    # Row by row: the first and last place of a label in the picture, and in the turned one.
    for axis, turned in ((1, labels), (0, labels.T)):
        flat = turned.ravel()
        step = turned.shape[1]
        first = np.zeros(n, np.int64)
        first[flat[::-1]] = np.arange(flat.size)[::-1]  # the last assignment stays
        last = np.zeros(n, np.int64)
        last[flat] = np.arange(flat.size)
        boxes[:, axis], boxes[:, axis + 2] = first // step, last // step + 1
    return boxes


def _touching(labels: np.ndarray) -> np.ndarray:
    """Pairs (P, 2) of labels that share a border, the smaller first, each once."""
    n = int(labels.max()) + 1
    found = []
    for one, two in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        border = one != two
        one, two = one[border], two[border]
        found.append(np.minimum(one, two) * n + np.maximum(one, two))
    pairs = np.unique(np.concatenate(found))
    return np.stack([pairs // n, pairs % n], axis=1)


def _reduced_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(size))
    return tuple(max(1, round(length * scale)) for length in size)


def _reduced(image: Image.Image, side: int) -> Image.Image:
    size = _reduced_size(image.size, side)
    return image if size == image.size else image.resize(size, Image.Resampling.BOX)
