"""Copy detection in miniature: a µAP that can be watched while a network trains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from iscutils.edits.recipes import Recipe
from iscutils.edits.tensor import TensorEdits
from iscutils.evaluation.metrics import evaluate
from iscutils.files.artifacts import KitError
from iscutils.models import Descriptor
from iscutils.training import Pixels, to_views
from iscutils.training.pixels import shrink


def fitting(images: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """The images, shrunk to the model's size if its patches do not divide them.

    Transformers take whole patches, and training pixels are cached larger than the views.
    """
    patch = max(getattr(layer, "patch", 1) for layer in model.modules())
    return shrink(images, model.size) if images.shape[-1] % patch else images


class Probe:
    """Searches edited copies of held-out images among them; call it with a network.

    Half of the held-out images are references; every image gives one edited query, so half of the
    queries have an original and the others are distractors. Edits are those of training at full
    strength, from the seed: the same queries for every network.

    Args:
        pixels: held-out images, at least 20, none of them trained on.
        size: side of the network's input in pixels.
        seed: of the edits.
        recipe: of the edits.
    """

    def __init__(self, pixels: Pixels, size: int, seed: int = 0, recipe: Recipe | str = "training"):
        if len(pixels) < 20:
            raise KitError(f"{len(pixels)} held-out images are too few for a probe: hold out 20")
        images = to_views(pixels.__getitems__(list(range(len(pixels))))[0])
        generator = torch.Generator().manual_seed(seed)
        self.ids = pixels.ids
        self.queries = TensorEdits(recipe, size)(images, generator)
        half = len(pixels) // 2
        self.references = shrink(images[:half], size)
        self.truth = pd.DataFrame(
            {
                "query_id": [f"query of {name}" for name in self.ids],
                "reference_id": self.ids[:half] + [""] * (len(self.ids) - half),
            }
        )

    def __call__(self, model: Descriptor) -> dict[str, float]:
        """{uap, recall_at_1, loss} of a network in eval mode; the loss is InfoNCE."""
        return self.judge(self.similarity(model))

    def judge(self, similarity: np.ndarray) -> dict[str, float]:
        """{uap, recall_at_1, loss} of similarities (queries, references)."""
        queries, references = np.unravel_index(np.arange(similarity.size), similarity.shape)
        names = self.truth.query_id.to_numpy()
        found = pd.DataFrame(
            {
                "query_id": names[queries],
                "reference_id": np.asarray(self.ids)[references],
                "score": similarity.ravel(),
            }
        )
        metrics = evaluate(found, self.truth)
        loss = self._loss(similarity)
        return {"uap": metrics.uap, "recall_at_1": metrics.recall_at_1, "loss": loss}

    @staticmethod
    def _loss(similarity: np.ndarray, temperature: float = 0.1) -> float:
        """Mean over the queries with an original of -log softmax of its similarity."""
        logits = torch.from_numpy(similarity[: similarity.shape[1]]) / temperature
        return float(torch.nn.functional.cross_entropy(logits, torch.arange(len(logits))))

    def similarity(self, model: Descriptor) -> np.ndarray:
        """Similarity of every query with every reference, (queries, references)."""
        queries, references = self.describe(model)
        return queries @ references.T

    def describe(self, model: Descriptor) -> tuple[np.ndarray, np.ndarray]:
        """Descriptors of the queries and of the references, (queries, D) and (references, D)."""
        return self.vectors_of(model, self.queries), self.vectors_of(model, self.references)

    def ranking(self, model: Descriptor) -> list[tuple[np.ndarray, np.ndarray]]:
        """For every query: references by falling similarity, and the similarities."""
        similarity = self.similarity(model)
        order = np.argsort(-similarity, axis=1)
        return [(order[i], similarity[i, order[i]]) for i in range(len(order))]

    @staticmethod
    @torch.inference_mode()
    def vectors_of(model: Descriptor, images: torch.Tensor) -> np.ndarray:
        """Descriptors (N, D) of images (N, 3, size, size) in [0, 1], on the model's device."""
        device = model.mean.device
        rows = [model(batch.to(device)).float().cpu() for batch in images.split(128)]
        return torch.cat(rows).numpy()  # (N, D)
