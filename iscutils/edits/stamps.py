"""Emoji and written words for batched edits, drawn once per process as stacks of small pictures."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from iscutils.edits import assets

EMOJI, EMOJI_SIDE = 128, 72  # pictures, px (as large as AugLy's files)
WORDS_A_SCRIPT, WORD_HEIGHT, WORD_WIDTH = 24, 20, 256  # lines of text, px


class Words(NamedTuple):
    """Lines of made-up words, cut to their ink.

    masks: (K, 1, 20, 256) uint8; a line fills the full height and, from the left, `width` px.
    height: (K,) height of the ink as a share of the font's size. ratio: (K,) width / height of the
    ink. scripts: script -> numbers of its lines.
    """

    masks: np.ndarray
    width: np.ndarray
    height: np.ndarray
    ratio: np.ndarray
    scripts: dict[str, np.ndarray]


@lru_cache(maxsize=1)
def emoji_bank() -> np.ndarray:
    """Emoji as RGBA, colours times alpha, (128, 4, 72, 72) float32 in [0, 1].

    They are spread evenly over all emoji there are: number i is the same in every process.
    """
    files = len(assets.emoji_files()) or EMOJI
    numbers = np.linspace(0, files - 1, EMOJI).astype(int)
    bank = np.stack([np.asarray(assets.emoji(int(i), EMOJI_SIDE)) for i in numbers])
    bank = bank.transpose(0, 3, 1, 2).astype(np.float32) / 255
    bank[:, :3] *= bank[:, 3:]  # the colour of transparent pixels must not bleed when shrunk
    return bank


@lru_cache(maxsize=1)
def word_bank() -> Words:
    """Lines of one to three words in every script and face of `assets`, 24 a script."""
    rng, size = np.random.default_rng(0), 48  # px, of the font
    masks, widths, heights, ratios, scripts = [], [], [], [], {}
    for script in assets.SCRIPTS:
        scripts[script] = np.arange(len(masks), len(masks) + WORDS_A_SCRIPT)
        for face in range(WORDS_A_SCRIPT):
            mask = assets.text_mask(assets.words(script, rng), assets.font(script, face, size))
            width = max(1, min(WORD_WIDTH, round(mask.width * WORD_HEIGHT / mask.height)))
            canvas = np.zeros((1, WORD_HEIGHT, WORD_WIDTH), np.uint8)
            canvas[0, :, :width] = np.asarray(mask.resize((width, WORD_HEIGHT)))
            masks.append(canvas)
            widths.append(width)
            heights.append(mask.height / size)
            ratios.append(mask.width / mask.height)
    return Words(np.stack(masks), *map(np.array, (widths, heights, ratios)), scripts)
