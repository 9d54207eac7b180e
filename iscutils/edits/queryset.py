"""The tables and references in the folder of a synthesised query set."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from iscutils.edits.folders import write_csv
from iscutils.edits.making import encode_jpeg
from iscutils.edits.manifest import QUERIES, to_table, write_manifest
from iscutils.files.artifacts import atomic_path
from iscutils.files.ids import file_name_of, picture_ending
from iscutils.files.images import ImageSet

QUALITY = 90  # of the JPEG files


def encode_query(image: Image.Image) -> bytes:
    """JPEG bytes of a query picture, quality 90."""
    return encode_jpeg(image, QUALITY)


def place_reference(images: ImageSet, folder: Path, i: int) -> tuple[str, str, str] | None:
    """Link, copy or draw one reference; a row (image_id, file, reason) if its file is gone."""
    source = images.path(i)
    # Named by its id: files of several folders may have one name.
    target = folder / (file_name_of(images.ids[i]) + (picture_ending(source) if source else ".png"))
    if target.exists():
        return None
    if source is None:
        with atomic_path(target) as temporary:
            images.load(i).save(temporary)
        return None
    if not source.exists():
        return images.ids[i], str(source), "file is gone"
    link_or_copy(source, target)
    return None


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system has them, else a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disc, or a file system without links
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def write_tables(folder: Path, unreadable: Iterable[tuple]) -> None:
    """Write the tables of a query set from the records of its queries."""
    files = sorted((folder / "records").glob("*.json"))
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    truth = [(record["query_id"], record["reference_id"]) for record in records]
    edits = [
        (record["query_id"], "+".join(name for name, _ in record["operations"] if name != "fit"))
        for record in records
    ]
    write_csv(folder / "edits.csv", ("query_id", "edits"), edits)
    write_manifest(folder, QUERIES, [to_table(records, QUERIES)])
    write_csv(folder / "unreadable.csv", ("image_id", "file", "reason"), sorted(unreadable))
    write_csv(folder / "ground_truth.csv", ("query_id", "reference_id"), truth)
