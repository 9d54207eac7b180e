"""Whitening that is learnt before extraction, so that wide descriptors are never stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iscutils.descriptors.codec import Codec
from iscutils.descriptors.extract import extract_parts
from iscutils.descriptors.store import read_descriptors
from iscutils.files.artifacts import KitError, content_key, log
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet

SAMPLE, SAMPLE_SEED = 20_000, 123  # images, and NumPy's seed, as D2LV draws them
DIMENSIONS = 1500  # of D2LV


def learn_reduction(
    background: ImageSet,
    models: Sequence[str | Path],
    sizes: Sequence[int],
    out: str | Path,
    executor: Executor,
    *,
    dimensions: int = DIMENSIONS,
    variants: Mapping[str, str] | None = None,
    **options: Any,
) -> dict[tuple[str, int], Codec]:
    """PCA with whitening for every model and size, learnt from whole background images.

    At most 20,000 of the images are drawn; there are `dimensions` values at most, fewer where the
    model or the number of images allow no more (d2lv: min(1500, 8192, images - 1)). Codecs lie in
    `out` as `whitening-<model>@<size>-<key>.npz` and are read from there when they exist.

    Args:
        background: training images; the only ones a codec may learn from.
        variants: as references are prepared, by model name.
        options: `device` and `batch_size` of `extract_parts`.

    Returns:
        Fitted codecs by (model name, size), for `extract_parts(..., reduce=...)`.
    """
    if dimensions < 1:
        raise KitError(f"{dimensions} dimensions: give at least 1, e.g. {DIMENSIONS}")
    sample = draw_sample(background)
    files = extract_parts(
        sample, models, sizes, out, executor, variants=variants, name="sample", **options
    )
    return {key: fit_codec(path, dimensions) for key, path in files.items()}


def draw_sample(background: ImageSet, most: int = SAMPLE) -> ImageSet:
    """At most `most` images, drawn without replacement by NumPy's RandomState(123)."""
    if len(background) <= most:
        return background
    drawn = np.random.RandomState(SAMPLE_SEED).choice(len(background), most, replace=False)
    return background.subset(sorted(drawn.tolist()))


def fit_codec(descriptors: str | Path, dimensions: int) -> Codec:
    """Codec fitted on the descriptors of a file as the network gave them, kept beside that file."""
    descriptors, spec = Path(descriptors), f"PCAW{dimensions},L2norm,Flat"
    stem = descriptors.stem.removeprefix("sample-").rpartition("-")[0]
    path = descriptors.with_name(f"whitening-{stem}-{content_key(descriptors.name, spec)}.npz")
    if path.exists():
        log.info("%s is learnt already", path.name)
        return Codec.load(path)
    rows = read_descriptors(descriptors)
    lengths = rows.columns.get("norms", np.ones(len(rows), np.float32))
    codec = Codec(spec).fit(rows.vectors * lengths[:, None])
    codec.save(path)
    return codec
