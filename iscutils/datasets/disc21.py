"""DISC21, the data of the Image Similarity Challenge 2021, in any folder naming in use.

Counts: docs/evaluation.md, section 5. Images may lie in folders or in the zip files as they were
downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from iscutils.datasets import layouts
from iscutils.datasets.layouts import Found, Spec
from iscutils.files.artifacts import KitError
from iscutils.files.images import ImageSet

# First and last query, and how many of them have an original.
SPLITS = {
    "dev": (0, 49_999, 10_000),
    "dev1": (0, 24_999, 4_991),
    "dev2": (25_000, 49_999, 5_009),
    "test": (50_000, 99_999, 10_000),
    # The queries of dev1 with an original, and their originals alone: official baselines are
    # reported on it.
    "subset_1": (0, 24_999, 4_991),
}
SUBSET = "subset_1"
REFERENCES = TRAINING = 1_000_000
# Folder names of each naming; a zip file of the same name is as good.
NAMINGS = {
    "challenge": {
        "queries": ("query_images", "query_images_phase2"),
        "references": ("reference_images",),
        "training": ("training_images",),
    },
    "official documents": {
        "queries": ("queries", "test_queries"),
        "references": ("references",),
        "training": ("train",),
    },
    "SSCD": {"queries": ("val_query",), "references": ("val_ref",), "training": ("training",)},
    "RDCD": {
        "queries": ("dev_queries", "test_queries"),
        "references": ("references",),
        "training": ("train",),
    },
    "download": {
        "queries": ("dev_queries_50k_*", "test_queries_50k_*"),
        "references": ("refs_50k_*",),
        "training": ("train_50k_*",),
    },
}
_QUERY = re.compile(r"Q(\d{5})")


def find(spec: Spec) -> tuple[str, dict[str, list[Path]]]:
    """Name of the naming in use, and the folders and archives of queries, references, training.

    Raises `KitError`, with the names that were looked for, if there are no queries or references.
    """
    layouts.need_folder(spec)
    split_of(spec)
    return find_naming(spec, bases(spec.folder))


def find_naming(spec: Spec, roots: list[Path]) -> tuple[str, dict[str, list[Path]]]:
    """`find` below these folders."""
    places, counts = {}, {}
    for part in ("queries", "references", "training"):
        names = dict.fromkeys(n for naming in NAMINGS.values() for n in naming[part])
        places[part] = layouts.find_places(roots, names)
        if not places[part] and part != "training":
            raise KitError(
                f"{spec}: no {part} in {spec.folder}; expected a folder or zip file "
                f"{', '.join(names)} (or the like in images/)"
            )
    for naming, parts in NAMINGS.items():
        stems = {part: [p.name.removesuffix(".zip") for p in places[part]] for part in parts}
        counts[naming] = sum(
            any(Path(stem).match(name) for name in names)
            for part, names in parts.items()
            for stem in stems[part]
        )
    return max(counts, key=counts.get), places


def bases(folder: Path) -> list[Path]:
    """Where image folders and truth files lie."""
    return [folder, folder / "images", folder / "ground_truth"]


def split_of(spec: Spec) -> str:
    """The split that a data parameter names, "dev" unless it says another one."""
    split = spec.options.get("split", "dev")
    if split not in SPLITS:
        raise KitError(f"{spec}: no split '{split}'; choose one of {', '.join(SPLITS)}")
    return split


def in_split(query: str, split: str) -> bool:
    """Whether a query id, Q00000 to Q99999, belongs to a split."""
    match, (first, last, _) = _QUERY.fullmatch(query), SPLITS[split]
    return bool(match) and first <= int(match[1]) <= last


def training(spec: Spec) -> ImageSet:
    """The training images, for training and as background; a `KitError` if there are none."""
    layouts.need_folder(spec)
    names = [name for naming in NAMINGS.values() for name in naming["training"]]
    places = layouts.find_places(bases(spec.folder), dict.fromkeys(names))
    images = layouts.collect(places)
    if not len(images):
        raise KitError(
            f"{spec}: no training images in {spec.folder}; expected a folder or zip file "
            f"{', '.join(dict.fromkeys(names))}, or give other images as train_images"
        )
    return images


def read(spec: Spec) -> Found:
    """Queries and references of a split and their truth, complete or a part of them.

    The truth is what all `*truth*.csv` and `*matches*.csv` say of the split's queries, with or
    without header, all queries or positives only. Queries without an image leave it.
    """
    naming, places = find(spec)
    split = split_of(spec)
    everyone = layouts.collect(places["queries"], _QUERY.fullmatch)
    queries = everyone.subset(i for i, q in enumerate(everyone.ids) if in_split(q, split))
    if not len(queries):
        raise KitError(
            f"{spec}: none of the {len(everyone)} query images belongs to split '{split}' (Q"
            f"{SPLITS[split][0]:05d} to Q{SPLITS[split][1]:05d}); choose another split"
        )
    if _holds_all(places["queries"], everyone.ids):
        naming = "CopyNCE"
    references = layouts.collect(places["references"])
    if not len(references):
        raise KitError(f"{spec}: {places['references'][0]} holds no images; unpack the references")
    given = spec.options.get("truth")
    roots = bases(spec.folder)
    full, hashes = layouts.find_truth(roots, given, lambda query: in_split(query, split))
    truth, missing = layouts.reduce_truth(full, queries.ids, references.ids)
    if split == SUBSET:
        queries, references, truth = _positives_alone(spec, queries, references, truth)
    problems = _problems(split, len(queries), len(references), full, missing)
    counts = layouts.counts(queries, references, truth, missing, problems, hashes)
    where = layouts.said_places(places, spec.folder)
    notes = {
        "data": "disc21",
        "split": split,
        "naming": naming,
        **counts,
        "summary": f"disc21, split {split}, naming {naming}: {where}; {len(queries)} queries, "
        f"{len(references)} references, {counts['positives']} true pairs",
    }
    name = f"disc21-{split}"
    return Found(name, queries, references, None, truth, notes, places, tuple(problems), missing)


def _positives_alone(
    spec: Spec, queries: ImageSet, references: ImageSet, truth: pd.DataFrame | None
) -> tuple[ImageSet, ImageSet, pd.DataFrame]:
    """Queries that have an original, originals, and the truth of these."""
    if truth is None:
        raise KitError(f"{spec}: split {SUBSET} follows from the ground truth: put its CSV there")
    truth = truth[truth.reference_id != ""].reset_index(drop=True)
    sides = []
    for images, column in ((queries, truth.query_id), (references, truth.reference_id)):
        wanted = set(column)
        sides.append(images.subset([i for i, n in enumerate(images.ids) if n in wanted]))
    return *sides, truth


def _holds_all(places: list[Path], ids: list[str]) -> bool:
    """Whether one folder `query_images` has development and test queries, as CopyNCE wants it."""
    names = [place.name.removesuffix(".zip") for place in places]
    return names == ["query_images"] and len({int(q[1:]) >= 50_000 for q in ids}) == 2


def _problems(split: str, queries: int, references: int, truth, missing) -> list[str]:
    """What a complete set would not have; also wrong counts of a complete truth."""
    first, last, positives = SPLITS[split]
    wanted, found = last - first + 1, layouts.count_positives(truth)
    all_references = REFERENCES
    if split == SUBSET:
        wanted = all_references = positives
    problems = []
    if queries != wanted:
        problems.append(f"{queries} of {wanted} queries are there: results are of a subset")
    if references != all_references:
        problems.append(
            f"{references} of {all_references} references are there: results are easier"
        )
    if truth is None:
        problems.append(f"no ground truth of split {split}: put its CSV into the folder")
        return problems
    listed = truth["query_id"].nunique()
    if listed == wanted and found != positives:
        problems.append(f"the truth has {found} true pairs instead of {positives}: wrong file?")
    answered = truth["query_id"][truth["reference_id"] != ""].nunique()
    if listed == answered < wanted and split != SUBSET:
        problems.append(f"the truth lists {listed} queries, all with an original: others count as")
        problems[-1] += " false, unless unlisted='drop'"
    if missing:
        few = ", ".join(missing[:3])
        problems.append(f"{len(missing)} images of the truth are missing, such as {few}: left out")
    return problems
