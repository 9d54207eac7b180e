"""Training: one Lightning module a method, one `fit` for all of them."""

from iscutils.artifacts import KitError
from iscutils.training.barlow import Barlow
from iscutils.training.fit import (
    fit,
    open_views,
    pick_device,
    pick_precision,
    read_history,
    read_probes,
    steps_of,
    training_data,
)
from iscutils.training.kd_icd import KdIcd
from iscutils.training.method import Method, TrainConfig
from iscutils.training.optimisers import LARS, make_optimiser, scaled_rate, warmup_cosine
from iscutils.training.pixels import Pixels, cache_pixels, to_views
from iscutils.training.rdcd import RDCD
from iscutils.training.sscd import SSCD
from iscutils.training.watch import spread

METHODS = {
    "pretrain": {"barlow_twins": Barlow},
    "train": {"sscd": SSCD},
    "distil": {"rdcd": RDCD, "kd_icd": KdIcd},
}


def choose(method: str, stage: str) -> type[Method]:
    """Training method by name, for the stage `pretrain`, `train` or `distil`."""
    known = METHODS[stage]
    if method not in known:
        raise KitError(f"method '{method}' cannot {stage}: choose {' or '.join(known)}")
    return known[method]


__all__ = [
    "LARS",
    "METHODS",
    "RDCD",
    "SSCD",
    "Barlow",
    "KdIcd",
    "Method",
    "Pixels",
    "TrainConfig",
    "cache_pixels",
    "choose",
    "fit",
    "make_optimiser",
    "open_views",
    "pick_device",
    "pick_precision",
    "read_history",
    "read_probes",
    "scaled_rate",
    "spread",
    "steps_of",
    "to_views",
    "training_data",
    "warmup_cosine",
]
