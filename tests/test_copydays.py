"""Copydays: its blocks, the truth by place and by name, and the two numbers of INRIA."""

import io
import logging

import pandas as pd
import pytest
from PIL import Image

from iscutils.datasets import copydays, open_benchmark
from iscutils.datasets.layouts import parse_spec
from iscutils.evaluation.copydays_metric import strong_queries
from iscutils.evaluation.metrics import copydays_metrics, copydays_table
from iscutils.files.artifacts import KitError


def write_images(folder, names):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "teal").save(buffer, "JPEG")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.jpg").write_bytes(buffer.getvalue())


def make_copydays(root, originals=157, strong=229):
    """Originals 200000, 200100, ...; their strong edits 200001, 200101, ..., then 200002, ..."""
    names = [f"{2000 + i}00" for i in range(originals)]
    write_images(root / "original", names)
    edits = [f"{2000 + i % originals}{1 + i // originals:02d}" for i in range(strong)]
    write_images(root / "strong", edits)
    for block in copydays.COUNTS:
        if "/" in block:
            write_images(root / block, names)
    return root


def perfect(truth):
    return truth.assign(score=1.0)


def test_a_complete_tree_and_a_perfect_ranking(tmp_path, caplog):
    found = copydays.read(parse_spec(f"copydays:{make_copydays(tmp_path)}"))
    assert sum(copydays.COUNTS.values()) == len(found.queries) == 3212
    assert len(copydays.COUNTS) == found.notes["blocks"] == 20
    assert found.problems == ()
    assert found.notes["complete"]
    strong = strong_queries(found.queries.ids)
    assert len(strong) == 229
    assert len(found.ground_truth) == 3212
    metrics = copydays_metrics(perfect(found.ground_truth), found.ground_truth, strong)
    assert metrics == {"strong_map": 1.0, "overall_uap": 1.0}


def test_true_pairs_by_place_and_by_name(tmp_path):
    make_copydays(tmp_path, originals=3, strong=5)
    truth = open_benchmark(f"copydays:{tmp_path}").ground_truth
    pairs = dict(truth.itertuples(index=False, name=None))
    assert pairs["original_200100"] == "200100"
    assert pairs["jpegqual_3_200200"] == "200200"
    assert pairs["crops_80_200000"] == "200000"
    assert {q: r for q, r in pairs.items() if q.startswith("strong")} == {
        "strong_200001": "200000",
        "strong_200101": "200100",
        "strong_200201": "200200",
        "strong_200002": "200000",
        "strong_200102": "200100",
    }
    # Names that differ from the originals': the place in the block decides.
    for file in sorted((tmp_path / "crops" / "10").iterdir()):
        file.rename(file.with_name("c" + file.name))
    truth = open_benchmark(f"copydays:{tmp_path}").ground_truth
    assert dict(truth.to_numpy().tolist())["crops_10_c200100"] == "200100"


def test_wrong_counts_warn_and_incomplete_blocks_go_by_name(tmp_path, caplog):
    make_copydays(tmp_path, originals=3, strong=3)
    (tmp_path / "crops" / "10" / "200000.jpg").unlink()
    (tmp_path / "crops" / "20" / "200000.jpg").rename(tmp_path / "crops" / "20" / "x.jpg")
    (tmp_path / "crops" / "20" / "200100.jpg").unlink()
    logger = logging.getLogger("iscutils")
    logger.addHandler(caplog.handler)
    try:
        benchmark = open_benchmark(f"copydays:{tmp_path}")
    finally:
        logger.removeHandler(caplog.handler)
    assert "block crops/10 has 2 of 157 images" in caplog.text
    assert "1 queries have no original, such as crops_20_x" in caplog.text
    pairs = dict(benchmark.ground_truth.to_numpy().tolist())
    assert pairs["crops_10_200100"] == "200100"
    assert pairs["crops_20_x"] == ""
    assert benchmark.notes["complete"] is False


def test_distractors_and_whitening_images(tmp_path):
    make_copydays(tmp_path / "c", originals=2, strong=2)
    write_images(tmp_path / "others", ["a", "b"])
    write_images(tmp_path / "c" / "whitening", ["w"])
    data = f"copydays:{tmp_path / 'c'}?distractors={tmp_path / 'others'}"
    benchmark = open_benchmark(data, f"copydays:{tmp_path / 'c'}")
    names = ["200000", "200100", "distractor_a", "distractor_b"]
    assert benchmark.references.ids == names
    assert benchmark.background.ids == ["w"]
    assert benchmark.notes["distractors"] == 2
    first = benchmark.notes["distractor_names"]
    write_images(tmp_path / "others", ["c"])
    assert open_benchmark(data).notes["distractor_names"] != first
    with pytest.raises(KitError, match=r"no distractors in .*nowhere"):
        open_benchmark(f"copydays:{tmp_path / 'c'}?distractors={tmp_path}/nowhere")
    with pytest.raises(KitError, match="learning from the references"):
        open_benchmark(data, tmp_path / "others")


def test_other_folders_are_refused(tmp_path):
    write_images(tmp_path / "original", ["a"])
    with pytest.raises(KitError, match="is no Copydays: expected original/, strong/"):
        open_benchmark(f"copydays:{tmp_path}")
    with pytest.raises(KitError, match="no folder whitening/"):
        make_copydays(tmp_path / "c", originals=1, strong=1)
        copydays.training(parse_spec(f"copydays:{tmp_path / 'c'}"))


def test_the_table_labels_its_numbers_and_has_a_row_for_each_block():
    rows = [("original_a", "a"), ("strong_a1", "a"), ("strong_b1", "b"), ("crops_10_b", "b")]
    truth = pd.DataFrame(rows, columns=["query_id", "reference_id"])
    scores = [(*row, 1 - i / 10) for i, row in enumerate(rows)]
    scores[2] = ("strong_b1", "b", 0.5)
    scores.append(("strong_b1", "a", 0.6))  # wrong and first: rank 1 of 1 gives .25
    predictions = pd.DataFrame(scores, columns=["query_id", "reference_id", "score"])
    table = copydays_table(predictions, truth, codec="PCAW512")
    values = table.set_index("metric")["value"]
    assert all(name.endswith("(INRIA trapezoid)") for name in values.index)
    assert values["strong mAP (INRIA trapezoid)"] == pytest.approx((1 + 0.25) / 2)
    assert values["mAP of strong (INRIA trapezoid)"] == pytest.approx((1 + 0.25) / 2)
    assert values["mAP of crops_10 (INRIA trapezoid)"] == 1
    # Pooled: hits at ranks 0, 1, 2 and 4 of 4: (1 + 1 + 1 + (3/4 + 4/5) / 2) / 4
    assert values["overall uAP (INRIA trapezoid)"] == pytest.approx((3 + 0.775) / 4)
    assert (table["codec"] == "PCAW512").all()
    assert table["queries"].tolist() == [2, 4, 1, 1, 2]
