"""imgFp's training: roles of the views, the memory and its size, resume."""

from __future__ import annotations

import pytest
import torch
from training_cases import coarse_pixels, resumes_as_if_unbroken

from iscutils import training
from iscutils.files.artifacts import KitError
from iscutils.losses import MemoryTriplet, memory_hard, unit
from iscutils.models import Descriptor, DescriptorConfig, load, state_key

SHAPE = DescriptorConfig(backbone="mobilenetv3_small_050", dim=16, size=32)


def settings(**changes) -> training.TrainConfig:
    given = dict(epochs=2, batch_size=8, size=32, rate=1e-3, precision="32-true")
    return training.TrainConfig(**{**given, **changes})


def imgfp(config=None, steps=12, **options) -> training.ImgFp:
    return training.ImgFp(Descriptor(SHAPE), config or settings(), steps, **options)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """64 coarse random pictures."""
    return coarse_pixels(tmp_path_factory.mktemp("pixels"), 64)


@pytest.fixture(scope="module")
def batch():
    views = torch.rand(8, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return views, torch.arange(8)


def test_the_copy_is_the_anchor_and_the_memory_holds_originals(batch):
    views, ids = batch
    method = imgfp(settings(path="images"), queue=16)
    method.memory.write(unit(torch.randn(8, 16)), torch.arange(5, 13))
    method.eval()
    parts = method.loss(views, ids)
    assert int(method.memory.filled) == 8  # measuring writes nothing
    rows = [unit(method.model.expand(method.model.pooled(views[:, k]))[1]) for k in range(2)]
    expected = memory_hard(rows[1], rows[0], ids, *method.memory.content())
    assert parts["loss"].item() == pytest.approx(MemoryTriplet(1.0)(*expected).item(), rel=1e-4)
    for name, value in zip(("positive_distance", "negative_distance"), expected[:2], strict=True):
        assert parts[name].item() == pytest.approx(value.mean().item(), rel=1e-3)
    active = (expected[0] - expected[1] + 1 > 0).float().mean()
    assert parts["active"].item() == pytest.approx(active.item())
    method.train()
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    method.loss(views, ids)
    vectors, vector_ids = method.memory.content()
    assert torch.equal(vector_ids[8:], ids)
    assert torch.allclose(vectors[8:], rows[0], atol=1e-5)


def test_rows_written_in_a_step_do_not_change_its_loss(batch):
    views, ids = batch
    first, second = (imgfp(settings(path="images"), queue=16) for _ in range(2))
    second.memory.write = lambda *_: None
    assert first.loss(views, ids)["loss"] == second.loss(views, ids)["loss"]
    assert float(first.loss(views, ids)["queue_filled"]) == 1.0


def test_the_memory_is_16384_but_at_most_half_of_the_images():
    config = settings(epochs=1, batch_size=64)
    assert len(imgfp(config, steps=1000).memory) == 16_384
    assert len(imgfp(config, steps=10).memory) == 320
    assert len(imgfp(config, steps=10, queue=100).memory) == 100
    with pytest.raises(KitError, match="queue of 32"):
        imgfp(config, steps=1)
    with pytest.raises(KitError, match="margin"):
        imgfp(margin=9.0)
    with pytest.raises(KitError, match="nearest 0"):
        imgfp(nearest=0)
    assert training.choose("imgfp", "train") is training.ImgFp


def test_margin_and_memory_are_part_of_the_key():
    keys = {imgfp(**options).key() for options in ({}, {"margin": 0.5}, {"queue": 16})}
    assert len(keys) == 3


def test_training_separates_copies_from_others(pixels, tmp_path):
    config = settings(epochs=10, rate=2e-3, ramp=0.0, strength=0.2)
    method = imgfp(config, training.steps_of(pixels, config), margin=0.5)
    start = state_key(method.model)
    folder = training.fit(method, pixels, tmp_path, "m", "cpu")
    history = training.read_history(folder)
    gap = history.negative_distance - history.positive_distance
    assert gap.tail(10).mean() > gap.head(10).mean() + 0.1
    assert history.loss.tail(10).mean() < 0.9 * history.loss.head(10).mean()
    assert history.queue_filled.iloc[-1] == 1
    assert state_key(load(folder)) == state_key(method.model) != start


def test_a_killed_training_ends_as_an_unbroken_one(pixels, tmp_path):
    config = settings()
    steps = training.steps_of(pixels, config)
    resumes_as_if_unbroken(lambda: imgfp(config, steps), pixels, tmp_path)
