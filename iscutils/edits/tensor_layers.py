"""Draw planned pictures: one resampling of a batch, then its layers, level by level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from iscutils.edits.stamps import emoji_bank, word_bank
from iscutils.edits.tensor_geometry import SQUARE, Layer, Picture, unit

LEVELS = 4  # pictures as they are, and shrunk 2, 4 and 8 times
PIECE = 8  # views
LOCAL = ("plain", "noise", "photo", "emoji", "word")  # kinds that show in their area alone
FAR = 1e3  # where points behind the camera are put: outside of everything


class Pyramid:
    """Pictures (K, C, H, W) that are shrunk where needed, to resample without aliasing."""

    def __init__(self, pictures: torch.Tensor):
        self.pictures = pictures
        self.size = pictures.shape[-1], pictures.shape[-2]

    def sample(
        self, index: np.ndarray, matrices: np.ndarray, grid: torch.Tensor, padding: str
    ) -> torch.Tensor:
        """Pictures `index` (n,) where a grid (n, S, S, 2) falls, (n, C, S, S).

        matrices: (n, 3, 3), view -> picture, that the grid was made of.
        """
        levels, found = self._levels_for(matrices, grid.shape[1]), None
        for level in np.unique(levels):
            rows = np.flatnonzero(levels == level)
            chosen, part = self.pictures[to_device(index[rows], grid.device)], grid
            if len(rows) < len(index):
                part = grid[to_device(rows, grid.device)]
            small = shrunk(chosen, 2 ** int(level))
            shown = F.grid_sample(small, part, align_corners=False, padding_mode=padding)
            if len(rows) == len(index):
                return shown
            if found is None:
                found = shown.new_empty(len(index), *shown.shape[1:])
            found[to_device(rows, grid.device)] = shown
        return found

    def _levels_for(self, matrices: np.ndarray, side: int) -> np.ndarray:
        """Level (n,) whose pixels are about as large as those of the view, in its middle."""
        depth = np.abs(matrices[:, 2, 2]) ** 3
        area = np.abs(np.linalg.det(matrices)) * self.size[0] * self.size[1] / side**2  # px a px
        level = np.rint(0.5 * np.log2(np.maximum(area / np.maximum(depth, 1e-9), 1e-9)))
        return np.clip(level, 0, LEVELS - 1).astype(int)


def shrunk(pictures: torch.Tensor, factor: int) -> torch.Tensor:
    """Pictures (n, C, H, W) with sides divided by a factor, rounded up; means of areas."""
    if factor == 1:
        return pictures
    if pictures.shape[-1] % factor == 0 == pictures.shape[-2] % factor:
        return F.avg_pool2d(pictures, factor)
    return F.adaptive_avg_pool2d(pictures, [-(-side // factor) for side in pictures.shape[-2:]])


def to_device(values: np.ndarray | Sequence, device: torch.device) -> torch.Tensor:
    """NumPy numbers as a tensor; real ones in single precision."""
    tensor = torch.as_tensor(np.asarray(values))
    return (tensor.float() if tensor.is_floating_point() else tensor).to(device)


def pieces(rows: list[int], device: torch.device) -> list[list[int]]:
    """Rows of a batch in pieces that fit into the caches of a CPU; undivided on other devices."""
    if device.type != "cpu":
        return [rows]
    return [rows[start : start + PIECE] for start in range(0, len(rows), PIECE)]


def view_grid(matrices: np.ndarray, side: int, device: torch.device) -> torch.Tensor:
    """Where the pixel centres of views fall, (n, S, S, 2), for matrices between [-1, 1] squares."""
    m = to_device(matrices / np.abs(matrices[:, 2:, 2:]), device)
    axis = (torch.arange(side, device=device) + 0.5) * 2 / side - 1
    # Sums of a row and a column: no point is multiplied by a whole matrix
    along_x = m[:, :, 0, None] * axis  # (n, 3, S)
    along_y = m[:, :, 1, None] * axis + m[:, :, 2, None]
    grid = torch.empty(len(m), side, side, 2, device=device)
    for i in (0, 1):
        torch.add(along_x[:, i, None, :], along_y[:, i, :, None], out=grid[..., i])
    if np.abs(matrices[:, 2, :2]).max() > 1e-9:
        depth = along_x[:, 2, None, :] + along_y[:, 2, :, None]
        slant = np.abs(matrices[:, 2]) / np.abs(matrices[:, 2, 2:])
        if (slant[:, 0] + slant[:, 1] < 1 - 1e-4).all():  # all of every view is before the camera
            return grid.div_(depth[..., None])
        grid /= depth.clamp(min=1e-4)[..., None]
        grid.masked_fill_((depth <= 1e-4)[..., None], FAR)
    return grid


class Banks:
    """Emoji and words on one device."""

    def __init__(self, device: torch.device):
        self.emoji = Pyramid(torch.from_numpy(emoji_bank()).to(device))
        self.words = Pyramid(torch.from_numpy(word_bank().masks).to(device).float() / 255)


def render(
    images: torch.Tensor,
    pictures: list[Picture],
    side: int,
    banks: Banks,
    generator: torch.Generator,
) -> torch.Tensor:
    """Views (B, C, side, side) of images (B, C, H, W) as planned, one `Picture` an image."""
    sources = Pyramid(images)
    back = _from_view(pictures)  # (B, 3, 3)
    matrices = unit(0, 0, *sources.size) @ back
    views = images.new_empty(len(images), images.shape[1], side, side)
    for rows in pieces(list(range(len(images))), images.device):
        grid, index = view_grid(matrices[rows], side, images.device), np.array(rows)
        views[rows[0] : rows[-1] + 1] = sources.sample(index, matrices[rows], grid, "border")
    for level in range(max(len(picture.layers) for picture in pictures)):
        present = [row for row, picture in enumerate(pictures) if len(picture.layers) > level]
        every = [pictures[row].layers[level] for row in present]
        places = np.stack([layer.region for layer in every]) @ back[present]
        upright = np.abs(places[:, [0, 1, 2, 2], [1, 0, 0, 1]]).max(1) < 1e-9
        # Upright areas are cheaper to fill, and layers without surroundings can be drawn alone
        groups: dict[tuple[str, bool, bool], list[int]] = {}
        for i, layer in enumerate(every):
            local = layer.outside == 0 and layer.kind in LOCAL
            groups.setdefault((layer.kind, bool(upright[i]), local), []).append(i)
        for members in groups.values():
            for found in pieces(members, images.device):
                rows, layers = [present[i] for i in found], [every[i] for i in found]
                _lay(views, rows, layers, places[found], back[rows], sources, banks, generator)
    return views


def _lay(
    views: torch.Tensor,
    rows: list[int],
    layers: list[Layer],
    regions: np.ndarray,
    back: np.ndarray,
    sources: Pyramid,
    banks: Banks,
    generator: torch.Generator,
) -> None:
    """Lay one layer each, all of one kind, over some rows of views."""
    kind, side, textures = layers[0].kind, views.shape[-1], regions
    if any(layer.texture is not None for layer in layers):
        own = [layer.region if layer.texture is None else layer.texture for layer in layers]
        textures = np.stack(own) @ back
    local = layers[0].outside == 0 and kind in LOCAL
    starts, part = _windows(regions, side) if local else (None, side)
    if part < side:  # [-1, 1] squared is the window from here on
        inset = _insets(starts, part, side)
        inner = regions @ inset
        textures = inner if textures is regions else textures @ inset
        colour, alpha = _drawn(kind, layers, inner, textures, part, sources, banks, generator)
        for i, (row, (x, y)) in enumerate(zip(rows, starts.tolist(), strict=True)):
            _blend(views[row, :, y : y + part, x : x + part], colour[i], alpha[i], kind)
        return
    colour, alpha = _drawn(kind, layers, regions, textures, side, sources, banks, generator)
    where = to_device(rows, views.device)
    shown = views[where]
    _blend(shown, colour, alpha, kind)
    views[where] = shown


def _blend(views: torch.Tensor, colour: torch.Tensor, alpha: torch.Tensor, kind: str) -> None:
    """Lay a colour over views, in place."""
    if kind == "emoji":  # its colours are multiplied by its alpha already
        views.mul_(1 - alpha).add_(colour)
    else:
        views.lerp_(colour.expand_as(views), alpha.expand_as(views))


def _windows(regions: np.ndarray, side: int) -> tuple[np.ndarray | None, int]:
    """Windows of one size that hold the areas of layers: corners (n, 2) x, y and their side, px.

    The side is that of the view where windows are of no use.
    """
    if np.abs(regions[:, 2, :2]).max() > 1e-9:
        return None, side
    # Half extents and centre of what the map to [-1, 1] squared came from
    back = np.linalg.inv(regions)
    half, centre = np.abs(back[:, :2, :2]).sum(2), back[:, :2, 2] / back[:, 2:, 2]
    half = half / back[:, 2:, 2]
    low = np.clip(np.floor((centre - half + 1) / 2 * side), 0, side - 1)
    high = np.clip(np.ceil((centre + half + 1) / 2 * side), 1, side)
    part = max(4, int((high - low).max()))
    if part > 0.8 * side:
        return None, side
    return np.minimum(low, side - part).astype(int), part


def _insets(starts: np.ndarray, part: int, side: int) -> np.ndarray:
    """Matrices (n, 3, 3) from [-1, 1] squared over windows to [-1, 1] squared over the view."""
    inset = np.tile(np.eye(3), (len(starts), 1, 1))
    inset[:, 0, 0] = inset[:, 1, 1] = part / side
    inset[:, :2, 2] = (2 * starts + part) / side - 1
    return inset


def _from_view(pictures: list[Picture]) -> np.ndarray:
    """Matrices (B, 3, 3) from [-1, 1] squared over the view to px of the source."""
    width, height = np.array([picture.size for picture in pictures], float).T / 2
    view = np.zeros((len(pictures), 3, 3))
    view[:, 0, 0], view[:, 0, 2], view[:, 1, 1], view[:, 1, 2] = width, width, height, height
    view[:, 2, 2] = 1
    return np.linalg.inv(np.stack([picture.matrix for picture in pictures])) @ view


def _drawn(
    kind: str,
    layers: list[Layer],
    regions: np.ndarray,
    textures: np.ndarray,
    side: int,
    sources: Pyramid,
    banks: Banks,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours (n, 3, S, S) or (n, 3, 1, 1) of layers of one kind and their opacities."""
    device = sources.pictures.device
    index = np.array([layer.index for layer in layers])
    strength = to_device([layer.inside for layer in layers], device)[:, None, None, None]
    plain = to_device([layer.colour for layer in layers], device)[:, :, None, None]
    simple = _upright_coverage(regions, layers, side, device)
    if kind == "plain" and simple is not None:
        return plain, simple
    grid = view_grid(regions, side, device)
    if kind == "emoji":
        drawn = banks.emoji.sample(index, regions, grid, "zeros") * strength
        return drawn[:, :3], drawn[:, 3:]
    if kind == "stripes":
        phase = grid[..., 0] - grid[..., 0].floor()
        width = to_device([layer.extra for layer in layers], device)[:, None, None]
        return plain, (phase < width)[:, None] * strength
    alpha = _coverage(grid, layers) if simple is None else simple
    inner = grid if textures is regions else view_grid(textures, side, device)
    if kind == "word":
        return plain, alpha * banks.words.sample(index, textures, inner, "zeros")
    if kind == "photo":
        return sources.sample(index, textures, inner, "border"), alpha
    if kind == "mask":
        masks = to_device(np.stack([layer.extra for layer in layers])[:, None], device)
        alpha = alpha * F.grid_sample(masks, grid, align_corners=False, padding_mode="border")
        return sources.sample(index, textures, inner, "border"), alpha
    if kind == "noise":
        shape = (len(layers), 3, side, side)
        noise = torch.rand(shape, generator=generator, device=generator.device)
        return noise.to(device), alpha
    return plain, alpha


