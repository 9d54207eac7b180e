"""Training: one Lightning module a method, one `fit` for all of them."""

from iscutils.files.artifacts import KitError
from iscutils.models.precision import pick_device, pick_precision
from iscutils.training.asl import ASL, decoy_auc
from iscutils.training.barlow import Barlow
from iscutils.training.d2lv import D2LV, BoT
from iscutils.training.data import Examples, open_views, steps_of, training_data
from iscutils.training.fit import fit, read_history, read_probes
from iscutils.training.imgfp import ImgFp
from iscutils.training.kd_icd import KdIcd
from iscutils.training.labelled import Labelled, read_labelled
from iscutils.training.method import Method, TrainConfig
from iscutils.training.momentum2 import Momentum2
from iscutils.training.optimisers import LARS, make_optimiser, scaled_rate, warmup_cosine
from iscutils.training.originals import store_originals
from iscutils.training.pixels import Pixels, cache_pixels, to_views
from iscutils.training.rdcd import RDCD
from iscutils.training.sscd import SSCD
from iscutils.training.stored import StoredViews, store_views
from iscutils.training.teaching import start_student
from iscutils.training.watch import spread

METHODS = {
    "pretrain": {"barlow_twins": Barlow, "momentum2": Momentum2},
    "train": {"sscd": SSCD, "d2lv": D2LV, "bot": BoT, "asl": ASL, "imgfp": ImgFp},
    "distil": {"rdcd": RDCD, "kd_icd": KdIcd},
}


def choose(method: str, stage: str) -> type[Method]:
    """Training method by name, for the stage `pretrain`, `train` or `distil`."""
    known = METHODS[stage]
    if method not in known:
        raise KitError(f"method '{method}' cannot {stage}: choose {' or '.join(known)}")
    return known[method]


__all__ = [
    "ASL",
    "D2LV",
    "LARS",
    "METHODS",
    "RDCD",
    "SSCD",
    "Barlow",
    "BoT",
    "Examples",
    "ImgFp",
    "KdIcd",
    "Labelled",
    "Method",
    "Momentum2",
    "Pixels",
    "StoredViews",
    "TrainConfig",
    "cache_pixels",
    "choose",
    "decoy_auc",
    "fit",
    "make_optimiser",
    "open_views",
    "pick_device",
    "pick_precision",
    "read_history",
    "read_labelled",
    "read_probes",
    "scaled_rate",
    "spread",
    "start_student",
    "steps_of",
    "store_originals",
    "store_views",
    "to_views",
    "training_data",
    "warmup_cosine",
]
