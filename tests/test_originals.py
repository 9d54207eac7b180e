"""A teacher that sees photographs before they are edited: its vectors, and what students learn."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_rdcd import STUDENT, FrozenTeacher, settings

from iscutils import training
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.files.prepare import prepare
from iscutils.models import Descriptor
from iscutils.training import originals

COUNT = 10


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = rng.integers(0, 256, (9, 7, 3), np.uint8)
        Image.fromarray(pixels).resize((90, 70)).save(folder / f"p{i}.png")
    return open_folder(folder)


def stored(photos, tmp_path, view="original", teacher=None):
    with open_executor("serial") as pool:
        folder, _ = training.cache_pixels(photos, 32, tmp_path, pool)
        pixels = training.Pixels(folder, [5, 1, 8])  # some of them, in another order
        teacher = teacher or FrozenTeacher()
        return training.store_originals(view, photos, pixels, teacher, tmp_path, pool, "cpu")


def test_vectors_are_the_teachers_of_whole_photographs(photos, tmp_path):
    found = stored(photos, tmp_path)
    teacher = FrozenTeacher()
    for row, index in zip(found, (5, 1, 8), strict=True):
        picture = torch.from_numpy(prepare(photos.load(index), teacher.size)[None])
        expected = teacher(training.to_views(picture))[0]
        assert np.allclose(row, expected, atol=2e-3)  # half floats


def test_finished_shards_are_kept(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(originals, "SHARD", 2)
    before = stored(photos, tmp_path)
    monkeypatch.setattr(FrozenTeacher, "forward", None)  # nobody is asked again
    assert np.array_equal(stored(photos, tmp_path), before)
    files = sorted(tmp_path.glob("originals-*/*.npy"))
    assert len(files) == 2
    files[1].unlink()
    with pytest.raises(TypeError):
        stored(photos, tmp_path)


def test_the_same_view_needs_nothing_and_others_are_refused(photos, tmp_path):
    assert stored(photos, tmp_path, "same") is None
    with pytest.raises(KitError, match="teacher_view 'whole' is unknown: choose same or original"):
        stored(photos, tmp_path, "whole")


@pytest.mark.parametrize("name", ["kd_icd", "rdcd"])
def test_every_view_learns_the_vector_of_its_photograph(name):
    teacher = FrozenTeacher()
    rows = torch.nn.functional.normalize(torch.randn(COUNT, teacher.dim), dim=1)
    method = training.choose(name, "distil")(
        Descriptor(STUDENT), settings(path="images"), 12, teacher, queue=24,
        originals=rows.numpy().astype(np.float16),
    )  # fmt: skip
    ids = torch.tensor([3, 7, 0, 9])
    target = method.target(torch.rand(8, 3, 32, 32), ids)
    assert torch.allclose(target, rows[[3, 7, 0, 9, 3, 7, 0, 9]], atol=2e-3)
    method.loss(torch.rand(4, 2, 3, 32, 32), ids)
    queue = method.bank if name == "kd_icd" else method.teacher_queue
    assert int(queue.filled) == 4  # two views of a photograph have one vector
    assert torch.allclose(queue.vectors[:4], rows[ids], atol=2e-3)
