"""All switches of the local stage, in one flat record, and the published method as a preset."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import yaml

from iscutils.files.artifacts import KitError

MODES = ("verified", "imgfp")


@dataclass(frozen=True)
class LocalConfig:
    """Parameters of features, voting and pair scores; the defaults are the kit's own method.

    `local_config("imgfp")` gives the published method (arXiv 2112.02373) without improvements.
    """

    # Features (docs/systems/imgfp.md, section 3): pixels are those of the shrunk picture.
    short_side: int = 300  # px; larger pictures are shrunk to it, smaller ones are left alone
    octave_layers: int = 7  # levels per octave
    peak_threshold: float = 0.5  # of a difference-of-Gaussian extremum, gray levels 0..255
    edge_threshold: float = 10.0  # ratio of principal curvatures
    upsample: bool = False  # keep the points of the doubled picture, too
    stretch: bool = True  # stretch gray levels to the full range before detection
    max_points: int = 3000  # strongest points kept per picture, 0 = all; few have more than 1000
    thumbnail: int = 192  # px, long side of the gray thumbnail stored beside the points, 0 = none
    # Voting.
    mirror_search: bool = True  # search the mirrored query points as well
    vote_points: int = 300  # strongest points per picture that vote or are voted for, 0 = all
    vote_rule: str = "top"  # "accept": the published rule; "top": the next two numbers
    max_candidates: int = 3  # references per half (plain, mirrored)
    min_votes: int = 2
    consistent_votes: bool = True  # count only votes that agree on rotation and scale
    max_mean_distance: float = 8000.0  # of rule "accept", squared L2 of RootSIFT integers
    shortlist: int = (
        0  # references per query, nearest by a descriptor, that points vote among; 0 = all
    )
    whole_candidates: int = 3  # references per query by whole-picture comparison, 0 = off
    other_candidates: int = 10  # references per query taken from a global descriptor
    index: str = "flat"  # exact; "ivf": compressed, for millions of points; or a faiss factory text
    probes: int = 64  # inverted lists searched per point
    rerank: int = 64  # points per query point whose distances are computed exactly
    # Pair score.
    ratio: float = 1.8  # a match is kept if ratio * best < second, on squared distances
    both_directions: bool = True  # query -> reference matches as well
    negatives: bool = True  # look for inverted copies, too (geometry "evidence" only)
    geometry: str = "evidence"  # or "none", "affine", "similarity", "homography": RANSAC inliers
    tolerance: float = 5.0  # px of the shrunk query
    iterations: int = 2000  # of RANSAC
    estimator: str = "ransac"  # or "magsac": OpenCV's USAC, a tenth of the time (not "similarity")
    tie_break: bool = True  # integer scores: the smaller mean distance wins
    keep_zero: bool = False  # keep pairs of score 0
    rows_per_query: int = 10  # of the final list: on average as many as the official limit
    # Pictures of a query: the whole one, and crops of what a detector found in it.
    crops: str = "detector"  # or "parts": centre and tiles of every query; "both"
    max_crops: int = 3  # of the detector, per query
    branches: bool = False  # each of imgFp's branches scores what it proposes, with its own picture
    global_on: str = "both"  # the global branch looks for the whole query and the crop, or "crop"
    reference_parts: bool = False  # the global branch looks among parts of the references, too
    merge: str = "sum"  # of a pair's branches; or "max", "calibrated": noisy-or of probabilities
    seed: int = 0  # of RANSAC

    def __post_init__(self) -> None:
        for name, allowed in (
            ("vote_rule", ("top", "accept")),
            ("geometry", ("evidence", "none", "affine", "similarity", "homography")),
            ("estimator", ("ransac", "magsac")),
            ("crops", ("detector", "parts", "both")),
            ("global_on", ("both", "crop")),
            ("merge", ("sum", "max", "calibrated")),
        ):
            if getattr(self, name) not in allowed:
                raise KitError(
                    f"{name}='{getattr(self, name)}' is unknown: choose {', '.join(allowed)}"
                )
        positive = (
            "short_side",
            "octave_layers",
            "max_candidates",
            "iterations",
            "probes",
            "rerank",
            "max_crops",
        )
        for name in positive:
            if getattr(self, name) < 1:
                raise KitError(f"{name}={getattr(self, name)}: give a number of 1 or more")
        if self.geometry == "similarity" and self.estimator == "magsac":
            raise KitError(
                "estimator='magsac' knows no similarities: choose geometry affine or homography, "
                "or estimator='ransac'"
            )
        if self.geometry == "evidence" and self.thumbnail < 32:
            raise KitError(
                f"thumbnail={self.thumbnail}: geometry 'evidence' compares thumbnails; give 32 px "
                "or more"
            )


PUBLISHED = {
    "stretch": False,
    "max_points": 0,
    "thumbnail": 0,
    "mirror_search": False,
    "vote_points": 0,
    "vote_rule": "accept",
    "max_candidates": 1,
    "min_votes": 4,
    "consistent_votes": False,
    "whole_candidates": 0,
    "other_candidates": 1,
    "both_directions": False,
    "negatives": False,
    "geometry": "none",
    "tie_break": False,
    "keep_zero": True,
    "max_crops": 1,
    "branches": True,
    "global_on": "crop",
}


def local_config(mode: str = "verified", **changes: Any) -> LocalConfig:
    """The configuration of a mode ("verified": the kit's, "imgfp": as published), with changes.

    Raises `KitError` for an unknown mode, name or value.
    """
    if mode not in MODES:
        raise KitError(f"mode='{mode}' is unknown: choose {' or '.join(MODES)}")
    for name in changes:
        _known(name)
    return LocalConfig(**{**(PUBLISHED if mode == "imgfp" else {}), **changes})


def counting(config: LocalConfig) -> LocalConfig:
    """The same features, scored as published: the number of matches, without any geometry."""
    return replace(config, geometry="none", both_directions=False, negatives=False)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Changes written as "name=value" texts, as in a notebook's parameters; values are YAML.

    Raises `KitError` for text without `=`, an unknown name, or a value of another type.
    """
    changes: dict[str, Any] = {}
    for text in settings:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise KitError(f"setting '{text}' is not of the form name=value")
        kind = type(getattr(local_config(), _known(name)))
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = None
        if kind is float and type(parsed) is int:
            parsed = float(parsed)
        if type(parsed) is not kind:
            raise KitError(f"setting '{text}': expected a value of type {kind.__name__}")
        changes[name] = parsed
    return changes


def _known(name: str) -> str:
    known = [field.name for field in fields(LocalConfig)]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise KitError(f"local verification has no parameter '{name}'{hint}")
    return name
