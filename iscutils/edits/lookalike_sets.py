"""A folder of look-alikes and of true copies of some, to fit and to test verification with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from iscutils.edits import lookalikes, lookalikes_shown
from iscutils.edits.folders import write_csv
from iscutils.edits.lookalikes import Rng
from iscutils.files.artifacts import atomic_path
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet

FAMILIES = {
    family.__name__: family
    for family in (
        lookalikes.pages, lookalikes.letters, lookalikes.forms, lookalikes.chats,
        lookalikes.receipts, lookalikes_shown.screens, lookalikes_shown.slides,
        lookalikes_shown.goods, lookalikes_shown.cards, lookalikes_shown.frames,
        lookalikes_shown.charts, lookalikes_shown.maps,
    )
}  # fmt: skip
HELD_BACK = ("receipts", "charts", "cards")  # never fitted
FRAMED = ("screens", "frames")  # a photograph fills much of the picture
SPARSE = 0.35  # of these photographs


def photographed(picture: Image.Image, rng: Rng) -> Image.Image:
    """A photograph of a page or screen: turned, seen at an angle, shaded, blurred, noisy."""
    w, h = picture.size
    scale = min(1.0, rng.uniform(600, 1300) / max(w, h))
    w, h = round(w * scale), round(h * scale)
    pixels = np.asarray(picture.resize((w, h)), np.float32)
    angle, edge = np.deg2rad(rng.uniform(-7, 7)), rng.uniform(0.02, 0.12)
    square = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    seen = (square - [w / 2, h / 2]) @ turn.T + rng.uniform(-0.02, 0.02, (4, 2)) * max(w, h)
    seen = seen - seen.min(axis=0) + edge * max(w, h)
    size = tuple(np.ceil(seen.max(axis=0) + edge * max(w, h)).astype(int).tolist())
    matrix = cv2.getPerspectiveTransform(square, seen.astype(np.float32))
    table = rng.uniform(20, 200, 3).tolist()
    pixels = cv2.warpPerspective(pixels, matrix, size, borderValue=table)
    pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.6))
    light = np.linspace(rng.uniform(0.55, 1), rng.uniform(0.8, 1.1), size[0])[None, :, None]
    pixels = pixels * light + rng.normal(0, rng.uniform(1, 9), (size[1], size[0], 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def cropped(picture: Image.Image, rng: Rng) -> Image.Image:
    """A part of a third to nine tenths of each side."""
    w, h = picture.size
    size = rng.uniform(0.4, 0.9, 2) * [w, h]
    x, y = rng.uniform(0, 1, 2) * ([w, h] - size)
    return picture.crop((int(x), int(y), int(x + size[0]), int(y + size[1])))


def marked(picture: Image.Image, rng: Rng) -> Image.Image:
    """The same page with a stamp, a sentence or a drawn line more."""
    sheet = lookalikes.Sheet(rng)
    sheet.picture = picture.copy()
    sheet.pen = lookalikes.ImageDraw.Draw(sheet.picture)
    w, h = picture.size
    x, y = rng.uniform(0.1, 0.6) * w, rng.uniform(0.1, 0.8) * h
    kind = int(rng.integers(3))
    if kind == 0:
        sheet.emblem(int(rng.integers(10)), x, y, int(0.25 * min(w, h)))
    elif kind == 1:
        sheet.line(x, y, lookalikes.name_of(rng, 5), 1.3, True)
    else:
        walk = np.cumsum(rng.normal(0, 0.05, (9, 2)), axis=0) * [w, h] + [x, y]
        sheet.pen.line([tuple(p) for p in walk.tolist()], fill=sheet.accent, width=6)
    return sheet.picture


def shrunken(picture: Image.Image, rng: Rng) -> Image.Image:
    """A small version."""
    scale = rng.uniform(0.35, 0.8)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)))


def pasted(picture: Image.Image, rng: Rng) -> Image.Image:
    """The picture on a larger coloured ground, as in a post or a slide."""
    w, h = (np.array(picture.size) * rng.uniform(1.1, 1.7, 2)).astype(int).tolist()
    ground = Image.new("RGB", (w, h), tuple(rng.integers(0, 256, 3).tolist()))
    place = rng.uniform(0, 1, 2) * [w - picture.width, h - picture.height]
    ground.paste(picture, tuple(place.astype(int).tolist()))
    return ground


def sparse(photo: Image.Image, rng: Rng) -> Image.Image:
    """A picture that shows little: a dark one with some light, or a few marks on white."""
    gray = np.asarray(photo.convert("L"))
    gray = np.clip(3.0 * (gray - np.quantile(gray, rng.uniform(0.8, 0.97))), 0, 235)
    gray = 255 - gray if rng.random() < 0.5 else gray + 17
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")


def squeezed(photo: Image.Image, rng: Rng) -> Image.Image:
    """The picture in another shape: up to three times as wide or as high."""
    factor = 3 ** rng.uniform(-0.5, 0.5)
    return photo.resize((round(photo.width * factor), round(photo.height / factor)))


COPIED = 3  # pictures of a design that have copies
COPIES = (photographed, photographed, cropped, marked, shrunken, pasted)


def draw_lookalikes(
    photos: ImageSet,
    out: str | Path,
    executor: Executor,
    *,
    families: Sequence[str] = tuple(FAMILIES),
    designs: int = 6,
    each: int = 5,
    seed: int = 0,
) -> Path:
    """Folders OUT/<family>_<design> of `each` pictures, no two of them copies; returns OUT.

    OUT/true holds edited copies, two of each of the first three pictures of a design, and the
    photograph alone where one fills much of the picture, there sometimes squeezed; OUT/true.csv
    (query, reference: files relative to OUT) says of which. Photographs in the pictures are drawn
    from `photos`, some of them made sparse. The same seed draws the same pictures.
    """
    out = Path(out)
    jobs = [(family, design) for family in families for design in range(designs)]
    rows = executor.map(partial(_draw_design, photos, out, each, seed), jobs, desc="look-alikes")
    write_csv(out / "true.csv", ("query", "reference"), [row for part in rows for row in part])
    return out


def _draw_design(
    photos: ImageSet, out: Path, each: int, seed: int, job: tuple[str, int]
) -> list[tuple[str, str]]:
    family, design = job
    rng = np.random.default_rng([seed, list(FAMILIES).index(family), design])
    chosen = [photos.load(int(i)) for i in rng.choice(len(photos), each, replace=False)]
    framed = family in FRAMED
    chosen = [sparse(p, rng) if framed and rng.random() < SPARSE else p for p in chosen]
    squeezes = framed and rng.random() < 0.5
    draw, name, rows = FAMILIES[family](rng), f"{family}_{design:02d}", []
    for i, photo in enumerate(chosen):
        picture = draw(rng, squeezed(photo, rng) if squeezes else photo).copy()
        file = f"{name}/{name}_{i}.jpg"
        _save(picture, out / file, int(rng.integers(75, 95)))
        copies = [picture, picture] if i < COPIED else []
        if copies and framed:
            copies.append(photo)
        for k, copy in enumerate(copies):
            for edit in rng.choice(len(COPIES), int(rng.integers(1, 3)), replace=False):
                copy = COPIES[edit](copy, rng)
            copied = f"true/{name}_{i}_{k}.jpg"
            _save(copy, out / copied, int(rng.integers(40, 92)))
            rows.append((copied, file))
    return rows


def _save(picture: Image.Image, path: Path, quality: int) -> None:
    with atomic_path(path) as temporary:
        picture.convert("RGB").save(temporary, "JPEG", quality=quality)
