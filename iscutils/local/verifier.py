"""From evidence to the probability of a copy: a small logistic regression.

The weights were fitted by `iscutils.local.fit` on edited copies of training photographs, never on a
benchmark.
"""

from __future__ import annotations

import numpy as np

from iscutils.local.evidence import NAMES

BIAS = -8.5301
WEIGHTS = {
    "log_guided": 1.0620,
    "guided_share": -2.7172,
    "mean_0": 7.1588,
    "significance_0": 0.6364,
    "strong_0": 3.6059,
    "whole_0": -5.7304,
    "mean_1": 2.3868,
    "significance_1": -0.4412,
    "strong_1": 0.6310,
    "whole_1": -1.5045,
    "mean_2": 2.7584,
    "significance_2": -0.9411,
    "strong_2": -3.6255,
    "whole_2": 3.5233,
    "coverage": 0.7457,
    "visible": 2.1297,
}
_WEIGHTS = np.array([WEIGHTS[name] for name in NAMES])


def log_odds(values: np.ndarray) -> np.ndarray:
    """Log odds of a copy for evidence values (..., len(NAMES))."""
    return np.asarray(values) @ _WEIGHTS + BIAS


def probability(values: np.ndarray) -> float:
    """Probability of a copy (0..1) for the values (len(NAMES),) of one pair's best map."""
    return float(1 / (1 + np.exp(-log_odds(values))))
