"""From evidence to the probability of a copy: a small logistic regression.

The weights were fitted by `iscutils.local.fit` on edited copies of training photographs and on
drawn look-alikes, never on a benchmark.
"""

from __future__ import annotations

import numpy as np

from iscutils.local.evidence import NAMES

BIAS = -4.8503
WEIGHTS = {
    "log_guided": -0.8582,
    "guided_share": -1.6614,
    "mean_0": 0.9481,
    "significance_0": 0.2876,
    "strong_0": 3.7100,
    "whole_0": -4.2485,
    "mean_1": 0.9002,
    "significance_1": 0.1562,
    "strong_1": 1.8548,
    "whole_1": -1.8733,
    "mean_2": 0.8910,
    "significance_2": -0.1622,
    "strong_2": -1.3877,
    "whole_2": 2.9265,
    "coverage": 1.2211,
    "visible": 0.2978,
    "log_unique": -0.0438,
    "log_astray": -1.0897,
    "unique_share": 9.6041,
    "contradiction": -2.1366,
    "frame": -2.3916,
}
_WEIGHTS = np.array([WEIGHTS[name] for name in NAMES])


def log_odds(values: np.ndarray) -> np.ndarray:
    """Log odds of a copy for evidence values (..., len(NAMES))."""
    return np.asarray(values) @ _WEIGHTS + BIAS


def probability(values: np.ndarray) -> float:
    """Probability of a copy (0..1) for the values (len(NAMES),) of one pair's best map."""
    return float(1 / (1 + np.exp(-log_odds(values))))
