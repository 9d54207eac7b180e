"""Batched edits: they agree with edits of single pictures, and repeat with their generator."""

import io
import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from iscutils import edits
from iscutils.edits.recipe_files import parse_recipe
from iscutils.edits.strength import ALWAYS, NEUTRAL, weakened
from iscutils.edits.tensor import TensorEdits, supported
from iscutils.edits.tensor_jpeg import jpeg, quantisation

SIDE = 96
# Largest mean difference in levels of 255; edges of layers and fills are not smoothed in batches.
EXACT = {
    name: 0.6
    for name in (
        "crop", "resized_crop", "centre_crop", "change_orientation", "hflip", "vflip", "rot90",
        "aspect", "pad_square", "squash", "fit", "resize", "brightness", "saturation",
        "darken", "gray", "invert", "channel_invert", "posterise", "solarise", "equalise", "sepia",
        "channel_shuffle", "gamma", "channel_gamma", "temperature", "colour_map", "duotone",
        "two_colour", "blur", "box_blur", "blur_pixels", "motion_blur", "zoom_blur",
        "edge_enhance", "paste", "underlay", "blurred_mask",
    )
}  # fmt: skip
CLOSE = {
    "hue": 1.0, "contrast": 1.0, "opacity": 1.0, "jpeg": 1.5, "jitter": 2.5, "rotate": 2.0,
    "affine": 2.0, "perspective": 2.0, "shear": 3.0, "skew": 2.0, "pad": 3.0, "collage": 2.5,
    "pixelate": 4.0, "sharpen": 5.0, "stripes": 1.0, "erase": 1.0, "lose_resolution": 1.5,
}  # fmt: skip
MOVES = {name: 2.0 for name, edit in edits.REGISTRY.items() if edit.move}
LIMITS = {**MOVES, **EXACT, **CLOSE}
RANDOM = ("noise", "shuffle_pixels", "sticker", "emoji", "text", "glyphs", "meme")
NARROW = {"erase": {"fill": "colour"}, "sharpen": {"factor": [1.0, 5.0]}}


