"""Figures of edited pictures and query sets; each takes `ax=None`, returns `ax`, never shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from PIL import Image

from iscutils.edits.record import Edited
from iscutils.edits.registry import REGISTRY, apply, draw_operation
from iscutils.images import ImageError, ImageSet

if TYPE_CHECKING:
    from iscutils.datasets import Benchmark

CONTENT, POSITIVE, NEGATIVE = "tab:green", "tab:green", "tab:gray"
CELL_PIXELS = 240  # longest side of a picture inside a grid: keeps notebooks small


def apply_each(
    image: Image.Image, donors: Sequence[Image.Image], seed: int, names: Sequence[str] = ()
) -> dict[str, Edited]:
    """Every operation (or those named) once on one picture, with strengths drawn from the seed."""
    return {
        name: apply(image, [draw_operation(name, np.random.default_rng([seed, i]))], donors)
        for i, name in enumerate(names or REGISTRY)
    }


def apply_strengths(
    image: Image.Image,
    name: str,
    parameter: str,
    values: Sequence[Any],
    donors: Sequence[Image.Image] = (),
    seed: int = 0,
) -> dict[str, Edited]:
    """One operation at several values of one parameter, everything else the same."""
    return {
        f"{parameter} = {value}": apply(
            image, [draw_operation(name, np.random.default_rng(seed), **{parameter: value})], donors
        )
        for value in values
    }


def picture_grid(
    pictures: Mapping[str, Edited | Image.Image],
    *,
    columns: int = 5,
    size: float = 1.5,
    ax: Axes | None = None,
) -> Axes:
    """Pictures by title in square cells of `size` inches.

    An `Edited` record gets the outline (green) of what is left of the original, and its visible
    fraction behind the title.
    """
    rows = -(-len(pictures) // columns)
    ax = _axes(ax, (size * min(columns, len(pictures)), 1.16 * size * rows))
    for i, (title, picture) in enumerate(pictures.items()):
        x, y = i % columns, 1.16 * (i // columns) + 0.16
        if isinstance(picture, Edited):
            _draw_cell(ax, picture.image, picture.polygon, x, y)
            title = f"{title}  {picture.visible:.2f}"
        else:
            _draw_cell(ax, picture, None, x, y)
        ax.text(x + 0.5, y - 0.03, title, ha="center", fontsize=7, parse_math=False)
    ax.set(xlim=(0, min(columns, len(pictures))), ylim=(1.16 * rows, 0), aspect="equal")
    ax.axis("off")
    return ax


def to_batch(images: Iterable[Image.Image], side: int) -> np.ndarray:
    """Pictures squashed to (B, 3, side, side) float32 in [0, 1]."""
    pixels = [np.asarray(image.resize((side, side))) for image in images]
    return np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255  # (B, 3, side, side)


def view_grid(columns: Sequence[Any], *, size: float = 1.0, ax: Axes | None = None) -> Axes:
    """Batches (B, 3, side, side) in [0, 1] side by side: row b shows image b and its views."""
    views = np.stack([np.asarray(batch) for batch in columns], axis=1)  # (B, V, 3, side, side)
    images, number, _, side, _ = views.shape
    ax = _axes(ax, (size * number, size * images))
    joined = views.transpose(0, 3, 1, 4, 2).reshape(images * side, number * side, 3)
    ax.imshow(np.clip(joined, 0, 1))
    ax.axis("off")
    return ax


def query_grid(
    benchmark: Benchmark,
    query_ids: Sequence[str],
    manifest: pd.DataFrame | None = None,
    *,
    size: float = 1.5,
    ax: Axes | None = None,
) -> Axes:
    """Queries of a benchmark above their references; a distractor's lower cell says so.

    With the manifest of a synthesised set the queries carry the outline of their original.
    """
    ax = _axes(ax, (size * len(query_ids), 2.4 * size))
    known = benchmark.ground_truth is not None
    truth = benchmark.ground_truth.set_index("query_id")["reference_id"] if known else {}
    outlines = {} if manifest is None else manifest.set_index("query_id")["polygon"]
    for x, query_id in enumerate(query_ids):
        reference_id = truth.get(query_id, "")
        outline = outlines.get(query_id) if reference_id else None
        _draw_cell(ax, _load(benchmark.queries, query_id), outline, x, 0.3)
        title = "\n".join([query_id, *_wrap(benchmark.edits.get(query_id, ""), 22)])
        ax.text(x + 0.5, 0.27, title, ha="center", va="bottom", fontsize=7, parse_math=False)
        if reference_id:
            _draw_cell(ax, _load(benchmark.references, reference_id), None, x, 1.42)
        missing = "no reference" if known else "not known"
        text, y = (reference_id, 1.39) if reference_id else (missing, 1.9)
        colour = POSITIVE if reference_id else NEGATIVE
        ax.text(x + 0.5, y, text, ha="center", fontsize=7, color=colour, parse_math=False)
    ax.set(xlim=(0, len(query_ids)), ylim=(2.4, 0), aspect="equal")
    ax.axis("off")
    return ax


def count_edits(edits: Sequence[str]) -> pd.Series:
    """How many of the "a+b+c" lists name each edit, the most frequent first."""
    names = pd.Series([name for text in edits for name in text.split("+") if name], dtype=object)
    return names.value_counts()


def edit_frequencies(counts: pd.Series, *, ax: Axes | None = None) -> Axes:
    """Bar for each edit: in how many queries it occurs (see `count_edits`)."""
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 2.8), dpi=80, layout="constrained")
    ax.bar(list(counts.index), counts.to_numpy(), color="tab:gray")
    if counts.empty:
        ax.text(0.5, 0.5, "no edits listed (no edits.csv)", ha="center", transform=ax.transAxes)
    ax.set(ylabel="queries")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(axis="x", rotation=90, labelsize=8)
    ax.margins(x=0.01)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def visible_histogram(manifest: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Histogram of the visible fraction of the original, for the positive queries."""
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 2.4), dpi=80, layout="constrained")
    values = manifest.loc[manifest["reference_id"] != "", "visible"]
    ax.hist(values, bins=np.linspace(0, 1, 21), color=POSITIVE, edgecolor="white")
    ax.set(xlabel="visible fraction of the original (0 to 1)", ylabel="positive queries")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is None:
        _, ax = plt.subplots(figsize=size, dpi=80, layout="constrained")
    return ax


