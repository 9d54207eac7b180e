"""A benchmark in ISC layout: queries, references, ground truth, and images to learn from."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from iscutils.artifacts import KitError, Run, resolve
from iscutils.datasets.builtin import builtin_images, materialise
from iscutils.evaluation import check_truth
from iscutils.executor import Executor
from iscutils.images import ImageSet, open_folder
from iscutils.submissions import read_ground_truth

BUILTIN = "builtin"
QUERIES, REFERENCES = "queries", "references"
GROUND_TRUTH, EDITS = "ground_truth.csv", "edits.csv"


@dataclass(frozen=True)
class Benchmark:
    """Queries whose originals are to be found among references.

    `background` are training images, the only ones that whitening and score normalisation may learn
    from. `ground_truth` has the columns query_id and reference_id ('' = distractor query), or is
    None. `edits` says how queries were made, query_id -> "crop+text"; it may be empty.
    """

    name: str
    queries: ImageSet
    references: ImageSet
    background: ImageSet
    ground_truth: pd.DataFrame | None
    edits: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Benchmark({self.name}: {len(self.queries)} queries, "
            f"{len(self.references)} references, {len(self.background)} background images)"
        )


def open_images(
    spec: str | Path, *, part: str = "train", limit: int = 0, seed: int = 0
) -> ImageSet:
    """The images of a folder, or of "builtin" (needs no download; see `builtin_images`).

    `part` is one of "train", "reference", "distractor" and counts for "builtin" only. `limit` above
    0 is the number of images: of a folder, an even choice over its sorted ids.
    """
    if str(spec) == BUILTIN:
        return builtin_images(part, limit, seed)
    if limit < 0:
        raise KitError(f"limit={limit}: give 0 (all images) or a positive number")
    images = open_folder(spec)
    if limit == 0 or limit >= len(images):
        return images
    return images.subset(i * len(images) // limit for i in range(limit))


def training_images(
    run: Run, spec: str | Path, executor: Executor, *, limit: int = 0, seed: int = 0
) -> ImageSet:
    """The training photographs of a run, as files: "builtin" ones are drawn once, into the run."""
    images = open_images(spec, part="train", limit=limit, seed=seed)
    return materialise(images, run.path / "images" / "train", executor)


def is_isc_layout(path: str | Path) -> bool:
    """Whether a folder holds the folders `queries` and `references`."""
    folder = resolve(path)
    return (folder / QUERIES).is_dir() and (folder / REFERENCES).is_dir()


def open_benchmark(
    data: str | Path,
    train_images: str | Path | ImageSet = BUILTIN,
    *,
    seed: int = 0,
    limit: int = 0,
    require_truth: bool = True,
) -> Benchmark:
    """A benchmark from a folder in ISC layout and the images that may be learned from.

    The folder holds `references/`, `queries/`, `ground_truth.csv` (header optional) and perhaps
    `edits.csv`. `train_images` is an image set, or goes to `open_images` with `limit` and `seed`.
    Raises `KitError`, naming file and remedy, for a missing or empty folder, for ids that occur
    twice, for a truth that names unknown ids, for background images taken from the benchmark
    itself, and for a missing truth unless `require_truth` is False (then `ground_truth` is None).
    """
    folder = resolve(data)
    _check_layout(data, folder)
    queries, references = open_folder(folder / QUERIES), open_folder(folder / REFERENCES)
    background = train_images
    if not isinstance(background, ImageSet):
        background = open_images(background, part="train", limit=limit, seed=seed)
    _check_background(background, folder)
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
    return Benchmark(folder.name, queries, references, background, truth, edits)


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


def _check_background(background: ImageSet, folder: Path) -> None:
    paths = (background.path(i) for i in range(len(background)))
    parents = {path.parent for path in paths if path is not None}
    for name in (QUERIES, REFERENCES):
        own = (folder / name).resolve()
        for parent in parents:
            if parent.resolve().is_relative_to(own):
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
            query, names = row[0].strip(), row[1].strip()
            if query not in known:
                raise KitError(f"{path}, line {line}: '{query}' is not among the queries")
            if query in edits:
                raise KitError(f"{path}, line {line}: query '{query}' is listed twice")
            edits[query] = names
    return edits
