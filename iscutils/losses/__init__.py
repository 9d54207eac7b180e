"""Losses of copy detection, each a small module with its formula and source."""

from iscutils.losses.contrastive import InfoNCE, global_pairs
from iscutils.losses.entropy import KoLeo, nearest_similarity
from iscutils.losses.gather import gather, rank, world_size
from iscutils.losses.memory import MemoryQueue
from iscutils.losses.redundancy import BarlowTwins
from iscutils.losses.relational import RelationalDistillation

__all__ = [
    "BarlowTwins",
    "InfoNCE",
    "KoLeo",
    "MemoryQueue",
    "RelationalDistillation",
    "gather",
    "global_pairs",
    "nearest_similarity",
    "rank",
    "world_size",
]
