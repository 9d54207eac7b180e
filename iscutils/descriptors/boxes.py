"""Boxes of a detector: which are kept and cropped, and the crops as pictures of their own.

Boxes are rows x0, y0, x1, y1 in px, the upper bounds exclusive. A table of detections has the
columns of `COLUMNS`, one of truths the same without the confidence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from iscutils.files.artifacts import KitError, atomic_path, content_key
from iscutils.files.ids import image_id
from iscutils.files.images import ImageSet

BOX = ["x0", "y0", "x1", "y1"]
COLUMNS = ["image_id", "class", "confidence", *BOX]
CROP_COLUMNS = ["query_id", "point", "confidence", *BOX]
OVERLAY, STICKER = "overlay", "sticker"
CLASSES = (OVERLAY, STICKER)
# Rules of imgFp for a box that is cropped; h / w is of sides that are shares of the picture's.
MOST_AREA, MOST_RATIO = 0.85, 4.0
TOLERANCE = 1e-9  # the limits are inclusive, and 0.8 / 0.2 is not exactly 4 in floats


def fits_rules(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes (N, 4) px have an area and a shape that imgFp crops, (N,) bool.

    sizes: (N, 2) width and height of the picture of each, px. Area at most 0.85 of the picture,
    h/w of the normalised sides 1/4 to 4, bounds included; no lower limit of the area.
    """
    width, height = ((boxes[:, 2:] - boxes[:, :2]) / sizes).T  # shares of the picture's sides
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = height / width
    return (
        (width > 0)
        & (height > 0)
        & (width * height <= MOST_AREA + TOLERANCE)
        & (ratio <= MOST_RATIO + TOLERANCE)
        & (ratio >= 1 / MOST_RATIO - TOLERANCE)
    )


def keeps(
    confidence: np.ndarray, boxes: np.ndarray, sizes: np.ndarray, threshold: float
) -> np.ndarray:
    """Which detections are kept at a threshold, (N,) bool: more confident, and `fits_rules`."""
    return (np.asarray(confidence) > threshold) & fits_rules(boxes, sizes)


def read_detections(path: str | Path) -> pd.DataFrame:
    """A table of detections from its CSV: columns `COLUMNS`, the class '' where there is no box.

    Raises `KitError` for a missing file or other columns.
    """
    return _read(path, COLUMNS, "detections, made by detect(images, detector, out, executor)")


def write_detections(table: pd.DataFrame, path: str | Path) -> Path:
    """Write detections as CSV, confidences with 5 digits, bounds with 2; return the path."""
    table = table.assign(confidence=table["confidence"].round(5))
    table = table.assign(**{side: table[side].round(2) for side in BOX})
    with atomic_path(path) as temporary:
        table[COLUMNS].to_csv(temporary, index=False)
    return Path(path)


def operating_points(folder: str | Path) -> dict[str, float]:
    """The two thresholds of a detector folder: {"precise": .., "recall": ..}, confidences 0..1."""
    path = Path(folder) / "metrics.json"
    if not path.is_file():
        raise KitError(f"{folder} is no detector folder: give one made by train_detector")
    return {name: float(value) for name, value in json.loads(path.read_text())["points"].items()}


def read_sizes(detections: str | Path) -> dict[str, tuple[int, int]]:
    """(width, height) px of each picture that a file of detections is about, by id.

    Pictures that could not be read have none; see `read_unreadable`.
    """
    table = _read_images(detections)
    rows = table[table["reason"] == ""]
    return {
        name: (int(width), int(height))
        for name, width, height in zip(rows["image_id"], rows["width"], rows["height"], strict=True)
    }


def read_unreadable(detections: str | Path) -> list[tuple[str, str, str]]:
    """The pictures that a file of detections leaves out: (image_id, file, reason)."""
    table = _read_images(detections)
    return list(table.loc[table["reason"] != "", ["image_id", "file", "reason"]].itertuples(
        index=False, name=None))  # fmt: skip


def images_file(detections: str | Path) -> Path:
    """The CSV beside a file of detections that lists its pictures."""
    path = Path(detections)
    return path.with_name(f"{path.stem}-images.csv")


def write_images(
    images: ImageSet,
    sizes: Mapping[str, tuple[int, int]],
    detections: str | Path,
    reasons: Mapping[str, str] | None = None,
) -> Path:
    """Write the list of pictures that belongs beside a file of detections; return its path.

    sizes: of those that were read. reasons: why the others were not, by id.
    """
    reasons, path = reasons or {}, images_file(detections)
    with atomic_path(path) as temporary:
        rows = [
            (name, *sizes.get(name, ("", "")), images.path(i) or "", reasons.get(name, ""))
            for i, name in enumerate(images.ids)
        ]
        columns = ["image_id", "width", "height", "file", "reason"]
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)
    return path


