"""Losses of copy detection, each a small module with its formula and source."""

from iscutils.losses.contrastive import (
    DirectCLR,
    InfoNCE,
    direct_width,
    global_pairs,
    queue_pairs,
    unit,
)
from iscutils.losses.entropy import HardNegative, KoLeo, nearest_similarity
from iscutils.losses.gather import gather, mean_over, rank, world_size
from iscutils.losses.memory import MemoryQueue
from iscutils.losses.redundancy import BarlowTwins
from iscutils.losses.relational import RelationalDistillation

__all__ = [
    "BarlowTwins",
    "DirectCLR",
    "HardNegative",
    "InfoNCE",
    "KoLeo",
    "MemoryQueue",
    "RelationalDistillation",
    "direct_width",
    "gather",
    "global_pairs",
    "mean_over",
    "nearest_similarity",
    "queue_pairs",
    "rank",
    "unit",
    "world_size",
]
