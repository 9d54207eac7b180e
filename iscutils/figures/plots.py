"""Figures of the notebooks and the report: each takes `ax=None`, returns `ax`, never shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

from iscutils.evaluation.metrics import evaluate, join_truth, precision_recall_curve
from iscutils.files.artifacts import KitError

# seaborn's "colorblind" palette: told apart with every common colour vision deficiency.
COLOURS = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494",
    "#56b4e9",
)  # fmt: skip
# A second cue beside the colour; nine colours with four styles are 36 different curves.
LINE_STYLES = ("-", "--", "-.", (0, (1, 1)))
TRUE, WRONG, NEUTRAL = "tab:green", "tab:red", "tab:gray"
_MAX_PIXELS = 480  # longest side of a picture inside a figure: keeps notebooks small


def new_axes(ax: Axes | None, width: float = 5, height: float = 3, grid: str = "both") -> Axes:
    """`ax`, or a fresh one of `width` x `height` inches, with the kit's frame and grid.

    `grid` is "both", "x", "y" or "none".
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), dpi=80, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    if grid != "none":
        ax.grid(True, axis=grid, alpha=0.3, linewidth=0.6)
    return ax


def _legend(ax: Axes, **options: Any) -> None:
    """A small legend whose labels are taken literally: a name with `$` is no formula."""
    for text in ax.legend(fontsize=8, frameon=False, title_fontsize=8, **options).get_texts():
        text.set_parse_math(False)


