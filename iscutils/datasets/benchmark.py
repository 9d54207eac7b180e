"""Benchmarks, in ISC layout or official: queries, references, truth, and images to learn from."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from iscutils.datasets import copydays, disc21, layouts, ndec
from iscutils.datasets.builtin import builtin_images
from iscutils.datasets.layouts import Found, Spec
from iscutils.evaluation.metrics import check_truth
from iscutils.evaluation.submissions import read_ground_truth
from iscutils.files.artifacts import KitError, content_key, file_hash, log, resolve, write_json
from iscutils.files.ids import image_id
from iscutils.files.images import ImageSet, open_folder

BUILTIN = "builtin"
QUERIES, REFERENCES = "queries", "references"
GROUND_TRUTH, EDITS = "ground_truth.csv", "edits.csv"
READERS = {"disc21": disc21, "ndec": ndec, "copydays": copydays}


@dataclass(frozen=True)
class Benchmark:
    """Queries whose originals are to be found among references.

    `background` are training images, the only ones that whitening and score normalisation may learn
    from. `ground_truth` has the columns query_id and reference_id ('' = distractor query; a query
    may have several references, a row each), or is None. `edits` says how queries were made,
    query_id -> "crop+text"; it may be empty. `notes` are values for a table of results (split,
    counts, hash of the truth, ...); `missing` are ids that the truth of an official data set names
    and that have no image (their rows are left out).
    """

    name: str
    queries: ImageSet
    references: ImageSet
    background: ImageSet
    ground_truth: pd.DataFrame | None
    edits: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Benchmark({self.name}: {len(self.queries)} queries, "
            f"{len(self.references)} references, {len(self.background)} background images)"
        )


def open_images(
    spec: str | Path, *, part: str = "train", limit: int = 0, seed: int = 0
) -> ImageSet:
    """The images of a folder, or of "builtin" (needs no download; see `builtin_images`).

    `disc21:DIR`, `ndec:DIR` and `copydays:DIR` mean the training images of these data sets. `part`
    is one of "train", "reference", "distractor" and counts for "builtin" only. `limit` above 0 is
    the number of images: of a folder, an even choice over its sorted ids.
    """
    if str(spec) == BUILTIN:
        return builtin_images(part, limit, seed)
    if limit < 0:
        raise KitError(f"limit={limit}: give 0 (all images) or a positive number")
    official = layouts.parse_spec(spec)
    images = READERS[official.kind].training(official) if official else open_folder(spec)
    if limit == 0 or limit >= len(images):
        return images
    return images.subset(i * len(images) // limit for i in range(limit))


def is_isc_layout(path: str | Path) -> bool:
    """Whether a folder holds the folders `queries` and `references`."""
    folder = resolve(path)
    return (folder / QUERIES).is_dir() and (folder / REFERENCES).is_dir()


def check_data(data: str | Path, *, train: bool = False) -> None:
    """Raise `KitError` for a data parameter that cannot be opened, now, not in the middle of a run.

    The folders of an official data set are looked for, their images not; with `train` its training
    images are what is meant.
    """
    spec = layouts.parse_spec(data)
    if spec is not None:
        places = READERS[spec.kind].find(spec)
        places = places[1] if isinstance(places, tuple) else places
        if train and not places["training"]:
            raise KitError(f"{spec}: no training images in {spec.folder}; give others")
    elif str(data) != BUILTIN and not resolve(data).exists():
        raise KitError(f"no folder {resolve(data)}; give an existing folder or 'builtin'")


def data_paths(data: str) -> list[Path]:
    """Folders and files that a data parameter names, none for `builtin`."""
    spec = layouts.parse_spec(data)
    return spec.paths() if spec else [] if data == BUILTIN else [resolve(data)]


def is_benchmark(data: str | Path) -> bool:
    """Whether queries and references are there: ISC layout, an official set, or a file of one."""
    if _is_file(data):
        return True
    return layouts.parse_spec(data) is not None or is_isc_layout(data)


def benchmark_file(data: str | Path, out: str | Path) -> Path:
    """What a run publishes as its benchmark: the folder in ISC layout, or a small file in `out`.

    The file `benchmark-<key>.json` says which official data set is meant; `open_benchmark` takes it
    like a folder, so that later notebooks see no difference.
    """
    spec = layouts.parse_spec(data)
    if spec is None:
        return resolve(data)
    path = Path(out) / f"benchmark-{content_key(str(spec))}.json"
    return path if path.exists() else write_json(path, {"data": str(spec)})


def _is_file(data: str | Path) -> bool:
    return str(data).endswith(".json") and resolve(data).is_file()


def open_benchmark(
    data: str | Path,
    train_images: str | Path | ImageSet = BUILTIN,
    *,
    seed: int = 0,
    limit: int = 0,
    require_truth: bool = True,
) -> Benchmark:
    """A benchmark from a folder in ISC layout and the images that may be learned from.

    `data` may also be an official data set (or a file of `benchmark_file`): `disc21:DIR`, with
    `?split=dev`, dev1, dev2, test or subset_1; `ndec:DIR`, with `?references=DIR` of DISC21;
    `copydays:DIR`, with `?distractors=DIR`. What was found is logged, `notes` has it for the
    results. The folder in ISC layout holds `references/`, `queries/`, `ground_truth.csv` (header
    optional) and perhaps `edits.csv`. `train_images` is an image set, or goes to `open_images` with
    `limit` and `seed`.

    Raises `KitError`, naming file and remedy, for a missing or empty folder, for ids that occur
    twice, for a truth that names unknown ids, for background images taken from the benchmark
    itself, and for a missing truth unless `require_truth` is False (then `ground_truth` is None).
    """
    if _is_file(data):
        data = _read_file(resolve(data))
    background = train_images
    spec = layouts.parse_spec(data)
    if spec is not None:
        found = layouts.announce(READERS[spec.kind].read(spec))
        if str(background) == BUILTIN and found.places.get("training"):
            log.warning("%s has training images: set train_images=%s to use them", *_named(spec))
    if not isinstance(background, ImageSet):
        background = open_images(background, part="train", limit=limit, seed=seed)
    if spec is not None:
        return _official(spec, found, background, require_truth)
    folder = resolve(data)
    _check_layout(data, folder)
    queries, references = (open_folder(folder / n, by_name=True) for n in (QUERIES, REFERENCES))
    _check_background(background, {name: [folder / name] for name in (QUERIES, REFERENCES)})
    truth_file, truth = folder / GROUND_TRUTH, None
    if truth_file.is_file():
        truth = read_ground_truth(truth_file)
        check_truth(truth, queries.ids, references.ids)
    elif require_truth:
        raise KitError(
            f"{truth_file} is missing: the metric needs a CSV with query_id,reference_id "
            "(empty reference = distractor); search alone works without it (require_truth=False)"
        )
    edits = read_edits(folder / EDITS, queries.ids) if (folder / EDITS).is_file() else {}
    notes = {
        "data": folder.name,
        "split": "all",
        "queries": len(queries),
        "references": len(references),
        "positives": layouts.count_positives(truth),
        "truth": {GROUND_TRUTH: file_hash(truth_file)} if truth is not None else {},
    }
    return Benchmark(folder.name, queries, references, background, truth, edits, notes)


def _check_layout(data: str | Path, folder: Path) -> None:
    remedy = f"expected a folder with {REFERENCES}/, {QUERIES}/ and {GROUND_TRUTH}"
    if str(data) == BUILTIN:
        raise KitError(f"'{BUILTIN}' has no queries yet: make them with notebook 02; {remedy}")
    if not folder.is_dir():
        raise KitError(f"benchmark folder {folder} does not exist: {remedy}")
    missing = [name for name in (REFERENCES, QUERIES) if not (folder / name).is_dir()]
    if len(missing) == 2:
        raise KitError(
            f"{folder} is no benchmark: {remedy}; from a folder of photos, notebook 02 makes one"
        )
    if missing:
        raise KitError(f"{folder} has no folder {missing[0]}/: {remedy}")


def _named(spec: Spec) -> tuple[str, str]:
    return spec.kind, f"{spec.kind}:{spec.folder}"


def _read_file(path: Path) -> str:
    """The official data set that a file of `benchmark_file` names."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"{path} names no benchmark: run notebook 02 again") from error
    if layouts.parse_spec(data) is None:
        raise KitError(f"{path} names '{data}', no official data set: run notebook 02 again")
    return data


