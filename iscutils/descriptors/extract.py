"""Extraction: image set + models -> .h5 files of unit descriptors, of whole images or of parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iscutils.descriptors.boxes import BOX, OVERLAY, read_detections
from iscutils.descriptors.forward import Forward, Job, uses_bf16
from iscutils.descriptors.outputs import Output, streams_of, unit, write_outputs
from iscutils.descriptors.parts import (
    MOST_DETECTIONS,
    Plan,
    Stream,
    check_ways,
    load_parts,
)
from iscutils.descriptors.store import read_notes
from iscutils.files.artifacts import KitError, content_key
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.models import Descriptor, InferenceOnly, load, model_key, quickest
from iscutils.models.precision import pick_device

if TYPE_CHECKING:
    from iscutils.descriptors.codec import Codec

OWN_RESIZE = "model"  # images are resized as the model was trained
RESIZES = (OWN_RESIZE, "squash", "short")
FORM = 2  # of the files; raised when their content changes
PART_CONFIDENCE = 0.1  # of a detection, for it to be a part (d2lv: confidence >= 0.1)
REPLACE_CONFIDENCE = 0.9  # above it BoT describes a query's overlay in place of the query


def extract(
    images: ImageSet,
    model: str | Path,
    sizes: Sequence[int],
    out: str | Path,
    executor: Executor,
    *,
    name: str = "images",
    device: str = "auto",
    batch_size: int = 64,
    precision: str = "32",
    resize: str = OWN_RESIZE,
    variant: str = "none",
    detections: str | Path | None = None,
    replace: float = REPLACE_CONFIDENCE,
) -> Path:
    """Describe every image at every size and store the normalised mean over the sizes.

    Each image is decoded once whatever the number of sizes, in the executor's processes; the
    network runs here. Finished work is skipped; a killed extraction continues at its last shard
    of 2,048 images. Unreadable images are left out and noted in the file (`read_skipped`).

    Args:
        images: N images.
        model: model folder.
        sizes: input sides in pixels, e.g. [96, 128].
        out: folder of the .h5; its name carries a key of images, model and settings.
        name: first part of the file name.
        precision: "32", "bf16", or "auto": int8 on a CPU for models that have such a graph
            beside their weights (those of the kit), else bf16 where that is fast; see `Forward`.
        resize: "squash" to squares, "short" side to the size (shape kept), "model": as it was
            trained.
        variant: "none", "gray", "blur" or "blur+gray", see `preprocess.vary`.
        detections: CSV of detected boxes. An image with an overlay more confident than `replace`
            is described by that box alone (BoT, descriptor track of ISC 2021).

    Returns:
        Path of an .h5 with `vectors` float32 (N, D), unit rows, `image_names`, and `norms` (N,),
        the length before normalisation at the largest size; with `detections` also `boxes`.
    """
    return extract_several(
        images, {"": model}, sizes, out, executor, name=name, device=device, batch_size=batch_size,
        precision=precision, resize=resize,
        variants={"": variant}, detections=detections, replace=replace,
    )[""]  # fmt: skip


def extract_several(
    images: ImageSet,
    models: Mapping[str, str | Path],
    sizes: Sequence[int],
    out: str | Path,
    executor: Executor,
    *,
    name: str = "images",
    device: str = "auto",
    batch_size: int = 64,
    precision: str = "32",
    resize: str = OWN_RESIZE,
    variants: Mapping[str, str] | None = None,
    detections: str | Path | None = None,
    replace: float = REPLACE_CONFIDENCE,
    ways: Sequence[str] = (),
) -> dict[str, Path]:
    """`extract` with several models, by name, over images that are decoded once for all of them.

    With `ways` of `parts.WAYS` an image has several rows, as a whole among them: the files have
    the columns `part` and `boxes` too.
    """
    sizes, ways = _check_sizes(sizes), check_ways(("whole", *ways))
    columns = {"norms"} | ({"boxes"} if detections is not None else set())
    columns |= {"part", "boxes"} if ways != ("whole",) else set()
    boxes: dict[str, np.ndarray] = {}
    if detections is not None:
        boxes = overlay_boxes(detections, images, np.nextafter(replace, 2), most=1)
    content, outputs = images.key(), {}
    for label, model in models.items():
        model = quickest(model, precision, pick_device(device))
        network, variant = load(model), (variants or {}).get(label, "none")
        settings = [] if variant == "none" else [variant]
        settings += _unusual(network, precision, resize, device)
        settings += [] if detections is None else [_plain(boxes)]
        settings += [list(ways)] if ways != ("whole",) else []
        key = content_key(content, model_key(model), sizes, FORM, *settings)
        own = Path(label).name.replace(":", "-")  # a label may be a path
        stem = "-".join(part for part in (name, own, network.name, key) if part)
        outputs[label] = Output(
            Path(out) / f"{stem}.h5", network,
            tuple(Stream(size, _way(network, resize), variant) for size in sizes),
            tuple(columns), model=network.name,
        )  # fmt: skip
    plan = Plan(streams_of(outputs.values()), "whole", boxes, replace=True, reduced=True, ways=ways)
    write_outputs(
        images, plan, list(outputs.values()), executor, name, device, batch_size, precision
    )
    return {label: output.path for label, output in outputs.items()}


def extract_parts(
    images: ImageSet,
    models: Sequence[str | Path],
    sizes: Sequence[int],
    out: str | Path,
    executor: Executor,
    *,
    parts: str = "whole",
    detections: str | Path | None = None,
    variants: Mapping[str, str] | None = None,
    reduce: Mapping[tuple[str, int], Codec] | None = None,
    name: str = "images",
    device: str = "auto",
    batch_size: int = 64,
    precision: str = "32",
    resize: str = OWN_RESIZE,
) -> dict[tuple[str, int], Path]:
    """Describe the parts of every image with several models, one file a model and size.

    Each image is decoded and cut once for all models and sizes, in memory; parts of different
    images fill a batch together. Finished files are skipped; a killed extraction continues at its
    last shard. Source of parts and preparation: D2LV (matching track of ISC 2021).

    Args:
        images: N images.
        models: model folders; their names are the first half of the result's keys.
        sizes: input sides in px, each described by itself.
        out: folder of the files; their names carry a key of what changes their content.
        parts: "whole"; "query": nine fixed parts, regions of selective search, and detections;
            "reference": nineteen fixed parts (see `parts.query_parts`, `parts.reference_parts`).
        detections: CSV of detected boxes; overlays of confidence 0.1 and more become parts 1000
            and on, of queries alone.
        variants: preparation by model name, "none" where it is not named (see `preprocess.vary`).
        resize: as for `extract`.
        reduce: fitted codecs by (model name, size), applied to the descriptors before they are
            normalised; see `reduction.learn_reduction`.

    Returns:
        .h5 files by (model name, size): `vectors` float32 (R, D), unit rows, `image_names`, `part`
        (number as text), `boxes` (R, 4) in shares of the picture, `sides` (R, 2) int32 px, and
        `norms` (R,), the length before whitening and normalisation.
    """
    sizes = _check_sizes(sizes)
    names = model_names(models)
    models = [quickest(model, precision, pick_device(device)) for model in models]
    plan_boxes: dict[str, np.ndarray] = {}
    if parts == "query" and detections is not None:
        plan_boxes = overlay_boxes(detections, images, PART_CONFIDENCE)
    networks = {name: load(model) for name, model in zip(names, models, strict=True)}
    content = [images.key(), parts, FORM, _plain(plan_boxes)]
    outputs: dict[tuple[str, int], Output] = {}
    for model_name, model in zip(names, models, strict=True):
        network, variant = networks[model_name], (variants or {}).get(model_name, "none")
        model_content = model_key(model)
        for size in sizes:
            codec = (reduce or {}).get((model_name, size))
            if reduce is not None and codec is None:
                raise KitError(f"no codec to reduce '{model_name}' at {size} px: learn it first")
            settings = [model_content, size, variant, codec and codec.key()]
            key = content_key(content, *settings, *_unusual(network, precision, resize, device))
            stream = Stream(size, _way(network, resize), variant)
            outputs[model_name, size] = Output(
                Path(out) / f"{name}-{model_name}@{size}-{key}.h5", network, (stream,),
                ("norms", "part", "boxes", "sides"), codec, model_name,
            )  # fmt: skip
    plan = Plan(streams_of(outputs.values()), parts, plan_boxes)
    write_outputs(
        images, plan, list(outputs.values()), executor, name, device, batch_size, precision
    )
    return {key: output.path for key, output in outputs.items()}


def open_network(
    model: str | Path, precision: str = "32", device: str = "auto"
) -> Descriptor | InferenceOnly:
    """The network that `extract` describes with, see there for `precision`."""
    return load(quickest(model, precision, pick_device(device)))


def describe(
    images: ImageSet,
    index: int,
    model: Descriptor,
    sizes: Sequence[int],
    device: str = "cpu",
    resize: str = OWN_RESIZE,
) -> np.ndarray:
    """Unit descriptor (D,) of one image of a set: the normalised mean over the sizes.

    Without sizes: at the model's own.

    Raises:
        KitError: the image cannot be read.
    """
    sizes = _check_sizes(sizes or [model.size])
    streams = tuple(Stream(size, _way(model, resize)) for size in sizes)
    item = load_parts(images, Plan(streams, reduced=True), index)
    if isinstance(item, str):
        raise KitError(f"image '{images.ids[index]}' cannot be read: {item}")
    jobs = [Job(model, stream) for stream in range(len(streams))]
    _, rows = Forward(jobs, pick_device(device), 1)([item])
    return unit(sum(unit(values) for values in rows))[0]


def read_skipped(path: str | Path) -> list[tuple[str, str, str]]:
    """Images that an extraction left out: (id, file, reason).

    Those whose reason begins with `artifacts.NOTE` are described, and the reason is a note.
    """
    return [tuple(row) for row in read_notes(path).get("skipped", [])]


def model_names(models: Sequence[str | Path]) -> list[str]:
    """Names of model folders or files, by which results of several models are told apart."""
    names = [Path(model).name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise KitError(f"two models are called '{name}': name each model once")
    if not names:
        raise KitError("no model to extract with: name at least one")
    return names


def overlay_boxes(
    detections: str | Path, images: ImageSet, least: float, most: int = MOST_DETECTIONS
) -> dict[str, np.ndarray]:
    """Boxes (n, 4) px of the detected overlays by image id, the most confident first.

    `least` is a confidence from 0 to 1, at most `most` boxes an image. Raises `KitError` for a
    file that knows none of the images.
    """
    table = read_detections(detections)
    if len(images) and not set(table["image_id"]) & set(images.ids):
        raise KitError(
            f"{detections} has detections of none of the {len(images)} images, the first of which "
            f"is '{images.ids[0]}': give the detections of this set"
        )
    table = table[(table["class"] == OVERLAY) & (table["confidence"] >= least)]
    table = table[table["image_id"].isin(set(images.ids))]
    table = table.sort_values("confidence", ascending=False, kind="stable")
    return {
        image_id: rows[BOX].to_numpy(float)[:most]
        for image_id, rows in table.groupby("image_id", sort=True)
    }


def _check_sizes(sizes: Sequence[int]) -> list[int]:
    sizes = sorted(set(sizes))
    if not sizes or min(sizes) < 16:
        raise KitError(f"sizes {sizes}: give one or more sides of at least 16 pixels")
    return sizes


def check_resize(resize: str) -> str:
    """`resize` itself; `KitError` for one that is not known."""
    if resize not in RESIZES:
        raise KitError(f"resize '{resize}' is unknown: choose {', '.join(RESIZES)}")
    return resize


def _way(network: Descriptor, resize: str) -> str:
    """How images are resized: squash or short."""
    return network.config.resize if check_resize(resize) == OWN_RESIZE else resize


def _unusual(network: Descriptor, precision: str, resize: str, device: str) -> list[str]:
    """What the key of a file says of how it was computed: nothing of the usual way."""
    exact = ["bf16"] if uses_bf16(precision, network, pick_device(device)) else []
    way = _way(network, resize)
    return exact if way == network.config.resize else [*exact, way]


def _plain(boxes: Mapping[str, np.ndarray]) -> dict[str, list]:
    return {image_id: values.tolist() for image_id, values in sorted(boxes.items())}
