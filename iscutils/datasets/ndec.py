"""NDEC (Wang et al., AAAI 2023): hard negative queries against the references of DISC21.

Counts and files: docs/systems/asl.md, section 3. Its query ids look like those of DISC21 and mean
other pictures: never mix the two.
"""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from iscutils.datasets import disc21, layouts
from iscutils.datasets.layouts import Found, Spec
from iscutils.files.artifacts import KitError, atomic_path, log, resolve
from iscutils.files.executor import Executor
from iscutils.files.ids import stem_of
from iscutils.files.images import FileImages, ImageSet, find_unreadable

QUERIES, POSITIVES, REFERENCES = 49_252, 5_009, 1_000_000
QUERY_FOLDERS = ("NDEC_test_query", "query_images_h5", "queries", "query_images")
PAIR_FOLDERS = ("negative_pair", "negative_pairs", "pairs")
PAIR_COLUMNS = ("pair_id", "image_a", "image_b")


def find(spec: Spec) -> dict[str, list[Path]]:
    """Folders and archives of queries, references, training images and pairs.

    References and training images lie in `DISC/` in any naming of DISC21, beside the queries, or in
    the folder that the option `references` names. Raises `KitError` without queries or references.
    """
    layouts.need_folder(spec)
    places = {"queries": layouts.find_places([spec.folder], QUERY_FOLDERS)[:1]}
    if not places["queries"]:
        raise KitError(
            f"{spec}: no queries in {spec.folder}; expected a folder or zip file "
            f"{', '.join(QUERY_FOLDERS)} (unpack query_images_h5.tar)"
        )
    roots = _disc_roots(spec)
    for part in ("references", "training"):
        names = [name for naming in disc21.NAMINGS.values() for name in naming[part]]
        places[part] = layouts.find_places(roots, dict.fromkeys(names))
    if not places["references"] and "references" in spec.options:
        own = resolve(spec.options["references"])  # the images themselves
        places["references"] = [own] if own.exists() else []
    if not places["references"]:
        raise KitError(
            f"{spec}: no references; put DISC21 into {spec.folder / 'DISC'}, or name its folder "
            f"with ndec:{spec.folder}?references=DIR"
        )
    places["pairs"] = [p for p in layouts.find_places([spec.folder], PAIR_FOLDERS) if p.is_dir()]
    return places


def _disc_roots(spec: Spec) -> list[Path]:
    if "references" in spec.options:
        return disc21.bases(resolve(spec.options["references"]))
    return [*disc21.bases(spec.folder / "DISC"), *disc21.bases(spec.folder)]


def training(spec: Spec) -> ImageSet:
    """The training images of DISC21; a `KitError` if there are none."""
    images = layouts.collect(find(spec)["training"])
    if not len(images):
        raise KitError(f"{spec}: no training images; put them into {spec.folder / 'DISC'}/train")
    return images


def read(spec: Spec) -> Found:
    """Queries, references and truth of NDEC, complete or a part of them."""
    places = find(spec)
    queries, references = (layouts.collect(places[p]) for p in ("queries", "references"))
    for part, images in (("queries", queries), ("references", references)):
        if not len(images):
            raise KitError(f"{spec}: {places[part][0]} holds no images; unpack the {part}")
    full, hashes = layouts.find_truth([spec.folder], spec.options.get("truth"), lambda _: True)
    truth, missing = layouts.reduce_truth(full, queries.ids, references.ids)
    problems = _problems(len(queries), len(references), full, missing)
    counts = layouts.counts(queries, references, truth, missing, problems, hashes)
    where = layouts.said_places(places, spec.folder)
    notes = {
        "data": "ndec",
        "split": "all",
        "naming": places["queries"][0].name,
        **counts,
        "summary": f"ndec: {where}; {len(queries)} queries, {len(references)} references, "
        f"{counts['positives']} true pairs",
    }
    return Found("ndec", queries, references, None, truth, notes, places, tuple(problems), missing)


