"""Figures of search over parts and of the norm filter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from iscutils.datasets import Benchmark
from iscutils.figures.plots import NEUTRAL, TRUE, WRONG, new_axes, stages_bars
from iscutils.figures.search import thumbnail
from iscutils.retrieval import PartFiles, read_part_table

_TURNS = {"0": "whole", "1": "turned 90°", "2": "turned 180°", "3": "turned 270°"}


def matched_parts(
    benchmark: Benchmark, matches: pd.DataFrame, files: Sequence[PartFiles], rows: int = 4
) -> np.ndarray:
    """Which part of a query matched which part of a reference: both images with their boxes.

    `matches` come from `matching_parts`, `files` from `part_files`. True pairs in which a
    cut-out part matched come first, then others. Green label: a true pair, red: another one, gray:
    unknown.
    """
    truth = None if benchmark.ground_truth is None else set(
        zip(benchmark.ground_truth.query_id, benchmark.ground_truth.reference_id, strict=True)
    )  # fmt: skip
    cut = ~matches.query_part.isin(_TURNS) | (matches.reference_part != "0")
    pairs = zip(matches.query_id, matches.reference_id, strict=True)
    right = np.array([truth is not None and pair in truth for pair in pairs], dtype=bool)
    # Mostly true pairs found by a part, and one false one to compare.
    best = matches[cut & right].head(rows - 1)
    chosen = pd.concat([best, matches[cut & ~right], matches[~cut]]).head(rows)
    by_source = {(own.set, own.backbone, own.size): own for own in files}
    _, axes = plt.subplots(
        len(chosen), 2, figsize=(5, 2.3 * len(chosen)), squeeze=False, layout="constrained"
    )
    for row, pair in zip(axes, chosen.itertuples(), strict=True):
        own = by_source[pair.set, pair.backbone, pair.size]
        right = None if truth is None else (pair.query_id, pair.reference_id) in truth
        for ax, images, file, name, part, say in (
            (row[0], benchmark.queries, own.queries, pair.query_id, pair.query_part, _say),
            (row[1], benchmark.references, own.references, pair.reference_id,
             pair.reference_part, "part {}".format),
        ):  # fmt: skip
            title = f"{name}, {'whole' if part == '0' else say(part)}"
            _with_box(ax, thumbnail(images, name), _box(file, name, part), title)
        colour = {True: TRUE, False: WRONG, None: NEUTRAL}[right]
        row[0].set_ylabel(f"{pair.direction}\n{pair.score:.3f}", fontsize=8, color=colour)
    return axes


def part_gains(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """µAP after each step of `ladder`; marks where the original reports such a step."""
    ax = stages_bars(table.set_index("step"), ax=ax)
    reported = table.published_uap.to_numpy(float)
    ax.plot(reported, np.arange(len(table)), "D", ms=5, color=NEUTRAL, label="D2LV as reported")
    ax.set_title("µAP after each step; D2LV's on other images", fontsize=10)
    ax.legend(fontsize=7, loc="lower right")
    return ax


def norm_ratio_histogram(
    ratios: np.ndarray, hits: np.ndarray | None, tau: float = 1.0, ax: Axes | None = None
) -> Axes:
    """Distribution of |f_q| / |f_r| (n,) over true and false pairs; what lies right of tau falls.

    `hits` (n,) marks the true pairs; None: all in one curve.
    """
    ax = new_axes(ax, 6, 2.6)
    low, high = np.quantile(ratios, [0.005, 0.995]) if len(ratios) else (0.5, 1.5)
    bins = np.linspace(min(low, 0.9 * tau), max(high, 1.1 * tau), 50)
    groups = {"all pairs": (np.ones(len(ratios), bool), NEUTRAL)}
    if hits is not None:
        groups = {"true pairs": (hits, TRUE), "false pairs": (~hits, WRONG)}
    for name, (rows, colour) in groups.items():
        if rows.any():
            gone = (ratios[rows] > tau).mean()
            label = f"{name}, {gone:.0%} beyond"
            ax.hist(np.clip(ratios[rows], bins[0], bins[-1]), bins=bins, density=True,
                    histtype="step", lw=1.6, color=colour, label=label)  # fmt: skip
    ax.axvline(tau, color="black", lw=1, ls="--")
    ax.set(xlabel="norm of the query / norm of the reference", ylabel="density")
    ax.legend(fontsize=8)
    return ax


def _box(file: str | Path, image_id: str, part: str) -> np.ndarray:
    """Normalised x0, y0, x1, y1 of a part; the whole image where the file has no boxes."""
    table = read_part_table(file)
    row = table[(table.image_id == image_id) & (table.part == part)]
    if "x0" not in table or row.empty:
        return np.array([0.0, 0.0, 1.0, 1.0])
    return row[["x0", "y0", "x1", "y1"]].iloc[0].to_numpy(float)


def _with_box(ax: Axes, image: Image.Image, box: np.ndarray, title: str) -> None:
    ax.imshow(image)
    width, height = image.size
    x0, y0, x1, y1 = box * (width, height, width, height)
    size = x1 - x0, y1 - y0
    ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), *size, fill=False, ec="tab:orange", lw=2.5))
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=7, parse_math=False)


def _say(part: str) -> str:
    if int(part) >= 1000:
        return f"detection {int(part) - 1000}"
    return _TURNS.get(part, f"part {part}")
