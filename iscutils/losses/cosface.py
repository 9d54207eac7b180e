"""Softmax over the classes of a labelled set, 100,000 and more, that processes may share out.

Each process holds the weights of its own slice of the classes. Features are gathered, every process
computes the logits of its slice, and three sums a row make the softmax exact: losses and gradients
are those of one process with all classes. Sources: Wang et al., "CosFace: Large Margin Cosine Loss
for Deep Face Recognition", CVPR 2018, equation 4; An et al., "Partial FC", ICCVW 2021 (slices,
sampled classes); Szegedy et al., CVPR 2016, section 7 (label smoothing).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses.contrastive import at_least_float32
from iscutils.losses.gather import gather, rank, world_size


class Classifier(nn.Module):
    """Cross-entropy of logits <f, w_c> over all classes c, without bias.

    Args:
        width: values D of a feature.
        classes: number of classes C.
        smoothing: share e of the target that is spread evenly over the classes:
            loss = logsumexp(l) - (1 - e) l_target - e mean(l).
        share: part of the classes that a step looks at, in (0, 1]: those of the batch, and others
            drawn at random to fill up. Below 1 the loss is smaller than the exact one, and so is
            the work. All weights keep their gradient and state in memory either way.
        seed: of the start weights.

    Attributes:
        weight: rows of the own classes, `first` being the class of row 0.
    """

    penalty = 0.0  # subtracted from the logit of the right class

    def __init__(
        self, width: int, classes: int, smoothing: float = 0.0, share: float = 1.0, seed: int = 0
    ):
        super().__init__()
        if classes < 2:
            raise KitError(f"a classifier of {classes} classes: give at least 2 ids to train on")
        if not 0 < share <= 1 or not 0 <= smoothing < 1:
            raise KitError(
                f"class share {share}, smoothing {smoothing}: give a share above 0 up to 1 and a "
                "smoothing from 0 to below 1"
            )
        self.classes, self.smoothing, self.share, self.first = classes, smoothing, share, 0
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(self.start(torch.empty(classes, width), generator))

    def start(self, weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Fill the start weights (C, D): normal, deviation .001."""
        return nn.init.normal_(weight, std=0.001, generator=generator)

    def logits(self, features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Logits (M, C') of features (M, D) for class weights (C', D)."""
        return features @ weight.T

    def forward(
        self, features: torch.Tensor, labels: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Mean loss over the rows of all processes, features (M, D) with labels (M,), 0..C-1.

        `generator` draws the other classes where `share` is below 1.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = _ForAll.apply(gather(at_least_float32(features)))  # (G, D)
            columns = gather(labels) - self.first
            mine = (columns >= 0) & (columns < len(self.weight))
            columns, weight = columns.masked_fill(~mine, -1), self.weight
            if self.share < 1 and self.training:
                weight, columns = self._some(columns, generator)
            logits = self.logits(features, weight.to(features.dtype))  # (G, C')
            if self.penalty:
                rows = mine.nonzero()[:, 0]
                cut = torch.full_like(rows, -self.penalty, dtype=logits.dtype)
                logits = logits.index_put((rows, columns[rows]), cut, accumulate=True)
            return _SplitCrossEntropy.apply(logits, columns, self.smoothing)

    def _some(
        self, columns: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of the batch's own classes and of some others; the columns among them."""
        present = columns[columns >= 0].unique()
        count = max(len(present), math.ceil(self.share * len(self.weight)))
        order = torch.rand(len(self.weight), generator=generator, device=columns.device)
        order[present] = 2.0  # before all others
        chosen = order.topk(count).indices.sort().values
        found = torch.searchsorted(chosen, columns.clamp(min=0))
        return self.weight[chosen], found.masked_fill(columns < 0, -1)

    # --- slices

    def split(self) -> None:
        """Keep the slice of this process alone; once processes run, before the optimiser is made.

        Raises:
            KitError: there are fewer classes than processes.
        """
        if world_size() == 1 or len(self.weight) < self.classes:
            return
        if self.classes < world_size():
            raise KitError(f"{self.classes} classes for {world_size()} processes: use fewer")
        start, end = self._bounds(rank())
        self.weight, self.first = nn.Parameter(self.weight.detach()[start:end].clone()), start

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """Of rows for all classes (C, ...) those of the own slice."""
        return rows[self.first : self.first + len(self.weight)]

    def whole(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (C', ...) of all slices joined, (C, ...), on the CPU of process 0; all call it.

        Slices come one at a time: a GPU needs room for one more of them. The others get their own.
        """
        if len(self.weight) == self.classes:
            return rows
        parts = []
        for number in range(world_size()):
            start, end = self._bounds(number)
            part = rows.detach().contiguous()
            if number != rank():
                part = rows.new_empty(end - start, *rows.shape[1:])
            dist.broadcast(part, number)
            if rank() == 0:
                parts.append(part.cpu())
        return torch.cat(parts) if parts else rows

    def _bounds(self, number: int) -> tuple[int, int]:
        count = world_size()
        return self.classes * number // count, self.classes * (number + 1) // count

    def _load_from_state_dict(self, state: dict, prefix: str, *others: Any) -> None:
        """Take the own slice of whole weights; keep the own weights where a slice is handed in.

        The latter comes from processes that a notebook started: only their network is wanted.
        """
        given = state.get(f"{prefix}weight")
        if given is not None and len(given) != len(self.weight):
            whole = len(given) == self.classes
            state[f"{prefix}weight"] = self.own(given) if whole else self.weight.detach()
        super()._load_from_state_dict(state, prefix, *others)


class CosFace(Classifier):
    """Cross-entropy of logits s (cos(f, w_c) - m [c is the right class]) over all classes c.

    Args:
        scale, margin: s and m, 64 and .35 as published.
        others: see `Classifier`.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        scale: float = 64.0,
        margin: float = 0.35,
        share: float = 1.0,
        seed: int = 0,
    ):
        super().__init__(width, classes, share=share, seed=seed)
        self.scale, self.penalty = scale, scale * margin

    def start(self, weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Fill the start weights (C, D): Xavier, uniform."""
        return nn.init.xavier_uniform_(weight, generator=generator)

    def logits(self, features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """64 times the cosines (M, C') of features (M, D) and class weights (C', D)."""
        return self.scale * F.normalize(features, dim=1) @ F.normalize(weight, dim=1).T


class _SplitCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of rows whose logits (G, C') lie in slices on the processes.

    columns: (G,), the right class in this slice, -1 where another process holds it.
    """

    @staticmethod
    def forward(context, logits, columns, smoothing):
        top = logits.detach().amax(1)
        _reduce(top, dist.ReduceOp.MAX)
        powers = (logits - top[:, None]).exp_()
        rows = (columns >= 0).nonzero()[:, 0]
        target = logits.new_zeros(len(logits))
        target[rows] = logits[rows, columns[rows]]
        count = torch.full_like(target, logits.shape[1])
        sums = torch.stack([powers.sum(1), target, logits.sum(1), count])  # (4, G)
        _reduce(sums)
        total, target, every, count = sums
        context.save_for_backward(powers.div_(total[:, None]), rows, columns)
        context.smoothing, context.count = smoothing, count[0]
        loss = top + total.log() - (1 - smoothing) * target - smoothing * every / count
        return loss.mean()

    @staticmethod
    def backward(context, gradient):
        shares, rows, columns = context.saved_tensors
        away = shares - context.smoothing / context.count  # softmax less the smoothed target
        away[rows, columns[rows]] -= 1 - context.smoothing
        return away.mul_(gradient / len(away)), None, None


class _ForAll(torch.autograd.Function):
    """Identity; its gradient grows by the number of processes, whose mean is taken afterwards.

    The loss is one number for all, and each holds a part of its gradient: the parts' sum is wanted.
    """

    @staticmethod
    def forward(context, rows):
        return rows.view_as(rows)

    @staticmethod
    def backward(context, gradient):
        return gradient * world_size()


def _reduce(values: torch.Tensor, how: Any = None) -> None:
    if world_size() > 1:
        dist.all_reduce(values, how or dist.ReduceOp.SUM)
