"""The merge rules: each against cases counted by hand, the whole against loops written out."""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iscutils import figures
from iscutils.descriptors.store import write_descriptors
from iscutils.evaluation.metrics import evaluate
from iscutils.files.artifacts import KitError
from iscutils.retrieval import MergeConfig, PartFiles, ladder, matching_parts, merge, read_sides
from iscutils.retrieval.ladder import REPORTED
from iscutils.retrieval.merge import (
    SMALLEST_SIDE,
    best_two,
    cap,
    drop_faces,
    drop_small,
    largest,
    mean_of_two,
    penalise,
    vote,
)
from iscutils.retrieval.part_files import PART_PAIR_COLUMNS

OFF = MergeConfig(vote=False, smallest=0, penalty=0, penalty_references=0, top_two=False)


def table(*rows, direction="AQ+OR", set="base", size=256):
    """Rows (backbone, query, query part, reference, reference part, score)."""
    frame = pd.DataFrame(
        rows,
        columns=["backbone", "query_id", "query_part", "reference_id", "reference_part", "score"],
    )
    return frame.assign(direction=direction, set=set, size=size)[PART_PAIR_COLUMNS]


def scores(frame):
    ids = frame[["query_id", "reference_id"]].itertuples(index=False, name=None)
    return dict(zip(ids, frame.score, strict=True))


# Vote


def found_by(counts, direction="AQ+OR"):
    """One pair per entry, found by that many of the backbones a, b, c."""
    rows = [
        (name, f"Q{i}", "0", "R", "0", 0.5 + 0.1 * k)
        for i, count in enumerate(counts)
        for k, name in enumerate("abc"[:count])
    ]
    return table(*rows, direction=direction)


@pytest.mark.parametrize(
    ("direction", "kept"), [("AQ+OR", {"Q1": 2, "Q2": 3}), ("OQ+AR", {"Q2": 3})]
)
def test_vote_of_three_backbones(direction, kept):
    voted = vote(found_by([1, 2, 3], direction))
    assert voted.groupby("query_id").size().to_dict() == kept
    assert voted[voted.query_id == "Q2"].score.tolist() == pytest.approx([0.5, 0.6, 0.7])


@pytest.mark.parametrize(("n", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4)])
def test_two_thirds_of_any_number_of_backbones(n, needed):
    rows = [(f"b{k}", f"Q{i}", "0", "R", "0", 0.1) for i in range(n) for k in range(i + 1)]
    kept = set(vote(table(*rows)).query_id)
    assert kept == {f"Q{i}" for i in range(needed - 1, n)}
    kept = set(vote(table(*rows, direction="OQ+AR")).query_id)
    assert kept == {f"Q{n - 1}"}


def test_the_same_pair_with_another_part_does_not_count():
    rows = table(
        ("a", "Q", "0", "R", "0", 0.5), ("b", "Q", "4", "R", "0", 0.6),
        ("c", "Q", "0", "R", "1", 0.7), ("c", "S", "0", "R", "0", 0.8),
        ("c", "S", "0", "R", "0", 0.9),  # twice by one backbone is once
    )  # fmt: skip
    assert vote(rows).empty
    assert len(vote(rows, backbones=1)) == 5


# Small parts, faces, penalty


@pytest.mark.parametrize(("name", "least"), sorted(SMALLEST_SIDE.items()))
def test_exactly_the_smallest_side_stays(name, least):
    sides = pd.DataFrame(
        [("Q", "0", least, least), ("Q", "4", least - 1, 999), ("Q", "5", 999, least - 1)],
        columns=["query_id", "query_part", "width", "height"],
    )
    rows = [("a", "Q", part, "R", "0", 0.5) for part in ("0", "4", "5")]
    assert drop_small(table(*rows, set=name), sides).query_part.tolist() == ["0"]
    assert len(drop_small(table(*rows, set=name), sides, 0.5)) == 3
    assert len(drop_small(table(*rows, set=name, direction="OQ+AR"), sides)) == 3


def test_the_table_of_smallest_sides_is_the_published_one():
    assert {name for name, side in SMALLEST_SIDE.items() if side == 200} == {
        "base", "base_bw", "color_bw", "opaque", "occlude",
    }  # fmt: skip
    assert SMALLEST_SIDE["face_bw"] == 150
    assert sum(side == 100 for side in SMALLEST_SIDE.values()) == 5


def test_a_part_without_a_size_is_named():
    sides = pd.DataFrame({"query_id": ["Q"], "query_part": ["0"], "width": [9], "height": [9]})
    with pytest.raises(KitError, match="no size is known of part 7 of query 'Q'"):
        drop_small(table(("a", "Q", "7", "R", "0", 0.5)), sides)


