"""Points that are searched for, and what was found nearest to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Points:
    """Points of pictures, one row each."""

    row: np.ndarray  # picture
    index: np.ndarray  # row in the file's arrays of points
    keypoints: np.ndarray  # (M, 4)

    def subset(self, chosen: slice | np.ndarray) -> Points:
        return Points(self.row[chosen], self.index[chosen], self.keypoints[chosen])


@dataclass(frozen=True)
class Hits:
    """The nearest reference point of every query point, for one half of the search.

    Arrays of one row per query point: `query` and `reference` are rows of the feature files,
    `point` the reference point hit, `distance` its squared L2 distance, `turn` (degrees) and
    `octave` (log2) how the query point is turned and scaled against it.
    """

    query: np.ndarray
    reference: np.ndarray
    point: np.ndarray
    distance: np.ndarray
    turn: np.ndarray
    octave: np.ndarray


def hits_between(queries: Points, hit: Points, distance: np.ndarray, mirrored: bool) -> Hits:
    """Hits of query points on the points in the same rows of `hit`."""
    # A mirror reverses the sense of turning: angles then add up instead of cancelling.
    angle = queries.keypoints[:, 3] + (1 if mirrored else -1) * hit.keypoints[:, 3]
    octave = np.log2(queries.keypoints[:, 2] / hit.keypoints[:, 2])
    return Hits(queries.row, hit.row, hit.index, distance, angle % 360, octave)
