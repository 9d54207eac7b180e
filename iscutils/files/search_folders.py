"""Where a search keeps its results: no other search writes there, none overwrites another's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from iscutils.files.artifacts import (
    KitError,
    Run,
    content_key,
    log,
    open_run,
    runs_root,
    write_json,
)
from iscutils.files.locks import locked
from iscutils.files.names import written

RECORD = "search.json"  # what was looked for, and where
LONGEST = 80  # letters of a folder's name that are taken over


@contextmanager
def open_search(
    pictures: Sequence[str], among: str, name: str | None = None
) -> Iterator[tuple[Run, Path]]:
    """The run folder of a search, and the folder with the descriptors of its references.

    Without a `name` the run is called `find-FOLDER`. Another folder of that name, and other
    pictures among the same references, get a run of their own, whose name ends in a key; searches
    among the same references share their descriptors. Both folders are held for this process;
    where another one holds them, this one waits.
    """
    looked_for = {
        "among": _place(among), "pictures": sorted(_place(picture) for picture in pictures)
    }  # fmt: skip
    if name:
        run = open_run(name)
        with _held(run):
            if _record(run).get("pictures", looked_for["pictures"]) != looked_for["pictures"]:
                log.warning("%s: results of an earlier search are replaced", run.path)
            write_json(run.path / RECORD, looked_for)
            yield run, run.path
        return
    library = _library(looked_for["among"])
    with _held(library):
        run = library
        if _record(library).get("pictures", looked_for["pictures"]) != looked_for["pictures"]:
            run = open_run(f"{library.name}-{content_key(looked_for['pictures'])[:6]}")
        write_json(run.path / RECORD, looked_for)
        yield run, library.path


def _library(among: str) -> Run:
    """The first run folder of the references' name that is not another folder's.

    A new one is theirs from now on, however many searches start at once.
    """
    stem = "find-" + written(Path(among).name or "root").replace("\\", "-")[:LONGEST]
    with locked(_made(runs_root()), "another search is being set up: waiting", wait=True):
        for name in (stem, f"{stem}-{content_key(among)[:6]}"):
            run = open_run(name)
            if _record(run).get("among", among) == among:
                if not (run.path / RECORD).exists():
                    write_json(run.path / RECORD, {"among": among})
                return run
    raise KitError(f"{run.path} belongs to another search: give this one a --name")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _held(run: Run):
    text = f"{run.path} is in use by another search: waiting for it to end"
    return locked(run.path, text, wait=True)


def _place(path: str) -> str:
    return written(os.path.normpath(Path(path).expanduser().absolute()))


def _record(run: Run) -> dict:
    try:
        return json.loads((run.path / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
