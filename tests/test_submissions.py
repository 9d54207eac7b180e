"""Pair files: every layout in use, exact scores, and errors that name the line."""

import numpy as np
import pandas as pd
import pytest

from iscutils.evaluation.metrics import evaluate
from iscutils.evaluation.pairs import sort_pairs
from iscutils.evaluation.submissions import (
    read_ground_truth,
    read_imgfp,
    read_predictions,
    write_ground_truth,
    write_predictions,
)
from iscutils.files.artifacts import KitError


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def pairs(frame):
    return list(frame.itertuples(index=False, name=None))


TRUTHS = {
    "header": "query_id,reference_id\nQ1,R1\nQ2,\n",
    "no header": "Q1,R1\nQ2,\n",
    "CRLF": "Q1,R1\r\nQ2,\r\n",
    "header, CRLF, byte order mark": "\ufeffquery_id,reference_id\r\nQ1,R1\r\nQ2,\r\n",
    "no header, byte order mark": "\ufeffQ1,R1\nQ2,\n",
    "file names": "Q1.jpg,refs/R1.JPG\nQ2.png,\n",
    "blank lines and no end": "Q1,R1\n\nQ2,",
    "quoted": '"query_id","reference_id"\n"Q1","R1"\n"Q2",""\n',
    "more columns": "query_id,reference_id,edit\nQ1,R1,crop\nQ2,,\n",
    "other column order": "reference_id,query_id\nR1,Q1\n,Q2\n",
    "bare distractor": "Q1,R1\nQ2\n",
}


@pytest.mark.parametrize("layout", TRUTHS)
def test_every_layout_of_the_truth_reads_the_same(tmp_path, layout):
    path = write(tmp_path / "truth.csv", TRUTHS[layout])
    assert pairs(read_ground_truth(path)) == [("Q1", "R1"), ("Q2", "")]


def test_truth_with_positives_only(tmp_path):
    path = write(tmp_path / "truth.csv", "Q00012,R000007\nQ00013,R000008\n")
    assert pairs(read_ground_truth(path)) == [("Q00012", "R000007"), ("Q00013", "R000008")]


def test_truth_errors_name_file_and_line(tmp_path):
    with pytest.raises(KitError, match=r"truth.csv, line 3: the query id is empty"):
        read_ground_truth(write(tmp_path / "truth.csv", "query_id,reference_id\nQ1,R1\n,R2\n"))
    with pytest.raises(KitError, match="at least one true pair"):
        read_ground_truth(write(tmp_path / "truth.csv", "Q1,\nQ2,\n"))
    with pytest.raises(KitError, match="at least one true pair"):
        read_ground_truth(write(tmp_path / "truth.csv", ""))
    with pytest.raises(KitError, match=r"nowhere\.csv"):
        read_ground_truth(tmp_path / "nowhere.csv")
    with pytest.raises(KitError, match="no column reference_id"):
        read_ground_truth(write(tmp_path / "truth.csv", "Q1\nQ2\n"))
    with pytest.raises(KitError, match="not a table"):
        read_ground_truth(write(tmp_path / "truth.csv", "Q1,R1\nQ2,R\xe92\n", "latin-1"))


def test_truth_written_and_read_again(tmp_path):
    truth = pd.DataFrame({"query_id": ["Q2", "Q1"], "reference_id": ["", "R,1"]})
    path = write_ground_truth(tmp_path / "out" / "truth.csv", truth)
    assert path.read_text().splitlines() == ["query_id,reference_id", 'Q1,"R,1"', "Q2,"]
    assert pairs(read_ground_truth(path)) == [("Q1", "R,1"), ("Q2", "")]


@pytest.mark.parametrize(
    "text",
    [
        "query_id,reference_id,score\nQ10893,R751771,-0.008623\n007,NA,1e-3\n",
        "Q10893,R751771,-0.008623\n007,NA,1e-3\n",
        "\ufeffQ10893.jpg,R751771.jpeg,-0.008623\r\n\r\nx/007.png,NA,1e-3\r\n",
        "score,query_id,reference_id\n-0.008623,Q10893,R751771\n1e-3,007,NA\n",
        "Q10893, R751771, -0.008623\n007, NA, 1e-3\n",
    ],
)
def test_predictions_with_and_without_header(tmp_path, text):
    frame = read_predictions(write(tmp_path / "p.csv", text))
    listed = pairs(frame[["query_id", "reference_id", "score"]])
    assert listed == [("Q10893", "R751771", -0.008623), ("007", "NA", 0.001)]


