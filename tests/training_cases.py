"""What tests of training methods share: small pictures, and a training that is killed half-way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iscutils import training


class Killed(Exception):
    pass


def coarse_pixels(folder: Path, count: int) -> training.Pixels:
    """Coarse random pictures of 45 px as cached pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    np.save(folder / "0.npy", coarse.repeat(9, 1).repeat(9, 2))
    (folder / "ids.txt").write_text("\n".join(f"p{i:03d}" for i in range(count)))
    return training.Pixels(folder)


def resumes_as_if_unbroken(
    start: Callable[[], training.SSCD], pixels: training.Pixels, folder: Path
) -> None:
    """Train once whole, once killed after the first epoch and continued: the same bytes."""
    calls = []

    def dying(_model):
        calls.append(len(calls))
        if len(calls) == 2:
            raise Killed
        return {"uap": 0.0}

    unbroken = training.fit(start(), pixels, folder / "a", "m", "cpu")
    with pytest.raises(Killed):
        training.fit(start(), pixels, folder / "b", "m", "cpu", dying)
    resumed = training.fit(start(), pixels, folder / "b", "m", "cpu", dying)
    for name in ("model.safetensors", "training.safetensors"):
        assert (unbroken / name).read_bytes() == (resumed / name).read_bytes(), name
    pd.testing.assert_frame_equal(*map(training.read_history, (unbroken, resumed)))
