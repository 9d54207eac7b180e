"""Training: tensor edits, pixels, schedules, resume, probe and extraction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from iscutils import training
from iscutils.descriptors.check import difference_alone
from iscutils.descriptors.extract import describe, extract, read_skipped
from iscutils.descriptors.hashes import extract_pdq
from iscutils.descriptors.store import read_descriptors
from iscutils.edits.recipe_files import parse_recipe
from iscutils.edits.views import EditedViews
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.models import Descriptor, DescriptorConfig, state_key
from iscutils.training.pixels import EpochSampler
from iscutils.training.probe import Probe

SMALL = DescriptorConfig(backbone="mobilenetv3_small_050", dim=16, size=32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """48 smooth random pictures and one broken file."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(48):
        coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((70, 50), 3).save(folder / f"p{i:02d}.jpg", quality=95)
    (folder / "p99.jpg").write_bytes(b"")
    return open_folder(folder)


@pytest.fixture(scope="module")
def pixels(photos, tmp_path_factory):
    with open_executor("serial") as pool:
        cached, skipped = training.cache_pixels(photos, 32, tmp_path_factory.mktemp("c"), pool)
    assert [row[0] for row in skipped] == ["p99"]
    return training.Pixels(cached)


def config(**changes) -> training.TrainConfig:
    given = dict(epochs=2, batch_size=8, size=32, rate=1e-3, precision="32-true")
    return training.TrainConfig(**{**given, **changes})


def sscd(settings, pixels, seed=0):
    model = Descriptor(SMALL, seed=seed)
    return training.SSCD(model, settings, training.steps_of(pixels, settings))


# --- pixels and order


def test_pixels_are_the_decoded_images_and_split_without_overlap(photos, pixels):
    assert len(pixels) == 48
    side = pixels.side
    assert side == 45
    direct = np.asarray(photos.load(3).resize((side, side), Image.Resampling.BICUBIC))
    assert np.array_equal(pixels[3], direct)
    kept, held = pixels.split(0.25, seed=1)
    assert len(held) == 12
    assert not set(kept.ids) & set(held.ids)
    assert set(kept.ids) | set(held.ids) == set(pixels.ids)


def test_the_order_changes_by_epoch_and_repeats_by_seed():
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (0, 0), (1, 0)):
        sampler = EpochSampler(20, seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(20)) for order in orders)


# --- optimisers and schedule


def test_warmup_then_cosine():
    rates = [training.warmup_cosine(step, 5, 105) for step in range(106)]
    assert rates[0] == 0
    assert rates[4] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[105] == pytest.approx(0, abs=1e-9)


def test_lars_step_equals_its_formula_and_plain_sgd_at_zero():
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    zero = torch.nn.Parameter(torch.zeros(2))
    optimiser = training.LARS([weight, zero], lr=0.5, weight_decay=0.1)
    weight.grad, zero.grad = torch.tensor([1.0, 0.0]), torch.tensor([2.0, -2.0])
    expected = torch.tensor([3.0, 4.0]) - 0.5 * (
        torch.tensor([1.3, 0.4]) * 1e-3 * 5 / (1 + 0.1 * 5 + 1e-8)
    )
    optimiser.step()
    assert torch.allclose(weight.detach(), expected)
    assert torch.allclose(zero.detach(), torch.tensor([-1.0, 1.0]))


def test_biases_and_norms_can_be_left_out_of_decay_and_scaling():
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.bias.fill_(4.0)
    optimiser = training.make_optimiser("lars", layer.parameters(), 0.5, 0.1, exclude_norms=True)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = layer.weight.detach().clone()
    optimiser.step()
    assert torch.allclose(layer.bias.detach(), torch.full((2,), 3.5))  # plain SGD
    scale = 1e-3 * before.norm() / (2 + 0.1 * before.norm() + 1e-8)
    assert torch.allclose(layer.weight.detach(), before - 0.5 * scale * (1 + 0.1 * before))
    for name in ("adamw", "sgd", "lars"):
        groups = training.make_optimiser(name, layer.parameters(), 0.5, 0.1, True).param_groups
        assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
        assert len(training.make_optimiser(name, layer.parameters(), 0.5, 0.1).param_groups) == 1


def test_rates_scale_with_the_global_batch():
    assert training.scaled_rate(0.3, 4096) == pytest.approx(4.8)
    assert training.scaled_rate(1.0, 256) == 1.0


