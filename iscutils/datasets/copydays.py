"""Copydays (Douze et al., CIVR 2009), and with distractors CD10K (docs/systems/sscd.md, section 8).

20 blocks of queries: the originals, 229 strong edits, nine JPEG qualities and nine crops of each
original; 3,212 queries in all (docs/evaluation.md, section 5).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iscutils.datasets import layouts
from iscutils.datasets.layouts import Found, Spec
from iscutils.files.artifacts import KitError, content_key, resolve
from iscutils.files.images import ImageSet

JPEG = (3, 5, 8, 10, 15, 20, 30, 50, 75)
CROPS = (10, 15, 20, 30, 40, 50, 60, 70, 80)
COUNTS = (
    {"original": 157, "strong": 229}
    | {f"jpegqual/{quality}": 157 for quality in JPEG}
    | {f"crops/{share}": 157 for share in CROPS}
)
TRAINING_FOLDERS = ("whitening", "train", "training")
DISTRACTORS = ("distractors",)
SAME = 4  # first characters of a name that a strong edit shares with its original


def find(spec: Spec) -> dict[str, list[Path]]:
    """Places of the blocks that are there, of distractors and of training images.

    Raises `KitError` without originals or without any edited block.
    """
    layouts.need_folder(spec)
    bases = [spec.folder, spec.folder / "copydays"]
    places = {}
    for block in COUNTS:
        first, _, rest = block.partition("/")
        names = [block] if rest else [first, f"copydays_{first}"]
        places[block] = layouts.find_places(bases, names)[:1]
    if not places["original"] or not any(places[b] for b in COUNTS if b != "original"):
        raise KitError(
            f"{spec}: {spec.folder} is no Copydays: expected original/, strong/, jpegqual/3/ ... "
            "and crops/10/ ... as folders"
        )
    given = spec.options.get("distractors")
    if given and not resolve(given).exists():
        raise KitError(f"{spec}: no distractors in {resolve(given)}: give a folder of images")
    places["distractors"] = [resolve(given)] if given else layouts.find_places(bases, DISTRACTORS)
    places["training"] = layouts.find_places(bases, TRAINING_FOLDERS)
    return places


def training(spec: Spec) -> ImageSet:
    """Images of the folder `whitening` (SSCD: 20,000 of YFCC100M); a `KitError` without them."""
    images = layouts.collect(find(spec)["training"])
    if not len(images):
        raise KitError(
            f"{spec}: no folder whitening/ in {spec.folder}: Copydays has no training images; "
            "give other photographs as train_images"
        )
    return images


def query_id(block: str, name: str) -> str:
    """Id of a query: names occur in many blocks, so that the block goes before it."""
    return f"{block.replace('/', '_')}_{name}"


def read(spec: Spec) -> Found:
    """All blocks as queries; the originals, and distractors where there are some, as references.

    True pairs: the original of the same place in its block, for `strong` all originals whose names
    begin with the same four characters. Blocks of another length than the originals go by name.
    """
    places = find(spec)
    blocks = {block: layouts.collect(places[block]) for block in COUNTS}
    originals = blocks["original"]
    if not len(originals):
        raise KitError(f"{spec}: {places['original'][0]} holds no images; unpack the originals")
    queries, rows, strangers = {}, [], []
    for block, images in blocks.items():
        entries = layouts.entries_of(images)
        for number, name in enumerate(images.ids):
            own = query_id(block, name)
            found = _originals(block, number, name, len(images), originals.ids)
            strangers += [own] * (not found)
            queries[own] = entries[name]
            rows += [(own, reference) for reference in found or [""]]
    distractors = layouts.collect(places["distractors"], prefix="distractor_")
    references = layouts.entries_of(originals) | layouts.entries_of(distractors)
    truth = pd.DataFrame(rows, columns=["query_id", "reference_id"])
    problems = _problems(blocks)
    if strangers:
        few = ", ".join(strangers[:3])
        problems.append(f"{len(strangers)} queries have no original, such as {few}: distractors")
    name = "CD10K" if len(distractors) == 10_000 else "copydays"
    count, positives = len(queries), layouts.count_positives(truth)
    full = sum(len(images) > 0 for images in blocks.values())
    notes = {
        "data": "copydays",
        "split": name,
        "naming": "INRIA",
        "complete": not problems,
        "queries": count,
        "references": len(references),
        "positives": positives,
        "blocks": full,
        "distractors": len(distractors),
        "distractor_names": content_key(distractors.ids) if len(distractors) else None,
        "missing": 0,
        "truth": {},
        "summary": f"{name}: {full} of {len(COUNTS)} blocks, {count} queries, {len(originals)} "
        f"originals and {len(distractors)} distractors",
    }
    groups = {
        "queries": [place for block in COUNTS for place in places[block]],
        "references": places["original"] + places["distractors"],
        "training": places["training"],
    }
    sets = layouts.image_set(queries), layouts.image_set(references)
    return Found(name, *sets, None, truth, notes, groups, tuple(problems))


def _originals(block: str, number: int, name: str, length: int, originals: list[str]) -> list[str]:
    """Ids of the originals of image `number` of a block."""
    if block == "strong":
        return [original for original in originals if original[:SAME] == name[:SAME]]
    if length == len(originals):
        return [originals[number]]
    return [name] if name in set(originals) else []


def _problems(blocks: dict[str, ImageSet]) -> list[str]:
    problems = []
    for block, wanted in COUNTS.items():
        if len(blocks[block]) != wanted:
            problems.append(f"block {block} has {len(blocks[block])} of {wanted} images")
    return problems
