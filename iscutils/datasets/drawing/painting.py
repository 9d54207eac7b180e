"""Drawing on a float canvas: shaded shapes, shadows, sprites, perspective and type.

A canvas is (H, W, 3) float32 RGB in [0, 1], changed in place; points are (n, 2) (x, y) px.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from iscutils.datasets.photographs import package_folder

_SUBPIXELS = 4  # bits of the fixed-point coordinates that OpenCV draws with
_T = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_COS, _SIN, _K = np.cos(_T), np.sin(_T), np.arange(1, 5)[:, None]
_FACES = (
    "DejaVuSans-Bold", "DejaVuSans", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "DejaVuSansMono-Bold", "STIXGeneralBol", "STIXGeneralItalic", "cmss10", "cmtt10",
)  # fmt: skip
_WORDS = (
    "open daily sale north river garden market coffee bread hotel music harbour light winter "
    "summer museum station theatre fresh paper silver corner orange lemon forest school library "
    "bicycle island mountain bridge festival record studio print garage flowers tea salon "
    "kitchen bakery window morning night city ocean planet history science future travel letter "
    "number exit stop please quiet new old best first seven twelve house street square tower "
    "people world time stone cloud copper meadow anchor lantern compass velvet marble cinema "
    "gallery radio notice ticket "
)
WORDS = tuple(_WORDS.split())


def region(
    points: np.ndarray, shape: tuple[int, ...], margin: int = 1
) -> tuple[slice, slice] | None:
    """Rows and columns of the canvas that the points' box covers, None when it lies outside."""
    x0, y0 = np.floor(points.min(0)).astype(int) - margin
    x1, y1 = np.ceil(points.max(0)).astype(int) + margin + 1
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, shape[1]), min(y1, shape[0])
    return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None


