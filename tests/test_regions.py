"""Selective search: grouping against a slow obvious version, limits, known rectangles."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image
from skimage import data

from iscutils.descriptors import regions
from iscutils.descriptors.regions import choose_boxes, find_regions, group, segment, suppress


def iou(one, two) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    shared = max(0, width) * max(0, height)
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return shared / (sum(area) - shared)


def slow_group(pixels: np.ndarray, labels: np.ndarray) -> tuple[list[int], list[list[int]]]:
    """Every step anew: masks of the regions, all pairs that touch, the most similar one joined."""
    n = int(labels.max()) + 1
    features = regions._describe(pixels, labels, n)[0].astype(np.float64)
    masks = [labels == i for i in range(n)]
    histograms, alive = list(features), set(range(n))
    size = labels.size

    def box(mask):
        rows, columns = np.nonzero(mask)
        return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]

    def touch(one, two):
        return (
            (one[:, 1:] & two[:, :-1]).any() or (one[:, :-1] & two[:, 1:]).any()
            or (one[1:] & two[:-1]).any() or (one[:-1] & two[1:]).any()
        )  # fmt: skip

    def similarity(i, j):
        x0, y0, x1, y1 = box(masks[i] | masks[j])
        joint = masks[i].sum() + masks[j].sum()
        alike = np.minimum(histograms[i], histograms[j]).sum()
        return alike + (1 - joint / size) + (1 - ((x1 - x0) * (y1 - y0) - joint) / size)

    while len(alive) > 1:
        pairs = [(i, j) for i in alive for j in alive if i < j and touch(masks[i], masks[j])]
        i, j = max(pairs, key=lambda pair: similarity(*pair))
        sizes = masks[i].sum(), masks[j].sum()
        masks.append(masks[i] | masks[j])
        histograms.append((histograms[i] * sizes[0] + histograms[j] * sizes[1]) / sum(sizes))
        alive = (alive - {i, j}) | {len(masks) - 1}
    return [int(mask.sum()) for mask in masks], [box(mask) for mask in masks]


def test_grouping_equals_the_slow_version():
    pixels = np.asarray(Image.fromarray(data.astronaut()).resize((60, 48)))
    labels = segment(np.asarray(Image.fromarray(pixels).resize((60, 48))))
    labels = np.unique(labels // 2, return_inverse=True)[1].reshape(labels.shape)
    grid = np.add.outer(np.arange(48) // 16 * 4, np.arange(60) // 15)  # 12 tiles
    for segments in (labels, grid):
        counts, boxes = group(pixels, segments)
        slow_counts, slow_boxes = slow_group(pixels, segments)
        assert len(counts) == 2 * segments.max() + 1
        assert counts.tolist() == slow_counts
        assert boxes.tolist() == slow_boxes


def test_histograms_sum_to_one_each():
    pixels = data.chelsea()[:60, :80]
    labels = np.add.outer(np.arange(60) // 30 * 2, np.arange(80) // 40)
    features, counts, _ = regions._describe(pixels, labels, 7)
    assert counts.tolist() == [1200] * 4 + [0] * 3
    assert np.allclose(features[:4, :75].sum(1), 1, atol=1e-5)
    assert np.allclose(features[:4, 75:].sum(1), 1, atol=1e-5)


def test_limits_of_regions():
    boxes = np.array(
        [
            [0, 0, 100, 60],
            [0, 0, 100, 60],  # twice
            [0, 0, 101, 50],  # more than twice as wide as high
            [200, 0, 300, 50],  # exactly twice
            [0, 100, 40, 140],  # too few pixels
            [205, 3, 300, 50],  # overlaps the former
            [150, 80, 150, 120],  # no width
            [0, 0, 400, 300],  # the whole picture
            [3, 3, 400, 300],  # nearly so
        ]
    )
    counts = np.array([2000, 2000, 5000, 2000, 1999, 3000, 9000, 100000, 100000])
    assert choose_boxes(boxes, counts, (400, 300)).tolist() == [[0, 0, 100, 60], [200, 0, 300, 50]]


def test_suppression_keeps_the_larger_and_breaks_ties_by_place():
    rng = np.random.default_rng(3)
    corner = rng.integers(0, 80, (150, 2))
    boxes = np.concatenate([corner, corner + rng.integers(10, 60, (150, 2))], 1)
    boxes = np.unique(boxes, axis=0)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1).tolist()
    kept = []
    for _, box in sorted(zip([-value for value in area], boxes.tolist(), strict=True)):
        if all(iou(box, other) <= 0.5 for other in kept):
            kept.append(box)
    assert suppress(boxes).tolist() == kept
    assert suppress(np.zeros((0, 4), np.int64)).shape == (0, 4)


def test_at_most_twenty_regions():
    columns, rows = np.meshgrid(np.arange(6) * 60, np.arange(5) * 60)
    corner = np.stack([columns.ravel(), rows.ravel()], 1)
    boxes = np.concatenate([corner, corner + 50], 1)
    assert len(choose_boxes(boxes, np.full(30, 2500), (400, 300))) == 20


@pytest.mark.parametrize("size", [(640, 480), (1500, 1100), (300, 420)])
def test_pasted_pictures_are_found_in_pixels_of_the_original(size):
    pictures = [Image.fromarray(getattr(data, name)()) for name in ("coffee", "rocket", "chelsea")]
    place = (int(0.5 * size[0]), int(0.3 * size[1]), int(0.85 * size[0]), int(0.75 * size[1]))
    best = []
    for behind in pictures:
        for front in (picture for picture in pictures if picture is not behind):
            image = behind.resize(size)
            image.paste(front.resize((place[2] - place[0], place[3] - place[1])), place[:2])
            found = find_regions(image)
            assert 0 < len(found) <= 20
            assert found.min() >= 0
            assert (found[:, 2:] <= size).all()
            best.append(max(iou(box, place) for box in found.tolist()))
    assert np.median(best) > 0.6  # a wrong scale or swapped axes give less than 0.3


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (640, 2), (90, 60)])
def test_small_and_flat_pictures_have_no_regions(size):
    assert find_regions(Image.new("RGB", size, "red")).shape == (0, 4)


def test_the_search_is_fast_and_repeats():
    image = Image.fromarray(data.coffee()).resize((640, 427))
    first = find_regions(image)
    seconds = []
    for _ in range(3):
        started = time.process_time()
        assert np.array_equal(find_regions(image), first)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.5  # about 0.1; generous for slow machines
