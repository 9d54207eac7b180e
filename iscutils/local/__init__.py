"""Local verification: SIFT points, votes, geometry and pixel agreement (notebook 07)."""

from iscutils.local.branches import Crops, branch_table, propose
from iscutils.local.config import LocalConfig, counting, local_config, parse_settings
from iscutils.local.matching import PairMatch, match_pair, pair_drawer
from iscutils.local.point_text import convert_points
from iscutils.local.sift import ImageFeatures, extract_image
from iscutils.local.store import Features, extract_features, read_features
from iscutils.local.verification import find_candidates, score_pairs, score_pictures, verify
from iscutils.local.voting import vote

__all__ = [
    "Crops",
    "Features",
    "ImageFeatures",
    "LocalConfig",
    "PairMatch",
    "branch_table",
    "convert_points",
    "counting",
    "extract_features",
    "extract_image",
    "find_candidates",
    "local_config",
    "match_pair",
    "pair_drawer",
    "parse_settings",
    "propose",
    "read_features",
    "score_pairs",
    "score_pictures",
    "verify",
    "vote",
]
