"""Matches between two pictures and the published pair score, their number.

Source: published code of imgFp (arXiv 2112.02373), "KNN matching, K = 2".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iscutils.local.config import LocalConfig
from iscutils.local.sift import ImageFeatures, mirror_descriptors, negative_descriptors

MAX_DISTANCE = 260_100.0  # 4 * 65025, above any squared distance of RootSIFT integers


@dataclass(frozen=True)
class Matches:
    """One-to-one matches of a pair: point rows of query and reference, squared distances (M,)."""

    query: np.ndarray
    reference: np.ndarray
    distance: np.ndarray

    def __len__(self) -> int:
        return len(self.query)

    @property
    def mean_distance(self) -> float:
        """Mean squared distance; the largest possible when there is no match."""
        return float(self.distance.mean()) if len(self.distance) else MAX_DISTANCE


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared L2 distances (M, N) of descriptor rows (M, D) and (N, D); exact for integers."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    norms = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
    return norms - 2 * first @ second.T


def ratio_test(distances: np.ndarray, ratio: float = 1.8) -> tuple[np.ndarray, np.ndarray]:
    """Rows (M,) kept and their best column: ratio * best < second, on squared distances (R, C).

    A Lowe ratio of 1 / sqrt(1.8) = 0.745. With fewer than 2 columns nothing is kept.
    """
    if distances.shape[1] < 2 or not len(distances):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = np.arange(len(distances))
    best = distances.argmin(axis=1)
    lowest = distances[rows, best]
    others = distances.copy()
    others[rows, best] = np.inf
    kept = np.flatnonzero(ratio * lowest < others.min(axis=1))
    return kept, best[kept]


def one_to_one(
    query_points: np.ndarray, reference_points: np.ndarray, distance: np.ndarray
) -> np.ndarray:
    """Rows of matches kept, by rising distance, when each whole-pixel place may be used once.

    Points are (M, 2) in (x, y) px, rounded half to even; `distance` (M,). Equal distances keep
    their order.
    """
    taken_query: set[tuple] = set()
    taken_reference: set[tuple] = set()
    kept = []
    places = np.rint(np.concatenate([query_points, reference_points], axis=1)).astype(int).tolist()
    for i in np.argsort(distance, kind="stable").tolist():
        query, reference = tuple(places[i][:2]), tuple(places[i][2:])
        if query in taken_query or reference in taken_reference:
            continue
        taken_query.add(query)
        taken_reference.add(reference)
        kept.append(i)
    return np.array(kept, dtype=np.int64)


def changed_descriptors(descriptors: np.ndarray, mirrored: bool, negative: bool) -> np.ndarray:
    """Descriptors (M, 128) of the mirrored and / or negative picture."""
    if mirrored:
        descriptors = mirror_descriptors(descriptors)
    return negative_descriptors(descriptors) if negative else descriptors


def match_descriptors(
    query: ImageFeatures,
    reference: ImageFeatures,
    config: LocalConfig,
    mirrored: bool,
    negative: bool = False,
) -> Matches:
    """Matches of a query with a reference, or with its mirrored or negative picture.

    Every reference point is matched with its best query point if the ratio test holds; with
    `both_directions` every query point with its best reference point, too.
    """
    descriptors = changed_descriptors(reference.descriptors, mirrored, negative)
    distances = squared_distances(descriptors, query.descriptors)
    rows, columns = ratio_test(distances, config.ratio)
    if config.both_directions:
        more_columns, more_rows = ratio_test(distances.T, config.ratio)
        rows, columns = np.append(rows, more_rows), np.append(columns, more_columns)
    nearness = distances[rows, columns]
    kept = one_to_one(query.keypoints[columns, :2], reference.keypoints[rows, :2], nearness)
    return Matches(columns[kept], rows[kept], nearness[kept])


def tie_broken(count: int, mean_distance: float) -> float:
    """Integer score less a part below 1 that grows with the mean squared distance."""
    return count - mean_distance / MAX_DISTANCE
