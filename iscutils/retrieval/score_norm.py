"""Score normalisation against background images: scores that compare between queries.

b_1, b_2, ... are the background images by falling inner product with a query q, after the same
codec; ranks are zero-based (docs/evaluation.md, section 6). What may be written:

- `none`;
- `beta[first,last]` or `beta[rank]`, e.g. `1.0[0,2]` (SSCD), `2.0[9]` (official), `2.0[0,9]`
  (D2LV): s' = <q, r> - bias with bias = beta * mean of the similarities of ranks first..last.
  As vectors: <[q, -bias], [r, 1]> = <q, r> - bias;
- `stretch:alpha[first,last]`, e.g. `stretch:2.5[0,4]` (BoT): q' = alpha m q, m = mean similarity of
  those ranks, at least 0.01; pairs compare by L2. As vectors for an inner product:
  <[2 q', -|q'|^2, -1], [r, 1, |r|^2]> = 2 <q', r> - |q'|^2 - |r|^2 = -|q' - r|^2;
- `nes:beta,k,passes`, e.g. `nes:0.35,10,1` (lyakaap): the background is smoothed once,
  t <- norm(sum over its k nearest, itself included, of sim^3 t_j); then queries AND references move
  away from it, x <- norm(x - beta * mean of the k nearest t). Rows are unit vectors, for which
  -|q - r|^2 = 2 <q, r> - 2: inner product and L2 give one order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from iscutils.files.artifacts import KitError
from iscutils.retrieval.search import nearest

SMALLEST_STRETCH = 0.01
_DEVICE_SCORES = 1 << 28  # scores held on a GPU at a time (1 GB)

_NUMBER = r"([0-9]*\.?[0-9]+)"
_RANKS = r"\[([0-9]+)(?:,([0-9]+))?\]"


@dataclass(frozen=True)
class ScoreNorm:
    """A parsed normalisation: `kind` is "none", "subtract", "stretch" or "nes".

    `factor` is beta or alpha, ranks `first`..`last` are used (for nes: 0..k-1), `passes` times.
    """

    kind: str
    factor: float = 0.0
    first: int = 0
    last: int = 0
    passes: int = 1


def parse_score_norm(spec: str) -> ScoreNorm:
    """Read a normalisation's text; an unknown one is a `KitError` that lists the forms."""
    text = spec.replace(" ", "")
    if text == "none":
        return ScoreNorm("none")
    if match := re.fullmatch(f"(stretch:)?{_NUMBER}{_RANKS}", text):
        first = int(match[3])
        last = first if match[4] is None else int(match[4])
        if first <= last:
            return ScoreNorm("stretch" if match[1] else "subtract", float(match[2]), first, last)
    if match := re.fullmatch(f"nes:{_NUMBER},([1-9][0-9]*),([1-9][0-9]*)", text):
        return ScoreNorm("nes", float(match[1]), 0, int(match[2]) - 1, int(match[3]))
    raise KitError(
        f"score normalisation '{spec}' is unknown: write none, 1.0[0,2], 1.0[3], "
        "stretch:2.5[0,4] or nes:0.35,10,1"
    )


def normalise(
    queries: np.ndarray,
    references: np.ndarray,
    background: np.ndarray | None,
    spec: str = "1.0[0,2]",
    *,
    form: str = "inner",
) -> tuple[np.ndarray, np.ndarray]:
    """Queries (Nq, D) and references (Nr, D) such that plain search gives the normalised score.

    `background` (Nb, D) are training images after the same model and codec, never queries or
    references: passing the same array is a `KitError`, as is a background with fewer rows than
    the ranks of `spec`. `form` "inner" is for an inner product, whose value is the normalised score
    (one column more for the subtracting forms, two for stretch). "l2" is for an evaluator that
    only knows L2: stretch and nes keep the dimension, the subtracting forms have no such form.
    Returns two float32 arrays.
    """
    norm = parse_score_norm(spec)
    if form not in ("inner", "l2"):
        raise KitError(f"form='{form}' is unknown: choose 'inner' or 'l2'")
    if norm.kind != "none":
        _check_background(background, queries, references, norm, spec)
        background = np.asarray(background, dtype=np.float32)
    queries, references = (np.asarray(x, dtype=np.float32) for x in (queries, references))
    if norm.kind == "none":
        return queries, references
    if norm.kind == "nes":
        smooth = smooth_background(background, norm.last + 1)
        for _ in range(norm.passes):
            queries = subtract_nearest(queries, smooth, norm.last + 1, norm.factor)
            references = subtract_nearest(references, smooth, norm.last + 1, norm.factor)
        return queries, references
    level = mean_similarity(queries, background, norm.first, norm.last)
    if norm.kind == "stretch":
        stretched = norm.factor * np.maximum(level, SMALLEST_STRETCH)[:, None] * queries
        stretched = stretched.astype(np.float32)
        if form == "l2":
            return stretched, references
        return as_inner_product(stretched, references)
    if form == "l2":
        raise KitError(
            f"score normalisation '{spec}' has no L2 form: use stretch or nes, or inner product"
        )
    ones = np.ones(len(references), dtype=np.float32)
    return (
        np.column_stack([queries, (-norm.factor * level).astype(np.float32)]),
        np.column_stack([references, ones]),
    )


