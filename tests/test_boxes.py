"""Box rules, average precision and operating points against slow loops; crops."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iscutils.descriptors import boxes
from iscutils.descriptors.boxes import BOX, COLUMNS
from iscutils.detector import box_quality
from iscutils.files.artifacts import KitError
from iscutils.files.images import GeneratedImages


def table(*rows):
    """Detections from (image_id, confidence, x0, y0, x1, y1), of class overlay."""
    return pd.DataFrame([(row[0], "overlay", *row[1:]) for row in rows], columns=COLUMNS)


def random_scene(seed, pictures=12, size=(64, 48)):
    """Random true boxes, and detections near some of them, some of them wrong."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for i in range(pictures):
        for _ in range(int(rng.integers(0, 3))):
            low = rng.uniform(0, 25, 2)
            box = np.concatenate([low, low + rng.uniform(8, 22, 2)])
            truth.append((f"p{i}", str(rng.choice(boxes.CLASSES)), *box))
            if rng.random() < 0.8:
                near = box + rng.normal(0, 2.5, 4)
                found.append((f"p{i}", truth[-1][1], rng.random().__round__(3), *near))
        for _ in range(int(rng.integers(0, 2))):
            low = rng.uniform(0, 25, 2)
            found.append((f"p{i}", "overlay", rng.random().__round__(3), *low, *(low + 12)))
    sizes = {f"p{i}": size for i in range(pictures)}
    truth = pd.DataFrame(truth, columns=["image_id", "class", *BOX])
    return pd.DataFrame(found, columns=COLUMNS), truth, sizes


def slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_hits(found, truth, kind):
    """(confidence, picture, right) by falling confidence: a plain greedy loop."""
    taken, hits = set(), []
    rows = [row for row in found.itertuples(index=False) if row[1] == kind]
    for row in sorted(rows, key=lambda row: -row[2]):
        best, best_overlap = None, 0.0
        for number, other in enumerate(truth.itertuples(index=False)):
            if other[0] == row[0] and other[1] == kind and number not in taken:
                overlap = slow_iou(row[3:], other[2:])
                if overlap > best_overlap:
                    best, best_overlap = number, overlap
        if best_overlap >= 0.5:
            taken.add(best)
        hits.append((row[2], row[0], best_overlap >= 0.5))
    return hits


