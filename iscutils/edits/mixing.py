"""Mixup and cutmix of stacked training views."""

from __future__ import annotations

import numpy as np
import torch


def mix_rows(
    rows: torch.Tensor,
    sources: torch.Tensor,
    generator: torch.Generator,
    probability: float,
    alpha: float = 2.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mix some views with a view of another image, as SSCD's "+ mixup" training does.

    Every row is mixed with a probability, by mixup or cutmix equally often, its own share being
    gamma ~ Beta(alpha, alpha). The partner of row i of 2n is row 2n - 1 - i, as it was before any
    mixing. Mixup: gamma x own + (1 - gamma) x partner. Cutmix: a box of sides sqrt(1 - gamma) of
    the view's, its centre anywhere, shows the partner; gamma becomes the share outside of it.
    Source: Pizzi et al., CVPR 2022, section 4.3 and released code.

    Args:
        rows: first views of n images, then their second views, (2n, 3, S, S); left as they are.
        sources: id of each row's image, (2n,).
        generator: decides everything; the same state gives the same mix.

    Returns:
        Mixed rows; ids (2n, 2) of the images in each row, twice the same where only one is in it;
        gamma (2n,), the share of a row's own image.
    """
    count, (height, width) = len(rows), rows.shape[-2:]
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    rng = np.random.default_rng(int(seed))
    mixed, gammas = rows.clone(), np.ones(count)
    for i in np.flatnonzero(rng.random(count) < probability):
        gamma, partner = rng.beta(alpha, alpha), rows[count - 1 - i]
        if rng.random() < 0.5:
            mixed[i] = gamma * rows[i] + (1 - gamma) * partner
        else:
            y0, y1 = _span(height, gamma, rng)
            x0, x1 = _span(width, gamma, rng)
            mixed[i, :, y0:y1, x0:x1] = partner[:, y0:y1, x0:x1]
            gamma = 1 - (y1 - y0) * (x1 - x0) / (height * width)
        gammas[i] = gamma
    weights = torch.as_tensor(gammas, dtype=torch.float32, device=rows.device)
    others = sources.flip(0)
    own = torch.where(weights > 0, sources, others)
    return mixed, torch.stack([own, torch.where(weights < 1, others, sources)], 1), weights


def _span(length: int, gamma: float, rng: np.random.Generator) -> tuple[int, int]:
    """Start and end px of a cutmix box along one side, cut at the view's edges."""
    box = int(length * np.sqrt(1 - gamma))
    start = int(rng.integers(length)) - box // 2
    return max(0, start), min(length, start + box)
