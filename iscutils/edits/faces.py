"""Find faces, and edits with them: crops around a face, faces of other photographs pasted on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image
from skimage import data
from skimage.feature import Cascade

from iscutils.edits.layers import BILINEAR, Layer, corner_of, shape_mask
from iscutils.edits.parameters import SEED, Real, Whole
from iscutils.edits.record import Step, shift
from iscutils.edits.registry import operation

SEARCH_SIDE = 128  # px; the trained windows have 24
LEAST_FACE = 32  # px at that size: a quarter of the long side; half the windows of 3/16
LEAST_HITS = 4  # windows that must agree; single hits are mostly chance


@lru_cache(maxsize=1)
def _cascade() -> Cascade:
    """Local binary patterns of frontal faces (Liao et al. 2007), trained file of scikit-image."""
    return Cascade(data.lbp_frontal_face_cascade_filename())


def detect_faces(image: Image.Image) -> np.ndarray:
    """Boxes (N, 4) of frontal faces as x0, y0, x1, y1 px, the largest first.

    Searched on a copy with a long side of at most 128 px, for faces from a quarter of that on.
    """
    scale = min(1.0, SEARCH_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if min(size) < LEAST_FACE:
        return np.zeros((0, 4))
    small = np.asarray(image.convert("L").resize(size, BILINEAR, reducing_gap=3.0))
    # A threshold above 1 keeps scikit-image from merging windows: its merging depends on the order
    # in which threads find them.
    found = _cascade().detect_multi_scale(
        img=small,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(LEAST_FACE, LEAST_FACE),
        max_size=(SEARCH_SIDE, SEARCH_SIDE),
        min_neighbor_number=1,
        intersection_score_threshold=2.0,
    )
    windows = sorted((hit["c"], hit["r"], hit["width"], hit["height"]) for hit in found)
    hits = np.array(windows, float).reshape(-1, 4)
    hits[:, 2:] += hits[:, :2]
    factor = np.array([image.width / size[0], image.height / size[1]] * 2)
    faces = [group.mean(0) for group in _groups(hits) if len(group) >= LEAST_HITS]
    faces.sort(key=lambda box: (box[0] - box[2]) * (box[3] - box[1]))
    return np.array(faces).reshape(-1, 4) * factor


def _groups(boxes: np.ndarray) -> list[np.ndarray]:
    """Boxes (N, 4) that overlap by half or more (intersection over union) with the best-backed.

    The box with most such neighbours takes them away first, and so on.
    """
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    near = common >= 0.4 * (areas[:, None] + areas - common)
    groups, left = [], np.ones(len(boxes), bool)
    while left.any():
        support = (near & left).sum(1) * left
        chosen = near[int(support.argmax())] & left
        groups.append(boxes[chosen])
        left &= ~chosen
    return groups


@operation("geometric", enlarge=Real(1.5, 3.0, 0.5, 20.0), number=Whole(0, 3, 0, 100))
def face_crop(image: Image.Image, enlarge: float, number: int) -> Step:
    """Keep a square around a face, so many times as wide; without a face nothing is changed.

    number: which face, modulo how many there are, the largest first.
    """
    faces = detect_faces(image)
    if not len(faces):
        return Step(image)
    x0, y0, x1, y1 = _square(faces[number % len(faces)], enlarge, image.size)
    return Step(image.crop((x0, y0, x1, y1)), shift(-x0, -y0))


def _square(face: np.ndarray, enlarge: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A square around a box, cut to the picture, whole px."""
    (x, y), half = (face[:2] + face[2:]) / 2, enlarge * (face[2] - face[0]) / 2
    x0, y0 = max(0, round(x - half)), max(0, round(y - half))
    return (
        x0,
        y0,
        max(x0 + 1, min(size[0], round(x + half))),
        max(y0 + 1, min(size[1], round(y + half))),
    )


@operation(
    "composition",
    donors=3,
    count=Whole(1, 2, 1, 10),
    size=Real(0.15, 0.4, 0.02, 1.0),
    opacity=Real(1.0, 1.0, 0.0, 1.0),
    seed=SEED,
)
def face_paste(
    image: Image.Image,
    donors: Sequence[Image.Image],
    count: int,
    size: float,
    opacity: float,
    seed: int,
) -> Step:
    """Paste faces of other photographs on, each `size` of the shorter side, with a soft rim.

    Of a photograph without a face the middle is taken.
    """
    rng, layer = np.random.default_rng(seed), Layer(image)
    side = max(1, round(size * min(image.size)))
    mask = shape_mask((side, side), "ellipse", feather=0.15)
    for number in range(count):
        donor = donors[number % len(donors)].convert("RGB")
        part = donor.resize((side, side), BILINEAR, box=_face_of(donor), reducing_gap=3.0)
        corner = corner_of(mask.size, image.size, *rng.uniform(0, 1, 2))
        layer.add(part, mask, corner, opacity, "photo")
    return layer.step()


def _face_of(donor: Image.Image) -> tuple[int, int, int, int]:
    """The largest face with some hair and chin, or the middle square, in px."""
    faces = detect_faces(donor)
    if len(faces):
        return _square(faces[0], 1.4, donor.size)
    side = min(donor.size)
    x, y = (donor.width - side) // 2, (donor.height - side) // 2
    return x, y, x + side, y + side
