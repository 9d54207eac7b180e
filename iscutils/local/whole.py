"""Whole pictures compared: the eight ways to lay one rectangle on another, at low resolution.

Finds copies without usable points (pixelised, blurred, squeezed, faded ones), as long as the
picture is whole, framed by a plain border, or the largest block of a page or screen.
"""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd

from iscutils.files.artifacts import KitError
from iscutils.local.store import Features

GRID = 16  # px, side to which pictures are squashed
BORDER_DEVIATION = 6.0  # gray levels; an outer line with less is border
MIN_REST = 24  # px of the thumbnail that a border leaves
Box = tuple[float, float, float, float]  # x0, y0, x1, y1
TURNS = (  # linear parts of the eight symmetries of a square, reference to query
    ((1, 0), (0, 1)), ((0, -1), (1, 0)), ((-1, 0), (0, -1)), ((0, 1), (-1, 0)),
    ((-1, 0), (0, 1)), ((0, 1), (1, 0)), ((1, 0), (0, -1)), ((0, -1), (-1, 0)),
)  # fmt: skip


def content_box(thumbnail: np.ndarray) -> tuple[int, int, int, int]:
    """Box x0, y0, x1, y1 of a gray picture (h, w) without its plain borders."""
    x0, y0, x1, y1 = box = 0, 0, thumbnail.shape[1], thumbnail.shape[0]
    pixels = thumbnail.astype(np.float32)
    while True:
        columns = pixels[y0:y1, x0:x1].std(axis=0) >= BORDER_DEVIATION
        x0, x1 = _trimmed(x0, x1, columns)
        rows = pixels[y0:y1, x0:x1].std(axis=1) >= BORDER_DEVIATION
        y0, y1 = _trimmed(y0, y1, rows)
        if box == (x0, y0, x1, y1):
            return box
        box = x0, y0, x1, y1


def main_block(box: tuple[int, int, int, int], thumbnail: np.ndarray) -> tuple[int, int, int, int]:
    """The largest part of a box that no plain line crosses: the photograph of a page or screen.

    The box itself where its parts are narrower than MIN_REST lines.
    """
    pixels = thumbnail.astype(np.float32)
    x0, y0, x1, y1 = best = box
    while True:
        y0, y1 = _longest(y0, y1, pixels[y0:y1, x0:x1].std(axis=1) >= BORDER_DEVIATION)
        if y1 > y0:
            x0, x1 = _longest(x0, x1, pixels[y0:y1, x0:x1].std(axis=0) >= BORDER_DEVIATION)
        if min(x1 - x0, y1 - y0) < MIN_REST or best == (x0, y0, x1, y1):
            return best
        best = x0, y0, x1, y1


def _longest(start: int, end: int, varied: np.ndarray) -> tuple[int, int]:
    """Range of the longest run of varied lines."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], varied, [False]])))
    if not len(edges):
        return start, start
    runs = edges.reshape(-1, 2)
    first, last = runs[np.argmax(runs[:, 1] - runs[:, 0])].tolist()
    return start + first, start + last


def _trimmed(start: int, end: int, varied: np.ndarray) -> tuple[int, int]:
    """Range between the first and the last varied line, but not below MIN_REST lines."""
    found = np.flatnonzero(varied)
    if not len(found) or found[-1] + 1 - found[0] < MIN_REST:
        return start, end
    return start + int(found[0]), start + int(found[-1]) + 1


def boxes(thumbnail: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The whole picture, its part without plain borders, and its main block, if they differ."""
    whole = (0, 0, thumbnail.shape[1], thumbnail.shape[0])
    inner = content_box(thumbnail)
    return list(dict.fromkeys([whole, inner, main_block(inner, thumbnail)]))