def test_further_columns_are_kept_as_numbers_or_texts(tmp_path):
    text = "query_id,reference_id,score,score_A,note\nQ1,R1,5,2.5,x\nQ2,R2,4,,\n"
    frame = read_predictions(write(tmp_path / "p.csv", text))
    assert frame["score_A"].tolist() == pytest.approx([2.5, np.nan], nan_ok=True)
    assert frame["note"].tolist() == ["x", ""]
    kept = write_predictions(tmp_path / "extra.csv", frame, extra=True).read_text()
    assert kept.splitlines()[:2] == ["query_id,reference_id,score,score_A,note", "Q1,R1,5,2.5,x"]
    three = write_predictions(tmp_path / "three.csv", frame).read_text()
    assert three == "query_id,reference_id,score\nQ1,R1,5\nQ2,R2,4\n"
    headless = read_predictions(write(tmp_path / "p.csv", "Q1,R1,5,2.5\nQ2,R2,4,\n"))
    assert len(headless) == 2
    assert headless["score"].tolist() == [5, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query_id,reference_id,score\nQ1,R1,.5\nQ2,R2,nan\n", r"p.csv, line 3 \(pair Q2, R2\)"),
        ("Q1,R1,.5\n\nQ2,R2,-inf\n", r"p.csv, line 3 \(pair Q2, R2\).*'-inf'"),
        ("Q1,R1,.5\nQ2,R2,high\n", r"p.csv, line 2 \(pair Q2, R2\).*'high'"),
        ("Q1,R1,.5\nQ2,R2\n", r"p.csv, line 2 \(pair Q2, R2\)"),
        ("Q1,R1,.5\n,R2,.4\n", r"p.csv, line 2 .*query_id is empty"),
        ("Q1,R1,.5\nQ2,.jpg,.4\n", r"p.csv, line 2 .*reference_id is empty"),
        ("Q1,R1,.5\nQ2,R2,.4\nQ1.jpg,R1,.3\n", r"p.csv, line 3 \(pair Q1, R1\).*twice"),
        ("Q1,R1\nQ2,R2\n", "p.csv: no column score"),
        ("query_id,reference,score\nQ1,R1,.5\n", "p.csv: no column reference_id"),
        ("Q1,R1,.5\nQ2,R2,.5,.6,.7\n", "not a table"),
    ],
)
def test_errors_name_file_line_and_pair(tmp_path, text, message):
    with pytest.raises(KitError, match=message):
        read_predictions(write(tmp_path / "p.csv", text))


def test_duplicates_can_be_merged_while_reading(tmp_path):
    path = write(tmp_path / "p.csv", "Q1,R1,.5\nQ2,R2,.4\nQ1,R1,.7\n")
    frame = read_predictions(path, duplicates="max")
    assert sorted(pairs(frame)) == [("Q1", "R1", 0.7), ("Q2", "R2", 0.4)]


def test_an_empty_file_is_an_empty_list(tmp_path):
    for text in ("", "query_id,reference_id,score\n"):
        frame = read_predictions(write(tmp_path / "p.csv", text))
        assert frame.empty
        assert list(frame)[:3] == ["query_id", "reference_id", "score"]


def scored(n, seed, dtype):
    rng = np.random.default_rng(seed)
    score = np.concatenate(
        [
            rng.random(n),
            -rng.random(n) * 10.0 ** rng.integers(-30, 30, n),
            [0, 1, -1, 0.9, 34, 2128, 1e-45, 3.4e38],
        ]
    ).astype(dtype)
    names = [f"{i:05d}" for i in rng.permutation(len(score))]
    return pd.DataFrame(
        {"query_id": ["Q" + x for x in names], "reference_id": ["R" + x for x in names]}
    ).assign(score=score)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_scores_and_the_metric_survive_a_round_trip(tmp_path, dtype):
    frame = scored(2000, 0, np.float32).astype({"score": dtype})
    path = write_predictions(tmp_path / "p.csv", frame)
    again = read_predictions(path)
    expected = sort_pairs(frame)
    assert again["query_id"].tolist() == expected["query_id"].tolist()
    assert (
        again["score"].to_numpy(np.float32).tobytes()
        == expected["score"].to_numpy(np.float32).tobytes()
    )
    truth = frame[["query_id", "reference_id"]].iloc[::3]
    assert evaluate(again, truth).uap == evaluate(frame, truth).uap
    assert len(max(path.read_text().replace(",", "\n").split(), key=len)) < 16