def _upright_coverage(
    regions: np.ndarray, layers: list[Layer], side: int, device: torch.device
) -> torch.Tensor | None:
    """Opacities (n, 1, S, S) of plain rectangles along the axes; None if some are other shapes."""
    if np.abs(regions[:, [0, 1, 2, 2], [1, 0, 0, 1]]).max() > 1e-9:
        return None
    if any(layer.radii != SQUARE or layer.soft for layer in layers):
        return None
    m = to_device(regions / regions[:, 2:, 2:], device)
    axis = (torch.arange(side, device=device) + 0.5) * 2 / side - 1
    across = (m[:, 0, 0, None] * axis + m[:, 0, 2, None]).abs() <= 1
    down = (m[:, 1, 1, None] * axis + m[:, 1, 2, None]).abs() <= 1
    inside = to_device([layer.inside for layer in layers], device)[:, None, None, None]
    outside = to_device([layer.outside for layer in layers], device)[:, None, None, None]
    covered = (down[:, :, None] & across[:, None, :])[:, None]
    return torch.where(covered, inside, outside)


def _coverage(grid: torch.Tensor, layers: list[Layer]) -> torch.Tensor:
    """Opacities (n, 1, S, S) of layers, given their places (n, S, S, 2) in [-1, 1] squared."""
    away = grid.abs()
    rim = away.amax(-1)
    if any(layer.radii != SQUARE for layer in layers):
        radii = to_device([layer.radii for layer in layers], grid.device)[:, None, None]
        corner = ((away - (1 - radii)) / radii).clamp(min=0).square().sum(-1)
        covered = corner <= 1
        ellipse = (radii == 1).all(-1)
        rim = torch.where(ellipse, away.norm(dim=-1), rim)
    else:
        covered = rim <= 1
    inside = to_device([layer.inside for layer in layers], grid.device)[:, None, None]
    outside = to_device([layer.outside for layer in layers], grid.device)[:, None, None]
    alpha = torch.where(covered, inside, outside)
    if any(layer.soft for layer in layers):
        soft = to_device([layer.soft for layer in layers], grid.device)[:, None, None]
        alpha = alpha * torch.where(soft > 0, ((1 - rim) / soft.clamp(min=1e-6)).clamp(0, 1), 1.0)
    return alpha[:, None]
