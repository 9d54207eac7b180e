"""Everything that speaks for a pair being a copy: consistent points and agreeing pixels.

A few maps from reference to query are proposed (by SIFT matches, plain and mirrored, and by laying
the whole reference over the query), refined, and measured in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from iscutils.local.agreement import Overlay, agreement, align, contradiction, overlay
from iscutils.local.config import LocalConfig
from iscutils.local.geometry import is_plausible, jacobian, near_pairs, project, propose_poses
from iscutils.local.pair_score import (
    Matches,
    changed_descriptors,
    match_halves,
    one_to_one,
)
from iscutils.local.sift import ImageFeatures, shrunk_size
from iscutils.local.whole import whole_maps

GUIDED_DISTANCE = 14_000.0  # squared L2: looser than a blind match may be, the place is known
GUIDED_OCTAVES = 0.8  # of scale, between a point and what the map says
POINT_MAPS = 2  # maps proposed by points
WHOLE_MAPS = 2  # maps that lay the whole reference over the query
UNIQUE_TOLERANCE = 7.0  # px of the shrunk query, between a blind match and what the map says
PRIOR = 5  # points without agreement that every share counts besides: few points prove little
DETAIL = 192  # px, long side of the frame in which pixels contradict each other
NAMES = (
    "log_guided", "guided_share",
    "mean_0", "significance_0", "strong_0", "whole_0",
    "mean_1", "significance_1", "strong_1", "whole_1",
    "mean_2", "significance_2", "strong_2", "whole_2",
    "coverage", "visible",
    "log_unique", "log_astray", "unique_share", "contradiction", "alone", "frame",
)  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What one map says about a pair.

    matrix: (3, 3) reference -> query, continuous pixels of the original pictures. mirrored: it
    reverses the sense of turning. negative: the query is an inverted copy. matches: before
    geometry; guided: along the map. expected: reference points that have any query point where the
    map puts them. coverage: part of the query that the reference covers. agreement: mean local
    correlation of the pixels, weighted by texture (-1..1). values: (len(NAMES),), what the verifier
    weighs; its "frame" is log_unique times contradiction: much agrees exactly while much is another
    picture, as where two photographs are shown in one frame.
    """

    matrix: np.ndarray
    mirrored: bool
    negative: bool
    matches: Matches
    guided: Matches
    expected: int
    coverage: float
    agreement: float
    values: np.ndarray


class _Frame:
    """Scales of one picture: points of the shrunk picture, thumbnail pixels, original pixels."""

    def __init__(self, features: ImageFeatures, config: LocalConfig):
        self.size = shrunk_size(features.size, config.short_side)
        self.points = features.keypoints.astype(np.float64)
        self.points[:, :2] += 0.5  # continuous pixels
        height, width = features.thumbnail.shape
        self.to_thumbnail = np.diag([width / self.size[0], height / self.size[1], 1.0])
        original = (features.size[0] / self.size[0], features.size[1] / self.size[1], 1.0)
        self.to_original = np.diag(original)


class _Pair:
    """Two pictures, the reference possibly mirrored or negative, and their scales."""

    def __init__(self, query: ImageFeatures, reference: ImageFeatures, config: LocalConfig):
        self.query, self.reference, self.config = query, reference, config
        self.frames = _Frame(query, config), _Frame(reference, config)
        self.query_points, self.points = self.frames[0].points, self.frames[1].points
        self.size, self.query_size = self.frames[1].size, self.frames[0].size
        self.matches = match_halves(query, reference, config, config.negatives)

    def thumbnail(self, negative: bool) -> np.ndarray:
        return 255 - self.reference.thumbnail if negative else self.reference.thumbnail

    def is_mirrored(self, matrix: np.ndarray) -> bool:
        return bool(np.linalg.det(jacobian(matrix, np.array(self.size) / 2)) < 0)


def pair_evidence(
    query: ImageFeatures, reference: ImageFeatures, config: LocalConfig
) -> list[Evidence]:
    """Evidence of each proposed map of a pair; empty when no map could be measured."""
    pair = _Pair(query, reference, config)
    maps = _point_maps(pair)
    to_query, to_reference = (frame.to_thumbnail for frame in pair.frames)
    for _, matrix, negative in whole_maps(
        query.thumbnail, reference.thumbnail, WHOLE_MAPS, config.negatives
    ):
        maps.append((np.linalg.inv(to_query) @ matrix @ to_reference, negative))
    found = [_measure(pair, matrix, negative) for matrix, negative in maps]
    return [evidence for evidence in found if evidence is not None]


def _point_maps(pair: _Pair) -> list[tuple[np.ndarray, bool]]:
    """Maps of shrunk pixels that matched points agree on, best first, and whether negative."""
    found = []
    for (mirrored, negative), matches in pair.matches.items():
        points, known = pair.query_points[matches.query], pair.points[matches.reference]
        if negative:
            known[:, 3] += 180  # gradients turn round
        poses = propose_poses(points, known, pair.size, mirrored, POINT_MAPS)
        found += [(pose.count, pose.matrix, negative) for pose in poses]
    found.sort(key=lambda item: -item[0])
    return [(_as_homography(pair, *item[1:]), item[2]) for item in found[:POINT_MAPS]]


