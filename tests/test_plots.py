"""Figures: what is drawn equals slow, obvious versions of the numbers; nothing is ever shown."""

import io

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

from iscutils.evaluation.metrics import evaluate
from iscutils.figures import plots
from iscutils.files.artifacts import KitError


@pytest.fixture(autouse=True)
def _never_shown(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a plot function called show")

    monkeypatch.setattr(plt, "show", fail)
    yield
    plt.close("all")


@pytest.fixture
def ranked():
    """Truth of 12 queries, the last 4 of them distractors, and a list with ties."""
    truth = pd.DataFrame(
        [(f"Q{i:02d}", f"R{i:02d}" if i < 8 else "") for i in range(12)],
        columns=["query_id", "reference_id"],
    )
    rng = np.random.default_rng(3)
    rows = [
        (f"Q{q:02d}", f"R{r:02d}", round(rng.random() + (q == r) * 0.6, 1))
        for q in range(12)
        for r in range(10)
        if (q, r) != (5, 5)  # one true pair is missing
    ]
    return pd.DataFrame(rows, columns=["query_id", "reference_id", "score"]), truth


def lines(ax, gid):
    return [line for line in ax.lines if line.get_gid() == gid]


def slow_curve(predictions, truth):
    """Recall and precision after every true row, wrong rows first among equal scores."""
    true = {tuple(row) for row in truth.to_numpy() if row[1]}
    rows = [(score, (q, r) in true) for q, r, score in predictions.to_numpy()]
    rows.sort(key=lambda row: (-row[0], row[1]))
    hits, points = 0, []
    for i, (_, hit) in enumerate(rows, start=1):
        if hit:
            hits += 1
            points.append((hits / len(true), hits / i))
    return np.array(points)


def test_precision_recall_draws_the_curve_its_p90_point_and_chance(ranked):
    predictions, truth = ranked
    ax = plots.precision_recall(predictions, truth, pairs=12 * 10)
    (curve,) = lines(ax, "curve")
    np.testing.assert_allclose(curve.get_xydata(), slow_curve(predictions, truth))
    metrics = evaluate(predictions, truth)
    (point,) = lines(ax, "p90")
    assert tuple(point.get_xydata()[0]) == (metrics.recall_at_p90, 0.9)
    (chance,) = lines(ax, "random")
    assert set(chance.get_ydata()) == {8 / 120}
    assert f"µAP {metrics.uap:.3f}" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_precision_recall_composes_on_one_axes(ranked):
    predictions, truth = ranked
    _, ax = plt.subplots()
    assert plots.precision_recall(predictions, truth, label="a", ax=ax) is ax
    worse = predictions.assign(score=-predictions["score"])
    assert plots.precision_recall(worse, truth, label="b", ax=ax) is ax
    first, second = lines(ax, "curve")
    assert first.get_color() != second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert len(lines(ax, "random")) == 1  # drawn once
    assert len(lines(ax, "p90")) == 1  # the reversed list never reaches 90 %
    labels = [text.get_text().split()[0] for text in ax.get_legend().get_texts()]
    assert labels == ["random", "a", "b"]


def test_no_two_of_many_curves_look_alike(ranked):
    _, ax = plt.subplots()
    for number in range(12):
        plots.precision_recall(*ranked, label=str(number), ax=ax)
    looks = {(line.get_color(), line.get_linestyle()) for line in lines(ax, "curve")}
    assert len(looks) == 12


def test_long_curves_are_thinned_between_their_ends():
    recall = np.repeat(np.arange(1, 5001) / 5000, 3)
    precision = np.linspace(1, 0.3, 15000)
    x, y = plots._thin_curve(precision, recall)
    assert len(x) == 400
    assert (x[0], x[-1]) == (1 / 5000, 1.0)
    assert (y[0], y[-1]) == (precision[0], precision[-3])  # the first row of the last recall


def test_score_histogram_counts_true_pairs_and_the_best_of_each_distractor(ranked):
    predictions, truth = ranked
    ax = plots.score_histogram(predictions, truth, threshold=0.8)
    true_bars, outline = ax.containers[0], ax.patches[-1]
    assert sum(bar.get_height() for bar in true_bars) == 7  # eight true pairs, one not listed
    best = [predictions.query(f"query_id == 'Q{q:02d}'")["score"].max() for q in range(8, 12)]
    edges = [bar.get_x() for bar in true_bars] + [true_bars[-1].get_x() + true_bars[-1].get_width()]
    heights = np.histogram(best, edges)[0]
    xy = outline.get_xy()
    assert xy[:, 1].max() == heights.max()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"true pairs (7)", "best pair of a distractor (4)", "threshold 0.8"} == set(labels)
    assert set(ax.lines[0].get_xdata()) == {0.8}


