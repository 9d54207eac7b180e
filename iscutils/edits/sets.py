"""Make training sets: several edited copies of every photograph, as files or in tar shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from iscutils.edits.estimate import estimate
from iscutils.edits.folders import finish_folder, prepare_folder, write_csv
from iscutils.edits.making import (
    VERSION,
    Maker,
    Source,
    donor_pool,
    encode_jpeg,
    spread,
    stable_number,
)
from iscutils.edits.manifest import (
    PICTURES,
    Row,
    box_rows,
    describe,
    member_name,
    to_json,
    to_table,
    write_manifest,
)
from iscutils.edits.recipe_files import load_recipe
from iscutils.edits.recipes import Recipe
from iscutils.files.artifacts import KitError, atomic_path, content_key, log
from iscutils.files.executor import Executor
from iscutils.files.ids import file_name_of
from iscutils.files.images import ImageError, ImageSet

LAYOUTS = {"files": "images", "shards": "shards"}  # and the folder of the pictures
BLOCK = 256  # pictures of a folder of the layout "files", and of work that a kill can lose
LEAST_BLOCKS = 16  # of a small set, so that all workers have something to do
UNREADABLE = b"unreadable"  # in the metadata of a block's record: JSON rows


@dataclass(frozen=True)
class _Job:
    """What every block needs; sent to the workers once. size: photographs of a block."""

    maker: Maker
    folder: Path
    per_image: int
    layout: str
    quality: int
    size: int

    @property
    def blocks(self) -> range:
        return range(-(-len(self.maker.images) // self.size))

    def sources(self, block: int) -> range:
        return range(len(self.maker.images))[block * self.size : (block + 1) * self.size]

    def record(self, block: int) -> Path:
        return self.folder / "records" / f"{block:06d}.parquet"


def synthesise(
    images: ImageSet,
    recipe: Recipe | str,
    per_image: int,
    out: str | Path,
    *,
    seed: int = 0,
    executor: Executor,
    donors: ImageSet | None = None,
    layout: str = "files",
    shard: int = 2048,
    quality: int = 95,
    limit: int = 0,
    check_disc: bool = True,
) -> Path:
    """Make `per_image` edited copies of every photograph; return the folder of the set.

    Args:
        images: the photographs.
        recipe: how edits are drawn, or the name of a recipe. Copy 0 is made by its `original`, if
            it has one.
        per_image: copies of each photograph, 1 or more.
        out: the folder to write; finished blocks in it are kept, so that a killed call resumes.
            Work of other arguments in it is made anew; a folder of foreign files is refused.
        seed: a copy draws from `default_rng([seed, number of the photograph's id, copy])`: it is
            the same for any number of workers and whatever other photographs there are (only
            the donors are chosen among all).
        executor: from `open_executor`.
        donors: photographs for compositions; None for the images themselves (with a limit, for
            those that are not edited).
        layout: "files": `images/<block>/<id>_<copy>.jpg`; "shards": the same names, each followed
            by a `.json` with its manifest row, in `shards/000000.tar`.. in the form of WebDataset,
            in the order of the manifest (dots of an id become %2E there).
        shard: pictures of a shard, about: a photograph's copies stay together.
        quality: of the JPEG files, 1..100.
        limit: number of photographs to edit, evenly chosen, 0 = all.
        check_disc: raise `KitError` before the work when the disc is too small for the set.

    Writes beside the pictures `manifest.parquet` (see `read_manifest`); `scales.csv`
    (image,scale): the visible share of the photograph, 6 decimals; `boxes.csv`
    (image,class,x0,y0,x1,y1): overlays and stickers in px, upper bounds exclusive, pictures without
    any once with an empty class; `unreadable.csv` (image_id,file,reason): photographs that are
    left out. Raises `KitError` for arguments that cannot work.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    _check(images, per_image, layout, shard, quality, limit, seed)
    given = None if donors is None else donors.key()
    chosen, donors = choose_photographs(images, donors, limit)
    _check_donors(chosen, donors, recipe)
    key = content_key(
        VERSION, images.key(), given, recipe.key(), per_image,
        seed, layout, shard if layout == "shards" else 0, quality, limit,
    )  # fmt: skip
    folder = Path(out)
    if prepare_folder(folder, key, "training set"):
        return folder
    maker = Maker(chosen, donors, recipe, seed)
    size = _block_size(len(chosen), per_image, layout, shard)
    job = _Job(maker, folder, per_image, layout, quality, size)
    pending = [block for block in job.blocks if not job.record(block).exists()]
    if len(pending) < len(job.blocks):
        log.info(
            "%d of %d blocks are there already", len(job.blocks) - len(pending), job.blocks.stop
        )
    if pending:
        finished = len(chosen) - sum(len(job.sources(block)) for block in pending)
        expected = estimate(
            chosen, recipe, per_image, donors=donors, workers=executor.workers, seed=seed,
            quality=quality, layout=layout, out=folder, finished=finished,
        )  # fmt: skip
        log.info("%s", expected)
        if check_disc:
            expected.check(folder)
    pool = donor_pool(donors, recipe, folder, executor)
    job = _Job(Maker(chosen, donors, recipe, seed, pool), folder, per_image, layout, quality, size)
    for _ in executor.map(partial(_make_block, job), pending, desc="blocks of pictures"):
        pass
    _write_tables(job)
    state = {"recipe": recipe.name, "seed": seed, "source": recipe.source, "quality": quality}
    finish_folder(folder, state | {"layout": layout, "per_image": per_image})
    return folder


