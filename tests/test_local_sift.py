"""Local features: sizes, key points, RootSIFT, mirroring, and the feature file."""

import h5py
import numpy as np
import pytest
from PIL import Image
from skimage import data

from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.local.config import local_config
from iscutils.local.sift import (
    MIRROR,
    detect,
    extract_image,
    gray_picture,
    mirror_descriptors,
    root_sift,
    shrunk_size,
    stretch_contrast,
)
from iscutils.local.store import extract_features, read_features

IMGFP = local_config("imgfp")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((608, 1016), (299, 501)),
        ((512, 512), (299, 299)),
        ((300, 400), (299, 399)),
        ((200, 500), (200, 500)),
        ((16, 900), (16, 900)),
    ],
)
def test_shrunk_size_follows_the_published_rule(size, expected):
    assert shrunk_size(size) == expected


def test_pictures_are_never_enlarged():
    rng = np.random.default_rng(0)
    for size in rng.integers(16, 2000, (200, 2)).tolist():
        assert all(new <= old for new, old in zip(shrunk_size(tuple(size)), size, strict=True))


def test_points_of_the_doubled_picture_are_dropped():
    gray = gray_picture(Image.fromarray(data.astronaut()), (299, 299))
    keypoints, descriptors, responses = detect(gray, IMGFP)
    doubled, *_ = detect(gray, local_config("imgfp", upsample=True))
    assert len(keypoints) == len(descriptors) == len(responses) > 100
    # The first level of octave 0 has a diameter of 2 * 1.6 px.
    assert keypoints[:, 2].min() > 3.1 > doubled[:, 2].min()
    assert len(doubled) > 1.5 * len(keypoints)
    rows = [tuple(row) for row in keypoints[:, [1, 0, 2, 3]].tolist()]
    assert rows == sorted(rows)


def test_flat_and_tiny_pictures_have_no_points():
    for size in ((200, 150), (16, 16)):
        features = extract_image(Image.new("RGB", size, (90, 90, 90)), local_config())
        assert len(features) == 0
        assert features.descriptors.shape == (0, 128)


def test_root_sift_values():
    rows = np.zeros((3, 128), np.float32)
    rows[0, 0] = 4
    rows[1, :2] = 1
    expected = np.zeros((3, 128), np.uint8)
    expected[0, 0] = 255
    expected[1, :2] = 180
    np.testing.assert_array_equal(root_sift(rows), expected)


def test_root_sift_norms_of_a_photo():
    _, descriptors, _ = detect(gray_picture(Image.fromarray(data.coffee()), (449, 299)), IMGFP)
    norms = (descriptors.astype(np.int64) ** 2).sum(axis=1)
    assert abs(norms.mean() - 65025) < 200


def test_strongest_points_are_kept_in_file_order():
    gray = gray_picture(Image.fromarray(data.coffee()), (449, 299))
    keypoints, descriptors, responses = detect(gray, IMGFP)
    fewer, few_descriptors, kept = detect(gray, local_config("imgfp", max_points=50))
    strongest = np.sort(np.argsort(-responses, kind="stable")[:50])
    np.testing.assert_array_equal(fewer, keypoints[strongest])
    np.testing.assert_array_equal(few_descriptors, descriptors[strongest])
    assert kept.min() >= np.sort(responses)[-50]


def test_stretching_finds_the_points_of_a_dark_copy():
    photo = gray_picture(Image.fromarray(data.coffee()), (449, 299))
    dark = (photo * 0.1).astype(np.uint8)
    assert stretch_contrast(dark).max() == 255
    plain, stretched = (len(detect(g, IMGFP)[0]) for g in (dark, stretch_contrast(dark)))
    assert stretched > 2 * plain


def test_mirror_permutation():
    np.testing.assert_array_equal(MIRROR[:8], [96, 103, 102, 101, 100, 99, 98, 97])
    np.testing.assert_array_equal(MIRROR[-8:], [24, 31, 30, 29, 28, 27, 26, 25])
    np.testing.assert_array_equal(MIRROR[MIRROR], np.arange(128))


