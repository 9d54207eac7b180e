"""Overlays and compositions against pixels: boxes, hidden shares, exact places, faces."""

import math

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from iscutils import edits
from iscutils.edits import assets, faces, layers, overlays
from iscutils.edits.record import transform

SIZE = (320, 240)
WHITE, BLACK = Image.new("RGB", SIZE, (255, 255, 255)), Image.new("RGB", SIZE)
MODULES = ("overlays", "screens", "covers", "faces", "compositions")
NAMES = [
    name for name, e in edits.REGISTRY.items() if e.function.__module__.split(".")[-1] in MODULES
]
# Edits whose pixels are the picture's times its share, plus something that does not depend on it.
MIXING = [
    n for n in NAMES
    if n not in ("recapture", "censor", "face_crop", "meme", "screenshot", "canvas", "collage")
]  # fmt: skip


def photo(size, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR))


DONORS = [photo((300, 200), 1), photo((150, 260), 2), photo((64, 64), 3)]


def draw(name, seed, **ranges):
    return edits.draw_operation(name, np.random.default_rng(seed), **ranges)


def values(name, **fixed):
    """Drawn values of an operation, some of them fixed; nothing but the fixed ones is checked."""
    return name, draw(name, 0)[1] | fixed


def changed(operation, image=None, donors=DONORS):
    """Where a black or white picture, or the one given, differs from its edit (H, W), and boxes."""
    mask = False
    for start in (BLACK, WHITE) if image is None else (image,):
        edited = edits.apply(start, [operation], donors)
        assert edited.image.size == start.size
        mask = mask | (np.asarray(edited.image) != np.asarray(start)).any(-1)
    return mask, edited.boxes


