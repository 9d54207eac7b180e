"""Parts of an image: which boxes D2LV describes beside the whole picture, and cutting them.

A part has a number, a box in whole pixels of the upright original and a quarter turn. Borders at
fractions of a side are truncated. Source: the numbers of D2LV's public test code, see `query_parts`
and `reference_parts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from iscutils.descriptors.regions import find_regions
from iscutils.files.artifacts import KitError
from iscutils.files.images import ImageError, ImageSet
from iscutils.files.prepare import VARIANTS, prepare, vary

PARTS = ("whole", "query", "reference")
# Ways to ask with a query, and the numbers of the parts they stand for; see `way_parts`.
WAYS = {
    "whole": (0,), "tiles": (30, 31, 32, 33), "centre": (34,), "inverted": (40,), "mirrored": (41,),
    "turned": (1, 2, 3),
}  # fmt: skip
WHOLE = 0
FIRST_REGION, FIRST_DETECTION = 10, 1000
MOST_DETECTIONS = 20
DETECTION_SIDE = 640  # px; sides of detections are measured on a picture of this long side
_TURNS = {
    90: Image.Transpose.ROTATE_90,  # counter-clockwise, as Pillow's are
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


_LOOKS = {"": lambda image: image, "inverted": ImageOps.invert, "mirrored": ImageOps.mirror}


class Part(NamedTuple):
    """One part: `number`, `box` (left, top, right, bottom) in px, `turn` in degrees, `look`.

    The upper bounds are exclusive; turns are counter-clockwise, done after the cut. `look` is
    empty, "inverted" (a negative) or "mirrored" (left and right).
    """

    number: int
    box: tuple[int, int, int, int]
    turn: int = 0
    look: str = ""


def whole_part(width: int, height: int) -> list[Part]:
    """The picture itself, number 0."""
    return [Part(WHOLE, (0, 0, width, height))]


def query_parts(width: int, height: int) -> list[Part]:
    """The nine fixed parts of a query of this size in px.

    0 whole; 1, 2, 3 the whole turned by 90, 180, 270 degrees; 4 the centre, half of each side;
    5 to 8 the tiles between 1/6, 3/6 and 5/6 of the sides, row by row. Parts without a pixel, of
    pictures a few px small, are left out.
    """
    whole = whole_part(width, height)
    turned = [Part(i, whole[0].box, 90 * i) for i in (1, 2, 3)]
    boxes = [_centre(width, height), *_inner_tiles(width, height)]
    return _with_pixels([*whole, *turned, *_numbered(boxes, 4)])


def reference_parts(width: int, height: int) -> list[Part]:
    """The nineteen parts of a reference of this size in px.

    0 whole; 1 to 4 the halves of both sides, row by row; 5 the centre; 6 to 14 the thirds, row by
    row; 15 to 18 the tiles between 1/6, 3/6 and 5/6 of the sides.
    """
    boxes = [
        (0, 0, width, height),
        *_grid(width, height, (0, 1, 2), 2),
        _centre(width, height),
        *_grid(width, height, (0, 1, 2, 3), 3),
        *_inner_tiles(width, height),
    ]
    return _with_pixels(_numbered(boxes, WHOLE))


def way_parts(ways: Sequence[str], box: Sequence[int]) -> list[Part]:
    """The parts by which a query is asked in several ways, within a box (left, top, right, bottom).

    whole: the picture itself; tiles: its four corners, two thirds of each side, so that they
    overlap; centre: as large, in the middle; inverted: its negative; mirrored: left and right
    changed; turned: by 90, 180 and 270 degrees. Parts without a pixel are left out.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    whole = (0, 0, width, height)
    found = {
        "whole": whole_part(width, height),
        "tiles": _numbered(_corners(width, height), WAYS["tiles"][0]),
        "centre": _numbered(_grid(width, height, (1, 5), 6), WAYS["centre"][0]),
        "inverted": [Part(WAYS["inverted"][0], whole, look="inverted")],
        "mirrored": [Part(WAYS["mirrored"][0], whole, look="mirrored")],
        "turned": [Part(i, whole, 90 * i) for i in WAYS["turned"]],
    }
    parts = _with_pixels([part for way in check_ways(ways) for part in found[way]])
    return [
        part._replace(box=tuple(bound + (left, top)[i % 2] for i, bound in enumerate(part.box)))
        for part in parts
    ]


