"""Pages, letters and screens that look alike: drawn sets, their evidence, and their scores."""

import csv
from itertools import combinations

import numpy as np
import pytest
from folder_content import content
from PIL import Image
from skimage import data

from iscutils.edits import lookalike_sets, lookalikes, lookalikes_shown
from iscutils.edits.lookalike_sets import COPIES, FAMILIES, HELD_BACK, draw_lookalikes, photographed
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.local.agreement import CONTRARY, TEXTURED, contradiction, overlay
from iscutils.local.config import local_config
from iscutils.local.evidence import NAMES
from iscutils.local.fit import lookalike_pairs
from iscutils.local.geometry import near_pairs
from iscutils.local.matching import match_pair
from iscutils.local.sift import extract_image

KIT = local_config()
SHOWN = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in ("coffee", "chelsea")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        Image.fromarray(getattr(data, name)()).resize((200, 160)).save(folder / f"{name}.png")
    return open_folder(folder)


def score(query, reference):
    return match_pair(extract_image(query, KIT), extract_image(reference, KIT), KIT).score


def two_of(family, design=1):
    """Two pictures of one design with different texts and photographs."""
    rng = np.random.default_rng(design)
    draw = FAMILIES[family](rng)
    return [draw(rng, photo).copy() for photo in SHOWN]


def test_points_near_each_other_against_a_loop():
    rng = np.random.default_rng(0)
    for first, second in ((50, 70), (0, 5), (5, 0), (1, 1)):
        a, b = rng.uniform(0, 40, (first, 2)), rng.uniform(0, 40, (second, 2))
        rows, columns = near_pairs(a, b, 5.0)
        slow = {
            (i, j)
            for i in range(first)
            for j in range(second)
            if (a[i, 0] - b[j, 0]) ** 2 + (a[i, 1] - b[j, 1]) ** 2 < 25
        }
        assert sorted(slow) == sorted(zip(rows.tolist(), columns.tolist(), strict=True))
        assert (np.diff(rows) >= 0).all()


def test_contradiction_against_a_loop():
    rng = np.random.default_rng(1)
    one, two = (rng.integers(0, 255, (24, 32)).astype(np.uint8) for _ in range(2))
    two[:, :12] = one[:, :12]  # the left part agrees
    two[:, 24:] = 90  # the right part shows nothing
    seen = overlay(two, one, np.eye(3), 32)
    query, reference = (np.pad(p, 4, "symmetric") for p in (seen.query, seen.reference))
    against = textured = alone = either = 0
    for y in range(24):
        for x in range(32):
            a, b = (p[y : y + 9, x : x + 9].astype(float) for p in (query, reference))
            correlation = np.mean((a - a.mean()) * (b - b.mean()))
            correlation /= np.sqrt((a.var() + 4) * (b.var() + 4))
            textured += b.std() > TEXTURED
            alone += (a.std() > TEXTURED) != (b.std() > TEXTURED)
            either += a.std() > TEXTURED or b.std() > TEXTURED
            against += b.std() > TEXTURED and a.std() > TEXTURED and correlation < CONTRARY
    found = contradiction(seen)
    assert found == pytest.approx((against / (textured + 20), alone / (either + 20)), abs=0.004)
    assert 0.3 < found[0] < 0.6
    assert 0.1 < found[1] < 0.3
    assert contradiction(overlay(one, one, np.eye(3))) == (0, 0)
    nothing, everything = contradiction(overlay(np.full_like(one, 90), one, np.eye(3)))
    assert nothing == 0
    assert everything > 0.9


@pytest.mark.parametrize("family", ["pages", "letters", "screens"])
def test_look_alikes_are_no_copies(family):
    """These scored .9 and more by agreeing letters, and by agreeing frames."""
    one, two = two_of(family)
    assert score(one, two) < 0.5
    seen = photographed(one, np.random.default_rng(3))
    assert score(seen, one) > 0.5
    assert score(seen, two) < 0.5


def test_a_page_with_a_sentence_more_is_a_copy_and_a_framed_photograph_too():
    page, _ = two_of("pages")
    assert score(lookalike_sets.marked(page, np.random.default_rng(0)), page) > 0.5
    screen, other = two_of("screens")
    assert score(SHOWN[0], screen) > 0.5
    assert score(SHOWN[0], other) < 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_families_draw_one_design_with_other_contents(family):
    one, two = (np.asarray(picture).astype(int) for picture in two_of(family, design=4))
    assert one.shape == two.shape
    changed = (np.abs(one - two).max(axis=2) > 30).mean()
    assert 0.005 < changed < 0.9
    again, _ = two_of(family, design=4)
    np.testing.assert_array_equal(again, one)


@pytest.mark.parametrize("edit", COPIES[1:])
def test_copies_are_edited(edit):
    page, _ = two_of("letters")
    before = np.asarray(page).copy()
    edited = edit(page, np.random.default_rng(0))
    assert edited.size != page.size or (np.asarray(edited) != before).any()
    np.testing.assert_array_equal(np.asarray(page), before)


def test_a_folder_of_look_alikes(photos, tmp_path):
    settings = {"families": ["letters", "screens"], "designs": 1, "each": 2, "seed": 3}
    with open_executor("serial") as executor:
        out = draw_lookalikes(photos, tmp_path / "a", executor, **settings)
        values, labels = lookalike_pairs(out, KIT, executor)
    with open_executor("processes", 2) as executor:
        again = draw_lookalikes(photos, tmp_path / "b", executor, **settings)
    assert content(out) == content(again)
    with open(out / "true.csv", newline="") as file:
        truth = list(csv.DictReader(file))
    assert len(truth) == 2 * 2 + 2 * 3  # a framed photograph has a copy without the frame
    assert all((out / row["query"]).exists() and (out / row["reference"]).exists() for row in truth)
    assert labels.sum() == len(truth)
    assert len(labels) == 2 * len(truth) + sum(1 for _ in combinations(range(2), 2)) * 2
    assert values.shape == (len(labels), 4, len(NAMES))
    unique = np.nan_to_num(values[..., NAMES.index("unique_share")]).max(axis=1)
    assert np.median(unique[labels]) > 0.8 > 0.5 > np.median(unique[~labels])


def test_families_are_held_back():
    assert set(HELD_BACK) < set(FAMILIES)
    assert {lookalikes.receipts, lookalikes_shown.charts} <= {FAMILIES[name] for name in HELD_BACK}