def test_stages_bars_are_as_long_as_the_uap_and_carry_the_interval():
    table = pd.DataFrame(
        {"uap": [0.2, 0.7], "uap_low": [0.1, 0.6], "uap_high": [0.35, 0.75]}, index=["a", "b"]
    )
    ax = plots.stages_bars(table)
    assert [bar.get_width() for bar in ax.patches] == [0.2, 0.7]
    segments = ax.collections[0].get_segments()
    np.testing.assert_allclose([s[:, 0] for s in segments], [[0.1, 0.35], [0.6, 0.75]])
    assert [text.get_text() for text in ax.texts] == ["0.200", "0.700"]
    assert len(plots.stages_bars(table[["uap"]]).collections) == 0


def test_edit_bars_group_the_stages_of_each_edit():
    table = pd.DataFrame({"hash": [0.1, 0.2], "net": [0.5, 0.9]}, index=["crop", "$a$"])
    ax = plots.edit_bars(table, counts={"crop": 4, "$a$": 7})
    widths = [[bar.get_width() for bar in group] for group in ax.containers]
    assert widths == [[0.1, 0.2], [0.5, 0.9]]
    centres = [[bar.get_y() + bar.get_height() / 2 for bar in group] for group in ax.containers]
    np.testing.assert_allclose(
        np.mean(centres, axis=0), [0, 1], atol=1e-9
    )  # groups sit on their edit
    assert [label.get_text() for label in ax.get_yticklabels()] == ["crop (4)", "$a$ (7)"]


def test_names_with_a_dollar_sign_are_drawn_as_they_are():
    broken = "$\\nosuch{$"
    table = pd.DataFrame({broken: [0.1], "b": [0.2]}, index=[broken])
    ax = plots.edit_bars(table)
    ax.figure.canvas.draw()  # would raise on a formula
    plots.similarity_matrix(np.eye(1), rows=[broken], columns=[broken]).figure.canvas.draw()
    plots.image_grid([Image.new("RGB", (9, 9))], [broken]).figure.canvas.draw()
    assert ax.get_legend().get_texts()[0].get_text() == broken


def test_loss_curve_smooths_like_the_weighted_mean_of_the_past():
    rng = np.random.default_rng(0)
    history = pd.DataFrame({"step": np.arange(30), "loss": rng.random(30)})
    history.loc[7, "loss"] = np.nan  # a step that logged something else
    kept = history.dropna()
    ax = plots.loss_curve(history.sample(frac=1, random_state=0), smoothing=0.8)
    (line,) = lines(ax, "smooth")
    slow = [
        np.average(kept["loss"][: i + 1], weights=0.8 ** np.arange(i, -1, -1))
        for i in range(len(kept))
    ]
    np.testing.assert_allclose(line.get_ydata(), slow)
    np.testing.assert_array_equal(line.get_xdata(), kept["step"])
    raw = plots.loss_curve(kept, smoothing=0)
    np.testing.assert_allclose(lines(raw, "smooth")[0].get_ydata(), kept["loss"])
    with pytest.raises(KitError, match="smoothing 1"):
        plots.loss_curve(kept, smoothing=1)


