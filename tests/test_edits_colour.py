"""Colour and quality edits against slow, obvious versions of them."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, features

from iscutils import edits
from iscutils.edits import degrading, filters, photometric
from iscutils.files.artifacts import KitError

MODULES = (photometric.__name__, degrading.__name__, filters.__name__)
NAMES = [name for name, edit in edits.REGISTRY.items() if edit.function.__module__ in MODULES]
ADDED = [
    "brightness", "contrast", "saturation", "hue", "darken", "channel_invert", "autocontrast",
    "channel_gamma", "temperature", "sepia", "two_colour", "vignette", "box_blur", "median_blur",
    "defocus", "zoom_blur", "edge_enhance", "webp", "palette", "dither", "filter_app", "halftone",
    "print_scan", "scanlines", "edges", "cartoon", "oil", "mosaic_glass",
]  # fmt: skip


def photo(size=(160, 120), seed=0):
    """A colourful picture of (width, height) px with soft shapes, fine grain and all tones."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    soft = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(cv2.add(soft, rng.integers(0, 30, soft.shape, np.uint8)))


def ramp():
    """Gray 0..255 from left to right, 256 x 16 px."""
    return Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None], 16, 0)).convert("RGB")


def edit(image, operation, /, **values):
    return edits.apply(image, [(operation, values)]).image


def pixels(image):
    return np.asarray(image).astype(float)


def difference(image, other):
    return np.abs(pixels(image) - pixels(other))


def draw(name, seed, **ranges):
    return edits.draw_operation(name, np.random.default_rng(seed), **ranges)


def test_all_are_registered():
    assert set(ADDED) <= set(NAMES)


@pytest.mark.parametrize("name", ADDED)
def test_added_edits_change_a_picture_and_leave_geometry_alone(name):
    image = photo((200, 150))
    for seed in range(4):
        edited = edits.apply(image, [draw(name, seed)])
        assert difference(edited.image, image).mean() > 0.3
        assert edited.image.size == image.size
        assert (edited.homography == np.eye(3)).all()
        assert edited.visible == 1


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (20_000, 30), (30, 9_000)])
@pytest.mark.parametrize("name", NAMES)
def test_small_long_and_black_pictures_are_safe(name, size):
    for image in (photo(size), Image.new("RGB", size)):
        before = image.tobytes()
        operation = draw(name, 1)
        edited = edits.apply(image, [operation]).image
        assert edited.mode == "RGB"
        assert edited.size == size
        assert edited.tobytes() == edits.apply(image, [operation]).image.tobytes()
        assert image.tobytes() == before


def limits(parameter):
    if hasattr(parameter, "floor"):
        return [parameter.floor, parameter.ceiling]
    return [parameter.options[0], parameter.options[-1]]


@pytest.mark.parametrize("name", NAMES)
def test_the_hard_limits_are_safe(name):
    bounds = {key: limits(parameter) for key, parameter in edits.REGISTRY[name].parameters.items()}
    for size in ((1, 1), (61, 40)):
        for end in (0, 1):
            values = {key: pair[end] for key, pair in bounds.items()}
            assert edit(photo(size), name, **values).size == size


# Colour


@pytest.mark.parametrize("factor", [0.01, 0.4, 1.0, 1.7, 5.0])
@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_enhancements_are_those_of_pillow(name, enhance, factor):
    edited = edit(photo(), name, factor=factor)
    found = difference(edited, enhance(photo()).enhance(factor))
    # The gray that saturation starts from may differ by one level; the factor multiplies it.
    assert found.max() <= (1 + factor if name == "saturation" else 1)
    assert found.mean() < 0.6


def test_jitter_is_the_chain_of_its_parts():
    rng = np.random.default_rng(0)
    for seed in range(20):
        bright, contrast, colour = rng.uniform((0.05, 0.05, 0), (3, 3, 5))
        hue = rng.uniform(-0.5, 0.5)
        image = photo(seed=seed)
        expected = ImageEnhance.Brightness(image).enhance(bright)
        expected = ImageEnhance.Contrast(expected).enhance(contrast)
        expected = ImageEnhance.Color(expected).enhance(colour)
        values = {"brightness": bright, "contrast": contrast, "saturation": colour}
        found = difference(edit(image, "jitter", **values, hue=0.0), expected)
        assert found.max() <= 3 + colour * (1 + contrast)  # grays may differ by one level
        assert found.mean() < 1.5
        parts = [
            ("brightness", {"factor": bright}),
            ("contrast", {"factor": contrast}),
            ("saturation", {"factor": colour}),
            ("hue", {"turn": hue}),
        ]
        chain = edits.apply(image, parts).image
        # The mean gray of every second pixel stands for that of all: one level at times.
        assert difference(edit(image, "jitter", **values, hue=hue), chain).mean() < 2


