"""Fit the verifier on edited copies of training photographs.

The weights in `verifier.py` come from here; `benchmarks/fit_verifier.py` runs it. No benchmark has
a part in it: references, queries and distractors are all made from training photographs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.edits import load_recipe, synthesise_queries
from iscutils.files.artifacts import KitError
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet, open_folder
from iscutils.local.config import LocalConfig
from iscutils.local.evidence import NAMES, pair_evidence
from iscutils.local.store import Features, extract_features, read_features
from iscutils.local.verification import find_candidates

MAPS = 4  # most maps that are measured for a pair
ROUNDS = 5  # of choosing each pair's best map and fitting anew
VOTE_POINTS = 80  # per picture: enough for hard wrong pairs, at a tenth of the time
STRENGTH = 0.3  # inverse of the quadratic penalty on standardised weights (scikit-learn's C)


def fit_verifier(
    photos: ImageSet,
    out: str | Path,
    config: LocalConfig,
    executor: Executor,
    *,
    queries: int = 2000,
    recipe: str = "isc_queries",
    seed: int = 0,
) -> dict[str, float]:
    """Weights of the verifier, {evidence name or "bias": weight of the raw value}.

    Four of ten photos become references, three of ten the sources of queries without an original;
    two of three queries have one. Pairs are the true ones and all candidates; a pair counts with
    its best map. `out` is the folder for everything made on the way (kept, for a second call).
    Raises `KitError` for fewer than 100 photos.
    """
    if len(photos) < 100:
        raise KitError(f"{len(photos)} photos are too few to fit a verifier: give 100 or more")
    folder = make_training_set(photos, out, executor, queries=queries, recipe=recipe, seed=seed)
    quick = replace(config, vote_points=VOTE_POINTS, max_candidates=3)
    values, labels = training_pairs(folder, quick, executor)
    return fit_logistic(values, labels)


def make_training_set(
    photos: ImageSet, out: str | Path, executor: Executor, *, queries: int, recipe: str, seed: int
) -> Path:
    """Folder in ISC layout with edited copies of four tenths of the photos."""
    order = np.random.default_rng(seed).permutation(len(photos)).tolist()
    ends = [len(photos) * 4 // 10, len(photos) * 7 // 10]
    references = photos.subset(sorted(order[: ends[0]]))
    others = photos.subset(sorted(order[ends[0] : ends[1]]))
    positives = min(queries * 2 // 3, len(references))
    negatives = min(queries - positives, len(others))
    return synthesise_queries(
        references, others, load_recipe(recipe), Path(out) / "set", positives=positives,
        negatives=negatives, seed=seed, executor=executor,
    )  # fmt: skip


def training_pairs(
    folder: str | Path, config: LocalConfig, executor: Executor
) -> tuple[np.ndarray, np.ndarray]:
    """Evidence (pairs, maps, values) of candidates in a set of known truth, and labels (pairs,).

    Rows of maps that a pair lacks are NaN.
    """
    folder = Path(folder)
    features = [
        read_features(
            extract_features(
                open_folder(folder / part), folder.parent / f"{part}.h5", config, executor
            )
        )
        for part in ("queries", "references")
    ]
    truth = pd.read_csv(folder / "ground_truth.csv", dtype=str, keep_default_na=False)
    truth = truth[truth["reference_id"] != ""]
    pairs = pd.concat([truth, find_candidates(*features, config)])[["query_id", "reference_id"]]
    pairs = pairs.drop_duplicates().sort_values("query_id", kind="stable")
    known = [one.index() for one in features]
    pairs = pairs[pairs["query_id"].isin(known[0]) & pairs["reference_id"].isin(known[1])]
    labels = pairs.merge(truth, how="left", indicator=True)["_merge"].eq("both").to_numpy()
    rows = np.column_stack(
        [pairs["query_id"].map(known[0]), pairs["reference_id"].map(known[1])]
    ).astype(np.int64)
    chunks = np.array_split(rows, max(1, len(rows) // 32))
    values = list(executor.map(partial(_evidence, *features, config), chunks, desc="evidence"))
    return np.concatenate(values), labels


def _evidence(
    query_features: Features, reference_features: Features, config: LocalConfig, rows: np.ndarray
) -> np.ndarray:
    load_query = lru_cache(maxsize=1)(query_features.load)
    values = np.full((len(rows), MAPS, len(NAMES)), np.nan)
    for i, (q, r) in enumerate(rows.tolist()):
        found = pair_evidence(load_query(q), reference_features.load(r), config)[:MAPS]
        for j, evidence in enumerate(found):
            values[i, j] = evidence.values
    return values


def fit_logistic(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Logistic regression on the best map of each pair, which the regression itself chooses.

    values (pairs, maps, len(NAMES)), NaN rows for missing maps; labels (pairs,) bool. It starts
    from the map of the best pixel agreement and alternates.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    missing = np.isnan(values[..., 0])
    kept = ~missing.all(axis=1)
    values, labels, missing = values[kept], labels[kept], missing[kept]
    mean, spread = values[~missing].mean(axis=0), values[~missing].std(axis=0) + 1e-9
    scaled = np.nan_to_num((values - mean) / spread)
    score = values[..., NAMES.index("mean_0")]
    rows = np.arange(len(values))
    for _ in range(ROUNDS):
        best = np.where(missing, -np.inf, score).argmax(axis=1)
        model = LogisticRegression(C=STRENGTH, max_iter=5000).fit(scaled[rows, best], labels)
        score = scaled @ model.coef_[0] + model.intercept_[0]
    weights = model.coef_[0] / spread
    bias = float(model.intercept_[0] - (weights * mean).sum())
    return {**dict(zip(NAMES, weights.tolist(), strict=True)), "bias": bias}
