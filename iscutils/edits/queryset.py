"""The folder of a synthesised query set: its state, references, tables and manifest."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from iscutils.artifacts import KitError, atomic_path, log, write_json, write_text
from iscutils.images import ImageSet

QUALITY = 90  # of the JPEG files
JSON_COLUMNS = ("seed", "operations", "donors", "homography", "polygon")
COLUMNS = (
    "query_id",
    "reference_id",
    "source_id",
    "seed",
    "operations",
    "donors",
    "visible",
    "homography",
    "polygon",
)


def prepare_folder(folder: Path, key: str) -> bool:
    """Make the folder ready; True when it already holds the finished set of this key."""
    state_file = folder / "synthesis.json"
    foreign = folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir())
    if foreign and not state_file.exists():
        raise KitError(f"{folder} holds other files: choose an empty folder for the query set")
    state = json.loads(state_file.read_text(encoding="utf-8")) if state_file.exists() else {}
    if state.get("key") == key:
        if state.get("finished"):
            log.info("query set finished before: %s", folder)
            return True
    else:
        if state:
            log.info("query set of other parameters in %s: made anew", folder)
        for name in ("queries", "references", "records"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("ground_truth", "edits", "manifest", "unreadable"):
            (folder / f"{name}.csv").unlink(missing_ok=True)
    write_json(state_file, {"key": key, "finished": False})
    for name in ("queries", "references", "records"):
        (folder / name).mkdir(exist_ok=True)
    return False


def encode_query(image: Image.Image) -> bytes:
    """JPEG bytes of a query picture, quality 90."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def place_reference(images: ImageSet, folder: Path, i: int) -> tuple[str, str, str] | None:
    """Link, copy or draw one reference; a row (image_id, file, reason) if its file is gone."""
    source = images.path(i)
    target = folder / (source.name if source else f"{images.ids[i]}.png")
    if target.exists():
        return None
    if source is None:
        with atomic_path(target) as temporary:
            images.load(i).save(temporary)
        return None
    try:
        os.link(source.resolve(), target)
        return None
    except OSError:  # another disc, or a file system without links
        pass
    if not source.exists():
        return images.ids[i], str(source), "file is gone"
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return None


def finish_folder(folder: Path, state: dict[str, Any], unreadable: Iterable[tuple]) -> None:
    """Write the tables from the records of the queries, then mark the set as finished."""
    _write_tables(folder, unreadable)
    write_json(folder / "synthesis.json", {**state, "finished": True})
    shutil.rmtree(folder / "records")
    for leftover in (folder / "queries").glob(".*"):  # temporary folders of a killed call
        shutil.rmtree(leftover, ignore_errors=True)


def _write_tables(folder: Path, unreadable: Iterable[tuple]) -> None:
    files = sorted((folder / "records").glob("*.json"))
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    truth = [(record["query_id"], record["reference_id"]) for record in records]
    edits = [
        (record["query_id"], "+".join(name for name, _ in record["operations"] if name != "fit"))
        for record in records
    ]
    _write_csv(folder / "edits.csv", ("query_id", "edits"), edits)
    rows = [[_cell(record[column]) for column in COLUMNS] for record in records]
    _write_csv(folder / "manifest.csv", COLUMNS, rows)
    _write_csv(folder / "unreadable.csv", ("image_id", "file", "reason"), sorted(unreadable))
    _write_csv(folder / "ground_truth.csv", ("query_id", "reference_id"), truth)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_manifest(folder: str | Path) -> pd.DataFrame:
    """How each query of a synthesised set was made, one row per query.

    Columns: query_id, reference_id ('' for negatives), source_id, seed [seed, index], operations
    [[name, values], ..], donors [ids], visible (0..1), homography (3, 3) array, source px -> query
    px, polygon (N, 2) array, query px.
    """
    path = Path(folder) / "manifest.csv"
    if not path.is_file():
        raise KitError(f"{path} is missing: only sets made by synthesise_queries have a manifest")
    text = {"query_id": str, "reference_id": str, "source_id": str}
    table = pd.read_csv(path, dtype=text, keep_default_na=False)
    for column in JSON_COLUMNS:
        table[column] = table[column].map(json.loads)
    table["homography"] = table["homography"].map(np.array)
    table["polygon"] = table["polygon"].map(lambda points: np.array(points).reshape(-1, 2))
    return table