def test_hue_turns_the_colour_circle():
    red = Image.new("RGB", (3, 2), (240, 20, 20))
    assert (
        difference(edit(red, "hue", turn=1 / 3), Image.new("RGB", (3, 2), (20, 240, 20))).max() < 6
    )
    assert edit(photo(), "hue", turn=0.5).tobytes() == edit(photo(), "hue", turn=-0.5).tobytes()
    back = edit(edit(photo(), "hue", turn=0.25), "hue", turn=-0.25)
    assert difference(back, photo()).mean() < 2
    gray = ramp()
    assert edit(gray, "hue", turn=0.2).tobytes() == gray.tobytes()


@pytest.mark.parametrize("channels", ["r", "g", "b", "rg", "rb", "gb"])
def test_channel_invert_is_exact(channels):
    expected = pixels(photo())
    for name in channels:
        index = "rgb".index(name)
        expected[..., index] = 255 - expected[..., index]
    assert (pixels(edit(photo(), "channel_invert", channels=channels)) == expected).all()


def test_powers_of_the_channels():
    exponents = [0.5, 2.0, 3.0]
    expected = 255 * (pixels(photo()) / 255) ** exponents
    edited = edit(photo(), "channel_gamma", red=0.5, green=2.0, blue=3.0)
    assert np.abs(pixels(edited) - expected).max() <= 0.5 + 1e-9
    alike = edit(photo(), "channel_gamma", red=0.5, green=0.5, blue=0.5)
    assert alike.tobytes() == edit(photo(), "gamma", exponent=0.5).tobytes()


def test_two_colours_span_a_line():
    dark, light = (10, 60, 120), (250, 200, 90)
    edited = pixels(edit(ramp(), "two_colour", dark=dark, light=light, strength=1.0))
    assert tuple(edited[0, 0]) == dark
    assert tuple(edited[0, 255]) == light
    share = np.arange(256)[:, None] / 255
    expected = np.array(dark) + share * (np.array(light) - dark)
    assert np.abs(edited[3] - expected).max() <= 0.5
    half = edit(photo(), "two_colour", dark=dark, light=light, strength=0.5)
    whole = edit(photo(), "two_colour", dark=dark, light=light, strength=1.0)
    assert np.abs(pixels(half) - (pixels(whole) + pixels(photo())) / 2).max() <= 0.5
    # Whatever pair is drawn, the picture can still be seen.
    for one in photometric.DARKS:
        for other in photometric.LIGHTS:
            luma = np.array([0.299, 0.587, 0.114])
            assert luma @ np.array(other) - luma @ np.array(one) > 100


