"""Weaker draws of a recipe, for trainings that begin with easy views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from iscutils.edits.recipes import Entry, Group, Operations

# At strengths below 1 these stay, others are left out now and then ...
ALWAYS = {"crop", "resized_crop", "squash", "fit", "hflip", "vflip"}
# ... and values move towards one that does little. Names not given here keep their value.
NEUTRAL: dict[str, dict[str, float]] = {
    "crop": {"area": 1.0, "ratio": 1.0}, "resized_crop": {"area": 1.0, "ratio": 1.0},
    "centre_crop": {"width": 1.0, "height": 1.0}, "rotate": {"degrees": 0.0},
    "affine": {"degrees": 0.0, "scale": 1.0, "x": 0.0, "y": 0.0}, "aspect": {"factor": 1.0},
    "perspective": {"strength": 0.0}, "shear": {"x": 0.0, "y": 0.0}, "skew": {"factor": 0.0},
    "pad": {"left": 0.0, "right": 0.0, "top": 0.0, "bottom": 0.0}, "resize": {"scale": 1.0},
    "paste": {"size": 1.0, "opacity": 1.0}, "underlay": {"size": 0.2},
    "opacity": {"own": 0.8, "second": 0.0}, "blurred_mask": {"cover": 0.05},
    "sticker": {"size": 0.15}, "emoji": {"size": 0.1}, "text": {"size": 0.08},
    "glyphs": {"size": 0.1}, "stripes": {"width": 0.05}, "meme": {"height": 0.05},
    "erase": {"area": 0.02},
    "jitter": {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0},
    "brightness": {"factor": 1.0}, "contrast": {"factor": 1.0}, "saturation": {"factor": 1.0},
    "hue": {"turn": 0.0}, "gamma": {"exponent": 1.0}, "temperature": {"warmth": 0.0},
    "channel_gamma": {"red": 1.0, "green": 1.0, "blue": 1.0}, "sepia": {"strength": 0.3},
    "two_colour": {"strength": 0.3}, "blur": {"radius": 0.004}, "box_blur": {"radius": 0.004},
    "motion_blur": {"length": 0.01}, "zoom_blur": {"strength": 0.02}, "sharpen": {"factor": 1.0},
    "noise": {"amount": 0.02}, "shuffle_pixels": {"share": 0.02}, "pixelate": {"cells": 64},
    "blur_pixels": {"radius": 0.5}, "lose_resolution": {"pixels": 96}, "jpeg": {"quality": 75},
}  # fmt: skip


def weakened(operations: Operations, strength: float, rng: np.random.Generator) -> Operations:
    """Operations at a strength of 0..1: some left out, values moved towards `NEUTRAL`."""
    if strength >= 1:
        return operations
    keep = rng.random(len(operations)) < strength
    return tuple(
        (name, _softened(values, NEUTRAL.get(name, {}), strength))
        for (name, values), kept in zip(operations, keep, strict=True)
        if kept or name in ALWAYS
    )


def _softened(values: Mapping[str, Any], neutral: Mapping[str, float], strength: float) -> dict:
    softened = dict(values)
    for key in neutral.keys() & values.keys():
        value = neutral[key] + strength * (values[key] - neutral[key])
        softened[key] = round(value) if isinstance(values[key], int) else value
    return softened


@dataclass(frozen=True)
class Weakened:
    """A recipe's group drawn at a strength of 0..1; stands where a `Group` does."""

    group: Group
    strength: float

    def sample(self, rng: np.random.Generator) -> Operations:
        """Draw operations with their strengths."""
        return weakened(self.group.sample(rng), self.strength, rng)

    def leaves(self) -> Iterator[Entry]:
        """All entries, however deep, that name an operation."""
        return self.group.leaves()