def test_spread_counts_directions():
    generator = torch.Generator().manual_seed(0)
    even = torch.nn.functional.normalize(torch.randn(2000, 16, generator=generator), dim=1)
    flat = torch.nn.functional.normalize(torch.randn(2000, 3, generator=generator), dim=1)
    flat = torch.nn.functional.pad(flat, (0, 13))
    assert training.spread(even)["directions"] == 16
    assert training.spread(even)["mean_norm"] < 0.1
    assert training.spread(flat)["directions"] == 3
    one = training.spread(even[:1].repeat(5, 1))
    assert one["directions"] == 0
    assert one["mean_norm"] == pytest.approx(1)


def test_unknown_names_are_refused():
    with pytest.raises(KitError, match="adamw, sgd or lars"):
        training.make_optimiser("adam", [], 0.1, 0.0)
    with pytest.raises(KitError, match="choose sscd"):
        training.choose("sscc", "train")
    with pytest.raises(KitError, match="rdcd or kd_icd"):
        training.choose("relational", "distil")
    with pytest.raises(KitError, match="device"):
        training.pick_device("gpu7")


# --- fit


def test_training_lowers_the_loss_and_is_not_repeated(pixels, tmp_path):
    settings = config(epochs=12, ramp=0.0, strength=0.2, rate=3e-3)
    folder = training.fit(sscd(settings, pixels), pixels, tmp_path, "m", "cpu")
    history = training.read_history(folder)
    assert history.info_nce.tail(6).mean() < 0.8 * history.info_nce.head(6).mean()
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    again = sscd(settings, pixels)
    assert training.fit(again, pixels, tmp_path, "m", "cpu") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert state_key(again.model) != state_key(Descriptor(SMALL))  # holds the trained weights


def test_frozen_stages_stay_as_they_start(pixels, tmp_path):
    shape = DescriptorConfig(backbone="resnet10t", dim=16, size=32)
    keys = set()
    for stages in (0, 2):
        settings = config(epochs=1, freeze=stages)
        method = training.SSCD(Descriptor(shape), settings, training.steps_of(pixels, settings))
        keys.add(method.key())
        training.fit(method, pixels, tmp_path, f"f{stages}", "cpu")
        before, after = Descriptor(shape).state_dict(), method.model.state_dict()
        changed = {name.split(".")[2] for name in before if name.startswith("backbone")
                   if not torch.equal(before[name], after[name])}  # fmt: skip
        frozen = {"conv1", "bn1", "layer1"}
        assert changed & frozen == (set() if stages else frozen)
        assert changed >= {"layer2", "layer3", "layer4"}
    assert len(keys) == 2
    with pytest.raises(KitError, match="'resnet10t' has 5 stages"):
        Descriptor(shape).backbone.freeze(6)
    with pytest.raises(KitError, match="has 0 stages that can be frozen"):
        Descriptor(DescriptorConfig(backbone="torchvision:resnet18")).backbone.freeze(1)


def test_long_gradients_are_shortened_and_logged(pixels, tmp_path):
    settings = config(epochs=1, clip=1e-6, optimiser="sgd", rate=1.0, weight_decay=0.0)
    method = sscd(settings, pixels)
    before = [p.detach().clone() for p in method.parameters()]
    history = training.read_history(training.fit(method, pixels, tmp_path, "m", "cpu"))
    moved = [(p.detach() - q).norm() ** 2 for p, q in zip(method.parameters(), before, strict=True)]
    assert float(sum(moved)) ** 0.5 < 1e-4  # six steps of at most 1e-5 each with momentum
    assert (history.gradient_norm > 1e-3).all()


def test_the_last_step_of_an_epoch_tells_the_spread(pixels, tmp_path):
    history = training.read_history(
        training.fit(sscd(config(), pixels), pixels, tmp_path, "m", "cpu")
    )
    assert list(history.dropna(subset="directions").step) == [5, 11]


class Killed(Exception):
    pass


def test_a_killed_training_ends_as_an_unbroken_one(pixels, tmp_path):
    calls = []

    def dying(_model):
        calls.append(len(calls))
        if len(calls) == 3:
            raise Killed
        return {"uap": 0.0}

    settings = config(epochs=3)
    unbroken = training.fit(sscd(settings, pixels), pixels, tmp_path / "a", "m", "cpu")
    with pytest.raises(Killed):  # at the end of the second epoch
        training.fit(sscd(settings, pixels), pixels, tmp_path / "b", "m", "cpu", dying)
    assert not list((tmp_path / "b").glob("m-*"))
    resumed = training.fit(sscd(settings, pixels), pixels, tmp_path / "b", "m", "cpu", dying)
    assert len(calls) == 5  # after the second and third epoch: the first one was not repeated
    assert list(training.read_probes(resumed).step) == [0, 6, 12, 18]
    weights = [(path / "model.safetensors").read_bytes() for path in (unbroken, resumed)]
    assert weights[0] == weights[1]
    histories = [training.read_history(path) for path in (unbroken, resumed)]
    pd.testing.assert_frame_equal(*histories)


