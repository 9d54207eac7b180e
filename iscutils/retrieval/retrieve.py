"""The retrieval stage as one function over files: descriptors in, ranked candidates out."""

from __future__ import annotations

from pathlib import Path

from iscutils.artifacts import content_key, log
from iscutils.descriptors.store import read_descriptors
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

    Returns:
        CSV of query_id, reference_id, score by falling score. Finished work is skipped.
    """
    files = [str(Path(file).name) if file else "" for file in (queries, references, background)]
    path = Path(out) / f"{name}-{content_key(files, codec, score_norm, rule, index)}.csv"
    if path.exists():
        log.info("%s is there already", path.name)
        return path
    query_set, reference_set = read_descriptors(queries), read_descriptors(references)
    base = read_descriptors(background).vectors if background else None
    fitted = Codec(codec)
    if fitted.learns:
        fitted.fit(base)
    vectors = [fitted.apply(rows.vectors) for rows in (query_set, reference_set)]
    base = fitted.apply(base) if base is not None else None
    searched = normalise(*vectors, base, score_norm)
    train = None
    if index != "Flat" and base is not None:  # an approximate index learns from such rows
        train = normalise(vectors[0], base.copy(), base, score_norm)[1]
    found = search(*searched, query_set.ids, reference_set.ids, rule, index=index, train=train)
    return write_predictions(path, found, cap=None)
