"""From evidence to the probability of a copy: a small logistic regression.

The weights were fitted by `iscutils.local.fit` on edited copies of training photographs, never on a
benchmark.
"""

from __future__ import annotations

import numpy as np

from iscutils.local.evidence import NAMES

BIAS = -7.3127
WEIGHTS = {
    "log_guided": 0.9112,
    "guided_share": -1.8886,
    "mean_0": 6.1612,
    "significance_0": 0.6598,
    "strong_0": 3.9368,
    "whole_0": -5.9860,
    "mean_1": 2.2187,
    "significance_1": -0.3713,
    "strong_1": 0.5695,
    "whole_1": -1.4184,
    "mean_2": 3.4810,
    "significance_2": -0.8743,
    "strong_2": -4.4779,
    "whole_2": 3.6847,
    "coverage": 0.0016,
    "visible": 1.4517,
}
_WEIGHTS = np.array([WEIGHTS[name] for name in NAMES])


def log_odds(values: np.ndarray) -> np.ndarray:
    """Log odds of a copy for evidence values (..., len(NAMES))."""
    return np.asarray(values) @ _WEIGHTS + BIAS


def probability(values: np.ndarray) -> float:
    """Probability of a copy (0..1) for the values (len(NAMES),) of one pair's best map."""
    return float(1 / (1 + np.exp(-log_odds(values))))