def test_faces_are_dropped_in_one_direction_only():
    rows = [("a", "Q", "0", "R1", "3", 0.5), ("a", "Q", "0", "R2", "3", 0.5)]
    assert drop_faces(table(*rows, direction="OQ+AR"), {"R1"}).reference_id.tolist() == ["R2"]
    assert len(drop_faces(table(*rows), {"R1"})) == 2


def test_penalty():
    parts = ["0", "1", "10", "1000", "1019", "1020"]
    rows = [("a", "Q", part, "R", "0", 0.5) for part in parts]
    found = penalise(table(*rows)).score
    assert found.tolist() == pytest.approx([0.5, 0.45, 0.45, 0.5, 0.5, 0.45])
    found = penalise(table(*rows, direction="OQ+AR")).score
    assert found.tolist() == pytest.approx([0.45] * 6)
    found = penalise(table(*rows, direction="OQ+AR"), 0.05, 0.2).score
    assert found.tolist() == pytest.approx([0.3] * 6)


# Joining


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([0.9, 0.9, 0.5], 0.7),
        ([0.9, 0.6, 0.6, 0.4], 0.75),
        ([0.8], 0.8),
        ([0.3, 0.3], 0.3),
        ([0.5000001, 0.5000002, 0.1], 0.3),  # equal after rounding
        ([-0.2, -0.4], -0.3),
    ],
)
def test_mean_of_the_two_best_distinct_scores(values, mean):
    rows = table(*[("a", "Q", str(i), "R", "0", value) for i, value in enumerate(values)])
    assert scores(mean_of_two(rows)) == pytest.approx({("Q", "R"): mean}, abs=1e-6)
    assert scores(mean_of_two(rows, False)) == pytest.approx({("Q", "R"): max(values)}, abs=1e-6)


def random_rows(seed, n=400, **source):
    rng = np.random.default_rng(seed)
    rows = [
        (rng.choice(list("abc")), f"Q{rng.integers(6)}", rng.choice(["0", "1", "4", "1003"]),
         f"R{rng.integers(9)}", rng.choice(["0", "5"]), round(rng.random(), 2))
        for _ in range(n)
    ]  # fmt: skip
    return table(*rows, **source).drop_duplicates(
        ["backbone", "query_id", "query_part", "reference_id", "reference_part"]
    )


def test_best_two_of_a_join_are_best_two_of_all():
    first, second = random_rows(0), random_rows(1)
    both = pd.concat([first, second], ignore_index=True)
    by_parts = best_two(pd.concat([best_two(first), best_two(second)], ignore_index=True))
    assert scores(mean_of_two(by_parts)) == pytest.approx(scores(mean_of_two(both)))
    assert len(best_two(both)) < len(both)


def test_largest_and_cap():
    one = pd.DataFrame({"query_id": ["Q", "P"], "reference_id": ["R", "R"], "score": [0.5, 0.1]})
    two = pd.DataFrame({"query_id": ["Q", "S"], "reference_id": ["R", "R"], "score": [0.4, 0.9]})
    joined = largest(one, two)
    assert scores(joined) == {("Q", "R"): 0.5, ("P", "R"): 0.1, ("S", "R"): 0.9}
    assert cap(joined, 2).query_id.tolist() == ["S", "Q"]
    assert len(cap(joined, 0)) == 3


# Everything


def tables():
    """Two sets, two sizes, both directions of one set: rows of three backbones each."""
    return [
        random_rows(0), random_rows(1, size=320), random_rows(2, set="blur"),
        random_rows(3, set="blur", size=320), random_rows(4, direction="OQ+AR"),
    ]  # fmt: skip


SIDES = pd.DataFrame(
    [
        (f"Q{i}", part, 120 + 40 * i, 150 + 30 * i)
        for i in range(6)
        for part in ("0", "1", "4", "1003")
    ],
    columns=["query_id", "query_part", "width", "height"],
)


def slow_merge(frames, faces):
    """Section 9 with dictionaries: {(query, reference): score}."""
    side = {row[:2]: min(row[2:]) for row in SIDES.itertuples(index=False, name=None)}
    values = {}
    for frame in frames:
        rows = list(frame.itertuples(index=False))
        n = len({row.backbone for row in rows})
        direction = rows[0].direction
        needed = n if direction == "OQ+AR" else math.ceil(2 * n / 3)
        for row in rows:
            key = row[:4]
            if len({other.backbone for other in rows if other[:4] == key}) < needed:
                continue
            if direction == "AQ+OR" and side[row[:2]] < SMALLEST_SIDE[row.set]:
                continue
            if direction == "OQ+AR" and row.reference_id in faces:
                continue
            free = row.query_part == "0" or 1000 <= int(row.query_part) <= 1019
            score = row.score - (0 if free and direction == "AQ+OR" else 0.05)
            values.setdefault((row.query_id, row.reference_id), set()).add(round(score, 6))
    return {pair: np.mean(sorted(own)[-2:]) for pair, own in values.items()}


