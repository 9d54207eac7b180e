"""Fit the verifier on edited copies of training photographs, and on drawn look-alikes.

`verifier.safetensors` comes from here; `benchmarks/fit_verifier.py` runs it. No benchmark has
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
from iscutils.edits.lookalike_sets import FAMILIES, FRAMED, HELD_BACK, draw_lookalikes
from iscutils.files.artifacts import KitError
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet, open_folder
from iscutils.local.branches import PAIR
from iscutils.local.config import LocalConfig
from iscutils.local.evidence import NAMES, pair_evidence
from iscutils.local.store import Features, extract_features, read_features
from iscutils.local.verification import find_candidates
from iscutils.local.verifier import MOST

MAPS = 4  # most maps that are measured for a pair
VOTE_POINTS = 80  # per picture: enough for hard wrong pairs, at a tenth of the time
LOOKALIKES = 0.2  # weight of all look-alikes together, that of the pairs of photographs being 1
HIDDEN = 16  # units
PENALTY = 1e-3  # on the sum of squared weights of standardised values
STEPS = 400


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
) -> dict[str, np.ndarray]:
    """Weights of the verifier, as `verifier.log_odds` names them.

    For each recipe, four of ten photos become references, three of ten the sources of queries
    without an original; two of three queries have one. Pairs are the true ones and all candidates;
    a pair counts with its best map. Besides there are look-alikes of so many `designs` of each
    family that is not held back, three times as many where a photograph fills much of the picture.
    `out` is the folder for everything made on the way (kept, for a second call). Raises `KitError`
    for fewer than 100 photos.
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
    others = [family for family in FAMILIES if family not in (*HELD_BACK, *FRAMED)]
    for name, families, many in (("others", others, designs), ("framed", FRAMED, 3 * designs)):
        folder = draw_lookalikes(
            photos, Path(out) / name / "set", executor, families=families, designs=many, seed=seed
        )
        parts.append(lookalike_pairs(folder, config, executor))
    values, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    drawn = np.arange(len(labels)) >= sum(len(part[1]) for part in parts[: len(recipes)])
    weights = np.where(drawn, LOOKALIKES / drawn.sum(), 1 / (~drawn).sum())
    return fit_network(values, labels, weights, seed)


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


def fit_network(
    values: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Weights of the verifier, as `verifier.log_odds` names them.

    values (pairs, maps, E), NaN rows for missing maps; labels (pairs,) bool; weights (pairs,) of
    the pairs, 1 each if not given. A pair's log odds are those of its best map, which the network
    itself chooses. The cross-entropy and a penalty on the squared weights are minimised with all
    pairs at once.
    """
    import torch  # slow to import, and workers that measure pairs do without it
    from torch.nn.functional import binary_cross_entropy_with_logits

    missing = np.isnan(values[..., 0])
    kept = ~missing.all(axis=1)
    mean, spread = values[~missing].mean(axis=0), values[~missing].std(axis=0) + 1e-9
    scaled = np.clip(np.nan_to_num((values[kept] - mean) / spread), -MOST, MOST)
    x, absent = torch.from_numpy(scaled).float(), torch.from_numpy(missing[kept])
    target = torch.from_numpy(labels[kept]).float()
    share = np.ones(len(labels)) if weights is None else weights
    share = torch.from_numpy(share[kept] / share[kept].sum()).float()
    generator = torch.Generator().manual_seed(seed)
    network = {
        "linear": torch.zeros(x.shape[-1]),
        "hidden": torch.randn(HIDDEN, x.shape[-1], generator=generator) / x.shape[-1] ** 0.5,
        "shift": torch.zeros(HIDDEN),
        "out": torch.randn(HIDDEN, generator=generator) / HIDDEN**0.5,
        "bias": torch.zeros(1),
    }
    for tensor in network.values():
        tensor.requires_grad_(True)
    optimiser = torch.optim.Adam(network.values(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        hidden = torch.tanh(x @ network["hidden"].T + network["shift"])
        odds = x @ network["linear"] + hidden @ network["out"] + network["bias"]
        odds = odds.masked_fill(absent, -torch.inf).amax(dim=1)
        loss = share @ binary_cross_entropy_with_logits(odds, target, reduction="none")
        squares = sum((network[name] ** 2).sum() for name in ("linear", "hidden", "out"))
        optimiser.zero_grad()
        (loss + PENALTY * squares).backward()
        optimiser.step()
        schedule.step()
    fitted = {name: tensor.detach().numpy() for name, tensor in network.items()}
    return {"mean": mean.astype(np.float32), "spread": spread.astype(np.float32), **fitted}
