"""Figures of edited pictures and query sets; each takes `ax=None`, returns `ax`, never shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from iscutils.edits.record import Edited
from iscutils.evaluation.pairs import originals_by_query
from iscutils.files.ids import stem_of
from iscutils.files.images import ImageError, ImageSet, decode

if TYPE_CHECKING:
    from iscutils.datasets import Benchmark

CONTENT, POSITIVE, NEGATIVE = "tab:green", "tab:green", "tab:gray"
BOX = {"original": "tab:green", "photo": "tab:orange", "sticker": "tab:blue"}
MOST_ORIGINALS = 3  # drawn below a query
CELL_PIXELS = 240  # longest side of a picture inside a grid: keeps notebooks small


def picture_grid(
    pictures: Mapping[str, Edited | Image.Image],
    *,
    columns: int = 5,
    size: float = 1.5,
    boxes: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Pictures by title in square cells of `size` inches.

    An `Edited` record gets the outline (green) of what is left of the original, and its visible
    fraction behind the title. With `boxes` it gets, instead, the bounds of what was put in.
    """
    rows = -(-len(pictures) // columns)
    ax = _axes(ax, (size * min(columns, len(pictures)), 1.16 * size * rows))
    for i, (title, picture) in enumerate(pictures.items()):
        x, y = i % columns, 1.16 * (i // columns) + 0.16
        if isinstance(picture, Edited) and boxes:
            _draw_boxes(ax, picture, _draw_cell(ax, picture.image, None, x, y))
        elif isinstance(picture, Edited):
            _draw_cell(ax, picture.image, picture.polygon, x, y)
            title = f"{title}  {picture.visible:.2f}"
        else:
            _draw_cell(ax, picture, None, x, y)
        ax.text(x + 0.5, y - 0.03, title, ha="center", fontsize=7, parse_math=False)
    ax.set(xlim=(0, min(columns, len(pictures))), ylim=(1.16 * rows, 0), aspect="equal")
    ax.axis("off")
    return ax


def strength_grid(
    pictures: Mapping[str, Edited], *, columns: int = 12, size: float = 0.8, ax: Axes | None = None
) -> Axes:
    """Pictures of `apply_graded`: three strengths side by side under the name of the operation."""
    rows = -(-len(pictures) // columns)
    ax = _axes(ax, (size * columns, 1.24 * size * rows))
    for i, (title, picture) in enumerate(pictures.items()):
        x, y = i % columns, 1.24 * (i // columns) + 0.24
        _draw_cell(ax, picture.image, picture.polygon, x, y, pixels=72)
        if not title.endswith(" "):
            ax.text(x + 0.03, y - 0.04, title, fontsize=6.5, parse_math=False)
    ax.set(xlim=(0, columns), ylim=(1.24 * rows, 0), aspect="equal")
    ax.axis("off")
    return ax


def recipe_grid(
    pictures: Mapping[str, Edited], *, size: float = 0.95, ax: Axes | None = None
) -> Axes:
    """Pictures of `apply_recipes`: a row for each recipe."""
    names = list(dict.fromkeys(title.rpartition(":")[0] for title in pictures))
    columns = len(pictures) // len(names)
    ax = _axes(ax, (size * (columns + 1.3), size * len(names)))
    for i, picture in enumerate(pictures.values()):
        x, y = 1.3 + i % columns, i // columns
        _draw_cell(ax, picture.image, picture.polygon, x, y, pixels=96)
    for y, name in enumerate(names):
        ax.text(1.25, y + 0.5, name, ha="right", va="center", fontsize=8, parse_math=False)
    ax.set(xlim=(0, columns + 1.3), ylim=(len(names), 0), aspect="equal")
    ax.axis("off")
    return ax


def visible_boxes(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Box plot of `visible_by_recipe`: how much of the original the copies of a recipe show."""
    names = list(dict.fromkeys(table["recipe"]))
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 0.28 * len(names) + 0.8), dpi=80, layout="constrained")
    values = [table["visible"][table["recipe"] == name].to_numpy() for name in names]
    ax.boxplot(
        values, orientation="horizontal", tick_labels=names, widths=0.6, showfliers=False,
        medianprops={"color": CONTENT, "linewidth": 2},
    )  # fmt: skip
    ax.set(xlabel="visible fraction of the original (0 to 1)", xlim=(0, 1.02))
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def pair_grid(folder: str | Path, *, size: float = 1.2, ax: Axes | None = None) -> Axes:
    """Pairs of a folder of `hard_negative_pairs`, one above the other, with their kind."""
    table = pd.read_csv(Path(folder) / "pairs.csv", dtype=str)
    files = {stem_of(file): file for file in (Path(folder) / "images").rglob("*") if file.is_file()}
    ax = _axes(ax, (size * len(table), 2.2 * size))
    for x, row in enumerate(table.itertuples()):
        for y, name in enumerate((row.image_a, row.image_b)):
            _draw_cell(ax, decode(files[name]), None, x, 0.2 + y, pixels=128)
        ax.text(x + 0.5, 0.12, row.kind, ha="center", fontsize=8, parse_math=False)
    ax.set(xlim=(0, len(table)), ylim=(2.2, 0), aspect="equal")
    ax.axis("off")
    return ax


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
    """Queries of a benchmark above their references, at most three; distractors are named as such.

    With the manifest of a synthesised set the queries carry the outline of their original.
    """
    known = benchmark.ground_truth is not None
    truth = originals_by_query(benchmark.ground_truth) if known else {}
    outlines = {} if manifest is None else manifest.set_index("query_id")["polygon"]
    found = [truth.get(query_id, []) for query_id in query_ids]
    height = 1.28 + 1.12 * min(MOST_ORIGINALS, max([1, *map(len, found)]))
    ax = _axes(ax, (size * len(query_ids), height * size))
    for x, (query_id, references) in enumerate(zip(query_ids, found, strict=True)):
        outline = outlines.get(query_id) if references else None
        _draw_cell(ax, _load(benchmark.queries, query_id), outline, x, 0.3)
        title = "\n".join([query_id, *_wrap(benchmark.edits.get(query_id, ""), 22)])
        ax.text(x + 0.5, 0.27, title, ha="center", va="bottom", fontsize=7, parse_math=False)
        for i, name in enumerate(references[:MOST_ORIGINALS]):
            y = 1.42 + 1.12 * i
            _draw_cell(ax, _load(benchmark.references, name), None, x, y)
            left = len(references) - MOST_ORIGINALS if i + 1 == MOST_ORIGINALS else 0
            text = f"{name}, {left} more" if left > 0 else name
            _say(ax, x, y - 0.03, text, POSITIVE)
        if not references:
            _say(ax, x, 1.9, "no reference" if known else "not known", NEGATIVE)
    ax.set(xlim=(0, len(query_ids)), ylim=(height, 0), aspect="equal")
    ax.axis("off")
    return ax


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


def _say(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    ax.text(x + 0.5, y, text, ha="center", fontsize=7, color=colour, parse_math=False)


def _load(images: ImageSet, image_id: str) -> Image.Image:
    """An image by its id; a gray square in the place of one that is missing or unreadable."""
    try:
        return images.load(images.ids.index(image_id))
    except (ImageError, ValueError):
        return Image.new("RGB", (64, 64), (200, 200, 200))


def _draw_cell(
    ax: Axes,
    image: Image.Image,
    polygon: np.ndarray | None,
    x: float,
    y: float,
    pixels: int = CELL_PIXELS,
) -> tuple[float, float, float]:
    """A picture in the unit cell at (x, y), kept in proportion, with an outline in its pixels.

    Returns its scale and corner: a point p of the picture lies at corner + scale * p.
    """
    scale = 0.94 / max(image.size)  # cell units per px
    width, height = image.width * scale, image.height * scale
    left, top = x + (1 - width) / 2, y + (1 - height) / 2
    small = image.copy()
    small.thumbnail((pixels, pixels))
    ax.imshow(small, extent=(left, left + width, top + height, top), interpolation="antialiased")
    if polygon is not None and len(polygon):
        width = 1.5 if pixels > 100 else 1.0
        ax.fill(*(polygon * scale + (left, top)).T, fill=False, color=CONTENT, linewidth=width)
    return scale, left, top


def _draw_boxes(ax: Axes, edited: Edited, place: tuple[float, float, float]) -> None:
    scale, left, top = place
    for box in edited.boxes:
        x0, y0, x1, y1 = box.bounds
        corner, sides = (
            (left + scale * x0, top + scale * y0),
            (scale * (x1 - x0), scale * (y1 - y0)),
        )
        ax.add_patch(Rectangle(corner, *sides, fill=False, color=BOX[box.kind], linewidth=1.5))


def _wrap(text: str, width: int) -> list[str]:
    """Break "a+b+c" after plus signs into lines of at most about `width` letters."""
    lines = [""]
    for part in text.split("+"):
        joined = f"{lines[-1]}+{part}" if lines[-1] else part
        lines = [*lines[:-1], joined] if len(joined) <= width else [*lines, part]
    return [line for line in lines if line]
