"""Retrieval: codecs, score normalisation, candidates; learnt from background images only."""

from iscutils.descriptors.codec import Codec
from iscutils.retrieval.direction import (
    by_direction,
    direction_report,
    hard_negative_table,
    norm_ratios,
    read_norms,
    true_rows,
)
from iscutils.retrieval.ladder import ladder, ways_ladder
from iscutils.retrieval.merge import MergeConfig, cap, largest, matching_parts, merge, read_sides
from iscutils.retrieval.part_files import PartFiles, has_parts, part_files, read_part_table
from iscutils.retrieval.part_search import search_models, search_parts, search_whole, suits_parts
from iscutils.retrieval.retrieve import retrieve, write_l2_submission
from iscutils.retrieval.score_norm import ScoreNorm, as_inner_product, normalise, parse_score_norm
from iscutils.retrieval.search import nearest, parse_rule, search

__all__ = [
    "Codec",
    "MergeConfig",
    "PartFiles",
    "ScoreNorm",
    "as_inner_product",
    "by_direction",
    "cap",
    "direction_report",
    "hard_negative_table",
    "has_parts",
    "ladder",
    "largest",
    "matching_parts",
    "merge",
    "nearest",
    "norm_ratios",
    "normalise",
    "parse_rule",
    "parse_score_norm",
    "part_files",
    "read_norms",
    "read_part_table",
    "read_sides",
    "retrieve",
    "search",
    "search_models",
    "search_parts",
    "search_whole",
    "suits_parts",
    "true_rows",
    "ways_ladder",
    "write_l2_submission",
]
