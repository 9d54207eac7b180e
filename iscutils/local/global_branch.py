"""The nearest references of pictures by a descriptor of the run: branch A, and shortlists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from iscutils.descriptors.extract import extract, extract_parts
from iscutils.descriptors.sets import find_models
from iscutils.evaluation.submissions import read_predictions
from iscutils.files.artifacts import KitError, Run, log
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.retrieval import retrieve


def descriptor_of_run(run: Run) -> tuple[str | Path | None, list[int]]:
    """Model of the descriptor that made the run's candidates, and its input sides in px.

    (None, []) when the run's notebooks 05 and 06 did not say; then branch A has no crops.
    """
    metrics = run.metrics()
    searched = metrics.get("06_retrieval", {})
    name = searched.get("model")
    sizes = searched.get("sizes") or metrics.get("05_extraction", {}).get("sizes")
    if not name or not sizes:
        log.info("the run does not tell which descriptor made its candidates")
        return None, []
    try:
        return find_models(run, [name])[name], list(sizes)
    except KitError as error:
        log.info("branch A has no descriptor: %s", error)
        return None, []


def shortlist_of_run(run: Run, count: int) -> pd.DataFrame | None:
    """The `count` nearest references of each query by descriptor, codec and ways of the run.

    Columns query_id, reference_id, score. None for a count of 0.

    Raises:
        KitError: notebooks 05 and 06 of the run left no descriptors.
    """
    if not count:
        return None
    metrics = run.metrics().get("06_retrieval", {})
    name = metrics.get("model", "")
    files = [run.find(f"descriptors:{name}:{kind}") for kind in ("queries", "references")]
    # Scores of several ways compare after their normalisation alone.
    asked = {key: metrics[key] for key in ("ways", "score_norm") if metrics.get("ways")}
    found = retrieve(
        *files, _background_of(run, name), run.folder("candidates"), name="shortlist",
        codec=metrics.get("codec") or "L2norm,Flat", rule=f"knn:{count}", whole=True, **asked,
    )  # fmt: skip
    return read_predictions(found)


def crop_candidates_of_run(
    run: Run,
    crops: ImageSet,
    executor: Executor,
    *,
    count: int = 1,
    device: str = "auto",
    parts_of: ImageSet | None = None,
) -> pd.DataFrame | None:
    """Nearest references of crops by the descriptor and codec of the run; None without them.

    `parts_of`, the references: their parts are searched too, see `describe_parts`. Other pictures
    than crops, such as whole queries, may be given as well.
    """
    metrics = run.metrics().get("06_retrieval", {})
    name, codec = metrics.get("model", ""), metrics.get("codec") or "L2norm,Flat"
    model, sizes = descriptor_of_run(run)
    if model is None or not run.has(f"descriptors:{name}:references"):
        return None
    known, out = run.find(f"descriptors:{name}:references"), run.folder("descriptors")
    if parts_of is not None:
        known, sizes = describe_parts(parts_of, model, sizes, out, executor, device=device)
    return nearest_references(
        crops, known, model, sizes, out, executor, background=_background_of(run, name),
        codec=codec, count=count, device=device,
    )  # fmt: skip


def _background_of(run: Run, name: str) -> Path | None:
    """Background descriptors of a run's model, if it has any."""
    file = f"descriptors:{name}:background"
    return run.find(file) if run.has(file) else None


def describe_parts(
    references: ImageSet,
    model: str | Path,
    sizes: Sequence[int],
    out: str | Path,
    executor: Executor,
    *,
    device: str = "auto",
) -> tuple[Path, list[int]]:
    """Descriptors of the nineteen parts of each reference (D2LV), and the size they are made at.

    The largest of `sizes`; who searches them describes queries at that size, too.
    """
    size = max(sizes)
    files = extract_parts(
        references, [model], [size], out, executor, parts="reference", name="reference-parts",
        device=device,
    )  # fmt: skip
    return next(iter(files.values())), [size]


def nearest_references(
    images: ImageSet,
    references: str | Path,
    model: str | Path,
    sizes: Sequence[int],
    out: str | Path,
    executor: Executor,
    *,
    background: str | Path | None = None,
    codec: str = "L2norm,Flat",
    count: int = 1,
    name: str = "crops",
    device: str = "auto",
) -> pd.DataFrame:
    """Describe pictures, such as crops, and find their nearest references.

    Args:
        images: the pictures.
        references: descriptor file of the references, by the same model at the same sizes; one of
            several rows a reference counts with its best.
        model: model folder.
        sizes: input sides in px.
        out: folder of the files made on the way, where finished work is found again.
        background: descriptor file that a codec with whitening learns from.
        codec: as in notebook 06; the exact inner product of its vectors counts.
        count: references of each picture; 1 as published by imgFp.

    Returns:
        Columns query_id (of the pictures), reference_id, score (higher = more alike).
    """
    described = extract(images, model, sizes, out, executor, name=name, device=device)
    found = retrieve(
        described, references, background, out, name=name, codec=codec, rule=f"knn:{count}"
    )
    return read_predictions(found)