def _read_images(detections: str | Path) -> pd.DataFrame:
    path = images_file(detections)
    if not path.is_file():
        raise KitError(f"{path} does not exist: keep it beside {Path(detections).name}")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _read(path: str | Path, columns: Sequence[str], what: str) -> pd.DataFrame:
    path = Path(path)
    if not path.is_file():
        raise KitError(f"{path} does not exist: give the CSV of {what}")
    text = {name: str for name in columns if name in ("image_id", "query_id", "class", "point")}
    table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"confidence": [""],
                        **{side: [""] for side in BOX}})  # fmt: skip
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise KitError(f"{path} has no column {', '.join(missing)}: give the CSV of {what}")
    for name in {"image_id", "query_id"} & set(text):
        codes, names = pd.factorize(table[name])
        table[name] = np.array([image_id(name) for name in names], object)[codes]
    return table[list(columns)]


def choose_crops(
    detections: pd.DataFrame,
    threshold: float,
    sizes: Mapping[str, tuple[int, int]],
    most: int = 1,
    point: str = "",
) -> pd.DataFrame:
    """What to crop: the most confident kept overlays of each picture; stickers never are.

    Args:
        detections: table of `read_detections`.
        threshold: confidences above it count.
        sizes: (width, height) of each picture in px, by id, upright; see `read_sizes`.
        most: crops a picture, at most.
        point: name of the threshold, to be written beside each crop ("precise", "recall").

    Returns:
        Columns `CROP_COLUMNS`, bounds int64 (floor of the box's, as imgFp does), in the order of
        the pictures and then by falling confidence. Pictures without a kept box have no row.
    """
    table = detections[detections["class"] == OVERLAY]
    missing = next((name for name in table["image_id"] if name not in sizes), None)
    if missing is not None:
        raise KitError(
            f"picture '{missing}' has detections but no size: give sizes of the same set"
        )
    shape = np.array([sizes[name] for name in table["image_id"]], float).reshape(-1, 2)
    bounds = table[BOX].to_numpy(float).reshape(-1, 4)
    kept = keeps(table["confidence"].to_numpy(float), bounds, shape, threshold)
    corners = np.floor(np.clip(bounds, 0, np.tile(shape, 2))).astype(np.int64)
    kept &= (corners[:, 2:] > corners[:, :2]).all(1)
    crops = pd.DataFrame(corners[kept], columns=BOX)
    crops.insert(0, "query_id", table["image_id"].to_numpy()[kept])
    crops.insert(1, "point", point)
    crops.insert(2, "confidence", table["confidence"].to_numpy(float)[kept])
    place = {name: i for i, name in enumerate(dict.fromkeys(crops["query_id"]))}
    order = np.lexsort((-crops["confidence"], crops["query_id"].map(place)))
    crops = crops.iloc[order].groupby("query_id", sort=False).head(most)
    return crops.reset_index(drop=True)[CROP_COLUMNS]


def write_crops(crops: pd.DataFrame, path: str | Path) -> Path:
    """Write a table of `choose_crops` as CSV and return the path."""
    with atomic_path(path) as temporary:
        crops[CROP_COLUMNS].to_csv(temporary, index=False)
    return Path(path)


def read_crops(path: str | Path) -> pd.DataFrame:
    """A table of crops from its CSV: columns `CROP_COLUMNS`, bounds int64 px."""
    table = _read(path, CROP_COLUMNS, "crops, made by write_crops(choose_crops(...), path)")
    return table.astype({**dict.fromkeys(BOX, np.int64), "confidence": float})


class CroppedImages(ImageSet):
    """Parts of pictures as pictures of their own; cut in memory from the decoded original."""

    def __init__(self, images: ImageSet, ids: Sequence[str], places: Sequence[int], boxes: list):
        super().__init__(ids)
        self.images, self.places, self.boxes = images, list(places), boxes

    def load(self, i: int, min_side: int | None = None) -> Image.Image:
        # `min_side` is not passed on: bounds are px of the whole picture, and crops are small.
        return self.images.load(self.places[i]).crop(self.boxes[i])

    def subset(self, indices: Sequence[int]) -> CroppedImages:
        indices = list(indices)
        ids, places, boxes = (
            [part[i] for i in indices] for part in (self.ids, self.places, self.boxes)
        )
        return CroppedImages(self.images, ids, places, boxes)

    def key(self) -> str:
        return content_key(self.images.key(), self.ids, self.places, self.boxes)


def cropped(images: ImageSet, crops: pd.DataFrame) -> CroppedImages:
    """The crops of a table as a lazy set, in its order, of nothing but the crops.

    Their ids are the query's id, or `<id>_0`, `<id>_1`, .. where a query has several. Raises
    `KitError` for a crop of a picture that is not in the set, and for two crops with one id.
    """
    where = {name: i for i, name in enumerate(images.ids)}
    missing = next((name for name in crops["query_id"] if name not in where), None)
    if missing is not None:
        raise KitError(f"crop of '{missing}', which is not among the images: give their own crops")
    number, count = (
        crops.groupby("query_id").cumcount(),
        crops.groupby("query_id")["query_id"].transform("size"),
    )
    names = [
        name if several == 1 else f"{name}_{n}"
        for name, n, several in zip(crops["query_id"], number, count, strict=True)
    ]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise KitError(f"two crops would be called '{twice}': rename that image")
    boxes = [tuple(int(side) for side in row) for row in crops[BOX].to_numpy()]
    return CroppedImages(images, names, [where[name] for name in crops["query_id"]], boxes)