def coverage(points: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """(h, w) float32 in [0, 1]: how much of each pixel of a region a polygon covers."""
    mask = np.zeros((box[0].stop - box[0].start, box[1].stop - box[1].start), np.uint8)
    local = (points - (box[1].start, box[0].start)) * (1 << _SUBPIXELS)
    cv2.fillPoly(mask, [np.rint(local).astype(np.int32)], 255, cv2.LINE_AA, _SUBPIXELS)
    return mask.astype(np.float32) * np.float32(1 / 255)


def blend(
    canvas: np.ndarray, box: tuple[slice, slice], paint: np.ndarray, mask: np.ndarray
) -> None:
    """Lay paint (h, w, 3) or (3,) on a region through a mask (h, w)."""
    canvas[box] += (paint - canvas[box]) * mask[..., None]


def fill(canvas: np.ndarray, points: np.ndarray, paint: np.ndarray, opacity: float = 1.0) -> None:
    """Fill a polygon with one colour (3,)."""
    if (box := region(points, canvas.shape)) is not None:
        blend(canvas, box, paint, coverage(points, box) * opacity)


def shade(canvas: np.ndarray, points: np.ndarray, blur: float, strength: float) -> None:
    """Darken softly under a polygon (its shadow); `blur` is the standard deviation in px."""
    if (box := region(points, canvas.shape, int(3 * blur) + 1)) is not None:
        mask = cv2.GaussianBlur(coverage(points, box), (0, 0), blur)
        canvas[box] *= 1 - strength * mask[..., None]


def solid(
    canvas: np.ndarray,
    points: np.ndarray,
    paint: np.ndarray,
    light: tuple[float, float],
    relief: float = 1.0,
    gloss: float = 0.0,
) -> None:
    """Fill a polygon as a rounded body lit from the direction `light` (x, y; y down).

    The height is the square root of the distance to the edge: a circle becomes nearly a ball.
    `paint` is a colour (3,), or a texture (h, w, 3) of at least the region's size.
    """
    if (box := region(points, canvas.shape)) is None:
        return
    mask = coverage(points, box)
    paint = paint if paint.ndim == 1 else paint[: mask.shape[0], : mask.shape[1]]
    blend(canvas, box, rounded(mask, paint, light, relief, gloss), mask)


def rounded(
    mask: np.ndarray, paint: np.ndarray, light: tuple[float, float], relief: float, gloss: float
) -> np.ndarray:
    """Paint (h, w, 3) shaded as if the mask (h, w) were a rounded body."""
    padded = cv2.copyMakeBorder((mask > 0.5).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    reach = max(float(distance.max()), 1.0)
    t = np.minimum(distance / reach, 1)
    height = cv2.GaussianBlur(np.sqrt(t * (2 - t)) * reach, (0, 0), 0.4 + reach / 12)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=relief / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=relief / 8)
    norm = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    lx, ly, lz = np.array([*light, 1.0]) / np.hypot(np.hypot(*light), 1)
    lambert = np.clip((-slope_x * lx - slope_y * ly + lz) * norm, 0, 1)
    body = paint * (0.32 + 0.85 * lambert)[..., None]
    return body + (gloss * lambert**24)[..., None] if gloss else body


def ellipse(
    x: float, y: float, a: float, b: float, angle: float = 0.0, count: int = 48
) -> np.ndarray:
    """Points (count, 2) of an ellipse with half axes a, b."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return shifted(turned(np.stack([a * np.cos(t), b * np.sin(t)], -1), angle), x, y)


def box_points(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """The four corners of a rectangle, clockwise from the upper left."""
    return np.float32([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def blob(
    rng: np.random.Generator, x: float, y: float, radius: float, wobble: float = 0.2
) -> np.ndarray:
    """A random smooth closed outline around (x, y), (40, 2)."""
    waves = rng.normal(0, wobble, 4) / _K[:, 0]
    r = 1 + waves @ np.cos(_K * _T + rng.uniform(0, 2 * np.pi, (4, 1)))
    r = radius * np.clip(r, 0.35, 1.8)
    return np.stack([x + r * _COS, y + r * _SIN], -1)


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points rotated about the origin by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def shifted(points: np.ndarray, x: float, y: float) -> np.ndarray:
    """Points moved by (x, y)."""
    return np.asarray(points) + np.array([x, y])


def project(canvas: np.ndarray, picture: np.ndarray, corners: np.ndarray, opacity=1.0) -> None:
    """Lay a picture (h, w, 3) in perspective on the quadrilateral of corners (4, 2), clockwise."""
    if (box := region(np.asarray(corners), canvas.shape)) is None:
        return
    origin = np.float32([box[1].start, box[0].start])
    height, width = picture.shape[:2]
    source = box_points(0, 0, width, height)
    matrix = cv2.getPerspectiveTransform(source, np.float32(corners) - origin)
    size = (box[1].stop - box[1].start, box[0].stop - box[0].start)
    flags = cv2.INTER_AREA if width > 2 * size[0] else cv2.INTER_LINEAR
    warped = cv2.warpPerspective(
        picture, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    blend(canvas, box, warped, coverage(np.asarray(corners), box) * opacity)


def place(
    canvas: np.ndarray,
    sprite: np.ndarray,
    x: float,
    y: float,
    size: float,
    angle: float,
    tint: np.ndarray | float = 1.0,
    shadow: float = 0.0,
) -> None:
    """Draw a sprite (s, s, 4), colours and coverage, centred on (x, y) at `size` px, turned."""
    side, zoom = sprite.shape[0], sprite.shape[0] / size
    corners = shifted(turned(box_points(-1, -1, 1, 1) * (size / 2), angle), x, y)
    box = region(corners, canvas.shape, 1)
    if box is None:
        return
    c, s = np.cos(angle) * zoom, np.sin(angle) * zoom
    dx, dy = box[1].start - x, box[0].start - y
    matrix = np.float32([[c, s, c * dx + s * dy + side / 2], [-s, c, c * dy - s * dx + side / 2]])
    extent = (box[1].stop - box[1].start, box[0].stop - box[0].start)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(sprite, matrix, extent, flags=flags)
    if shadow:
        away = max(1.0, size * 0.05)
        moved = np.float32([[1, 0, away], [0, 1, away * 1.3]])
        dark = cv2.GaussianBlur(cv2.warpAffine(warped[..., 3], moved, extent), (0, 0), away)
        canvas[box] *= 1 - shadow * dark[..., None]
    blend(canvas, box, warped[..., :3] * tint, warped[..., 3])


@lru_cache(maxsize=256)
def font(number: int, size: int) -> ImageFont.FreeTypeFont:
    """A font face that matplotlib carries, by number (modulo how many there are)."""
    folder = package_folder("matplotlib", "mpl-data/fonts/ttf")
    name = _FACES[number % len(_FACES)]
    return ImageFont.truetype(str(folder / f"{name}.ttf"), max(6, size))


def words(rng: np.random.Generator, count: int) -> str:
    """Some common words, sometimes with a number."""
    chosen = [WORDS[rng.integers(len(WORDS))] for _ in range(count)]
    if rng.random() < 0.25:
        chosen[rng.integers(count)] = str(rng.integers(2, 2100))
    return " ".join(chosen)


def write(
    canvas: np.ndarray,
    text: str,
    x: float,
    y: float,
    size: float,
    colour: np.ndarray,
    face: int = 0,
    width: float | None = None,
) -> float:
    """Write one line with its upper left corner at (x, y); return its width in px.

    With `width` the size is made smaller until the line is at most so wide.
    """
    letters = font(face, int(size))
    length = letters.getlength(text)
    if width is not None and length > width:
        letters = font(face, int(size * width / length))
        length = letters.getlength(text)
    mask = Image.new("L", (int(length) + 4, int(letters.size * 1.5)))
    ImageDraw.Draw(mask).text((1, 0), text, 255, font=letters)
    corners = np.float32([(x, y), (x + mask.width - 1, y + mask.height - 1)])
    if (box := region(np.rint(corners), canvas.shape, 0)) is not None:
        left, top = box[1].start - round(x), box[0].start - round(y)
        rows, columns = box[0].stop - box[0].start, box[1].stop - box[1].start
        inside = np.asarray(mask, np.float32)[top : top + rows, left : left + columns] / 255
        box = (slice(box[0].start, box[0].start + inside.shape[0]),
               slice(box[1].start, box[1].start + inside.shape[1]))  # fmt: skip
        blend(canvas, box, colour, inside)
    return length
