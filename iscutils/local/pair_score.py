"""Matches between two pictures and the published pair score, their number.

Source: published code of imgFp (arXiv 2112.02373), "KNN matching, K = 2".

The mirrored pass costs no second product. A permutation P that is its own inverse splits
descriptors into sums s = r + Pr and differences d = r - Pr (half of their places suffice), and with
those s', d' of a query, s.s' + d.d' = 2 r.q and s.s' - d.d' = 2 Pr.q. The permutation of the
negative splits both once more. All of these are integers or halves below 2^23: exact in float32.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from iscutils.local.config import LocalConfig
from iscutils.local.nearest import integer_products, signed, squared_norms
from iscutils.local.sift import (
    MIRROR,
    NEGATIVE,
    ImageFeatures,
    mirror_descriptors,
    negative_descriptors,
)

MAX_DISTANCE = 260_100.0  # 4 * 65025, above any squared distance of RootSIFT integers
HALVES = ((False, False), (True, False), (False, True), (True, True))  # (mirrored, negative)
PLAIN, MIRRORED = HALVES[:2]
# One place of each orbit, and where the permutations move it.
_FOLD_2 = [np.arange(64), MIRROR[:64]]
_FOURS = np.flatnonzero(np.arange(128) <= np.min([MIRROR, NEGATIVE, MIRROR[NEGATIVE]], axis=0))
_FOLD_4 = [_FOURS, MIRROR[_FOURS], NEGATIVE[_FOURS], MIRROR[NEGATIVE[_FOURS]]]
_STEPS = {2: ((0, 1),), 4: ((0, 1), (2, 3), (0, 2), (1, 3))}  # pairs of a fast Hadamard transform
FAR = 2**30  # above any squared distance, exact in float32 and int32
_memory = threading.local()


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


def all_distances(
    reference: np.ndarray, query: np.ndarray, negatives: bool = False
) -> dict[tuple[bool, bool], np.ndarray]:
    """Squared distances (M, N) of a reference's descriptors (M, 128) and a query's (N, 128), uint8.

    Keys (mirrored, negative): the reference as it is and mirrored, with `negatives` both inverted
    as well. The same as `squared_distances(changed_descriptors(reference, ...), query)`. The tables
    lie in memory that the next call of this thread uses again; they hold int32 or float32.
    """
    if not negatives and min(len(reference), len(query)) > 1 and integer_products():
        return _integer_distances(reference, query)
    # The norms ride on the product of the sums: |r|^2 * 1 + 1 * |q|^2 - 2 r.q
    rows, columns = _folded(reference, negatives), _folded_query(query, negatives)
    tables = _scratch(len(rows), len(reference), len(query))
    for table, a, b in zip(tables, rows, columns, strict=True):
        np.matmul(a, b.T, out=table)
    for i, j in _STEPS[len(tables)]:  # their sum and difference, in place
        tables[i] += tables[j]
        tables[j] *= -2
        tables[j] += tables[i]
    return dict(zip(HALVES, tables, strict=False))


def _integer_distances(
    reference: np.ndarray, query: np.ndarray
) -> dict[tuple[bool, bool], np.ndarray]:
    """`all_distances` by two products of bytes, (M, N) int32: Pr.q is r.Pq."""
    import torch

    former, sides, column_norms = getattr(_memory, "signed", (None, None, None))
    if former is not query:
        sides = [signed(part) for part in (query, mirror_descriptors(query))]
        column_norms = torch.from_numpy(squared_norms(sides[0]))  # and of the mirrored ones
        sides = [torch.from_numpy(part).T for part in sides]
        _memory.signed = query, sides, column_norms
    rows = signed(reference)
    norms = torch.from_numpy(squared_norms(rows))[:, None]
    tables = torch.from_numpy(_scratch(2, len(rows), len(query)).view(np.int32))
    for table, columns in zip(tables, sides, strict=True):
        torch._int_mm(torch.from_numpy(rows), columns, out=table)
        torch.add(column_norms, table, alpha=-2, out=table)
        table += norms
    return {half: table.numpy() for half, table in zip((PLAIN, MIRRORED), tables, strict=True)}


def _scratch(count: int, rows: int, columns: int) -> np.ndarray:
    # Tables of this size are otherwise given back to the system and fetched again for each pair.
    size = count * rows * columns
    if not hasattr(_memory, "values") or len(_memory.values) < size:
        _memory.values = np.empty(size, np.float32)
    return _memory.values[:size].reshape(count, rows, columns)


def _folded(descriptors: np.ndarray, negatives: bool) -> np.ndarray:
    """Sums and differences under the permutations, (2, M, 64 + 2), or (4, M, 32 + 2).

    The last columns are the squared norm and 1 in the first block, which holds the sums, else 0.
    """
    orbits = _FOLD_4 if negatives else _FOLD_2
    count, width = len(orbits), 128 // len(orbits)
    # Added as short integers, at most 4 * 255: faster than in float32.
    parts = [descriptors.take(places, axis=1).astype(np.int16) for places in orbits]
    for i, j in _STEPS[count]:
        parts[i], parts[j] = parts[i] + parts[j], parts[i] - parts[j]
    blocks = np.empty((count, len(descriptors), width + 2), np.float32)
    blocks[1:, :, width:] = 0
    for block, part in zip(blocks, parts, strict=True):
        block[:, :width] = part
    values = descriptors.astype(np.float32)
    blocks[0, :, width] = np.einsum("ij,ij->i", values, values)
    blocks[0, :, width + 1] = 1
    return blocks


def _folded_query(query: np.ndarray, negatives: bool) -> np.ndarray:
    """The other side of the product; that of the last query is kept, as pairs come by query."""
    former, columns = getattr(_memory, "query", (None, None))
    if former is not query or len(columns) != (4 if negatives else 2):
        columns = _folded(query, negatives)
        columns[:, :, :-2] *= -2 / len(columns)
        columns[0, :, -2:] = columns[0, :, :-3:-1]
        _memory.query = query, columns
    return columns


def ratio_test(distances: np.ndarray, ratio: float = 1.8) -> tuple[np.ndarray, np.ndarray]:
    """Rows (M,) kept and their best column: ratio * best < second, on squared distances (R, C).

    A Lowe ratio of 1 / sqrt(1.8) = 0.745. With fewer than 2 columns nothing is kept.
    """
    if distances.shape[1] < 2 or not len(distances):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = np.arange(len(distances))
    best = distances.argmin(axis=1)
    lowest = distances[rows, best]
    distances[rows, best] = FAR  # for a moment: cheaper than a copy of the table
    second = distances[rows, distances.argmin(axis=1)]  # numpy finds a place faster than a minimum
    distances[rows, best] = lowest
    kept = np.flatnonzero(ratio * lowest.astype(np.float64) < second)
    return kept, best[kept]


def one_to_one(
    query_points: np.ndarray, reference_points: np.ndarray, distance: np.ndarray
) -> np.ndarray:
    """Indices of the matches that remain when each place counts once, by rising distance.

    Places are positions (M, 2) rounded to whole pixels, half to even; matches of equal distance in
    their order.
    """
    order = np.argsort(distance, kind="stable")
    # One number for each place, x and y apart by more than any picture is wide.
    queries, references = (
        (np.rint(points[order].astype(np.float64)) @ (1.0, 2.0**26)).tolist()
        for points in (query_points, reference_points)
    )
    taken_query: set[float] = set()
    taken_reference: set[float] = set()
    kept = []
    for i, query, reference in zip(order.tolist(), queries, references, strict=True):
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
    return _matches(query, reference, squared_distances(descriptors, query.descriptors), config)


def match_halves(
    query: ImageFeatures, reference: ImageFeatures, config: LocalConfig, negatives: bool = False
) -> dict[tuple[bool, bool], Matches]:
    """`match_descriptors` for all halves of a pair at once, in less time: (mirrored, negative)."""
    tables = all_distances(reference.descriptors, query.descriptors, negatives)
    return {half: _matches(query, reference, table, config) for half, table in tables.items()}


def best_matches(
    query: ImageFeatures, reference: ImageFeatures, config: LocalConfig
) -> tuple[Matches, bool]:
    """The matches of the better half, plain or mirrored, and whether it is the mirrored one.

    More matches win, then the smaller mean distance, then the plain half; the number of matches is
    the published score.
    """
    halves = match_halves(query, reference, config)
    plain, mirrored = halves[PLAIN], halves[MIRRORED]
    better = len(mirrored) - len(plain) or plain.mean_distance - mirrored.mean_distance
    return (mirrored, True) if better > 0 else (plain, False)


def _matches(
    query: ImageFeatures, reference: ImageFeatures, distances: np.ndarray, config: LocalConfig
) -> Matches:
    """Matches by a table of squared distances (reference points, query points)."""
    rows, columns = ratio_test(distances, config.ratio)
    if config.both_directions:
        more_columns, more_rows = ratio_test(np.ascontiguousarray(distances.T), config.ratio)
        rows, columns = np.append(rows, more_rows), np.append(columns, more_columns)
    nearness = distances[rows, columns].astype(np.float32)
    kept = one_to_one(query.keypoints[columns, :2], reference.keypoints[rows, :2], nearness)
    return Matches(columns[kept], rows[kept], nearness[kept])


def tie_broken(count: int, mean_distance: float) -> float:
    """Integer score less a part below 1 that grows with the mean squared distance."""
    return count - mean_distance / MAX_DISTANCE
