"""Figures of the training notebooks: views, similarities before and after, curves."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from iscutils.edits.tensor import TensorEdits
from iscutils.figures import plots
from iscutils.losses import BarlowTwins
from iscutils.models import Descriptor
from iscutils.training import Pixels, TrainConfig, to_views
from iscutils.training.barlow import Barlow
from iscutils.training.momentum2 import Momentum2
from iscutils.training.probe import Probe, fitting

# What methods log of their losses, as far as a figure shows it.
LOSS_PARTS = ("info_nce", "koleo", "classes", "compact", "triplet", "norm", "negative")


def _batch(pixels: Pixels, count: int) -> torch.Tensor:
    return to_views(pixels.__getitems__(list(range(min(count, len(pixels)))))[0])


def _views(pixels: Pixels, config: TrainConfig, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second views of the first images at full training strength, (count, 3, S, S)."""
    images, generator = _batch(pixels, count), torch.Generator().manual_seed(config.seed)
    mild = "original" if config.mild_first else "group"
    first = TensorEdits(config.recipe, config.size, mild)
    second = TensorEdits(config.recipe, config.size)
    return first(images, generator, config.strength), second(images, generator, config.strength)


def to_image(view: torch.Tensor) -> np.ndarray:
    """A view (3, H, W) in [0, 1] as HWC uint8 RGB."""
    return (view.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def two_views(pixels: Pixels, config: TrainConfig, count: int = 10) -> Axes:
    """First views of some images above their second views, as training draws them."""
    first, second = _views(pixels, config, count)
    images = [to_image(view) for view in (*first, *second)]
    return plots.image_grid(images, columns=count, size=0.9)


@torch.inference_mode()
def cross_correlation(
    method: Barlow | Momentum2, pixels: Pixels, count: int = 256, values: int = 48
) -> float:
    """Draw the first values of the cross-correlation matrix; return the mean of its diagonal."""
    method.eval()
    first, second = _views(pixels, method.config, count)
    matrix = BarlowTwins.correlation(method.embed(first), method.embed(second))
    part = matrix[:values, :values].cpu().numpy()
    _, ax = plt.subplots(figsize=(3.4, 3))
    plots.similarity_matrix(part, limits=(-1, 1), ax=ax)
    agreement = float(matrix.diagonal().mean())
    ax.set(xlabel="value of the second view", ylabel="value of the first view")
    ax.set_title(f"cross-correlation, mean diagonal {agreement:.2f}", fontsize=9)
    return agreement


@torch.inference_mode()
def view_similarities(
    model: Descriptor, pixels: Pixels, config: TrainConfig, count: int = 12
) -> Axes:
    """Similarities of first views (rows) with second views (columns) of the same images."""
    model.eval()
    first, second = _views(pixels, config, count)
    similarity = (model(first) @ model(second).T).cpu().numpy()
    _, ax = plt.subplots(figsize=(4, 3.2))
    plots.similarity_matrix(similarity, limits=(0, 1), ax=ax)
    off = similarity[~np.eye(len(similarity), dtype=bool)]
    ax.set(xlabel="edited copy", ylabel="original")
    ax.set_title(f"copies {np.diag(similarity).mean():.2f}, others {off.mean():.2f}", fontsize=9)
    return ax


@torch.inference_mode()
def _photo_similarity(model: Descriptor, pixels: Pixels, count: int) -> np.ndarray:
    rows = model.eval()(fitting(_batch(pixels, count), model))
    return (rows @ rows.T).cpu().numpy()


def photo_similarities(model: Descriptor, pixels: Pixels, count: int = 12) -> Axes:
    """Similarities of some photographs with each other, beside the photographs themselves."""
    _, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=(1.2, 1))
    images = [to_image(image) for image in _batch(pixels, count)]
    plots.image_grid(images, [str(i) for i in range(count)], columns=4, ax=left)
    return plots.similarity_matrix(_photo_similarity(model, pixels, count), ax=right)


def compare_similarities(
    teacher: Descriptor, student: Descriptor, pixels: Pixels, count: int = 12
) -> np.ndarray:
    """Similarities in the eyes of teacher and student, and their difference; returns the axes."""
    first, second = (_photo_similarity(model, pixels, count) for model in (teacher, student))
    _, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    off = ~np.eye(count, dtype=bool)
    agreement = np.corrcoef(first[off], second[off])[0, 1]
    shown = ((first, "teacher"), (second, "student"), (second - first, "student - teacher"))
    for ax, (values, title) in zip(axes, shown, strict=True):
        plots.similarity_matrix(values, limits=(-1, 1), ax=ax)
        ax.set_title(title, fontsize=9)
    axes[1].set_title(f"student (correlation {agreement:.2f})", fontsize=9)
    return axes


