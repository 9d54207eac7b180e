"""What the readers of official data sets share: `kind:DIR?option=value`, folders, zips, truth."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from iscutils.datasets.archives import ArchiveImages, member_names
from iscutils.evaluation.submissions import read_ground_truth
from iscutils.files.artifacts import KitError, file_hash, log, resolve
from iscutils.files.ids import stem_of
from iscutils.files.images import SUFFIXES, FileImages, ImageSet, scan_folder
from iscutils.files.scanning import warn

OPTIONS = {
    "disc21": ("split", "truth"),
    "ndec": ("references", "truth"),
    "copydays": ("distractors",),
}
_SPEC = re.compile(r"(?P<kind>\w+):(?P<folder>[^?]+)(?:\?(?P<options>\w+=.*))?")


@dataclass(frozen=True)
class Spec:
    """An official data set as a user names it: `disc21:DIR?split=dev2`."""

    kind: str
    folder: Path
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        options = "&".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.kind}:{self.folder}" + (f"?{options}" if options else "")

    def paths(self) -> list[Path]:
        """Folders and files on which the data set depends."""
        named = [self.options[name] for name in self.options if name != "split"]
        return [self.folder, *map(resolve, named)]


@dataclass(frozen=True)
class Found:
    """What a reader found: the parts of a benchmark, and remarks about them.

    `training` is None without training images. `notes` are values for a table of results;
    `problems` are sentences for a person; `missing` are ids that the truth names and that have no
    image; `places` are the folders and archives of each part.
    """

    name: str
    queries: ImageSet
    references: ImageSet
    training: ImageSet | None
    ground_truth: pd.DataFrame | None
    notes: dict[str, Any]
    places: dict[str, list[Path]]
    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def parse_spec(data: str | Path | ImageSet) -> Spec | None:
    """The official data set that a text names, None for anything else (a folder, `builtin`).

    Raises `KitError` for an unknown kind or option.
    """
    match = _SPEC.fullmatch(str(data)) if isinstance(data, str) else None
    if match is None or resolve(data).exists():
        return None
    kind = match["kind"]
    if kind not in OPTIONS:
        close = get_close_matches(kind, OPTIONS, n=1)
        hint = f"did you mean '{close[0]}:'?" if close else f"known: {', '.join(OPTIONS)}"
        raise KitError(f"'{data}' names no data set: {hint} (as in disc21:DIR), or give a folder")
    options = {}
    for part in filter(None, (match["options"] or "").split("&")):
        name, _, value = part.partition("=")
        if name not in OPTIONS[kind] or not value:
            known = ", ".join(f"{known}=..." for known in OPTIONS[kind])
            raise KitError(f"'{data}': '{part}' is no option of {kind}; known: {known}")
        options[name] = value
    return Spec(kind, resolve(match["folder"]), options)


def need_folder(spec: Spec) -> None:
    """Raise `KitError` unless the folder of the data set is there."""
    if not spec.folder.is_dir():
        what = "is a file" if spec.folder.exists() else "does not exist"
        raise KitError(f"{spec}: folder {spec.folder} {what}; give the folder of the data set")


def find_places(bases: Iterable[Path], names: Iterable[str]) -> list[Path]:
    """Folders of these names (wildcards allowed), and zip files of these names, in this order.

    A zip file beside a folder of its name is left out: that is its unpacked content.
    """
    bases, found = list(bases), []
    for name in names:
        for base in bases:
            folders = [path for path in sorted(base.glob(name)) if path.is_dir()]
            found += folders
            unpacked = {folder.name for folder in folders}
            zips = (path for path in sorted(base.glob(f"{name}.zip")) if path.is_file())
            found += [path for path in zips if path.stem not in unpacked]
    return list(dict.fromkeys(found))


def collect(
    places: Sequence[Path], keep: Callable[[str], bool] | None = None, prefix: str = ""
) -> ImageSet:
    """The images of folders and zip files by id, `keep(id)` deciding which; it may be empty.

    An id in several places counts once, from the first. Two files of one stem in one place are a
    `KitError`. `prefix` is put before each id.
    """
    found: dict[str, tuple[str, str]] = {}
    for place in places:
        here: dict[str, tuple[str, str]] = {}
        for file, member in list_images(place):
            identity = stem_of(member or file)
            if keep is not None and not keep(identity):
                continue
            if identity in here:
                raise KitError(
                    f"two images in {place} have the id '{identity}': {here[identity]} and "
                    f"{(file, member)}; remove one of them"
                )
            here[identity] = (file, member)
        found = here | found
    return image_set({prefix + identity: entry for identity, entry in found.items()})


def image_set(entries: Mapping[str, tuple[str, str]]) -> ImageSet:
    """Images of {id: (file, member of the archive or "")}, sorted by id."""
    ids = sorted(entries)
    files, members = ([entries[identity][k] for identity in ids] for k in (0, 1))
    return ArchiveImages(ids, files, members) if any(members) else FileImages(ids, files)


def entries_of(images: ImageSet) -> dict[str, tuple[str, str]]:
    """The inverse of `image_set`."""
    members = getattr(images, "members", [""] * len(images))
    return {i: entry for i, *entry in zip(images.ids, images.files, members, strict=True)}


def list_images(place: Path) -> Iterable[tuple[str, str]]:
    """(file, member or "") of the image files of a folder or zip file, sorted, hidden ones left.

    Files are known by their first bytes (see `scan_folder`), members of a zip file by their names.
    """
    if place.is_dir():
        files, left = scan_folder(place)
        warn(place, left)
        yield from ((file, "") for file in files)
    else:
        names = sorted(member_names(place))
        yield from ((str(place), name) for name in names if _is_image(name.rpartition("/")[2]))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def find_truth(
    bases: Iterable[Path], given: str | None, keep: Callable[[str], bool]
) -> tuple[pd.DataFrame | None, dict[str, str]]:
    """The rows of all truth files whose query `keep` wants, and {file name: SHA-256} of these.

    `given` names one file instead of looking for `*truth*.csv` and `*matches*.csv`. A query with
    different references in two files is a `KitError`: such files belong to different data.
    """
    if given is not None:
        files = [resolve(given)]
    else:
        patterns = ("*truth*.csv", "*matches*.csv")
        files = [file for base in bases for pattern in patterns for file in base.glob(pattern)]
    tables, hashes, said = [], {}, {}
    for file in sorted(set(files)):
        table = read_ground_truth(file)
        table = table[table["query_id"].map(keep)]
        if table.empty:
            continue
        own: dict[str, set[str]] = {}
        for query, reference in zip(table["query_id"], table["reference_id"], strict=True):
            own.setdefault(query, set()).add(reference)
        for query, references in own.items():
            if said.setdefault(query, (references, file))[0] != references:
                raise KitError(
                    f"{file} and {said[query][1]} disagree on query '{query}': remove the file of "
                    "the other data, or name one with ?truth=FILE"
                )
        tables.append(table)
        hashes[file.name] = file_hash(file)
    if not tables:
        return None, {}
    return pd.concat(tables).drop_duplicates(ignore_index=True), hashes


def reduce_truth(
    truth: pd.DataFrame | None, queries: Sequence[str], references: Sequence[str]
) -> tuple[pd.DataFrame | None, tuple[str, ...]]:
    """The truth of the images at hand, and the ids that it named without an image.

    Rows of queries without an image go; a query whose reference has no image becomes a distractor,
    as its original is not among the references. None where no true pair is left.
    """
    if truth is None:
        return None, ()
    no_query = ~truth["query_id"].isin(set(queries))
    no_reference = (truth["reference_id"] != "") & ~truth["reference_id"].isin(set(references))
    missing = set(truth["query_id"][no_query]) | set(truth["reference_id"][no_reference])
    kept = truth.assign(reference_id=truth["reference_id"].mask(no_reference, ""))[~no_query]
    # Of a query with several references those that are there suffice.
    answered = set(kept["query_id"][kept["reference_id"] != ""])
    kept = kept[(kept["reference_id"] != "") | ~kept["query_id"].isin(answered)]
    kept = kept.drop_duplicates(ignore_index=True)
    if not (kept["reference_id"] != "").any():
        return None, tuple(sorted(missing))
    return kept, tuple(sorted(missing))


def count_positives(truth: pd.DataFrame | None) -> int:
    """Number of true pairs."""
    return 0 if truth is None else int((truth["reference_id"] != "").sum())


def counts(
    queries: ImageSet,
    references: ImageSet,
    truth: pd.DataFrame | None,
    missing: Sequence[str],
    problems: Sequence[str],
    hashes: Mapping[str, str],
) -> dict[str, Any]:
    """What the notes of a set say of its size and truth, whichever set it is."""
    return {
        "complete": not problems,
        "queries": len(queries),
        "references": len(references),
        "positives": count_positives(truth),
        "missing": len(missing),
        "truth": hashes,
    }


def said_places(places: Mapping[str, Sequence[Path]], root: Path) -> str:
    """Where each part was found, in words."""
    texts = []
    for part, found in places.items():
        if found:
            first = os.path.relpath(found[0], root)
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            texts.append(f"{part} in {first}{more}")
    return ", ".join(texts)


def announce(found: Found) -> Found:
    """Log what was found and every problem; returns `found`."""
    log.info("%s", found.notes["summary"])
    for problem in found.problems:
        log.warning("%s: %s", found.name, problem)
    return found
