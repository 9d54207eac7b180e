"""Views that are edited and taught once: what they hold, how epochs use them, what they refuse."""

import numpy as np
import pytest
import torch
from test_rdcd import STUDENT, FrozenTeacher, settings
from training_cases import coarse_pixels, resumes_as_if_unbroken

from iscutils import training
from iscutils.files.artifacts import KitError
from iscutils.models import Descriptor

CONFIG = settings(path="stored", epochs=3)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    return coarse_pixels(tmp_path_factory.mktemp("pixels"), 70)  # more than one batch of the store


@pytest.fixture(scope="module")
def stored(pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    return training.store_views(pixels, CONFIG, FrozenTeacher(), 2, folder, "cpu")


def first_batch(stored):
    views, ids, vectors = stored.__getitems__([(0, index) for index in range(8)])
    return training.to_views(views), ids, vectors


def test_vectors_are_the_teachers_of_the_stored_views(stored):
    views, _, vectors = first_batch(stored)
    for side in range(2):
        expected = FrozenTeacher()(views[:, side])
        assert torch.allclose(vectors[:, side], expected, atol=0.02)  # half floats of rounded views


def test_first_views_are_mild_and_no_two_passes_alike(stored, pixels):
    originals = training.to_views(pixels.__getitems__(list(range(70)))[0])
    small = torch.nn.functional.interpolate(originals, (32, 32), mode="bilinear", antialias=True)
    views = training.to_views(torch.from_numpy(np.array(stored.views[0])))
    change = (views - small[:, None]).abs().mean((2, 3, 4))  # (70, 2)
    assert change[:, 0].mean() < change[:, 1].mean()
    assert not np.array_equal(stored.views[0], stored.views[1])


@pytest.mark.parametrize("name", ["kd_icd", "rdcd", "rdcd symmetric"])
def test_losses_are_those_of_asking_the_teacher(stored, name):
    views, ids, _ = first_batch(stored)
    teacher = FrozenTeacher()
    vectors = torch.stack([teacher(views[:, side]) for side in range(2)], 1)
    options = {"symmetric": True} if "symmetric" in name else {}
    method = training.choose(name.split()[0], "distil")(
        Descriptor(STUDENT), CONFIG, 12, teacher, queue=24, **options
    ).eval()
    asked, known = method.loss(views, ids), method.loss(views, ids, vectors)
    assert asked.keys() == known.keys()
    for part, value in asked.items():
        assert known[part].item() == pytest.approx(value.item(), rel=1e-5), part
    swapped = method.loss(views, ids, vectors.roll(1, 0))
    assert swapped["relation"].item() != pytest.approx(asked["relation"].item(), rel=1e-3)


def test_epochs_take_the_passes_in_turn(stored):
    batches = [stored.__getitems__([(epoch, 5)])[0] for epoch in range(3)]
    assert torch.equal(batches[0], batches[2])
    assert not torch.equal(batches[0], batches[1])


def test_a_killed_store_goes_on_and_ends_with_the_same_bytes(stored, pixels, tmp_path):
    class Dies(FrozenTeacher):
        calls = 0

        def forward(self, images):
            Dies.calls += 1
            if Dies.calls == 6:  # in the second pass: four calls a pass
                raise KeyboardInterrupt
            return super().forward(images)

    with pytest.raises(KeyboardInterrupt):
        training.store_views(pixels, CONFIG, Dies(), 2, tmp_path, "cpu")
    (folder,) = tmp_path.iterdir()
    assert [file.name for file in sorted(folder.glob("*.npy"))] == [
        "000.vectors.npy", "000.views.npy"
    ]  # fmt: skip
    done = (folder / "000.views.npy").stat().st_mtime_ns
    again = training.store_views(pixels, CONFIG, FrozenTeacher(), 2, tmp_path, "cpu")
    assert (folder / "000.views.npy").stat().st_mtime_ns == done
    assert again.key() == stored.key()
    for file in sorted(stored.folder.iterdir()):
        assert (again.folder / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_student_trains_on_stored_views_and_resumes(stored, tmp_path):
    def start():
        network = Descriptor(STUDENT)
        return training.RDCD(network, CONFIG, 24, FrozenTeacher(), queue=24, symmetric=True)

    resumes_as_if_unbroken(start, stored, tmp_path)


def test_what_cannot_be_stored_is_refused(pixels, tmp_path):
    mixing = settings(path="stored", recipe="sscd/mixup")
    with pytest.raises(KitError, match="sscd/mixup mixes"):
        training.store_views(pixels, mixing, FrozenTeacher(), 2, tmp_path, "cpu")
    with pytest.raises(KitError, match="0 passes"):
        training.store_views(pixels, CONFIG, FrozenTeacher(), 0, tmp_path, "cpu")
    with pytest.raises(KitError, match="store_views"):
        training.training_data(None, pixels, CONFIG)
    with pytest.raises(KitError, match="no stored views"):
        training.StoredViews(tmp_path)