def slow_average_precision(found, truth, kind):
    hits, total = slow_hits(found, truth, kind), sum(truth["class"] == kind)
    points = []
    for n in range(1, len(hits) + 1):
        right = sum(hit[2] for hit in hits[:n])
        points.append((right / total, right / n))
    area, before = 0.0, 0.0
    for recall in sorted({point[0] for point in points}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area


@pytest.mark.parametrize("size", [(640, 480), (4000, 500)])
@pytest.mark.parametrize(
    ("confidence", "width", "height", "precise", "recall"),
    [
        (0.56, 0.9, 0.9, True, True),
        (0.56, 0.95, 0.9, False, False),
        (0.55, 0.9, 0.9, False, True),
        (0.56, 0.2, 0.8, True, True),
        (0.56, 0.19, 0.8, False, False),
        (0.56, 0.8, 0.2, True, True),
        (0.56, 0.8, 0.19, False, False),
        (0.56, 0.85, 1.0, True, True),  # the limits are inclusive
    ],
)
def test_box_rules_of_imgfp(size, confidence, width, height, precise, recall):
    box = np.array([[0, 0, width * size[0], height * size[1]]])
    for threshold, expected in ((0.55, precise), (0.50, recall)):
        kept = boxes.keeps(np.array([confidence]), box, np.array([size]), threshold)
        assert kept.tolist() == [expected]


def test_the_most_confident_kept_box_is_cropped_in_whole_px():
    sizes = {"b": (640, 480), "a": (100, 100), "c": (50, 50)}
    found = table(
        ("b", 0.99, 0, 0, 640, 480),  # too large
        ("b", 0.70, 10.9, 20.2, 200.9, 300.99),
        ("b", 0.60, 0.5, 0.5, 300.0, 300.0),
        ("a", 0.51, 10, 10, 60, 60),
        ("c", 0.2, 1, 1, 30, 30),
    )
    found.loc[len(found)] = ("a", "sticker", 0.9, 10, 10, 60, 60)
    crops = boxes.choose_crops(found, 0.5, sizes, point="precise")
    assert crops.to_numpy().tolist() == [
        ["b", "precise", 0.70, 10, 20, 200, 300],
        ["a", "precise", 0.51, 10, 10, 60, 60],
    ]
    assert boxes.choose_crops(found, 0.5, sizes, most=3)["query_id"].tolist() == ["b", "b", "a"]
    assert boxes.choose_crops(found, 0.95, sizes).empty
    with pytest.raises(KitError, match="no size"):
        boxes.choose_crops(found, 0.5, {})


def test_boxes_that_hang_over_are_cut_and_empty_ones_dropped():
    sizes = {"a": (100, 80)}
    found = table(("a", 0.9, -3.2, -1.0, 50, 85.5), ("a", 0.8, 5.2, 5.2, 5.9, 5.9))
    crops = boxes.choose_crops(found, 0.5, sizes, most=2)
    assert crops[BOX].to_numpy().tolist() == [[0, 0, 50, 80]]


def test_crops_file_round_trip(tmp_path):
    found = table(("001", 0.91, 0, 0, 50.5, 40), ("NA", 0.8, 1, 1, 20, 20))
    crops = boxes.choose_crops(found, 0.5, {"001": (100, 80), "NA": (40, 40)}, point="recall")
    again = boxes.read_crops(boxes.write_crops(crops, tmp_path / "crops.csv"))
    pd.testing.assert_frame_equal(again, crops)
    empty = boxes.choose_crops(found, 0.99, {"001": (100, 80), "NA": (40, 40)})
    assert boxes.read_crops(boxes.write_crops(empty, tmp_path / "none.csv")).empty


def test_detections_file_round_trip_with_a_silent_picture(tmp_path):
    found = table(("001", 0.912347, 0.129, 0, 50.5, 40))
    found.loc[1] = ("NA", "", None, None, None, None, None)
    again = boxes.read_detections(boxes.write_detections(found, tmp_path / "d.csv"))
    assert again.loc[0].tolist() == ["001", "overlay", 0.91235, 0.13, 0, 50.5, 40]
    assert again["image_id"].tolist() == ["001", "NA"]
    assert again["class"].tolist() == ["overlay", ""]
    assert again.loc[1, ["confidence", *BOX]].isna().all()
    assert len(boxes.choose_crops(again, 0.5, {"001": (100, 80), "NA": (9, 9)})) == 1


def test_other_files_are_refused(tmp_path):
    (tmp_path / "d.csv").write_text("query_id,score\nq,1\n")
    with pytest.raises(KitError, match="no column image_id"):
        boxes.read_detections(tmp_path / "d.csv")
    with pytest.raises(KitError, match="does not exist"):
        boxes.read_crops(tmp_path / "none.csv")


def draw(number):
    """A picture whose pixel at (x, y) says where it is."""
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([x * 4, y * 6, np.full_like(x, number)], -1).astype(np.uint8))


def test_crops_are_pictures_of_their_own():
    images = GeneratedImages(["a", "b", "c"], draw, [0, 1, 2], "test")
    crops = pd.DataFrame(
        [("c", "precise", 0.9, 5, 3, 25, 30), ("a", "precise", 0.9, 0, 0, 10, 10),
         ("a", "precise", 0.8, 1, 2, 4, 8)],
        columns=boxes.CROP_COLUMNS,
    )  # fmt: skip
    parts = boxes.cropped(images, crops)
    assert parts.ids == ["c", "a_0", "a_1"]
    expected = np.asarray(draw(2))[3:30, 5:25]
    np.testing.assert_array_equal(np.asarray(parts.load(0)), expected)
    np.testing.assert_array_equal(np.asarray(parts.load(0, min_side=8)), expected)
    assert parts.load(2).size == (3, 6)
    some = parts.subset([2, 0])
    assert some.ids == ["a_1", "c"]
    assert some.load(0).tobytes() == parts.load(2).tobytes()
    assert parts.key() == boxes.cropped(images, crops).key()
    moved = crops.assign(x0=crops["x0"] + 1)
    assert boxes.cropped(images, moved).key() != parts.key()
    with pytest.raises(KitError, match="not among the images"):
        boxes.cropped(images.subset([0]), crops)


