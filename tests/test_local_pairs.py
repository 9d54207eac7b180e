"""Pair score, geometry and pixel agreement, against slow versions and known maps."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from iscutils.edits import apply
from iscutils.files.artifacts import KitError
from iscutils.local.agreement import agreement, align, local_correlation, overlay
from iscutils.local.config import local_config
from iscutils.local.evidence import NAMES, pair_evidence
from iscutils.local.geometry import (
    corners,
    covered_part,
    fit_affine,
    is_plausible,
    jacobian,
    magsac,
    match_poses,
    project,
    propose_poses,
    ransac,
)
from iscutils.local.matching import match_pair
from iscutils.local.pair_score import (
    match_descriptors,
    one_to_one,
    ratio_test,
    squared_distances,
    tie_broken,
)
from iscutils.local.sift import ImageFeatures, extract_image, negative_descriptors

IMGFP, KIT = local_config("imgfp"), local_config()
AFFINE = local_config("imgfp", geometry="affine", tie_break=True)


def photo(name):
    return Image.fromarray(getattr(data, name)()).convert("RGB")


def features_of(points, descriptors, size=(300, 300)):
    keypoints = np.column_stack([points, np.full(len(points), 4.0), np.zeros(len(points))])
    return ImageFeatures(
        keypoints.astype(np.float32), np.asarray(descriptors, np.uint8),
        np.ones(len(points), np.float32), size,
    )  # fmt: skip


def test_squared_distances_are_exact():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (n, 128)).astype(np.uint8) for n in (7, 9))
    slow = [[((x.astype(int) - y.astype(int)) ** 2).sum() for y in b] for x in a]
    np.testing.assert_array_equal(squared_distances(a, b), slow)


def test_ratio_test():
    distances = np.array([[1000, 1800], [1801, 1000], [0, 0], [5, 3]], np.float32)
    rows, best = ratio_test(distances, 1.8)
    assert rows.tolist() == [1]
    assert best.tolist() == [1]
    assert not len(ratio_test(distances[:, :1])[0])


def test_each_place_counts_once():
    far = np.array([[50.0, 50.0], [90.0, 90.0]])
    close = np.array([[10.2, 5.1], [9.8, 4.9]])
    assert one_to_one(far, close, np.array([1.0, 2.0])).tolist() == [0]
    assert one_to_one(close, far, np.array([2.0, 1.0])).tolist() == [1]
    a, b, x, y = [1, 1], [30, 1], [1, 60], [30, 60]
    chain = one_to_one(np.array([a, a, b]), np.array([x, y, y]), np.array([1.0, 2.0, 3.0]))
    assert chain.tolist() == [0, 2]
    half = one_to_one(np.array([[0.5, 0], [1.5, 0]]), far, np.array([1.0, 2.0]))
    assert half.tolist() == [0, 1]  # half to even: 0 and 2


def test_pair_score_against_a_loop():
    rng = np.random.default_rng(5)
    points = rng.uniform(0, 40, (30, 2))
    descriptors = rng.integers(0, 90, (30, 128))
    query = features_of(points, descriptors)
    noisy = np.clip(descriptors[5:] + rng.normal(0, 9, (25, 128)), 0, 255)
    reference = features_of(rng.uniform(0, 40, (25, 2)), noisy)
    found = []
    for r in range(25):
        one = reference.descriptors[r].astype(int)
        order = sorted((((d.astype(int) - one) ** 2).sum(), q) for q, d in
                       enumerate(query.descriptors))  # fmt: skip
        if 1.8 * order[0][0] < order[1][0]:
            found.append((order[0][0], r, order[0][1]))
    taken, count = set(), 0
    for _, r, q in sorted(found):
        places = {
            ("q", *np.rint(query.keypoints[q, :2])),
            ("r", *np.rint(reference.keypoints[r, :2])),
        }
        if not places & taken:
            taken |= places
            count += 1
    assert len(match_descriptors(query, reference, IMGFP, False)) == count > 15


def test_too_few_points_score_0():
    none, one = (
        features_of(np.zeros((0, 2)), np.zeros((0, 128))),
        features_of([[1, 1]], [[9] * 128]),
    )
    many = extract_image(photo("coffee"), IMGFP)
    for query, reference in ((none, many), (one, many), (many, none), (none, none)):
        for config in (IMGFP, AFFINE):
            pair = match_pair(query, reference, config)
            assert 0 <= -pair.score <= 1 if config.tie_break else pair.score == 0


def test_scores_of_equal_mirrored_and_unrelated_photos():
    coffee = photo("coffee")
    mirrored = coffee.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, two, three = (extract_image(i, IMGFP) for i in (coffee, mirrored, photo("astronaut")))
    same = match_pair(one, one, IMGFP)
    assert same.score >= 0.65 * len(one)
    assert not same.mirrored
    turned = match_pair(two, one, IMGFP)
    assert turned.score >= 0.45 * len(one)
    assert turned.mirrored
    assert len(match_descriptors(two, one, IMGFP, False)) < 0.1 * len(one)
    assert match_pair(three, one, IMGFP).score < 10


def test_ties_are_broken_without_changing_the_order():
    worst = 260_100.0
    assert tie_broken(5, worst) >= tie_broken(4, 0.0)
    assert tie_broken(5, 900.0) > tie_broken(5, 901.0)
    assert tie_broken(0, worst) == -1


TRUE_MAPS = {
    "similarity": [[0.8, -0.3, 40], [0.3, 0.8, -12], [0, 0, 1]],
    "affine": [[0.8, -0.4, 40], [0.1, 1.3, -12], [0, 0, 1]],
    "homography": [[0.8, -0.4, 40], [0.1, 1.3, -12], [4e-4, -3e-4, 1]],
}


@pytest.mark.parametrize(
    ("estimate", "model"),
    [(ransac, name) for name in TRUE_MAPS] + [(magsac, "affine"), (magsac, "homography")],
)
def test_ransac_finds_the_map_among_outliers(estimate, model):
    rng = np.random.default_rng(2)
    truth = np.array(TRUE_MAPS[model])
    source = rng.uniform(0, 300, (60, 2))
    target = project(truth, source) + rng.normal(0, 0.3, (60, 2))
    target[:24] = rng.uniform(0, 300, (24, 2))
    first = estimate(source, target, model, seed=1)
    assert first.inliers[24:].sum() >= 34
    assert first.inliers[:24].sum() <= 2
    np.testing.assert_allclose(project(first.matrix, corners((300, 300))),
                               project(truth, corners((300, 300))), atol=12)  # fmt: skip
    again = estimate(source, target, model, seed=1)
    np.testing.assert_array_equal(first.matrix, again.matrix)
    np.testing.assert_array_equal(first.inliers, again.inliers)


def test_ransac_of_few_or_equal_points():
    points = np.random.default_rng(0).uniform(0, 9, (3, 2))
    assert ransac(points, points, "affine") is None
    four = np.array([[0, 0], [90, 5], [80, 70], [3, 60.0]])
    for model in TRUE_MAPS:
        target = project(np.array(TRUE_MAPS[model]), four)
        assert ransac(four, target, model, iterations=50).count == 4
    equal = np.ones((6, 2))
    assert ransac(equal, equal, "homography") is None
    for model in ("affine", "homography"):
        assert magsac(points, points, model) is None
        assert magsac(four, project(np.array(TRUE_MAPS[model]), four), model).count == 4
        found = magsac(equal, equal, model)
        assert found is None or np.isfinite(found.matrix).all()


def test_covered_part_of_a_query():
    shift = np.array([[1.0, 0, 50], [0, 1, 0], [0, 0, 1]])
    assert covered_part(np.eye(3), (300, 200), (300, 200)) == 1
    assert covered_part(shift, (100, 200), (200, 200)) == pytest.approx(0.5, abs=0.02)
    assert covered_part(shift, (500, 300), (200, 200)) == pytest.approx(0.75, abs=0.02)
    mirrored = np.array([[-1.0, 0, 100], [0, 1, 0], [0, 0, 1]])
    assert covered_part(mirrored, (100, 50), (100, 100)) == pytest.approx(0.5, abs=0.02)
    torn = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]])  # the horizon lies in the picture
    assert covered_part(torn, (200, 200), (200, 200)) == 0


@pytest.mark.parametrize("estimator", ["ransac", "magsac"])
def test_inliers_and_coverage_of_a_cropped_copy(estimator):
    whole = photo("coffee").resize((320, 220))
    query, reference = (
        extract_image(image, IMGFP) for image in (whole.crop((40, 30, 240, 190)), whole)
    )
    config = local_config("imgfp", geometry="affine", estimator=estimator)
    pair, back = match_pair(query, reference, config), match_pair(reference, query, config)
    assert pair.score == pair.inliers.sum() > 0.8 * pair.matches > 30
    assert pair.coverage == pytest.approx(1, abs=0.03)
    assert back.coverage == pytest.approx(200 * 160 / (320 * 220), abs=0.03)
    with pytest.raises(KitError, match="knows no similarities"):
        local_config("imgfp", geometry="similarity", estimator="magsac")


def test_jacobian_against_differences():
    matrix, point = np.array(TRUE_MAPS["homography"]), np.array([120.0, 80.0])
    steps = project(matrix, point + np.eye(2) * 1e-4) - project(matrix, point[None])
    np.testing.assert_allclose(jacobian(matrix, point), steps.T / 1e-4, rtol=1e-3)


def test_plausible_maps():
    assert is_plausible(np.array(TRUE_MAPS["homography"]), (300, 200), False)
    assert not is_plausible(np.array(TRUE_MAPS["homography"]), (300, 200), True)
    assert is_plausible(np.diag([-1.0, 1, 1]), (300, 200), True)
    assert is_plausible(np.diag([-1.0, -1, -1]), (300, 200), False)  # the identity
    assert not is_plausible(np.diag([5.0, 1, 1]), (300, 200), False)
    assert not is_plausible(np.diag([0.01, 0.01, 1]), (300, 200), False)
    assert not is_plausible(np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]]), (300, 200), False)
    assert not is_plausible(np.full((3, 3), np.nan), (300, 200), False)


@pytest.mark.parametrize("mirrored", [False, True])
def test_one_match_proposes_the_pose(mirrored):
    image = photo("coffee").resize((400, 300))
    turned = image.rotate(90, expand=True)
    if mirrored:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, two = extract_image(turned, IMGFP), extract_image(image, IMGFP)
    matches = match_descriptors(one, two, IMGFP, mirrored)
    query, reference = one.keypoints[matches.query] + 0.0, two.keypoints[matches.reference] + 0.0
    poses = match_poses(query, reference, mirrored)
    placed = np.einsum("nij,nj->ni", poses[:, :2, :2], reference[:, :2]) + poses[:, :2, 2]
    np.testing.assert_allclose(placed, query[:, :2], atol=1e-3)
    # A quarter turn to the left: x becomes y upside down; then the mirror.
    truth = np.array([[0, -1], [-1, 0]] if mirrored else [[0, 1], [-1, 0]], float)
    error = np.abs(poses[:, :2, :2] - truth).max(axis=(1, 2))
    assert np.median(error) < 0.1
    best = propose_poses(query, reference, (399, 299), mirrored)[0]
    np.testing.assert_allclose(best.matrix[:2, :2], truth, atol=0.02)
    assert best.count > 0.9 * len(matches)


def test_fit_affine():
    source = np.random.default_rng(0).uniform(0, 9, (20, 2))
    matrix = np.array(TRUE_MAPS["affine"])
    np.testing.assert_allclose(fit_affine(source, project(matrix, source)), matrix, atol=1e-9)


def test_local_correlation_against_a_loop():
    rng = np.random.default_rng(0)
    first, second = (rng.uniform(0, 255, (20, 24)).astype(np.float32) for _ in range(2))
    mask = np.ones((20, 24), np.float32)
    mask[:, :7] = 0
    found, texture, valid = local_correlation(first, second, mask, 5)
    for y in range(2, 18):
        for x in range(2, 22):
            inside = mask[y - 2 : y + 3, x - 2 : x + 3] > 0
            a = first[y - 2 : y + 3, x - 2 : x + 3][inside].astype(float)
            b = second[y - 2 : y + 3, x - 2 : x + 3][inside].astype(float)
            if mask[y, x] and inside.mean() > 0.3:
                assert valid[y, x]
                slow = np.mean((a - a.mean()) * (b - b.mean()))
                slow /= np.sqrt((a.var() + 4) * (b.var() + 4))
                assert abs(found[y, x] - slow) < 1e-3
                assert abs(texture[y, x] - b.std()) < 0.05
    assert not valid[:, :7].any()


def test_agreement_of_equal_and_different_pictures():
    one, two = (np.asarray(photo(n).convert("L").resize((192, 140))) for n in ("coffee", "rocket"))
    same, other = (agreement(overlay(one, x, np.eye(3))) for x in (one, two))
    assert (same[:, 0] > 0.9).all()
    assert (other[:, 0] < 0.3).all()
    darker = agreement(overlay((one * 0.4 + 20).astype(np.uint8), one, np.eye(3)))
    assert (darker[:, 0] > 0.8).all()
    away = np.array([[1, 0, 500], [0, 1, 0], [0, 0, 1.0]])
    assert overlay(one, one, away) is None
    half = overlay(one, one, np.array([[1, 0, 96], [0, 1, 0], [0, 0, 1.0]]))
    assert abs(half.coverage - 0.5) < 0.02
    assert abs(half.visible - 0.5) < 0.02


def test_alignment_corrects_a_small_error():
    one = np.asarray(photo("coffee").convert("L").resize((192, 140)))
    wrong = np.array([[1.04, 0.02, 4], [-0.02, 0.97, -3], [0, 0, 1.0]])
    corrected = align(one, one, wrong)
    before, after = (
        np.abs(project(m, corners((192, 140))) - corners((192, 140))).max()
        for m in (wrong, corrected)
    )
    assert before > 6
    assert after < 1.5
    flat = np.full((140, 192), 7, np.uint8)
    np.testing.assert_array_equal(align(flat, one, wrong), wrong)


def test_descriptors_of_the_negative():
    image = photo("coffee")
    one = extract_image(image, IMGFP)
    negative = extract_image(Image.eval(image, lambda v: 255 - v), IMGFP)
    matches = match_descriptors(negative, one, IMGFP, mirrored=False, negative=True)
    assert len(matches) > 0.6 * len(one)
    turned = np.abs(
        (negative.keypoints[matches.query, 3] - one.keypoints[matches.reference, 3]) % 360 - 180
    )
    assert np.median(turned) < 2
    assert len(match_descriptors(negative, one, IMGFP, False)) < 0.1 * len(one)
    assert np.array_equal(
        negative_descriptors(negative_descriptors(one.descriptors)), one.descriptors
    )


EDITS = {
    "crop": [("crop", {"area": 0.5})],
    "perspective": [("perspective", {"strength": 0.15})],
    "aspect": [("aspect", {"factor": 1.6})],
    "rotate": [("rotate", {"degrees": 33.0})],
    "mirror": [("hflip", {}), ("rot90", {})],
    "negative": [("invert", {})],
}


@pytest.mark.parametrize("name", EDITS)
def test_recovered_homography_of_an_edit(name):
    from iscutils.edits import draw_operation

    rng = np.random.default_rng(7)
    operations = [draw_operation(edit, rng, **{k: (v, v) if isinstance(v, float) else v
                                               for k, v in values.items()})
                  for edit, values in EDITS[name]]  # fmt: skip
    image = photo("astronaut").resize((420, 380))
    edited = apply(image, operations)
    query, reference = extract_image(edited.image, KIT), extract_image(image, KIT)
    pair = match_pair(query, reference, KIT)
    centre = corners(image.size) * 0.5 + np.array(image.size) * 0.25
    placed, truth = project(pair.homography, centre), project(edited.homography, centre)
    assert np.abs(placed - truth).max() < 4
    assert pair.agreement > 0.6
    assert pair.mirrored == (np.linalg.det(edited.homography[:2, :2]) < 0)
    assert pair.inliers.sum() > 30
    errors = np.linalg.norm(
        project(edited.homography, pair.reference_points) - pair.query_points, axis=1
    )
    assert np.mean(errors[pair.inliers] < 6) > 0.9
    wrong = match_pair(extract_image(photo("chelsea"), KIT), reference, KIT)
    assert pair.score > 0.9 > 0.1 > wrong.score


def test_evidence_has_one_value_per_name():
    one = extract_image(photo("coffee"), KIT)
    found = pair_evidence(one, one, KIT)
    assert len(found) >= 2
    assert all(evidence.values.shape == (len(NAMES),) for evidence in found)
    assert all(np.isfinite(evidence.values).all() for evidence in found)
    flat = extract_image(Image.new("RGB", (90, 60), "red"), KIT)
    for query, reference in ((flat, one), (one, flat), (flat, flat)):
        pair = match_pair(query, reference, KIT)
        assert 0 <= pair.score < 0.1


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_matches_of_one_place_have_no_map(model):
    target = np.random.default_rng(0).random((5, 2)) * 50
    with np.errstate(all="ignore"):
        assert ransac(np.zeros((5, 2)), target, model) is None
