"""Parts of an image: golden boxes, turns, sides, and how parts are prepared."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image, ImageFilter

from iscutils.descriptors.parts import (
    WAYS,
    Plan,
    Stream,
    cut,
    detection_parts,
    load_parts,
    normalised_boxes,
    part_sides,
    query_parts,
    reference_parts,
    region_parts,
    way_parts,
)
from iscutils.figures import image_parts
from iscutils.files.artifacts import KitError
from iscutils.files.images import GeneratedImages
from iscutils.files.prepare import SET_VARIANTS, prepare, set_variant, vary


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def images_of(*pictures: Image.Image) -> GeneratedImages:
    ids = [f"p{i}" for i in range(len(pictures))]
    return GeneratedImages(ids, pictures.__getitem__, list(range(len(pictures))), "pictures")


def test_reference_parts_are_those_of_the_specification():
    parts = reference_parts(600, 400)
    assert [part.number for part in parts] == list(range(19))
    assert not any(part.turn for part in parts)
    boxes = {part.number: part.box for part in parts}
    assert boxes[0] == (0, 0, 600, 400)
    assert boxes[1] == (0, 0, 300, 200)
    assert boxes[2] == (300, 0, 600, 200)
    assert boxes[4] == (300, 200, 600, 400)
    assert boxes[5] == (150, 100, 450, 300)
    assert boxes[6] == (0, 0, 200, 133)
    assert boxes[14] == (400, 266, 600, 400)
    assert boxes[15] == (100, 66, 300, 200)
    assert boxes[18] == (300, 200, 500, 333)


def test_query_parts_are_those_of_the_specification():
    parts = query_parts(600, 400)
    assert [part.number for part in parts] == list(range(9))
    assert [part.turn for part in parts] == [0, 90, 180, 270, 0, 0, 0, 0, 0]
    assert parts[4].box == (150, 100, 450, 300)
    tiles = [(100, 66, 300, 200), (300, 66, 500, 200), (100, 200, 300, 333), (300, 200, 500, 333)]
    assert [part.box for part in parts[5:]] == tiles


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 400), (6, 6), (7, 11), (1023, 681)])
def test_borders_are_truncated_fractions_and_no_part_is_empty(size):
    fractions = {0, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 5 / 6, 1}
    for parts in (query_parts(*size), reference_parts(*size)):
        assert parts[0].box == (0, 0, *size)
        for part in parts:
            left, top, right, bottom = part.box
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]
            for bound, side in zip(part.box, size * 2, strict=True):
                assert bound in {int(side * share + 1e-9) for share in fractions}


def test_turns_are_counter_clockwise():
    image = noise(5, 3)
    pixels = np.asarray(image)
    for part in query_parts(5, 3)[:4]:
        assert np.array_equal(np.asarray(cut(image, part)), np.rot90(pixels, part.turn // 90))


def test_detections_are_numbered_by_rank_and_stay_within_a_pixel():
    boxes = np.array([[10.4, 20.6, 110.5, 90.2], [50, 50, 50.3, 80], [-5, -5, 700, 500]])
    parts = detection_parts(boxes, 600, 400)
    assert [part.number for part in parts] == [1000, 1002]  # the second has no pixel
    assert np.abs(np.array(parts[0].box) - boxes[0]).max() < 1
    assert parts[1].box == (0, 0, 600, 400)
    many = detection_parts(np.tile(boxes[:1], (30, 1)), 600, 400)
    assert [part.number for part in many] == list(range(1000, 1020))


def test_regions_are_numbered_from_ten():
    parts = region_parts([[0, 0, 5, 5], [1, 2, 3, 4]])
    assert [(part.number, part.box) for part in parts] == [(10, (0, 0, 5, 5)), (11, (1, 2, 3, 4))]


def test_sides_are_of_the_original_but_of_detections_at_640():
    parts = [*query_parts(600, 400)[:5], *detection_parts(np.array([[0, 0, 300, 100]]), 600, 400)]
    sides = part_sides(parts, 600, 400)
    assert sides.tolist() == [
        [600, 400], [400, 600], [600, 400], [400, 600], [300, 200], [320, 107]
    ]  # fmt: skip
    boxes = normalised_boxes(parts, 600, 400)
    assert np.allclose(boxes[4], [0.25, 0.25, 0.75, 0.75])
    assert np.allclose(boxes[5], [0, 0, 0.5, 0.25])


def test_blur_comes_before_gray_and_both_before_the_resize():
    image = noise(64, 48)
    blurred = image.filter(ImageFilter.GaussianBlur(5))
    expected = blurred.convert("L").convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    one_channel = prepare(vary(image, "blur+gray"), 32)
    assert one_channel.shape == (32, 32, 1)
    assert np.array_equal(np.repeat(one_channel, 3, 2), np.asarray(expected))
    assert np.array_equal(prepare(vary(image, "none"), 32), prepare(image, 32))
    with pytest.raises(KitError, match=r"sepia.*blur\+gray"):
        vary(image, "sepia")


def test_only_references_of_blurred_sets_are_blurred():
    assert len(SET_VARIANTS) == 11
    assert [set_variant("blur", kind) for kind in ("queries", "references")] == ["none", "blur"]
    assert set_variant("blur_bw", "queries") == "gray"
    assert set_variant("blur_bw", "background") == "blur+gray"
    assert set_variant("face_bw", "queries") == set_variant("face_bw", "references") == "gray"
    with pytest.raises(KitError, match="occlude"):
        set_variant("blurred", "queries")


def test_loaded_parts_equal_cutting_by_hand():
    image = noise(60, 40)
    streams = (Stream(24), Stream(32, variant="gray"), Stream(32, "short"))
    pieces = load_parts(images_of(image), Plan(streams, "reference"), 0)
    parts = reference_parts(60, 40)
    assert pieces.numbers.tolist() == [part.number for part in parts]
    for i in (0, 4, 14):
        crop = image.crop(parts[i].box)
        assert np.array_equal(pieces.pixels[0][i], prepare(crop, 24))
        assert np.array_equal(pieces.pixels[1][i], prepare(crop.convert("L"), 32))
        assert np.array_equal(pieces.pixels[2][i], prepare(crop, 32, "short"))


def test_a_query_has_its_fixed_parts_regions_and_detections():
    image = Image.new("RGB", (400, 300), "white")
    image.paste(noise(150, 120), (200, 100))  # a pasted picture
    detections = {"p0": np.array([[200.0, 100, 350, 220], [10, 10, 60, 60]])}
    pieces = load_parts(images_of(image), Plan((Stream(16),), "query", detections), 0)
    numbers = pieces.numbers.tolist()
    assert numbers[:9] == list(range(9))
    assert numbers[-2:] == [1000, 1001]
    regions = [i for i, number in enumerate(numbers) if 10 <= number < 1000]
    assert regions
    pasted = np.array([200 / 400, 100 / 300, 350 / 400, 220 / 300])
    assert np.abs(pieces.boxes[regions] - pasted).max(1).min() < 0.03
    assert np.array_equal(pieces.pixels[0][-2], prepare(image.crop((200, 100, 350, 220)), 16))


def test_the_most_confident_overlay_takes_the_place_of_its_query():
    image = noise(100, 80)
    plan = Plan((Stream(16),), detections={"p0": np.array([[20.7, 10, 60, 50]])}, replace=True)
    pieces = load_parts(images_of(image, image), plan, 0)
    assert pieces.numbers.tolist() == [0]
    assert np.allclose(pieces.boxes, [[0.2, 0.125, 0.6, 0.625]])
    assert np.array_equal(pieces.pixels[0][0], prepare(image.crop((20, 10, 60, 50)), 16))
    assert np.array_equal(load_parts(images_of(image, image), plan, 1).pixels[0][0],
                          prepare(image, 16))  # fmt: skip


def test_unknown_names_are_refused():
    with pytest.raises(KitError, match=r"'halves'.*reference"):
        Plan((Stream(16),), "halves")
    with pytest.raises(KitError, match=r"'red'.*gray"):
        Plan((Stream(16, variant="red"),))


def test_the_figure_draws_every_cut_out_part():
    axes = image_parts(noise(120, 90), noise(80, 100))
    drawn = [[text.get_text() for text in ax.texts] for ax in axes]
    assert drawn[0] == [str(k) for k in range(4, 9)]  # the whole and its turned copies have no box
    assert drawn[2] == [str(k) for k in range(1, 19)]
    assert [len(ax.patches) for ax in axes] == [len(numbers) for numbers in drawn]
    plt.close("all")


def test_ways_to_ask_with_a_query():
    parts = way_parts(list(WAYS), (10, 20, 610, 320))
    numbers = [number for way in WAYS.values() for number in way]
    assert [part.number for part in parts] == numbers
    boxes = {part.number: part.box for part in parts}
    whole = (10, 20, 610, 320)
    assert [boxes[number] for number in (0, 40, 41, 1, 2, 3)] == [whole] * 6
    tiles = [(10, 20, 410, 220), (210, 20, 610, 220), (10, 120, 410, 320), (210, 120, 610, 320)]
    assert [boxes[number] for number in WAYS["tiles"]] == tiles
    assert boxes[34] == (110, 70, 510, 270)
    assert [part.number for part in way_parts(["centre", "whole", "centre"], (0, 0, 1, 1))] == [0]


def test_a_query_asked_in_several_ways_is_cut_and_changed():
    image = noise(24, 12)
    pixels = np.asarray(image)
    cuts = {part.number: np.asarray(cut(image, part)) for part in way_parts(WAYS, (0, 0, 24, 12))}
    assert np.array_equal(cuts[0], pixels)
    assert np.array_equal(cuts[40], 255 - pixels)
    assert np.array_equal(cuts[41], pixels[:, ::-1])
    assert np.array_equal(cuts[2], pixels[::-1, ::-1])
    assert np.array_equal(cuts[31], pixels[:8, 8:])
    pieces = load_parts(images_of(image), Plan((Stream(16),), ways=("whole", "inverted")), 0)
    assert pieces.numbers.tolist() == [0, 40]
    inverted = Image.fromarray(255 - pixels)
    assert np.array_equal(pieces.pixels[0][1], prepare(inverted, 16))


def test_an_unknown_way_is_refused_with_the_choices():
    with pytest.raises(KitError, match=r"way 'upside' .* whole, tiles, centre, inverted, mirrored"):
        Plan((Stream(16),), ways=("whole", "upside"))


def test_a_replaced_query_is_asked_within_its_box():
    detections = {"p0": np.array([[20, 10, 80, 40]])}
    plan = Plan((Stream(16),), "whole", detections, replace=True, ways=("whole", "tiles"))
    pieces = load_parts(images_of(noise(100, 50)), plan, 0)
    boxes = (pieces.boxes * [100, 50, 100, 50]).round().astype(int).tolist()
    assert boxes[:2] == [[20, 10, 80, 40], [20, 10, 60, 30]]
