"""Probabilities for the scores of imgFp's branches, learnt on edited training photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from iscutils.descriptors.extract import extract
from iscutils.evaluation.submissions import read_ground_truth
from iscutils.files.artifacts import KitError, content_key, file_hash, log, write_json
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet, open_folder
from iscutils.local.branches import PAIR, Crops, propose
from iscutils.local.config import LocalConfig
from iscutils.local.crops import crop_images, crop_queries, open_crops
from iscutils.local.fit import make_training_set
from iscutils.local.global_branch import describe_parts, nearest_references
from iscutils.local.merge import fit_curves
from iscutils.local.store import Features, extract_features, read_features
from iscutils.local.verification import score_pictures
from iscutils.models import model_key

VERSION = 1  # raise when the same photographs give another calibration
PER_QUERY = 4  # photographs used for each query: four of ten become references


def calibrate(
    photos: ImageSet,
    config: LocalConfig,
    out: str | Path,
    executor: Executor,
    *,
    queries: int = 600,
    recipe: str = "isc_queries",
    seed: int = 0,
    model: str | Path | None = None,
    sizes: Sequence[int] = (224,),
    detector: str | Path | None = None,
    device: str = "auto",
) -> Path:
    """Fit score -> probability of a copy for each branch; return the path of a JSON file.

    Queries are synthesised from the photographs, two of three with an original among references
    made of other photographs; they run through the branches, and an isotonic regression tells how
    often a proposal of a score was true. Never give photographs of a benchmark. The probability
    holds for that share of queries with an original: where copies are rarer it is too high, the
    order of pairs stays.

    Args:
        photos: training photographs, 60 or more; of more than four a query an even choice is used.
        config: of mode "imgfp", or with `branches`.
        out: folder; the file is `calibration-<key>.json`, the queries are kept beside it.
        queries: how many are made, at most two for every five photographs.
        model, sizes: folder of the descriptor of branch A, and input sides in px. Without a model
            A shares the curve of all branches.
        detector: folder of the overlay detector of branch C; without it C shares that curve.

    Finished work is skipped, a killed call resumes.
    """
    if len(photos) < 60:
        raise KitError(f"{len(photos)} photographs are too few to calibrate: give 60 or more")
    if len(photos) > PER_QUERY * queries:
        step = len(photos) / (PER_QUERY * queries)
        photos = photos.subset(int(i * step) for i in range(PER_QUERY * queries))
    tools = [model and model_key(model), list(sizes) if model else None]
    tools.append(detector and file_hash(Path(detector) / "model.safetensors"))
    settings = {name: value for name, value in asdict(config).items() if name != "merge"}
    key = content_key(VERSION, photos.key(), settings, queries, recipe, seed, tools)
    path = Path(out) / f"calibration-{key}.json"
    if path.exists():
        log.info("%s is there already", path.name)
        return path
    made = make_training_set(
        photos,
        Path(out) / f"calibration-{key}",
        executor,
        queries=queries,
        recipe=recipe,
        seed=seed,
    )
    images = [open_folder(made / part) for part in ("queries", "references")]
    work = made.parent
    features = [
        read_features(extract_features(part, work / f"points-{i}.h5", config, executor))
        for i, part in enumerate(images)
    ]
    boxed, crops = _crops(images[0], features[0], config, work, executor, detector, device)
    near = _nearest([images[0], boxed], images[1], config, work, executor, model, sizes, device)
    found = propose(*features, config, near[0], crops=crops, crop_candidates=near[1])
    scored = score_pictures(found, *features, crops, config, executor, folder=work / "scores")
    scored = scored.sort_values("score", ascending=False).drop_duplicates(["branch", *PAIR])
    truth = read_ground_truth(made / "ground_truth.csv")
    true = scored[PAIR].merge(truth, how="left", on=PAIR, indicator=True)["_merge"].eq("both")
    curves = fit_curves(scored["branch"], scored["score"].to_numpy(), true.to_numpy())
    log.info("calibrated on %d proposals, %d of them true", len(scored), true.sum())
    return write_json(path, {"queries": queries, "recipe": recipe, "branches": curves})


def _crops(
    images: ImageSet,
    features: Features,
    config: LocalConfig,
    work: Path,
    executor: Executor,
    detector: str | Path | None,
    device: str,
) -> tuple[ImageSet | None, Crops | None]:
    """Crops of the synthesised queries, as pictures and with their points."""
    if detector is None and config.crops == "detector":
        return None, None
    detections = None
    if detector is not None and config.crops != "parts":
        from iscutils.detector.detect import detect  # loads the networks

        detections = detect(images, detector, work, executor, device=device)
    chosen = crop_queries(features, detections, config, work, detector=detector)
    crops = open_crops(images, chosen, config, work / "points-crops.h5", executor)
    return (None, None) if crops is None else (crop_images(images, chosen)[1], crops)


def _nearest(
    pictures: Sequence[ImageSet | None],
    references: ImageSet,
    config: LocalConfig,
    work: Path,
    executor: Executor,
    model: str | Path | None,
    sizes: Sequence[int],
    device: str,
) -> list[pd.DataFrame | None]:
    """Global candidates of each set of pictures, None for a missing set or without a model."""
    if model is None:
        return [None] * len(pictures)
    if config.reference_parts:
        known, sizes = describe_parts(references, model, sizes, work, executor, device=device)
    else:
        known = extract(references, model, sizes, work, executor, name="references", device=device)
    return [
        None if images is None else nearest_references(
            images, known, model, sizes, work, executor, count=config.other_candidates,
            name=name, device=device,
        )
        for images, name in zip(pictures, ("queries", "crops"), strict=True)
    ]  # fmt: skip