@pytest.mark.parametrize("as_files", [False, True])
def test_merge_equals_the_rules_written_out(tmp_path, as_files):
    frames = tables()
    (tmp_path / "faces.csv").write_text("R1.jpg\nR4\n")
    expected = slow_merge(frames, {"R1", "R4"})
    given = frames
    if as_files:  # one a backbone, as the search writes them
        given = []
        for i, frame in enumerate(frames):
            for name, own in frame.groupby("backbone"):
                given.append(tmp_path / f"{i}{name}.csv")
                own.to_csv(given[-1], index=False)
    found, steps = merge(given, SIDES, MergeConfig(faces=str(tmp_path / "faces.csv")))
    assert scores(found) == pytest.approx(expected, abs=1e-9)
    assert found.score.is_monotonic_decreasing
    rows = dict(zip(steps.step, steps.rows, strict=True))
    assert rows["found"] == sum(map(len, frames))
    assert rows["found"] > rows["vote of the backbones"] > rows["smallest part"] > rows["faces"]
    assert rows["joined to pairs of images"] == rows["best rows"] == len(expected)


def test_tables_are_reduced_on_the_way(monkeypatch):
    expected = scores(merge(tables(), SIDES)[0])
    monkeypatch.setattr(sys.modules["iscutils.retrieval.merge"], "_MERGE_ROWS", 10)
    assert scores(merge(tables(), SIDES)[0]) == pytest.approx(expected)


def test_rules_can_be_switched_off():
    frames = tables()
    every = pd.concat(frames)
    found, steps = merge(frames, None, OFF)
    assert scores(found) == pytest.approx(
        every.groupby(["query_id", "reference_id"]).score.max().to_dict()
    )
    assert steps.step.tolist() == ["found", "joined to pairs of images", "best rows"]


def test_merge_with_a_filter_a_second_list_and_a_cap():
    frames = [table(("a", "Q", "0", "R", "0", 0.5), ("a", "P", "0", "R", "0", 0.8))]
    second = pd.DataFrame({"query_id": ["Q", "S"], "reference_id": ["R", "R"], "score": [0.7, 0.1]})
    found, steps = merge(
        frames, None, MergeConfig(smallest=0, cap=1), second=second,
        then=lambda rows: rows[rows.query_id != "P"],
    )  # fmt: skip
    assert scores(found) == {("Q", "R"): 0.7}
    assert dict(zip(steps.step, steps.rows, strict=True))["larger of two lists"] == 2


def test_small_images_lose_their_whole_parts_with_a_warning(caplog, monkeypatch):
    monkeypatch.setattr("iscutils.files.artifacts.log.propagate", True)
    merge([table(("a", "Q0", "0", "R", "0", 0.5))], SIDES)
    assert "smaller than the smallest part" in caplog.text


def test_merge_errors(tmp_path):
    with pytest.raises(KitError, match="search first"):
        merge([])
    with pytest.raises(KitError, match="needs the sides"):
        merge(tables())
    with pytest.raises(KitError, match="list of faces"):
        merge(tables(), SIDES, MergeConfig(faces=str(tmp_path / "none")))


def test_matching_parts_names_the_best_row():
    frames = [
        table(("a", "Q", "0", "R", "0", 0.50), ("a", "Q", "1", "R", "0", 0.54)),
        table(("a", "Q", "0", "R", "5", 0.56), direction="OQ+AR"),
    ]
    pairs = pd.DataFrame({"query_id": ["Q", "X"], "reference_id": ["R", "R"], "score": [1, 1]})
    best = matching_parts(frames, pairs)
    assert best[["query_part", "reference_part", "direction"]].values.tolist() == [
        ["0", "5", "OQ+AR"]
    ]
    assert best.score[0] == pytest.approx(0.51)
    assert matching_parts(frames, pairs, OFF).score[0] == pytest.approx(0.56)
    assert matching_parts(frames[:1], pairs).query_part[0] == "0"


