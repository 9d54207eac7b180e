"""Hard negative pairs that a model finds: photographs that it confuses.

NDEC's own pairs cannot be shared; see docs/systems/asl.md, section 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from iscutils.edits.folders import write_csv
from iscutils.edits.likeness import no_copy
from iscutils.files.artifacts import KitError, content_key, log, wait_if_following
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet

NEIGHBOURS = 10  # of every photograph, that it may be paired with
COLUMNS = ("pair_id", "image_a", "image_b", "kind", "cosine")


def nearest_pairs(
    images: ImageSet, vectors: np.ndarray, count: int, out: str | Path, *, executor: Executor
) -> Path:
    """Pair the photographs that are most alike to a model; write a CSV in `out`, return its path.

    The highest cosine comes first; a photograph is in one pair at most. Pairs that may be copies of
    each other (hashes within 10 of 64 bits, or 20 matches under one homography) and pictures that
    cannot be read are passed over. Finished work is found again by its name.

    Args:
        images: N photographs, none of them queries or references of a test.
        vectors: descriptors (N, D) of them by the model that is to be trained further.
        count: pairs wanted.
        out: folder of `nearest-<key>.csv` (pair_id,image_a,image_b,kind,cosine). Its ids are those
            of the photographs, so that their own edited copies are what is trained on.
        executor: compares pictures.

    Raises:
        KitError: rows that are not those of the images, or fewer pairs than wanted.
    """
    if len(vectors) != len(images):
        raise KitError(f"{len(vectors)} descriptors of {len(images)} photographs: give one of each")
    rows = np.ascontiguousarray(vectors, np.float32)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    key = content_key(images.key(), hashlib.sha256(rows.tobytes()).hexdigest(), count)
    path = Path(out) / f"nearest-{key}.csv"
    wait_if_following(path)
    if path.exists():
        return path
    found = _match(_by_cosine(rows), count, partial(no_copy, images, images), executor)
    if len(found) < count:
        raise KitError(
            f"only {len(found)} pairs of {len(images)} photographs are look-alikes and no copies, "
            f"{count} are wanted: lower the number, or give more photographs"
        )
    log.info("%d pairs, cosines %.2f down to %.2f", count, found[0][2], found[-1][2])
    digits = len(str(count - 1))
    lines = [
        (f"N{number:0{digits}d}", images.ids[a], images.ids[b], "nearest", f"{cosine:.4f}")
        for number, (a, b, cosine) in enumerate(found)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, COLUMNS, lines)
    return path


def _by_cosine(rows: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Pairs (a < b, cosine) of every row with its ten nearest others, the most alike first."""
    import faiss

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    cosines, others = index.search(rows, min(NEIGHBOURS + 1, len(rows)))
    own = np.repeat(np.arange(len(rows)), others.shape[1])
    cosines, others = cosines.ravel(), others.ravel()
    real = (others >= 0) & (others != own)
    pairs = np.sort(np.stack([own[real], others[real]], 1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    cosines = cosines[real][first]
    for place in np.argsort(-cosines, kind="stable"):
        a, b = pairs[place].tolist()
        yield a, b, float(cosines[place])


def _match(
    candidates: Iterator[tuple[int, int, float]],
    count: int,
    are_strangers: Callable[[tuple[int, list[int]]], bool],
    executor: Executor,
) -> list[tuple[int, int, float]]:
    """The first pairs in order that are strangers and share no photograph with an earlier one.

    Pictures are compared in waves, and what waits for the verdict on an earlier pair waits for the
    next wave: the result is that of one comparison after the other.
    """
    found, used = [], set()
    while len(found) < count and (waiting := list(islice(candidates, 4 * count))):
        while waiting and len(found) < count:
            wave, waiting = _wave(waiting, used, count - len(found))
            if not wave:
                break
            jobs = [(a, [b]) for a, b, _ in wave]
            verdicts = executor.map(are_strangers, jobs, desc="nearest pairs", chunk=4)
            for pair, good in zip(wave, verdicts, strict=True):
                if good:
                    found.append(pair)
                    used.update(pair[:2])
    return sorted(found, key=lambda pair: (-pair[2], pair[:2]))


def _wave(
    waiting: list[tuple[int, int, float]], used: set[int], most: int
) -> tuple[list[tuple[int, int, float]], list[tuple[int, int, float]]]:
    """Pairs to compare now, which share no photograph, and those that wait."""
    wave, later, taken = [], [], set()
    for pair in waiting:
        if used & set(pair[:2]):
            continue
        if len(wave) < most and not taken & set(pair[:2]):
            wave.append(pair)
        else:
            later.append(pair)
        taken.update(pair[:2])
    return wave, later
