"""Equal pictures of two sets, found before anything is compared: files, bytes, decoded pixels."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from PIL import Image

from iscutils.files.artifacts import file_hash
from iscutils.files.executor import Executor
from iscutils.files.formats import HEAD, picture_kind, read_regular
from iscutils.files.images import ImageError, ImageSet

FEW = 64  # pictures that are decoded here: starting processes takes longer

Pair = tuple[int, int]  # number of a query, and of a reference


class FileState(NamedTuple):
    """A file's name, what hard and symbolic links share with it, and its size in bytes."""

    path: str
    identity: Hashable
    size: int


def file_states(files: Iterable[str]) -> list[FileState]:
    """States of files as they are now; a vanished one is empty."""
    return [_state(file) for file in files]


def _state(file: str) -> FileState:
    try:
        state = os.stat(file)
    except OSError:  # decoding says so
        return FileState(file, file, 0)
    number = (state.st_dev, state.st_ino) if state.st_ino else os.path.realpath(file)
    return FileState(file, number, state.st_size)


def linked_pairs(queries: Sequence[FileState], references: Sequence[FileState]) -> list[Pair]:
    """Pairs that are one file under two names."""
    pairs = _shared([one.identity for one in queries], [one.identity for one in references])
    return [
        (q, r) for q, r in pairs
        if os.path.normpath(queries[q].path) != os.path.normpath(references[r].path)
    ]  # fmt: skip


def equal_files(
    queries: Sequence[FileState],
    references: Sequence[FileState],
    most: int,
    without: Collection[str] = (),
) -> list[Pair]:
    """Pairs of files with the same bytes, at most `most` a query; one file is no pair.

    Only files that share their size with another one are read, and none of those in `without`.
    """
    holders = defaultdict(set)  # size -> files
    for one in (*queries, *references):
        holders[one.size].add(one.identity)
    sizes = {one.size for one in queries} & {one.size for one in references} - {0}
    sizes = {size for size in sizes if len(holders[size]) > 1}
    hashes: dict[Hashable, str | None] = {}  # by identity: a folder may be searched for itself

    def content(one: FileState) -> str | None:
        if one.size not in sizes or one.path in without:
            return None
        if one.identity not in hashes:
            hashes[one.identity] = _hash_or_none(one.path)
        return hashes[one.identity]

    def differ(q: int, r: int) -> bool:
        return queries[q].identity != references[r].identity

    return list(_shared([*map(content, queries)], [*map(content, references)], differ, most))


def equal_pixels(
    pairs: Iterable[Pair], queries: ImageSet, references: ImageSet, executor: Executor
) -> list[Pair]:
    """Those pairs whose pictures have the same pixels, upright and in 8-bit RGB.

    Pictures are decoded only where the sides in the files' headers agree.
    """
    sides: dict[str, tuple[int, ...] | None] = {}

    def of(images: ImageSet, i: int) -> tuple[int, ...] | None:
        path = str(images.path(i))
        if path not in sides:
            size = header_size(path)
            sides[path] = size and tuple(sorted(size))  # EXIF may turn the picture
        return sides[path]

    alike = [(q, r) for q, r in pairs if (own := of(queries, q)) and own == of(references, r)]
    hashes = []
    for images, numbers in zip((queries, references), zip(*alike, strict=True), strict=False):
        wanted = sorted(set(numbers))
        run = executor if len(wanted) > FEW else Executor()
        found = run.map(partial(pixel_hash, images), wanted, chunk=8)
        hashes.append(dict(zip(wanted, found, strict=True)))
    return [(q, r) for q, r in alike if hashes[0][q] is not None and hashes[0][q] == hashes[1][r]]


def pixel_hash(images: ImageSet, i: int) -> bytes | None:
    """BLAKE2 of a picture's sides and pixels; None where it cannot be read."""
    try:
        image = images.load(i)
    except ImageError:
        return None
    return hashlib.blake2b(repr(image.size).encode() + image.tobytes()).digest()


def header_size(path: str) -> tuple[int, int] | None:
    """Width and height in px as a file's header gives them; None where it cannot be read."""
    try:
        kind = picture_kind(read_regular(path, HEAD))
        with Image.open(path, formats=(kind,)) as image:
            return image.size
    except Exception:  # decoders of hostile files raise nearly anything
        return None


def _hash_or_none(file: str) -> str | None:
    try:
        return file_hash(file)
    except OSError:
        return None


def _shared(
    queries: Sequence[Hashable],
    references: Sequence[Hashable],
    differ: Callable[[int, int], bool] = lambda _q, _r: True,
    most: int | None = None,
) -> Iterable[Pair]:
    """Pairs of numbers with the same value, None apart, by query; the first `most` of each."""
    places = defaultdict(list)
    for r, value in enumerate(references):
        places[value].append(r)
    for q, value in enumerate(queries):
        if value is not None:
            found = (r for r in places.get(value, ()) if differ(q, r))
            yield from ((q, r) for _, r in zip(range(most or len(references)), found, strict=False))
