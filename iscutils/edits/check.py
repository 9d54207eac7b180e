"""Check a geometry record against pixels: push coordinates through the edits as colours."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from PIL import Image

from iscutils.edits.record import Operation, transform
from iscutils.edits.registry import apply, draw_operation


def coordinate_image(size: tuple[int, int]) -> Image.Image:
    """A picture of (width, height) px whose colours are coordinates.

    Red runs from 0 to 250 over x, green over y, blue is 250 everywhere.
    """
    width, height = size
    pixels = np.full((height, width, 3), 250.0)
    pixels[..., 0] *= (np.arange(width) + 0.5) / width
    pixels[..., 1] *= ((np.arange(height) + 0.5) / height)[:, None]
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def measure_geometry(
    operations: Iterable[Operation], size: tuple[int, int] = (320, 240)
) -> np.ndarray:
    """Distances (N,) in original px between where a pixel came from and what the record says.

    The edits run on a coordinate image and on a black one; their difference is free of borders,
    captions and donors, and its red and green, divided by blue, are the coordinates that each
    edited pixel shows. Edits that change colours in other ways than mixing are not measurable.
    8-bit colours resolve a 250th of each side. Returns (0,) when nothing of the original is left.
    """
    operations, donors = list(operations), [Image.new("RGB", (256, 256), (90, 120, 60))]
    edited = apply(coordinate_image(size), operations, donors)
    background = apply(Image.new("RGB", size), operations, donors)
    signal = np.asarray(edited.image).astype(float) - np.asarray(background.image)  # (H, W, 3)
    rows, columns = np.nonzero(signal[..., 2] > 100)  # enough of it to divide by
    seen = signal[rows, columns, :2] / signal[rows, columns, 2:] * size
    centres = np.stack([columns + 0.5, rows + 0.5], 1)
    expected = transform(np.linalg.inv(edited.homography), centres)
    return np.linalg.norm(seen - expected, axis=1)


def geometry_table(
    names: Iterable[str], seed: int, chain: Iterable[Operation] = ()
) -> pd.DataFrame:
    """Median and largest error (px, see `measure_geometry`) of edits drawn from a seed.

    One row per name, and a row "chain" for a chain of operations if one is given.
    """
    errors = {
        name: measure_geometry([draw_operation(name, np.random.default_rng(seed))])
        for name in names
    }
    if chain := list(chain):
        errors["chain"] = measure_geometry(chain)
    rows = {name: (np.median(e), e.max()) for name, e in errors.items() if len(e)}
    columns = ["median error, px", "largest error, px"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
