"""Edits of whole batches as tensor arithmetic: training views at the speed of the device.

Loaders that edit one image at a time starve a GPU and waste a CPU. Here all geometry of a batch
is one resampling, and the photometric edits act on the part of the batch that drew them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from iscutils.edits.stamps import stamp_bank

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class ViewConfig:
    """Probabilities and ranges of one training view at full strength."""

    min_area: float = 0.25  # smallest share of the image a crop keeps
    aspect: float = 1.5  # largest change of width / height
    hflip: float = 0.5
    vflip: float = 0.1
    quarter_turn: float = 0.15
    rotate: float = 0.15  # probability of a free angle
    max_angle: float = 45.0  # degrees
    perspective: float = 0.15
    shrink: float = 0.3  # probability of a smaller image on a canvas (padding, paste)
    min_shrink: float = 0.45  # smallest side of the shrunk image, share of the canvas
    paste: float = 0.6  # probability that the canvas is another photograph, given shrink
    overlay: float = 0.2  # another photograph on top
    stamp: float = 0.35  # text, emoji or shape on top
    jitter: float = 0.6
    gray: float = 0.15
    invert: float = 0.03
    solarise: float = 0.03
    channels: float = 0.05  # permuted colour channels
    blend: float = 0.08  # transparent mix with another photograph
    blur: float = 0.2
    pixelate: float = 0.12
    noise: float = 0.15
    jpeg: float = 0.15


MILD = ViewConfig(
    min_area=0.7, aspect=1.2, hflip=0.0, vflip=0.0, quarter_turn=0.0, rotate=0.0, perspective=0.0,
    shrink=0.0, overlay=0.0, stamp=0.0, jitter=0.3, gray=0.0, invert=0.0, solarise=0.0,
    channels=0.0, blend=0.0, blur=0.1, pixelate=0.0, noise=0.05, jpeg=0.1,
)  # fmt: skip


class TensorEdits:
    """Draws an edited view of every image of a batch.

    Args:
        config: probabilities and ranges at strength 1.
        size: side of the views in pixels.
    """

    def __init__(self, config: ViewConfig, size: int):
        self.config, self.size = config, size
        self.stamps = torch.from_numpy(stamp_bank())  # (K, 4, 64, 64) RGBA in [0, 1]

    @torch.no_grad()
    def __call__(
        self, images: torch.Tensor, generator: torch.Generator, strength: float = 1.0
    ) -> torch.Tensor:
        """Views (B, 3, size, size) float32 in [0, 1] of images (B, 3, H, W) float in [0, 1].

        The same generator state gives the same views. `strength` in [0, 1] scales probabilities
        and ranges. Other photographs (canvas, overlay, blend) are other images of the batch.
        """
        draw = _Draw(len(images), generator, images.device, strength)
        config = self.config
        donors = images.roll(int(draw.uniform(1, max(2, len(images)))[0]), 0)
        views = self._geometry(images, donors, draw)
        views = self._blend(views, donors, draw)
        views = self._overlays(views, donors, draw)
        views = _colour(views, config, draw)
        for probability, edit in (
            (config.invert, lambda x, _: 1 - x),
            (config.solarise, lambda x, _: torch.where(x > 0.6, 1 - x, x)),
            (config.channels, lambda x, d: x[:, d.permutation(3)]),
            (config.pixelate, _pixelate),
            (config.blur, _blur),
            (config.noise, _noise),
            (config.jpeg, _jpeg),
        ):
            views = _on_some(views, probability, edit, draw)
        return views

    def _geometry(self, images: torch.Tensor, donors: torch.Tensor, draw: _Draw) -> torch.Tensor:
        matrix, shrunk = _matrices(self.config, draw)
        grid = _grid(matrix, self.size)  # (B, S, S, 2)
        views = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
        outside = (grid.abs() > 1).any(-1)[:, None]  # (B, 1, S, S)
        colour = draw.uniform(0, 1, 3)[:, :, None, None]
        pasted = shrunk & draw.chance(self.config.paste, scaled=False)
        plain = (outside.flatten(1).any(1) & ~pasted).nonzero()[:, 0]
        views[plain] = torch.where(outside[plain], colour[plain], views[plain])
        photo = pasted.nonzero()[:, 0]
        if len(photo):
            canvas = _resize(donors[photo], self.size)
            views[photo] = torch.where(outside[photo], canvas, views[photo])
        return views

    def _blend(self, views: torch.Tensor, donors: torch.Tensor, draw: _Draw) -> torch.Tensor:
        chosen = draw.chance(self.config.blend).nonzero()[:, 0]
        if len(chosen):
            photo = _resize(donors[chosen], self.size)
            weight = draw.uniform(0.2, 0.2 + 0.3 * draw.strength)[chosen][:, None, None, None]
            views[chosen] = torch.lerp(views[chosen], photo, weight)
        return views

    def _overlays(self, views: torch.Tensor, donors: torch.Tensor, draw: _Draw) -> torch.Tensor:
        chosen = draw.chance(self.config.overlay).nonzero()[:, 0]
        if len(chosen):
            solid = torch.ones_like(donors[chosen, :1])
            _stick(views, chosen, torch.cat([donors[chosen], solid], 1), draw, 0.2, 0.55)
        chosen = draw.chance(self.config.stamp).nonzero()[:, 0]
        if len(chosen):
            stamps = self.stamps.to(views.device, views.dtype)
            which = (draw.uniform(0, 1)[chosen] * len(stamps)).long().clamp(max=len(stamps) - 1)
            _stick(views, chosen, stamps[which], draw, 0.15, 0.6)
        return views


class _Draw:
    """Random numbers for a batch of B images: one generator, one strength."""

    def __init__(self, count: int, generator: torch.Generator, device, strength: float):
        self.count, self.generator, self.device = count, generator, device
        self.strength = float(strength)

    def uniform(self, low: float, high: float, width: int = 0) -> torch.Tensor:
        shape = (self.count, width) if width else (self.count,)
        unit = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return unit.to(self.device) * (high - low) + low

    def chance(self, probability: float, scaled: bool = True) -> torch.Tensor:
        return self.uniform(0, 1) < probability * (self.strength if scaled else 1.0)

    def normal(self, like: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(like.shape, generator=self.generator, device=self.generator.device)
        return noise.to(like)

    def permutation(self, count: int) -> torch.Tensor:
        order = torch.randperm(count, generator=self.generator, device=self.generator.device)
        return order.to(self.device)

    def part(self, count: int) -> _Draw:
        return _Draw(count, self.generator, self.device, self.strength)


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def _on_some(views: torch.Tensor, probability: float, edit, draw: _Draw) -> torch.Tensor:
    chosen = draw.chance(probability).nonzero()[:, 0]
    if len(chosen):
        views[chosen] = edit(views[chosen], draw.part(len(chosen))).clamp(0, 1)
    return views


def _matrices(config: ViewConfig, draw: _Draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Homographies (B, 3, 3) from view to image coordinates, both in [-1, 1]; which were shrunk."""
    s = draw.strength
    area = draw.uniform(1 - (1 - config.min_area) * s, 1)
    log_aspect = draw.uniform(-1, 1) * math.log(config.aspect) * s
    width = (area.sqrt() * (log_aspect / 2).exp()).clamp(max=1)
    height = (area.sqrt() * (-log_aspect / 2).exp()).clamp(max=1)
    centre_x = draw.uniform(-1, 1) * (1 - width)
    centre_y = draw.uniform(-1, 1) * (1 - height)

    shrunk = draw.chance(config.shrink)
    side = draw.uniform(1 - (1 - config.min_shrink) * s, 1)
    zoom = torch.where(shrunk, 1 / side, torch.ones_like(side))
    away_x = draw.uniform(-1, 1) * (zoom - 1) * shrunk
    away_y = draw.uniform(-1, 1) * (zoom - 1) * shrunk

    turns = (draw.uniform(0, 4).floor() * draw.chance(config.quarter_turn)) * (math.pi / 2)
    free = draw.uniform(-1, 1) * math.radians(config.max_angle) * draw.chance(config.rotate)
    angle = turns + free
    flip_x = 1 - 2 * draw.chance(config.hflip, scaled=False).to(angle.dtype)
    flip_y = 1 - 2 * draw.chance(config.vflip).to(angle.dtype)
    tilt = draw.uniform(-0.35, 0.35, 2) * draw.chance(config.perspective)[:, None] * s

    crop = _affine(width, height, centre_x, centre_y)
    canvas = _affine(zoom, zoom, away_x, away_y)
    turn = torch.zeros(draw.count, 3, 3, device=angle.device)
    turn[:, 0, 0], turn[:, 0, 1] = angle.cos() * flip_x, -angle.sin() * flip_y
    turn[:, 1, 0], turn[:, 1, 1] = angle.sin() * flip_x, angle.cos() * flip_y
    turn[:, 2, 0], turn[:, 2, 1], turn[:, 2, 2] = tilt[:, 0], tilt[:, 1], 1
    return crop @ turn @ canvas, shrunk