def test_mirrored_descriptors_match_those_of_the_mirrored_photo():
    gray = np.ascontiguousarray(gray_picture(Image.fromarray(data.astronaut()), (299, 299)))
    keypoints, descriptors, _ = detect(gray, IMGFP)
    flipped, flipped_descriptors, _ = detect(np.ascontiguousarray(gray[:, ::-1]), IMGFP)
    plain, turned = [], []
    for (x, y, size, angle), one in zip(keypoints, descriptors, strict=True):
        place = np.hypot(flipped[:, 0] - (298 - x), flipped[:, 1] - y)
        other = np.abs((flipped[:, 3] - (180 - angle) + 180) % 360 - 180)
        near = (place < 1) & (other < 10) & (np.abs(np.log(flipped[:, 2] / size)) < 0.1)
        if near.any():
            match = flipped_descriptors[np.flatnonzero(near)[0]].astype(int)
            plain.append(((match - one) ** 2).sum())
            turned.append(((match - mirror_descriptors(one[None])[0]) ** 2).sum())
    assert len(plain) > 200
    assert np.mean(np.array(turned) < 8000) >= 0.9
    assert np.mean(np.array(plain) < 8000) <= 0.25


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "coffee", "chelsea"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    Image.new("RGB", (64, 64), "gray").save(folder / "flat.png")
    Image.new("RGB", (200, 9), "white").save(folder / "line.png")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    return open_folder(folder)


def test_feature_file(photos, tmp_path):
    config = local_config(thumbnail=64)
    with open_executor("serial") as executor:
        path = extract_features(photos, tmp_path / "features.h5", config, executor)
    features = read_features(path)
    assert features.ids == ["astronaut", "chelsea", "coffee", "flat"]
    assert [row[0] for row in features.skipped] == ["line", "torn"]
    assert "200 x 9" in features.skipped[0][2]
    for i, name in enumerate(features.ids):
        one = extract_image(photos.load(photos.ids.index(name)), config)
        stored = features.load(i)
        np.testing.assert_array_equal(stored.keypoints, one.keypoints)
        np.testing.assert_array_equal(stored.descriptors, one.descriptors)
        np.testing.assert_array_equal(stored.responses, one.responses)
        np.testing.assert_array_equal(stored.thumbnail, one.thumbnail)
        assert stored.size == one.size
    with h5py.File(path) as file:
        kinds = {name: (file[name].dtype.kind, file[name].ndim) for name in file}
        assert kinds["keypoints"] == ("f", 2)
        assert kinds["descriptors"] == ("u", 2)
        assert kinds["image_names"][0] == "S"
        assert file["offsets"][-1] == len(file["descriptors"]) == len(file["keypoints"])
        assert file["descriptors"].shape[1] == 128
    assert not list(tmp_path.glob(".*"))  # the parts are gone


def test_extraction_resumes_and_notices_changes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("iscutils.local.store.PART", 2)
    path = tmp_path / "features.h5"
    calls = []

    def failing(image, config):
        calls.append(image.size)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return extract_image(image, config)

    with open_executor("serial") as executor:
        monkeypatch.setattr("iscutils.local.store.extract_image", failing)
        with pytest.raises(KeyboardInterrupt):
            extract_features(photos, path, IMGFP, executor)
        assert not path.exists()
        extract_features(photos, path, IMGFP, executor)
        assert len(calls) == 3 + 2  # the first part was kept, the second is made again
        first = path.read_bytes()
        extract_features(photos, path, IMGFP, executor)
        assert len(calls) == 5
        monkeypatch.undo()
        extract_features(photos, path, local_config("imgfp", max_points=20), executor)
    assert path.read_bytes() != first
    assert np.diff(read_features(path).offsets).max() == 20


def test_several_workers_write_the_same_points(photos, tmp_path):
    files = []
    for workers in (1, 2):
        with open_executor("processes", workers) as executor:
            out = tmp_path / f"{workers}.h5"
            files.append(read_features(extract_features(photos, out, IMGFP, executor)))
    for i in range(4):
        first, second = (file.load(i) for file in files)
        np.testing.assert_array_equal(first.keypoints, second.keypoints)
        np.testing.assert_array_equal(first.descriptors, second.descriptors)


def test_errors_of_feature_files_name_the_remedy(tmp_path):
    with pytest.raises(KitError, match="extract the local features first"):
        read_features(tmp_path / "none.h5")
    (tmp_path / "torn.h5").write_bytes(b"not HDF5")
    with pytest.raises(KitError, match="damaged"):
        read_features(tmp_path / "torn.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["vectors"] = np.zeros((2, 3))
    with pytest.raises(KitError, match="not a file of local features"):
        read_features(tmp_path / "other.h5")


def test_configuration_errors():
    with pytest.raises(KitError, match="did you mean 'vote_points'"):
        local_config(vote_point=3)
    with pytest.raises(KitError, match="mode='fast' is unknown"):
        local_config("fast")
    with pytest.raises(KitError, match="geometry='rigid' is unknown"):
        local_config(geometry="rigid")
    with pytest.raises(KitError, match="compares thumbnails"):
        local_config(thumbnail=0)
