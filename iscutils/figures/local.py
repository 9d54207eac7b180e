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
from iscutils.evaluation.pairs import originals_by_query
from iscutils.local.agreement import WINDOWS, local_correlation, overlay
from iscutils.local.branches import PAIR
from iscutils.local.matching import PairMatch
from iscutils.local.sift import ImageFeatures, gray_picture, shrunk_size

BRANCH_NAMES = {"a": "A, global", "b": "B, local", "c": "C, crop local"}
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
    votes: pd.DataFrame,
    query_id: str,
    ground_truth: pd.DataFrame | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Votes of one query for its candidates; its originals in green, where they are known."""
    ax = ax or plt.subplots(figsize=(5, 2.2))[1]
    rows = votes[votes["query_id"] == query_id].iloc[::-1]
    originals = {} if ground_truth is None else originals_by_query(ground_truth)
    true = rows["reference_id"].isin(originals.get(query_id, []))
    colours = [TRUE if right else NEUTRAL for right in true]
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


def strongest_wrong_pair(matches: pd.DataFrame, ground_truth: pd.DataFrame) -> pd.Series | None:
    """The wrong pair of highest score; None when every listed pair is true."""
    joined = matches.merge(ground_truth, how="left", on=PAIR, indicator=True)
    wrong = joined[joined["_merge"] == "left_only"]
    return None if wrong.empty else wrong.loc[wrong["score"].idxmax()]


def who_proposes(
    proposed: pd.DataFrame, ground_truth: pd.DataFrame, *, ax: Axes | None = None
) -> Axes:
    """Bars: how many true pairs each set of branches proposes together, and how many none does.

    proposed: rows of `propose`. The bars add up to the number of true pairs.
    """
    true = ground_truth[ground_truth["reference_id"] != ""][PAIR].drop_duplicates()
    hits = true.merge(proposed[["branch", *PAIR]].drop_duplicates(), on=PAIR)
    sets = hits.sort_values("branch").groupby(PAIR)["branch"].agg(" and ".join)
    counts = sets.value_counts()
    counts = counts.loc[sorted(counts.index, key=lambda name: (len(name), name))]
    labels = [name.upper().replace("AND", "and") for name in counts.index]
    labels = [f"{name} alone" if len(name) == 1 else name for name in labels] + ["nobody"]
    values = [*counts.tolist(), len(true) - len(sets)]
    ax = ax or plt.subplots(figsize=(5, 0.5 + 0.35 * len(labels)))[1]
    colours = [TRUE] * len(counts) + [WRONG]
    bars = ax.barh(np.arange(len(labels)), values, color=colours)
    ax.bar_label(bars, padding=3, fontsize=9)
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set_xlabel("true pairs")
    ax.set_title("Which branches propose the original", fontsize=10)
    return ax


def telling_query(proposed: pd.DataFrame, ground_truth: pd.DataFrame | None) -> str:
    """A query that shows how branches differ: most branches, some right and others wrong."""
    rows = proposed[["branch", *PAIR]].drop_duplicates()
    if ground_truth is not None:
        rows = rows.merge(ground_truth[PAIR], how="left", on=PAIR, indicator=True)
        rows["true"] = rows["_merge"] == "both"
    else:
        rows["true"] = False
    branches = rows.groupby("query_id")["branch"].nunique()
    right = rows[rows["true"]].groupby("query_id")["branch"].nunique()
    right = right.reindex(branches.index, fill_value=0)
    order = pd.DataFrame({"differ": (right > 0) & (right < branches), "branches": branches})
    order = order.sort_values(["differ", "branches"], ascending=False, kind="stable")
    return str(order.index[0])


def missed_originals(proposed: pd.DataFrame, ground_truth: pd.DataFrame) -> pd.DataFrame:
    """For each branch, a true pair that it misses, the best one that another branch proposes.

    Columns branch, query_id, reference_id, others (the branches that have it, such as "A and B");
    a branch that misses nothing has no row.
    """
    true = ground_truth[ground_truth["reference_id"] != ""][PAIR].drop_duplicates()
    hits = true.merge(proposed[["branch", *PAIR]].drop_duplicates(), on=PAIR)
    rows = []
    for branch in sorted(proposed["branch"].unique()):
        own = hits[hits["branch"] == branch]
        missed = true.merge(own, how="left", on=PAIR)
        missed = missed.loc[missed["branch"].isna(), PAIR]
        owners = missed.merge(hits, on=PAIR)
        if len(owners):
            first = owners[PAIR].iloc[0]
            others = owners.loc[(owners[PAIR] == first).all(axis=1), "branch"]
            rows.append(
                (branch, *first, " and ".join(sorted(others)).upper().replace("AND", "and"))
            )
        elif len(missed):
            rows.append((branch, *missed.iloc[0], "nobody"))
    return pd.DataFrame(rows, columns=["branch", *PAIR, "others"])


def missed_panels(benchmark: Benchmark, missed: pd.DataFrame) -> np.ndarray:
    """Queries whose original a branch misses, above these originals; axes (2, rows of `missed`)."""
    axes = plt.subplots(2, len(missed), figsize=(2.6 * len(missed), 4.4), squeeze=False)[1]
    for column, (_, row) in zip(axes.T, missed.iterrows(), strict=True):
        titles = (
            f"{BRANCH_NAMES[row['branch']]}: misses {row['query_id']}",
            f"{row['reference_id']}, found by {row['others']}",
        )
        for ax, image, title in zip(column, pair_images(benchmark, row), titles, strict=True):
            ax.imshow(image)
            ax.set_axis_off()
            ax.set_title(title, fontsize=9)
    return axes


def branch_panels(
    benchmark: Benchmark, scored: pd.DataFrame, ground_truth: pd.DataFrame | None = None
) -> np.ndarray:
    """One query as each branch sees it, above the reference that the branch likes best.

    scored: rows of `score_pictures` for one query, with branch and picture. Green frame: the
    original, red: another picture; gray where the truth is not known. Returns axes (2, branches).
    """
    best = scored.sort_values("score", ascending=False, kind="stable").drop_duplicates("branch")
    best = best.sort_values("branch")
    true = set() if ground_truth is None else set(map(tuple, ground_truth[PAIR].to_numpy()))
    figure, axes = plt.subplots(2, len(best), figsize=(2.6 * len(best), 4.4), squeeze=False)
    for column, (_, row) in zip(axes.T, best.iterrows(), strict=True):
        query, reference = pair_images(benchmark, row)
        box = [int(side) for side in row["picture"].split()]
        right = (row["query_id"], row["reference_id"]) in true
        colour = NEUTRAL if ground_truth is None else TRUE if right else WRONG
        score = f"{row['score']:.3g}"
        for ax, image, title, edge in (
            (column[0], query.crop(box) if box else query, BRANCH_NAMES[row["branch"]], NEUTRAL),
            (column[1], reference, f"{row['reference_id']}, score {score}", colour),
        ):
            ax.imshow(image)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(title, fontsize=9)
            for side in ax.spines.values():
                side.set(edgecolor=edge, linewidth=3)
    figure.suptitle(f"{best['query_id'].iloc[0]}: above the picture used, below its best answer",
                    fontsize=10)  # fmt: skip
    return axes
