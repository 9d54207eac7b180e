"""The manifest of a synthesised set: how each of its pictures was made, as a Parquet file."""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from iscutils.edits.record import Edited
from iscutils.files.artifacts import KitError, atomic_path
from iscutils.files.images import decode

Row = dict[str, Any]
ROWS = 10_000  # of a row group: what is in memory at a time

_TEXT, _REAL, _REALS = pa.string(), pa.float64(), pa.list_(pa.float64())
_BOX = pa.struct([("kind", _TEXT), *((side, _REAL) for side in ("x0", "y0", "x1", "y1"))])
_MADE = [
    ("source_id", _TEXT),
    ("seed", pa.list_(pa.int64())),  # default_rng(seed) drew the operations
    ("operations", _TEXT),  # JSON: [[name, {values}], ..]
    ("donors", pa.list_(_TEXT)),
    ("visible", _REAL),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("homography", _REALS),  # 9 numbers, row by row, source px -> picture px
    ("polygon", _REALS),  # x, y, x, y, .. of what is left of the source, picture px
    ("boxes", pa.list_(_BOX)),  # picture px
]
QUERIES = pa.schema([("query_id", _TEXT), ("reference_id", _TEXT), *_MADE])
PICTURES = pa.schema([("image", _TEXT), ("file", _TEXT), ("copy", pa.int32()), *_MADE])


def describe(edited: Edited, source_id: str, seed: Sequence[int], donors: Sequence[str]) -> Row:
    """The part of a manifest row that is the same for all kinds of sets, JSON-able."""
    return {
        "source_id": source_id,
        "seed": list(seed),
        "operations": [[name, dict(values)] for name, values in edited.operations],
        "donors": list(donors),
        "visible": round(edited.visible, 6),
        "width": edited.image.width,
        "height": edited.image.height,
        "homography": edited.homography.ravel().tolist(),
        "polygon": np.round(edited.polygon, 2).ravel().tolist(),
        "boxes": [
            dict(zip(_BOX.names, (box.kind, *(round(v, 2) for v in box.bounds)), strict=True))
            for box in edited.boxes
        ],
    }


def to_table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table; `operations` become JSON text, because each operation has other values."""
    rows = [{**row, "operations": to_json(row["operations"])} for row in rows]
    return pa.Table.from_pylist(rows, schema)


def to_json(value: Any) -> str:
    """JSON on one line, accents kept."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_manifest(folder: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables one after the other as `manifest.parquet`, some thousand rows at a time."""
    with atomic_path(folder / "manifest.parquet") as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            waiting: list[pa.Table] = []
            for table in tables:
                waiting.append(table.cast(schema))
                if sum(len(part) for part in waiting) >= ROWS:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))


def manifest_file(folder: str | Path) -> Path:
    """The manifest of a set; `KitError` where there is none."""
    path = Path(folder) / "manifest.parquet"
    if not path.is_file():
        raise KitError(
            f"{path} is missing: give the folder of a set made by synthesise or synthesise_queries"
        )
    return path


def read_manifest(
    folder: str | Path, columns: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """How each picture of a synthesised set was made, one row per picture.

    Columns of a query set: query_id, reference_id ('' for negatives); of a training set: image,
    file (in the folder; for shards the tar), copy. Of both: source_id, seed [set's seed, ..],
    operations [[name, values], ..], donors [ids], visible (0..1), width, height (px), homography
    (3, 3) array, source px -> picture px, polygon (N, 2) array and boxes [(kind, x0, y0, x1, y1)],
    picture px. `columns` limits the columns, `names` the rows, which saves memory in large sets.
    """
    path = manifest_file(folder)
    key = pq.read_schema(path).names[0]
    filters = None if names is None else [(key, "in", list(names))]
    known = pq.read_schema(path).names
    for column in columns or ():
        if column not in known:
            raise KitError(f"{path}: no column '{column}'; it has {', '.join(known)}")
    table = pq.read_table(path, columns=columns and list(columns), filters=filters).to_pandas()
    parsers = {
        "seed": np.ndarray.tolist,
        "operations": json.loads,
        "donors": np.ndarray.tolist,
        "homography": lambda values: values.reshape(3, 3),
        "polygon": lambda values: values.reshape(-1, 2),
        "boxes": lambda boxes: [tuple(box[name] for name in _BOX.names) for box in boxes],
    }
    for column in table.columns.intersection(list(parsers)):
        # Object arrays: pandas would stack equal shapes into something else.
        parsed = np.empty(len(table), object)
        parsed[:] = [parsers[column](value) for value in table[column]]
        table[column] = parsed
    return table


def member_name(image: str) -> str:
    """Name of a picture in a shard, without ending.

    WebDataset takes everything after the first dot as the ending, so dots of the name become %2E;
    a slash becomes %2F, so that no folder is made.
    """
    return image.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")


def picture_bytes(folder: str | Path, row: pd.Series) -> bytes:
    """The file of a manifest row, also out of its shard."""
    if "query_id" in row:
        return (Path(folder) / "queries" / f"{row['query_id']}.jpg").read_bytes()
    file = Path(folder) / row["file"]
    if file.suffix != ".tar":
        return file.read_bytes()
    with tarfile.open(file) as tar:
        return tar.extractfile(f"{member_name(row['image'])}.jpg").read()


def iter_pictures(folder: str | Path) -> Iterator[tuple[str, Image.Image]]:
    """(image name, PIL RGB picture) of every picture of a training set, in its order."""
    folder = Path(folder)
    table = read_manifest(folder, columns=["image", "file"])
    for file, group in table.groupby("file", sort=False):
        if not file.endswith(".tar"):
            yield group["image"].iloc[0], decode(folder / file)
            continue
        with tarfile.open(folder / file) as tar:  # read once, from front to back
            pictures = (member for member in tar if member.name.endswith(".jpg"))
            for name, member in zip(group["image"], pictures, strict=True):
                yield name, decode(tar.extractfile(member).read())


def box_rows(image: str, boxes: Iterable[Row], size: tuple[int, int]) -> list[tuple]:
    """Rows (image, class, x0, y0, x1, y1) in whole px, upper bounds exclusive, for a detector.

    Photographs are of class "overlay", all else is a "sticker". A picture without boxes gets one
    row with empty class and bounds.
    """
    rows = []
    for box in boxes:
        x0, y0 = math.floor(box["x0"]), math.floor(box["y0"])
        x1, y1 = min(size[0], math.ceil(box["x1"])), min(size[1], math.ceil(box["y1"]))
        if x1 > x0 and y1 > y0:
            kind = "sticker" if box["kind"] == "sticker" else "overlay"
            rows.append((image, kind, x0, y0, x1, y1))
    return rows or [(image, "", "", "", "", "")]
