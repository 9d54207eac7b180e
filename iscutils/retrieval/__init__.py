"""Retrieval: codecs, score normalisation, candidates; learnt from background images only."""

from .retrieve import retrieve
from .score_norm import ScoreNorm, as_inner_product, normalise, parse_score_norm
from .search import nearest, parse_rule, search
from .whitening import Codec, check_background

__all__ = [
    "Codec",
    "ScoreNorm",
    "as_inner_product",
    "check_background",
    "nearest",
    "normalise",
    "parse_rule",
    "parse_score_norm",
    "retrieve",
    "search",
]
