"""Geometry between two pictures: fits, seeded RANSAC, poses proposed by single matches.

Coordinates are continuous pixels (x, y) of the shrunk pictures, the centre of the first pixel being
(0.5, 0.5); matrices map reference to query.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MODELS = {"similarity": 2, "affine": 3, "homography": 4}  # points that determine the model
SCALES = (0.08, 12.0)  # smallest and largest stretch of a plausible map
SHEAR = 4.0  # largest ratio of the two stretches
PROPOSALS = 400  # matches that propose a pose
REFINED = 8  # proposals that are refined
RASTER = 128  # px, side of the grid on which covered areas are counted
ROUNDS = (14.0, 9.0, 6.0, 5.0)  # px, tolerances of the refinement


@dataclass(frozen=True)
class Pose:
    """A map from reference to query: matrix (3, 3) and the matches (M,) bool that agree with it."""

    matrix: np.ndarray
    inliers: np.ndarray

    @property
    def count(self) -> int:
        return int(self.inliers.sum())


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (N, 2) by a homography (3, 3); points at infinity become very large."""
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ np.asarray(matrix).T
    depth = homogeneous[:, 2:]
    return homogeneous[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)


def near_pairs(
    first: np.ndarray, second: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (K,) and (K,) of points (N, 2) and (M, 2) less than `tolerance` apart, by first row."""
    order = np.argsort(second[:, 1], kind="stable")  # a band of y holds few candidates
    heights = second[order, 1]
    starts = np.searchsorted(heights, first[:, 1] - tolerance)
    counts = np.searchsorted(heights, first[:, 1] + tolerance) - starts
    rows = np.repeat(np.arange(len(first)), counts)
    places = np.arange(len(rows)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    columns = order[places]
    near = ((first[rows] - second[columns]) ** 2).sum(axis=1) < tolerance**2
    return rows[near], columns[near]


def corners(size: tuple[float, float]) -> np.ndarray:
    """Corners (4, 2) of a picture of (width, height), clockwise from the top left."""
    width, height = size
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], float)


def is_plausible(matrix: np.ndarray, size: tuple[float, float], mirrored: bool) -> bool:
    """Whether a map could be an edit of a reference of `size`: finite, convex, not degenerate.

    The stretch at the centre lies in 0.08..12 with an aspect change up to 4; the far side of a
    perspective is at most 5 times as far as the near one; the sense of turning is as expected.
    """
    if not np.isfinite(matrix).all():
        return False
    depth = np.column_stack([corners(size), np.ones(4)]) @ matrix[2]
    if abs(depth.mean()) < 1e-9:
        return False
    depth = depth / depth.mean()  # 1 at the centre
    if depth.min() < 0.2 * depth.max():
        return False
    local = jacobian(matrix, np.array(size) / 2)
    stretch = np.linalg.svd(local, compute_uv=False)
    return (
        (np.linalg.det(local) < 0) == mirrored
        and SCALES[0] < stretch[1]
        and stretch[0] < min(SCALES[1], SHEAR * stretch[1])
    )


def jacobian(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Local linear map (2, 2) of a homography (3, 3) at a point (2,)."""
    x, y, depth = matrix @ np.append(point, 1.0)
    return (matrix[:2, :2] - np.outer([x / depth, y / depth], matrix[2, :2])) / depth


def fit_affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares affine map (3, 3) of points (N, 2), N >= 3, onto (N, 2)."""
    design = np.column_stack([source, np.ones(len(source))])
    solution = np.linalg.lstsq(design, target, rcond=None)[0]  # (3, 2)
    return np.vstack([solution.T, [0, 0, 1]])


def ransac(
    source: np.ndarray,
    target: np.ndarray,
    model: str,
    *,
    tolerance: float = 5.0,
    iterations: int = 2000,
    seed: int = 0,
) -> Pose | None:
    """Map of points (N, 2) onto (N, 2) with most inliers among models of random minimal sets.

    model: "similarity" (without reflection: mirror the source first), "affine" or "homography".
    A match is an inlier when its error is at most `tolerance` (px of the target). None for fewer
    than 4 matches, or when no set gives a model. The same seed gives the same result.
    """
    if len(source) < 4:
        return None
    rng = np.random.default_rng(seed)
    order = rng.random((iterations, len(source))).argpartition(MODELS[model] - 1, axis=1)
    chosen = order[:, : MODELS[model]]  # (iterations, points)
    to_unit, from_unit = _to_unit(source), np.linalg.inv(_to_unit(target))
    unit_source, unit_target = project(to_unit, source), project(_to_unit(target), target)
    matrices = _minimal_models(unit_source[chosen], unit_target[chosen], model)
    if not len(matrices):
        return None
    matrices = from_unit @ matrices @ to_unit
    points = np.column_stack([source, np.ones(len(source))])
    mapped = np.einsum("kij,nj->kni", matrices, points)
    with np.errstate(all="ignore"):
        errors = ((mapped[..., :2] / mapped[..., 2:] - target) ** 2).sum(axis=-1)
    agree = errors <= tolerance**2  # NaN is no inlier
    best = agree.sum(axis=1).argmax()
    return Pose(matrices[best], agree[best]) if agree[best].any() else None


def magsac(
    source: np.ndarray,
    target: np.ndarray,
    model: str,
    *,
    tolerance: float = 5.0,
    iterations: int = 2000,
    seed: int = 0,
) -> Pose | None:
    """As `ransac`, by OpenCV: "affine" or "homography", refined on soft inliers; much faster.

    Barath et al., "MAGSAC++, a fast, reliable and accurate robust estimator", CVPR 2020. Inliers
    are those of `ransac`: within `tolerance`.
    """
    if len(source) < 4:
        return None
    settings = cv2.UsacParams()
    settings.threshold, settings.maxIterations = tolerance, iterations
    settings.randomGeneratorState, settings.confidence = seed, 0.999
    settings.score = cv2.SCORE_METHOD_MAGSAC
    settings.final_polisher = cv2.MAGSAC
    find = {"affine": cv2.estimateAffine2D, "homography": cv2.findHomography}[model]
    try:
        matrix, _ = find(np.ascontiguousarray(source), np.ascontiguousarray(target), settings)
    except cv2.error:  # points that determine no map
        return None
    if matrix is None or not np.isfinite(matrix).all():
        return None
    matrix = matrix if len(matrix) == 3 else np.vstack([matrix, [0, 0, 1]])
    agree = _errors(matrix, source, target) <= tolerance**2
    return Pose(matrix, agree) if agree.any() else None


def covered_part(
    matrix: np.ndarray, size: tuple[float, float], query_size: tuple[float, float]
) -> float:
    """Part of the query (0..1) that a reference of `size` covers; 0 where the map tears it."""
    depth = np.column_stack([corners(size), np.ones(4)]) @ matrix[2]
    if depth.min() * depth.max() <= 0:
        return 0.0
    outline = project(matrix, corners(size)) * (RASTER / np.array(query_size))
    outline = np.clip(outline, -(2**14), 2**14)
    seen = np.zeros((RASTER, RASTER), np.uint8)
    cv2.fillConvexPoly(seen, np.rint(outline * 16 - 8).astype(np.int32), 1, shift=4)
    return float(seen.mean())


def _to_unit(points: np.ndarray) -> np.ndarray:
    """Map (3, 3) of points (N, 2) to mean 0 and spread 1, where determinants can be compared."""
    centre, spread = points.mean(axis=0), max(points.std(), 1e-6)
    return np.array([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, spread]]) / spread


def _minimal_models(source: np.ndarray, target: np.ndarray, model: str) -> np.ndarray:
    """Exact maps (K, 3, 3) of K sets of points (K, n, 2); degenerate sets give NaN."""
    if model == "similarity":
        a, b = (points[..., 0] + 1j * points[..., 1] for points in (source, target))  # (K, 2)
        with np.errstate(all="ignore"):
            turn = (b[:, 1] - b[:, 0]) / (a[:, 1] - a[:, 0])
        shift = b[:, 0] - turn * a[:, 0]
        rows = [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]
        rows.append([np.zeros(len(a)), np.zeros(len(a)), np.ones(len(a))])
        return np.moveaxis(np.array(rows), -1, 0)
    ones = np.ones((*source.shape[:2], 1))
    zeros = np.zeros((*source.shape[:2], 3))
    homogeneous = np.concatenate([source, ones], axis=-1)  # (K, n, 3)
    if model == "affine":
        solution = _solve(homogeneous, target)  # (K, 3, 2)
        last = np.broadcast_to([[0.0, 0.0, 1.0]], (len(source), 1, 3))
        return np.concatenate([solution.swapaxes(1, 2), last], axis=1)
    x, y = target[..., :1], target[..., 1:]
    upper = np.concatenate([homogeneous, zeros, -x * source], axis=-1)
    lower = np.concatenate([zeros, homogeneous, -y * source], axis=-1)
    system = np.concatenate([upper, lower], axis=1)  # (K, 8, 8)
    solution = _solve(system, np.concatenate([x, y], axis=1))[..., 0]
    return np.concatenate([solution, np.ones((len(source), 1))], axis=1).reshape(-1, 3, 3)


def _solve(systems: np.ndarray, right: np.ndarray) -> np.ndarray:
    regular = np.abs(np.linalg.det(systems)) > 1e-9
    solution = np.full(right.shape, np.nan)
    solution[regular] = np.linalg.solve(systems[regular], right[regular])
    return solution


def match_poses(query: np.ndarray, reference: np.ndarray, mirrored: bool) -> np.ndarray:
    """The similarity (M, 3, 3) that each match of keypoints (M, 4) proposes.

    A SIFT match gives place, scale and angle, which is a whole similarity (with a reflection when
    the reference was mirrored).
    """
    angle = np.deg2rad(query[:, 3] - (180 - reference[:, 3] if mirrored else reference[:, 3]))
    scale = query[:, 2] / reference[:, 2]
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], axis=-2)  # (M, 2, 2)
    if mirrored:
        linear = linear * np.array([-1.0, 1.0])  # x of the reference is reversed first
    shift = query[:, :2] - np.einsum("nij,nj->ni", linear, reference[:, :2])
    poses = np.zeros((len(query), 3, 3))
    poses[:, :2, :2], poses[:, :2, 2], poses[:, 2, 2] = linear, shift, 1
    return poses


def propose_poses(
    query: np.ndarray,
    reference: np.ndarray,
    size: tuple[float, float],
    mirrored: bool,
    count: int = 2,
) -> list[Pose]:
    """The `count` best affine maps of matched keypoints (M, 4), by number of inliers.

    Every match proposes a similarity; those that most other matches agree with are refined to
    affine maps with falling tolerance. Nothing is random, and one true match among many wrong ones
    is enough to start from. `size` is that of the reference.
    """
    if len(query) < 2:
        return []
    target, source = query[:, :2], reference[:, :2]
    proposals = match_poses(query, reference, mirrored)
    if len(proposals) > PROPOSALS:
        proposals = proposals[np.linspace(0, len(proposals) - 1, PROPOSALS).astype(int)]
    mapped = np.einsum("kij,nj->kni", proposals[:, :2, :2], source) + proposals[:, None, :2, 2]
    votes = (((mapped - target) ** 2).sum(axis=-1) < ROUNDS[0] ** 2).sum(axis=1)
    poses: list[Pose] = []
    for best in np.argsort(-votes, kind="stable")[:REFINED]:
        pose = _refine(proposals[best], source, target, size, mirrored)
        if pose.count >= 2 and not any(_same(pose, other) for other in poses):
            poses.append(pose)
    return sorted(poses, key=lambda pose: -pose.count)[:count]


def _refine(
    matrix: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    size: tuple[float, float],
    mirrored: bool,
) -> Pose:
    inliers = _errors(matrix, source, target) < ROUNDS[0] ** 2
    for tolerance in ROUNDS:
        if inliers.sum() >= 4:
            fitted = fit_affine(source[inliers], target[inliers])
            if is_plausible(fitted, size, mirrored):
                matrix = fitted
        inliers = _errors(matrix, source, target) < tolerance**2
    return Pose(matrix, inliers)


def _errors(matrix: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return ((project(matrix, source) - target) ** 2).sum(axis=1)


def _same(pose: Pose, other: Pose) -> bool:
    return bool((pose.inliers & other.inliers).sum() > 0.6 * pose.count)