def check_ways(ways: Sequence[str]) -> tuple[str, ...]:
    """The ways themselves, each once; `KitError` for one that is not known."""
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise KitError(f"way '{unknown[0]}' to ask is unknown: choose among {', '.join(WAYS)}")
    return tuple(dict.fromkeys(ways))


def region_parts(boxes: Sequence[Sequence[int]]) -> list[Part]:
    """Parts 10 to 29 from the boxes of `regions.find_regions`, in their order."""
    return _numbered(boxes, FIRST_REGION)


def detection_parts(boxes: np.ndarray, width: int, height: int) -> list[Part]:
    """Parts 1000 to 1019 from detected boxes (N, 4) px, the most confident first.

    Bounds are truncated to whole pixels inside the picture; a box without a pixel keeps its
    number, which then does not occur.
    """
    limits = np.array([width, height, width, height])
    bounds = np.clip(np.asarray(boxes, float).reshape(-1, 4), 0, limits).astype(int)
    return _with_pixels(_numbered(bounds[:MOST_DETECTIONS].tolist(), FIRST_DETECTION))


def cut(image: Image.Image, part: Part) -> Image.Image:
    """The pixels of a part; for the whole picture the image itself."""
    if part.box != (0, 0, *image.size):
        image = image.crop(part.box)
    image = image.transpose(_TURNS[part.turn]) if part.turn else image
    return _LOOKS[part.look](image)


def normalised_boxes(parts: Sequence[Part], width: int, height: int) -> np.ndarray:
    """Boxes (N, 4) float32 in shares of the picture's sides: x0, y0, x1, y1 from 0 to 1."""
    boxes = np.array([part.box for part in parts], np.float64).reshape(-1, 4)
    return (boxes / [width, height, width, height]).astype(np.float32)


def part_sides(parts: Sequence[Part], width: int, height: int) -> np.ndarray:
    """Width and height (N, 2) int32 px of the cut parts, as the rule for small parts needs them.

    Those of detections are measured on the picture scaled to a long side of 640 px, on which
    D2LV's detector ran; all others on the original.
    """
    sides = np.zeros((len(parts), 2), np.int32)
    for i, part in enumerate(parts):
        left, top, right, bottom = part.box
        pair = (right - left, bottom - top)
        if part.number >= FIRST_DETECTION:
            scale = DETECTION_SIDE / max(width, height)
            pair = tuple(int(side * scale + 0.5) for side in pair)
        sides[i] = pair[::-1] if part.turn in (90, 270) else pair
    return sides


def _numbered(boxes: Sequence[Sequence[int]], first: int) -> list[Part]:
    return [Part(first + i, tuple(int(bound) for bound in box)) for i, box in enumerate(boxes)]


def _with_pixels(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if part.box[0] < part.box[2] and part.box[1] < part.box[3]]


