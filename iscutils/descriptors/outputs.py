"""Files of an extraction: shards while it runs, one .h5 in the end."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from iscutils.descriptors.forward import Forward, Job, has_norms
from iscutils.descriptors.parts import Pieces, Plan, Stream, load_parts
from iscutils.descriptors.store import check_descriptors, to_bytes, write_blocks
from iscutils.files.artifacts import KitError, atomic_path, log
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.files.names import written
from iscutils.models import Descriptor
from iscutils.models.precision import pick_device

if TYPE_CHECKING:
    from iscutils.descriptors.codec import Codec

SHARD = 2048  # images, at most, between two points where a killed extraction continues
SHARD_BYTES = 512 * 2**20  # of vectors that are held in memory
USUAL_PARTS = {"whole": 1, "query": 29, "reference": 19}  # of an image
_ROWS = 16_384  # copied at a time


@dataclass(frozen=True, eq=False)
class Output:
    """One file to be: a network, what it describes, and the columns beside the vectors.

    With several `streams` the vector is the normalised mean of theirs. `codec` is applied to the
    descriptors as the network gives them.
    """

    path: Path
    network: Descriptor
    streams: tuple[Stream, ...]
    columns: tuple[str, ...]
    codec: Codec | None = None
    model: str = ""

    def shard(self, part: tuple[int, int]) -> Path:
        """File of the images from the first to the second number (exclusive)."""
        return self.folder / f"{part[0]:09d}-{part[1]:09d}.h5"

    @property
    def folder(self) -> Path:
        """Where the shards are until the file is whole."""
        return self.path.with_name(f".{self.path.stem}.parts")


def write_outputs(
    images: ImageSet,
    plan: Plan,
    outputs: Sequence[Output],
    executor: Executor,
    name: str,
    device: str,
    batch_size: int,
    precision: str = "32",
) -> None:
    """Extract those of the outputs that are not there yet, all of them from the same plan.

    Images are decoded once, by the executor, in one stream over all shards. `name` is said on the
    progress bar and in errors.
    """
    open_outputs = [output for output in outputs if not output.path.exists()]
    for output in outputs:
        if output not in open_outputs:
            log.info("%s is extracted already", output.path.name)
    if not open_outputs:
        return
    _check_ids(images)
    shards = _shards(len(images), plan, outputs)
    todo = {shard: [o for o in open_outputs if not o.shard(shard).exists()] for shard in shards}
    todo = {shard: group for shard, group in todo.items() if group}
    indices = [i for start, stop in todo for i in range(start, stop)]
    # One stream over all shards: the processes start once, and read ahead while a shard is written.
    read = partial(load_parts, images, _only(plan, open_outputs))
    loaded = executor.map(read, indices, desc=f"extract {name}", chunk=_chunk(plan))
    chosen = pick_device(device)
    forward, current = None, None
    for (start, stop), group in todo.items():
        if group != current:
            current, used = group, _only(plan, open_outputs).streams
            jobs = [Job(o.network, used.index(s)) for o in group for s in o.streams]
            forward = Forward(jobs, chosen, batch_size, precision)
        items, rows = forward(_take(loaded, stop - start))
        for output in group:
            own, rows = rows[: len(output.streams)], rows[len(output.streams) :]
            write_shard(output, (start, stop), images, items, own)
    for _ in loaded:  # ends the progress bar and the processes
        pass
    for output in open_outputs:
        finish(output, shards, images, name)


def _only(plan: Plan, outputs: Sequence[Output]) -> Plan:
    """The plan with no other streams than these outputs need."""
    return dataclasses.replace(plan, streams=streams_of(outputs))


def streams_of(outputs: Iterable[Output]) -> tuple[Stream, ...]:
    """The streams that some outputs need, each once."""
    return tuple(dict.fromkeys(stream for output in outputs for stream in output.streams))


def _take(loaded: Iterator[Pieces | str], count: int) -> Iterator[Pieces | str]:
    for _ in range(count):
        yield next(loaded)


def _shards(count: int, plan: Plan, outputs: Sequence[Output]) -> list[tuple[int, int]]:
    """First and last (exclusive) image of each shard; the same for the same call."""
    values = sum(output.network.dim * len(output.streams) for output in outputs)
    images = SHARD_BYTES // (4 * values * USUAL_PARTS[plan.parts] * len(plan.ways))
    step = int(np.clip(images, 1, SHARD))
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def _chunk(plan: Plan) -> int:
    """Images that a worker takes at a time: few where each gives many pictures."""
    return max(1, 8 // (USUAL_PARTS[plan.parts] * len(plan.ways) * len(plan.streams)))


def _check_ids(images: ImageSet) -> None:
    check_descriptors(np.zeros((len(images), 1), np.float32), images.ids, source=str(images))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) divided by their lengths; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(length, 1e-12)


def write_shard(
    output: Output,
    part: tuple[int, int],
    images: ImageSet,
    items: Sequence[Pieces | str],
    rows: Sequence[np.ndarray],
) -> None:
    """Write a shard from the items of its images and the rows (R, D) of every stream.

    Raises:
        KitError: the network gave values that are not finite.
    """
    pieces = [(i, item) for i, item in enumerate(items, part[0]) if not isinstance(item, str)]
    index = np.repeat([i for i, _ in pieces], [len(item.numbers) for _, item in pieces])
    numbers = _joined([item.numbers for _, item in pieces], np.int32, ())
    data = {
        "vectors": _vectors(output, rows),
        "index": index.astype(np.int64),
        "norms": np.linalg.norm(rows[-1], axis=1).astype(np.float32),  # streams rise in size
        "part": numbers.astype("S10"),
        "boxes": _joined([item.boxes for _, item in pieces], np.float32, (4,)),
        "sides": _joined([item.sides for _, item in pieces], np.int32, (2,)),
    }
    names = [images.ids[i] for i in index]
    check_descriptors(data["vectors"], names, {"part": numbers}, output.path.name)
    kept = {"vectors", "index", *output.columns} - (set() if _norms(output) else {"norms"})
    reasons = [item if isinstance(item, str) else item.note for item in items]
    skipped = [(images.ids[i], str(images.path(i) or ""), reason)
               for i, reason in enumerate(reasons, part[0]) if reason]  # fmt: skip
    with atomic_path(output.shard(part)) as temporary:
        with h5py.File(temporary, "w") as file:
            for name in sorted(kept):
                file[name] = data[name]
            file["skipped"] = json.dumps(skipped)


def finish(output: Output, shards: Sequence[tuple[int, int]], images: ImageSet, name: str) -> Path:
    """Join the shards into the file and remove them.

    Raises:
        KitError: not one image could be read.
    """
    files = [output.shard(part) for part in shards]
    skipped, counts = [], []
    for path in files:
        with h5py.File(path, "r") as file:
            skipped += json.loads(file["skipped"][()])
            counts.append(len(file["index"]))
    if not sum(counts):
        shown = [f"{written(file or image_id)} ({reason})" for image_id, file, reason in skipped]
        raise KitError(
            f"none of the {len(images)} images of '{name}' can be read: "
            + "; ".join([*shown[:3], *(["..."] if len(shown) > 3 else [])])
        )
    names = to_bytes(images.ids)
    write_blocks(
        output.path, _blocks(files, counts, names), sum(counts), model=output.model,
        sizes=[stream.size for stream in output.streams], resize=output.streams[0].resize,
        variant=output.streams[0].variant,
        codec=output.codec and output.codec.spec, skipped=skipped,
    )  # fmt: skip
    shutil.rmtree(output.folder)
    return output.path


def _vectors(output: Output, rows: Sequence[np.ndarray]) -> np.ndarray:
    if not len(rows[0]):
        return np.zeros((0, 1), np.float32)
    if output.codec is not None:
        return unit(output.codec.apply(rows[0]))
    return unit(sum(unit(values) for values in rows))


def _norms(output: Output) -> bool:
    return has_norms(output.network)


def _blocks(
    files: Sequence[Path], counts: Sequence[int], names: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    for path, count in zip(files, counts, strict=True):
        with h5py.File(path, "r") as file:
            columns = sorted(set(file) - {"index", "skipped"})
            for start in range(0, count, _ROWS):
                rows = slice(start, start + _ROWS)
                block = {name: file[name][rows] for name in columns}
                yield {**block, "image_names": names[file["index"][rows]]}


def _joined(arrays: Sequence[np.ndarray], dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros((0, *shape), dtype), *arrays]).astype(dtype, copy=False)
