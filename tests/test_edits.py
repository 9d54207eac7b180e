"""Edits against pixel truth: coordinate images for geometry, pixel counting for visibility."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from iscutils import edits
from iscutils.edits import assets
from iscutils.edits.record import corners, transform
from iscutils.files.artifacts import KitError

NAMES = sorted(edits.REGISTRY)
MOVING = [n for n in NAMES if edits.REGISTRY[n].move or n in (
    "meme", "screenshot", "recapture", "paste", "collage")]  # fmt: skip
COVERING = ["sticker", "text", "stripes", "underlay", "opacity", "blurred_mask", "paste", "collage"]


def photo(size, seed=0):
    """A smooth colourful picture of (width, height) px."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR))


def black(size):
    return Image.new("RGB", size)


DONORS = [photo((300, 200), 1), photo((150, 260), 2), photo((64, 64), 3)]


def draw(name, seed, **ranges):
    return edits.draw_operation(name, np.random.default_rng(seed), **ranges)


def test_there_are_enough_operations_and_each_is_described():
    assert len(NAMES) >= 55
    assert all(edits.REGISTRY[name].description.endswith(".") for name in NAMES)
    assert [row["operation"] for row in edits.describe_operations()] == list(edits.REGISTRY)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (512, 512)])
@pytest.mark.parametrize("name", NAMES)
def test_operation_runs_and_repeats(name, size):
    image = photo(size)
    for seed in range(3):
        operation = draw(name, seed)
        first = edits.apply(image, [operation], DONORS)
        # What a manifest keeps is JSON: it must give the same pixels again.
        kept = json.loads(json.dumps([operation]))
        again = edits.apply(image, kept, DONORS)
        assert first.image.mode == "RGB"
        assert first.image.size == again.image.size
        assert first.image.tobytes() == again.image.tobytes()
        assert first.homography.dtype == np.float64
        assert np.isfinite(first.homography).all()
        assert first.homography[2, 2] == 1
        assert 0 <= first.visible <= 1
        low, high = first.polygon.min(0, initial=0), first.polygon.max(0, initial=0)
        assert (low >= 0).all()
        assert (high <= first.image.size).all()
    assert image.tobytes() == photo(size).tobytes()  # the input is left as it was


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_draws_other_strengths(name):
    if not edits.REGISTRY[name].parameters:
        assert draw(name, 0) == draw(name, 1) == (name, {})
    else:
        assert draw(name, 5) == draw(name, 5)
        assert len({json.dumps(draw(name, seed)) for seed in range(12)}) > 1


@pytest.mark.parametrize("name", NAMES)
def test_long_strips_and_black_pictures_are_safe(name):
    for image in (black((20_000, 30)), black((30, 9_000)), black((64, 48))):
        edited = edits.apply(image, [draw(name, 1)], DONORS)
        assert edited.image.width * edited.image.height <= 2**24
        assert np.isfinite(edited.homography).all()


def coordinate_image(size):
    """Red runs from 0 to 250 over x, green over y; blue is 255 to mark the picture's own pixels."""
    width, height = size
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    pixels = np.full((height, width, 3), 255.0)
    pixels[..., 0], pixels[..., 1] = 250 * x, 250 * y[:, None]
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def pixel_truth(edited, size):
    """Edited pixel centres (N, 2) that show the original, and the coordinates (N, 2) seen there."""
    pixels = np.asarray(edited.image).astype(float)
    own = cv2.erode((pixels[..., 2] > 250).astype(np.uint8), np.ones((5, 5))) > 0
    rows, columns = np.nonzero(own)
    seen = pixels[rows, columns, :2] / 250 * size
    return np.stack([columns + 0.5, rows + 0.5], 1), seen


