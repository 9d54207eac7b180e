"""D2LV, BoT and ASL: schedule, losses, the average of the weights, resuming, two processes."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F

from iscutils import training
from iscutils.files.artifacts import KitError
from iscutils.losses import NegativePairs, NormRatio
from iscutils.models import Descriptor, DescriptorConfig
from iscutils.training.asl import norms_of
from iscutils.training.ema import average_of, decay_at
from iscutils.training.optimisers import plateau_cosine

SIDE = 32
SMALL = DescriptorConfig(backbone="mobilenetv3_small_050", dim=16, size=SIDE)
WIDE = DescriptorConfig(backbone=SMALL.backbone, dim=8, size=SIDE, hidden=16)


def config(**changes) -> training.TrainConfig:
    given = dict(
        epochs=2, batch_size=4, size=SIDE, rate=3e-3, weight_decay=0.0, views=3,
        precision="32-true",
    )  # fmt: skip
    return training.TrainConfig(**{**given, **changes})


def made(name, settings, data, shape=SMALL, **options) -> training.Method:
    model, kind = Descriptor(shape), training.choose(name, "train")
    return kind(model, settings, training.steps_of(data, settings), data.classes, **options)


def _write_pixels(folder, count=24, side=40) -> training.Pixels:
    coarse = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    folder.mkdir(parents=True)
    np.save(folder / "0.npy", coarse.repeat(side // 5, 1).repeat(side // 5, 2))
    (folder / "ids.txt").write_text("\n".join(f"p{i:02d}" for i in range(count)))
    return training.Pixels(folder)


def _write_labelled(folder, ids=8, copies=4) -> training.Labelled:
    """A cache as `cache_labelled` writes it: crops of random pictures, the smaller the copy."""
    rng, pixels, rows = np.random.default_rng(1), [], []
    for name in range(ids):
        whole = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        for copy in range(copies):
            part = whole[: 8 - copy, : 8 - copy]
            index = np.arange(SIDE) * len(part) // SIDE
            pixels.append(part[index][:, index])
            scale = (8 - copy) ** 2 / 64
            rows.append((f"i{name}_{copy}", f"i{name}", copy, scale, True))
    folder.mkdir(parents=True)
    np.save(folder / "00000.npy", np.stack(pixels))
    table = pd.DataFrame(rows, columns=["image", "id", "copy", "scale", "readable"])
    table.to_parquet(folder / "pictures.parquet")
    pairs = pd.DataFrame({"image_a": ["i4", "i6"], "image_b": ["i5", "i7"]})
    return training.Labelled([folder], pairs, pairs_a_batch=1)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    return _write_pixels(tmp_path_factory.mktemp("d") / "pixels")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return _write_labelled(tmp_path_factory.mktemp("d") / "labelled")


# --- schedule and average


def test_published_schedule():
    shares = [plateau_cosine(epoch, 25) for epoch in range(25)]
    assert shares[:5] == pytest.approx([0.01, 0.208, 0.406, 0.604, 0.802])
    assert shares[5:11] == pytest.approx([1.0] * 6)
    assert shares[15] == pytest.approx(0.75)
    assert shares[20] == pytest.approx(0.25)
    assert shares[24] == pytest.approx(0.0109, abs=1e-4)
    assert [plateau_cosine(e, 50) for e in (20, 30)] == pytest.approx([1.0, shares[15]])


def test_the_schedule_goes_by_epochs(pixels):
    method = made("d2lv", config(schedule="d2lv", epochs=25), pixels)
    (optimiser,), (plan,) = method.configure_optimizers()
    assert plan["interval"] == "epoch"
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.01 * 3e-3)
    with pytest.raises(KitError, match="cosine or d2lv"):
        made("d2lv", config(schedule="step"), pixels).configure_optimizers()


def test_the_average_follows_its_formula_and_keeps_live_statistics():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average, slow = average_of(model, 0.5), None
    for step in range(12):
        with torch.no_grad():
            model[0].weight.fill_(step**2)
            model[1].running_mean.fill_(step)
        average.update_parameters(model)
        decay = min(0.5, step / (9 + step))  # n = step - 1
        slow = step**2 if slow is None else decay * slow + (1 - decay) * step**2
        assert torch.allclose(average.module[0].weight, torch.tensor(float(slow)))
        assert (average.module[1].running_mean == step).all()
    assert [decay_at(n, 0.9999) for n in (0, 8)] == [0.1, 0.5]
    assert decay_at(10**6, 0.9999) == 0.9999


# --- losses


def _batch(data, count=16):
    return data.__getitems__(list(range(count)))


def test_loss_of_finished_pictures_is_the_sum_of_its_parts(labelled):
    settings = config(path="labelled", batch_size=16, views=4, epochs=8)
    given, ids, scales, pairs = _batch(labelled, 32)
    method = made("asl", settings, labelled, norm_ramp=0.0, norm_weight=0.7).eval()
    images = training.to_views(given)
    parts = method.loss(images, ids, scales, pairs)
    rows = method.model.expand(method.model.pooled(images))[1]
    classes = F.normalize(rows, dim=1) @ F.normalize(method.classifiers[0].weight, dim=1).T
    margin = 0.35 * F.one_hot(ids, labelled.classes)
    expected = F.cross_entropy(64 * (classes - margin), ids)
    assert float(parts["classes"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    expected = expected + 0.7 * NormRatio()(rows, scales, ids) + NegativePairs()(rows, ids, pairs)
    assert float(parts["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    plain = made("d2lv", settings, labelled).eval().loss(images, ids, scales, pairs)
    assert torch.allclose(plain["loss"], parts["classes"])


def test_softmax_with_triplets(labelled):
    settings = config(path="labelled", batch_size=16, views=4)
    given, ids, scales, pairs = _batch(labelled)
    images = training.to_views(given)
    method = made("asl", settings, labelled, loss="softmax_triplet", norm_weight=0.0).eval()
    parts = {k: v.detach() for k, v in method.loss(images, ids, scales, pairs).items()}
    assert "negative" not in parts
    pooled = method.model.pooled(images)
    rows = method.model.expand(pooled)[1]
    expected = F.cross_entropy(rows @ method.classifiers[0].weight.T, ids, label_smoothing=0.1)
    assert float(parts["classes"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    distance, terms = torch.cdist(pooled, pooled).detach(), []
    for i in range(len(ids)):
        positive = max(distance[i, j] for j in range(len(ids)) if ids[j] == ids[i] and i != j)
        negative = min(distance[i, j] for j in range(len(ids)) if ids[j] != ids[i])
        terms.append(F.softplus(positive - negative))
    assert float(parts["triplet"]) == pytest.approx(float(torch.stack(terms).mean()), abs=1e-4)
    assert torch.allclose(parts["loss"], 10 * parts["classes"] + parts["triplet"])


def test_bot_has_a_classifier_on_each_level(pixels):
    method = made("bot", config(), pixels, WIDE)
    assert [c.weight.shape[1] for c in method.classifiers] == [16, 8]
    assert [c.penalty for c in method.classifiers] == pytest.approx([64 * 0.35, 64 * 0.6])
    method.loss(training.to_views(_batch(pixels)[0]), torch.arange(16))["loss"].backward()
    assert all(c.weight.grad.abs().sum() > 0 for c in method.classifiers)
    with pytest.raises(KitError, match="projector='bot'"):
        made("bot", config(), pixels, SMALL)


def test_classifiers_fit_the_published_heads(pixels):
    channels = Descriptor(SMALL).backbone.channels
    for name, dim, widths in (
        ("d2lv", 4 * channels, [4 * channels]),
        ("bot", 8, [4 * channels, 8]),
    ):
        shape = DescriptorConfig(backbone=SMALL.backbone, dim=dim, size=SIDE, projector=name)
        method = made(name, config(), pixels, shape)
        assert [c.weight.shape[1] for c in method.classifiers] == widths
        method.loss(training.to_views(_batch(pixels)[0]), torch.arange(16))["loss"].backward()
        images = torch.rand(2, 3, SIDE, SIDE)
        raw = method.eval().model.raw(images)
        assert torch.allclose(
            raw.norm(dim=1), method.levels(method.model.pooled(images))[-1].norm(dim=1)
        )


def test_views_of_photographs_share_their_class(pixels):
    settings = config(mild_first=True, strength=0.0, ramp=0.0)
    method = made("asl", settings, pixels)
    images = training.to_views(_batch(pixels, 5)[0])
    views, ids, scales = method.all_views(images, torch.arange(5), None)
    assert views.shape == (15, 3, SIDE, SIDE)
    assert ids.tolist() == [i for i in range(5) for _ in range(3)]
    assert scales.shape == (15,)
    assert scales.min() > 0.2
    coarse = F.adaptive_avg_pool2d(views, 2).flatten(1)
    nearest = torch.cdist(coarse, coarse).fill_diagonal_(9).argmin(1)
    assert (ids[nearest] == ids).float().mean() > 0.6  # chance is .14
    assert made("d2lv", settings, pixels).all_views(images, ids[:5], None)[2] is None


def test_part_views_are_plain_crops_and_edited_views_count_less(pixels):
    images = training.to_views(_batch(pixels, 6)[0])
    options = dict(part_views=1, edited=0.9)
    method = made("asl", config(ramp=0.0), pixels, **options)
    views, _, scales = method.all_views(images, torch.arange(6), None)
    plain = made("asl", config(ramp=0.0), pixels, part_views=1)
    content = plain.all_views(images, torch.arange(6), None)
    assert torch.equal(content[0], views)  # the factor changes no picture
    scales, shown = scales.view(6, 3), content[2].view(6, 3)
    assert torch.allclose(scales, shown * torch.tensor([1, 0.9, 0.9]))
    assert ((shown[:, 2] > 0.17) & (shown[:, 2] < 0.83)).all()
    coarse = images[:, :, 4::8, 4::8].flatten(2)  # the colours of the 25 patches of a photograph
    for view, colours in zip(views.view(6, 3, 3, SIDE, SIDE)[:, 2], coarse, strict=True):
        inner = view.flatten(1).T  # (pixels, 3)
        away = torch.cdist(inner, colours.T).amin(1)
        assert (away < 0.02).float().mean() > 0.2  # whole patches keep their colour
    with pytest.raises(KitError, match="part_views=3"):
        made("asl", config(), pixels, part_views=3)
    with pytest.raises(KitError, match="edited=0"):
        made("asl", config(), pixels, edited=0)


@pytest.mark.parametrize("name", ["pixels", "labelled"])
def test_imprinted_classes_are_descriptors_of_their_first_pictures(name, request):
    data = request.getfixturevalue(name)
    settings = config(path="tensor" if name == "pixels" else name)
    if name == "labelled":
        settings = replace(settings, batch_size=16, views=4)
    method = made("bot", settings, data, WIDE)
    method.imprint(data)
    assert method.model.training
    first = list(range(24)) if name == "pixels" else list(range(0, 32, 4))  # four copies an id
    images = F.interpolate(
        training.to_views(data.__getitems__(first)[0]),
        (SIDE, SIDE),
        mode="bilinear",
        antialias=True,
    )
    with torch.inference_mode():
        levels = method.model.eval().expand(method.model.pooled(images))
    for classifier, rows in zip(method.classifiers, levels, strict=True):
        assert torch.allclose(classifier.weight, F.normalize(rows, dim=1), atol=1e-5)
    with pytest.raises(KitError, match="finished pictures"):
        made("d2lv", replace(settings, path="images"), data).imprint(data)


def test_finished_pictures_are_mirrored_and_shifted_in_training_alone(labelled):
    method = made("d2lv", config(path="labelled", batch_size=16, views=4), labelled)
    images = torch.rand(40, 3, 51, 51) + 0.1
    views, known, _ = method.train().all_views(images, torch.arange(40), torch.ones(40))
    assert views.shape == images.shape
    padded, pad, mirrored = F.pad(images, [2] * 4), 2, 0
    for view, image in zip(views, padded, strict=True):
        places = [
            (flip, y, x)
            for flip in (False, True)
            for y in range(2 * pad + 1)
            for x in range(2 * pad + 1)
            if torch.equal(view, (image.flip(2) if flip else image)[:, y : y + 51, x : x + 51])
        ]
        assert len(places) == 1
        mirrored += places[0][0]
    assert 8 < mirrored < 32
    assert torch.equal(method.eval().all_views(images, known, None)[0], images)


def test_the_norm_loss_sets_in_slowly(pixels):
    method = made("asl", config(epochs=20), pixels)
    weights = []
    for step in (0, 6, 12, 24, 90):  # six steps are an epoch
        method.progress = lambda step=step: step / 120
        weights.append(method.weight_now())
    assert weights == pytest.approx([0, 0.25, 0.5, 1, 1])


def test_unfit_choices_are_refused(pixels, labelled):
    with pytest.raises(KitError, match="cosface or softmax_triplet"):
        made("d2lv", config(), pixels, loss="arcface")
    with pytest.raises(KitError, match="path 'tensor', or 'labelled'"):
        made("asl", config(path="images"), pixels)
    with pytest.raises(KitError, match="unknown to SSCD"):
        training.SSCD(Descriptor(SMALL), config(path="labelled"), 5)
    with pytest.raises(KitError, match="read_labelled"):
        training.fit(made("d2lv", config(path="labelled"), pixels), pixels, "unused", "m", "cpu")
    with pytest.raises(TypeError, match="temperature"):
        made("asl", config(), pixels, temperature=0.1)


# --- fit


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["d2lv", "asl"])
def test_a_killed_training_ends_as_an_unbroken_one(name, pixels, labelled, tmp_path):
    data = labelled if name == "asl" else pixels
    settings = config(epochs=3)
    if name == "asl":
        settings = config(epochs=3, path="labelled", batch_size=16, views=4, schedule="d2lv")
    calls, options = [], {"class_share": 0.5} if name == "asl" else {}

    def dying(_model):
        calls.append(len(calls))
        if len(calls) == 3:
            raise Killed
        return {"uap": 0.0}

    first = made(name, settings, data, **options)
    unbroken = training.fit(first, data, tmp_path / "a", "m", "cpu")
    with pytest.raises(Killed):  # at the end of the second epoch
        training.fit(made(name, settings, data, **options), data, tmp_path / "b", "m", "cpu", dying)
    second = made(name, settings, data, **options)
    resumed = training.fit(second, data, tmp_path / "b", "m", "cpu", dying)
    weights = [(path / "model.safetensors").read_bytes() for path in (unbroken, resumed)]
    assert weights[0] == weights[1]
    pd.testing.assert_frame_equal(*map(training.read_history, (unbroken, resumed)))
    for label, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[label]), label
    assert not (resumed / "training.safetensors").exists()
    # What is saved is the average, and the caller's network holds it
    for label, value in first.average.module.state_dict().items():
        assert torch.equal(first.model.state_dict()[label], value)


def test_training_learns_the_classes_and_the_content_of_held_out_pictures(tmp_path):
    """Wholes get longer than crops of themselves, also of ids that were not trained on."""
    settings = config(epochs=16, path="labelled", batch_size=16, views=4, rate=5e-3)
    _write_labelled(tmp_path / "set", ids=32)
    data = training.Labelled([tmp_path / "set"], without=[f"i{i}" for i in range(20, 32)])
    method = made("asl", settings, data, scale=16.0, norm_ramp=0.0, norm_weight=30.0)
    pictures = training.to_views(torch.from_numpy(np.load(tmp_path / "set" / "00000.npy")))

    def auc() -> float:
        norms = norms_of(method.model.eval(), pictures[20 * 4 :]).reshape(12, 4)
        decoys, copies = norms[:, :1] / norms[:, 1:], norms[:, 1:] / norms[:, :1]
        return float((decoys.reshape(-1, 1) > copies.reshape(1, -1)).mean())

    before = auc()
    history = training.read_history(training.fit(method, data, tmp_path, "m", "cpu"))
    for part in ("classes", "norm"):
        assert history[part].tail(6).mean() < 0.9 * history[part].head(6).mean(), part
    assert auc() > max(0.7, before)


def test_decoys_are_told_by_norms(pixels):
    model = Descriptor(SMALL)

    class Content(torch.nn.Module):
        """Length = how many of the coarse patches differ from their neighbours."""

        mean = torch.zeros(1)

        def pooled(self, images):
            edges = (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))
            return edges[:, None]

        def expand(self, pooled):
            return pooled, pooled

    found = training.decoy_auc(Content(), pixels, 40)
    assert found["auc"] > 0.7
    assert found["decoys_above"] > 0.9
    blind = training.decoy_auc(model.eval(), pixels, 40)
    assert 0 <= blind["auc"] <= 1
    assert blind["auc"] < found["auc"]


# --- several processes


def _gradients(settings) -> dict[str, torch.Tensor]:
    """Gradients of one step of finished views of eight images, of all processes together."""
    count, number = (2, dist.get_rank()) if dist.is_initialized() else (1, 0)
    method = training.D2LV(Descriptor(WIDE), settings, 5, classes=9).double().eval()
    for classifier in method.classifiers:
        classifier.split()
    generator = torch.Generator().manual_seed(2)
    views = torch.rand(8, 2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    own = slice(8 * number // count, 8 * (number + 1) // count)
    method.loss(views[own], torch.arange(8)[own])["loss"].backward()
    found = {}
    for label, parameter in method.named_parameters():
        if parameter.grad is None:
            continue
        if label.startswith("classifiers"):
            classifier = method.classifiers[int(label.split(".")[1])]
            found[label] = classifier.whole(parameter.grad)
        else:
            if count > 1:
                dist.all_reduce(parameter.grad)
            found[label] = parameter.grad / count
    return found


def _fit_two(folder, name, probe=None) -> training.D2LV:
    data = training.Pixels(f"{folder}/pixels")
    settings = config(batch_size=4, devices=2, clip=1.0, views=2)
    method = made("d2lv", settings, data)
    training.fit(method, data, f"{folder}/{name}", "m", "cpu", probe)
    return method


def _process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update(address | {name: str(value) for name, value in places.items()})
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(_gradients(config(path="images")), f"{folder}/{rank}.pt")
    calls = []

    def dying(_model):  # at the end of the second epoch
        calls.append(len(calls))
        if len(calls) == 3:
            raise Killed
        return {"uap": 0.0}

    whole = _fit_two(folder, "whole")
    with pytest.raises(Killed):
        _fit_two(folder, "killed", dying)
    resumed = _fit_two(folder, "killed", dying)
    for label, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[label]), label
    assert len(resumed.classifiers[0].weight) == 8
    torch.save(whole.state_dict(), f"{folder}/state{rank}.pt")
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    """Gradients are those of one process; a killed training of two ends as an unbroken one."""
    _write_pixels(tmp_path / "pixels", count=16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (port, str(tmp_path)), nprocs=2)
    first, one = torch.load(tmp_path / "0.pt", weights_only=True), _gradients(config(path="images"))
    assert first.keys() == one.keys()
    assert len([label for label in one if label.startswith("classifiers")]) == 2
    for label, value in one.items():
        assert torch.allclose(first[label], value, atol=1e-10, rtol=1e-8), label
    states = [torch.load(tmp_path / f"state{rank}.pt", weights_only=True) for rank in range(2)]
    for label in ("model.head.weight", "average.module.head.weight"):
        assert torch.equal(states[0][label], states[1][label])
    whole, killed = (next((tmp_path / name).glob("m-*")) for name in ("whole", "killed"))
    files = [(folder / "model.safetensors").read_bytes() for folder in (whole, killed)]
    assert files[0] == files[1]