def test_maps_follow_the_luminance():
    luminance = np.asarray(photo().convert("L"))
    expected = cv2.applyColorMap(luminance, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    assert (np.asarray(edit(photo(), "colour_map", name="viridis")) == expected).all()
    painted = np.asarray(edit(photo(), "duotone", dark=0.6, light=0.1))
    for value in np.unique(luminance)[::20]:  # one colour for each luminance
        assert len(np.unique(painted[luminance == value], axis=0)) == 1


def test_darken_and_temperature_multiply():
    expected = np.floor(pixels(photo()) * 0.1)
    assert np.abs(pixels(edit(photo(), "darken", factor=0.1)) - expected).max() <= 1
    warm = pixels(edit(photo(), "temperature", warmth=0.3))
    assert np.abs(warm - np.minimum(pixels(photo()) * [1.3, 1, 0.7], 255)).max() <= 1
    assert edit(photo(), "temperature", warmth=0.0).tobytes() == photo().tobytes()


def test_autocontrast_spreads_every_channel():
    flat = Image.fromarray((pixels(photo()) / 4 + [40, 90, 120]).astype(np.uint8))
    edited = pixels(edit(flat, "autocontrast", cutoff=0.0))
    assert (edited.min((0, 1)) == 0).all()
    assert (edited.max((0, 1)) >= 254).all()  # Pillow rounds down
    cut = pixels(edit(flat, "autocontrast", cutoff=8.0))
    assert ((cut == 0).mean((0, 1)) > 0.07).all()


def test_sepia_mixes_in_browns():
    r, g, b = pixels(photo()).transpose(2, 0, 1)
    brown = [(0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131)]
    full = np.stack([x * r + y * g + z * b for x, y, z in brown], -1)
    assert np.abs(pixels(edit(photo(), "sepia", strength=1.0)) - full.clip(0, 255)).max() <= 1
    assert edit(photo(), "sepia", strength=0.0).tobytes() == photo().tobytes()


def test_vignette_darkens_the_corners_only():
    white = Image.new("RGB", (200, 120), (255, 255, 255))
    edited = pixels(edit(white, "vignette", strength=0.8, radius=0.5))[..., 0]
    assert edited[0, 0] == pytest.approx(255 * 0.2, abs=5)
    y, x = np.mgrid[:120, :200]
    distance = np.hypot((x + 0.5) / 100 - 1, (y + 0.5) / 60 - 1) / np.sqrt(2)
    assert (edited[distance < 0.5] >= 254).all()
    assert (np.diff(edited[0, 100:]) <= 0).all()
    np.testing.assert_array_equal(edited, edited[::-1, ::-1])


@pytest.mark.parametrize("name", filters.LOOKS)
def test_looks_keep_the_picture_recognisable(name):
    edited = edit(photo(), "filter_app", name=name, strength=1.0)
    assert difference(edited, photo()).mean() > 5
    pairs = np.asarray(edited.convert("L")).ravel(), np.asarray(photo().convert("L")).ravel()
    assert np.corrcoef(pairs)[0, 1] > 0.75
    none = edit(photo(), "filter_app", name=name, strength=0.0)
    assert none.tobytes() == photo().tobytes()


def test_noir_has_no_colour():
    assert (
        np.ptp(np.asarray(edit(photo(), "filter_app", name="noir", strength=1.0)), axis=2).max()
        == 0
    )


# Quality


@pytest.mark.parametrize("sigma", [0.6, 2.0, 3.9, 4.1, 7.0, 10.0, 17.3])
def test_blur_has_the_standard_deviation_it_says(sigma):
    dot = np.zeros((201, 201), np.uint8)
    dot[80:121, 80:121] = 255  # a square of 41 px; its own variance is (41^2 - 1) / 12
    spread = degrading.smooth(dot, sigma).astype(float).sum(0)
    place = np.arange(201) - 100
    variance = (spread * place**2).sum() / spread.sum() - (41**2 - 1) / 12
    assert variance == pytest.approx(sigma**2, rel=0.05, abs=0.1)
    assert spread @ place == pytest.approx(0, abs=spread.sum() * 0.01)


def test_blur_is_close_to_a_gaussian():
    image = photo((200, 160))
    for radius in (0.01, 0.03, 0.06):
        exact = cv2.GaussianBlur(np.asarray(image), (0, 0), radius * 160)
        assert np.abs(pixels(edit(image, "blur", radius=radius)) - exact).mean() < 1
    assert edit(image, "blur", radius=0.0).tobytes() == image.tobytes()


def test_box_and_median_of_squares():
    image, inside = photo((120, 100)), np.s_[10:-10, 10:-10]
    expected = image.filter(ImageFilter.BoxBlur(3))
    assert difference(edit(image, "box_blur", radius=0.03), expected)[inside].max() <= 1
    expected = image.filter(ImageFilter.MedianFilter(5))
    assert difference(edit(image, "median_blur", size=0.05), expected)[inside].max() == 0
    # Large windows work at half the resolution.
    smooth = image.filter(ImageFilter.MedianFilter(9))
    assert difference(edit(image, "median_blur", size=0.09), smooth)[inside].mean() < 4
    assert difference(image, smooth)[inside].mean() > 6


@pytest.mark.parametrize("radius", [3.0, 12.0])
def test_defocus_spreads_a_dot_into_a_disc(radius):
    dot = np.zeros((200, 200, 3), np.uint8)
    dot[98:102, 98:102] = 255
    disc = pixels(edit(Image.fromarray(dot), "defocus", radius=radius / 200))[..., 0]
    assert disc.sum() == pytest.approx(16 * 255, rel=0.25)  # 8-bit values are rounded
    rows, columns = np.nonzero(disc > disc.max() / 2)
    assert abs(rows.mean() - 99.5) < 0.5
    assert abs(columns.mean() - 99.5) < 0.5
    area = (disc > disc.max() / 2).sum()
    assert np.sqrt(area / np.pi) == pytest.approx(radius, abs=2)


def test_motion_blur_is_a_mean_along_the_line():
    column = np.zeros((80, 120, 3), np.uint8)
    column[:, 60:] = 255  # an edge: across it the smear is a ramp, along it nothing happens
    edge = Image.fromarray(column)
    across = pixels(edit(edge, "motion_blur", length=0.2, angle=0.0))[40, :, 0]
    ideal = np.clip((np.arange(120) + 0.5 - 60) / 16 + 0.5, 0, 1) * 255
    assert np.abs(across - ideal).max() < 16
    along = edit(edge, "motion_blur", length=0.2, angle=90.0)
    assert difference(along, edge).max() <= 1
    turned = pixels(edit(edge, "motion_blur", length=0.2, angle=60.0))[40, :, 0]
    narrow = np.clip((np.arange(120) + 0.5 - 60) / 8 + 0.5, 0, 1) * 255
    assert np.abs(turned - narrow).max() < 24
    # 45 degrees runs from the bottom left to the top right.
    dot = np.zeros((81, 81, 3), np.uint8)
    dot[39:42, 39:42] = 255
    rows, columns = np.nonzero(
        pixels(edit(Image.fromarray(dot), "motion_blur", length=0.2, angle=45.0))[..., 0] > 20
    )
    assert np.corrcoef(rows, columns)[0, 1] < -0.8


def test_zoom_blur_grows_outwards_and_stays_in_place():
    image = photo((200, 200))
    step = np.zeros((200, 200, 3), np.uint8)
    step[:, 180:] = 255  # 80 px right of the centre, smeared over 0.1 x 80 px
    edited = pixels(edit(Image.fromarray(step), "zoom_blur", strength=0.1))[100, :, 0]
    assert (edited[:174] == 0).all()
    assert (edited[187:] == 255).all()
    assert edited.sum() / 255 == pytest.approx(20, abs=1)
    changed = difference(edit(image, "zoom_blur", strength=0.4), image).mean(-1)
    assert changed[95:105, 95:105].mean() < 0.7 * changed[:30].mean()


@pytest.mark.parametrize(
    ("strength", "kernel"),
    [("normal", ImageFilter.EDGE_ENHANCE), ("more", ImageFilter.EDGE_ENHANCE_MORE)],
)
def test_edge_enhance_is_that_of_pillow(strength, kernel):
    edited = difference(edit(photo(), "edge_enhance", strength=strength), photo().filter(kernel))
    assert edited[1:-1, 1:-1].max() <= 1


def test_jpeg_and_webp_lose_more_at_lower_quality():
    buffer = io.BytesIO()
    photo().save(buffer, "JPEG", quality=1)
    lowest = edit(photo(), "jpeg", quality=0)
    assert lowest.tobytes() == Image.open(buffer).convert("RGB").tobytes()
    for name in ("jpeg", "webp"):
        errors = [difference(edit(photo(), name, quality=q), photo()).mean() for q in (1, 20, 90)]
        assert errors[0] > errors[1] > errors[2] > 0
    long = photo((40, 17_000))  # beyond what a WebP file can hold
    assert features.check("webp")
    assert difference(edit(long, "webp", quality=90), long).mean() < 8


@pytest.mark.parametrize("value", [60, 128, 180])
def test_noise_has_the_spread_it_says(value):
    plain, amount = Image.new("RGB", (300, 300), (value,) * 3), 0.1
    spread = {"gaussian": 1, "speckle": value / 255, "poisson": np.sqrt(value / 255)}
    for kind, expected in spread.items():
        edited = pixels(edit(plain, "noise", amount=amount, kind=kind, seed=3))
        assert edited.mean() == pytest.approx(value, abs=0.5)
        assert edited.std() == pytest.approx(255 * amount * expected, rel=0.03)
    dots = pixels(edit(plain, "noise", amount=0.6, kind="salt_pepper", seed=3))[..., 0]
    assert (dots == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert (dots == 255).mean() == pytest.approx(0.3, abs=0.01)
    assert ((dots == value) | (dots == 0) | (dots == 255)).all()


def test_noise_keeps_black_where_it_follows_the_light():
    black = Image.new("RGB", (40, 30))
    for kind in ("speckle", "poisson"):
        assert not np.asarray(edit(black, "noise", amount=0.3, kind=kind, seed=1)).any()


@pytest.mark.parametrize("colours", [2, 4, 16, 32])
def test_palette_has_few_colours_near_the_picture(colours):
    image = photo((300, 200))
    edited = edit(image, "palette", colours=colours)
    assert 2 <= len(np.unique(np.asarray(edited).reshape(-1, 3), axis=0)) <= colours
    best = image.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    ideal = difference(best.convert("RGB"), image).mean()
    assert difference(edited, image).mean() < 1.3 * ideal + 2


@pytest.mark.parametrize("levels", [2, 3, 4, 7])
def test_dither_has_few_levels_and_the_right_mean(levels):
    edited = np.asarray(edit(photo(), "dither", levels=levels))
    steps = np.rint(np.linspace(0, 255, levels))
    assert set(np.unique(edited)) <= set(steps)
    means = [
        pixels(edit(Image.new("RGB", (64, 64), (v,) * 3), "dither", levels=levels)).mean()
        for v in range(0, 256, 15)
    ]
    assert np.abs(np.array(means) - np.arange(0, 256, 15)).max() < 3
    if 255 % (levels - 1) == 0:  # whole levels stay as they are
        exact = Image.fromarray(np.resize(steps, (8, 8)).astype(np.uint8)).convert("RGB")
        assert edit(exact, "dither", levels=levels).tobytes() == exact.tobytes()


def test_bayer_blocks_fill_up_evenly():
    assert sorted(degrading.BAYER.ravel()) == list(range(64))
    for count in (1, 4, 16):  # the first dots lie as far apart as they can
        early = count > degrading.BAYER
        rows, columns = np.nonzero(early)
        step = 8 // int(np.sqrt(count))
        assert set(zip(rows % step, columns % step, strict=True)) == {
            (rows[0] % step, columns[0] % step)
        }


def test_pixelate_into_many_cells():
    assert edit(photo(), "pixelate", cells=1024).tobytes() == photo().tobytes()


# Apps, screens and printers


@pytest.mark.parametrize("ink", ["black", "colour"])
def test_halftone_keeps_the_tone(ink):
    values = np.arange(0, 256, 17)
    shown = []
    for value in values:
        plain = Image.new("RGB", (240, 240), (int(value),) * 3)
        dots = pixels(edit(plain, "halftone", cells=24, angle=30.0, ink=ink))
        shown.append(dots.mean())
        assert ((dots < 20) | (dots > 235)).mean() > 0.5  # dots, not gray
    assert np.abs(np.array(shown) - values).max() < 8
    black = edit(photo(), "halftone", cells=40, angle=30.0, ink="black")
    assert np.ptp(np.asarray(black), axis=2).max() == 0


def test_screens_have_their_period_and_angle():
    wave = filters._screen((50, 70), 9.0, 25.0)
    y, x = np.mgrid[:50, :70]
    turn, step = np.deg2rad(25), 2 * np.pi / 9
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    np.testing.assert_allclose(wave, (np.cos(step * u) + np.cos(step * v)) / 2, atol=1e-4)


def test_print_scan_has_the_colour_of_the_paper_and_pale_ink():
    values = {"dots": 100, "paper": [240, 220, 180], "ink": 0.2, "blur": 0.002, "seed": 1}
    white = pixels(edit(Image.new("RGB", (300, 300), (255,) * 3), "print_scan", **values))
    black = pixels(edit(Image.new("RGB", (300, 300)), "print_scan", **values))
    np.testing.assert_allclose(white.mean((0, 1)), (240, 220, 180), atol=2)
    np.testing.assert_allclose(black.mean((0, 1)), (48, 44, 36), atol=2)
    edited = edit(photo((300, 240)), "print_scan", **values).convert("L")
    before = photo((300, 240)).convert("L")
    assert np.corrcoef(pixels(edited).ravel(), pixels(before).ravel())[0, 1] > 0.8


def test_scanlines_darken_half_of_the_rows():
    white = Image.new("RGB", (60, 100), (200, 200, 200))
    rows = pixels(edit(white, "scanlines", period=0.1, strength=0.4))[..., 0]
    period = np.arange(100) % 6
    assert (rows[period < 3] == 200).all()
    assert (rows[period >= 3] == 120).all()


def test_edges_leave_only_outlines():
    half = np.zeros((80, 100, 3), np.uint8)
    half[:, 50:] = 200
    for kind, ground in (("outline", 255), ("sketch", 255), ("emboss", 128)):
        edited = pixels(edit(Image.fromarray(half), "edges", kind=kind, width=0.005))[..., 0]
        away = np.abs(np.arange(100) - 49.5) > 15
        flat = edited[:, away] if kind != "sketch" else edited[:, 70:]  # black stays black ink
        assert (flat == ground).all()
        assert np.abs(edited[:, 45:55] - ground).max() > 60


def test_cartoon_is_flat_inside_and_keeps_its_place():
    soft = cv2.resize(np.asarray(photo((12, 9))), (320, 240), interpolation=cv2.INTER_CUBIC)
    edited = edit(Image.fromarray(soft), "cartoon", levels=4, lines=0.0)
    flat = np.abs(np.diff(pixels(edited.convert("L")), axis=1)) < 1.5
    before = np.abs(np.diff(pixels(Image.fromarray(soft).convert("L")), axis=1)) < 1.5
    assert flat.mean() > before.mean() + 0.1
    pairs = [np.asarray(p.convert("L")).ravel() for p in (edited, Image.fromarray(soft))]
    assert np.corrcoef(pairs)[0, 1] > 0.8
    lined = edit(Image.fromarray(soft), "cartoon", levels=4, lines=1.0)
    assert pixels(lined).mean() <= pixels(edited).mean()


def test_oil_takes_the_calmest_square():
    # Slow version: four squares of side + 1 px with a corner at the pixel.
    image = photo((40, 30))
    colour, gray = pixels(image), pixels(image.convert("L"))
    edited = pixels(edit(image, "oil", radius=0.05))  # 1.5 px: squares of 3 x 3
    agreed = 0
    for y in range(5, 25):
        for x in range(5, 35):
            squares = [
                np.s_[y + v : y + v + 3, x + u : x + u + 3] for v in (-2, 0) for u in (-2, 0)
            ]
            best = min(squares, key=lambda square: gray[square].var())
            agreed += np.abs(colour[best].mean((0, 1)) - edited[y, x]).max() <= 1
    assert agreed >= 0.97 * 20 * 30  # ties of the spread may go either way


def test_stained_glass_has_cells_of_the_mean_colour():
    image = photo((200, 150))
    edited = pixels(edit(image, "mosaic_glass", cells=10, seed=5))
    other = pixels(edit(image, "mosaic_glass", cells=10, seed=6))
    assert (edited != other).mean() > 0.5
    glass = edited.max(-1) > 0
    colours = np.unique(edited[glass].reshape(-1, 3), axis=0)
    assert len(colours) < 800
    coarse = [
        cv2.resize(p, (13, 10), interpolation=cv2.INTER_AREA) for p in (edited, pixels(image))
    ]
    assert np.corrcoef(coarse[0].ravel(), coarse[1].ravel())[0, 1] > 0.8
    plain = Image.new("RGB", (90, 90), (100, 150, 200))
    shown = pixels(edit(plain, "mosaic_glass", cells=6, seed=1))
    panes = shown[shown[..., 2] > 100] / (100, 150, 200)
    assert panes.min() > 0.86
    assert panes.max() < 1.13


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("dither", {"levels": 1}, "2 to 32"),
        ("channel_invert", {"channels": "bgr"}, "r, g, b, rg"),
        ("jpeg", {"quality": -1}, "0 to 100"),
        ("noise", {"amount": 0.8, "kind": "speckle", "seed": 1}, "0 to 0.75"),
        ("filter_app", {"name": "hot", "strength": 1.0}, "warm, cold"),
        ("brightness", {"factor": 6.0}, "0.01 to 5"),
    ],
)
def test_wrong_strengths_are_named(name, values, message):
    with pytest.raises(KitError, match=message):
        edits.apply(photo(), [(name, values)])
