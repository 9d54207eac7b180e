"""Losses of copy detection, each a small module with its formula and source."""

from iscutils.losses.contrastive import (
    DirectCLR,
    InfoNCE,
    direct_width,
    global_pairs,
    queue_pairs,
    unit,
)
from iscutils.losses.cosface import Classifier, CosFace
from iscutils.losses.entropy import HardNegative, KoLeo, nearest_similarity
from iscutils.losses.gather import gather, mean_over, rank, world_size
from iscutils.losses.memory import MemoryQueue
from iscutils.losses.norm_ratio import NegativePairs, NormRatio
from iscutils.losses.redundancy import BarlowTwins
from iscutils.losses.relational import RelationalDistillation
from iscutils.losses.triplet import MemoryTriplet, SoftTriplet, batch_hard, memory_hard

__all__ = [
    "BarlowTwins",
    "Classifier",
    "CosFace",
    "DirectCLR",
    "HardNegative",
    "InfoNCE",
    "KoLeo",
    "MemoryQueue",
    "MemoryTriplet",
    "NegativePairs",
    "NormRatio",
    "RelationalDistillation",
    "SoftTriplet",
    "batch_hard",
    "direct_width",
    "gather",
    "global_pairs",
    "mean_over",
    "memory_hard",
    "nearest_similarity",
    "queue_pairs",
    "rank",
    "unit",
    "world_size",
]
