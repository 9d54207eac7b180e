"""Figures of the extraction and retrieval notebooks: similarities, candidates, curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from iscutils.datasets import Benchmark
from iscutils.descriptors.store import read_descriptors
from iscutils.figures import plots
from iscutils.retrieval import Codec

THUMBNAIL = 160  # px


def unrelated_similarities(
    references: str | Path, background: str | Path, most: int = 400
) -> np.ndarray:
    """Similarities of references with background images, which show other things, flattened."""
    first, second = (read_descriptors(file).vectors[:most] for file in (references, background))
    return (first @ second.T).ravel()


def similarity_histograms(values: Mapping[str, np.ndarray], ax: Axes | None = None) -> Axes:
    """Distribution of similarities, one curve a model, with its standard deviation."""
    ax = ax or plt.subplots(figsize=(7, 2.6))[1]
    bins = np.linspace(-1, 1, 101)
    for name, similarity in values.items():
        label = f"{name} (std {similarity.std():.2f})"
        ax.hist(similarity, bins=bins, density=True, histtype="step", lw=1.5, label=label)
    ax.set(xlabel="similarity of unrelated images", ylabel="density")
    ax.legend(fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def candidate_strips(
    benchmark: Benchmark, predictions: pd.DataFrame, rows: int = 4, top: int = 3
) -> None:
    """For evenly chosen queries: the query and its best references with scores and verdicts."""
    queries = pd.unique(predictions.query_id)
    queries = sorted(queries)[:: max(1, len(queries) // rows)][:rows]
    truth = set() if benchmark.ground_truth is None else set(
        zip(benchmark.ground_truth.query_id, benchmark.ground_truth.reference_id, strict=True)
    )  # fmt: skip
    known = benchmark.ground_truth is not None
    _, axes = plt.subplots(len(queries), 1, figsize=(6.5, 1.7 * len(queries)))
    for query, ax in zip(queries, np.atleast_1d(axes), strict=True):
        best = predictions[predictions.query_id == query].head(top)
        plots.retrieval_strip(
            thumbnail(benchmark.queries, query),
            [thumbnail(benchmark.references, name) for name in best.reference_id],
            list(best.score),
            [(query, name) in truth if known else None for name in best.reference_id],
            names=list(best.reference_id),
            query_name=query,
            ax=ax,
        )


def thumbnail(images, image_id: str):
    """An image of a set by id, at most 160 px wide and high."""
    image = images.load(images.ids.index(image_id), min_side=THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def eigenvalues(codec: Codec, ax: Axes | None = None) -> Axes:
    """Share of the background's variance in the first directions of a fitted PCA."""
    ax = ax or plt.subplots(figsize=(6, 2.4))[1]
    if codec.eigenvalues is None:
        ax.text(0.5, 0.5, f"{codec.spec} learns nothing", ha="center", transform=ax.transAxes)
        return ax
    share = np.cumsum(codec.eigenvalues) / codec.eigenvalues.sum()
    needed = int(np.searchsorted(share, 0.9)) + 1
    ax.plot(np.arange(1, len(share) + 1), share)
    ax.axvline(needed, color="tab:gray", ls=":", label=f"90 % in {needed} directions")
    ax.set(xlabel="directions kept", ylabel="share of variance", ylim=(0, 1.02))
    ax.legend(fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def before_and_after(
    before: pd.DataFrame, after: pd.DataFrame, truth: pd.DataFrame | None
) -> np.ndarray | None:
    """Score histograms of two ranked lists side by side; None without a ground truth."""
    if truth is None:
        return None
    _, axes = plt.subplots(1, 2, figsize=(9, 2.8))
    for ax, scores, title in zip(axes, (before, after), ("raw", "normalised"), strict=True):
        plots.score_histogram(scores, truth, ax=ax)
        ax.set_title(title, fontsize=9)
    return axes


def compare_curves(
    stages: Mapping[str, pd.DataFrame], truth: pd.DataFrame, benchmark: Benchmark
) -> Axes:
    """Precision over recall of every stage in one axes."""
    _, ax = plt.subplots(figsize=(7, 3.6))
    pairs = len(benchmark.queries) * len(benchmark.references)
    for name, predictions in stages.items():
        if name != "random":  # drawn as the baseline
            plots.precision_recall(predictions, truth, label=name, pairs=pairs, ax=ax)
    return ax


def uap_by_loop(predictions: pd.DataFrame, truth: pd.DataFrame) -> float:
    """µAP as its definition reads, one pair after the other."""
    true = {(q, r) for q, r in zip(truth.query_id, truth.reference_id, strict=True) if r}
    rows = predictions[["query_id", "reference_id", "score"]].itertuples(index=False, name=None)
    ranked = sorted(((score, (q, r) in true) for q, r, score in rows), key=lambda x: (-x[0], x[1]))
    found, total = 0, 0.0
    for place, (_, right) in enumerate(ranked, start=1):
        found += right
        total += right * found / place
    return total / len(true)
