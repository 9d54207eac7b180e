"""Find the originals of pictures in folders, with a descriptor that comes with the kit.

The descriptor names the nearest references of each picture, points vote among them, and the best
pairs are compared in detail. Nothing is trained, and points are looked for in those references
alone that the descriptor names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.artifacts import KitError, Run
from iscutils.datasets import Benchmark
from iscutils.descriptors.extract import read_skipped
from iscutils.descriptors.sets import (
    BACKGROUND,
    QUERIES,
    REFERENCES,
    ExtractionConfig,
    extract_sets,
)
from iscutils.executor import Executor
from iscutils.images import FileImages, ImageSet, image_files
from iscutils.local import (
    Features,
    LocalConfig,
    extract_features,
    find_candidates,
    local_config,
    pair_drawer,
    read_features,
    score_pairs,
    vote,
)
from iscutils.local.verification import final_rows
from iscutils.models import find_model, load
from iscutils.report import write_report
from iscutils.retrieval import retrieve
from iscutils.submissions import read_predictions, write_predictions

MODEL = "release-256"
WAYS = ("whole", "tiles", "centre", "inverted")  # to ask with a picture, see `retrieve`
SCORE_NORM = "1.0[0,2]"  # by which the scores of several ways compare
SHORTLIST = 200  # references of a picture that its points vote among
LIKELY = 0.5  # scores are probabilities, see `local.verifier`


def open_pictures(places: Sequence[str | Path]) -> FileImages:
    """Files and folders as pictures whose ids are paths, as given; folders with all that is below.

    Raises:
        KitError: a place does not exist, or a folder holds no pictures.
    """
    files: dict[str, str] = {}
    for place in map(str, places):
        path = Path(place).expanduser().absolute()  # from here, not from the project
        if not path.exists():
            raise KitError(f"{path} is neither a picture nor a folder of pictures")
        below = [str(path)] if path.is_file() else image_files(path)
        for file in below:
            files[os.path.normpath(os.path.join(place, os.path.relpath(file, path)))] = file
    names = [os.fsencode(name).decode("utf-8", "replace") for name in files]
    return FileImages(names, files.values())


def find_copies(
    pictures: FileImages,
    references: FileImages,
    run: Run,
    executor: Executor,
    *,
    model: str = MODEL,
    shortlist: int = SHORTLIST,
    rows: int = 10,
    device: str = "auto",
    ways: Sequence[str] = WAYS,
) -> pd.DataFrame:
    """Rank the likely originals of each picture; writes `matches.csv` and `report.html`.

    A file is not compared with itself, so a folder may be searched for copies within it.
    Descriptors stay in the run folder: another search among the same references starts with them,
    and a call that was killed continues. Files that cannot be read are listed in `skipped.csv`.

    Args:
        pictures, references: of `open_pictures`.
        run: folder of the results.
        model: whatever `models.find_model` finds.
        shortlist: references of each picture that its points vote among.
        rows: most references listed for a picture.
        ways: in which the pictures are described, see `parts.WAYS`.

    Returns:
        Rows of `score_pairs`, best first; query_id and reference_id are paths.

    Raises:
        KitError: no such model or way, or a number below 1.
    """
    if min(shortlist, rows) < 1:
        raise KitError(f"shortlist={shortlist}, rows={rows}: give numbers of 1 or more")
    # Descriptor files know pictures by their file names, which folders below folders may repeat.
    numbered = {QUERIES: _numbered(pictures), REFERENCES: _numbered(references)}
    described = run.path / "descriptors"
    near, skipped = nearest(numbered, model, shortlist, described, executor, device, ways)
    near = near[~_same_file(near, numbered)]
    listed = sorted({int(name) for name in near["reference_id"]})
    local = settings_of(shortlist, rows)
    few = numbered | {REFERENCES: numbered[REFERENCES].subset(listed)}
    features = points_of(few, local, run.path / "points", executor)
    parts = run.path / "points" / ".unfinished"
    table = verified(features, near, local, parts, executor)
    shutil.rmtree(parts, ignore_errors=True)
    skipped = {*skipped, *(row for found in features for row in found.skipped)}
    run.record_skipped("find", sorted((file, file, reason) for _, file, reason in skipped))
    named = _named(table, pictures, references)
    write_predictions(run.path / "matches.csv", named, cap=None, extra=True)
    query_numbers = dict(zip(pictures.ids, numbered[QUERIES].ids, strict=True))
    reference_numbers = dict(zip(references.ids, numbered[REFERENCES].ids, strict=True))
    draw = pair_drawer(*features, local)
    write_report(
        run, Benchmark(run.name, pictures, references, FileImages([], []), None), named, {},
        draw_pair=lambda query, found: draw(query_numbers[query], reference_numbers[found]),
        threshold=LIKELY,
    )  # fmt: skip
    return named


def nearest(
    sets: Mapping[str, ImageSet],
    model: str,
    count: int,
    out: str | Path,
    executor: Executor,
    device: str = "auto",
    ways: Sequence[str] = WAYS,
) -> tuple[pd.DataFrame, list[tuple[str, str, str]]]:
    """The nearest references of each query by a model, and (id, file, reason) of bad files.

    sets: "queries" and "references". Similarities are whitened and normalised by the background
    that a model of the kit brings; other models have none. Of the ways to ask the best counts.
    """
    config = ExtractionConfig([], precision="auto", device=device, ways=ways)
    files = extract_sets(sets, {model: find_model(model)}, config, out, executor)
    own = [files.get((model, kind)) for kind in (QUERIES, REFERENCES, BACKGROUND)]
    known = own[2] is not None
    found = retrieve(
        *own, out, name="nearest", rule=f"knn:{count}", ways=ways,
        codec=f"PCAW{load(model).dim},L2norm,Flat" if known else "L2norm,Flat",
        score_norm=SCORE_NORM if known else "",
    )  # fmt: skip
    return read_predictions(found), [row for path in own[:2] for row in read_skipped(path)]


def settings_of(shortlist: int, rows: int) -> LocalConfig:
    """Settings of the local stage behind a shortlist."""
    return local_config(
        rows_per_query=rows, whole_candidates=0, shortlist=shortlist, other_candidates=rows
    )


def points_of(
    sets: Mapping[str, ImageSet], local: LocalConfig, out: str | Path, executor: Executor
) -> list[Features]:
    """Points of queries and references."""
    return [
        read_features(extract_features(sets[kind], Path(out) / f"{kind}.h5", local, executor))
        for kind in (QUERIES, REFERENCES)
    ]


def verified(
    features: Sequence[Features],
    near: pd.DataFrame,
    local: LocalConfig,
    out: str | Path,
    executor: Executor,
) -> pd.DataFrame:
    """The best pairs of shortlists: those the descriptor ranks first, and those points vote for.

    Finished parts are kept in `out`.
    """
    votes = vote(*features, local, folder=Path(out) / "votes", executor=executor, among=near)
    pairs = find_candidates(*features, local, near, votes=votes)
    scored = score_pairs(pairs, *features, local, executor, folder=Path(out) / "pairs")
    return final_rows(scored, local)


def _numbered(images: FileImages) -> FileImages:
    return FileImages([f"{i:08d}" for i in range(len(images))], images.files)


def _named(table: pd.DataFrame, pictures: ImageSet, references: ImageSet) -> pd.DataFrame:
    """Numbers as the paths they stand for."""
    return table.assign(
        query_id=[pictures.ids[int(name)] for name in table["query_id"]],
        reference_id=[references.ids[int(name)] for name in table["reference_id"]],
    )


def _same_file(pairs: pd.DataFrame, sets: Mapping[str, FileImages]) -> np.ndarray:
    """Which pairs are one file, (n,) bool."""
    queries, references = (
        np.array([os.path.realpath(file) for file in sets[kind].files], object)
        for kind in (QUERIES, REFERENCES)
    )
    return queries[pairs["query_id"].astype(int)] == references[pairs["reference_id"].astype(int)]
