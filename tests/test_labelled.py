"""Labelled sets: pixels of files and shards, batches of ids and pairs, content of batched views."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from iscutils import training
from iscutils.edits import apply, decoded, iter_pictures, load_recipe, read_manifest, synthesise
from iscutils.edits.decoded import cache_labelled
from iscutils.edits.recipe_files import parse_recipe
from iscutils.edits.tensor import TensorEdits, supported
from iscutils.edits.tensor_visible import edit_and_measure, visible_share
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.training.pk_sampler import PKSampler

SIDE, COPIES = 24, 5


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve pictures; the last four are two hard negative pairs."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(12):
        name = f"p{i:02d}" if i < 8 else f"N{i // 2}_{'ab'[i % 2]}"
        coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((70, 50), 3).save(folder / f"{name}.jpg", quality=95)
    return open_folder(folder)


@pytest.fixture(scope="module")
def folders(photos, tmp_path_factory):
    """The same set as files and as shards."""
    base = tmp_path_factory.mktemp("sets")
    with open_executor("serial") as pool:
        for layout in ("files", "shards"):
            synthesise(photos, "d2lv/basic", COPIES, base / layout, executor=pool, layout=layout,
                       shard=15, check_disc=False)  # fmt: skip
    return base


PAIRS = pd.DataFrame({"image_a": ["N4_a", "N5_b"], "image_b": ["N4_b", "N5_a"]})


@pytest.fixture(scope="module")
def labelled(folders, tmp_path_factory):
    file = tmp_path_factory.mktemp("p") / "pairs.csv"
    PAIRS.to_csv(file, index=False)
    with open_executor("serial") as pool:
        return training.read_labelled(
            [folders / "files"], SIDE, tmp_path_factory.mktemp("c"), pool, pairs=file,
            pairs_a_batch=1,
        )  # fmt: skip


def config(**changes) -> training.TrainConfig:
    given = dict(epochs=2, batch_size=16, size=SIDE, views=4, path="labelled")
    return training.TrainConfig(**{**given, **changes})


# --- pixels


def test_pixels_scales_and_ids_are_those_of_the_manifest(folders, labelled):
    rows = read_manifest(folders / "files")
    assert len(labelled) == len(rows) == 12 * COPIES
    pictures = dict(iter_pictures(folders / "files"))
    for number in (0, 7, 59):
        row = rows.iloc[number]
        small = pictures[row.image].resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        given = labelled[number].astype(int)
        assert np.abs(given - np.asarray(small)).max() <= 24  # decoded at a reduced scale
        assert np.abs(given - np.asarray(small)).mean() < 2
        assert labelled.ids[labelled.labels[number]] == row.source_id
        assert labelled.scales[number] == pytest.approx(row.visible)
    assert (labelled.scales[rows["copy"] == 0] == 1).all()


def test_shards_hold_the_same_as_files_and_are_found_again(folders, labelled, tmp_path):
    with open_executor("serial") as pool:
        path = cache_labelled(folders / "shards", SIDE, tmp_path, pool)
        stamp = path.stat().st_mtime_ns
        assert cache_labelled(folders / "shards", SIDE, tmp_path, pool) == path
    assert path.stat().st_mtime_ns == stamp
    shards = training.Labelled([path])
    assert shards.ids == labelled.ids
    assert all(np.array_equal(shards[i], labelled[i]) for i in range(len(labelled)))
    assert not len(shards.pairs)


def test_a_killed_decoding_goes_on_where_it_was(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "SHARD", 15)  # four shards
    whole = decoded._decode_part
    done = []

    def dying(*job):
        if len(done) == 2:
            raise InterruptedError
        done.append(job[-1][0])
        whole(*job)

    monkeypatch.setattr(decoded, "_decode_part", dying)
    with open_executor("serial") as pool, pytest.raises(InterruptedError):
        cache_labelled(folders / "files", SIDE, tmp_path, pool)
    done.append("died")
    with open_executor("serial") as pool:
        path = cache_labelled(folders / "files", SIDE, tmp_path, pool)
    assert done == [0, 1, "died", 2, 3]
    assert len(training.Labelled([path])) == 12 * COPIES


def test_broken_pictures_are_never_shown(folders, tmp_path):
    rows = read_manifest(folders / "files", ["file", "copy", "source_id"])
    broken = folders / "files" / rows.file[rows["copy"] == 3].iloc[0]
    kept = broken.read_bytes()
    broken.write_bytes(b"")
    with open_executor("serial") as pool:
        data = training.read_labelled([folders / "files"], SIDE, tmp_path, pool, without=["p03"])
    broken.write_bytes(kept)
    number = int(rows.index[rows["copy"] == 3][0])
    assert number not in data.groups
    assert (data.groups[0] >= 0).sum() == COPIES - 1
    assert "p03" not in data.ids
    assert data.classes == 11
    shown = {i for epoch in range(5) for i in _epoch(data.sampler(config()), epoch)}
    assert number not in shown
    assert len(shown) > 40


def test_sets_can_be_joined_and_must_be_finished(folders, labelled, tmp_path):
    cache = labelled.caches[0]
    both = training.Labelled([cache, cache])
    assert both.ids == labelled.ids  # an id of several sets is one class
    assert both.groups.shape == (12, 2 * COPIES)
    last = both.groups[11][-1]
    assert np.array_equal(both[last], labelled[last - 60])
    with open_executor("serial") as pool, pytest.raises(KitError, match="no finished training set"):
        training.read_labelled([tmp_path], SIDE, tmp_path, pool)


# --- batches


def _epoch(sampler: PKSampler, epoch: int = 0) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_batches_hold_different_pictures_of_each_id_and_whole_pairs(labelled):
    settings = config()
    assert labelled.steps(settings) == 4  # 8 ordinary ids, 2 a batch beside one pair
    assert training.steps_of(labelled, settings) == 8
    seen = []
    loader = labelled.loader(settings)
    loader.sampler.set_epoch(1)
    for pixels, ids, scales, pairs in loader:
        assert pixels.shape == (16, SIDE, SIDE, 3)
        assert pixels.dtype == torch.uint8
        assert ids.unique(return_counts=True)[1].tolist() == [4] * 4
        paired = ids[pairs >= 0].unique().tolist()
        assert len(paired) == 2
        assert sorted(paired) in [sorted(pair) for pair in labelled.pairs.tolist()]
        names = {labelled.ids[i] for i in paired}
        assert names in [{"N4_a", "N4_b"}, {"N5_a", "N5_b"}]
        assert scales.dtype == torch.float32
        seen += ids[pairs < 0].unique().tolist()
    assert sorted(labelled.ids[i] for i in seen) == [f"p{i:02d}" for i in range(8)]


def test_photographs_of_pairs_are_no_classes_beside_them(folders, labelled):
    sources = PAIRS.assign(source_a=["p00", "p02"], source_b=["p01", "p02"])
    data = training.Labelled(labelled.caches, sources, pairs_a_batch=1)
    assert set(data.ids) == set(labelled.ids) - {"p00", "p01", "p02"}
    held = training.Labelled(labelled.caches, sources, pairs_a_batch=1, without=["p02"])
    assert len(held.pairs) == 1  # the other one was cut out of a photograph that is held out
    assert not {"N5_a", "N5_b", "p00", "p01", "p02"} & set(held.ids)
    assert labelled.classes == 12  # a table that names no sources


def test_edited_pictures_may_count_less(folders, labelled):
    data = training.Labelled(labelled.caches, edited=0.8)
    first = np.tile(np.arange(COPIES) == 0, 12)
    assert np.allclose(data.scales, labelled.scales * np.where(first, 1, 0.8))
    assert data.key() != training.Labelled(labelled.caches).key()


def test_no_picture_comes_twice_in_32_ids_with_4_pairs():
    groups = np.arange(60 * 6).reshape(60, 6)
    groups[::7, 4:] = -1  # some have four pictures alone
    pairs = np.arange(40, 60).reshape(10, 2)
    sampler = PKSampler(groups, pairs, 4, 32, 4, seed=3)
    batches = np.array(_epoch(sampler, 2)).reshape(-1, 32, 4)
    assert sampler.steps == len(batches) == 1
    sampler = PKSampler(groups, pairs, 4, 32, 4, seed=3, steps=7)
    for batch in np.array(_epoch(sampler)).reshape(7, 32, 4):
        assert len(np.unique(batch)) == 128
        assert batch.min() >= 0
        ids = batch // 6
        assert (ids == ids[:, :1]).all()
        assert (ids[:24] < 40).all()
        first, second = ids[24:, 0].reshape(4, 2).T
        assert (second == first + 1).all()
        assert (first % 2 == 0).all()


def test_order_changes_by_epoch_and_repeats_by_seed():
    groups = np.arange(100).reshape(20, 5)

    def made(seed, epoch):
        return _epoch(PKSampler(groups, np.zeros((0, 2), int), 3, 4, seed=seed), epoch)

    assert made(0, 0) == made(0, 0)
    assert len({tuple(made(*key)) for key in ((0, 0), (0, 1), (1, 0))}) == 3
    for epoch in range(2):
        ids = np.array(made(0, epoch))[::3] // 5
        assert sorted(ids) == list(range(20))


def test_processes_share_the_ids_of_a_step(monkeypatch):
    groups, pairs = np.arange(160).reshape(32, 5), np.arange(24, 32).reshape(4, 2)
    shares = []
    for number in range(2):
        monkeypatch.setattr(training.pk_sampler, "world_size", lambda: 2)
        monkeypatch.setattr(training.pk_sampler, "rank", lambda number=number: number)
        sampler = PKSampler(groups, pairs, 2, 6, 2, seed=1, processes=2)
        shares.append(np.array(_epoch(sampler, 3)).reshape(-1, 6, 2))
    assert shares[0].shape == shares[1].shape == (6, 6, 2)
    for first, second in zip(*shares, strict=True):
        assert len(np.unique(np.concatenate([first, second]) // 5)) == 12
    ordinary = np.concatenate([share[:, :2] for share in shares]) // 5
    assert sorted(ordinary[..., 0].ravel()) == list(range(24))


def test_batches_that_cannot_be_filled_are_refused(labelled):
    for changes, match in (
        ({"views": 6}, "per_image"), ({"batch_size": 200}, "lower batch_size"),
        ({"batch_size": 8}, "raise batch_size"), ({"devices": 3}, "lower batch_size"),
    ):  # fmt: skip
        with pytest.raises(KitError, match=match):
            labelled.steps(config(**changes))
    with pytest.raises(KitError, match="size=32"):
        labelled.loader(config(size=32))
    with pytest.raises(KitError, match="no id of the pairs"):
        training.Labelled(labelled.caches, PAIRS.replace("N", "M", regex=True))


# --- content of views that are edited as batches


@pytest.mark.parametrize("name", ["training", "d2lv/basic", "d2lv/opaque"])
def test_content_of_batched_views_is_that_of_single_edits(name):
    rng, recipe = np.random.default_rng(0), load_recipe(name)
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    errors = []
    while len(errors) < 40:
        drawn = recipe.sample(rng)
        if all(supported(operation) for operation, _ in drawn):
            slow = apply(image, drawn, [image] * 8).visible
            errors.append(visible_share(drawn, image.size) - slow)
    assert np.abs(errors).mean() < 0.02
    assert np.abs(errors).max() < 0.2  # stickers are other ones
    assert abs(np.mean(errors)) < 0.02


def test_known_contents():
    def share(**operations) -> float:
        return visible_share(tuple(operations.items()), (80, 60))

    assert share() == 1
    assert share(hflip={}, vflip={}) == 1
    assert share(centre_crop={"width": 0.5, "height": 0.5}) == pytest.approx(0.25, abs=0.02)
    assert share(opacity={"own": 0.3, "second": 0.0, "donor": 0}) == pytest.approx(0.3)
    assert share(shuffle_pixels={"share": 0.2, "seed": 0}) == pytest.approx(0.8)
    paste = {"size": 0.5, "x": 0.5, "y": 0.5, "opacity": 1.0, "donor": 0}
    assert share(paste=paste) == 1


def test_draws_that_hide_too_much_are_repeated():
    crop = {"crop": {"area": [0.02, 0.5]}}
    content = {"draw": "each", "operations": crop, "min_visible": 0.2}
    edits = TensorEdits(parse_recipe("hiding", content), 16)
    images, generator = torch.rand(60, 3, 20, 20), torch.Generator().manual_seed(0)
    views, shares = edit_and_measure(edits, images, generator)
    assert views.shape == (60, 3, 16, 16)
    assert (shares >= 0.2).float().mean() > 0.95  # five draws
    assert shares.max() < 0.6
