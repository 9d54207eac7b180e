"""Make a benchmark from photographs: edited queries with ground truth, in ISC layout."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from iscutils.artifacts import KitError, atomic_path, content_key, log, write_json
from iscutils.edits.queryset import (
    encode_query,
    finish_folder,
    place_reference,
    prepare_folder,
    read_manifest,
)
from iscutils.edits.recipes import Recipe, load_recipe
from iscutils.edits.record import Edited
from iscutils.edits.registry import apply, find_edit
from iscutils.executor import Executor
from iscutils.images import ImageError, ImageSet

VERSION = 1  # raise when an edit changes its pixels, so that finished folders are made anew
SIDE = 1024  # px; larger sources and donors are shrunk first (recorded as the operation `fit`)
MIN_VISIBLE = 0.05  # with less of the original in sight nobody could call the query a copy
ATTEMPTS = 20
DONORS = 3  # photographs at hand for the compositions of one query


@dataclass(frozen=True)
class _Plan:
    """One query to make: its number, and its source as an index into references or distractors."""

    index: int
    query_id: str
    positive: bool
    source: int


@dataclass(frozen=True)
class _Job:
    """What every query needs; sent to the workers once."""

    images: ImageSet
    distractors: ImageSet
    recipe: Recipe
    seed: int
    folder: Path


def synthesise_queries(
    images: ImageSet,
    distractors: ImageSet,
    recipe: Recipe | str,
    out: str | Path,
    *,
    positives: int,
    negatives: int,
    seed: int,
    executor: Executor,
    originals: Collection[str] | None = None,
) -> Path:
    """Edit photographs into a query set with ground truth; return its folder, in ISC layout.

    Args:
        images: all become references (hard links where possible, else copies; generated ones PNG).
        distractors: other photographs: sources of the negative queries, donors of compositions.
        recipe: how edits are drawn, or the name of a recipe.
        out: the folder to write; finished queries in it are kept, so that a killed call resumes.
            Work of other arguments in it is made anew; a folder of foreign files is refused.
        positives: edited references, each reference at most once.
        negatives: edited distractors, whose `reference_id` is empty.
        seed: query i draws from `default_rng([seed, i])`: any number of workers, the same bytes.
        executor: from `open_executor`.
        originals: ids of the references that may become queries; None for all.

    Writes `queries/Q00000.jpg`.., `references/`, `ground_truth.csv`, `edits.csv`, `manifest.csv`
    (see `read_manifest`) and `unreadable.csv` (image_id,file,reason); an unreadable source is
    replaced by another. Raises `KitError` for too few photographs.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    order, spares = _order(images, distractors, recipe, positives, negatives, seed, originals)
    folder = Path(out)
    key = content_key(
        VERSION, images.key(), distractors.key(), recipe.key(), positives, negatives, seed,
        None if originals is None else sorted(originals),
    )  # fmt: skip
    if prepare_folder(folder, key):
        return folder
    job = _Job(images, distractors, recipe, seed, folder)
    unreadable = _make_all(job, order, spares, executor)
    placed = executor.map(
        partial(place_reference, images, folder / "references"), range(len(images)),
        desc="references", chunk=32,
    )  # fmt: skip
    unreadable.update(row for row in placed if row)
    state = {"key": key, "recipe": recipe.name, "seed": seed}
    finish_folder(folder, state, unreadable)
    return folder


def _order(
    images: ImageSet,
    distractors: ImageSet,
    recipe: Recipe,
    positives: int,
    negatives: int,
    seed: int,
    originals: Collection[str] | None,
) -> tuple[list[_Plan], dict[bool, deque[int]]]:
    """Which source makes which query, and the sources left to replace unreadable ones."""
    if min(positives, negatives, seed) < 0 or positives + negatives == 0:
        raise KitError(
            f"positives={positives}, negatives={negatives}, seed={seed}: give numbers of 0 or "
            "more, and at least one query"
        )
    files = {str(distractors.path(i)) for i in range(len(distractors)) if distractors.path(i)}
    shared = [i for i in range(len(images)) if str(images.path(i)) in files]
    if shared:
        raise KitError(
            f"{len(shared)} photographs are both references and distractors, such as "
            f"{images.path(shared[0])}: give separate photographs"
        )
    allowed = None if originals is None else set(originals)
    eligible = [i for i, name in enumerate(images.ids) if allowed is None or name in allowed]
    for name, number, there in (
        ("positives", positives, len(eligible)),
        ("negatives", negatives, len(distractors)),
    ):
        if number > there:
            kind = "reference" if name == "positives" else "distractor"
            raise KitError(
                f"{name}={number}, but there are only {there} {kind} photographs and each is used "
                f"once: lower {name} to {there} or give more photographs"
            )
    needed = (2 if negatives else 1) if recipe.needs_donors else 0
    if len(distractors) < needed:
        raise KitError(
            f"recipe '{recipe.name}' pastes other photographs: it needs at least {needed} "
            f"distractor photographs, not {len(distractors)}"
        )
    rng = np.random.default_rng([seed, 0, 1])  # a stream of its own, beside [seed, index]
    own, other = rng.permutation(eligible), rng.permutation(len(distractors))
    digits = max(5, len(str(positives + negatives - 1)))
    # Positives and negatives are mixed: the number of a query must not give it away.
    sources = [(True, int(i)) for i in own[:positives]]
    sources += [(False, int(i)) for i in other[:negatives]]
    mixed = rng.permutation(len(sources))
    plans = [_Plan(n, f"Q{n:0{digits}d}", *sources[k]) for n, k in enumerate(mixed)]
    spares = {True: deque(own[positives:].tolist()), False: deque(other[negatives:].tolist())}
    return plans, spares


