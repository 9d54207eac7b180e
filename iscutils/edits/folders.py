"""The state of a folder that holds a synthesised set: finished, begun, or of another kind."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iscutils.files.artifacts import KitError, atomic_path, log, write_json

STATE = "synthesis.json"
# Sub-folders of each kind of set; what a set of other arguments leaves behind is removed from them.
KINDS = {
    "query set": ("queries", "references", "records"),
    "training set": ("images", "shards", "records"),
    "set of pairs": ("images", "records"),
}
TABLES = (
    "ground_truth.csv",
    "edits.csv",
    "manifest.csv",  # of earlier versions
    "manifest.parquet",
    "unreadable.csv",
    "scales.csv",
    "boxes.csv",
    "pairs.csv",
    "faces.json",
)


def prepare_folder(folder: Path, key: str, kind: str) -> bool:
    """Make the folder ready; True when it already holds the finished set of this key.

    A begun set of the same key is kept, one of another key removed. Raises `KitError` for a folder
    with foreign files and for one that holds a set of another kind.
    """
    foreign = folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir())
    if foreign and not (folder / STATE).exists():
        raise KitError(f"{folder} holds other files: choose an empty folder for the {kind}")
    state = read_state(folder)
    former = state.get("kind", "query set")
    if state and former != kind:
        raise KitError(
            f"{folder} holds a synthesised {former}: choose another folder for the {kind}"
        )
    if state.get("key") == key:
        if state.get("finished"):
            log.info("%s finished before: %s", kind, folder)
            return True
    else:
        if state:
            log.info("%s of other parameters in %s: made anew", kind, folder)
        for name in KINDS[kind]:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in TABLES:
            (folder / name).unlink(missing_ok=True)
    write_json(folder / STATE, {"key": key, "kind": kind, "finished": False})
    return False


def read_state(folder: str | Path) -> dict[str, Any]:
    """What `finish_folder` noted about a set; {} where there is none."""
    file = Path(folder) / STATE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def finish_folder(folder: Path, state: dict[str, Any]) -> None:
    """Mark the set as finished and remove what only a resumed call needs."""
    write_json(folder / STATE, {**read_state(folder), **state, "finished": True})
    shutil.rmtree(folder / "records", ignore_errors=True)
    (folder / "faces.json").unlink(missing_ok=True)
    for name in {name for names in KINDS.values() for name in names}:
        for leftover in (folder / name).glob(".*"):  # temporary folders of a killed call
            shutil.rmtree(leftover, ignore_errors=True)


def write_csv(path: Path, header: tuple[str, ...], rows: Iterable[Iterable]) -> None:
    """Write a CSV atomically, row by row: `rows` may be a generator of millions."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