def test_a_killed_training_on_files_ends_as_an_unbroken_one(photos, tmp_path):
    calls = []

    def dying(_model):
        calls.append(len(calls))
        if len(calls) == 2:
            raise Killed
        return {"uap": 0.0}

    settings = config(epochs=2, path="images")
    data = training.open_views(photos, settings)  # one of its files is broken
    unbroken = training.fit(sscd(settings, data), data, tmp_path / "a", "m", "cpu")
    with pytest.raises(Killed):
        training.fit(sscd(settings, data), data, tmp_path / "b", "m", "cpu", dying)
    resumed = training.fit(sscd(settings, data), data, tmp_path / "b", "m", "cpu", dying)
    weights = [(path / "model.safetensors").read_bytes() for path in (unbroken, resumed)]
    assert weights[0] == weights[1]
    histories = [training.read_history(path) for path in (unbroken, resumed)]
    pd.testing.assert_frame_equal(*histories)


def test_every_method_takes_finished_views(photos):
    settings = config(path="images")
    views, ids = zip(*(training.open_views(photos, settings)[i] for i in range(8)), strict=True)
    images = training.to_views(torch.stack(views))
    assert images.shape == (8, 2, 3, 32, 32)
    plain = Descriptor(DescriptorConfig(backbone=SMALL.backbone, dim=0, size=32))
    shape = DescriptorConfig(backbone=SMALL.backbone, dim=8, size=32, hidden=16)
    methods = (
        training.SSCD(Descriptor(SMALL), settings, 10),
        training.Barlow(plain, settings, 10, width=16),
        training.RDCD(Descriptor(shape), settings, 10, teacher=Descriptor(SMALL), queue=16),
        training.KdIcd(Descriptor(shape), settings, 10, teacher=Descriptor(SMALL), queue=16),
    )
    for method in methods:
        assert torch.equal(method.two_views(images)[1], images[:, 1])
        assert torch.isfinite(method.loss(images, torch.tensor(ids))["loss"])


def test_paths_and_data_must_fit_together(photos, pixels, tmp_path):
    with pytest.raises(KitError, match="choose tensor or images"):
        sscd(config(path="files"), pixels)
    settings = config(path="images")
    with pytest.raises(KitError, match="open_views"):
        training.fit(sscd(settings, pixels), pixels, tmp_path, "m", "cpu")
    with pytest.raises(KitError, match="Pixels"):
        data = training.open_views(photos, settings)
        training.fit(sscd(config(), data), data, tmp_path, "m", "cpu")


def test_the_strength_of_files_rises_by_epochs(photos):
    data = training.open_views(photos, config(epochs=4, ramp=0.5, strength=0.8))
    assert isinstance(data, EditedViews)
    assert data.strengths == pytest.approx([0.24, 0.52, 0.8, 0.8])


def test_a_recipe_with_mix_gives_some_rows_two_sources(pixels, tmp_path, monkeypatch):
    file, seen = tmp_path / "mixed.yaml", []
    text = "draw: each\noperations:\n  hflip:\nmix: {probability: 0.5, alpha: 2.0}\n"
    file.write_text(text, encoding="utf-8")
    given = training.sscd.global_pairs

    def watched(rows, sources):
        seen.append(sources)
        return given(rows, sources)

    monkeypatch.setattr(training.sscd, "global_pairs", watched)
    images, ids = pixels.__getitems__(list(range(16)))
    method = sscd(config(recipe=str(file)), pixels)
    losses = [method.loss(training.to_views(images), ids)["loss"].detach() for _ in range(2)]
    assert torch.equal(*losses)  # the same step mixes the same rows
    two = (seen[0][:, 0] != seen[0][:, 1]).float().mean()
    assert 0.2 < two < 0.8
    assert torch.equal(seen[0][:, 0], torch.cat([ids, ids]))
    plain = tmp_path / "plain.yaml"
    plain.write_text(text.splitlines()[0] + "\noperations:\n  hflip:\n", encoding="utf-8")
    assert sscd(config(recipe=str(plain)), pixels).key() != method.key()


def test_barlow_twins_trains_the_backbone(pixels, tmp_path):
    settings = config(epochs=8, batch_size=24, mild_first=False, strength=0.0, rate=3e-3)
    model = Descriptor(DescriptorConfig(backbone=SMALL.backbone, dim=0, size=32))
    method = training.Barlow(model, settings, training.steps_of(pixels, settings), width=32)
    history = training.read_history(training.fit(method, pixels, tmp_path, "p", "cpu"))
    assert history.loss.tail(4).mean() < 0.8 * history.loss.head(4).mean()


