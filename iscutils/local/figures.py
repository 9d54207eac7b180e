"""Figures of notebook 07: points of a picture, votes of a query, overlay and pixel agreement."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from PIL import Image

from iscutils.datasets import Benchmark
from iscutils.local.agreement import WINDOWS, local_correlation, overlay
from iscutils.local.matching import PairMatch
from iscutils.local.sift import ImageFeatures, gray_picture, shrunk_size

TRUE, WRONG, NEUTRAL = "tab:green", "tab:red", "tab:gray"
SHOWN = 200  # strongest points drawn on a picture
SIDE = 240  # px, long side of the pictures in an overlay


def keypoints(image: Image.Image, features: ImageFeatures, *, ax: Axes | None = None) -> Axes:
    """A picture with its strongest points as circles of their size; the line shows the angle."""
    ax = ax or plt.subplots(figsize=(5, 3.4))[1]
    strongest = np.argsort(-features.responses, kind="stable")[:SHOWN]
    x, y, size, angle = features.keypoints[strongest].T
    short = min(300, min(features.size))
    small = gray_picture(image, shrunk_size(features.size, short))
    ax.imshow(small, cmap="gray", vmin=0, vmax=255)
    circles = EllipseCollection(
        size, size, 0, units="xy", offsets=np.column_stack([x, y]), offset_transform=ax.transData,
        facecolors="none", edgecolors="tab:orange", linewidths=0.7,
    )  # fmt: skip
    ax.add_collection(circles)
    turn = np.deg2rad(angle)
    ends = np.stack([x + size / 2 * np.cos(turn), y + size / 2 * np.sin(turn)])
    ax.plot(np.stack([x, ends[0]]), np.stack([y, ends[1]]), color="tab:orange", linewidth=0.7)
    ax.set_axis_off()
    ax.set_title(f"{len(features)} points, the {len(strongest)} strongest drawn", fontsize=10)
    return ax


def vote_bars(
    votes: pd.DataFrame, query_id: str, original: str = "", *, ax: Axes | None = None
) -> Axes:
    """Votes of one query for its candidates; the original in green, where it is known."""
    ax = ax or plt.subplots(figsize=(5, 2.2))[1]
    rows = votes[votes["query_id"] == query_id].iloc[::-1]
    colours = [TRUE if name == original else NEUTRAL for name in rows["reference_id"]]
    ax.barh(np.arange(len(rows)), rows["votes"], color=colours)
    halves = np.where(rows["mirrored"], " (mirrored)", "")
    ax.set_yticks(np.arange(len(rows)), rows["reference_id"].astype(str) + halves, fontsize=8)
    ax.set_xlabel("votes")
    ax.set_title(f"Votes of {query_id}", fontsize=10)
    return ax


def overlays(
    query: Image.Image, reference: Image.Image, pair: PairMatch, *, axes: np.ndarray | None = None
) -> np.ndarray | None:
    """Query, reference laid over it, and their local correlation; None without an overlap."""
    small_query, small_reference = _thumbnail(query), _thumbnail(reference)
    seen = None
    if pair.homography is not None:
        scales = [
            np.diag([small.shape[1] / image.width, small.shape[0] / image.height, 1])
            for small, image in ((small_query, query), (small_reference, reference))
        ]
        matrix = scales[0] @ pair.homography @ np.linalg.inv(scales[1])
        seen = overlay(small_query, small_reference, matrix)
    if seen is None:
        return None
    correlation, _, valid = local_correlation(seen.query, seen.reference, seen.mask, WINDOWS[0])
    axes = plt.subplots(1, 3, figsize=(8, 2.4))[1] if axes is None else axes
    axes[0].imshow(seen.query, cmap="gray", vmin=0, vmax=255)
    axes[1].imshow(np.where(seen.mask > 0, seen.reference, np.nan), cmap="gray", vmin=0, vmax=255)
    shown = axes[2].imshow(np.where(valid, correlation, np.nan), cmap="RdYlGn", vmin=-1, vmax=1)
    titles = ("query, where it overlaps", "reference, laid over it", "local correlation")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_axis_off()
        ax.set_title(title, fontsize=10)
    plt.colorbar(shown, ax=axes[2], fraction=0.04)
    return axes


def _thumbnail(image: Image.Image) -> np.ndarray:
    gray = np.asarray(image.convert("L"))
    ratio = min(1.0, SIDE / max(gray.shape))
    size = (max(1, round(gray.shape[1] * ratio)), max(1, round(gray.shape[0] * ratio)))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)


def pair_images(benchmark: Benchmark, row: pd.Series) -> tuple[Image.Image, Image.Image]:
    """Query and reference picture of a row with query_id and reference_id."""
    sets = ((benchmark.queries, row["query_id"]), (benchmark.references, row["reference_id"]))
    return tuple(images.load(images.ids.index(image_id)) for images, image_id in sets)


def stage_table(stages: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """The main numbers of several stages, one row each, rounded to 3 digits."""
    table = pd.DataFrame(stages).T
    return table[["uap", "recall_at_p90", "recall_at_1", "recall_at_10"]].astype(float).round(3)


def hardest_pair(matches: pd.DataFrame, ground_truth: pd.DataFrame) -> pd.Series | None:
    """The true pair of lowest score among those listed; None when none is listed."""
    true = matches.merge(ground_truth, on=["query_id", "reference_id"])
    return None if true.empty else true.loc[true["score"].idxmin()]
