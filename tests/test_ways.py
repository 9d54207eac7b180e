"""Queries asked in several ways: what a run's later stages and the set `ready` make of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from iscutils.descriptors.store import write_descriptors
from iscutils.evaluation.submissions import read_predictions
from iscutils.files.artifacts import Run
from iscutils.local.global_branch import shortlist_of_run

ROOT = Path(__file__).resolve().parents[1]


def test_the_shortlist_of_a_run_asks_in_the_ways_of_its_search(tmp_path):
    """The whole is nearest to X. The negative is nearer still to Z, and nearest to the background:
    its score falls behind that of the centre with Y."""
    axes, run = np.eye(4, dtype=np.float32), Run(tmp_path / "run")
    rows = np.stack([
        0.6 * axes[0] + 0.8 * axes[3], 0.9 * axes[1] + 0.436 * axes[0],
        0.95 * axes[2] + 0.312 * axes[3],
    ])  # fmt: skip
    background = np.stack([0.8 * axes[2] + 0.6 * axes[3]] * 4)
    parts = {"part": np.array(["0", "34", "40"], object)}
    files = {
        "queries": write_descriptors(tmp_path / "q.h5", rows, ["A"] * 3, columns=parts),
        "references": write_descriptors(tmp_path / "r.h5", axes[:3], ["X", "Y", "Z"]),
        "background": write_descriptors(tmp_path / "b.h5", background, list("1234")),
    }
    for kind, path in files.items():
        run.publish(f"descriptors:m:{kind}", path)
    run.record("06_retrieval", model="m", codec="Flat", score_norm="1.0[0,2]", ways=[])
    assert shortlist_of_run(run, 1).reference_id.tolist() == ["X"]
    run.record("06_retrieval", ways=["whole", "centre", "inverted"])
    assert shortlist_of_run(run, 1).reference_id.tolist() == ["Y"]


def test_the_set_ready_asks_in_several_ways(tmp_path):
    """The candidates of notebook 06 are those of the ways, a stage of its own."""
    command = [sys.executable, "-m", "iscutils", "run", "ready", "smoke", "--only", "02,05,06"]
    environment = os.environ | {"ISCUTILS_RUNS": str(tmp_path)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=900)
    run = tmp_path / "ready-smoke"
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["06_retrieval"]
    assert found["ways"] == ["whole", "tiles", "centre", "inverted"]
    assert [row["step"] for row in found["ways_ladder"]] == [
        "whole", "+ tiles", "+ centre", "+ inverted"
    ]  # fmt: skip
    stages = found["stages"]
    assert stages["release-256 ways"]["uap"] == found["ways_ladder"][-1]["uap"]
    assert stages["release-256 normalised"]["uap"] == found["ways_ladder"][0]["uap"]
    published = Run(run).find("stage:release-256 ways")
    candidates = read_predictions(run / "candidates.csv")
    assert candidates.equals(read_predictions(published))
