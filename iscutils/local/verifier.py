"""From evidence to the probability of a copy: a small logistic regression.

The weights were fitted by `iscutils.local.fit` on edited copies of training photographs and on
drawn look-alikes, never on a benchmark.
"""

from __future__ import annotations

import numpy as np

from iscutils.local.evidence import NAMES

BIAS = -2.8312
WEIGHTS = {
    "log_guided": -0.2607,
    "guided_share": -1.4487,
    "mean_0": 0.0172,
    "significance_0": 0.1912,
    "strong_0": 2.4800,
    "whole_0": -0.7079,
    "mean_1": 0.4579,
    "significance_1": 0.2034,
    "strong_1": 1.4583,
    "whole_1": -0.3741,
    "mean_2": -0.2742,
    "significance_2": -0.1379,
    "strong_2": -1.2798,
    "whole_2": 0.8633,
    "coverage": 0.0060,
    "visible": 1.0298,
    "log_unique": 0.2825,
    "log_astray": -1.6876,
    "unique_share": 5.4038,
    "contradiction": -2.3506,
    "frame": -2.8612,
}
_WEIGHTS = np.array([WEIGHTS[name] for name in NAMES])


def log_odds(values: np.ndarray) -> np.ndarray:
    """Log odds of a copy for evidence values (..., len(NAMES))."""
    return np.asarray(values) @ _WEIGHTS + BIAS


def probability(values: np.ndarray) -> float:
    """Probability of a copy (0..1) for the values (len(NAMES),) of one pair's best map."""
    return float(1 / (1 + np.exp(-log_odds(values))))
