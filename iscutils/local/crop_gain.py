"""What crops bring: queries with a pasted picture, ranked without and with their crops."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pandas as pd

from iscutils.datasets import Benchmark
from iscutils.evaluation.pairs import sort_pairs
from iscutils.evaluation.submissions import read_predictions
from iscutils.files.artifacts import KitError, Run
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.local.config import LocalConfig
from iscutils.local.crops import crop_images, crop_queries, open_crops
from iscutils.local.global_branch import crop_candidates_of_run
from iscutils.local.store import Features, extract_features, read_features
from iscutils.local.verification import verify

PASTES = frozenset({"paste", "underlay", "collage", "canvas"})  # edits that join two pictures
NEAREST = 10  # references of each picture by the descriptor


def pasted_queries(benchmark: Benchmark) -> list[str]:
    """Ids of the queries whose edits joined two pictures, as far as the benchmark tells them."""
    edits = benchmark.edits
    return [name for name in benchmark.queries.ids if PASTES & {*edits.get(name, "").split("+")}]


def truth_of(benchmark: Benchmark, query_ids: list[str]) -> pd.DataFrame | None:
    """Rows of the ground truth of some queries; None where it holds no true pair of them."""
    truth = benchmark.ground_truth
    if truth is None:
        return None
    truth = truth[truth["query_id"].isin(query_ids)].reset_index(drop=True)
    return truth if (truth["reference_id"] != "").any() else None


def rank_with_crops(
    run: Run,
    benchmark: Benchmark,
    query_ids: list[str],
    detections: str | Path,
    detector: str | Path,
    executor: Executor,
    device: str = "auto",
) -> dict[str, pd.DataFrame]:
    """Ranked pairs of some queries, of whole pictures alone and with their crops.

    Local verification as notebook 07 was last run (else by the kit's own method), without any
    candidates of a descriptor; and the run's descriptor, if notebooks 05 and 06 used one: a pair
    counts with its most similar picture. Both see the crops of the detector's two thresholds.

    Args:
        run: where features, descriptors and crops are found or made.
        query_ids: some of the benchmark's queries, such as those of `pasted_queries`.
        detections: of the queries, made by `detect` with the detector (its folder).

    Returns:
        {"local", "local, with crops" and perhaps "descriptor", "descriptor, with crops": pairs
        query_id, reference_id, score, ..., best first}.
    """
    if not query_ids:
        raise KitError("no queries to rank: give those with a pasted picture")
    config, out = _config_of_run(run), run.folder("features")
    where = {name: i for i, name in enumerate(benchmark.queries.ids)}
    images = benchmark.queries.subset([where[name] for name in query_ids])
    queries = read_features(extract_features(images, out / "pasted.h5", config, executor))
    references = _reference_features(benchmark.references, run, config, executor)
    chosen = crop_queries(queries, detections, config, out, detector=detector)
    crops = open_crops(images, chosen, config, out / "pasted-crops.h5", executor)
    ranked = {}
    for name, part in (("local", None), ("local, with crops", crops)):
        path = out / f"{name.replace(', ', '-').replace(' ', '-')}.csv"
        verify(queries, references, None, config, path, executor, crops=part)
        ranked[name] = read_predictions(path)
    whole = crop_candidates_of_run(run, images, executor, count=NEAREST, device=device)
    if whole is None:
        return ranked
    tables = [whole]
    if crops is not None:
        pieces = crop_images(images, chosen)[1]
        near = crop_candidates_of_run(run, pieces, executor, count=NEAREST, device=device)
        tables.append(near.assign(query_id=near["query_id"].map(crops.owners())))
    both = sort_pairs(pd.concat(tables)).drop_duplicates(["query_id", "reference_id"])
    return {"descriptor": whole, "descriptor, with crops": both, **ranked}


def _config_of_run(run: Run) -> LocalConfig:
    """The settings with which notebook 07 ran; a sum, as nothing is calibrated here."""
    recorded = run.metrics().get("07_local_verification", {}).get("config", {})
    names = {field.name for field in fields(LocalConfig)}
    config = LocalConfig(**{name: recorded[name] for name in names & recorded.keys()})
    return replace(config, merge="sum", crops="detector")


def _reference_features(
    images: ImageSet, run: Run, config: LocalConfig, executor: Executor
) -> Features:
    """Features of the references, in the file of notebook 07, which is only made if need be."""
    path = run.folder("features") / "references.h5"
    return read_features(extract_features(images, path, config, executor))
