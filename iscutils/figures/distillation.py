"""Figures of notebook 04: what a student costs, what it keeps, where it puts the copies."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
from PIL import Image

from iscutils.descriptors.codec import Codec
from iscutils.descriptors.hashes import pdq
from iscutils.edits.tensor import TensorEdits
from iscutils.figures.training import to_image
from iscutils.models import Descriptor
from iscutils.training import Pixels, TrainConfig, to_views
from iscutils.training.pixels import shrink
from iscutils.training.probe import Probe, fitting

COLUMNS = ["model", "bytes", "weights", "images a second", "uap"]


def frontier_table(
    models: Mapping[str, Descriptor], probe: Probe, pixels: Pixels, dims: tuple[int, ...] = ()
) -> pd.DataFrame:
    """What each model costs and reaches, as rows of `COLUMNS`.

    bytes: of a stored float32 descriptor. weights: millions. images a second: of the network alone,
    on its device. uap: of the probe. `dims` adds the first model's descriptors, cut to so many
    values by PCA (fitted on training images); the last row is the perceptual hash PDQ.
    """
    rows = []
    for name, model in models.items():
        uap = probe(model)["uap"]
        millions = sum(weight.numel() for weight in model.parameters()) / 1e6
        rows.append((name, 4 * model.dim, millions, _speed(model, probe), uap))
    first = next(iter(models))
    rows += [(f"{first}, PCA", 4 * d, *rows[0][2:4], uap) for d, uap in
             _reduced(models[first], probe, pixels, dims)]  # fmt: skip
    rows.append(("PDQ hash", 32, 0.0, *_hashed(probe)))
    return pd.DataFrame(rows, columns=COLUMNS)


@torch.inference_mode()
def _speed(model: Descriptor, probe: Probe) -> float:
    held = chain(model.parameters(), model.buffers())  # an ONNX file has no parameters
    images = probe.queries[:64].to(next(held).device)
    model.eval()(images)  # to warm up
    started = time.perf_counter()
    model(images).cpu()
    return len(images) / (time.perf_counter() - started)


def _reduced(model: Descriptor, probe: Probe, pixels: Pixels, dims: tuple[int, ...]) -> list:
    training = to_views(pixels.__getitems__(list(range(min(512, len(pixels)))))[0])
    background = probe.vectors_of(model, fitting(training, model))
    queries, references = probe.describe(model)
    found = []
    for d in dims:
        codec = Codec(f"PCA{d},L2norm,Flat").fit(background)
        similarity = codec.apply(queries) @ codec.apply(references).T
        found.append((d, probe.judge(similarity)["uap"]))
    return found


def _hashed(probe: Probe) -> tuple[float, float]:
    """Images a second and µAP of the perceptual hash."""
    started = time.perf_counter()
    queries, references = (
        np.stack([pdq(Image.fromarray(to_image(view))) for view in views])
        for views in (probe.queries, probe.references)
    )
    speed = (len(queries) + len(references)) / (time.perf_counter() - started)
    return speed, probe.judge(queries.astype(float) @ references.astype(float).T)["uap"]


def frontier(table: pd.DataFrame) -> np.ndarray:
    """µAP against bytes, weights and images a second, a point for each model; the three axes."""
    _, axes = plt.subplots(1, 3, figsize=(11, 3), sharey=True, layout="constrained")
    names = list(dict.fromkeys(table["model"]))
    for ax, column in zip(axes, ("bytes", "weights", "images a second"), strict=True):
        for i, name in enumerate(names):
            part = table[table["model"] == name].sort_values("bytes")
            if column == "weights" and not part["weights"].any():
                continue  # no place on a logarithmic axis
            style = {"ls": ":"} if len(part) > 1 and column == "bytes" else {"ls": ""}
            part = part if column == "bytes" else part.tail(1)
            ax.plot(part[column], part["uap"], "o", color=f"C{i}", label=name, ms=6, **style)
        ax.set(xscale="log", xlabel=f"{column} (M)" if column == "weights" else column)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_locator(NullLocator())
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    axes[0].set(ylabel="µAP on held-out images", ylim=(0, None))
    handles, labels = axes[0].get_legend_handles_labels()
    plt.gcf().legend(handles, labels, loc="outside upper center", ncols=len(names), fontsize=8)
    return axes


@torch.inference_mode()
def views_in_the_plane(
    models: Mapping[str, Descriptor], pixels: Pixels, config: TrainConfig, photos: int = 8
) -> np.ndarray:
    """Edited views of some photographs as points, one colour a photograph; an axes a model.

    Each model's descriptors are projected to their two principal directions. A large ring is the
    photograph itself.
    """
    views = 7
    images = to_views(pixels.__getitems__(list(range(photos)))[0]).repeat(views, 1, 1, 1)
    edits = TensorEdits(config.recipe, config.size)
    edited = edits(images, torch.Generator().manual_seed(config.seed), 0.6)
    small = shrink(images[:photos], config.size)
    rows = torch.cat([small, edited])  # the photographs, then their views
    _, axes = plt.subplots(1, len(models), figsize=(4.2 * len(models), 3.4), layout="constrained")
    for ax, (name, model) in zip(np.atleast_1d(axes), models.items(), strict=True):
        vectors = Probe.vectors_of(model.eval(), rows)
        centred = vectors - vectors.mean(0)
        plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        for i in range(photos):
            ax.plot(*plane[photos + i :: photos].T, ".", color=f"C{i}", ms=6)
            ax.plot(*plane[i], "o", color=f"C{i}", ms=12, mfc="none")
        ax.set(title=name, xticks=[], yticks=[])
    return np.atleast_1d(axes)