def test_scores_have_nine_digits_and_close_ones_stay_apart(tmp_path):
    frame = pd.DataFrame(
        {
            "query_id": ["Q1", "Q1", "Q2"],
            "reference_id": ["R1", "R5", "R2"],
            "score": [0.12345649, 0.12345601, 1 / 3],
        }
    )
    text = write_predictions(tmp_path / "p.csv", frame).read_text()
    assert text.splitlines()[1:] == [
        "Q2,R2,0.333333333",
        "Q1,R1,0.12345649",
        "Q1,R5,0.12345601",
    ]
    short = frame.assign(score=np.array([0.9, 34, 0.25], dtype=np.float32))
    text = write_predictions(tmp_path / "p.csv", short).read_text()
    assert text.splitlines()[1:] == ["Q1,R5,34", "Q1,R1,0.9", "Q2,R2,0.25"]


def test_rows_are_sorted_by_score_then_ids_and_the_cap_cuts_in_that_order(tmp_path):
    frame = pd.DataFrame(
        [("Q2", "R1", 0.5), ("Q1", "R2", 0.5), ("Q1", "R1", 0.5), ("Q3", "R3", 0.9)],
        columns=["query_id", "reference_id", "score"],
    )
    path = tmp_path / "p.csv"
    with pytest.raises(KitError, match=r"4 rows.*at most 3"):
        write_predictions(path, frame, cap=3)
    assert not path.exists()
    text = write_predictions(path, frame, cap=3, cut=True).read_text()
    assert text.splitlines()[1:] == ["Q3,R3,0.9", "Q1,R1,0.5", "Q1,R2,0.5"]


def test_half_a_million_and_one_rows_are_refused(tmp_path):
    n = 500_001
    frame = pd.DataFrame(
        {
            "query_id": np.repeat([f"Q{i}" for i in range(n // 10 + 1)], 10)[:n],
            "reference_id": [f"R{i}" for i in range(n)],
            "score": np.arange(n) / n,
        }
    )
    with pytest.raises(KitError, match=r"500001 rows.*at most 500000"):
        write_predictions(tmp_path / "p.csv", frame)
    assert list(tmp_path.iterdir()) == []


def test_bad_rows_are_never_written(tmp_path):
    frame = pd.DataFrame({"query_id": ["Q1"], "reference_id": ["R1"], "score": [np.nan]})
    with pytest.raises(KitError, match="row 1"):
        write_predictions(tmp_path / "p.csv", frame)
    assert list(tmp_path.iterdir()) == []


IMGFP = [("Q00001", "R000002", 176), ("Q00003", "R000004", 34), ("Q00005", "R000006", 0)]


@pytest.mark.parametrize("layout", ["{}.jpg\t{}.jpg\t{}\n", "{}.jpg,{}.jpg,score:{}\n"])
def test_imgfp_files_become_an_official_csv(tmp_path, layout):
    path = write(tmp_path / "imgfp.txt", "".join(layout.format(*row) for row in IMGFP))
    frame = read_imgfp(path)
    assert pairs(frame) == IMGFP
    official = write_predictions(tmp_path / "official.csv", frame)
    assert official.read_text().splitlines() == [
        "query_id,reference_id,score",
        "Q00001,R000002,176",
        "Q00003,R000004,34",
        "Q00005,R000006,0",
    ]
    truth = pd.DataFrame({"query_id": ["Q00001", "Q00005"], "reference_id": ["R000002", "R000006"]})
    assert evaluate(read_predictions(official), truth) == evaluate(frame, truth)


def test_imgfp_pairs_without_scores(tmp_path):
    frame = read_imgfp(
        write(tmp_path / "b.txt", "Q00000.jpg,R000000.jpg\nQ00001.jpg,R000001.jpg\n")
    )
    assert pairs(frame) == [("Q00000", "R000000", 1.0), ("Q00001", "R000001", 1.0)]
