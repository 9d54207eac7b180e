"""Local verification: SIFT points, votes, geometry and pixel agreement (notebook 07)."""

from iscutils.local.config import LocalConfig, counting, local_config, parse_settings
from iscutils.local.matching import PairMatch, match_pair, pair_drawer
from iscutils.local.sift import ImageFeatures, extract_image
from iscutils.local.store import Features, extract_features, read_features
from iscutils.local.verification import find_candidates, score_pairs, verify
from iscutils.local.voting import vote

__all__ = [
    "Features",
    "ImageFeatures",
    "LocalConfig",
    "PairMatch",
    "counting",
    "extract_features",
    "extract_image",
    "find_candidates",
    "local_config",
    "match_pair",
    "pair_drawer",
    "parse_settings",
    "read_features",
    "score_pairs",
    "verify",
    "vote",
]