def mean_similarity(
    queries: np.ndarray,
    background: np.ndarray,
    first: int,
    last: int,
    *,
    memory_gb: float = 2.0,
    device: str = "cpu",
) -> np.ndarray:
    """Mean inner product (Nq,) of each query with its background rows of ranks first..last.

    Both arrays may be memory-mapped: the background is read in stretches of `memory_gb` gigabytes,
    and each query keeps its best similarities so far. `device` "cuda" multiplies on a GPU.
    """
    k = last + 1
    stretch = max(k, int(memory_gb * 2**30) // (4 * background.shape[1]))
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    near = partial(_nearest_on, device) if str(device).startswith("cuda") else nearest
    for left in range(0, len(background), stretch):
        found, _ = near(queries, background[left : left + stretch], k)
        both = np.concatenate([best, found], axis=1)  # (Nq, up to 2 k)
        best = -np.partition(-both, k - 1, axis=1)[:, :k]
    best = -np.sort(-best, axis=1)
    return best[:, first:].mean(axis=1, dtype=np.float64)


def _nearest_on(
    device: str, queries: np.ndarray, database: np.ndarray, k: int
) -> tuple[np.ndarray, None]:
    """The k largest inner products (Nq, k) of each query, computed by torch on a device."""
    rows = torch.from_numpy(np.ascontiguousarray(database, dtype=np.float32)).to(device)
    step = max(1, _DEVICE_SCORES // len(rows))
    best = []
    for start in range(0, len(queries), step):
        part = np.ascontiguousarray(queries[start : start + step], dtype=np.float32)
        scores = torch.from_numpy(part).to(device) @ rows.T  # (B, Nb)
        best.append(scores.topk(min(k, len(rows)), dim=1).values.cpu().numpy())
    return np.concatenate(best), None


def smooth_background(background: np.ndarray, k: int) -> np.ndarray:
    """Step (a) of nes: each row becomes norm(sum of sim^3 t) over its k nearest rows and itself."""
    similarity, rows = nearest(background, background, k)
    return _unit(_weighted_sum(similarity.astype(np.float64) ** 3, background, rows))


def subtract_nearest(vectors: np.ndarray, smooth: np.ndarray, k: int, beta: float) -> np.ndarray:
    """Step (b) of nes: norm(x - beta * mean of the k nearest smoothed background rows)."""
    _, rows = nearest(vectors, smooth, k)
    mean = _weighted_sum(np.full(rows.shape, 1 / k), smooth, rows)
    return _unit(vectors - beta * mean)


def as_inner_product(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arrays with two more columns whose inner product is minus the squared L2 distance."""

    def square(x: np.ndarray) -> np.ndarray:
        return np.einsum("nd,nd->n", x, x, dtype=np.float64).astype(np.float32)

    minus_ones, ones = -np.ones(len(queries)), np.ones(len(references))
    return (
        np.column_stack([2 * queries, -square(queries), minus_ones]).astype(np.float32),
        np.column_stack([references, ones, square(references)]).astype(np.float32),
    )


def _check_background(
    background: np.ndarray | None,
    queries: np.ndarray,
    references: np.ndarray,
    norm: ScoreNorm,
    spec: str,
) -> None:
    rows = 0 if background is None else len(background)
    if rows <= norm.last:
        raise KitError(
            f"score normalisation '{spec}' needs {norm.last + 1} background images, got {rows}: "
            "give more training images or smaller ranks"
        )
    for name, other in (("queries", queries), ("references", references)):
        if np.may_share_memory(background, other):
            raise KitError(
                f"score normalisation may not learn from the {name}: pass descriptors of training "
                "images as background"
            )
        if other.shape[1] != background.shape[1]:
            raise KitError(
                f"{name} have dimension {other.shape[1]}, the background {background.shape[1]}: "
                "apply the same model and codec to both"
            )


def _weighted_sum(weights: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sum over j of weights (N, k) times vectors[rows (N, k)], (N, D), one neighbour at a time."""
    total = np.zeros((len(rows), vectors.shape[1]), dtype=np.float64)
    for j in range(rows.shape[1]):
        total += weights[:, j, None] * vectors[rows[:, j]]
    return total


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)