def _official(spec: Spec, found: Found, background: ImageSet, require_truth: bool) -> Benchmark:
    """The benchmark of what a reader found."""
    _check_background(background, {name: found.places[name] for name in (QUERIES, REFERENCES)})
    if found.ground_truth is None and require_truth:
        raise KitError(
            f"{spec}: no ground truth for the images at hand; put its CSV into {spec.folder}, or "
            "name it with ?truth=FILE; search alone works without it (require_truth=False)"
        )
    return Benchmark(
        name=found.name,
        queries=found.queries,
        references=found.references,
        background=background,
        ground_truth=found.ground_truth,
        notes=found.notes,
        missing=found.missing,
    )


def _check_background(background: ImageSet, places: Mapping[str, Sequence[Path]]) -> None:
    """Raise `KitError` for training images from the folders or archives of the benchmark."""
    files = getattr(background, "files", [])
    members = getattr(background, "members", [""] * len(files))
    origins = {f if m else os.path.dirname(f) for f, m in zip(files, members, strict=True)}
    origins = [Path(origin).resolve() for origin in origins]
    for name, own_places in places.items():
        for own in (place.resolve() for place in own_places):
            if any(origin.is_relative_to(own) for origin in origins):
                raise KitError(
                    f"training images lie in {own}: learning from the {name} of a benchmark makes "
                    "its numbers worthless; give other images, or 'builtin'"
                )


def read_edits(path: str | Path, query_ids: list[str]) -> dict[str, str]:
    """Read `query_id,edits` (header optional, LF or CRLF), such as `Q00001,crop+text`.

    Raises `KitError` naming the line for a wrong number of fields and for an unknown or repeated
    query.
    """
    known, edits = set(query_ids), {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        for line, row in enumerate(csv.reader(file), 1):
            if not row or (line == 1 and row[0].strip().lower() == "query_id"):
                continue
            if len(row) != 2:
                raise KitError(f"{path}, line {line}: expected query_id,edits but got {row}")
            query, names = image_id(row[0]), row[1].strip()
            if query not in known:
                raise KitError(f"{path}, line {line}: {query!r} is not among the queries")
            if query in edits:
                raise KitError(f"{path}, line {line}: query '{query}' is listed twice")
            edits[query] = names
    return edits