def _grid(width: int, height: int, marks: Sequence[int], steps: int) -> list[tuple[int, ...]]:
    """Boxes between neighbouring marks, each a number of steps of the side, row by row."""
    # Whole numbers: 2 / 3 of a side in floats may fall just short of a pixel border.
    columns, rows = ([side * mark // steps for mark in marks] for side in (width, height))
    return [
        (left, top, right, bottom)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def _centre(width: int, height: int) -> tuple[int, ...]:
    return _grid(width, height, (1, 3), 4)[0]


def _inner_tiles(width: int, height: int) -> list[tuple[int, ...]]:
    return _grid(width, height, (1, 3, 5), 6)


def _corners(width: int, height: int) -> list[tuple[int, ...]]:
    columns, rows = ([(0, 2 * side // 3), (side // 3, side)] for side in (width, height))
    return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]


class Stream(NamedTuple):
    """One way of preparing pictures: side in px, "squash" or "short", one of `VARIANTS`."""

    size: int
    resize: str = "squash"
    variant: str = "none"


@dataclass(frozen=True)
class Plan:
    """What is cut out of every image of a set, and how it is prepared; goes to the workers.

    `parts` is "whole", "query" (nine, regions, detections) or "reference" (nineteen); instead of
    the whole, `ways` of `WAYS`. `detections` holds boxes (n, 4) px by image id; with `replace` the
    first of them stands for the whole image. With `reduced` a JPEG may be decoded at a smaller
    scale, where that costs no sharpness.
    """

    streams: tuple[Stream, ...]
    parts: str = "whole"
    detections: Mapping[str, np.ndarray] = field(default_factory=dict)
    replace: bool = False
    reduced: bool = False
    ways: tuple[str, ...] = ("whole",)

    def __post_init__(self) -> None:
        if self.parts not in PARTS:
            raise KitError(f"parts '{self.parts}' are unknown: choose {', '.join(PARTS)}")
        check_ways(self.ways)
        for stream in self.streams:
            if stream.variant not in VARIANTS:
                raise KitError(
                    f"variant '{stream.variant}' is unknown: choose one of {', '.join(VARIANTS)}"
                )


class Pieces(NamedTuple):
    """The cut and prepared parts of one image.

    `numbers` (P,), `boxes` (P, 4) normalised, `sides` (P, 2) px; `pixels` holds for every stream a
    list of P arrays (H, W, 3 or 1) uint8. `note` says what is damaged or not looked at.
    """

    numbers: np.ndarray
    boxes: np.ndarray
    sides: np.ndarray
    pixels: list[list[np.ndarray]]
    note: str = ""


def choose_parts(image: Image.Image, plan: Plan, boxes: np.ndarray | None = None) -> list[Part]:
    """The parts that a plan cuts out of an RGB image; `boxes` (n, 4) px are its detections."""
    found = detection_parts(boxes, *image.size) if boxes is not None else []
    if plan.parts == "reference":
        return reference_parts(*image.size)
    if plan.parts == "query":
        return [*query_parts(*image.size), *region_parts(find_regions(image)), *found]
    box = found[0].box if plan.replace and found else (0, 0, *image.size)
    return way_parts(plan.ways, box)


def load_parts(images: ImageSet, plan: Plan, index: int) -> Pieces | str:
    """Decode one image once, cut and prepare its parts; the reason as text if it is broken."""
    boxes = plan.detections.get(images.ids[index])
    blurred = any(stream.variant.startswith("blur") for stream in plan.streams)
    reducible = plan.reduced and plan.parts == "whole" and boxes is None and not blurred
    # A JPEG may be decoded at reduced scale, to no less than twice the size wanted, in tiles too.
    cut_out = bool({"tiles", "centre"} & set(plan.ways))
    least = (3 if cut_out else 2) * max(stream.size for stream in plan.streams)
    try:
        image, note = images.load_noted(index, min_side=least if reducible else None)
    except ImageError as error:
        return str(error)
    parts = choose_parts(image, plan, boxes)
    pixels = [[] for _ in plan.streams]
    for part in parts:
        piece, varied = cut(image, part), {}
        for place, (size, resize, variant) in enumerate(plan.streams):
            if variant not in varied:  # once for all sizes
                varied[variant] = vary(piece, variant)
            pixels[place].append(prepare(varied[variant], size, resize))
    return Pieces(
        np.array([part.number for part in parts], np.int32),
        normalised_boxes(parts, *image.size),
        part_sides(parts, *image.size),
        pixels,
        note,
    )