def _load(images: ImageSet, image_id: str) -> Image.Image:
    """An image by its id; a gray square in the place of one that is missing or unreadable."""
    try:
        return images.load(images.ids.index(image_id))
    except (ImageError, ValueError):
        return Image.new("RGB", (64, 64), (200, 200, 200))


def _draw_cell(
    ax: Axes, image: Image.Image, polygon: np.ndarray | None, x: float, y: float
) -> None:
    """A picture in the unit cell at (x, y), kept in proportion, with an outline in its pixels."""
    scale = 0.94 / max(image.size)  # cell units per px
    width, height = image.width * scale, image.height * scale
    left, top = x + (1 - width) / 2, y + (1 - height) / 2
    small = image.copy()
    small.thumbnail((CELL_PIXELS, CELL_PIXELS))
    ax.imshow(small, extent=(left, left + width, top + height, top), interpolation="antialiased")
    if polygon is not None and len(polygon):
        ax.fill(*(polygon * scale + (left, top)).T, fill=False, color=CONTENT, linewidth=1.5)


def _wrap(text: str, width: int) -> list[str]:
    """Break "a+b+c" after plus signs into lines of at most about `width` letters."""
    lines = [""]
    for part in text.split("+"):
        joined = f"{lines[-1]}+{part}" if lines[-1] else part
        lines = [*lines[:-1], joined] if len(joined) <= width else [*lines, part]
    return [line for line in lines if line]