def _problems(queries: int, references: int, truth: pd.DataFrame | None, missing) -> list[str]:
    problems = []
    if queries != QUERIES:
        problems.append(f"{queries} of {QUERIES} queries are there: results are of a subset")
    if references != REFERENCES:
        problems.append(f"{references} of {REFERENCES} references are there: results are easier")
    if truth is None:
        return [*problems, "no ground truth: put public_ground_truth_h5.csv into the folder"]
    listed, found = truth["query_id"].nunique(), layouts.count_positives(truth)
    if listed > QUERIES:
        problems.append(f"the truth lists {listed} queries, more than {QUERIES}: wrong file?")
    if queries == QUERIES and found != POSITIVES:
        problems.append(f"the truth has {found} true pairs instead of {POSITIVES}: wrong file?")
    if missing:
        few = ", ".join(missing[:3])
        problems.append(f"{len(missing)} images of the truth are missing, such as {few}: left out")
    return problems


def index_pairs(folder: str | Path, out: str | Path, executor: Executor) -> Path:
    """Write `pair_id,image_a,image_b` of the hard negative training pairs; return the CSV.

    A pair is a sub-folder with two images, or two files `<pair>_<x>` of one folder, such as 7_a.jpg
    and 7_b.jpg. Paths are relative to `folder`. Pairs with an unreadable image, and images without
    a partner, go to `<out>.skipped.csv` (pair_id,file,reason). A file that is there is kept.
    """
    folder, out = resolve(folder), Path(out)
    if out.exists():
        log.info("%s is there already", out.name)
        return out
    files = [os.path.relpath(file, folder) for file in entries(folder)]
    lengths = Counter(map(os.path.dirname, files))
    groups: dict[str, list[str]] = defaultdict(list)
    for file in files:
        parent, stem = os.path.dirname(file), stem_of(file)
        alone = parent and lengths[parent] == 2  # a folder for each pair
        name = parent if alone else os.path.join(parent, stem.rpartition("_")[0] or stem)
        groups[name].append(file)
    pairs = {name: sorted(files) for name, files in groups.items() if len(files) == 2}
    skipped = [
        (name, file, "no pair of two images")
        for name, files in groups.items()
        if len(files) != 2
        for file in files
    ]
    files = [file for pair in pairs.values() for file in pair]
    bad = find_unreadable(FileImages(files, [folder / file for file in files]), executor)
    reasons = {file: reason for file, _, reason in bad}
    for name, pair in list(pairs.items()):
        broken = [(name, file, reasons[file]) for file in pair if file in reasons]
        skipped += broken
        if broken:
            del pairs[name]
    if not pairs:
        raise KitError(f"{folder} holds no readable pairs: unpack negative_pair.tar there")
    if skipped:
        log.warning("%d images of pairs left out, see %s.skipped.csv", len(skipped), out)
        _write(out.with_name(out.name + ".skipped.csv"), ("pair_id", "file", "reason"), skipped)
    return _write(out, PAIR_COLUMNS, [(name, *pair) for name, pair in sorted(pairs.items())])


def entries(folder: Path) -> list[str]:
    """Paths of the images below a folder; a `KitError` if there are none."""
    found = [file for file, _ in layouts.list_images(folder)] if folder.is_dir() else []
    if not found:
        raise KitError(f"pairs folder {folder} holds no images: unpack negative_pair.tar there")
    return found


def read_pairs(path: str | Path) -> pd.DataFrame:
    """Read an index of pairs: pair_id, image_a, image_b as texts.

    Raises `KitError` for other columns and for pair ids that occur twice.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read {path} ({error}): make it with index_pairs") from error
    if list(table.columns[:3]) != list(PAIR_COLUMNS) or table["pair_id"].duplicated().any():
        raise KitError(f"{path}: expected columns {','.join(PAIR_COLUMNS)} and each pair_id once")
    return table


def _write(path: Path, header, rows) -> Path:
    with atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
    return path
