"""Local features as text: round trips, the format line by line, the order of bins, bad files."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from iscutils.files.artifacts import KitError
from iscutils.files.executor import Executor
from iscutils.files.images import open_folder
from iscutils.local import convert_points, extract_features, local_config, match_pair, read_features

IMGFP = local_config("imgfp")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("coffee", "astronaut"):
        Image.fromarray(getattr(data, name)()).resize((160, 130)).save(folder / f"{name}.png")
    Image.new("RGB", (60, 60)).save(folder / "flat_one.png")
    return read_features(
        extract_features(open_folder(folder), folder.with_name("f.h5"), IMGFP, Executor())
    )


@pytest.mark.parametrize("name", ["all.txt", "folder"])
@pytest.mark.parametrize("negate", [False, True])
def test_round_trip(features, tmp_path, name, negate):
    text = convert_points(features.path, tmp_path / name, negate)
    again = read_features(convert_points(text, tmp_path / "again.h5", negate))
    # A picture without points leaves an empty file, and no trace in a single one.
    expected = sorted(features.ids) if name == "folder" else ["astronaut", "coffee"]
    assert sorted(again.ids) == expected
    for image_id in expected:
        one, two = (part.load(part.index()[image_id]) for part in (features, again))
        np.testing.assert_allclose(two.keypoints, one.keypoints, rtol=1e-6, atol=1e-4)
        np.testing.assert_array_equal(two.descriptors, one.descriptors)
    assert again.key
    assert len(list(tmp_path.iterdir())) == 2  # nothing temporary is left


def test_lines_by_hand(features, tmp_path):
    text = convert_points(features.path, tmp_path / "all.txt")
    lines = text.read_text().splitlines()
    assert len(lines) == features.offsets[-1] > 100
    image = features.load(features.index()["coffee"])
    head, empty, values = next(x for x in lines if x.startswith("coffee_3_")).split("|")
    x, y, size, angle = image.keypoints[3]
    assert empty == ""
    assert [int(v) for v in values.split(",")] == image.descriptors[3].tolist()
    np.testing.assert_allclose(
        [float(v) for v in head.split("_")[2:]], [x, y, size / 2, angle * np.pi / 180], rtol=1e-5
    )


def test_negated_bins_are_those_of_the_other_sense(features, tmp_path):
    plain, other = (
        convert_points(features.path, tmp_path / f"{negate}.txt", negate)
        for negate in (False, True)
    )
    for one, two in zip(
        plain.read_text().splitlines(), other.read_text().splitlines(), strict=True
    ):
        a, b = (np.array(line.split("||")[1].split(","), int) for line in (one, two))
        for cell in range(16):
            for j in range(8):
                assert b[8 * cell + (8 - j) % 8] == a[8 * cell + j]
        if one.startswith("coffee_5_"):
            break


def test_points_of_text_match(features, tmp_path):
    text = convert_points(features.path, tmp_path / "texts")
    again = read_features(convert_points(text, tmp_path / "again.h5"))
    scores = [
        match_pair(*(part.load(part.index()["coffee"]) for part in pair), IMGFP).score
        for pair in ((features, features), (again, features))
    ]
    assert scores[0] == scores[1] > 50
    assert (again.sizes <= (160, 130)).all()
    assert again.sizes.max() > 130


def test_published_ids_end_at_the_first_underscore_but_the_kit_reads_others(tmp_path):
    values = ",".join(["7"] * 128)
    (tmp_path / "a.txt").write_text(f"my_image_0_1.5_2.5_3_0||{values}\n")
    read = read_features(convert_points(tmp_path / "a.txt", tmp_path / "a.h5"))
    assert read.ids == ["my_image"]
    np.testing.assert_allclose(read.load(0).keypoints, [[1.5, 2.5, 6, 0]])


@pytest.mark.parametrize(
    "line", ["R1_0_1_2_3||1,2", "R1_0_1_2_3_4||1,2", f"R1_0_1_2_3_x||{','.join(['1'] * 128)}",
             f"R1_0_1_2_3_4||{','.join(['300'] * 128)}", f"R1_0_nan_2_3_4||{','.join(['1'] * 128)}"]
)  # fmt: skip
def test_bad_lines_are_named(tmp_path, line):
    (tmp_path / "a.txt").write_text("\n" + line + "\n")
    with pytest.raises(KitError, match="line 2: expected"):
        convert_points(tmp_path / "a.txt", tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_wrong_names_are_named(features, tmp_path):
    with pytest.raises(KitError, match="does not exist"):
        convert_points(tmp_path / "none", tmp_path / "a.h5")
    with pytest.raises(KitError, match="one must end in"):
        convert_points(features.path, tmp_path / "a.h5")
    with pytest.raises(KitError, match="one must end in"):
        convert_points(tmp_path, tmp_path / "texts")
    folder = tmp_path / "twice"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"R1_0_1_2_3_4||{','.join(['1'] * 128)}\n")
    with pytest.raises(KitError, match="in another file"):
        convert_points(folder, tmp_path / "a.h5")
