"""The whole chain on a benchmark whose queries show one, two or three references, or none."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageOps

from iscutils.datasets import open_images
from iscutils.evaluation.metrics import evaluate
from iscutils.evaluation.submissions import read_ground_truth, read_predictions

ROOT = Path(__file__).resolve().parents[1]
COLLAGES = {"Q1": ("R01", "R02"), "Q2": ("R02", "R03", "R04"), "Q3": ("R05", "R06")}
SINGLE = {"Q0": "R00", "Q4": "R07", "Q5": "R08", "Q8": "R09", "Q9": "R10"}  # Q6, Q7: distractors
CHEAP = ["workers=1", "training_sources=4", "per_image=2", "hard_pairs=0", "train_limit=40",
         "max_thumbnails=8", "part_model=release-256"]  # fmt: skip


def make_benchmark(folder: Path) -> Path:
    """Twelve references and ten queries in ISC layout; R11 is the original of none."""
    size = (320, 240)
    photos = open_images("builtin", part="reference", limit=12, seed=3)
    references = {f"R{i:02d}": photos.load(i).resize(size) for i in range(12)}
    strangers = open_images("builtin", part="distractor", limit=2, seed=3)
    queries = {
        "Q0": references["R00"].crop((30, 20, 300, 220)),
        "Q4": references["R07"].convert("L").convert("RGB"),
        "Q5": references["R08"].rotate(5),
        "Q6": strangers.load(0),
        "Q7": strangers.load(1),
        "Q8": references["R09"].resize((200, 150)),
        "Q9": ImageOps.mirror(references["R10"]),
    }
    for query, names in COLLAGES.items():
        queries[query] = Image.new("RGB", (size[0] * len(names), size[1]))
        for i, name in enumerate(names):
            queries[query].paste(references[name], (size[0] * i, 0))
    for part, pictures in (("references", references), ("queries", queries)):
        (folder / part).mkdir(parents=True)
        for name, picture in pictures.items():
            picture.save(folder / part / f"{name}.jpg", quality=85)
    pairs = [f"{query},{name}" for query, names in COLLAGES.items() for name in names]
    pairs += [f"{query},{name}" for query, name in SINGLE.items()]
    pairs += ["Q1,", "Q6,", pairs[0]]  # beside originals, of a distractor, given twice; Q7 has none
    (folder / "ground_truth.csv").write_text("\n".join(["query_id,reference_id", *pairs]) + "\n")
    edits = [f"{query},collage" for query in COLLAGES] + ["Q0,crop"]
    (folder / "edits.csv").write_text("\n".join(["query_id,edits", *edits]) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """The run folder of `run ready smoke` on such a benchmark, and its truth."""
    folder = tmp_path_factory.mktemp("several")
    data = make_benchmark(folder / "set")
    settings = [f"data={data}", *CHEAP]
    command = [sys.executable, "-m", "iscutils", "run", "ready", "smoke", "--name", "several"]
    command += [text for setting in settings for text in ("--set", setting)]
    environment = os.environ | {"ISCUTILS_RUNS": str(folder / "runs")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "several", read_ground_truth(data / "ground_truth.csv")


def test_all_notebooks_count_pairs_and_queries_as_they_are(run):
    folder, truth = run
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["02_dataset_synthesis"]["queries"] == 10
    assert metrics["02_dataset_synthesis"]["positives"] == len(COLLAGES) + len(SINGLE) == 8
    stages = metrics["08_report"]["stages"]
    assert {(row["queries"], row["positives"]) for row in stages.values()} == {(10, 12)}
    assert metrics["06_retrieval"]["ladder"]  # the search over parts was measured, too
    final = read_predictions(folder / "matches.csv")
    assert stages["local verification"]["uap"] == evaluate(final, truth).uap
    verdicts = metrics["08_report"]["verdicts"]
    assert verdicts.get("correct", 0) + verdicts.get("missed", 0) == 12


def test_every_original_of_a_collage_is_found(run):
    folder, _ = run
    scores = read_predictions(folder / "matches.csv").set_index(["query_id", "reference_id"]).score
    for query, names in COLLAGES.items():
        assert all(scores[query, name] > 0.5 for name in names), query
        others = scores[query].drop(list(names))
        assert others.max() < min(scores[query, name] for name in names)


def test_the_report_says_what_became_of_each_original(run):
    text = (run[0] / "report.html").read_text(encoding="utf-8")
    assert "8 queries have an original, some several (12 true pairs)" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    said = {query: [fate.split(" ")[0] for fate in fates] for query, fates in data["truth"].items()}
    expected = {query: list(names) for query, names in COLLAGES.items()}
    assert said == expected | {query: [name] for query, name in SINGLE.items()}
    assert data["positives"] == 12
