"""Figure of the parts that are described beside whole images."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from iscutils.descriptors.parts import Part, query_parts, reference_parts, region_parts
from iscutils.descriptors.regions import find_regions
from iscutils.figures.plots import COLOURS


def image_parts(query: Image.Image, reference: Image.Image) -> np.ndarray:
    """A query with its fixed parts and its regions, and a reference with its parts, as boxes.

    Part 0 is the whole picture, parts 1 to 3 of a query its turned copies: they have no box.
    Returns the three axes.
    """
    query, reference = _small(query), _small(reference)
    panels = {
        "query: turned, centre, tiles": (query, query_parts(*query.size)),
        "query: regions": (query, region_parts(find_regions(query))),
        "reference: all parts": (reference, reference_parts(*reference.size)),
    }
    widths = [image.width / image.height for image, _ in panels.values()]
    height = min(3.0, 9 / sum(widths))  # inches
    _, axes = plt.subplots(
        1, 3, figsize=(max(5.5, sum(widths) * height), height + 0.3), width_ratios=widths
    )
    for ax, (title, (image, parts)) in zip(axes, panels.items(), strict=True):
        part_boxes(image, parts, ax)
        ax.set_title(f"{title} ({len(parts)})", fontsize=7)
    plt.tight_layout()
    return axes


def _small(image: Image.Image, side: int = 400) -> Image.Image:
    image = image.copy()
    image.thumbnail((side, side))
    return image


def part_boxes(image: Image.Image, parts: Sequence[Part], ax: Axes | None = None) -> Axes:
    """An image with the boxes of its cut-out parts, each with its number in its first corner.

    Parts of one shape have one colour. The whole picture and its turned copies are not drawn.
    """
    ax = ax or plt.subplots()[1]
    ax.imshow(image)
    drawn = [part for part in parts if part.box != (0, 0, *image.size)]
    shapes = [_shape(part, max(image.size)) for part in drawn]
    colours = {shape: COLOURS[i % len(COLOURS)] for i, shape in enumerate(dict.fromkeys(shapes))}
    inset = max(image.size) / 120  # px, so that boxes with a common border stay apart
    for i, (part, shape) in enumerate(zip(drawn, shapes, strict=True)):
        left, top, right, bottom = part.box
        shift = inset * (1 + i % 2)
        frame = (max(1, right - left - 2 * shift), max(1, bottom - top - 2 * shift))
        colour = colours[shape]
        ax.add_patch(
            Rectangle((left + shift, top + shift), *frame, fill=False, color=colour, lw=1.2)
        )
        ax.text(
            left + shift, top + shift, str(part.number), color="white", fontsize=6, va="top",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    ax.set_axis_off()
    return ax


def _shape(part: Part, long_side: int) -> tuple[int, int]:
    """Sides of a part in fiftieths, so that a px more or less makes no other shape."""
    left, top, right, bottom = part.box
    return round(50 * (right - left) / long_side), round(50 * (bottom - top) / long_side)
