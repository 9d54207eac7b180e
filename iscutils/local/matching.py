"""How one pair fits: matched points, the map between the pictures, and the pair's score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from iscutils.files.artifacts import KitError
from iscutils.local.config import LocalConfig
from iscutils.local.evidence import Evidence, pair_evidence
from iscutils.local.geometry import covered_part, magsac, ransac
from iscutils.local.pair_score import Matches, match_descriptors, match_halves, tie_broken
from iscutils.local.sift import ImageFeatures, shrunk_size
from iscutils.local.store import Features
from iscutils.local.verifier import log_odds, probability


@dataclass(frozen=True)
class PairMatch:
    """How one pair fits, in continuous pixels (x, y) of the original pictures.

    Points are (M, 2), `inliers` (M,) bool those that agree with `homography` (3, 3), reference ->
    query, None where no map was found. `score`, `coverage` and `agreement` are those of the table.
    """

    query_points: np.ndarray
    reference_points: np.ndarray
    inliers: np.ndarray
    homography: np.ndarray | None
    mirrored: bool
    score: float
    matches: int
    mean_distance: float
    coverage: float = np.nan
    agreement: float = np.nan


def match_pair(query: ImageFeatures, reference: ImageFeatures, config: LocalConfig) -> PairMatch:
    """Match two pictures and score the pair; it looks at nothing but these two.

    With geometry "evidence" the score is the probability of a copy (0..1), inliers are the matches
    along the best map; with "none" it is the number of matches, with another model the number of
    RANSAC inliers.
    """
    if config.geometry == "evidence":
        return _match_by_evidence(query, reference, config)
    halves = [
        _match_by_count(query, reference, mirrored, matches, config)
        for (mirrored, _), matches in match_halves(query, reference, config).items()
    ]
    return max(halves, key=lambda half: (half.score, -half.mean_distance))


def _match_by_count(
    query: ImageFeatures,
    reference: ImageFeatures,
    mirrored: bool,
    matches: Matches,
    config: LocalConfig,
) -> PairMatch:
    """The published score of one half, or its RANSAC inliers."""
    target, source = _original_points(query, reference, matches, config)
    inliers, homography, coverage = np.ones(len(matches), bool), None, np.nan
    if config.geometry != "none":
        zoom = query.size[0] / shrunk_size(query.size, config.short_side)[0]
        flip = np.diag([-1.0, 1.0, 1.0]) if mirrored else np.eye(3)
        estimate = magsac if config.estimator == "magsac" else ransac
        pose = estimate(
            source @ flip[:2, :2], target, config.geometry, tolerance=config.tolerance * zoom,
            iterations=config.iterations, seed=config.seed,
        )  # fmt: skip
        inliers = np.zeros(len(matches), bool) if pose is None else pose.inliers
        if pose is not None:
            homography = pose.matrix @ flip
            coverage = covered_part(homography, reference.size, query.size)
    score = float(inliers.sum())
    if config.tie_break:
        score = tie_broken(int(score), matches.mean_distance)
    return PairMatch(
        target, source, inliers, homography, mirrored, score, len(matches), matches.mean_distance,
        coverage,
    )  # fmt: skip


def _match_by_evidence(
    query: ImageFeatures, reference: ImageFeatures, config: LocalConfig
) -> PairMatch:
    """The best map's evidence as a probability; without any map, a score of 0."""
    found = pair_evidence(query, reference, config)
    if not found:
        blind = match_descriptors(query, reference, config, False)
        points = _original_points(query, reference, blind, config)
        outliers = np.zeros(len(blind), bool)
        return PairMatch(*points, outliers, None, False, 0.0, len(blind), blind.mean_distance)
    best: Evidence = max(found, key=lambda evidence: log_odds(evidence.values))
    blind = best.matches
    taken = set(best.guided.reference.tolist())
    rejected = np.array([i for i, row in enumerate(blind.reference) if row not in taken], int)
    joined = Matches(
        np.concatenate([best.guided.query, blind.query[rejected]]),
        np.concatenate([best.guided.reference, blind.reference[rejected]]),
        best.guided.distance,
    )
    target, source = _original_points(query, reference, joined, config)
    inliers = np.arange(len(target)) < len(best.guided)
    return PairMatch(
        target, source, inliers, best.matrix, best.mirrored, probability(best.values), len(blind),
        blind.mean_distance, best.coverage, best.agreement,
    )  # fmt: skip


def _original_points(
    query: ImageFeatures, reference: ImageFeatures, matches: Matches, config: LocalConfig
) -> tuple[np.ndarray, np.ndarray]:
    points = []
    for features, rows in ((query, matches.query), (reference, matches.reference)):
        zoom = np.array(features.size) / shrunk_size(features.size, config.short_side)
        points.append((features.keypoints[rows, :2].astype(np.float64) + 0.5) * zoom)
    return points[0], points[1]


def pair_drawer(
    query_features: Features, reference_features: Features, config: LocalConfig
) -> Callable[[str, str], dict[str, Any]]:
    """A function (query_id, reference_id) -> points, inliers and homography of the pair.

    Keys query_points and reference_points (M, 2), inliers (M,) bool, homography (3, 3) or None;
    continuous pixels of the original pictures. A picture without features is a `KitError`.
    """
    queries, references = query_features.index(), reference_features.index()

    def draw(query_id: str, reference_id: str) -> dict[str, Any]:
        for image_id, known, what in (
            (query_id, queries, "query"), (reference_id, references, "reference")
        ):  # fmt: skip
            if image_id not in known:
                raise KitError(f"{what} '{image_id}' has no local features: see skipped.csv")
        pair = match_pair(
            query_features.load(queries[query_id]),
            reference_features.load(references[reference_id]), config,
        )  # fmt: skip
        names = ("query_points", "reference_points", "inliers", "homography")
        return {name: getattr(pair, name) for name in names}

    return draw
