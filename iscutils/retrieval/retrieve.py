"""The retrieval stage as one function over files: descriptors in, ranked candidates out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from iscutils.descriptors.codec import Codec
from iscutils.descriptors.parts import WAYS, check_ways
from iscutils.descriptors.store import Descriptors, read_descriptors, write_submission
from iscutils.evaluation.submissions import write_predictions
from iscutils.files.artifacts import KitError, content_key, log
from iscutils.retrieval.score_norm import normalise
from iscutils.retrieval.search import search


def retrieve(
    queries: str | Path,
    references: str | Path,
    background: str | Path | None,
    out: str | Path,
    *,
    name: str = "candidates",
    codec: str = "L2norm,Flat",
    score_norm: str = "none",
    rule: str | None = None,
    index: str = "Flat",
    whole: bool = False,
    ways: Sequence[str] = (),
) -> Path:
    """Search every query among the references and write the best pairs.

    An image with several rows counts with its best one, after the score normalisation of each.

    Args:
        queries, references, background: descriptor files of one model; whitening and score
            normalisation learn from the background alone. None if neither needs one.
        out: folder; the file is `<name>-<key>.csv`, the key covering descriptors and settings.
        codec: FAISS-like text, e.g. `PCAW128,L2norm,Flat`.
        score_norm: e.g. `1.0[0,2]`, or `none`.
        rule: `knn:10`, `global:6000`; None is global with 10 pairs a query.
        index: FAISS factory text; `Flat` is exact.
        whole: leave out the parts of files that have parts.
        ways: ask with these of the queries' descriptors (`parts.WAYS`) among whole references.

    Returns:
        CSV of query_id, reference_id, score by falling score. Finished work is skipped.
    """
    files = [str(Path(file).name) if file else "" for file in (queries, references, background)]
    settings = [files, codec, score_norm, rule, index] + ["whole"] * whole + [*ways]
    plain = re.sub(r"[^\w.@+-]+", "-", name)  # a model's name may hold blanks and colons
    path = Path(out) / f"{plain}-{content_key(*settings)}.csv"
    if path.exists():
        log.info("%s is there already", path.name)
        return path
    query_set = read_ways(queries, ways) if ways else read_whole(queries, whole)
    reference_set = read_whole(references, whole or bool(ways))
    vectors, base = _coded(query_set, reference_set, background, codec)
    searched = normalise(*vectors, base, score_norm)
    train = None
    if index != "Flat" and base is not None:  # an approximate index learns from such rows
        train = normalise(vectors[0], base.copy(), base, score_norm)[1]
    found = search(*searched, query_set.ids, reference_set.ids, rule, index=index, train=train)
    return write_predictions(path, found, cap=None)


def write_l2_submission(
    queries: str | Path,
    references: str | Path,
    background: str | Path | None,
    out: str | Path,
    *,
    codec: str = "L2norm,Flat",
    score_norm: str = "none",
    counts: tuple[int, int] | None = None,
) -> Path:
    """Write the descriptor track's HDF5 file: an evaluator that only knows L2 gives the same order.

    Stretching and nes change the queries alone or keep the dimension; the subtracting forms have
    no L2 form and are a `KitError`. Parts are left out. `counts` as in `write_submission`.
    """
    files = [str(Path(file).name) if file else "" for file in (queries, references, background)]
    path = Path(out) / f"submission-{content_key(files, codec, score_norm, counts)}.h5"
    if path.exists():
        log.info("%s is there already", path.name)
        return path
    sets = [read_whole(file) for file in (queries, references)]
    vectors, base = _coded(*sets, background, codec)
    vectors = normalise(*vectors, base, score_norm, form="l2")
    parts = [replace(part, vectors=rows) for part, rows in zip(sets, vectors, strict=True)]
    return write_submission(path, *parts, counts=counts)


def read_whole(path: str | Path, whole: bool = True) -> Descriptors:
    """Descriptors of a file without those of image parts; with `whole` False all of them."""
    found = read_descriptors(path)
    return _kept(found, [0]) if whole else found


def read_ways(path: str | Path, ways: Sequence[str]) -> Descriptors:
    """Descriptors of a file's images in the ways of `parts.WAYS` named.

    Raises:
        KitError: a way is unknown, or no image is described in it.
    """
    found = read_descriptors(path)
    there = set(found.columns.get("part", ["0"]))
    for way in check_ways(ways):
        if not there & set(map(str, WAYS[way])):
            raise KitError(
                f"{path} does not describe images in the way '{way}': extract them again with "
                f"ways={list(ways)}"
            )
    return _kept(found, [number for way in ways for number in WAYS[way]])


def _kept(found: Descriptors, numbers: Sequence[int]) -> Descriptors:
    """The rows of parts with these numbers; all rows where there are no parts."""
    if "part" not in found.columns:
        return found
    kept = np.flatnonzero(np.isin(found.columns["part"].astype(str), [str(n) for n in numbers]))
    columns = {name: values[kept] for name, values in found.columns.items()}
    return Descriptors(found.vectors[kept], [found.ids[i] for i in kept], found.attrs, columns)


def _coded(
    queries: Descriptors, references: Descriptors, background: str | Path | None, codec: str
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Vectors of queries and references after the codec, and those of the background."""
    base = read_descriptors(background).vectors if background else None
    fitted = Codec(codec)
    if fitted.learns:
        fitted.fit(base)
    vectors = [fitted.apply(rows.vectors) for rows in (queries, references)]
    return vectors, fitted.apply(base) if base is not None else None
