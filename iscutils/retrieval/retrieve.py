"""The retrieval stage as one function over files: descriptors in, ranked candidates out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from iscutils.artifacts import content_key, log
from iscutils.descriptors.store import Descriptors, read_descriptors, write_submission
from iscutils.retrieval.score_norm import normalise
from iscutils.retrieval.search import search
from iscutils.retrieval.whitening import Codec
from iscutils.submissions import write_predictions


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
) -> Path:
    """Search every query among the references and write the best pairs.

    Args:
        queries, references, background: descriptor files of one model; whitening and score
            normalisation learn from the background alone. None if neither needs one.
        out: folder; the file is `<name>-<key>.csv`, the key covering descriptors and settings.
        codec: FAISS-like text, e.g. `PCAW128,L2norm,Flat`.
        score_norm: e.g. `1.0[0,2]`, or `none`.
        rule: `knn:10`, `global:6000`; None is global with 10 pairs a query.
        index: FAISS factory text; `Flat` is exact.
        whole: leave out the parts of files that have parts; else an image counts with its best.

    Returns:
        CSV of query_id, reference_id, score by falling score. Finished work is skipped.
    """
    files = [str(Path(file).name) if file else "" for file in (queries, references, background)]
    settings = [files, codec, score_norm, rule, index] + ["whole"] * whole
    plain = re.sub(r"[^\w.@+-]+", "-", name)  # a model's name may hold blanks and colons
    path = Path(out) / f"{plain}-{content_key(*settings)}.csv"
    if path.exists():
        log.info("%s is there already", path.name)
        return path
    query_set, reference_set = (read_whole(file, whole) for file in (queries, references))
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
    """Write the descriptor track's HDF5 file: an evaluator that only knows L2 ranks as we do.

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
    if not whole or "part" not in found.columns:
        return found
    kept = np.flatnonzero(found.columns["part"] == "0")
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