def _affine(sx: torch.Tensor, sy: torch.Tensor, tx: torch.Tensor, ty: torch.Tensor) -> torch.Tensor:
    matrix = torch.zeros(len(sx), 3, 3, device=sx.device)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = sx, sy, 1
    matrix[:, 0, 2], matrix[:, 1, 2] = tx, ty
    return matrix


def _grid(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """Where each pixel centre of a size x size view lies in its image, (B, S, S, 2)."""
    axis = (torch.arange(size, device=matrix.device) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3)  # (1, S*S, 3)
    mapped = points @ matrix.transpose(1, 2)  # (B, S*S, 3)
    places = mapped[..., :2] / mapped[..., 2:].clamp(min=0.1)
    return places.view(len(matrix), size, size, 2)


def _stick(views, chosen, layers, draw: _Draw, smallest: float, largest: float) -> None:
    """Alpha-blend RGBA layers (n, 4, h, w) onto views[chosen] at random places, in place."""
    largest = smallest + (largest - smallest) * draw.strength
    half = draw.uniform(smallest, largest, 2)[chosen]  # share of the view's side
    centre = draw.uniform(-0.9, 0.9, 2)[chosen] * (1 - half)
    matrix = _affine(1 / half[:, 0], 1 / half[:, 1], -centre[:, 0] / half[:, 0],
                     -centre[:, 1] / half[:, 1])  # fmt: skip
    grid = _grid(matrix, views.shape[-1])
    layer = F.grid_sample(layers, grid, align_corners=False, padding_mode="zeros")
    alpha = layer[:, 3:] * draw.uniform(0.6, 1)[chosen][:, None, None, None]
    views[chosen] = torch.lerp(views[chosen], layer[:, :3], alpha)


def _colour(views: torch.Tensor, config: ViewConfig, draw: _Draw) -> torch.Tensor:
    """Brightness, contrast, saturation, hue and gray as one 3 x 3 matrix and an offset an image."""
    s = draw.strength * draw.chance(config.jitter).to(views.dtype)
    brightness = 1 + draw.uniform(-0.5, 0.6) * s
    contrast = 1 + draw.uniform(-0.6, 0.6) * s
    saturation = 1 + draw.uniform(-0.8, 0.8) * s
    saturation = saturation * (~draw.chance(config.gray)).to(views.dtype)
    hue = draw.uniform(-0.15, 0.15) * s * 2 * math.pi

    luma = torch.tensor(LUMA, device=views.device)
    gray = luma.expand(3, 3)  # every row gives the luma
    eye = torch.eye(3, device=views.device)
    # Rotation about the gray axis (Rodrigues): hue changes, gray stays.
    skew = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=views.device) / math.sqrt(3)
    cos, sin = hue.cos()[:, None, None], hue.sin()[:, None, None]
    turn = cos * eye + (1 - cos) / 3 + sin * skew  # (B, 3, 3)
    saturate = gray + saturation[:, None, None] * (eye - gray)
    matrix = (turn @ saturate) * (brightness * contrast)[:, None, None]
    mean = (views.mean((2, 3)) @ luma) * brightness  # (B,)
    offset = ((1 - contrast) * mean)[:, None, None]
    mixed = matrix @ views.flatten(2) + offset  # (B, 3, S*S)
    return mixed.view_as(views).clamp(0, 1)


