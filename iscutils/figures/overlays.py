"""Figures of the overlay detector: pictures with boxes, precision and recall, thresholds, crops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from iscutils.descriptors.boxes import (
    BOX,
    CLASSES,
    OVERLAY,
    STICKER,
    cropped,
    operating_points,
    read_detections,
    read_sizes,
)
from iscutils.detector.box_quality import average_precision, measure_points, precision_recall
from iscutils.edits import apply, draw_operation
from iscutils.figures import plots
from iscutils.files.images import ImageSet
from iscutils.files.prepare import prepare
from iscutils.models import Descriptor

COLOURS = {OVERLAY: "tab:orange", STICKER: "tab:blue"}
STYLES = ("-", (0, (2, 1.5)))  # of the first and the second table


def boxed_pictures(
    images: ImageSet,
    tables: Sequence[pd.DataFrame],
    ids: Sequence[str],
    *,
    columns: int = 6,
    size: float = 1.6,
    ax: Axes | None = None,
) -> Axes:
    """Pictures with their boxes: overlays orange, stickers blue, a second table's boxes broken.

    Confidences, in tables that have them, stand at their overlays.
    """
    where = {name: i for i, name in enumerate(images.ids)}
    pictures = [images.load(where[name]) for name in ids]
    ax = plots.image_grid(pictures, list(ids), columns=columns, size=size, ax=ax)
    for shown, picture, name in zip(list(ax.images), pictures, ids, strict=True):
        left, right, bottom, top = shown.get_extent()
        scale = np.array([(right - left) / picture.width, (bottom - top) / picture.height])
        for table, style in zip(tables, STYLES, strict=False):
            rows = table[(table["image_id"] == name) & table["class"].isin(CLASSES)]
            for row in rows.to_dict("records"):
                _draw_box(ax, row, np.array([left, top]), scale, style)
    return ax


def _draw_box(ax: Axes, row: dict, origin: np.ndarray, scale: np.ndarray, style: object) -> None:
    bounds = np.array([row[side] for side in BOX], float).reshape(2, 2)
    (x0, y0), (x1, y1) = origin + bounds * scale
    colour = COLOURS[row["class"]]
    ax.add_patch(
        Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, lw=1.4, linestyle=style)
    )
    if row["class"] == OVERLAY and "confidence" in row:
        frame = {"facecolor": colour, "pad": 0.6, "linewidth": 0}
        ax.text(x0, y0, f"{row['confidence']:.2f}", fontsize=6, color="white", va="top", bbox=frame)


def read_held_out(detector: str | Path) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Detections in a detector's held-out pictures, their true boxes and the pictures' sizes."""
    found = Path(detector) / "held_out.csv"
    truth = pd.read_csv(Path(detector) / "held_out-boxes.csv", dtype={"image_id": str})
    return read_detections(found), truth, read_sizes(found)


def detector_training(detector: str | Path) -> np.ndarray:
    """Loss of each training step beside the average precision after each epoch; the two axes."""
    history, epochs = (pd.read_csv(Path(detector) / f"{n}.csv") for n in ("history", "epochs"))
    _, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
    plots.loss_curve(history[["step", "loss"]], label="all losses", ax=left)
    plots.new_axes(right)
    for kind in CLASSES:
        right.plot(epochs["step"], epochs[f"ap_{kind}"], "o-", ms=3, color=COLOURS[kind],
                   label=kind)  # fmt: skip
    right.set(xlabel="step", ylabel="average precision", ylim=(0, 1))
    right.set_title("On held-out pictures, IoU 0.5", fontsize=10)
    right.legend(fontsize=8, frameon=False)
    return np.array([left, right])


