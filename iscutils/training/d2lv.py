"""D2LV and BoT: every photograph is a class, its edited copies are the examples.

Sources: Wang et al., "D^2LV: A Data-Driven and Local-Verification Approach for Image Copy
Detection", 2021 (arXiv 2111.07090), and "Bag of Tricks and A Strong Baseline for Image Copy
Detection", 2021 (arXiv 2111.08004). Their training code is not public: losses, schedule and batches
are those of the author's later open recipes; the average of the weights is saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from iscutils.edits.tensor import TensorEdits
from iscutils.edits.tensor_visible import edit_and_measure
from iscutils.files.artifacts import KitError
from iscutils.losses import Classifier, CosFace, SoftTriplet, unit, world_size
from iscutils.models import Descriptor
from iscutils.training.ema import average_of
from iscutils.training.method import Method, TrainConfig, strength_at
from iscutils.training.pixels import Pixels, whole_views

if TYPE_CHECKING:
    from iscutils.training.labelled import Labelled

LOSSES = ("cosface", "softmax_triplet")
SOFTMAX_WEIGHT, SMOOTHING = 10.0, 0.1  # of "softmax_triplet"
IMPRINTED = 256  # classes at a time
PAD = 10 / 256  # of the side, for random crops of finished pictures


class D2LV(Method):
    """Classify views by their photograph: CosFace on the descriptor before it is normalised.

    Path "tensor" and "images": `config.views` views of each of `batch_size` photographs, the first
    one nearly unedited. Path "labelled": `batch_size` pictures of a synthesised set, flipped and
    shifted at random. Batches of several processes have their classes shared out (`Classifier`).

    Args:
        model: the descriptor to train; published: with the projector "d2lv".
        classes: ids of the training data (`data.classes`).
        loss: "cosface"; or "softmax_triplet": 10 x cross-entropy with smoothing .1 + soft
            batch-hard triplet loss on the pooled features.
        scale, margin: of CosFace.
        compact_margin: of a second CosFace on the descriptor, where the network has wide features
            before it (then `margin` is theirs).
        average: highest share of itself that the average of the weights keeps in a step.
        class_share: part of the classes that a step looks at, see `Classifier`.
    """

    paths = ("tensor", "images", "labelled")
    measures_content = False  # whether `loss` needs to know how much views show
    edited = 1.0  # factor on the shares that edited views show

    def __init__(
        self,
        model: Descriptor,
        config: TrainConfig,
        total_steps: int,
        classes: int,
        loss: str = "cosface",
        scale: float = 64.0,
        margin: float = 0.35,
        compact_margin: float = 0.6,
        average: float = 0.9999,
        class_share: float = 1.0,
    ):
        if loss not in LOSSES:
            raise KitError(f"loss '{loss}' is unknown: choose {' or '.join(LOSSES)}")
        margins = [margin, compact_margin]
        super().__init__(
            config, total_steps, loss=loss, scale=scale, margins=margins, average=average,
            class_share=class_share,
        )  # fmt: skip
        self.model, self.kind = model, loss
        self.average = average_of(model, average)
        self.classifiers = nn.ModuleList()
        for width, own_margin in zip(self._widths(), margins, strict=False):
            seed = config.seed + len(self.classifiers)
            if loss == "cosface":
                made = CosFace(width, classes, scale, own_margin, class_share, seed)
            else:
                made = Classifier(width, classes, SMOOTHING, class_share, seed)
            self.classifiers.append(made)
        self.triplet = SoftTriplet()

    def levels(self, pooled: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features that get a classifier, (B, D) each, the descriptor last, of pooled (B, C)."""
        wide, compact = self.model.expand(pooled)
        return (compact,) if wide is compact else (wide, compact)

    @torch.no_grad()
    def imprint(self, data: Pixels | Labelled) -> None:
        """Start the weights of every class as the features of its first picture.

        For a start from a trained descriptor: random classes would first pull it apart. Source: Qi
        et al., "Low-Shot Learning with Imprinted Weights", CVPR 2018.
        """
        if self.config.path == "images":
            raise KitError("imprint reads finished pictures: choose views tensor or labelled")
        training, side = self.model.training, self.config.size
        self.model.eval()
        for rows in np.array_split(np.arange(data.classes), max(1, data.classes // IMPRINTED)):
            pictures = whole_views(data, data.first_pictures(rows), side)
            levels = self.levels(self.model.pooled(pictures.to(self.model.mean.device)))
            for classifier, features in zip(self.classifiers, levels, strict=True):
                classifier.weight[torch.from_numpy(rows)] = unit(features)
        self.model.train(training)

    @torch.no_grad()
    def _widths(self) -> list[int]:
        training, like = self.model.training, next(self.model.parameters())
        self.model.eval()
        pooled = torch.zeros(1, self.model.backbone.channels, dtype=like.dtype)
        widths = [features.shape[1] for features in self.levels(pooled.to(like.device))]
        self.model.train(training)
        return widths

    # --- views

    def all_views(
        self, images: torch.Tensor, ids: torch.Tensor, scales: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Views (B, 3, S, S), their ids (B,) and the shares of the photographs they show, (B,).

        The last is None where nobody knows it or needs it.
        """
        if self.config.path == "labelled":
            return self._jittered(images), ids, scales
        if images.ndim == 5:
            return images.flatten(0, 1), ids.repeat_interleave(images.shape[1]), None
        generator = self.generator(images.device)
        strength = strength_at(self.progress(), self.config)
        views, shares = [], []
        with torch.autocast(images.device.type, enabled=False):  # pixels keep float32
            for number in range(self.config.views):
                edits = self.edits_of(number)
                if self.measures_content:
                    made, shown = edit_and_measure(edits, images, generator, strength)
                    shares.append(shown * self.edited if number else shown)
                else:
                    made = edits(images, generator, strength)
                views.append(made)
        known = torch.stack(shares, 1).flatten() if shares else None
        return torch.stack(views, 1).flatten(0, 1), ids.repeat_interleave(len(views)), known

    def edits_of(self, number: int) -> TensorEdits:
        """What makes view `number` of a photograph, on path "tensor"."""
        return self.edits if number else self.mild_edits

    def _jittered(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, S, S), half of them mirrored, each moved by up to 10 px of 256."""
        if not self.training:
            return images
        count, side = len(images), images.shape[-1]
        pad = round(PAD * side)
        generator, device = self.generator(images.device), images.device
        mirrored = torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.5
        images = F.pad(torch.where(mirrored, images.flip(3), images), [pad] * 4)
        shape = (2, count, 1)
        corners = torch.randint(2 * pad + 1, shape, generator=generator, device=device)
        rows, columns = corners + torch.arange(side, device=device)  # (B, S) each
        which = torch.arange(count, device=device)[:, None, None]
        # Indices around the slice put its dimension last: (B, S, S, 3)
        return images[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    # --- loss

    def loss(
        self,
        images: torch.Tensor,
        ids: torch.Tensor,
        scales: torch.Tensor | None = None,
        pairs: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        views, ids, scales = self.all_views(images, ids, scales)
        pooled = self.model.pooled(views.contiguous(memory_format=torch.channels_last))
        features = self.levels(pooled)
        generator = self.generator(ids.device, 1)
        parts = {
            "classes": sum(
                classifier(rows, ids, generator)
                for classifier, rows in zip(self.classifiers, features, strict=True)
            )
        }
        total = parts["classes"]
        if self.kind == "softmax_triplet":
            parts["triplet"] = self.triplet(pooled, ids)
            total = SOFTMAX_WEIGHT * total + parts["triplet"]
        further, more = self.further(features[-1], ids, scales, pairs)
        return {"loss": total + further, **parts, **more, **self._watched(features[-1], ids)}

    def further(
        self,
        features: torch.Tensor,
        ids: torch.Tensor,
        scales: torch.Tensor | None,
        pairs: torch.Tensor | None,
    ) -> tuple[torch.Tensor | float, dict[str, torch.Tensor]]:
        """What a sub-class adds to the loss, and parts of it to log.

        Args:
            features: descriptors (B, D) before normalisation.
            ids, scales, pairs: of each view, (B,) each, see `Labelled`.
        """
        return 0.0, {}

    @torch.no_grad()
    def _watched(self, features: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = unit(features)
        self.recent.add(rows)
        similarity, same = rows @ rows.T, ids[:, None] == ids[None, :]
        others = same & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        return {
            "positive": (similarity * others).sum() / others.sum().clamp(min=1),
            "nearest_negative": similarity.masked_fill(same, -1.0).amax(1).mean(),
        }

    # --- average of the weights

    def on_train_batch_end(self, *_: Any) -> None:
        self.average.update_parameters(self.model)

    @property
    def finished(self) -> Descriptor:
        return self.average.module if self.average.n_averaged > 0 else self.model

    def finish(self) -> None:
        if self.average.n_averaged > 0:
            self.model.load_state_dict(self.average.module.state_dict())

    def kept(self) -> dict[str, torch.Tensor]:
        """Nothing: weights of 100,000 classes are larger than the network and not needed later."""
        return {}

    # --- several processes: each has its slice of the classes

    def setup(self, stage: str) -> None:
        super().setup(stage)
        ignored = self._ddp_params_and_buffers_to_ignore
        if world_size() > 1:
            for number, classifier in enumerate(self.classifiers):
                classifier.split()
                ignored.append(f"classifiers.{number}.weight")
        # Follows the network, which is the same everywhere.
        ignored += [f"average.{name}" for name in self.average.state_dict()]

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        if not self.config.clip or world_size() == 1:
            super().configure_gradient_clipping(optimizer)
            return
        split = [classifier.weight.grad for classifier in self.classifiers]
        known = {id(gradient) for gradient in split}
        shared = [p.grad for p in self.parameters() if p.grad is not None]
        squared = get_total_norm(split).square()
        dist.all_reduce(squared)
        squared += get_total_norm([g for g in shared if id(g) not in known]).square()
        clip_grads_with_norm_(self.parameters(), self.config.clip, squared.sqrt())
        self.history[-1]["gradient_norm"] = float(squared.sqrt())  # before it is shortened

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        if world_size() == 1:
            return
        optimiser = checkpoint["optimizer_states"][0]
        groups = self.trainer.optimizers[0].param_groups
        order = [id(parameter) for group in groups for parameter in group["params"]]
        checkpoint["split"] = {}
        for number, classifier in enumerate(self.classifiers):
            name, place = f"classifiers.{number}.weight", order.index(id(classifier.weight))
            checkpoint["state_dict"][name] = classifier.whole(classifier.weight)
            checkpoint["split"][place] = number
            optimiser["state"][place] = {
                key: classifier.whole(value) if value.ndim else value
                for key, value in optimiser["state"][place].items()
            }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        for place, number in checkpoint.get("split", {}).items():
            states = checkpoint["optimizer_states"][0]["state"]
            states[place] = {
                key: self.classifiers[number].own(value) if value.ndim else value
                for key, value in states[place].items()
            }


class BoT(D2LV):
    """D2LV with two classifiers: on wide features, and on the compact descriptor behind them.

    L = CosFace(wide features, margin) + CosFace(descriptor, compact_margin). The network is that of
    projector "bot", or any with a hidden width.
    """

    def levels(self, pooled: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = super().levels(pooled)
        if len(found) < 2:
            raise KitError(
                "bot trains wide features and a compact descriptor behind them, but this network "
                "has only one of the two: set projector='bot' or a hidden width, or use d2lv"
            )
        return found
