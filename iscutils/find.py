"""Find the originals of pictures in folders, with a descriptor that comes with the kit.

The descriptor names the nearest references of each picture, points vote among them, and the best
pairs are compared in detail. Nothing is trained, and points are looked for in those references
alone that the descriptor names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from iscutils.datasets import Benchmark
from iscutils.descriptors.extract import read_skipped
from iscutils.descriptors.sets import (
    BACKGROUND,
    QUERIES,
    REFERENCES,
    ExtractionConfig,
    extract_sets,
)
from iscutils.evaluation.pairs import sort_pairs
from iscutils.evaluation.submissions import read_predictions, write_predictions
from iscutils.files.artifacts import NOTE, KitError, Run, is_note
from iscutils.files.equal import Pair, equal_files, equal_pixels, file_states, linked_pairs
from iscutils.files.executor import Executor
from iscutils.files.images import FileImages, ImageSet, no_images, scan_folder
from iscutils.files.names import unwritten, written
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
from iscutils.local.numbered import alike, framed, name_of, named_in, same_file, without
from iscutils.local.verification import final_rows
from iscutils.models import find_model, load
from iscutils.report.browser import DrawPair
from iscutils.report.findings import (
    EQUAL_FILE,
    EQUAL_PIXELS,
    LIKELY,
    POINTS,
    ROWS,
    Findings,
    cut,
    named,
    ranked,
    said_of_links,
)
from iscutils.report.page import write_report
from iscutils.retrieval import retrieve

MODEL = "release-256"
WAYS = ("whole", "tiles", "centre", "inverted")  # to ask with a picture, see `retrieve`
SCORE_NORM = "1.0[0,2]"  # by which the scores of several ways compare
SHORTLIST = 200  # references of a picture that its points vote among
FRAMES = 3  # of an animation or a file of pages
PAIR = ["query_id", "reference_id"]


class Pictures(FileImages):
    """Pictures of files and folders; `left_out` are (path, reason) of what was not looked at."""

    left_out: Sequence[tuple[str, str]] = ()


def open_pictures(places: Sequence[str | Path]) -> Pictures:
    """Files and folders as pictures whose ids are paths, as given; folders with all that is below.

    Ids are lines of UTF-8 (`names.written`); places may be given in that form, too.

    Raises:
        KitError: a place does not exist, or a folder holds no pictures.
    """
    files: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    for place in map(str, places):
        if not os.path.exists(os.path.expanduser(place)):
            place = unwritten(place)
        path = Path(place).expanduser().absolute()  # from here, not from the project
        if not path.exists():
            raise KitError(f"{path} is neither a picture nor a folder of pictures")
        below, passed = ([str(path)], []) if path.is_file() else scan_folder(path)
        if not below:
            raise no_images(path, passed)
        left_out += passed
        for file in below:
            files[os.path.normpath(os.path.join(place, os.path.relpath(file, path)))] = file
    pictures = Pictures(map(written, files), files.values())
    pictures.left_out = left_out
    return pictures


def find_copies(
    pictures: FileImages,
    references: FileImages,
    run: Run,
    executor: Executor,
    *,
    model: str = MODEL,
    shortlist: int = SHORTLIST,
    rows: int | None = None,
    frames: int = FRAMES,
    device: str = "auto",
    library: str | Path | None = None,
    ways: Sequence[str] = WAYS,
) -> Findings:
    """Rank the likely originals of each picture; writes `matches.csv` and `report.html`.

    Equal files and equal pixels come first, with score 1; what points say is below 1. A file is
    not compared with itself, whatever links lead to it, so a folder may be searched for copies
    within it. Descriptors stay in the library: another search among the same references starts
    with them, and a call that was killed continues. `skipped.csv` lists what was not compared.

    Args:
        pictures, references: of `open_pictures`.
        run: folder of the results.
        model: whatever `models.find_model` finds.
        shortlist: references of each picture that its points vote among.
        rows: most references listed for a picture; None: 10, and all that are likely.
        frames: most frames or pages of a file that are looked at; first, middle and last are 3.
        library: folder of the descriptors (default: the run's).
        ways: in which the pictures are described, see `parts.WAYS`.

    Raises:
        KitError: no such model or way, a number below 1, or no picture that can be read.
    """
    if min(shortlist, frames, ROWS if rows is None else rows) < 1:
        raise KitError(
            f"shortlist={shortlist}, rows={rows}, frames={frames}: give numbers of 1 or more"
        )
    folder = (run.path if library is None else Path(library)) / "descriptors"
    sets, notes = framed({QUERIES: pictures, REFERENCES: references}, frames, executor)
    near, skipped = nearest(sets, model, shortlist, folder, executor, device, ways)
    unread = {file for _, file, reason in skipped if not is_note(reason)}
    states = file_states(pictures.files), file_states(references.files)
    near, same_bytes = near[~same_file(near, *states)], equal_files(*states, shortlist, unread)
    near = without(near, same_bytes)
    local = settings_of(shortlist, rows or ROWS)
    few = sets | {REFERENCES: named_in(sets[REFERENCES], near["reference_id"])}
    features = points_of(few, local, run.path / "points", executor)
    candidates = alike(near, sets.values(), features)
    same_pixels = equal_pixels(candidates, pictures, references, executor)
    near = without(near, same_pixels)
    parts = run.path / "points" / ".unfinished"
    table = verified_while_likely(features, near, local, parts, executor)
    shutil.rmtree(parts, ignore_errors=True)
    table = ranked(table, {EQUAL_FILE: same_bytes, EQUAL_PIXELS: same_pixels})
    table, remarks = cut(table, rows, shortlist)
    links = linked_pairs(*states)
    found = Findings(named(table, pictures.ids, references.ids), remarks + said_of_links(links))
    skipped += [*notes, *(row for one in features for row in one.skipped)]
    _record_skipped(run, pictures, references, skipped, links)
    write_predictions(run.path / "matches.csv", found.pairs, cap=None, extra=True)
    write_report(
        run, Benchmark(run.name, pictures, references, FileImages([], []), None), found.pairs, {},
        draw_pair=_drawer(table, pictures.ids, references.ids, pair_drawer(*features, local)),
        threshold=LIKELY, notes=found.notes,
    )  # fmt: skip
    return found


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
        score_norm=SCORE_NORM if known else "none",
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


def verified_while_likely(
    features: Sequence[Features],
    near: pd.DataFrame,
    local: LocalConfig,
    out: str | Path,
    executor: Executor,
) -> pd.DataFrame:
    """All rows of `verified`, and of further pairs while those of a shortlist stay likely.

    Twice as many are looked at each time: nobody knows how many copies a picture has.
    """
    local = replace(local, rows_per_query=max(1, len(near)))
    table = verified(features, near, local, out, executor)
    near, count = sort_pairs(near), local.other_candidates
    while True:
        first = near.groupby("query_id").head(count)[PAIR].merge(table, "left", PAIR)
        worst = first.fillna({"score": 0}).groupby("query_id")["score"].min()
        open_lists = near[near["query_id"].isin(worst.index[worst >= LIKELY])]
        further = open_lists.groupby("query_id").cumcount().between(count, 2 * count - 1)
        if not further.any():
            return table
        more = open_lists[further][PAIR].merge(table[[*PAIR, "score"]], "left", PAIR)
        more = more.loc[more["score"].isna(), PAIR]
        scored = score_pairs(more, *features, local, executor, folder=Path(out) / "pairs")
        table = pd.concat([table, final_rows(scored, local)], ignore_index=True)
        count *= 2


def _drawer(
    table: pd.DataFrame, queries: Sequence[str], references: Sequence[str], draw: DrawPair
) -> DrawPair:
    """`draw` by the ids of pictures, with the frames that matched; equal ones just overlap."""
    entries = {}
    for row in table.itertuples():
        names = name_of(row.query, row.query_frame), name_of(row.reference, row.reference_frame)
        entries[queries[row.query], references[row.reference]] = names, row.reason == POINTS

    def drawn(query_id: str, reference_id: str) -> Mapping[str, Any]:
        names, by_points = entries[query_id, reference_id]
        return draw(*names) if by_points else {"homography": np.eye(3)}

    return drawn


def _record_skipped(
    run: Run,
    pictures: FileImages,
    references: FileImages,
    rows: Sequence[tuple[str, str, str]],
    links: Sequence[Pair],
) -> None:
    """`skipped.csv`: what was not read, in whole or in part, and links."""
    names = dict(zip(pictures.files, pictures.ids, strict=True))
    names |= dict(zip(references.files, references.ids, strict=True))
    table = {(names[file], file, reason) for _, file, reason in rows}
    for images in (pictures, references):
        left_out = getattr(images, "left_out", ())
        table |= {(written(path), path, reason) for path, reason in left_out}
    pairs = {frozenset((pictures.files[q], references.files[r])) for q, r in links}
    for file, other in map(sorted, pairs):
        reason = f"{NOTE}one file with {names[file]}, by a link, and no copy of it"
        table.add((names[other], other, reason))
    run.record_skipped("find", sorted(table))