def test_two_crops_with_one_id_are_an_error():
    images = GeneratedImages(["a", "a_0"], draw, [0, 1], "test")
    rows = [(name, "", 0.9, 0, 0, 5, 5) for name in ("a", "a", "a_0")]
    with pytest.raises(KitError, match="'a_0'"):
        boxes.cropped(images, pd.DataFrame(rows, columns=boxes.CROP_COLUMNS))


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_equals_the_slow_loop(seed):
    found, truth, _ = random_scene(seed)
    for kind in boxes.CLASSES:
        expected = slow_average_precision(found, truth, kind)
        assert box_quality.average_precision(found, truth, kind) == pytest.approx(expected)


def test_average_precision_of_known_cases():
    truth = table(("a", 1, 0, 0, 10, 10), ("b", 1, 0, 0, 10, 10)).drop(columns="confidence")
    right = table(("a", 0.9, 0, 0, 10, 10), ("b", 0.8, 0, 0, 10, 10))
    assert box_quality.average_precision(right, truth) == 1
    # The same box twice: the second is wrong, and comes before the other picture's.
    twice = table(("a", 0.9, 0, 0, 10, 10), ("a", 0.85, 0, 0, 10, 10), ("b", 0.8, 0, 0, 10, 10))
    assert box_quality.average_precision(twice, truth) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert box_quality.average_precision(right.iloc[:0], truth) == 0
    assert np.isnan(box_quality.average_precision(right, truth.iloc[:0]))


def slow_point(found, truth, sizes, false_fires, right_share):
    """The lowest threshold that keeps the limits, by trying every one."""
    clean = [name for name in sizes if not (truth["image_id"][truth["class"] == "overlay"]
                                            == name).any()]  # fmt: skip
    overlays = found[found["class"] == "overlay"]
    shape = np.array([sizes[name] for name in overlays["image_id"]])
    overlays = overlays[boxes.fits_rules(overlays[BOX].to_numpy(), shape)]
    for threshold in [0.0, *sorted(overlays["confidence"])]:
        kept = overlays[overlays["confidence"] > threshold]
        fires = len(set(kept["image_id"]) & set(clean)) / len(clean)
        hits = slow_hits(kept, truth, "overlay")
        right = np.mean([hit[2] for hit in hits]) if hits else 1.0
        if fires <= false_fires and right >= right_share:
            return threshold
    raise AssertionError("the highest threshold keeps nothing")


@pytest.mark.parametrize("seed", range(6))
def test_operating_points_equal_the_slow_search(seed):
    scene = random_scene(seed, pictures=30)
    points = box_quality.choose_points(*scene)
    assert points["precise"] == slow_point(*scene, 0.02, 0.95)
    assert points["recall"] == slow_point(*scene, 0.15, 0.0)
    assert points["recall"] <= points["precise"]


def test_operating_points_of_a_silent_detector_and_without_clean_pictures():
    found, truth, sizes = random_scene(0)
    silent = box_quality.choose_points(found.iloc[:0], truth, sizes)
    assert silent["precise"] == silent["recall"] == 1.0
    everywhere = {name: sizes[name] for name in truth["image_id"][truth["class"] == "overlay"]}
    inside = [part[part["image_id"].isin(everywhere)] for part in (found, truth)]
    assert box_quality.choose_points(*inside, everywhere) == {"precise": 0.55, "recall": 0.50}