def test_similarity_matrix_shows_and_writes_the_values():
    values = np.array([[1.0, 0.25, -0.5], [0.25, 1.0, 0.125]])
    ax = plots.similarity_matrix(
        values, rows=["a", "b"], columns=["x", "y", "a_very_long_file_name"]
    )
    np.testing.assert_array_equal(ax.images[0].get_array(), values)
    assert ax.images[0].get_clim() == (-0.5, 1.0)
    assert [text.get_text() for text in ax.texts] == [
        "1.00",
        "0.25",
        "-0.50",
        "0.25",
        "1.00",
        "0.12",
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y", "a_very_long_fil…"]
    assert len(plots.similarity_matrix(np.zeros((11, 11))).texts) == 0  # too many to read


def test_image_grid_keeps_aspect_order_and_frames():
    images = [
        Image.new("RGB", (60, 30), "red"),
        np.zeros((40, 20, 3), np.uint8),
        Image.new("L", (9, 9)),
    ]
    ax = plots.image_grid(images, ["a", "b" * 99, "c"], columns=2, frames=[None, "tab:red", None])
    boxes = np.array([image.get_extent() for image in ax.images])  # left, right, bottom, top
    width, height = boxes[:, 1] - boxes[:, 0], boxes[:, 2] - boxes[:, 3]
    np.testing.assert_allclose(width / height, [2, 0.5, 1])
    np.testing.assert_array_equal(np.floor(boxes[:, 0]), [0, 1, 0])  # columns
    assert boxes[2, 3] > boxes[0, 2]  # the third starts a row below the first
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [frame.get_edgecolor() for frame in frames] == [to_rgba("tab:red")]
    np.testing.assert_allclose(frames[0].get_bbox().extents[[0, 2]], boxes[1, :2])
    assert ax.texts[1].get_text().endswith("…")
    with pytest.raises(KitError, match="no images"):
        plots.image_grid([])


def test_retrieval_strip_frames_by_truth():
    picture = Image.new("RGB", (20, 20))
    truths = [np.True_, False, None]
    ax = plots.retrieval_strip(picture, [picture] * 3, [0.9, 0.5, 0.1], truths)
    assert len(ax.images) == 4
    colours = [patch.get_edgecolor() for patch in ax.patches]
    assert colours == [to_rgba(c) for c in ("tab:green", "tab:red", "tab:gray")]
    assert [text.get_text() for text in ax.texts] == [
        "query",
        "1.\n0.900",
        "2.\n0.500",
        "3.\n0.100",
    ]


def test_matches_draws_lines_and_the_outline_in_both_scales():
    query, reference = Image.new("RGB", (200, 100)), Image.new("RGB", (800, 400))
    query_points = np.array([[10, 20], [100, 50], [30, 90]])
    reference_points = np.array([[80, 160], [800, 400], [0, 0]])
    half = np.array([[0.125, 0, 50], [0, 0.125, 25], [0, 0, 1]])  # reference px -> query px
    inliers = np.array([True, True, False])
    ax = plots.matches(query, reference, query_points, reference_points, inliers, half)
    assert max(ax.images[1].get_array().shape) <= 480  # small in bytes
    left = ax.images[1].get_extent()[0]
    wrong, *right = ax.lines
    assert wrong.get_color() == "tab:red"
    assert [line.get_color() for line in right] == ["tab:green"] * 2
    np.testing.assert_allclose(right[0].get_xydata(), [[0.1, 0.2], [left + 0.2, 0.4]])
    (outline,) = [patch for patch in ax.patches if isinstance(patch, Polygon)]
    np.testing.assert_allclose(
        outline.get_xy()[:4], [[0.5, 0.25], [1.5, 0.25], [1.5, 0.75], [0.5, 0.75]]
    )
    assert ax.get_title() == "2 inliers of 3 matched keypoints"


def test_matches_without_points_or_with_a_folding_homography_draws_the_pictures_only():
    folding = np.array([[1, 0, 0], [0, 1, 0], [-0.02, 0, 1]])  # the right edge lies behind
    picture = Image.new("RGB", (100, 100))
    none = np.zeros((0, 2))
    ax = plots.matches(picture, picture, none, none, np.zeros(0, bool), folding)
    assert len(ax.images) == 2
    assert not ax.patches
    assert not ax.lines


def test_project_frame_is_the_same_for_both_signs_of_a_homography():
    homography = np.array([[0.5, 0.1, 3], [0, 0.7, -2], [1e-4, 0, 1]])
    corners = plots.project_frame(homography, (40, 20), (10, 5))
    slow = []
    for x, y in [(0, 0), (40, 0), (40, 20), (0, 20)]:
        u, v, w = homography @ [x, y, 1]
        slow.append([u / w / 10, v / w / 5])
    np.testing.assert_allclose(corners, slow)
    np.testing.assert_allclose(plots.project_frame(-homography, (40, 20), (10, 5)), slow)
    assert plots.project_frame(np.full((3, 3), np.nan), (1, 1)) is None


def test_a_figure_of_photographs_stays_small():
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (1500, 2000, 3), np.uint8) for _ in range(2)]
    ax = plots.matches(*noise, np.zeros((1, 2)), np.ones((1, 2)))
    buffer = io.BytesIO()
    ax.figure.savefig(buffer)
    assert buffer.tell() < 300_000  # noise is the worst case; photographs take a quarter