def training_curves(history: pd.DataFrame, probes: pd.DataFrame, random_uap: float) -> np.ndarray:
    """Losses, of training and on held-out images, beside the µAP of the probe; the two axes."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    for part in [name for name in LOSS_PARTS if name in history]:
        shown = history[["step", part]].rename(columns={part: "loss"})
        plots.loss_curve(shown, label=part, ax=left)
    left.plot(probes.step, probes.loss, "o-", color="tab:green", ms=3, label="held-out info_nce")
    left.set_title("")
    left.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    _probe_curve(probes, "network", right)
    _minutes_axis(probes, right)
    right.axhline(probes.uap.iloc[0], color="tab:gray", ls=":", lw=1, label="before training")
    right.axhline(random_uap, color="tab:red", ls=":", lw=1, label="random order")
    right.legend(fontsize=8)
    plt.gcf().tight_layout()
    return np.array([left, right])


def distillation_curves(
    history: pd.DataFrame, curves: Mapping[str, pd.DataFrame], teacher_uap: float
) -> np.ndarray:
    """Relational loss over the steps beside the probe of every student; returns the two axes."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    shown = history[["step", "relation"]].rename(columns={"relation": "loss"})
    plots.loss_curve(shown, label="relational loss", ax=left)
    left.legend(fontsize=8)
    for label, probes in curves.items():
        _probe_curve(probes, label, right)
    right.axhline(teacher_uap, color="tab:gray", ls=":", lw=1, label="teacher")
    highest = max(teacher_uap, *(probes.uap.max() for probes in curves.values()))
    right.set_ylim(0, 1.1 * highest)
    right.legend(fontsize=8)
    plt.gcf().tight_layout()
    return np.array([left, right])


def queue_filling(history: pd.DataFrame) -> Axes | None:
    """How the queue fills in the first steps, and the relational loss meanwhile.

    Shows four times as many steps as the queue needs. Without a column `queue_filled` (no teacher,
    no queue) there is nothing to show: None.
    """
    if "queue_filled" not in history or "relation" not in history:
        return None
    full = int((history["queue_filled"] < 1).sum()) + 1
    first = history.head(max(8, 4 * full))
    _, ax = plt.subplots(figsize=(6, 2.6))
    ax.fill_between(first.step + 1, 100 * first.queue_filled, step="mid", color="0.85")
    ax.set(xlabel="step", ylabel="queue filled (%, gray)", ylim=(0, 105), xlim=(1, len(first)))
    loss = ax.twinx()
    loss.plot(first.step + 1, first.relation, color="C0", marker=".")
    loss.set(ylabel="relational loss", ylim=(0, None))
    for spines in (ax.spines, loss.spines):
        spines["top"].set_visible(False)
    return ax


def _probe_curve(probes: pd.DataFrame, label: str, ax: Axes) -> None:
    ax.plot(probes.step, probes.uap, marker="o", ms=3, label=label)
    ax.set(xlabel="step", ylabel="µAP on held-out images")
    ax.set_ylim(bottom=0)
    ax.spines[["top", "right"]].set_visible(False)


def _minutes_axis(probes: pd.DataFrame, ax: Axes) -> None:
    """A second axis on top: minutes since the start, probing included."""
    if "minutes" not in probes or not probes.minutes.iloc[-1] > 0:
        return
    minutes, step = probes.minutes.to_numpy(), probes.step.to_numpy()
    keep = np.r_[True, np.diff(minutes) > 0] & np.r_[True, np.diff(step) > 0]
    minutes, step = minutes[keep], step[keep]
    if len(step) < 2:
        return
    above = ax.secondary_xaxis(
        "top",
        functions=(lambda x: np.interp(x, step, minutes), lambda x: np.interp(x, minutes, step)),
    )
    above.set_xlabel("minutes", fontsize=8)
    above.tick_params(labelsize=8)


def probe_strips(probe: Probe, model: Descriptor, rows: int = 3, top: int = 5) -> None:
    """For some queries of the probe: the query, then the most similar held-out images."""
    ranked = probe.ranking(model)
    _, axes = plt.subplots(rows, 1, figsize=(7, 1.5 * rows))
    for query, ax in enumerate(np.atleast_1d(axes)):
        best, scores = ranked[query][0][:top], ranked[query][1][:top]
        plots.retrieval_strip(
            to_image(probe.queries[query]),
            [to_image(probe.references[i]) for i in best],
            scores,
            [bool(i == query) for i in best],
            names=[""] * len(best),
            ax=ax,
        )