def _make_all(
    job: _Job, plans: list[_Plan], spares: dict[bool, deque[int]], executor: Executor
) -> set[tuple[str, str, str]]:
    """Make the queries; sources that cannot be read are replaced, and returned as rows."""
    unreadable: set[tuple[str, str, str]] = set()
    missing = 0
    while plans:
        reasons = executor.map(partial(_make, job), plans, desc="queries", chunk=4)
        again = []
        for plan, reason in zip(plans, reasons, strict=True):
            if not reason:
                continue
            sources = job.images if plan.positive else job.distractors
            file = str(sources.path(plan.source) or "")
            unreadable.add((sources.ids[plan.source], file, reason))
            if spares[plan.positive]:
                again.append(replace(plan, source=spares[plan.positive].popleft()))
            else:
                missing += 1
        plans = again
    if missing:
        log.warning("%d queries not made: no readable photograph left for them", missing)
    return unreadable


def _make(job: _Job, plan: _Plan) -> str:
    """Make one query unless it is there; return '' or why its source cannot be read."""
    record_file = job.folder / "records" / f"{plan.query_id}.json"
    image_file = job.folder / "queries" / f"{plan.query_id}.jpg"
    sources = job.images if plan.positive else job.distractors
    source_id = sources.ids[plan.source]
    if image_file.exists() and record_file.exists():
        former = json.loads(record_file.read_text(encoding="utf-8"))
        if former["source_id"] == source_id:
            return ""
    try:
        image = sources.load(plan.source)
    except ImageError as error:
        return str(error)
    edited, donors = _edit(job, plan, image)
    with atomic_path(image_file) as temporary:
        temporary.write_bytes(encode_query(edited.image))
    record = {
        "query_id": plan.query_id,
        "reference_id": source_id if plan.positive else "",
        "source_id": source_id,
        "seed": [job.seed, plan.index],
        "operations": edited.operations,
        "donors": donors,
        "visible": round(edited.visible, 6),
        "homography": edited.homography,
        "polygon": np.round(edited.polygon, 2),
    }
    write_json(record_file, record)  # last: a query counts as finished when its record is there
    return ""


def _edit(job: _Job, plan: _Plan, image: Image.Image) -> tuple[Edited, list[str]]:
    """Draw edits until enough of the photograph is visible; also the ids of the donors used."""
    rng = np.random.default_rng([job.seed, plan.index])
    first = [("fit", {"side": SIDE})] if max(image.size) > SIDE else []
    own = None if plan.positive else plan.source
    candidates = [int(i) for i in rng.integers(0, max(1, len(job.distractors)), 8 * DONORS)]
    ids: list[str] = []
    donors: list[Image.Image] = []
    for _ in range(ATTEMPTS):
        operations = [*first, *job.recipe.sample(rng)]
        if any(find_edit(name).needs_donor for name, _ in operations) and not donors:
            ids, donors = _load_donors(job.distractors, candidates, own)
        edited = apply(image, operations, donors)
        if edited.visible >= MIN_VISIBLE:
            return edited, ids
    raise KitError(
        f"recipe '{job.recipe.name}' left under {MIN_VISIBLE:.0%} of {plan.query_id}'s photograph "
        f"visible in {ATTEMPTS} draws: make its crops and compositions milder"
    )


def _load_donors(
    distractors: ImageSet, candidates: list[int], own: int | None
) -> tuple[list[str], list[Image.Image]]:
    ids, donors = [], []
    every = [*candidates, *range(len(distractors))]  # the latter in case all drawn ones are broken
    for i in dict.fromkeys(i for i in every if i != own):
        try:
            donors.append(_load_donor(distractors, i))
        except ImageError:
            continue
        ids.append(distractors.ids[i])
        if len(donors) == DONORS:
            break
    if not donors:
        raise KitError(
            f"none of the {len(distractors)} distractor photographs can be read, and "
            "compositions need one: give other photographs"
        )
    return ids, donors


def _load_donor(distractors: ImageSet, i: int) -> Image.Image:
    donor = distractors.load(i, min_side=SIDE // 2)
    donor.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    return donor


def repeat_query(
    folder: str | Path, query_id: str, images: ImageSet, distractors: ImageSet
) -> Edited:
    """Make one query again from its manifest row and the photographs it was made from."""
    table = read_manifest(folder).set_index("query_id")
    if query_id not in table.index:
        raise KitError(f"query '{query_id}' is not in {Path(folder) / 'manifest.csv'}")
    row = table.loc[query_id]
    sources = images if row.reference_id else distractors
    for name, where in ((row.source_id, sources), *((name, distractors) for name in row.donors)):
        if name not in where.ids:
            raise KitError(f"photograph '{name}' of {query_id} is missing in the given images")
    donors = [_load_donor(distractors, distractors.ids.index(name)) for name in row.donors]
    return apply(sources.load(sources.ids.index(row.source_id)), row.operations, donors)


def count_repeated(
    folder: str | Path, images: ImageSet, distractors: ImageSet, limit: int = 10
) -> tuple[int, int]:
    """Make the first queries again: (how many have the bytes of their file, how many were made)."""
    query_ids = read_manifest(folder)["query_id"][:limit]
    equal = 0
    for query_id in query_ids:
        again = encode_query(repeat_query(folder, query_id, images, distractors).image)
        equal += again == (Path(folder) / "queries" / f"{query_id}.jpg").read_bytes()
    return equal, len(query_ids)