def extent(mask):
    """Bounds x0, y0, x1, y1 of the true pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


OPAQUE = {
    "sticker": {"count": 1, "size": 0.3},
    "emoji": {"size": 0.4},
    "glyphs": {"length": 8, "size": 0.2},
    "logo": {"face": 0},  # letters without thin strokes
    "underlay": {},
    "photo_overlay": {"shadow": False},
    "erase": {"area": 0.2},
    "scribble": {"count": 1, "width": 0.03},
    "text": {"lines": 1},
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", OPAQUE)
def test_box_of_an_opaque_thing_is_the_extent_of_the_changed_pixels(name, seed):
    fixed = {"opacity": 1.0} if "opacity" in edits.REGISTRY[name].parameters else {}
    fixed |= {"colour": [[200, 30, 90]]} if "colour" in edits.REGISTRY[name].parameters else {}
    mask, boxes = changed(draw(name, seed, **fixed, **OPAQUE[name]))
    assert len(boxes) == 1
    assert boxes[0].kind == ("photo" if name in ("underlay", "photo_overlay") else "sticker")
    # Faint rims of masks reach further than half of their maximum.
    assert np.abs(np.subtract(extent(mask), boxes[0].bounds)).max() <= 2
    rim = {"sticker": 2, "emoji": 2}.get(name, 1)
    x0, y0, x1, y1 = (round(value) for value in boxes[0].bounds)
    mask[max(0, y0 - rim) : y1 + rim, max(0, x0 - rim) : x1 + rim] = False
    assert not mask.any()


@pytest.mark.parametrize("name", ["photo_overlays", "face_paste", "patches"])
def test_boxes_of_several_things_enclose_all_changes(name):
    for seed in range(4):
        fixed = {} if name == "patches" else {"opacity": 1.0}
        mask, boxes = changed(draw(name, seed, **fixed))
        assert len(boxes) >= 1
        everything = mask.copy()
        for box in boxes:
            x0, y0, x1, y1 = (round(value) for value in box.bounds)
            assert everything[y0:y1, x0:x1].mean() > 0.3
            # The rim of a face is soft: its box begins where the mask is half solid.
            rim = math.ceil(0.1 * (x1 - x0)) if name == "face_paste" else 1
            mask[max(0, y0 - rim) : y1 + rim, max(0, x0 - rim) : x1 + rim] = False
        assert not mask.any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MIXING)
def test_visibility_is_the_share_of_the_picture_in_each_pixel(name, seed):
    ranges = {"second": [0.1, 0.4]} if name == "opacity" else {}
    ranges |= {"feather": [0.0, 0.4]} if name == "underlay" else {}
    operation = draw(name, seed, **ranges)
    light, dark = (edits.apply(start, [operation], DONORS) for start in (WHITE, BLACK))
    share = (np.asarray(light.image).astype(float) - np.asarray(dark.image)).mean(-1) / 255
    centres = (np.arange(64) + 0.5) / 64
    grid = np.stack(np.meshgrid(centres * SIZE[0], centres * SIZE[1]), -1).reshape(-1, 2)
    column, row = np.floor(transform(light.homography, grid)).astype(int).T
    inside = (row >= 0) & (column >= 0) & (row < share.shape[0]) & (column < share.shape[1])
    seen = np.zeros(len(grid))
    seen[inside] = share[row[inside], column[inside]]
    off = np.abs(light.visibility.ravel() - seen)
    assert np.quantile(off, 0.98) < 0.02
    assert off.mean() < 0.01


@pytest.mark.parametrize("opacity", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("name", ["emoji", "text", "glyphs", "logo", "watermark", "stripes",
                                  "underlay", "photo_overlay", "paste"])  # fmt: skip
def test_opacity_zero_is_allowed_and_leaves_no_box(name, opacity):
    edited = edits.apply(photo(SIZE), [draw(name, 3, opacity=opacity)], DONORS)
    if opacity == 0 and name != "paste":
        assert edited.image.tobytes() == photo(SIZE).tobytes()
    if opacity == 0:
        assert not edited.boxes
        assert edited.visible == (0 if name == "paste" else 1)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.25, 0.5), (0.9, 0.8)])
def test_emoji_in_canvas_units_lies_at_augly_s_corner_and_is_cut(x, y):
    operation = values("emoji", units="canvas", size=0.5, x=x, y=y, turn=0.0, opacity=1.0)
    edited = edits.apply(WHITE, [operation])
    side, left, top = int(0.5 * 240), int(x * 320), int(y * 240)
    picture = assets.emoji(operation[1]["number"], side)
    expected = WHITE.copy()  # Pillow cuts what hangs over
    expected.paste(picture.convert("RGB"), (left, top), picture.getchannel("A"))
    assert edited.image.tobytes() == expected.tobytes()
    (box,) = edited.boxes
    assert box.bounds[2] <= 320
    assert box.bounds[3] <= 240


def test_glyphs_in_canvas_units_start_at_the_pen_and_are_cut():
    operation = values(
        "glyphs", units="canvas", lines=2, length=90, size=0.2, x=0.3, y=0.1, opacity=1.0,
        colour=[0, 0, 0], script="latin", face=3,
    )  # fmt: skip
    mask, (box,) = changed(operation, WHITE)
    left, top, right, bottom = extent(mask)
    assert 0.3 * 320 - 2 <= left <= 0.3 * 320 + 8
    assert right == 320
    # Two lines of 48 px, 5 px apart; the ink of the second ends below its own top.
    assert 24 <= top <= 24 + 48
    assert 24 + 48 + 5 < bottom <= 24 + 2 * 60 + 5
    assert np.abs(np.subtract(box.bounds, (left, top, right, bottom))).max() <= 1


@pytest.mark.parametrize("length", [0, 1, 7, 100])
def test_free_glyphs_keep_the_longest_beginning_that_fits(length):
    font = assets.font("latin", 3, 40)
    row = "Wim0" * 25
    kept = overlays._fitting(row[:length], font, 200)
    assert row.startswith(kept)
    ink = [font.getbbox(row[:n])[2] - font.getbbox(row[:n])[0] for n in range(length + 1)]
    assert len(kept) == max(n for n in range(length + 1) if ink[n] <= 200)


def test_paste_and_underlay_in_canvas_units():
    donor, image = photo((400, 200), 4), photo((100, 50), 5)
    at = {"units": "canvas", "size": 0.5, "x": 0.75, "y": 0.25, "opacity": 1.0, "donor": 0}
    pasted = edits.apply(image, [("paste", at)], [donor])
    # 100 px high and 200 wide from (300, 50) on; the right half is cut.
    np.testing.assert_allclose(transform(pasted.homography, np.array([(0.0, 0), (50, 50)])),
                               [(300, 50), (400, 150)])  # fmt: skip
    assert pasted.boxes[0].kind == "original"
    assert pasted.boxes[0].bounds == (300, 50, 400, 150)
    assert pasted.visible == pytest.approx(0.5, abs=0.01)
    left = np.asarray(pasted.image)[:, :300] == np.asarray(donor)[:, :300]
    assert left.all()
    own = np.asarray(image.resize((200, 100), Image.Resampling.BILINEAR)).astype(int)[:, :100]
    assert np.abs(np.asarray(pasted.image)[50:150, 300:] - own)[:, :-2].max() <= 3
    rest = {"shape": "rectangle", "feather": 0.0}
    covered = edits.apply(donor, [("underlay", at | rest)], [image])
    assert covered.boxes[0].kind == "photo"
    assert covered.boxes[0].bounds == (300, 50, 400, 150)
    assert covered.visible == pytest.approx(1 - 0.25 * 0.5, abs=0.01)
    assert np.abs(np.asarray(covered.image)[50:150, 300:] - own)[:, :-2].max() <= 3


def test_corner_outside_leaves_nothing_to_see():
    at = {"units": "canvas", "size": 0.5, "x": 1.0, "y": 0.0, "opacity": 1.0, "donor": 0}
    pasted = edits.apply(photo((100, 50)), [("paste", at)], DONORS)
    assert pasted.visible == 0
    assert not pasted.boxes
    assert pasted.image.tobytes() == DONORS[0].tobytes()


def test_turned_photo_overlay_has_the_asked_for_scale():
    for seed in range(8):
        operation = draw("photo_overlay", seed, opacity=1.0, shape="rectangle")
        (box,) = edits.apply(photo((500, 400)), [operation], DONORS).boxes
        x0, y0, x1, y1 = box.bounds
        scale = max((x1 - x0) / 500, (y1 - y0) / 400)
        assert scale == pytest.approx(operation[1]["scale"], abs=0.012)
        assert min(x0, y0) >= 0


def test_flip_quarter_and_border_of_a_photo_overlay():
    donor = Image.new("RGB", (100, 100), (255, 0, 0))  # red, its top left quarter is blue
    donor.paste((0, 0, 255), (0, 0, 50, 50))
    fixed = {
        "donor": 0, "scale": 0.5, "keep": 1.0, "aspect": 1.0, "turn": 0.0, "border": 0.0,
        "border_colour": (0, 255, 0), "shape": "rectangle", "shadow": False, "opacity": 1.0,
        "x": 0.0, "y": 0.0, "flip": False, "quarter": 0,
    }  # fmt: skip

    def blue(**changes):
        edited = edits.apply(
            Image.new("RGB", (200, 200)), [("photo_overlay", fixed | changes)], [donor]
        )
        pixels = np.asarray(edited.image)
        spots = {"tl": (25, 25), "tr": (25, 75), "bl": (75, 25), "br": (75, 75)}
        return [k for k, spot in spots.items() if pixels[spot][2] > 200], pixels

    assert blue()[0] == ["tl"]
    assert blue(flip=True)[0] == ["tr"]
    assert blue(quarter=1)[0] == ["bl"]  # counter-clockwise
    assert blue(quarter=2)[0] == ["br"]
    green = (blue(border=0.1)[1][:99, :99] == (0, 255, 0)).all(-1)
    edge = 8  # a tenth of 83 px; with it on both sides about half of 200
    assert green[:edge].all()
    assert green[:, -edge:].all()
    assert not green[edge + 1 : -edge - 1, edge + 1 : -edge - 1].any()


@pytest.mark.parametrize("target", [0.3, 0.5, 0.7, 0.9])
def test_patches_stop_when_the_target_is_reached(target):
    for seed in range(10):
        edited = edits.apply(photo(SIZE), [draw("patches", seed, target=target)], DONORS)
        assert 0.25 - 0.02 <= edited.visible < target + 0.02
        # Without the last patch the target was not reached yet.
        assert edited.visible >= target - 0.36 - 0.02


@pytest.mark.parametrize("own", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("second", [0.0, 0.3, 0.5])
def test_shares_of_a_double_blend_sum_to_one(own, second):
    flat = [Image.new("RGB", (40, 30), tuple(row)) for row in 255 * np.eye(3, dtype=int)]
    step = ("opacity", {"donor": 0, "own": own, "second": second})
    edited = edits.apply(flat[0], [step], flat[1:])
    shares = np.asarray(edited.image)[0, 0] / 255
    expected = (own * (1 - second), (1 - own) * (1 - second), second)
    np.testing.assert_allclose(shares, expected, atol=1.5 / 255)
    assert edited.visible == pytest.approx(expected[0], abs=1e-6)


@pytest.mark.parametrize("fill", ["noise", "colour"])
@pytest.mark.parametrize("area", [0.0, 0.1, 0.33, 1.0])
def test_erase_covers_the_exact_area(fill, area):
    for seed in range(5):
        operation = draw("erase", seed, area=area, fill=fill, colour=[[250, 1, 250]])
        edited = edits.apply(photo(SIZE), [operation])
        erased = (np.asarray(edited.image) != np.asarray(photo(SIZE))).any(-1)
        assert erased.mean() == pytest.approx(area, abs=0.006)
        if 0 < area < 0.2:
            x0, y0, x1, y1 = extent(erased)
            assert (x1 - x0) / (y1 - y0) == pytest.approx(operation[1]["ratio"], rel=0.04)
        assert edited.visible == pytest.approx(1 - area, abs=0.02)


def test_noise_of_erase_is_uniform():
    step = values("erase", area=0.8, ratio=1.3, fill="noise")[1]
    pixels = np.asarray(edits.apply(BLACK, [("erase", step)]).image).astype(float)
    noise = pixels[pixels.any(-1)]
    assert noise.mean() == pytest.approx(127.5, abs=1)
    assert noise.std() == pytest.approx(255 / math.sqrt(12), abs=1)


@pytest.mark.parametrize("kind", ["pixels", "blur"])
def test_censored_rectangle_loses_its_detail_and_nothing_else_changes(kind):
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
    step = values("censor", area=0.25, ratio=4 / 3, x=0.0, y=0.0, cells=4, kind=kind)
    edited = edits.apply(noisy, [step])
    before, after = np.asarray(noisy).astype(float), np.asarray(edited.image).astype(float)
    assert (before[120:] == after[120:]).all()
    assert (before[:, 160:] == after[:, 160:]).all()
    assert after[:120, :160].std() < 0.2 * before[:120, :160].std()
    assert edited.visible == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("style", ["web", "mobile"])
def test_template_shows_the_picture_inside_its_box(style, dark):
    if assets.screen_template(style) is None:
        pytest.skip("AugLy's screen templates are not installed")
    page, box = assets.screen_template(style)
    for size in ((320, 240), (100, 400), (900, 90)):
        edited = edits.apply(
            photo(size), [("screenshot", {"style": style, "dark": dark, "seed": 0})]
        )
        assert edited.image.size == page.size
        (own,) = edited.boxes
        assert own.kind == "original"
        x0, y0, x1, y1 = own.bounds
        assert box[0] <= x0 < x1 <= box[2]
        assert box[1] <= y0 < y1 <= box[3]
        # As large as possible, proportions kept.
        assert (x1 - x0 == box[2] - box[0]) or (y1 - y0 == box[3] - box[1])
        assert (x1 - x0) / (y1 - y0) == pytest.approx(size[0] / size[1], rel=0.03)
        shown = np.asarray(edited.image)[int(y0) : int(y1), int(x0) : int(x1)].astype(float)
        new = (int(x1 - x0), int(y1 - y0))
        expected = np.asarray(photo(size).resize(new, Image.Resampling.BILINEAR)).astype(float)
        assert np.abs(shown - expected).mean() < 2
        if not dark:
            outside = np.asarray(edited.image).copy()
            outside[int(y0) : int(y1), int(x0) : int(x1)] = 0
            rest = np.asarray(page).copy()
            rest[int(y0) : int(y1), int(x0) : int(x1)] = 0
            assert (outside == rest).all()


def test_templates_fall_back_to_drawn_screens(monkeypatch):
    monkeypatch.setattr(assets, "_folder", lambda: None)
    for style, drawn in (("web", "browser"), ("mobile", "phone")):
        pair = [
            edits.apply(photo(SIZE), [("screenshot", {"style": s, "dark": True, "seed": 4})])
            for s in (style, drawn)
        ]
        assert pair[0].image.tobytes() == pair[1].image.tobytes()


@pytest.mark.parametrize("name", ["paste", "canvas", "collage", "screenshot", "meme"])
def test_own_box_is_where_the_picture_lies(name):
    size = (200, 120)
    for seed in range(6):
        edited = edits.apply(photo(size), [draw(name, seed)], DONORS)
        own = [box for box in edited.boxes if box.kind == "original"]
        assert len(own) == 1
        corners = np.array([(0.0, 0), (200, 0), (200, 120), (0, 120)])
        np.testing.assert_allclose(own[0].outline, transform(edited.homography, corners), atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "gradient", "noise", "blurred"])
def test_canvas_keeps_the_area_and_holds_the_picture(kind):
    step = values("canvas", kind=kind, scale=0.5, aspect=1.5, x=1.0, y=0.0)
    edited = edits.apply(photo(SIZE), [step])
    width, height = edited.image.size
    assert width * height == pytest.approx(320 * 240, rel=0.01)
    assert width / height == pytest.approx(1.5 * 320 / 240, rel=0.01)
    x0, y0, x1, y1 = edited.boxes[0].bounds
    assert (x1, y0) == (width, 0)
    assert max((x1 - x0) / width, (y1 - y0) / height) == pytest.approx(0.5, abs=0.01)
    assert edited.visible == 1
    shown = edited.image.crop((round(x0), round(y0), round(x1), round(y1)))
    expected = photo(SIZE).resize(shown.size, Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(shown).astype(float) - np.asarray(expected)).mean() < 2


def test_collage_boxes_tell_own_and_other_tiles_apart():
    for layout in ("left", "right", "top", "bottom", "grid"):
        edited = edits.apply(photo(SIZE), [draw("collage", 1, layout=layout, gap=0.0)], DONORS)
        kinds = sorted(box.kind for box in edited.boxes)
        assert kinds == ["original"] + ["photo"] * (3 if layout == "grid" else 1)
        areas = [np.prod(np.subtract(b.bounds[2:], b.bounds[:2])) for b in edited.boxes]
        assert sum(areas) == pytest.approx(edited.image.width * edited.image.height)


def test_watermark_repeats_without_seams():
    operation = values(
        "watermark", angle=0.0, size=0.1, gap=1.0, opacity=1.0, colour=[0, 0, 0], script="latin"
    )
    ink = np.asarray(edits.apply(WHITE, [operation]).image)[..., 0] < 128
    assert 0.02 < ink.mean() < 0.6
    quarters = [
        part.mean() for half in np.array_split(ink, 2) for part in np.array_split(half, 2, 1)
    ]
    assert max(quarters) < 1.5 * min(quarters)
    assert not edits.apply(WHITE, [operation]).boxes


def test_grid_lines_cover_their_share():
    operation = values("grid_lines", number=6, width=0.1, opacity=1.0, colour=[255, 0, 0])
    edited = edits.apply(BLACK, [operation])
    red = (np.asarray(edited.image) == (255, 0, 0)).all(-1)
    assert red.mean() == pytest.approx(1 - 0.9**2, abs=0.01)
    assert red.any(0).all()
    assert red.any(1).all()


@pytest.mark.parametrize("style", ["plain", "rounded", "double", "oval"])
def test_frame_covers_the_margin_and_not_the_middle(style):
    operation = values("frame", width=0.1, style=style, opacity=1.0, colour=[9, 9, 250])
    mask, boxes = changed(operation)
    assert not boxes
    assert not mask[100:140, 100:220].any()
    assert not mask[120, 24:-24].any()
    if style == "plain":
        assert mask.sum() == 320 * 240 - (320 - 48) * (240 - 48)
    assert mask[0].all()
    assert mask[:, -1].all()


def test_feathered_mask_rises_from_the_rim():
    hard = np.asarray(layers.shape_mask((80, 60), "rectangle"))
    assert (hard == 255).all()
    soft = np.asarray(layers.shape_mask((80, 60), "rectangle", feather=0.25)).astype(int)
    assert (soft[20:40, 20:60] == 255).all()
    assert soft[30, 0] < 30
    assert (np.diff(soft[30, :20]) >= 0).all()
    # A window shows the same pixels as the whole.
    whole = np.asarray(layers.shape_mask((80, 60), "ellipse"))
    part = np.asarray(layers.shape_mask((80, 60), "ellipse", (10, 20, 50, 60)))
    assert (part == whole[20:60, 10:50]).all()


def test_resized_part_equals_the_cut_of_the_whole():
    picture = photo((90, 70))
    whole = np.asarray(picture.resize((300, 200), Image.Resampling.BILINEAR)).astype(int)
    part, corner = layers.resized_part(picture, (300, 200), (-40, 30), (160, 120))
    assert corner == (0, 30)
    assert part.size == (160, 90)
    off = np.abs(np.asarray(part) - whole[:90, 40:200])
    assert off[:-3, 3:-3].max() <= 3
    assert layers.resized_part(picture, (30, 30), (160, 0), (160, 120))[0] is None


def test_emblems_differ_and_are_drawn():
    masks = [np.asarray(assets.emblem(number, 40)) for number in range(10)]
    assert all(0.1 < (mask > 127).mean() < 0.95 for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == 10


def test_face_of_a_photograph_is_found():
    image = Image.fromarray(data.astronaut())  # (512, 512), one person, face around (222, 118)
    found = faces.detect_faces(image)
    assert found.shape == (1, 4)
    x0, y0, x1, y1 = found[0]
    assert x0 < 222 < x1
    assert y0 < 118 < y1
    assert 70 < x1 - x0 < 150
    twice = faces.detect_faces(image.resize((1024, 1024), Image.Resampling.BILINEAR))
    assert np.abs(twice / 2 - found).max() < 8
    assert faces.detect_faces(image).tobytes() == found.tobytes()


def test_face_crop_keeps_the_face_and_its_geometry():
    image = Image.fromarray(data.astronaut())
    x0, _, x1, _ = faces.detect_faces(image)[0]
    edited = edits.apply(image, [("face_crop", {"enlarge": 2.0, "number": 5})])
    width, height = edited.image.size
    assert width == pytest.approx(2 * (x1 - x0), abs=1)
    left, top = np.linalg.inv(edited.homography)[:2, 2]
    assert left == round((x0 + x1) / 2 - (x1 - x0))
    expected = image.crop((left, top, left + width, top + height))
    assert edited.image.tobytes() == expected.tobytes()
    assert edited.visible == pytest.approx(width * height / 512**2, abs=0.01)


def test_pictures_without_faces():
    image = photo(SIZE)
    assert faces.detect_faces(image).shape == (0, 4)
    edited = edits.apply(image, [draw("face_crop", 0)])
    assert edited.image.tobytes() == image.tobytes()
    assert (edited.homography == np.eye(3)).all()
    assert faces._face_of(image) == (40, 0, 280, 240)
    for size in ((1, 1), (20_000, 30), (7, 300)):
        assert faces.detect_faces(Image.new("RGB", size)).shape == (0, 4)


def test_face_paste_shows_the_donor_s_face():
    donor = Image.fromarray(data.astronaut())
    step = values("face_paste", count=1, size=0.4, opacity=1.0)
    edited = edits.apply(BLACK, [step], [donor])
    (box,) = edited.boxes
    x0, y0, x1, y1 = (round(value) for value in box.bounds)
    assert box.kind == "photo"
    side = 96 - 2 * 0.15 * 96 / 2  # the soft rim is half solid half way
    assert abs(x1 - x0 - side) <= 3
    middle = np.asarray(edited.image)[(y0 + y1) // 2, (x0 + x1) // 2].astype(int)
    face = faces.detect_faces(donor)[0]
    spot = np.asarray(donor)[round(face[1::2].mean()), round(face[::2].mean())].astype(int)
    assert np.abs(middle - spot).max() < 60


def test_groups_of_windows_do_not_depend_on_order():
    rng = np.random.default_rng(0)
    near = np.array([10.0, 10, 50, 50]) + rng.uniform(-2, 2, (5, 4))
    far = np.array([100.0, 100, 130, 130]) + rng.uniform(-1, 1, (3, 4))
    sizes = [len(g) for g in faces._groups(np.vstack([far, near]))]
    assert sizes == [5, 3]
    assert faces._groups(np.zeros((0, 4))) == []


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (20_000, 30), (30, 9_000)])
@pytest.mark.parametrize("name", ["emoji", "glyphs", "paste", "underlay"])
def test_canvas_units_are_safe_on_strips(name, size):
    narrowed = {"units": "canvas", "size": 1.0, "x": [0.0, 0.5]}
    operation = draw(name, 1, **narrowed)
    donors = [photo((20_000, 30)), photo((30, 5_000))]
    edited = edits.apply(Image.new("RGB", size), [operation], donors)
    assert np.isfinite(edited.homography).all()