def choose_photographs(
    images: ImageSet, donors: ImageSet | None, limit: int
) -> tuple[ImageSet, ImageSet]:
    """The photographs to edit, `limit` of them at even distances, and the donors."""
    indices = spread(len(images), limit)
    if len(indices) == len(images):
        return images, images if donors is None else donors
    if donors is None:
        edited = set(indices)
        donors = images.subset(i for i in range(len(images)) if i not in edited)
    return images.subset(indices), donors


def _check(
    images: ImageSet, per_image: int, layout: str, shard: int, quality: int, limit: int, seed: int
) -> None:
    if not len(images):
        raise KitError("there are no photographs to edit: give a set of at least one")
    if layout not in LAYOUTS:
        raise KitError(f"layout '{layout}' is unknown; allowed: {', '.join(LAYOUTS)}")
    for name, value, least in (
        ("per_image", per_image, 1), ("shard", shard, 1), ("limit", limit, 0), ("seed", seed, 0),
    ):  # fmt: skip
        if value < least:
            raise KitError(f"{name}={value}: give a number of {least} or more")
    if not 1 <= quality <= 100:
        raise KitError(f"quality={quality}: give a number of 1 to 100")


def _check_donors(images: ImageSet, donors: ImageSet, recipe: Recipe) -> None:
    """A composition needs another photograph than the one it edits."""
    alone = len(donors) == 1 and donors.ids[0] in images.ids
    if recipe.needs_donors and (alone or not len(donors)):
        raise KitError(
            f"recipe '{recipe.name}' pastes other photographs, and there are {len(donors)} to "
            "choose from: give at least 2 photographs, or donors"
        )


def _block_size(number: int, per_image: int, layout: str, shard: int) -> int:
    """Photographs of a block; it must not depend on the workers, because names do on it."""
    if layout == "shards":
        return max(1, shard // per_image)
    return max(1, min(BLOCK // per_image, -(-number // LEAST_BLOCKS)))


def _make_block(job: _Job, block: int) -> None:
    """Make the pictures of a block, then its record: the block is finished when that is there."""
    unreadable: list[tuple[str, str, str]] = []
    file = f"{LAYOUTS[job.layout]}/{block:06d}" + (".tar" if job.layout == "shards" else "")
    with atomic_path(job.folder / file) as temporary:
        pictures = _pictures(job, block, unreadable)
        write = _write_files if job.layout == "files" else _write_shard
        rows = write(temporary, file, pictures)
    table = to_table(rows, PICTURES).replace_schema_metadata({UNREADABLE: to_json(unreadable)})
    with atomic_path(job.record(block)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _pictures(
    job: _Job, block: int, unreadable: list[tuple[str, str, str]]
) -> Iterator[tuple[Row, bytes]]:
    """Manifest row and JPEG bytes of every picture of a block, in order."""
    maker = job.maker
    for i in job.sources(block):
        try:
            source = maker.open(i)
        except ImageError as error:
            unreadable.append((maker.images.ids[i], str(maker.images.path(i) or ""), str(error)))
            continue
        for copy in range(job.per_image):
            yield _picture(job, source, copy)


def _picture(job: _Job, source: Source, copy: int) -> tuple[Row, bytes]:
    stream = (stable_number(source.name), copy)
    edited, donors = job.maker.edit(source, stream, original=copy == 0)
    row = describe(edited, source.name, (job.maker.seed, *stream), donors)
    row = {"image": f"{source.name}_{copy}", "file": "", "copy": copy} | row
    return row, encode_jpeg(edited.image, job.quality)


def _write_files(folder: Path, name: str, pictures: Iterator[tuple[Row, bytes]]) -> list[Row]:
    folder.mkdir()
    rows = []
    for row, data in pictures:
        file = f"{file_name_of(row['image'])}.jpg"
        (folder / file).write_bytes(data)
        rows.append(row | {"file": f"{name}/{file}"})
    return rows


def _write_shard(file: Path, name: str, pictures: Iterator[tuple[Row, bytes]]) -> list[Row]:
    rows = []
    with tarfile.open(file, "w") as tar:
        for row, data in pictures:
            rows.append(row | {"file": name})
            member = member_name(row["image"])
            _add(tar, f"{member}.jpg", data)
            _add(tar, f"{member}.json", to_json(rows[-1]).encode("utf-8"))
    return rows


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file without date and owner: the same pictures give the same tar."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _write_tables(job: _Job) -> None:
    """Write the tables of the set from the records of its blocks, one record at a time."""
    write_manifest(job.folder, PICTURES, _records(job))
    scales = (
        (row["image"], f"{row['visible']:.6f}")
        for table in _records(job)
        for row in table.select(["image", "visible"]).to_pylist()
    )
    write_csv(job.folder / "scales.csv", ("image", "scale"), scales)
    boxes = (
        line
        for table in _records(job)
        for row in table.select(["image", "boxes", "width", "height"]).to_pylist()
        for line in box_rows(row["image"], row["boxes"], (row["width"], row["height"]))
    )
    write_csv(job.folder / "boxes.csv", ("image", "class", "x0", "y0", "x1", "y1"), boxes)
    unreadable = [
        tuple(row)
        for block in job.blocks
        for row in json.loads(pq.read_schema(job.record(block)).metadata[UNREADABLE])
    ]
    write_csv(job.folder / "unreadable.csv", ("image_id", "file", "reason"), sorted(unreadable))
    if unreadable:
        log.warning("%d photographs could not be read, see unreadable.csv", len(unreadable))


def _records(job: _Job) -> Iterator[pa.Table]:
    for block in job.blocks:
        yield pq.read_table(job.record(block))
