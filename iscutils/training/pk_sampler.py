"""Batches of P ids with K pictures each, and of hard negative pairs of ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from iscutils.files.artifacts import KitError
from iscutils.losses import rank, world_size


class PKSampler(Sampler[int]):
    """Indices of pictures, batch after batch: `views` different ones of each of `ids` ids.

    An epoch shows every ordinary id once (the last batch that is not full is left out); with
    `steps`, passes in new orders follow each other. All is fixed by (seed, epoch); of W processes
    each takes its own ids of every step. Hard negative pairs go round in passes of their own.

    Args:
        groups: pictures (C, K) of the classes, -1 where a class has fewer than K.
        pairs: classes (P, 2) of the pairs.
        views: pictures of an id.
        ids: ids of a batch of one process, those of pairs included.
        pairs_a_batch: pairs of a batch of one process.
        seed: of the order and the choice.
        processes: W.
        steps: of an epoch; 0: one pass.
    """

    def __init__(
        self,
        groups: np.ndarray,
        pairs: np.ndarray,
        views: int,
        ids: int,
        pairs_a_batch: int = 0,
        seed: int = 0,
        processes: int = 1,
        steps: int = 0,
    ):
        self.ordinary = np.setdiff1d(np.arange(len(groups)), pairs)
        self.groups, self.pairs, self.views, self.ids = groups, pairs, views, ids
        self.pairs_a_batch, self.seed, self.processes, self.epoch = (
            pairs_a_batch,
            seed,
            processes,
            0,
        )
        alone = ids - 2 * pairs_a_batch
        _check_batches(groups, views, ids, alone)
        self.each_step = alone * processes, pairs_a_batch * processes
        passes = len(self.ordinary) // self.each_step[0]
        if not passes or len(pairs) < self.each_step[1]:
            raise KitError(
                f"a step needs {self.each_step[0]} ordinary ids and {self.each_step[1]} pairs, but "
                f"the set has {len(self.ordinary)} and {len(pairs)}: lower batch_size or "
                "pairs_a_batch, or make a larger set"
            )
        self.steps = steps or passes

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.ids * self.views

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        ordinary = self.ordinary[_passes(rng, len(self.ordinary), self.each_step[0], self.steps)]
        chosen = [ordinary.reshape(self.steps, self.processes, -1)]
        if self.pairs_a_batch:
            pairs = self.pairs[_passes(rng, len(self.pairs), self.each_step[1], self.steps)]
            chosen.append(pairs.reshape(self.steps, self.processes, -1))
        classes = np.concatenate(chosen, 2)  # (steps, W, ids)
        own = rank() if world_size() > 1 else 0
        for step in range(self.steps):
            rng = np.random.default_rng([self.seed, self.epoch, step])
            keys = rng.random((self.processes, self.ids, self.groups.shape[1]))[own]
            pictures = self.groups[classes[step, own]]  # (ids, K)
            keys[pictures < 0] = 2.0  # behind all that exist
            picked = np.argpartition(keys, self.views - 1, axis=1)[:, : self.views]
            yield from np.take_along_axis(pictures, picked, 1).ravel().tolist()


def _passes(rng: np.random.Generator, count: int, each: int, steps: int) -> np.ndarray:
    """Indices below `count`, (steps, each): random orders one after the other, none cut in two."""
    used = count // each * each
    orders = [rng.permutation(count)[:used] for _ in range(-(-steps * each // used))]
    return np.concatenate(orders)[: steps * each].reshape(steps, each)


def _check_batches(groups: np.ndarray, views: int, ids: int, alone: int) -> None:
    fewest = int((groups >= 0).sum(1).min())
    if views < 2 or fewest < views:
        raise KitError(
            f"views={views} asks for that many pictures of each id, but one has only {fewest}: "
            "choose 2 up to that number, or synthesise more copies (per_image)"
        )
    if ids < 2 or alone < 1:
        raise KitError(
            f"a batch would have only {ids} ids ({ids - alone} of them in pairs): raise "
            "batch_size, which is ids x views, or lower pairs_a_batch"
        )
