"""Does a descriptor file hold what its network says of the images? One image, done again alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iscutils.descriptors.forward import Forward, Job
from iscutils.descriptors.outputs import unit
from iscutils.descriptors.parts import Plan, Stream, load_parts
from iscutils.descriptors.store import read_descriptors
from iscutils.files.artifacts import KitError
from iscutils.files.images import ImageSet
from iscutils.models import Descriptor
from iscutils.models.precision import pick_device


def difference_alone(
    descriptors: str | Path,
    images: ImageSet,
    model: Descriptor,
    index: int = 0,
    device: str = "cpu",
) -> float:
    """Largest difference between an image's row and the same image described alone.

    Batches, processes and resuming must not change a descriptor: expect rounding, about 1e-6. Of
    vectors that were whitened before they were stored, the lengths before that are compared, as
    shares.

    Args:
        descriptors: file of `extract` or `extract_parts` of these images, unless detections
            replaced some of them.
        index: number of the image; its whole picture is compared.

    Raises:
        KitError: the image cannot be read, or has no row.
    """
    rows = read_descriptors(descriptors)
    streams = tuple(
        Stream(size, rows.attrs["resize"], rows.attrs["variant"]) for size in rows.attrs["sizes"]
    )
    item = load_parts(images, Plan(streams, reduced="part" not in rows.columns), index)
    image_id = images.ids[index]
    places = [i for i, name in enumerate(rows.ids) if name == image_id]
    if isinstance(item, str) or not places:
        reason = item if isinstance(item, str) else "it has no row"
        raise KitError(f"'{image_id}' cannot be compared with {Path(descriptors).name}: {reason}")
    jobs = [Job(model, stream) for stream in range(len(streams))]
    _, found = Forward(jobs, pick_device(device), 1)([item])
    if rows.attrs.get("codec"):
        length = np.linalg.norm(found[-1])
        return float(abs(rows.columns["norms"][places[0]] / length - 1))
    vector = unit(sum(unit(values) for values in found))[0]
    return float(np.abs(vector - rows.vectors[places[0]]).max())
