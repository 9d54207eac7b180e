"""Ids of images: one function for the names of files and for texts in tables."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from iscutils.files.artifacts import KitError
from iscutils.files.formats import SUFFIXES

_ENDINGS = re.compile(r"(\s*\.(" + "|".join(s[1:] for s in sorted(SUFFIXES)) + r"))+$", re.I)
_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")  # they would end a line of a table
_SLASH = "%2F"  # of an id in the name of a file
_LONGEST = 240  # bytes of a name; file systems take 255, with an ending


def image_id(name: str | bytes | Path) -> str:
    """Image id of a file's name or of a text in a table.

    Picture endings go (all of them: `a.jpg.jpg` is `a`), with the folder before such a name, and
    blanks around it; other endings stay. Accents are composed (macOS stores them decomposed), bytes
    that are not UTF-8 become U+FFFD, line breaks blanks. The id of an id is that id itself.
    """
    text = name.decode("utf-8") if isinstance(name, bytes) else str(name)
    if not text.isascii():
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        text = unicodedata.normalize("NFC", text)
    text = _BREAKS.sub(" ", text).strip()
    bare = _ENDINGS.sub("", text)
    if bare != text:
        bare = bare.rpartition("/")[2].strip()
    return bare.replace(_SLASH, "/")


def file_name_of(identity: str) -> str:
    """Name of a file, without ending, for what belongs to an image; `image_id` gives its id again.

    Raises:
        KitError: the id is too long for a file name.
    """
    name = identity.replace("/", _SLASH)
    if len(os.fsencode(name)) > _LONGEST:
        raise KitError(f"id '{identity}' is too long for a file name: shorten names of its folders")
    return name


def picture_ending(file: str | Path) -> str:
    """Picture ending of a file with its dot, as it is written; "" for a file without."""
    ending = os.path.splitext(file)[1]
    return ending if ending.lower() in SUFFIXES else ""


def stem_of(file: str | Path) -> str:
    """Id of a file by its name alone."""
    return image_id(os.path.basename(file)) or "_"


def folder_ids(files: Sequence[str], folder: str | Path) -> list[str]:
    """Ids of the images of a folder, all different.

    They are names without ending. Where these repeat, they are paths in the folder without ending
    (`2023/IMG_0001`); where these repeat too, the ending stands behind (`a (jpg)`, `a (png)`), and
    then a number.
    """
    ids = [stem_of(file) for file in files]
    for form in (_path_id, _path_and_ending):
        repeated = {name for name, count in Counter(ids).items() if count > 1}
        if not repeated:
            return ids
        ids = [
            form(file, folder) if name in repeated else name
            for file, name in zip(files, ids, strict=True)
        ]
    return _numbered(ids)


def _path_id(file: str, folder: str | Path) -> str:
    inside = Path(os.path.relpath(os.path.dirname(file), folder)).as_posix()
    parts = [] if inside == "." else [image_id(part) or "_" for part in inside.split("/")]
    return "/".join([*parts, stem_of(file)])


def _path_and_ending(file: str, folder: str | Path) -> str:
    ending = picture_ending(file)
    return _path_id(file, folder) + (f" ({ending[1:]})" if ending else "")


def _numbered(ids: list[str]) -> list[str]:
    """Ids of which those that were there before get a number behind."""
    taken, found = set(ids), []
    seen: set[str] = set()
    for name in ids:
        number, other = 2, name
        while other in seen or (other != name and other in taken):
            other, number = f"{name} ({number})", number + 1
        seen.add(other)
        found.append(other)
    return found
