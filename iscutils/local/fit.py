"""Fit the verifier on edited copies of training photographs, and on drawn look-alikes.

The weights in `verifier.py` come from here; `benchmarks/fit_verifier.py` runs it. No benchmark has
a part in it: references, queries and distractors are all made from training photographs, and pages,
screens and charts are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.edits import load_recipe, synthesise_queries
from iscutils.edits.lookalike_sets import FAMILIES, HELD_BACK, draw_lookalikes
from iscutils.files.artifacts import KitError
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet, open_folder
from iscutils.local.branches import PAIR
from iscutils.local.config import LocalConfig
from iscutils.local.evidence import NAMES, pair_evidence
from iscutils.local.store import Features, extract_features, read_features
from iscutils.local.verification import find_candidates

MAPS = 4  # most maps that are measured for a pair
ROUNDS = 5  # of choosing each pair's best map and fitting anew
VOTE_POINTS = 80  # per picture: enough for hard wrong pairs, at a tenth of the time
LOOKALIKES = 0.3  # weight of all look-alikes together, that of the pairs of photographs being 1
STRENGTH = 0.3  # inverse of the quadratic penalty on standardised weights (scikit-learn's C)


def fit_verifier(
    photos: ImageSet,
    out: str | Path,
    config: LocalConfig,
    executor: Executor,
    *,
    queries: int = 2000,
    recipes: Sequence[str] = ("isc_queries", "training"),
    designs: int = 12,
    seed: int = 0,
) -> dict[str, float]:
    """Weights of the verifier, {evidence name or "bias": weight of the raw value}.

    For each recipe, four of ten photos become references, three of ten the sources of queries
    without an original; two of three queries have one. Pairs are the true ones and all candidates;
    a pair counts with its best map. Besides there are look-alikes of so many `designs` of each
    family that is not held back. `out` is the folder for everything made on the way (kept, for a
    second call). Raises `KitError` for fewer than 100 photos.
    """
    if len(photos) < 100:
        raise KitError(f"{len(photos)} photos are too few to fit a verifier: give 100 or more")
    quick = replace(config, vote_points=VOTE_POINTS, max_candidates=3)
    parts = []
    for recipe in recipes:
        folder = make_training_set(
            photos, Path(out) / recipe, executor, queries=queries // len(recipes), recipe=recipe,
            seed=seed,
        )  # fmt: skip
        parts.append(training_pairs(folder, quick, executor))
    families = [family for family in FAMILIES if family not in HELD_BACK]
    folder = draw_lookalikes(
        photos, Path(out) / "lookalikes" / "set", executor, families=families, designs=designs,
        seed=seed,
    )  # fmt: skip
    parts.append(lookalike_pairs(folder, config, executor))
    values, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    drawn = np.arange(len(labels)) >= len(labels) - len(parts[-1][1])
    weights = np.where(drawn, LOOKALIKES / drawn.sum(), 1 / (~drawn).sum())
    return fit_logistic(values, labels, weights * len(weights) / weights.sum())


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
        _features(folder / part, folder.parent / f"{part}.h5", config, executor)
        for part in ("queries", "references")
    ]
    truth = pd.read_csv(folder / "ground_truth.csv", dtype=str, keep_default_na=False)
    truth = truth[truth["reference_id"] != ""]
    pairs = pd.concat([truth, find_candidates(*features, config)])[PAIR].drop_duplicates()
    pairs = pairs.merge(truth, how="left", indicator=True)
    pairs = pairs.assign(copy=pairs.pop("_merge").eq("both"))
    return _values(pairs, *features, config, executor)


def lookalike_pairs(
    folder: str | Path, config: LocalConfig, executor: Executor
) -> tuple[np.ndarray, np.ndarray]:
    """As `training_pairs`, of a folder of `draw_lookalikes`.

    Wrong are all pairs within a design, and each copy with another picture of its design.
    """
    folder = Path(folder)
    features = _features(folder, folder.parent / f"{folder.name}.h5", config, executor)
    truth = pd.read_csv(folder / "true.csv", dtype=str).map(lambda name: Path(name).stem)
    copies, rows = truth.groupby("reference")["query"].apply(list), []
    for design in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = [] if design.name == "true" else sorted(file.stem for file in design.iterdir())
        rows += [(query, reference, False) for query, reference in combinations(names, 2)]
        for i, name in enumerate(names):
            for k, query in enumerate(copies.get(name, [])):
                other = names[(i + 1 + k % (len(names) - 1)) % len(names)]
                rows += [(query, name, True), (query, other, False)]
    pairs = pd.DataFrame(rows, columns=[*PAIR, "copy"])
    return _values(pairs, features, features, config, executor)


def _features(folder: Path, out: Path, config: LocalConfig, executor: Executor) -> Features:
    return read_features(extract_features(open_folder(folder), out, config, executor))


def _values(
    pairs: pd.DataFrame, queries: Features, references: Features, config: LocalConfig,
    executor: Executor,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Evidence (pairs, maps, values) and labels (pairs,) of rows query_id, reference_id, copy."""
    pairs = pairs.sort_values("query_id", kind="stable")
    sides = zip(PAIR, (queries, references), strict=True)
    rows = pd.DataFrame({name: pairs[name].map(side.index()) for name, side in sides})
    known = rows.notna().all(axis=1)
    rows, labels = rows[known].to_numpy(np.int64), pairs["copy"][known].to_numpy(bool)
    chunks = np.array_split(rows, max(1, len(rows) // 32))
    job = partial(_evidence, queries, references, config)
    return np.concatenate(list(executor.map(job, chunks, desc="evidence"))), labels


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


def fit_logistic(
    values: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float]:
    """Logistic regression on the best map of each pair, which the regression itself chooses.

    values (pairs, maps, len(NAMES)), NaN rows for missing maps; labels (pairs,) bool; weights
    (pairs,) of the pairs, 1 each if not given. It starts from the map of the best pixel agreement
    and alternates.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    missing = np.isnan(values[..., 0])
    kept = ~missing.all(axis=1)
    values, labels, missing = values[kept], labels[kept], missing[kept]
    weights = None if weights is None else weights[kept]
    mean, spread = values[~missing].mean(axis=0), values[~missing].std(axis=0) + 1e-9
    scaled = np.nan_to_num((values - mean) / spread)
    score = values[..., NAMES.index("mean_0")]
    rows = np.arange(len(values))
    for _ in range(ROUNDS):
        best = np.where(missing, -np.inf, score).argmax(axis=1)
        model = LogisticRegression(C=STRENGTH, max_iter=5000)
        model.fit(scaled[rows, best], labels, sample_weight=weights)
        score = scaled @ model.coef_[0] + model.intercept_[0]
    raw = model.coef_[0] / spread
    bias = float(model.intercept_[0] - (raw * mean).sum())
    return {**dict(zip(NAMES, raw.tolist(), strict=True)), "bias": bias}