@pytest.mark.parametrize("size", [(320, 240), (180, 300)])
@pytest.mark.parametrize("name", MOVING)
def test_homography_agrees_with_pixels(name, size):
    donors = [black((300, 200)), black((150, 260))]
    checked = 0
    for seed in range(6):
        narrowed = {"opacity": 1.0} if name == "paste" else {}
        narrowed |= {"warmth": 0.0, "moire": 0.0} if name == "recapture" else {}
        narrowed |= {"fill": [[0, 0, 0]]} if "fill" in edits.REGISTRY[name].parameters else {}
        narrowed |= {"dark": True} if name in ("meme", "screenshot") else {}
        edited = edits.apply(coordinate_image(size), [draw(name, seed, **narrowed)], donors)
        points, seen = pixel_truth(edited, size)
        if not len(points):
            continue
        expected = transform(np.linalg.inv(edited.homography), points)
        # Two pixels of the coarser grid, and the step of 8-bit coordinates.
        coarse = max(1.0, 1 / np.sqrt(abs(np.linalg.det(edited.homography[:2, :2]))))
        assert np.abs(expected - seen).max() < 2 * coarse + max(size) / 250
        assert np.abs(np.median(expected - seen, axis=0)).max() < 0.6 * coarse + 0.5
        checked += len(points)
    assert checked > 1_000


