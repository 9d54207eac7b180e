"""Views of single images for loaders: repeatable, complete, and never the end of a worker."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from iscutils.edits.recipe_files import parse_recipe
from iscutils.edits.views import EditedViews, one_thread
from iscutils.files.artifacts import KitError
from iscutils.files.images import open_folder
from iscutils.training.pixels import EpochSampler


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve smooth random pictures, the sixth of them broken."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(12):
        coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((210, 150), 3).save(folder / f"p{i:02d}.jpg", quality=95)
    (folder / "p05.jpg").write_bytes(b"\xff\xd8\xff broken")
    return open_folder(folder)


def recipe(operations, **more):
    return parse_recipe("test", {"draw": "each", "operations": operations, **more})


def test_items_repeat_and_change_with_epoch_view_and_seed(photos):
    data, again, other = (EditedViews(photos, "training", 32, seed=s) for s in (0, 0, 1))
    views, index = data[3]
    assert index == 3
    assert views.shape == (2, 3, 32, 32)
    assert views.dtype == torch.uint8
    assert torch.equal(views, again[3][0])
    assert not torch.equal(views, other[3][0])
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views, data[4, 3][0])
    again.set_epoch(4)
    assert torch.equal(again[3][0], data[4, 3][0])


def test_views_of_no_edit_are_the_squashed_photograph(photos):
    data = EditedViews(photos, recipe({"hflip": {"probability": 0.0}}), 32, views=3)
    photo = photos.load(0).resize((128, 91), Image.Resampling.BILINEAR)
    expected = np.asarray(photo.resize((32, 32), Image.Resampling.BILINEAR)).astype(float)
    for view in data[0][0]:
        assert np.abs(view.permute(1, 2, 0).numpy() - expected).mean() < 2


def test_every_operation_is_there_and_donors_are_other_photographs(photos):
    data = EditedViews(photos, recipe({"opacity": {"own": 0.05}}), 32)
    alone = EditedViews(photos, recipe({"hflip": {"probability": 0.0}}), 32)
    distances = [
        float((data[0][0][0].float() - alone[i][0][0].float()).abs().mean())
        for i in range(12)
        if i != 5
    ]
    assert np.argmin(distances) != 0
    EditedViews(photos, recipe({"oil": None}), 32)[0]  # has no batched form


def test_the_first_view_is_mild_when_asked(photos):
    edits = recipe({"invert": None}, original={"draw": "each", "operations": {"hflip": None}})
    mild, both = (EditedViews(photos, edits, 32, mild_first=m)[0][0].float() for m in (True, False))
    assert torch.allclose(255 - mild[0].flip(2), mild[1], atol=4)
    assert torch.equal(both[0], both[1])


def test_strength_follows_the_epochs(photos):
    data = EditedViews(photos, recipe({"invert": None}), 32, strengths=(0.0, 1.0))
    plain, inverted, later = (data[epoch, 0][0][0].float() for epoch in (0, 1, 7))
    assert torch.allclose(255 - plain, inverted, atol=1)
    assert torch.equal(later, inverted)


def test_an_unreadable_image_is_replaced_and_noted(photos):
    data = EditedViews(photos, "training", 32)
    views, index = data[5]
    assert index == 6
    assert torch.equal(views, data[6][0])
    assert data.unusable == {"p05"}


def test_images_that_are_all_broken_are_an_error(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(KitError, match="2 training images in a row"):
        EditedViews(open_folder(tmp_path), "training", 32)[0]
    with pytest.raises(KitError, match="too few"):
        EditedViews(open_folder(tmp_path).subset([0]), "training", 32)


def test_loader_processes_change_nothing(photos):
    data, batches = EditedViews(photos, "training", 32), []
    for workers in (0, 1):
        sampler = EpochSampler(len(data), 0, mark=True)
        sampler.set_epoch(2)
        loader = DataLoader(
            data, batch_size=4, sampler=sampler, num_workers=workers,
            worker_init_fn=one_thread, multiprocessing_context="spawn" if workers else None,
        )  # fmt: skip
        batches.append([torch.cat(part) for part in zip(*loader, strict=True)])
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])
    assert batches[0][0].shape == (12, 2, 3, 32, 32)
