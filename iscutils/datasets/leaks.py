"""Images that two sets share, byte for byte: training on images of a test makes it worthless."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

from iscutils.datasets.archives import ArchiveImages
from iscutils.files.artifacts import KitError, log
from iscutils.files.images import ImageSet

MIDDLE = 4096  # bytes compared before a whole file is read


class _File(NamedTuple):
    """One image: its id, its file, and its zip member ("" = the file itself) with size and sum."""

    id: str
    file: str
    member: str
    size: int
    crc: int | None


def check_leaks(sets: Mapping[str, ImageSet], *, strict: bool = True) -> dict[str, int]:
    """Number of shared images of any two named sets; with `strict` one is a `KitError`.

    Name what may not meet, such as queries, references, background, pairs. The values of the
    result are those above 0, as "background, references": 3.
    """
    found, texts = {}, []
    for (ours, a), (theirs, b) in combinations(sets.items(), 2):
        shared = shared_images(a, b)
        if shared:
            found[f"{ours}, {theirs}"] = len(shared)
            examples = ", ".join(f"{x} = {y}" for x, y in shared[:3])
            texts.append(f"{ours} and {theirs} share {len(shared)} images, such as {examples}")
    if texts and strict:
        raise KitError(
            f"{'; '.join(texts)}: remove them from one of the sets, or pass strict=False to leave "
            "the protocol"
        )
    for text in texts:
        log.warning(text)
    return found


def shared_images(images: ImageSet, others: ImageSet) -> list[tuple[str, str]]:
    """(id, other id) of images with the same bytes, in files or in zip archives.

    Sizes come first, then 4 kB from the middle (the archive's check sum where zips are involved),
    and only what still agrees is hashed. Generated images are the same if their ids are.
    """
    ours, theirs = _files(images), _files(others)
    looks: list[Callable[[_File], object]] = [lambda file: file.size]
    zipped = any(file.member for file in ours) or any(file.member for file in theirs)
    looks += [_crc] if zipped else [_middle]
    for look in [*looks, _hash]:
        ours, theirs = _keep_matching(ours, theirs, look)
    known = {_hash(file): file.id for file in reversed(theirs)}
    drawn = set(_drawn(images)) & set(_drawn(others))
    return sorted([(file.id, known[_hash(file)]) for file in ours] + [(i, i) for i in drawn])


def _drawn(images: ImageSet) -> list[str]:
    """Ids of the images that are in no file."""
    if isinstance(images, ArchiveImages):
        return []
    return [name for i, name in enumerate(images.ids) if images.path(i) is None]


def _files(images: ImageSet) -> list[_File]:
    members = getattr(images, "members", None)
    directories: dict[str, dict[str, zipfile.ZipInfo]] = {}
    found = []
    for i, name in enumerate(images.ids):
        if members and members[i]:
            archive = images.files[i]
            if archive not in directories:
                with zipfile.ZipFile(archive) as file:
                    directories[archive] = {info.filename: info for info in file.infolist()}
            info = directories[archive][members[i]]
            found.append(_File(name, archive, members[i], info.file_size, info.CRC))
        elif images.path(i) is not None and os.path.isfile(images.path(i)):
            path = str(images.path(i))
            found.append(_File(name, path, "", os.path.getsize(path), None))
    return found


def _keep_matching(ours: list, theirs: list, look: Callable) -> tuple[list, list]:
    """The files of both lists whose `look(file)` occurs in the other list too."""
    a, b = [look(file) for file in ours], [look(file) for file in theirs]
    common = set(a) & set(b)
    keep = [[f for f, seen in zip(*both, strict=True) if seen in common]
            for both in ((ours, a), (theirs, b))]  # fmt: skip
    return keep[0], keep[1]


def _middle(file: _File) -> bytes:
    with open(file.file, "rb") as opened:
        opened.seek(file.size // 2)
        return opened.read(MIDDLE)


def _crc(file: _File) -> int:
    return zlib.crc32(_bytes(file)) if file.crc is None else file.crc


def _hash(file: _File) -> bytes:
    return hashlib.sha256(_bytes(file)).digest()


def _bytes(file: _File) -> bytes:
    if file.member:
        with zipfile.ZipFile(file.file) as archive:
            return archive.read(file.member)
    with open(file.file, "rb") as opened:
        return opened.read()
