"""Make a benchmark from photographs: edited queries with ground truth, in ISC layout."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from iscutils.edits.folders import finish_folder, prepare_folder
from iscutils.edits.making import VERSION, Maker, donor_pool
from iscutils.edits.manifest import describe
from iscutils.edits.queryset import QUALITY, encode_query, place_reference, write_tables
from iscutils.edits.recipe_files import load_recipe
from iscutils.edits.recipes import Recipe
from iscutils.files.artifacts import KitError, atomic_path, content_key, log, write_json
from iscutils.files.executor import Executor
from iscutils.files.images import ImageError, ImageSet


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

    positive: Maker  # of the references
    negative: Maker  # of the distractors
    folder: Path

    def maker(self, plan: _Plan) -> Maker:
        return self.positive if plan.positive else self.negative


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

    Writes `queries/Q00000.jpg`.., `references/`, `ground_truth.csv`, `edits.csv`,
    `manifest.parquet` (see `read_manifest`) and `unreadable.csv` (image_id,file,reason); an
    unreadable source is replaced by another. Raises `KitError` for too few photographs.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    order, spares = _order(images, distractors, recipe, positives, negatives, seed, originals)
    folder = Path(out)
    key = content_key(
        VERSION, images.key(), distractors.key(), recipe.key(), positives, negatives, seed,
        None if originals is None else sorted(originals),
    )  # fmt: skip
    if prepare_folder(folder, key, "query set"):
        return folder
    for name in ("queries", "references", "records"):
        (folder / name).mkdir(exist_ok=True)
    pool = donor_pool(distractors, recipe, folder, executor)
    makers = (Maker(own, distractors, recipe, seed, pool) for own in (images, distractors))
    job = _Job(*makers, folder)
    unreadable = _make_all(job, order, spares, executor)
    placed = executor.map(
        partial(place_reference, images, folder / "references"), range(len(images)),
        desc="references", chunk=32,
    )  # fmt: skip
    unreadable.update(row for row in placed if row)
    write_tables(folder, unreadable)
    state = {"recipe": recipe.name, "seed": seed, "source": recipe.source, "quality": QUALITY}
    finish_folder(folder, state)
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
            sources = job.maker(plan).images
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
    maker = job.maker(plan)
    source_id = maker.images.ids[plan.source]
    if image_file.exists() and record_file.exists():
        former = json.loads(record_file.read_text(encoding="utf-8"))
        if former["source_id"] == source_id:
            return ""
    try:
        edited, donors = maker.make(plan.source, (plan.index,))
    except ImageError as error:
        return str(error)
    with atomic_path(image_file) as temporary:
        temporary.write_bytes(encode_query(edited.image))
    record = {
        "query_id": plan.query_id,
        "reference_id": source_id if plan.positive else "",
        **describe(edited, source_id, (maker.seed, plan.index), donors),
    }
    write_json(record_file, record)  # last: a query counts as finished when its record is there
    return ""