def precision_recall_of_boxes(detector: str | Path, *, ax: Axes | None = None) -> Axes:
    """Precision over recall of both classes on the held-out pictures, their AP in the legend."""
    found, truth, _ = read_held_out(detector)
    ax = plots.new_axes(ax, 4.2, 2.8)
    for kind in CLASSES:
        curve = precision_recall(found, truth, kind)
        label = f"{kind}, AP {average_precision(found, truth, kind):.2f}"
        ax.plot(curve["recall"], curve["precision"], color=COLOURS[kind], label=label)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    ax.set_title("Boxes on held-out pictures, IoU 0.5", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    return ax


def point_curves(detector: str | Path, *, ax: Axes | None = None) -> Axes:
    """What each threshold means on the held-out pictures, and where the two points lie."""
    measured = measure_points(*read_held_out(detector))
    ax = plots.new_axes(ax, 6, 2.8)
    labels = {
        "recall": ("tab:blue", "overlays found"),
        "right": ("tab:green", "kept boxes that are right"),
        "false_fires": ("tab:red", "pictures without overlay that fire"),
    }
    for name, (colour, label) in labels.items():
        ax.step(measured["threshold"], measured[name], where="post", color=colour, label=label)
    for (name, threshold), style in zip(operating_points(detector).items(), ("--", ":"),
                                        strict=True):  # fmt: skip
        ax.axvline(threshold, color="black", ls=style, lw=1, label=f"{name}, {threshold:.2f}")
    ax.set(xlabel="threshold of the confidence", ylabel="share", ylim=(0, 1.05))
    ax.set_title("Operating points", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def crop_pairs(images: ImageSet, crops: pd.DataFrame, *, most: int = 6, size: float = 1.5) -> Axes:
    """Pictures above, below each what was cropped from it; an empty axes without any crop."""
    shown = crops.head(most)
    if shown.empty:
        ax = plots.new_axes(None, 4, 0.6, grid="none")
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no box is confident enough", ha="center", va="center", fontsize=9)
        return ax
    where = {name: i for i, name in enumerate(images.ids)}
    parts = cropped(images, shown)
    wholes = [images.load(where[name]) for name in shown["query_id"]]
    titles = [*shown["query_id"], *(f"confidence {value:.2f}" for value in shown["confidence"])]
    pictures = [*wholes, *(parts.load(i) for i in range(len(parts)))]
    return plots.image_grid(pictures, titles, columns=len(shown), size=size)


@torch.inference_mode()
def paste_curve(
    model: Descriptor,
    photographs: Sequence[Image.Image],
    canvas: Image.Image,
    scales: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    *,
    ax: Axes | None = None,
) -> Axes:
    """Similarity of photographs with copies pasted on a canvas, of whole copy and of its crop."""
    rows = {"whole picture": [], "what was pasted, cropped": []}
    originals = _describe(model, photographs)
    for scale in scales:
        drawn = draw_operation("paste", np.random.default_rng(0))[1]
        values = {**drawn, "size": scale, "x": 0.3, "y": 0.4, "units": "free", "opacity": 1.0}
        made = [apply(photo, [("paste", values)], [canvas]) for photo in photographs]
        bounds = [tuple(round(side) for side in picture.boxes[0].bounds) for picture in made]
        parts = [picture.image.crop(box) for picture, box in zip(made, bounds, strict=True)]
        for name, pictures in zip(rows, ([picture.image for picture in made], parts), strict=True):
            rows[name].append(float((_describe(model, pictures) * originals).sum(1).mean()))
    ax = plots.new_axes(ax, 4.6, 2.6)
    for (name, values), style in zip(rows.items(), ("o-", "s--"), strict=True):
        ax.plot(scales, values, style, ms=4, label=name)
    others = originals @ originals.T
    unlike = float((others.sum() - others.trace()) / (len(others) * (len(others) - 1)))
    ax.axhline(unlike, color="tab:gray", ls=":", lw=1, label="unrelated photographs")
    ax.set(xlabel="size of the pasted photograph, share of the side", ylabel="similarity")
    ax.set_ylim(top=1.02)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _describe(model: Descriptor, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Unit descriptors (N, D) of PIL pictures."""
    sides = [prepare(picture, model.size) for picture in pictures]
    return model(torch.from_numpy(np.stack(sides)).permute(0, 3, 1, 2).float() / 255)
