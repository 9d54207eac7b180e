"""The whole chain in one run: images to matches, killed half-way and continued."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEED = 20211101  # of the moment of the kill

pytestmark = pytest.mark.skipif(
    not list((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")),
    reason="no notebooks in this checkout",
)


def start(runs: Path) -> subprocess.Popen:
    """`python -m iscutils run smoke` with the run folder in `runs`, its log beside it."""
    runs.mkdir(parents=True, exist_ok=True)
    with open(runs / "log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "iscutils", "run", "smoke"],
            cwd=ROOT,
            env=os.environ | {"ISCUTILS_RUNS": str(runs)},
            stdout=log,
            stderr=log,
        )


def finish(process: subprocess.Popen, runs: Path) -> Path:
    assert process.wait(timeout=1200) == 0, (runs / "log").read_text()[-3000:]
    return runs / "smoke"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> tuple[Path, float]:
    """A run folder of the smoke set that nothing disturbed, and the seconds it took."""
    runs = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    run = finish(start(runs), runs)
    return run, time.monotonic() - started


def test_a_run_leaves_everything_that_the_readme_promises(smoke):
    run, _ = smoke
    left = ["params.yaml", "metrics.json", "artifacts.json", "candidates.csv", "matches.csv"]
    left += ["report.html", "figures", "models", "descriptors"]
    missing = [name for name in left if not (run / name).exists()]
    assert missing == []
    assert list((run / "descriptors").glob("*.h5"))
    sources = {path.name for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert {path.name for path in (run / "notebooks").glob("*.ipynb")} == sources
    with open(run / "matches.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["query_id", "reference_id", "score"]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_a_finished_run_is_skipped_as_a_whole(smoke):
    run, _ = smoke
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.csv")}
    finish(start(run.parent), run.parent)
    count = len(list((run / "notebooks").glob("*.ipynb")))
    assert (run.parent / "log").read_text().count("finished, skipped") == count
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.csv")} == before


def test_a_killed_run_continues_and_ends_with_the_same_bytes(smoke, tmp_path):
    undisturbed, seconds = smoke
    process = start(tmp_path)
    stamps = tmp_path / "smoke" / "notebooks" / ".finished"
    wanted = random.Random(SEED).randint(2, 7)  # of ten notebooks
    while len(list(stamps.glob("*.json"))) < wanted:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.2)
    time.sleep(random.Random(SEED).uniform(0, 0.05) * seconds)  # somewhere in the next one
    process.kill()
    process.wait()
    finished = len(list(stamps.glob("*.json")))
    run = finish(start(tmp_path), tmp_path)
    assert (tmp_path / "log").read_text().count("finished, skipped") == finished > 0
    for name in ("candidates.csv", "matches.csv"):
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.parametrize(
    ("system", "only", "published", "settings"),
    [
        ("momentum2", "01", "pretrained", []),
        ("sscd", "03", "teacher", ["views=tensor", "freeze=1"]),
        ("bot", "02,03,05,06", "teacher", []),
        (
            "asl",
            "02,03,05,06",
            "teacher",
            ["models=[teacher,pretrained]", "norm_model=pretrained"],
        ),
        (
            "imgfp",
            "03,05,06,07",
            "teacher",
            ["backbone=esvit_swin_nano", "size=64", "sizes=[64]", "settings=[shortlist=4]"],
        ),
        ("kd_icd", "04", "student", []),
        ("rdcd", "04", "student", []),
    ],
)
def test_parameter_sets_of_the_systems_run_at_smoke_scale(
    smoke, tmp_path, system, only, published, settings
):
    """`run SYSTEM smoke`: the published settings, but small; what it starts from is that run's."""
    before, _ = smoke
    runs = tmp_path / "runs"
    shutil.copytree(before, runs / "again")
    command = [sys.executable, "-m", "iscutils", "run", system, "smoke"]
    command += ["--only", only, "--name", "again"]
    command += [text for setting in settings for text in ("--set", setting)]
    done = run_command(command, runs)
    assert done.returncode == 0, done.stderr[-2000:]
    artifacts = json.loads((runs / "again" / "artifacts.json").read_text())
    earlier = json.loads((before / "artifacts.json").read_text())
    assert artifacts[published] != earlier[published]
    metrics = json.loads((runs / "again" / "metrics.json").read_text())
    for number in only.split(","):
        stage = next((name for name in metrics if name.startswith(number)), "")
        if "method" in metrics.get(stage, {}):
            assert metrics[stage]["method"] == system
    if system == "asl":
        assert len(metrics["06_retrieval"]["direction"]) > 3  # the filter at several thresholds
        assert metrics["06_retrieval"]["norm_model"] == "pretrained"
        assert metrics["03_training"]["direction_auc"] > 0
    if system == "imgfp":
        assert metrics["07_local_verification"]["config"]["branches"]


def test_the_matrix_of_d2lv_runs_at_smoke_scale(tmp_path):
    """Two training sets, two backbones, and the run that searches with the parts of all four."""
    command = [sys.executable, "-m", "iscutils", "run", "d2lv", "smoke", "--only", "01,02,03,05,06"]
    done = run_command(command, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "9 of 9 runs finished with 01, 02, 03, 05, 06" in done.stdout
    metrics = json.loads((tmp_path / "d2lv-smoke" / "metrics.json").read_text())
    assert metrics["06_retrieval"]["model"] == "d2lv-smoke-base-r10:teacher@40"
    final = metrics["06_retrieval"]["stages"]["d2lv-smoke-base-r10:teacher@40 final"]
    assert 0 < final["uap"] <= 1


def run_command(command: list[str], runs: Path) -> subprocess.CompletedProcess:
    """A command of the kit with its runs in a folder of the test."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"ISCUTILS_RUNS": str(runs)},
        capture_output=True,
        text=True,
        timeout=900,
    )
