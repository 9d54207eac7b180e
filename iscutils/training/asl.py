"""ASL: norms tell how much of a photograph a picture shows, so copies get a direction.

Source: Wang et al., "A Benchmark and Asymmetrical-Similarity Learning for Practical Image Copy
Detection", AAAI 2023 (arXiv 2205.12358). Its training code is not public; this one adds its loss to
`D2LV`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from iscutils.edits import load_recipe
from iscutils.edits.recipes import Recipe
from iscutils.edits.tensor import TensorEdits
from iscutils.files.artifacts import KitError
from iscutils.losses import NegativePairs, NormRatio
from iscutils.models import Descriptor
from iscutils.training.d2lv import D2LV
from iscutils.training.method import TrainConfig
from iscutils.training.pixels import Pixels, shrink, to_views

PARTS = "parts"  # recipe of plain crops
BATCH = 64  # images of `norms_of`
DECOY_AREA = (0.2, 0.5)  # of a directional decoy, share of its photograph


class ASL(D2LV):
    """D2LV's loss + norm_weight x norm-ratio loss + negative_weight x loss of negative pairs.

    The norm is that of the descriptor before it is normalised (`Descriptor.raw`). Views of a
    photograph that show more of it should be longer. Hard negative pairs come with labelled sets.

    Args:
        norm_weight: of the norm-ratio loss (lambda).
        norm_ramp: epochs over which that weight rises from 0.
        norm_pairs: "pairs": all pairs of an id; "one": one an id, as published.
        negative_weight: of the loss of negative pairs (mu); not used with "softmax_triplet", whose
            triplets find the partner as the nearest negative.
        negative_margin: cosine up to which the two of a pair may be alike.
        edited: factor on the share that an edited view shows (path "labelled": give it to
            `read_labelled`). Below 1 every edited view should be shorter than its original, even
            if it shows all of it: what the filter asks of a copy. 1: content alone counts; then
            views that show all are never compared with the original, and those that look as from
            farther away (padded, pasted, tilted) become longer than it.
        part_views: how many of the views are plain crops of 20 to 80 % (path "labelled": add a set
            of recipe "parts"). They are what directional pairs are made of; seen among edited views
            alone, the network takes traces of editing for the sign of a part.
        others: see `D2LV`.
    """

    measures_content = True

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        classes: int,
        norm_weight: float = 1.0,
        norm_ramp: float = 4.0,
        norm_pairs: str = "pairs",
        negative_weight: float = 1.0,
        negative_margin: float = 0.3,
        edited: float = 1.0,
        part_views: int = 0,
        **others: Any,
    ):
        if not 0 < edited <= 1 or not 0 <= part_views < max(2, config.views):
            raise KitError(
                f"edited={edited}, part_views={part_views}: give a factor above 0 up to 1, and "
                f"fewer part views than the {config.views} views of a photograph"
            )
        if config.path == "images":
            raise KitError(
                "asl must know how much of its photograph every view shows, and path 'images' does "
                "not say: choose path 'tensor', or 'labelled' with a synthesised set"
            )
        super().__init__(model, config, total_steps, classes, **others)
        self.settings |= {
            "norm": [norm_weight, norm_ramp, norm_pairs],
            "negative": [negative_weight, negative_margin],
            "views": [edited, part_views],
        }
        self.edited, self.part_views = edited, part_views
        if part_views and config.path == "tensor":
            self.part_edits = TensorEdits(load_recipe(PARTS), config.size)
        self.norm_weight, self.norm_ramp = norm_weight, norm_ramp
        self.negative_weight = negative_weight if self.kind == "cosface" else 0.0
        self.norm_ratio = NormRatio(norm_pairs)
        self.negatives = NegativePairs(negative_margin)

    def edits_of(self, number: int) -> TensorEdits:
        if number >= self.config.views - self.part_views:
            return self.part_edits
        return super().edits_of(number)

    def weight_now(self) -> float:
        """Weight of the norm-ratio loss in this step."""
        epochs = self.progress() * self.config.epochs
        return self.norm_weight * (min(1.0, epochs / self.norm_ramp) if self.norm_ramp else 1.0)

    def further(
        self,
        features: torch.Tensor,
        ids: torch.Tensor,
        scales: torch.Tensor | None,
        pairs: torch.Tensor | None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        norm = self.norm_ratio(features, scales, ids, self.generator(ids.device, 2))
        total, parts = self.weight_now() * norm, {"norm": norm}
        if pairs is not None and self.negative_weight:
            parts["negative"] = self.negatives(features, ids, pairs)
            total = total + self.negative_weight * parts["negative"]
        return total, parts


@torch.inference_mode()
def norms_of(model: Descriptor, images: torch.Tensor) -> np.ndarray:
    """Lengths (N,) of the descriptors of images (N, 3, S, S) in [0, 1] before normalisation."""
    device = model.mean.device
    rows = []
    for batch in images.split(BATCH):
        descriptors = model.expand(model.pooled(batch.to(device)))[1]
        rows.append(descriptors.float().norm(dim=1).cpu())
    return torch.cat(rows).numpy()


def decoy_auc(
    model: Descriptor,
    pixels: Pixels,
    size: int,
    seed: int = 0,
    recipe: Recipe | str = "training",
) -> dict[str, float]:
    """Can norms tell directional decoys from true copies?

    A decoy pair: a held-out photograph as the query, a crop of .2 to .5 of its area as the
    reference; nothing edited, yet the query is no copy of the crop. A true pair: an edited copy as
    the query, the photograph as the reference. Both have ratios |query| / |reference|.

    Args:
        model: in eval mode.
        pixels: held-out images.
        size: side of the network's input in pixels.
        seed: of crops and edits.
        recipe: edits of the true copies.

    Returns:
        `auc`: area under the curve of the ratio, .5 = blind, 1 = decoys all have the larger ones;
        `decoys_above`, `copies_above`: share of either above 1, which the filter drops.
    """
    images = to_views(pixels.__getitems__(list(range(len(pixels))))[0])
    generator = torch.Generator().manual_seed(seed)
    whole = shrink(images, size)
    copies = TensorEdits(recipe, size)(images, generator)
    crops = _crops(images, size, np.random.default_rng([seed, 5]))
    norms = norms_of(model, whole)
    decoys, true = norms / norms_of(model, crops), norms_of(model, copies) / norms
    above = np.sign(decoys[:, None] - true[None, :])  # (decoys, copies): 1, 0 for equal, -1
    return {
        "auc": float((above.mean() + 1) / 2),  # Mann and Whitney's statistic
        "decoys_above": float((decoys > 1).mean()),
        "copies_above": float((true > 1).mean()),
    }


def _crops(images: torch.Tensor, size: int, rng: np.random.Generator) -> torch.Tensor:
    """A crop of every image (N, 3, H, W), of its own proportions, squashed to (size, size)."""
    made = []
    for image in images:
        share = np.sqrt(rng.uniform(*DECOY_AREA))
        height, width = (max(1, round(share * side)) for side in image.shape[1:])
        y = int(rng.integers(image.shape[1] - height + 1))
        x = int(rng.integers(image.shape[2] - width + 1))
        made.append(shrink(image[None, :, y : y + height, x : x + width], size))
    return torch.cat(made)