def signature(thumbnail: np.ndarray, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """A picture, or a box of it, squashed to (16, 16) gray of mean 0 and norm 1 (flat ones: 0)."""
    if box is not None:
        thumbnail = thumbnail[box[1] : box[3], box[0] : box[2]]
    small = cv2.resize(thumbnail, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean()
    return small / (np.linalg.norm(small) + 1e-3)


def turned(image: np.ndarray) -> np.ndarray:
    """The eight turned and mirrored versions (8, n, n) of a square image, in the order of TURNS."""
    result = []
    for (a, b), (c, d) in TURNS:
        # Pixel (x, y) of the result comes from the inverse (= transposed) map of its place.
        picture = image.T if a == 0 else image
        flip_x, flip_y = (b, c) if a == 0 else (a, d)
        result.append(picture[:: 1 if flip_y > 0 else -1, :: 1 if flip_x > 0 else -1])
    return np.stack(result)


def whole_map(turn: int, source: Box, target: Box) -> np.ndarray:
    """Map (3, 3) that lays a turned box of the reference into a box of the query."""
    left, top, right, bottom = source
    x0, y0, x1, y1 = target
    to_square = np.array(
        [
            [2 / (right - left), 0, -(left + right) / (right - left)],
            [0, 2 / (bottom - top), -(top + bottom) / (bottom - top)],
            [0, 0, 1],
        ]
    )
    turned_square = np.eye(3)
    turned_square[:2, :2] = TURNS[turn]
    half = np.array([(x1 - x0) / 2, (y1 - y0) / 2])
    to_box = np.array([[half[0], 0, x0 + half[0]], [0, half[1], y0 + half[1]], [0, 0, 1]])
    return to_box @ turned_square @ to_square


def whole_maps(
    query: np.ndarray, reference: np.ndarray, count: int = 2, negatives: bool = True
) -> list[tuple[float, np.ndarray, bool]]:
    """The `count` best of the maps that lay the reference or a box of it over those of the query.

    Thumbnails (h, w) uint8. Returns (correlation, map, negative), best first: maps (3, 3) in
    continuous thumbnail pixels; the query may be the negative of the reference.
    """
    targets = [(box, signature(query, box).ravel()) for box in boxes(query)]
    found = []
    for source in boxes(reference):
        versions = turned(signature(reference, source)).reshape(len(TURNS), -1)
        for target, seen in targets:
            for turn, score in enumerate((versions @ seen).tolist()):
                negative = negatives and score < 0
                matrix = whole_map(turn, source, target)
                found.append((abs(score) if negatives else score, matrix, negative))
    found.sort(key=lambda item: -item[0])
    return found[:count]


def whole_candidates(
    query_features: Features, reference_features: Features, count: int, negatives: bool = False
) -> pd.DataFrame:
    """The `count` references whose whole picture correlates best with each query's.

    Columns query_id, reference_id, correlation (-1..1; its amount with `negatives`), by query, best
    first. Raises `KitError` when the features were stored without thumbnails.
    """
    for features in (query_features, reference_features):
        if len(features) and not features.thumbnail_sizes.all():
            raise KitError(
                f"{features.path} holds no thumbnails: extract with thumbnail=192, or set "
                "whole_candidates=0"
            )
    known = np.zeros((len(reference_features), GRID * GRID), np.float32)
    for i in range(len(known)):
        known[i] = signature(reference_features.thumbnail(i)).ravel()
    tables = []
    for i, query_id in enumerate(query_features.ids):
        if not len(known):
            break
        thumbnail = query_features.thumbnail(i)
        versions = np.concatenate([turned(signature(thumbnail, box)) for box in boxes(thumbnail)])
        # Turning the query instead of all references visits the same eight pairs.
        scores = known @ versions.reshape(len(versions), -1).T  # (references, versions)
        scores = (np.abs(scores) if negatives else scores).max(axis=1)
        best = np.argsort(-scores, kind="stable")[:count]
        names = [reference_features.ids[j] for j in best]
        tables.append(
            pd.DataFrame({"query_id": query_id, "reference_id": names, "correlation": scores[best]})
        )
    columns = ["query_id", "reference_id", "correlation"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