def _blur(views: torch.Tensor, draw: _Draw) -> torch.Tensor:
    size = views.shape[-1]
    sigma = draw.uniform(0.004, 0.004 + 0.02 * draw.strength) * size  # pixels
    reach = max(1, math.ceil(0.06 * size))
    x = torch.arange(-reach, reach + 1, device=views.device)
    kernel = (-(x**2) / (2 * sigma[:, None] ** 2)).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)  # (n*3, taps)
    flat = F.pad(views.reshape(1, -1, size, size), [reach] * 4, mode="replicate")
    groups = flat.shape[1]
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=groups)
    return F.conv2d(flat, kernel[:, None, :, None], groups=groups).view_as(views)


def _pixelate(views: torch.Tensor, draw: _Draw) -> torch.Tensor:
    size = views.shape[-1]
    cells = draw.uniform(size * (0.75 - 0.5 * draw.strength), size * 0.75).round()
    cells = cells[:, None].clamp(min=4)
    axis = (torch.arange(size, device=views.device) + 0.5) / size
    places = ((axis * cells).floor() + 0.5) / cells * 2 - 1  # (n, S)
    x, y = places[:, None, :].expand(-1, size, -1), places[:, :, None].expand(-1, -1, size)
    return F.grid_sample(views, torch.stack([x, y], -1), mode="bilinear", align_corners=False)


def _noise(views: torch.Tensor, draw: _Draw) -> torch.Tensor:
    sigma = draw.uniform(0.02, 0.02 + 0.12 * draw.strength)[:, None, None, None]
    return views + sigma * draw.normal(views)


def _jpeg(views: torch.Tensor, draw: _Draw) -> torch.Tensor:
    qualities = draw.uniform(70 - 55 * draw.strength, 80).int().tolist()
    pixels = (views * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()  # (n, S, S, 3)
    decoded = [_through_jpeg(*pair) for pair in zip(pixels, qualities, strict=True)]
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(views) / 255


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    blue_first = np.ascontiguousarray(pixels[:, :, ::-1])  # OpenCV's order of channels
    _, data = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1].copy()