def precision_recall(
    predictions: pd.DataFrame,
    ground_truth: pd.DataFrame,
    *,
    label: str = "",
    pairs: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Precision over recall of one ranked list, its P90 point, and random order as the baseline.

    Call it again with the same `ax` to compare lists; the legend gives each one's µAP. `pairs` is
    the number of all possible pairs, queries x references: in random order the precision is
    positives / pairs. Without it only the ids named in the two tables are counted.
    """
    ax = new_axes(ax, 4.8, 4)
    metrics = evaluate(predictions, ground_truth)
    number = sum(line.get_gid() == "curve" for line in ax.lines)
    if number == 0:
        named = pd.concat([predictions, ground_truth])[["query_id", "reference_id"]].nunique()
        chance = metrics.positives / (pairs or max(1, int(named.prod())))
        ax.axhline(0.9, color=NEUTRAL, linewidth=0.8, linestyle=":", gid="level")
        ax.axhline(chance, color=NEUTRAL, linewidth=1.4, label="random order", gid="random")
        ax.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        ax.set_title("Precision over recall (dot: 90 % precision)", fontsize=10)
    colour, style = COLOURS[number % len(COLOURS)], LINE_STYLES[number % len(LINE_STYLES)]
    recall, precision = _thin_curve(*precision_recall_curve(predictions, ground_truth)[:2])
    text = f"{_shorten(label, 30)}  {metrics.uap:.3f}" if label else f"µAP {metrics.uap:.3f}"
    ax.plot(recall, precision, color=colour, linestyle=style, label=text, gid="curve")
    if metrics.threshold_p90 is not None:
        ax.plot(metrics.recall_at_p90, 0.9, "o", color=colour, markersize=5, gid="p90")
    # Below the axes: curves may run anywhere inside.
    title = "µAP" if label else None
    _legend(ax, title=title, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return ax


def _thin_curve(precision: np.ndarray, recall: np.ndarray, points: int = 400) -> list[np.ndarray]:
    """The rows of a curve where recall rises, `points` of them at most."""
    rises = np.flatnonzero(np.diff(recall, prepend=0.0) > 0)
    if len(rises) > points:
        rises = rises[np.linspace(0, len(rises) - 1, points).round().astype(int)]
    return [recall[rises], precision[rises]]


def score_histogram(
    predictions: pd.DataFrame,
    ground_truth: pd.DataFrame,
    *,
    threshold: float | None = None,
    bins: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """Scores of the true pairs, and of the best pair of each distractor query.

    What overlaps cannot be told apart by any threshold. `threshold` is drawn as a line.
    """
    ax = new_axes(ax, 4.8, 3.6, grid="y")
    pairs = join_truth(predictions, ground_truth)
    distractor = pairs.positives[pairs.query] == 0
    best = pd.Series(pairs.score[distractor]).groupby(pairs.query[distractor]).max().to_numpy()
    true = pairs.score[pairs.hit]
    both = np.concatenate([true, best])
    edges = np.histogram_bin_edges(both if len(both) else [0.0, 1.0], bins)
    # Filled against outlined: a second cue beside the colour.
    ax.hist(true, edges, color=TRUE, alpha=0.6, label=f"true pairs ({len(true)})")
    ax.hist(best, edges, histtype="step", color=WRONG, linewidth=1.5,
            label=f"best pair of a distractor ({len(best)})")  # fmt: skip
    if threshold is not None:
        ax.axvline(threshold, color=NEUTRAL, linestyle="--", label=f"threshold {threshold:.4g}")
    ax.set(xlabel="score", ylabel="pairs")
    ax.set_title("Scores of true pairs and of distractors", fontsize=10)
    _legend(ax)
    return ax


def stages_bars(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """One horizontal bar per stage (row of `table`) of its µAP, with the 95 % interval.

    `table` has the column `uap` (0 to 1) and, for the intervals, `uap_low` and `uap_high`.
    """
    ax = new_axes(ax, 5.5, 0.8 + 0.32 * len(table), grid="x")
    rows = np.arange(len(table))
    uap = table["uap"].to_numpy(float)
    ax.barh(rows, uap, height=0.62, color=COLOURS[0])
    high = uap
    if {"uap_low", "uap_high"} <= set(table.columns):
        low, high = table["uap_low"].to_numpy(float), table["uap_high"].to_numpy(float)
        ax.errorbar(uap, rows, xerr=[uap - low, high - uap], fmt="none", ecolor=NEUTRAL, capsize=3)
    for row, value, end in zip(rows, uap, high, strict=True):
        ax.text(max(value, end) + 0.015, row, f"{value:.3f}", va="center", fontsize=8)
    ax.set_yticks(rows, [_shorten(name, 36) for name in table.index], parse_math=False)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.12), xlabel="µAP", xticks=np.linspace(0, 1, 6))
    ax.set_title("µAP of each stage, 95 % interval", fontsize=10)
    return ax


def edit_bars(
    table: pd.DataFrame, *, counts: Mapping[str, int] | None = None, ax: Axes | None = None
) -> Axes:
    """Recall (0 to 1) of each edit, one group of bars per edit and one colour per stage.

    Rows of `table` are edits, columns stages. `counts` (edit -> number of its true pairs) is
    written beside the edit: a bar of three pairs says little.
    """
    edits, stages = list(table.index), list(table.columns)
    height = 0.9 + len(edits) * max(0.24, 0.07 * len(stages))
    ax = new_axes(ax, 5.5, height, grid="x")
    rows, thickness = np.arange(len(edits)), 0.8 / max(len(stages), 1)
    for i, stage in enumerate(stages):
        offset = (i - (len(stages) - 1) / 2) * thickness
        values = table[stage].to_numpy(float)
        ax.barh(rows + offset, values, height=thickness * 0.92,
                color=COLOURS[i % len(COLOURS)], label=_shorten(stage, 30))  # fmt: skip
    names = [f"{edit} ({counts[edit]})" if counts is not None else str(edit) for edit in edits]
    ax.set_yticks(rows, names, fontsize=8, parse_math=False)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="recall", ylim=(len(edits) - 0.4, -0.6))
    title = "Recall by edit" + (" (number of its true pairs)" if counts is not None else "")
    ax.set_title(title, fontsize=10)
    if len(stages) > 1:
        _legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def loss_curve(
    history: pd.DataFrame, *, smoothing: float = 0.9, label: str = "loss", ax: Axes | None = None
) -> Axes:
    """Training loss over steps: every value pale, its moving average on top.

    `history` has the columns `step` and `loss`. `smoothing` in [0, 1) is the weight of the past
    in the exponential average, corrected for its start as in Adam (Kingma and Ba 2015, section 3).
    """
    if not 0 <= smoothing < 1:
        raise KitError(f"smoothing {smoothing} is outside [0, 1): 0 draws the raw values")
    ax = new_axes(ax, 5, 2.8)
    history = history.dropna(subset=["loss"]).sort_values("step")
    step, loss = history["step"].to_numpy(), history["loss"].to_numpy(float)
    colour = COLOURS[sum(line.get_gid() == "smooth" for line in ax.lines) % len(COLOURS)]
    if smoothing:
        ax.plot(step, loss, color=colour, alpha=0.25, linewidth=0.8)
    ax.plot(step, smooth(loss, smoothing), color=colour, label=label, gid="smooth")
    ax.set(xlabel="step", ylabel="loss")
    ax.set_title(f"Training loss (moving average, weight {smoothing:g})", fontsize=10)
    _legend(ax)
    return ax


def smooth(values: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average of (N,) values, corrected for the missing past of its start."""
    smoothed, mean = np.empty(len(values)), 0.0
    for i, value in enumerate(values):
        mean = weight * mean + (1 - weight) * value
        smoothed[i] = mean / (1 - weight ** (i + 1))
    return smoothed


def similarity_matrix(
    similarities: np.ndarray,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Similarities (N, M) of N row images with M column images as colours; numbers if few."""
    values = np.asarray(similarities, float)
    low, high = limits or (min(0.0, float(values.min())), max(1.0, float(values.max())))
    ax = new_axes(ax, 1.2 + 0.45 * values.shape[1], 0.8 + 0.45 * values.shape[0], grid="none")
    image = ax.imshow(values, cmap="cividis", vmin=low, vmax=high)
    ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.04)
    for names, axis, rotation in ((rows, "y", 0), (columns, "x", 90)):
        size = values.shape[0 if axis == "y" else 1]
        labels = [_shorten(name, 16) for name in names] if names is not None else range(size)
        if names is not None or size <= 12:
            set_ticks = ax.set_yticks if axis == "y" else ax.set_xticks
            set_ticks(range(size), labels, parse_math=False)
            ax.tick_params(axis=axis, rotation=rotation, labelsize=8)
    if values.size <= 100:
        middle = (low + high) / 2
        for (row, column), value in np.ndenumerate(values):
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if value > middle else "white")  # fmt: skip
    ax.set_title("Similarity (cosine)", fontsize=10)
    return ax


def image_grid(
    images: Sequence[Any],
    titles: Sequence[str] | None = None,
    *,
    columns: int = 5,
    frames: Sequence[str | None] | None = None,
    size: float = 1.5,
    ax: Axes | None = None,
) -> Axes:
    """Images (PIL or HWC uint8 arrays) in square cells of `size` inches, left to right, top down.

    `titles` stand above the cells, shortened to fit (line breaks allowed); `frames` are colours,
    None for no frame. All cells share one axes, in units of cells: (0, 0) is the top left corner.
    """
    if not len(images):
        raise KitError("image_grid was given no images: pass at least one")
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    lines = max((str(title).count("\n") + 1 for title in titles), default=0) if titles else 0
    head = 0.11 * lines + 0.03  # room of the titles, in cells
    ax = new_axes(ax, size * columns, size * rows * (1 + head), grid="none")
    ax.set_axis_off()
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        left, top = column + 0.03, row * (1 + head) + head
        extent = _fit(_small(image), left, top, 0.94)
        ax.imshow(_small(image), extent=extent, interpolation="antialiased")
        frame = frames[i] if frames is not None else None
        if frame:
            box = (extent[0], extent[3]), extent[1] - extent[0], extent[2] - extent[3]
            ax.add_patch(Rectangle(*box, fill=False, edgecolor=frame, linewidth=3))
        if titles is not None:
            text = "\n".join(_shorten(line, int(13 * size)) for line in str(titles[i]).split("\n"))
            ax.text(column + 0.5, top - 0.02, text, ha="center", va="bottom", fontsize=7,
                    parse_math=False)  # fmt: skip
    ax.set(xlim=(0, columns), ylim=(rows * (1 + head), 0), aspect="equal")
    return ax


def retrieval_strip(
    query: Any,
    references: Sequence[Any],
    scores: Sequence[float],
    truths: Sequence[bool | None],
    *,
    names: Sequence[str] | None = None,
    query_name: str = "query",
    size: float = 1.5,
    ax: Axes | None = None,
) -> Axes:
    """A query and its best references with their scores; green frame: the original, red: not.

    `truths` says whether each reference is the query's original; None (no ground truth): gray.
    """
    names = [f"{rank}." for rank in range(1, len(references) + 1)] if names is None else names
    titles = [query_name, *(f"{n}\n{s:.3f}" for n, s in zip(names, scores, strict=True))]
    colours = {True: TRUE, False: WRONG, None: NEUTRAL}
    # Not by `is`: truths may come as NumPy booleans.
    frames = [None, *(colours[None if truth is None else bool(truth)] for truth in truths)]
    images = [query, *references]
    return image_grid(images, titles, columns=len(images), frames=frames, size=size, ax=ax)


def matches(
    query_image: Any,
    reference_image: Any,
    query_points: np.ndarray,
    reference_points: np.ndarray,
    inliers: np.ndarray | None = None,
    homography: np.ndarray | None = None,
    *,
    max_lines: int = 80,
    ax: Axes | None = None,
) -> Axes:
    """Query (left) and reference (right), lines between matched points, inliers in green.

    Points are (M, 2) in (x, y) pixels of the given images, `inliers` (M,) bool (default: all).
    `homography` (3, 3) maps reference pixels to query pixels: the reference's frame is drawn in
    the query. At most `max_lines` lines of each kind are drawn, evenly chosen.
    """
    ax = new_axes(ax, 7, 3, grid="none")
    ax.set_axis_off()
    pictures = [_small(query_image), _small(reference_image)]
    sizes = [_size(query_image), _size(reference_image)]
    scales = [1.0 / height for _, height in sizes]  # both pictures one unit high
    left = sizes[0][0] * scales[0] + 0.04  # of the reference
    ax.imshow(pictures[0], extent=(0, left - 0.04, 1, 0))
    right = left + sizes[1][0] * scales[1]
    ax.imshow(pictures[1], extent=(left, right, 1, 0))
    start = np.asarray(query_points, float).reshape(-1, 2) * scales[0]
    end = np.asarray(reference_points, float).reshape(-1, 2) * scales[1] + [left, 0]
    kept = np.ones(len(start), bool) if inliers is None else np.asarray(inliers, bool)
    for chosen, colour, alpha in ((~kept, WRONG, 0.3), (kept, TRUE, 0.8)):
        shown = np.flatnonzero(chosen)
        if len(shown) > max_lines:
            shown = shown[np.linspace(0, len(shown) - 1, max_lines).round().astype(int)]
        ax.plot(*np.stack([start[shown], end[shown]]).transpose(2, 0, 1), color=colour,
                alpha=alpha, linewidth=0.8, marker=".", markersize=3)  # fmt: skip
    corners = None if homography is None else project_frame(homography, sizes[1])
    if corners is not None:
        inside = Rectangle((0, 0), left - 0.04, 1, transform=ax.transData)
        outline = Polygon(corners * scales[0], fill=False, edgecolor="#ffb000", linewidth=2)
        ax.add_patch(outline).set_clip_path(inside)
    ax.set(xlim=(0, right), ylim=(1, 0), aspect="equal")
    ax.set_title(f"{kept.sum()} inliers of {len(kept)} matched keypoints", fontsize=10)
    return ax


def project_frame(
    homography: np.ndarray, source_size: tuple[int, int], target_size: tuple[int, int] = (1, 1)
) -> np.ndarray | None:
    """Corners of a source picture in the target, divided by the target's width and height, (4, 2).

    `homography` (3, 3) maps source to target pixels; sizes are (width, height). None when a corner
    lies at infinity or the frame folds over: such a homography is no picture's outline.
    """
    width, height = source_size
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    projected = corners @ np.asarray(homography, float).T  # (4, 3)
    depth = projected[:, 2]
    # A homography is known up to its sign: all corners must lie on one side of the camera.
    if not np.isfinite(projected).all() or depth.min() * depth.max() <= 0:
        return None
    return projected[:, :2] / depth[:, None] / target_size


def _size(image: Any) -> tuple[int, int]:
    """Width and height of a PIL image or an HWC array."""
    return image.size if isinstance(image, Image.Image) else np.asarray(image).shape[1::-1]


def _small(image: Any) -> np.ndarray:
    """RGB pixels of a PIL image or array, reduced to `_MAX_PIXELS`, uint8 HWC."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    small = image.convert("RGB")
    small.thumbnail((_MAX_PIXELS, _MAX_PIXELS))
    return np.asarray(small)


def _fit(pixels: np.ndarray, left: float, top: float, side: float) -> tuple[float, ...]:
    """Extent (left, right, bottom, top) of a picture centred in a square cell."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    left, top = left + (side - width * scale) / 2, top + (side - height * scale) / 2
    return left, left + width * scale, top + height * scale, top


def _shorten(text: str, length: int) -> str:
    text = str(text)
    return text if len(text) <= length else text[: max(length - 1, 1)] + "…"
