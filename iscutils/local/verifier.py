"""From evidence to the probability of a copy: a network of one hidden layer, 16 units wide.

`iscutils.local.fit` fitted `verifier.safetensors` on edited copies of training photographs and on
drawn look-alikes, never on a benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

WEIGHTS = Path(__file__).with_name("verifier.safetensors")
MOST = 4.0  # standard deviations that a value may lie from its mean: nothing strange decides alone


@lru_cache(maxsize=1)
def shipped_weights() -> Mapping[str, np.ndarray]:
    """The arrays of the shipped verifier, as `log_odds` names them."""
    return load_file(WEIGHTS)


def log_odds(values: np.ndarray, weights: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """Log odds of a copy for evidence values (..., E), E = len(NAMES).

    weights: mean and spread (E,) of the values, linear (E,), hidden (H, E), shift (H,), out (H,),
    bias (1,); the shipped ones by default. The log odds are a linear term and a hidden layer's:
    `linear @ x + out @ tanh(hidden @ x + shift) + bias`, x being the standardised values.
    """
    w = shipped_weights() if weights is None else weights
    scaled = np.clip((np.asarray(values) - w["mean"]) / w["spread"], -MOST, MOST)
    hidden = np.tanh(scaled @ w["hidden"].T + w["shift"])
    return scaled @ w["linear"] + hidden @ w["out"] + w["bias"][0]


def probability(values: np.ndarray) -> float:
    """Probability of a copy (0..1) for the values (E,) of one pair's best map."""
    return float(1 / (1 + np.exp(-log_odds(values))))