def photo(seed, size=(SIDE, SIDE)):
    """A smooth colourful picture of (width, height) px."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))


def as_batch(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def recipe(operations, **more):
    return parse_recipe("test", {"draw": "each", "operations": operations, **more})


def batched(pictures, operations, size=SIDE):
    """Views (B, S, S, 3) in 0..255 of pictures with the same operations."""
    with_any = TensorEdits(recipe({"hflip": None}), size)
    drawn = [tuple(operations)] * len(pictures)
    views = with_any.apply(as_batch(pictures), drawn, seeded())
    assert views.min() >= 0
    assert views.max() <= 1
    return views.permute(0, 2, 3, 1).numpy() * 255


def single(picture, operations, donors, size=SIDE):
    edited = edits.apply(picture, operations, donors).image
    return np.asarray(edited.resize((size, size), Image.Resampling.BILINEAR)).astype(float)


def test_every_batched_operation_is_compared():
    assert {n for n in edits.REGISTRY if supported(n)} == {*LIMITS, *RANDOM}


@pytest.mark.parametrize("name", LIMITS)
def test_views_agree_with_the_edit_of_a_single_picture(name):
    pictures = [photo(0), photo(1)]
    for seed in range(4):
        operation = edits.draw_operation(name, np.random.default_rng(seed), **NARROW.get(name, {}))
        views = batched(pictures, [operation])
        for row in (0, 1):
            expected = single(pictures[row], [operation], [pictures[1 - row]])
            assert np.abs(views[row] - expected).mean() < LIMITS[name]


def test_a_chain_of_moves_and_layers_agrees_in_its_order():
    pictures = [photo(0), photo(1)]
    chain = [
        ("underlay", {"donor": 0, "size": 0.5, "x": 0.3, "y": 0.6, "units": "free", "opacity": 0.9,
                      "shape": "ellipse", "feather": 0.0}),
        ("rotate", {"degrees": 25.0, "canvas": "expand", "fill": [200, 30, 60]}),
        ("paste", {"donor": 0, "size": 0.7, "x": 0.2, "y": 0.9, "units": "free", "opacity": 0.8}),
        ("crop", {"area": 0.6, "ratio": 1.2, "x": 0.4, "y": 0.3}),
        ("hflip", {}),
        ("pad", {"left": 0.1, "right": 0.0, "top": 0.2, "bottom": 0.1, "fill": [0, 0, 0]}),
    ]  # fmt: skip
    views = batched(pictures, chain)
    for row in (0, 1):
        expected = single(pictures[row], chain, [pictures[1 - row]])
        assert np.abs(views[row] - expected).mean() < 4


def test_smaller_views_of_a_detailed_picture_are_not_aliased():
    noise = np.random.default_rng(0).integers(0, 256, (384, 384, 3), np.uint8)
    view = batched([noise, noise], [("hflip", {})], size=48)[0]
    expected = single(Image.fromarray(noise), [("hflip", {})], [], size=48)
    assert view.std() < 1.5 * expected.std()  # bilinear samples alone would give about 6 times


def changed_share(plain, edited):
    return (np.abs(edited - plain).max(-1) > 20).mean()


@pytest.mark.parametrize("name", ["sticker", "emoji", "text", "glyphs"])
def test_stamps_cover_as_much_as_single_ones_do(name):
    dark = Image.new("RGB", (SIDE, SIDE), (70, 90, 110))
    plain, shares = np.asarray(dark).astype(float), [[], []]
    for seed in range(30):
        ranges = {"colour": [[255, 255, 255]]} if name in ("text", "glyphs") else {}
        operation = edits.draw_operation(name, np.random.default_rng(seed), **ranges)
        shares[0].append(changed_share(plain, batched([dark], [operation])[0]))
        shares[1].append(changed_share(plain, single(dark, [operation], [])))
    assert np.mean(shares[0]) == pytest.approx(np.mean(shares[1]), rel=0.3)


def test_meme_bars_lie_where_they_do_in_single_pictures():
    operation = edits.draw_operation("meme", np.random.default_rng(1), place="both", dark=True)
    views = batched([photo(0)], [operation])
    expected = single(photo(0), [operation], [])
    paper = [(picture.max(-1) < 5).mean(1) > 0.5 for picture in (views[0], expected)]
    assert np.abs(np.cumsum(paper[0]) - np.cumsum(paper[1])).max() <= 4


@pytest.mark.parametrize("kind", ["gaussian", "speckle", "poisson", "salt_pepper"])
def test_noise_has_the_strength_of_single_pictures(kind):
    gray = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    operation = ("noise", {"amount": 0.1, "kind": kind, "seed": 3})
    deviations = [batched([gray], [operation])[0].std(), single(gray, [operation], []).std()]
    assert deviations[0] == pytest.approx(deviations[1], rel=0.08)


def test_shuffled_pixels_stay_in_the_picture():
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    view = batched([noise], [("shuffle_pixels", {"share": 0.3, "seed": 0})])[0].round()
    moved = (view != noise).any(-1).mean()
    assert moved == pytest.approx(0.3, abs=0.02)
    codes = [np.sort((p.reshape(-1, 3) @ [65536, 256, 1]).astype(int)) for p in (view, noise)]
    assert np.array_equal(*codes)


@pytest.mark.parametrize("quality", [30, 50, 70, 90])
@pytest.mark.parametrize("size", [(96, 96), (90, 70)])
def test_jpeg_agrees_with_the_library(quality, size):
    rng = np.random.default_rng(quality)
    grain = cv2.GaussianBlur(rng.normal(0, 40, (size[1], size[0], 3)), (0, 0), 1.2)
    pixels = np.clip(np.asarray(photo(5, size)) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    expected = np.asarray(Image.open(buffer).convert("RGB")).astype(float)
    view = jpeg(as_batch([pixels]), torch.tensor([quality]))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(view - expected).mean() < 1.5
    assert np.abs(view - expected).mean() < 0.5 * np.abs(pixels - expected).mean()


def test_quantisation_tables_are_those_of_the_library():
    for quality in (1, 10, 50, 75, 95, 100):
        buffer = io.BytesIO()
        photo(0).save(buffer, "JPEG", quality=quality)
        tables = Image.open(buffer).quantization
        ours = quantisation(torch.tensor([quality]))
        assert [t[0].int().tolist() for t in ours] == [list(tables[0]), list(tables[1])]


# --- whole recipes


def test_views_repeat_with_the_generator_and_differ_without():
    images = as_batch([photo(seed) for seed in range(8)])
    view = TensorEdits("training", 48)
    assert view.unsupported == ()
    first, second, other = (view(images, seeded(seed)) for seed in (1, 1, 2))
    assert first.shape == (8, 3, 48, 48)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.isfinite(first).all()
    assert first.min() >= 0
    assert first.max() <= 1


def test_the_original_group_is_milder():
    images = as_batch([photo(seed) for seed in range(64)])
    still = torch.nn.functional.interpolate(images, (48, 48), mode="bilinear", antialias=True)
    difference = [
        float((TensorEdits("training", 48, group)(images, seeded()) - still).abs().mean())
        for group in ("original", "group")
    ]
    assert difference[0] < 0.6 * difference[1]


def test_a_recipe_without_originals_uses_its_edits():
    plain = recipe({"invert": None})
    images = as_batch([photo(0)])
    assert torch.allclose(TensorEdits(plain, SIDE, "original")(images, seeded()), 1 - images)


def test_operations_without_a_batched_form_are_named_once(caplog):
    logger = logging.getLogger("iscutils")
    logger.addHandler(caplog.handler)
    try:
        view = TensorEdits(recipe({"oil": None, "hflip": None}), SIDE)
    finally:
        logger.removeHandler(caplog.handler)
    assert view.unsupported == ("oil",)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "oil" in caplog.text
    images = as_batch([photo(0)])
    assert torch.allclose(view(images, seeded()), images.flip(3), atol=1e-5)


def test_one_image_is_its_own_donor():
    picture = as_batch([photo(0)])
    view = TensorEdits(recipe({"opacity": {"own": 0.5}}), SIDE)(picture, seeded())
    assert torch.allclose(view, picture, atol=1e-4)


# --- strength


def test_strength_thins_and_softens():
    rng = np.random.default_rng(0)
    drawn = (("crop", {"area": 0.4, "ratio": 2.0, "x": 0.1, "y": 0.2}), ("hflip", {}),
             ("jpeg", {"quality": 15}), ("gray", {}))  # fmt: skip
    assert weakened(drawn, 1.0, rng) == drawn
    assert [name for name, _ in weakened(drawn, 0.0, rng)] == ["crop", "hflip"]
    kept = [weakened(drawn, 0.5, rng) for _ in range(200)]
    assert all(dict(k)["crop"] == {"area": 0.7, "ratio": 1.5, "x": 0.1, "y": 0.2} for k in kept)
    assert {dict(k)["jpeg"]["quality"] for k in kept if "jpeg" in dict(k)} == {45}
    assert np.mean(["gray" in dict(k) for k in kept]) == pytest.approx(0.5, abs=0.1)


def test_neutral_values_belong_to_operations_and_are_allowed():
    assert set(edits.REGISTRY) >= ALWAYS
    for name, values in NEUTRAL.items():
        for key, value in values.items():
            edits.REGISTRY[name].parameters[key].check(value, name)
