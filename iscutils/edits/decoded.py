"""A synthesised training set decoded once to bytes; light enough for every worker process."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.edits.folders import read_state
from iscutils.edits.manifest import member_name, read_manifest
from iscutils.files.artifacts import (
    KitError,
    atomic_path,
    content_key,
    log,
    wait_if_following,
    write_json,
)
from iscutils.files.executor import Executor
from iscutils.files.images import ImageError, decode
from iscutils.files.prepare import SHARD, prepare

COLUMNS = ("image", "id", "copy", "scale", "readable")  # of pictures.parquet


def cache_labelled(
    synthesised: str | Path, size: int, folder: str | Path, executor: Executor
) -> Path:
    """Decode a synthesised set once to bytes (N, size, size, 3); finished shards are kept.

    Returns the folder of the shards and of `pictures.parquet` (image, id, copy, scale, readable),
    in the order of the set. Pictures that cannot be read are black and not used.
    """
    synthesised, state = Path(synthesised), read_state(synthesised)
    if state.get("kind") != "training set" or not state.get("finished"):
        raise KitError(
            f"{synthesised} holds no finished training set: give a folder that synthesise wrote "
            "(notebook 02)"
        )
    out = Path(folder) / f"labelled-{size}-{content_key(state['key'], size)}"
    wait_if_following(out / "pictures.parquet")
    if (out / "pictures.parquet").exists():
        return out
    rows = read_manifest(synthesised, ["image", "file", "copy", "source_id", "visible"])
    jobs = [
        (number, rows.image[start:end].tolist(), rows.file[start:end].tolist())
        for number, (start, end) in enumerate(_parts(rows.file))
        if not (out / f"{number:05d}.json").exists()
    ]
    for _ in executor.map(partial(_decode_part, synthesised, out, size), jobs, desc="decode"):
        pass
    notes = [json.loads(file.read_text()) for file in sorted(out.glob("[0-9]*.json"))]
    reasons = [reason for part in notes for reason in part]
    broken = sum(reason is not None for reason in reasons)
    if broken:
        log.warning("%d of %d pictures of %s cannot be read", broken, len(rows), synthesised.name)
    table = rows.rename(columns={"source_id": "id", "visible": "scale"})
    table["readable"] = [reason is None for reason in reasons]
    with atomic_path(out / "pictures.parquet") as temporary:
        table[list(COLUMNS)].to_parquet(temporary, index=False)
    return out


def _parts(files: pd.Series) -> list[tuple[int, int]]:
    """Bounds of parts of at least `SHARD` pictures that end where a tar or a folder ends."""
    holder = files.where(files.str.endswith(".tar"), files.str.rpartition("/")[0])
    ends = np.flatnonzero((holder != holder.shift(-1)).to_numpy()) + 1
    parts, start = [], 0
    for end in ends.tolist():
        if end - start >= SHARD or end == len(files):
            parts.append((start, end))
            start = end
    return parts


def _decode_part(
    synthesised: Path, out: Path, size: int, job: tuple[int, list[str], list[str]]
) -> None:
    """Write one shard of pixels and, last, what was wrong with which of its pictures."""
    number, names, files = job
    reasons: list[str | None] = []
    with atomic_path(out / f"{number:05d}.npy") as temporary:
        shape = (len(names), size, size, 3)
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for place, source in enumerate(_sources(synthesised, names, files)):
            try:
                pixels[place] = prepare(decode(source, min_side=2 * size), size)
                reasons.append(None)
            except ImageError as error:
                reasons.append(str(error))
        pixels.flush()
        del pixels  # before the file is renamed
    write_json(out / f"{number:05d}.json", reasons)


def _sources(synthesised: Path, names: list[str], files: list[str]) -> Iterator[Path | bytes]:
    """What to decode, in order: paths, or bytes out of tars that are opened once each."""
    for file, group in groupby(zip(names, files, strict=True), key=itemgetter(1)):
        if not file.endswith(".tar"):
            yield synthesised / file
            continue
        with tarfile.open(synthesised / file) as tar:
            for name, _ in group:
                yield tar.extractfile(f"{member_name(name)}.jpg").read()