def test_positive_angles_turn_counter_clockwise():
    image = photo((120, 80))
    values = {"degrees": 30.0, "canvas": "keep", "fill": [0, 0, 0]}
    ours = np.asarray(edits.apply(image, [("rotate", values)]).image).astype(float)
    pillow = np.asarray(image.rotate(30, Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(ours - pillow)[10:-10, 10:-10].mean() < 4
    quarter = edits.apply(image, [("rot90", {"turns": 1})]).image
    assert quarter.tobytes() == image.rotate(90, expand=True).tobytes()


def test_composed_homography_agrees_with_pixels():
    size, fill = (320, 240), [[0, 0, 0]]
    operations = [
        draw("rotate", 1, canvas="expand", fill=fill),
        draw("perspective", 2, fill=fill),
        draw("hflip", 0),
        draw("paste", 3, opacity=1.0, size=[0.7, 0.9]),
        draw("aspect", 4),
        draw("crop", 5, area=[0.6, 0.8]),
    ]
    states = edits.apply_steps(coordinate_image(size), operations, [black((400, 400))])
    assert len(states) == len(operations) + 1
    points, seen = pixel_truth(states[-1], size)
    expected = transform(np.linalg.inv(states[-1].homography), points)
    assert len(points) > 1_000
    assert np.abs(expected - seen).max() < 6
    assert states[-1].operations == tuple(operations)


def transmission(name, operation, size, donors):
    """Share (H, W) of the original in each edited pixel: edits of white minus edits of black."""
    white = edits.apply(Image.new("RGB", size, (255, 255, 255)), [operation], donors)
    dark = edits.apply(black(size), [operation], donors)
    difference = np.asarray(white.image).astype(float) - np.asarray(dark.image)
    return difference.mean(-1) / 255, white


@pytest.mark.parametrize("name", [*COVERING, "crop", "rotate", "shear", "pad", "perspective"])
def test_visible_fraction_agrees_with_pixel_counting(name):
    size = (320, 240)
    for seed in range(5):
        operation = draw(name, seed)
        share, edited = transmission(name, operation, size, DONORS)
        # Each pixel's area in the original: the Jacobian of the inverse homography there.
        inverse = np.linalg.inv(edited.homography)
        y, x = np.mgrid[: share.shape[0], : share.shape[1]] + 0.5
        depth = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2]
        area = np.abs(np.linalg.det(inverse)) / np.abs(depth) ** 3
        counted = (share * area).sum() / (size[0] * size[1])
        assert edited.visible == pytest.approx(counted, abs=0.02)
        # Point by point: what the grid says is hidden is hidden there, not just as much of it.
        centres = (np.arange(64) + 0.5) / 64
        grid = np.stack(np.meshgrid(centres * size[0], centres * size[1]), -1).reshape(-1, 2)
        column, row = np.floor(transform(edited.homography, grid)).astype(int).T
        inside = (row >= 0) & (column >= 0) & (row < share.shape[0]) & (column < share.shape[1])
        seen = np.zeros(len(grid))
        seen[inside] = share[row[inside], column[inside]]
        assert np.abs(edited.visibility.ravel() - seen).mean() < 0.02


def test_visible_fraction_multiplies_along_a_chain():
    size = (320, 240)
    crop = ("crop", {"area": 0.25, "ratio": 1.0, "x": 0.0, "y": 0.0})
    blend = ("opacity", {"donor": 0, "own": 0.4, "second": 0.0})
    pad = ("pad", {"left": 0.5, "right": 0.0, "top": 0.0, "bottom": 0.0, "fill": [9, 9, 9]})
    half = ("crop", {"area": 1 / 3, "ratio": 1 / 3, "x": 0.0, "y": 0.0})  # cuts the border away
    assert edits.apply(photo(size), [crop]).visible == pytest.approx(0.25, abs=1e-6)
    assert edits.apply(photo(size), [crop, blend], DONORS).visible == pytest.approx(0.1, abs=1e-6)
    gone = edits.apply(photo(size), [pad, half])
    assert gone.visible == 0
    assert gone.polygon.shape[0] == 0 or np.ptp(gone.polygon[:, 0]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_never_raises_what_is_seen_and_colours_leave_it(name):
    crop, size = ("crop", {"area": 0.5, "ratio": 1.0, "x": 0.3, "y": 0.6}), (96, 72)
    before = edits.apply(photo(size), [crop]).visible
    after = edits.apply(photo(size), [crop, draw(name, 3)], DONORS).visible
    assert after <= before + 1e-6
    if edits.REGISTRY[name].family in ("colour", "quality") and name != "shuffle_pixels":
        assert after == pytest.approx(before, abs=1e-9)


def test_contents_by_hand():
    def seen(*operations) -> float:
        return edits.apply(photo((240, 240)), list(operations), DONORS).visible

    assert seen(("rot90", {"turns": 1}), ("hflip", {}), ("vflip", {})) == 1
    assert seen(("centre_crop", {"width": 0.5, "height": 0.5})) == pytest.approx(0.25, abs=0.02)
    turned = ("rotate", {"degrees": 45.0, "canvas": "inner", "fill": [0, 0, 0]})
    assert seen(turned) == pytest.approx(0.5, abs=0.02)
    halved = ("crop", {"area": 0.5, "ratio": 0.5, "x": 0.0, "y": 0.0})
    below = ("crop", {"area": 0.5, "ratio": 2.0, "x": 0.0, "y": 1.0})
    assert seen(halved, below) == pytest.approx(0.25, abs=0.02)
    assert seen(("opacity", {"donor": 0, "own": 0.3, "second": 0.0})) == pytest.approx(
        0.3, abs=0.02
    )
    for name in ("pad", "pad_square", "meme"):  # a larger canvas hides nothing
        assert seen(draw(name, 0)) == pytest.approx(1, abs=0.02)
    inside = draw("paste", 0, size=0.5, opacity=1.0)
    assert seen(inside) == pytest.approx(1, abs=0.02)


def test_shuffled_pixels_count_as_hidden():
    edited = edits.apply(photo((200, 100)), [("shuffle_pixels", {"share": 0.3, "seed": 1})])
    moved = (np.asarray(edited.image) != np.asarray(photo((200, 100)))).any(-1).mean()
    assert edited.visible == pytest.approx(0.7, abs=0.02)
    assert moved <= 1 - edited.visible + 1e-6


def test_polygon_is_the_moved_and_cut_outline():
    size = (200, 100)
    turned = edits.apply(photo(size), [("rot90", {"turns": 1})])
    assert set(map(tuple, turned.polygon)) == {(0, 0), (100, 0), (100, 200), (0, 200)}
    kept = edits.apply(
        photo(size), [("rotate", {"degrees": 45.0, "canvas": "keep", "fill": [0, 0, 0]})]
    )
    mask = np.zeros((100, 200), np.uint8)
    cv2.fillPoly(mask, [np.rint(kept.polygon - 0.5).astype(int)], 1)
    white = Image.new("RGB", size, (255, 255, 255))
    shown = np.asarray(edits.apply(white, kept.operations).image)[..., 0] > 127
    assert (mask.astype(bool) != shown).mean() < 0.02
    np.testing.assert_allclose(
        edits.apply(photo(size), [draw("gray", 0)]).polygon, corners(size), atol=1e-12
    )


@pytest.mark.parametrize("degrees", [0.0, 3.0, -20.0, 45.0, 80.0, 90.0, 135.0])
def test_inner_rotation_shows_no_empty_corner_and_is_largest(degrees):
    white = Image.new("RGB", (300, 200), (255, 255, 255))
    values = {"degrees": degrees, "canvas": "inner", "fill": [0, 0, 0]}
    edited = edits.apply(white, [("rotate", values)])
    inside = np.asarray(edited.image)[2:-2, 2:-2]
    assert inside.min() >= 250
    # Brute force: no upright rectangle around the centre with 4 % more area fits.
    turn = np.linalg.inv(edited.homography)[:2, :2]
    best = 0.0
    for width in np.linspace(2, 360, 180):
        for height in np.linspace(2, 360, 180):
            outline = np.abs(np.array([(width, height), (width, -height)]) / 2 @ turn.T)
            if (outline <= (150 + 1e-6, 100 + 1e-6)).all():
                best = max(best, width * height)
    assert edited.image.width * edited.image.height >= 0.96 * best


def test_mild_settings_of_photometric_edits():
    image = photo((64, 48))
    same = ("jitter", {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0})
    assert edits.apply(image, [same]).image.tobytes() == image.tobytes()
    twice = edits.apply(image, [("invert", {}), ("invert", {})])
    assert twice.image.tobytes() == image.tobytes()
    pixels = np.asarray(edits.apply(image, [("gray", {})]).image)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    swapped = edits.apply(image, [("channel_shuffle", {"order": "bgr"})]).image
    assert (np.asarray(swapped) == np.asarray(image)[..., ::-1]).all()
    turned = edits.apply(Image.new("RGB", (4, 4), (255, 0, 0)), [
        ("jitter", {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 1 / 3})
    ]).image.getpixel((0, 0))  # fmt: skip
    assert turned[1] > 240
    assert max(turned[0], turned[2]) < 20


def test_overlays_work_without_augly(monkeypatch):
    for function in (assets._folder, assets.emoji_files, assets._font_file, assets.font):
        function.cache_clear()
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    try:
        for name in ("sticker", "text", "meme", "screenshot"):
            for seed in range(4):
                edited = edits.apply(photo((200, 150)), [draw(name, seed)])
                assert edited.image.tobytes() != photo((200, 150)).tobytes()
    finally:
        for function in (assets._folder, assets.emoji_files, assets._font_file, assets.font):
            function.cache_clear()


@pytest.mark.parametrize("script", assets.SCRIPTS)
def test_every_script_draws_ink(script):
    rng = np.random.default_rng(0)
    mask = assets.text_mask(assets.words(script, rng), assets.font(script, 0, 40))
    assert np.asarray(mask).max() == 255


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([("corp", {})], "did you mean 'crop'"),
        ([("gray", {"x": 1})], "x"),
        ([("rot90", {"turns": 4})], "1 to 3"),
        ([("rot90", {})], "turns"),
        ([("rotate", {"degrees": 1.0, "canvas": "wide", "fill": [0, 0, 0]})], "expand, keep"),
        ([("pad_square", {"fill": [0, 0]})], "0 to 255"),
        ([("opacity", {"donor": 0, "own": 0.5, "second": 0.0})], "donors"),
    ],
)
def test_apply_names_what_is_wrong(operations, message):
    with pytest.raises(KitError, match=message):
        edits.apply(photo((20, 20)), operations)


def test_outgrown_canvas_is_shrunk_and_tracked():
    pad = ("pad", dict.fromkeys(("left", "right", "top", "bottom"), 1.0) | {"fill": [0, 0, 0]})
    edited = edits.apply(coordinate_image((640, 480)), [pad, pad, pad])
    assert edited.image.width * edited.image.height <= 2**24
    centre = transform(edited.homography, np.array([[320.0, 240.0]]))[0]
    np.testing.assert_allclose(centre, np.array(edited.image.size) / 2, atol=1)
    seen = edited.image.getpixel(tuple(int(v) for v in centre))
    np.testing.assert_allclose(seen[:2], (125, 125), atol=4)
