"""Put things on a picture and keep account of what they hide and where they lie."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from iscutils.edits.moves import resize_window
from iscutils.edits.parameters import Choice
from iscutils.edits.record import IDENTITY, Box, Step, corners, rectangle, transform

BILINEAR = Image.Resampling.BILINEAR
SHAPES = ("rectangle", "rounded", "ellipse")
# "free": positions are shares of the free space. "canvas", as in AugLy: positions of the top left
# corner are shares of the whole canvas, and what hangs over is cut. Only recipes choose the latter.
UNITS = Choice(("free",), ("free", "canvas"))


class Layer:
    """Collects things put on a copy of a picture, what they hide and their boxes."""

    def __init__(self, image: Image.Image):
        self.image, self.mask = image.copy(), Image.new("L", image.size)
        self.boxes: list[Box] = []

    def add(
        self,
        ink: Image.Image | tuple,
        alpha: Image.Image,
        corner: tuple[int, int] = (0, 0),
        opacity: float = 1.0,
        kind: str = "",
    ) -> None:
        """Paste a picture or a colour through an "L" mask times an opacity, at a corner.

        With a kind of `Box` its bounds are noted.
        """
        inked = alpha.getbbox()
        if inked is None or opacity == 0:
            return
        if inked != (0, 0, *alpha.size):  # a few letters on a mask of the whole picture
            alpha, corner = alpha.crop(inked), (corner[0] + inked[0], corner[1] + inked[1])
            ink = ink.crop(inked) if isinstance(ink, Image.Image) else ink
        if kind:
            self.boxes += bounds(alpha, corner, self.image.size, kind)
        if opacity < 1:
            alpha = alpha.point([round(value * opacity) for value in range(256)])
        self.image.paste(ink, corner, alpha)
        self.mask.paste(255, corner, alpha)  # a + (255 - a) alpha / 255: the union of both

    def add_picture(
        self,
        picture: Image.Image,
        size: tuple[int, int],
        corner: tuple[int, int],
        opacity: float = 1.0,
        kind: str = "sticker",
    ) -> None:
        """Paste an RGBA picture resized to (width, height) px; what hangs over is never made."""
        part, corner = resized_part(picture, size, corner, self.image.size)
        if part is not None:
            self.add(part.convert("RGB"), part.getchannel("A"), corner, opacity, kind)

    def newly_hidden(self, alpha: Image.Image, corner: tuple[int, int]) -> float:
        """Share of the picture that an opaque mask inside of it would hide in addition."""
        x, y = corner
        before = np.asarray(self.mask.crop((x, y, x + alpha.width, y + alpha.height)), np.float32)
        gain = float(((255 - before) * np.asarray(alpha)).sum()) / 255**2
        return gain / (self.image.width * self.image.height)

    def step(self, matrix: np.ndarray = IDENTITY) -> Step:
        """The edit made so far."""
        hidden = np.asarray(self.mask)
        return Step(self.image, matrix, hidden, tuple(self.boxes))


def bounds(
    alpha: Image.Image, corner: tuple[int, int], canvas: tuple[int, int], kind: str
) -> list[Box]:
    """Upright bounds of a mask on a canvas where it exceeds half of its maximum: one box or none.

    What hangs over the canvas does not count.
    """
    (x, y), half = corner, alpha.getextrema()[1] / 2
    window = (
        max(0, -x),
        max(0, -y),
        min(alpha.width, canvas[0] - x),
        min(alpha.height, canvas[1] - y),
    )
    if window[2] <= window[0] or window[3] <= window[1]:
        return []
    solid = alpha.crop(window).point([255 if value > half else 0 for value in range(256)])
    found = solid.getbbox()
    if found is None:
        return []
    x, y = x + window[0], y + window[1]
    return [Box(kind, rectangle(x + found[0], y + found[1], x + found[2], y + found[3]))]


def corner_of(
    size: tuple[int, int], canvas: tuple[int, int], x: float, y: float, units: str = "free"
) -> tuple[int, int]:
    """Top left corner, px, of a thing of (width, height) px on a canvas; `units` see `UNITS`."""
    if units == "canvas":
        return int(x * canvas[0]), int(y * canvas[1])
    return round(x * (canvas[0] - size[0])), round(y * (canvas[1] - size[1]))


def fitted(
    own: tuple[int, int], canvas: tuple[int, int], size: float, units: str = "free"
) -> tuple[int, int]:
    """(width, height) px of a picture that takes a share of a canvas, proportions kept.

    The share is that of the side that fills the canvas first, or of the height in units "canvas".
    """
    if units == "canvas":
        height = max(1, int(size * canvas[1]))
        return max(1, int(own[0] * height / own[1])), height
    scale = size * min(canvas[0] / own[0], canvas[1] / own[1])
    return max(1, round(own[0] * scale)), max(1, round(own[1] * scale))


def own_box(matrix: np.ndarray, size: tuple[int, int]) -> Box:
    """Box of the edited picture itself after a move; size: its own (width, height)."""
    return Box("original", transform(matrix, corners(size)))


def resized_part(
    picture: Image.Image, size: tuple[int, int], corner: tuple[int, int], canvas: tuple[int, int]
) -> tuple[Image.Image | None, tuple[int, int]]:
    """A picture resized to (width, height) px and put at a corner: the part on the canvas.

    Returns that part (None if nothing) and its own corner.
    """
    x0, y0 = max(0, corner[0]), max(0, corner[1])
    x1, y1 = min(canvas[0], corner[0] + size[0]), min(canvas[1], corner[1] + size[1])
    if x1 <= x0 or y1 <= y0:
        return None, (x0, y0)
    window = np.array([(x0, y0), (x1, y1)]) - corner
    if size == picture.size:
        return picture.crop(tuple(window.ravel().tolist())), (x0, y0)
    scale = np.divide(picture.size, size)
    box = np.clip(window * scale, 0, picture.size)
    return resize_window(picture, box, (x1 - x0, y1 - y0)), (x0, y0)


def shape_mask(
    size: tuple[int, int],
    shape: str,
    window: tuple[int, int, int, int] | None = None,
    feather: float = 0.0,
) -> Image.Image:
    """Mask "L" of one of `SHAPES` that fills (width, height) px, or of a window x0, y0, x1, y1.

    feather: width of the soft rim inside the shape, share of its shorter side.
    """
    x0, y0, x1, y1 = window or (0, 0, *size)
    # One pixel more on each side, so that the distance to the shape's rim can be measured.
    mask = Image.new("L", (x1 - x0 + 2, y1 - y0 + 2))
    box = (1 - x0, 1 - y0, size[0] - x0, size[1] - y0)
    pen = ImageDraw.Draw(mask)
    if shape == "ellipse":
        pen.ellipse(box, fill=255)
    else:
        pen.rounded_rectangle(box, 0 if shape == "rectangle" else 0.2 * min(size), fill=255)
    rim = feather * min(size)
    if rim > 1:
        distance = cv2.distanceTransform(np.asarray(mask), cv2.DIST_L2, cv2.DIST_MASK_3)
        mask = Image.fromarray(cv2.convertScaleAbs(np.minimum(distance, rim), alpha=255 / rim))
    return mask.crop((1, 1, mask.width - 1, mask.height - 1))


def filled(donor: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a photograph, scaled to fill (width, height) px exactly."""
    scale = max(size[0] / donor.width, size[1] / donor.height)
    width, height = size[0] / scale, size[1] / scale  # of the part that is used, donor px
    left, top = max(0.0, (donor.width - width) / 2), max(0.0, (donor.height - height) / 2)
    box = np.rint([(left, top), (left + width, top + height)])
    box = np.clip(box, (0, 0), donor.size)
    box[1] = np.maximum(box[1], box[0] + 1)
    return resize_window(donor.convert("RGB"), box, size)


def smooth_field(rng: np.random.Generator, cells: int, channels: int = 1) -> np.ndarray:
    """A smooth random field (64, 64) or (64, 64, channels), float32, about normal."""
    shape = (cells, cells) if channels == 1 else (cells, cells, channels)
    coarse = rng.standard_normal(shape).astype(np.float32)
    return cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
