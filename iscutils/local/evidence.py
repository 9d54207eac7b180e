"""Everything that speaks for a pair being a copy: consistent points and agreeing pixels.

A few maps from reference to query are proposed (by SIFT matches, plain and mirrored, and by laying
the whole reference over the query), refined, and measured in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from iscutils.local.agreement import Overlay, agreement, align, overlay
from iscutils.local.config import LocalConfig
from iscutils.local.geometry import is_plausible, jacobian, project, propose_poses
from iscutils.local.pair_score import Matches, match_descriptors, one_to_one, squared_distances
from iscutils.local.sift import ImageFeatures, mirror_descriptors, shrunk_size
from iscutils.local.whole import whole_maps

GUIDED_DISTANCE = 14_000.0  # squared L2: looser than a blind match may be, the place is known
GUIDED_OCTAVES = 0.8  # of scale, between a point and what the map says
POINT_MAPS = 2  # maps proposed by points
WHOLE_MAPS = 2  # maps that lay the whole reference over the query
NAMES = (
    "log_guided", "guided_share",
    "mean_0", "significance_0", "strong_0", "whole_0",
    "mean_1", "significance_1", "strong_1", "whole_1",
    "mean_2", "significance_2", "strong_2", "whole_2",
    "coverage", "visible",
)  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What one map says about a pair.

    matrix: (3, 3) reference -> query, continuous pixels of the original pictures. mirrored: it
    reverses the sense of turning. guided: matches along the map (rows of points). expected:
    reference points that have any query point where the map puts them. coverage: part of the query
    that the reference covers. agreement: mean local correlation of the pixels, weighted by texture
    (-1..1). values: (len(NAMES),), what the verifier weighs.
    """

    matrix: np.ndarray
    mirrored: bool
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


def pair_evidence(
    query: ImageFeatures, reference: ImageFeatures, config: LocalConfig
) -> list[Evidence]:
    """Evidence of each proposed map of a pair; empty when no map could be measured."""
    frames = _Frame(query, config), _Frame(reference, config)
    maps = _point_maps(query, reference, frames, config)
    to_query, to_reference = frames[0].to_thumbnail, frames[1].to_thumbnail
    for matrix in whole_maps(query.thumbnail, reference.thumbnail, WHOLE_MAPS):
        maps.append(np.linalg.inv(to_query) @ matrix @ to_reference)
    found = [_measure(query, reference, frames, matrix, config) for matrix in maps]
    return [evidence for evidence in found if evidence is not None]


def _point_maps(
    query: ImageFeatures,
    reference: ImageFeatures,
    frames: tuple[_Frame, _Frame],
    config: LocalConfig,
) -> list[np.ndarray]:
    """Maps of shrunk pixels that matched points agree on, best first."""
    found = []
    for mirrored in (False, True):
        matches = match_descriptors(query, reference, config, mirrored)
        poses = propose_poses(
            frames[0].points[matches.query], frames[1].points[matches.reference],
            frames[1].size, mirrored, POINT_MAPS,
        )  # fmt: skip
        found += [(pose.count, pose.matrix, mirrored) for pose in poses]
    found.sort(key=lambda item: -item[0])
    return [
        _as_homography(query, reference, frames, matrix, mirrored, config)
        for _, matrix, mirrored in found[:POINT_MAPS]
    ]


def _as_homography(
    query: ImageFeatures,
    reference: ImageFeatures,
    frames: tuple[_Frame, _Frame],
    matrix: np.ndarray,
    mirrored: bool,
    config: LocalConfig,
) -> np.ndarray:
    """The perspective map, where it gains matches over the affine one."""
    guided, _ = guided_matches(query, reference, frames, matrix, mirrored, config)
    if len(guided) < 8:
        return matrix
    target = frames[0].points[guided.query, :2]
    source = frames[1].points[guided.reference, :2]
    found, _ = cv2.findHomography(source, target, cv2.RANSAC, 0.8 * config.tolerance, maxIters=500)
    if found is None or not is_plausible(found, frames[1].size, mirrored):
        return matrix
    again, _ = guided_matches(query, reference, frames, found, mirrored, config)
    return found if len(again) >= len(guided) else matrix


def guided_matches(
    query: ImageFeatures,
    reference: ImageFeatures,
    frames: tuple[_Frame, _Frame],
    matrix: np.ndarray,
    mirrored: bool,
    config: LocalConfig,
) -> tuple[Matches, int]:
    """Matches at the places where a map puts the reference points, and how many were possible.

    A query point is eligible within `tolerance` px and 0.8 octaves of scale; the nearest
    descriptor wins if it is near enough. Possible: reference points with any eligible point.
    """
    points, known = frames[0].points, frames[1].points
    none = np.zeros(0, np.int64)
    placed = project(matrix, known[:, :2])
    inside = np.flatnonzero(((placed > 0) & (placed < frames[0].size)).all(axis=1))
    if not len(inside) or not len(points):
        return Matches(none, none, np.zeros(0)), 0
    away = ((placed[inside, None] - points[None, :, :2]) ** 2).sum(axis=-1)
    zoom = np.sqrt(abs(np.linalg.det(jacobian(matrix, np.array(frames[1].size) / 2))))
    octaves = np.abs(np.log2(points[None, :, 2] / (known[inside, 2] * zoom)[:, None]))
    eligible = (away < config.tolerance**2) & (octaves < GUIDED_OCTAVES)
    descriptors = reference.descriptors[inside]
    if mirrored:
        descriptors = mirror_descriptors(descriptors)
    distances = np.where(eligible, squared_distances(descriptors, query.descriptors), np.inf)
    best = distances.argmin(axis=1)
    nearness = distances[np.arange(len(inside)), best]
    near = np.flatnonzero(nearness < GUIDED_DISTANCE)
    matched, rows = best[near], inside[near]
    kept = one_to_one(points[matched, :2], known[rows, :2], nearness[near])
    found = Matches(matched[kept], rows[kept], nearness[near][kept])
    return found, int(eligible.any(axis=1).sum())


def _measure(
    query: ImageFeatures,
    reference: ImageFeatures,
    frames: tuple[_Frame, _Frame],
    matrix: np.ndarray,
    config: LocalConfig,
) -> Evidence | None:
    """Evidence of a map of shrunk pixels, before or after alignment of the pixels."""
    to_query, to_reference = frames[0].to_thumbnail, frames[1].to_thumbnail
    laid = to_query @ matrix @ np.linalg.inv(to_reference)
    best: tuple[float, Overlay, np.ndarray, np.ndarray] | None = None
    for candidate in (laid, align(query.thumbnail, reference.thumbnail, laid)):
        pair = overlay(query.thumbnail, reference.thumbnail, candidate)
        if pair is None:
            continue
        values = agreement(pair)
        if best is None or values[:2, 0].sum() > best[0]:
            best = values[:2, 0].sum(), pair, values, candidate
    if best is None:
        return None
    _, pair, values, laid = best
    matrix = np.linalg.inv(to_query) @ laid @ to_reference
    mirrored = bool(np.linalg.det(jacobian(matrix, np.array(frames[1].size) / 2)) < 0)
    guided, expected = guided_matches(query, reference, frames, matrix, mirrored, config)
    share = len(guided) / (expected + 5)
    vector = np.array(
        [np.log1p(len(guided)), share, *values.ravel(), np.sqrt(pair.coverage), pair.visible]
    )
    original = frames[0].to_original @ matrix @ np.linalg.inv(frames[1].to_original)
    return Evidence(
        original / original[2, 2], mirrored, guided, expected, pair.coverage, float(values[0, 0]),
        vector,
    )  # fmt: skip
