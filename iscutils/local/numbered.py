"""Pictures of a search as numbers: their frames, their shortlists, and pairs that are settled."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from iscutils.files.equal import FileState, Pair
from iscutils.files.executor import Executor
from iscutils.files.images import FileImages, with_frames
from iscutils.local import Features

FEW = 64  # pictures looked through here: starting processes takes longer
SIDES = ("query", "reference")
_FRAME = "#frame="  # between the number of a picture and that of a frame, see `with_frames`
_DIGITS = 8


def name_of(number: int, frame: int = 0) -> str:
    """The id under which a search knows a picture, or a later frame of it."""
    return f"{number:0{_DIGITS}d}" + (f"{_FRAME}{frame}" if frame else "")


def numbers_of(names: Sequence[str]) -> np.ndarray:
    """Numbers (n,) of pictures from the ids of their frames."""
    codes, unique = pd.factorize(np.asarray(names, object))
    return np.array([int(name[:_DIGITS]) for name in unique], np.int64)[codes]


def frames_of(names: Sequence[str]) -> np.ndarray:
    """Numbers (n,) of frames, counted from 0."""
    return np.array([int(name.partition(_FRAME)[2] or 0) for name in names], np.int64)


def framed(
    sets: Mapping[str, FileImages], frames: int, executor: Executor
) -> tuple[dict[str, FileImages], list[tuple[str, str, str]]]:
    """Sets of frames whose ids begin with the picture's number, and notes (id, file, reason).

    Descriptor files know pictures by their file names, which folders below folders may repeat.
    """
    found, notes = {}, []
    for kind, images in sets.items():
        numbered = FileImages(map(name_of, range(len(images))), images.files)
        several = executor if len(images) > FEW else None
        found[kind], _, more = with_frames(numbered, frames, several)
        notes += more
    return found, notes


def same_file(
    pairs: pd.DataFrame, queries: Sequence[FileState], references: Sequence[FileState]
) -> np.ndarray:
    """Which pairs are one file, (n,) bool."""
    codes: dict[Hashable, int] = {}
    own, others = (
        np.array([codes.setdefault(one.identity, len(codes)) for one in states], np.int64)
        for states in (queries, references)
    )
    return own[numbers_of(pairs["query_id"])] == others[numbers_of(pairs["reference_id"])]


def without(near: pd.DataFrame, pairs: Sequence[Pair]) -> pd.DataFrame:
    """Shortlists without the pairs of numbers that are settled."""
    if not pairs:
        return near
    numbers = [numbers_of(near[f"{side}_id"]) for side in SIDES]
    index = pd.MultiIndex.from_arrays(numbers)
    return near[~index.isin(pairs)]


def alike(
    near: pd.DataFrame, sets: Iterable[FileImages], features: Iterable[Features]
) -> list[Pair]:
    """Pairs of numbers that may have equal pixels, by what is known of them without decoding.

    Sides and thumbnails agree, or both pictures are too small for points. Both files hold one
    picture each: of animations a single frame would say too little.
    """
    looks, numbers = [], []
    for images, found, side in zip(sets, features, SIDES, strict=True):
        looks.append(near[f"{side}_id"].map(_looks(found)).to_numpy(object))
        own = numbers_of(near[f"{side}_id"])
        frames = np.bincount(numbers_of(images.ids))
        numbers.append(np.where(frames[own] == 1, own, -1))
    small = pd.isna(looks[0]) & pd.isna(looks[1])
    pairs = np.stack(numbers, axis=1)[(looks[0] == looks[1]) | small]  # (n, 2)
    return [(q, r) for q, r in pairs.tolist() if min(q, r) >= 0]


def _looks(features: Features) -> dict[str, bytes]:
    """Digests of the sides and thumbnails of pictures, by id."""
    digests = {}
    for i, name in enumerate(features.ids):
        thumbnail = features.thumbnail(i)
        pixels = b"" if thumbnail is None else thumbnail.tobytes()
        digests[name] = hashlib.blake2b(features.sizes[i].tobytes() + pixels).digest()
    return digests


def named_in(images: FileImages, names: Iterable[str]) -> FileImages:
    """Those of some images that are named, in their own order."""
    wanted = set(names)
    return images.subset(i for i, name in enumerate(images.ids) if name in wanted)