def test_the_ladder_adds_one_thing_at_a_time():
    frames = tables()
    truth = pd.DataFrame({"query_id": ["Q0", "Q1", "Q2"], "reference_id": ["R0", "R1", ""]})
    rungs = ladder(frames, SIDES, truth)
    assert rungs.step.tolist() == [
        "whole images", "+ parts of queries", "+ parts of references", "+ backbones",
        "+ training sets", "+ sizes", "+ mean of the two best",
        "all but the vote", "all but the smallest part", "all but the penalties",
    ]  # fmt: skip
    uap = rungs.set_index("step").uap
    for step, rules in (
        ("+ mean of the two best", MergeConfig()),
        ("all but the vote", MergeConfig(vote=False)),
        ("all but the penalties", MergeConfig(penalty=0, penalty_references=0)),
    ):
        assert uap[step] == pytest.approx(evaluate(merge(frames, SIDES, rules)[0], truth).uap)
    base = frames[0][(frames[0].backbone == "a") & (frames[0].query_part == "0")]
    first, _ = merge([base], None, OFF)
    assert rungs.uap.iloc[0] == pytest.approx(evaluate(first, truth).uap)
    reported = rungs.set_index("step")[["published_uap", "published_recall_at_p90"]].dropna()
    assert set(reported.index) == set(REPORTED)
    assert reported.loc["+ parts of queries"].tolist() == [0.8273, 0.7476]
    before = {"whole images, raw scores": first.iloc[:0], "+ score normalisation": base}
    before = {step: frame.reindex(columns=base.columns) for step, frame in before.items()}
    longer = ladder(frames, SIDES, truth, whole=before)
    assert longer.step.tolist() == [*before, *rungs.step[1:]]
    assert longer.uap.tolist() == [0, *rungs.uap]
    assert longer.published_uap.isna()[0]
    assert longer.published_uap[1] == 0.7081
    only = ladder(frames[:1], None, truth, replace(OFF, vote=True))
    assert only.step.tolist() == [
        "whole images", "+ parts of queries", "+ backbones", "all but the vote",
    ]  # fmt: skip


def test_sides_are_read_from_the_descriptors(tmp_path):
    columns = {"part": np.array(["0", "1"], dtype=object), "sides": np.int32([[30, 20], [20, 30]])}
    path = write_descriptors(tmp_path / "q.h5", np.eye(2), ["Q", "Q"], columns=columns)
    assert read_sides(path).values.tolist() == [["Q", "0", 30, 20], ["Q", "1", 20, 30]]
    assert read_sides(write_descriptors(tmp_path / "p.h5", np.eye(2), ["Q", "P"])) is None


# Figures


def test_the_figure_shows_the_boxes_that_matched(tmp_path):
    images = SimpleNamespace(
        ids=["A", "B"], load=lambda i, min_side=0: Image.new("RGB", (100, 60), (40 * i, 0, 0))
    )
    truth = pd.DataFrame({"query_id": ["A"], "reference_id": ["A"]})
    benchmark = SimpleNamespace(queries=images, references=images, ground_truth=truth)
    columns = {
        "part": np.array(["0", "1000", "0", "1000"], dtype=object),
        "boxes": np.float32([[0, 0, 1, 1], [0.1, 0.5, 0.6, 1]] * 2),
    }
    path = write_descriptors(tmp_path / "d.h5", np.eye(4), ["A", "A", "B", "B"], columns=columns)
    matches = table(
        ("a", "B", "0", "B", "0", 0.9), ("a", "A", "1000", "B", "0", 0.8),
        ("a", "A", "1000", "A", "0", 0.7),
    )  # fmt: skip
    axes = figures.matched_parts(benchmark, matches, [PartFiles("base", "a", 256, path, path)])
    titles = [(left.get_title(), right.get_title()) for left, right in axes]
    assert titles == [
        ("A, detection 0", "A, whole"), ("A, detection 0", "B, whole"), ("B, whole", "B, whole"),
    ]  # fmt: skip
    box = axes[0, 0].patches[0]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == pytest.approx(
        (9.5, 29.5, 50, 30), abs=1e-4
    )
    colours = [left.yaxis.label.get_color() for left, _ in axes]
    assert colours == ["tab:green", "tab:red", "tab:red"]


def test_the_gains_stand_beside_the_reported_ones():
    truth = pd.DataFrame({"query_id": ["Q0"], "reference_id": ["R0"]})
    gains = ladder(tables(), SIDES, truth)
    ax = figures.part_gains(gains)
    assert len(ax.patches) == len(gains)
    marked = ax.lines[-1].get_xdata()
    assert sorted(marked[~np.isnan(marked)]) == [0.7081, 0.8273, 0.8372, 0.8864, 0.9004]


@pytest.mark.parametrize("hits", [None, np.array([True, False, True, False])])
def test_the_histogram_counts_what_lies_beyond(hits):
    ax = figures.norm_ratio_histogram(np.array([0.8, 0.9, 1.2, 1.3]), hits)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    expected = ["all pairs, 50% beyond"]
    if hits is not None:
        expected = ["true pairs, 50% beyond", "false pairs, 50% beyond"]
    assert labels == expected