def test_too_large_a_batch_is_refused(pixels):
    with pytest.raises(KitError, match="batch_size 100"):
        training.steps_of(pixels, config(batch_size=100))


# --- probe


def test_a_perfect_network_has_a_perfect_probe(pixels):
    unedited = {"draw": "each", "operations": {"hflip": {"probability": 0.0}}}
    probe = Probe(pixels, 32, recipe=parse_recipe("unedited", unedited))

    class Raw(torch.nn.Module):
        mean = torch.zeros(1)

        def forward(self, images):
            centred = images.flatten(1) - images.flatten(1).mean(1, keepdim=True)
            return torch.nn.functional.normalize(centred, dim=1)

    measured = probe(Raw())
    assert measured["uap"] > 0.999
    similarity = probe.similarity(Raw()) / 0.1
    terms = [
        np.log(np.exp(similarity[i] - similarity[i].max()).sum())
        + similarity[i].max()
        - similarity[i, i]
        for i in range(24)
    ]
    assert measured["loss"] == pytest.approx(np.mean(terms), rel=1e-4)
    assert probe.truth.reference_id.ne("").sum() == 24


def test_probe_needs_images(pixels):
    with pytest.raises(KitError, match="20"):
        Probe(pixels.split(0.1)[1], 32)


# --- extraction


def test_extraction_equals_one_image_at_a_time(photos, tmp_path):
    model = Descriptor(SMALL, seed=3)
    folder = model.save(tmp_path / "m")
    with open_executor("serial") as pool:
        path = extract(photos, folder, [32, 48], tmp_path, pool, device="cpu", batch_size=7)
    rows = read_descriptors(path)
    assert rows.ids == photos.ids[:48]
    assert read_skipped(path) == [("p99", str(photos.path(48)), "empty file (0 bytes)")]
    for i in (0, 20, 47):
        assert np.allclose(rows.vectors[i], describe(photos, i, model.eval(), [32, 48]), atol=1e-5)


def test_each_image_is_decoded_once_whatever_the_scales(photos, tmp_path, monkeypatch):
    folder, calls = Descriptor(SMALL).save(tmp_path / "m"), []
    load = type(photos).load_noted
    monkeypatch.setattr(
        type(photos), "load_noted", lambda self, i, **k: calls.append(i) or load(self, i, **k)
    )
    with open_executor("serial") as pool:
        extract(photos, folder, [32, 40, 48], tmp_path, pool, device="cpu")
    assert sorted(calls) == list(range(49))


def test_short_side_extraction_groups_shapes(photos, tmp_path):
    shape = DescriptorConfig(backbone=SMALL.backbone, dim=16, size=32, resize="short")
    model = Descriptor(shape)
    folder = model.save(tmp_path / "m")
    with open_executor("serial") as pool:
        path = extract(photos, folder, [32], tmp_path, pool, device="cpu")
    row = describe(photos, 5, model.eval(), [32])
    assert np.allclose(read_descriptors(path).vectors[5], row, atol=1e-5)


def test_resize_may_differ_from_the_models_own(photos, tmp_path):
    model = Descriptor(SMALL, seed=3)
    folder = model.save(tmp_path / "m")
    with open_executor("serial") as pool:
        own, squashed, short = (
            extract(photos, folder, [32], tmp_path, pool, device="cpu", resize=resize)
            for resize in ("model", "squash", "short")
        )
    assert own == squashed
    assert difference_alone(short, photos, model.eval(), 5) < 1e-5
    alone = describe(photos, 5, model, [32], resize="short")
    rows = read_descriptors(short).vectors
    assert np.allclose(rows[5], alone, atol=1e-5)
    assert abs(rows - read_descriptors(own).vectors).max() > 1e-3  # the pictures are no squares


def test_extraction_refuses_senseless_sizes(photos, tmp_path):
    folder = Descriptor(SMALL).save(tmp_path / "m")
    with open_executor("serial") as pool, pytest.raises(KitError, match="at least 16"):
        extract(photos, folder, [], tmp_path, pool)


def test_pdq_inner_product_is_the_hamming_distance(photos, tmp_path):
    with open_executor("serial") as pool:
        vectors = read_descriptors(extract_pdq(photos, tmp_path, pool)).vectors
    bits = vectors > 0
    hamming = (bits[0] != bits[1]).sum()
    assert vectors[0] @ vectors[1] == pytest.approx(1 - 2 * hamming / 256)
    assert vectors[0] @ vectors[0] == pytest.approx(1)