def _as_homography(pair: _Pair, matrix: np.ndarray, negative: bool) -> np.ndarray:
    """The perspective map, where it loses no matches against the affine one."""
    guided, _ = guided_matches(pair, matrix, negative)
    if len(guided) < 8:
        return matrix
    found, _ = cv2.findHomography(
        pair.points[guided.reference, :2], pair.query_points[guided.query, :2], cv2.RANSAC,
        0.8 * pair.config.tolerance, maxIters=500,
    )  # fmt: skip
    if found is None or not is_plausible(found, pair.size, pair.is_mirrored(matrix)):
        return matrix
    again, _ = guided_matches(pair, found, negative)
    return found if len(again) >= len(guided) else matrix


def guided_matches(pair: _Pair, matrix: np.ndarray, negative: bool) -> tuple[Matches, int]:
    """Matches at the places where a map puts the reference points, and how many were possible.

    A query point is eligible within `tolerance` px and 0.8 octaves of scale; the nearest
    descriptor wins if it is near enough. Possible: reference points with any eligible point.
    """
    points, known = pair.query_points, pair.points
    placed = project(matrix, known[:, :2])
    inside = np.flatnonzero(((placed > 0) & (placed < pair.query_size)).all(axis=1))
    rows, columns = near_pairs(placed[inside], points[:, :2], pair.config.tolerance)
    rows = inside[rows]
    zoom = np.sqrt(abs(np.linalg.det(jacobian(matrix, np.array(pair.size) / 2))))
    octaves = np.abs(np.log2(points[columns, 2] / (known[rows, 2] * zoom)))
    rows, columns = rows[octaves < GUIDED_OCTAVES], columns[octaves < GUIDED_OCTAVES]
    expected = len(np.unique(rows))
    descriptors = changed_descriptors(
        pair.reference.descriptors[rows], pair.is_mirrored(matrix), negative
    )
    difference = descriptors.astype(np.int32) - pair.query.descriptors[columns]
    distances = (difference**2).sum(axis=1).astype(np.float64)
    order = np.lexsort((columns, distances, rows))
    best = order[np.unique(rows[order], return_index=True)[1]]  # of each reference point
    best = best[distances[best] < GUIDED_DISTANCE]
    rows, columns, distances = rows[best], columns[best], distances[best]
    kept = one_to_one(points[columns, :2], known[rows, :2], distances)
    return Matches(columns[kept], rows[kept], distances[kept]), expected


def unique_agreement(
    placed: np.ndarray, found: np.ndarray, size: tuple[float, float]
) -> tuple[float, float, float]:
    """How much of what is found only once in the pictures agrees with a map.

    Letters, icons and window panes repeat: their points agree with maps by chance, but seldom pass
    the ratio test. placed, found (M, 2): where the map puts the reference points of the matches of
    that test in a query of `size`, and where they were found. Returns the log numbers of those in
    place and of those elsewhere, and the share of the former.
    """
    seen = ((placed > 0) & (placed < size)).all(axis=1)
    near = np.linalg.norm(placed - found, axis=1) < UNIQUE_TOLERANCE
    unique, astray = int((seen & near).sum()), int((seen & ~near).sum())
    return float(np.log1p(unique)), float(np.log1p(astray)), unique / (unique + astray + PRIOR)


def _measure(pair: _Pair, matrix: np.ndarray, negative: bool) -> Evidence | None:
    """Evidence of a map of shrunk pixels, before or after alignment of the pixels."""
    to_query, to_reference = (frame.to_thumbnail for frame in pair.frames)
    laid = to_query @ matrix @ np.linalg.inv(to_reference)
    query, reference = pair.query.thumbnail, pair.thumbnail(negative)
    best: tuple[float, Overlay, np.ndarray, np.ndarray] | None = None
    for candidate in (laid, align(query, reference, laid)):
        seen = overlay(query, reference, candidate)
        if seen is None:
            continue
        values = agreement(seen)
        if best is None or values[:2, 0].sum() > best[0]:
            best = values[:2, 0].sum(), seen, values, candidate
    if best is None:
        return None
    _, seen, values, laid = best
    matrix = np.linalg.inv(to_query) @ laid @ to_reference
    mirrored = pair.is_mirrored(matrix)
    blind = pair.matches[mirrored, negative]
    guided, expected = guided_matches(pair, matrix, negative)
    if not len(guided) and np.abs(values).max() < 1e-3:
        return None  # flat pixels agree with anything
    uniqueness = unique_agreement(
        project(matrix, pair.points[blind.reference, :2]), pair.query_points[blind.query, :2],
        pair.query_size,
    )  # fmt: skip
    against, alone = contradiction(overlay(query, reference, laid, DETAIL))
    vector = np.array(
        [
            np.log1p(len(guided)), len(guided) / (expected + PRIOR), *values.ravel(),
            np.sqrt(seen.coverage), seen.visible, *uniqueness, against, alone,
            uniqueness[0] * against,
        ]
    )  # fmt: skip
    original = pair.frames[0].to_original @ matrix @ np.linalg.inv(pair.frames[1].to_original)
    return Evidence(
        original / original[2, 2], mirrored, negative, blind, guided, expected, seen.coverage,
        float(values[0, 0]), vector,
    )  # fmt: skip
