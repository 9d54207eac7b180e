"""Geometric edits as data: the fast rendering of a move equals one plain warp."""

import numpy as np
import pytest
from PIL import Image

from iscutils import edits
from iscutils.edits.moves import Move, render
from iscutils.edits.record import corners, transform, warp

MOVES = [name for name, edit in edits.REGISTRY.items() if edit.move]


def photo(size, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", MOVES)
def test_rendering_equals_one_warp(name):
    image, edit = photo((120, 90)), edits.REGISTRY[name]
    for seed in range(5):
        narrowed = {"side": 64} if "side" in edit.parameters else {}
        narrowed |= {"scale": [0.6, 0.9]} if name == "resize" else {}
        _, values = edits.draw_operation(name, np.random.default_rng(seed), **narrowed)
        move = edit.move(image.size, **values)
        fast = render(image, move)
        assert fast.size == move.size
        slow = np.asarray(warp(image, move.matrix, move.size, move.fill)).astype(float)
        difference = np.abs(np.asarray(fast).astype(float) - slow)
        assert np.median(difference) <= 1.5
        # A border may lie one pixel off: copied pixels have no half-filled ones.
        assert (difference.max(-1) > 24).mean() < 0.06


@pytest.mark.parametrize("name", MOVES)
def test_a_move_needs_no_pixels(name):
    edit = edits.REGISTRY[name]
    _, values = edits.draw_operation(name, np.random.default_rng(1))
    move = edit.move((320, 240), **values)
    edited = edits.apply(photo((320, 240)), [(name, values)])
    assert edited.image.size == move.size
    np.testing.assert_allclose(edited.homography, move.matrix / move.matrix[2, 2])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_quarter_turns_and_mirrors_copy_pixels(turns, mirrored):
    image = photo((31, 20))
    operations = [("rot90", {"turns": turns})] if turns else []
    operations += [("hflip", {})] if mirrored else []
    expected = np.rot90(np.asarray(image), turns)
    expected = expected[:, ::-1] if mirrored else expected
    np.testing.assert_array_equal(np.asarray(edits.apply(image, operations).image), expected)


def test_a_crop_with_scale_keeps_fractions_of_pixels():
    """A window of half pixels is resampled, not rounded."""
    image = photo((40, 40))
    matrix = np.array([[2.0, 0, -5.0], [0, 2.0, -5.0], [0, 0, 1]])
    fast = np.asarray(render(image, Move(matrix, (30, 30)))).astype(float)
    slow = np.asarray(warp(image, matrix, (30, 30), (0, 0, 0))).astype(float)
    assert np.abs(fast - slow).max() <= 3


def test_resized_crop_keeps_area_and_ratio_where_they_fit():
    crop = edits.REGISTRY["resized_crop"].move
    values = {"side": 100, "x": 0.5, "y": 0.5}
    move = crop((400, 300), area=0.25, ratio=1.0, **values)
    window = transform(np.linalg.inv(move.matrix), corners(move.size))
    assert np.ptp(window, axis=0) == pytest.approx((173, 173), abs=1)  # 173^2 = 0.25 * 400 * 300
    whole = crop((400, 300), area=1.0, ratio=0.75, **values)  # cannot fit: nearest is everything
    assert transform(np.linalg.inv(whole.matrix), corners(whole.size)) == pytest.approx(
        corners((400, 300))
    )


def test_change_orientation_turns_landscape_to_portrait():
    move = edits.REGISTRY["change_orientation"].move
    assert move((400, 300), share=0.5).size == (150, 300)
    assert move((300, 400), share=0.5).size == (300, 150)


def test_channel_shift_moves_red_and_blue_apart():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    edited = edits.apply(image, [("channel_shift", {"x": 0.1, "y": 0.0})])
    before, after = np.asarray(image), np.asarray(edited.image)
    assert edited.image.size == (60 - 12, 40)
    np.testing.assert_array_equal(after[..., 0], before[:, :48, 0])
    np.testing.assert_array_equal(after[..., 1], before[:, 6:54, 1])
    np.testing.assert_array_equal(after[..., 2], before[:, 12:, 2])
    assert edited.visible == pytest.approx(0.8, abs=0.02)


def test_graded_strengths_run_over_the_range():
    low, middle, high = (edits.grade_operation("jpeg", share)[1] for share in (0.0, 0.5, 1.0))
    parameter = edits.REGISTRY["jpeg"].parameters["quality"]
    assert (low["quality"], high["quality"]) == (parameter.low, parameter.high)
    assert low["quality"] < middle["quality"] < high["quality"]
    assert edits.grade_operation("crop", 0.0)[1]["x"] == 0.5  # a place is no strength
