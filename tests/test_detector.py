"""The overlay detector: pictures with boxes, networks, training that resumes, detection."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from iscutils import edits
from iscutils.descriptors import boxes
from iscutils.descriptors.boxes import BOX
from iscutils.detector import detect as detector
from iscutils.detector import networks as detector_networks
from iscutils.detector import training as detector_training
from iscutils.detector.pictures import (
    Examples,
    make_pictures,
    open_pictures,
    split_photographs,
)
from iscutils.edits import load_recipe
from iscutils.edits.making import Maker
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import FileImages, GeneratedImages, open_folder

TINY = {"size": 64, "pictures": 16, "held_out": 6, "epochs": 2, "batch_size": 8,
        "backbone": "test_resnet"}  # fmt: skip


def draw(number):
    """A made-up photograph: soft colours with a bright disc."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(40, 200, (6, 8, 3)).astype(np.uint8))
    return coarse.resize((96, 72), Image.Resampling.BICUBIC)


PHOTOGRAPHS = GeneratedImages([f"p{i:02}" for i in range(20)], draw, range(20), "test")


@pytest.fixture(scope="module")
def serial():
    with open_executor("serial") as executor:
        yield executor


@pytest.fixture(scope="module")
def made(tmp_path_factory, serial):
    """Pictures of a tiny detector, and the folder they lie in."""
    out = tmp_path_factory.mktemp("detector")
    config = detector.detector_config("small", **TINY)
    return out, config, make_pictures(PHOTOGRAPHS, config, out, serial)


@pytest.fixture(scope="module")
def trained(made, serial):
    out, config, _ = made
    return detector.train_detector(PHOTOGRAPHS, config, out, serial, "cpu")


def test_the_recipe_follows_the_specification():
    recipe = load_recipe("overlay_boxes")
    kinds = next(entry for entry in recipe.group.entries if entry.name == "kind").group
    shares = {entry.name: entry.share for entry in kinds.entries}
    assert shares["none"] == 0.30
    assert shares["one"] == 0.45
    assert shares["canvas"] == 0.15
    assert shares["several"] + shares["collage"] == pytest.approx(0.10)
    one = next(entry for entry in kinds.entries if entry.name == "one").parameters
    assert (one["scale"].low, one["scale"].high) == (0.2, 0.9)  # D2LV uses the detector too
    assert recipe.box_area == (0.04, 0.85)
    stickers = next(entry for entry in recipe.group.entries if entry.name == "stickers").group
    assert stickers.count == {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}


WHOLE = {  # edits of the whole picture that move boxes, as in the recipe
    "nothing": [],
    "hflip": [("hflip", {})],
    "vflip": [("vflip", {})],
    "rot90": [("rot90", {"turns": 3})],
    "narrow": [("aspect", {"factor": 0.8})],
    "wide": [("aspect", {"factor": 1.25})],
    "pad": [("pad", {"left": 0.2, "right": 0.05, "top": 0.1, "bottom": 0.15})],
    "all": [
        ("hflip", {}), ("vflip", {}), ("rot90", {"turns": 1}), ("aspect", {"factor": 1.2}),
        ("pad", {"left": 0.1, "right": 0.0, "top": 0.2, "bottom": 0.0}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_a_box_is_the_bounds_of_its_overlay_after_edits_of_the_whole_picture(name):
    """Check 14, for overlays turned, flipped and in quarter turns."""
    red = Image.new("RGB", (120, 80), (255, 0, 0))
    for seed, (turn, quarter, flip) in enumerate(
        [(0.0, 0, False), (0.0, 1, True), (-25.0, 0, False), (14.0, 3, True)]
    ):
        fixed = {"turn": turn, "quarter": quarter, "flip": flip, "opacity": 1.0, "shadow": False,
                 "border": 0.0, "shape": "rectangle", "scale": 0.5}  # fmt: skip
        _, values = edits.draw_operation("photo_overlay", np.random.default_rng(seed))
        operations = [("photo_overlay", values | fixed | {"donor": 0})]
        for whole, given in WHOLE[name]:
            drawn = edits.draw_operation(whole, np.random.default_rng(seed))[1]
            operations.append((whole, drawn | given))
        edited = edits.apply(Image.new("RGB", (300, 200), (20, 90, 90)), operations, [red])
        (box,) = edited.boxes
        pixels = np.asarray(edited.image).astype(int)
        mask = pixels[..., 0] - pixels[..., 1] > (20 - 90 + 255) / 2  # more than half of it is red
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        bounds = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        assert np.abs(np.subtract(bounds, box.bounds)).max() <= 1, (seed, box.bounds)


def test_seed_and_index_fix_the_bytes_of_a_picture():
    recipe = dataclasses.replace(load_recipe("overlay_boxes"), source=64)
    made = [
        Maker(PHOTOGRAPHS, PHOTOGRAPHS, recipe, seed).make(3, (index,))[0]
        for seed, index in ((0, 5), (0, 5), (1, 5), (0, 6))
    ]
    known = [
        (edited.image.tobytes(), [(box.kind, box.bounds) for box in edited.boxes])
        for edited in made
    ]
    assert known[0] == known[1]
    assert known[0] != known[2]
    assert known[0] != known[3]


def test_three_in_ten_pictures_have_no_overlay_also_after_refusals():
    recipe = dataclasses.replace(load_recipe("overlay_boxes"), source=64)
    maker = Maker(PHOTOGRAPHS, PHOTOGRAPHS, recipe, 0)
    silent = 0
    for i in range(400):
        edited, _ = maker.make(i % 20, (i,))
        silent += not any(box.kind != "sticker" for box in edited.boxes)
    assert silent / 400 == pytest.approx(0.30, abs=0.07)  # three standard deviations


def test_photographs_are_split_and_none_is_on_both_sides(made):
    train, held_out = split_photographs(PHOTOGRAPHS, 0)
    assert sorted(train.ids + held_out.ids) == PHOTOGRAPHS.ids
    assert len(held_out) == 2
    out, _, _ = made
    used = []
    for side in ("train", "held_out"):
        folder = next(out.glob("detector-pictures-*")) / side
        manifest = pd.read_parquet(folder / "manifest.parquet")
        used.append(set(manifest.source_id) | {name for row in manifest.donors for name in row})
    assert used[0] <= set(train.ids)
    assert used[1] <= set(held_out.ids)
    with pytest.raises(KitError, match="too few"):
        split_photographs(PHOTOGRAPHS.subset([0, 1]), 0)


def test_as_many_pictures_as_asked_for_with_boxes_inside(made):
    _, config, (train, held_out) = made
    assert (len(train.images), len(held_out.images)) == (config.pictures, config.held_out)
    assert set(train.truth["class"]) <= set(boxes.CLASSES)
    for row in train.truth.itertuples():
        width, height = train.sizes[row.image_id]
        assert 0 <= row.x0 < row.x1 <= width
        assert 0 <= row.y0 < row.y1 <= height
    assert train.images.load(0).size == train.sizes[train.images.ids[0]]


def test_examples_are_mirrored_with_their_boxes(made):
    _, config, (train, _) = made
    examples = Examples(train, config)
    i = next(i for i in range(len(examples)) if len(examples.boxes[i]))
    seen = {}
    for epoch in range(20):  # one of both kinds is among them
        pixels, target = examples[(epoch, i)]
        seen[pixels.numpy().tobytes()] = (pixels, target["boxes"])
    (first, boxes_first), (second, boxes_second) = seen.values()
    assert torch.equal(first, second.flip(1))
    width = first.shape[1]
    mirrored = width - boxes_second[:, [2, 1, 0, 3]]
    torch.testing.assert_close(boxes_first[:, [0, 2]], mirrored[:, [0, 2]])
    torch.testing.assert_close(boxes_first[:, [1, 3]], boxes_second[:, [1, 3]])
    assert max(first.shape[:2]) == config.size


@pytest.mark.parametrize("network", ["fcos", "fcos_small", "faster_rcnn", "ssdlite"])
def test_every_network_has_a_loss_and_gives_boxes_of_the_kit(network):
    backbone = "torchvision:resnet18" if network == "fcos" else ""
    config = detector.detector_config("small", network=network, size=64, backbone=backbone)
    net = detector_networks.build_network(config)
    images = [torch.rand(3, 48, 64), torch.rand(3, 64, 40)]
    target = {"boxes": torch.tensor([[4.0, 5, 30, 40]]), "labels": torch.tensor([2])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = net.train()(images, [target, none])
    assert torch.isfinite(sum(losses.values()))
    pixels = [np.zeros((48, 64, 3), np.uint8), np.full((64, 40, 3), 200, np.uint8)]
    for table in detector_networks.find_boxes(net, pixels, torch.device("cpu")):
        assert list(table.columns) == ["class", "confidence", *BOX]
        assert set(table["class"]) <= set(boxes.CLASSES)
        assert table["confidence"].is_monotonic_decreasing


def test_start_weights_follow_the_seed():
    config = detector.detector_config("small", **TINY)
    first, second = (detector_networks.build_network(config).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = detector_networks.build_network(detector.detector_config("small", **TINY | {"seed": 1}))
    assert not torch.equal(first["backbone.fpn.layer_blocks.0.0.weight"],
                           other.state_dict()["backbone.fpn.layer_blocks.0.0.weight"])  # fmt: skip


def test_a_trunk_of_a_model_folder_is_taken_over(tmp_path):
    from iscutils.models import Descriptor, DescriptorConfig

    model = Descriptor(DescriptorConfig(backbone="test_resnet", dim=8), seed=3)
    folder = model.save(tmp_path / "model")
    config = detector.detector_config("small", **TINY | {"trunk": str(folder), "backbone": ""})
    assert detector_networks.resolve_config(config).backbone == "test_resnet"
    trunk = detector_networks.build_network(config).backbone.trunk.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(trunk[name], value)


def test_settings_that_do_not_exist_are_named():
    with pytest.raises(KitError, match="did you mean 'epochs'"):
        detector.detector_config("small", epoch=3)
    with pytest.raises(KitError, match="fcos_small"):
        detector.detector_config("small", network="yolo")
    with pytest.raises(KitError, match="preset"):
        detector.detector_config("tiny")
    with pytest.raises(KitError, match="trunk"):
        detector.detector_config("small", network="ssdlite", trunk="runs/demo/models/x")


def test_a_detector_folder_holds_what_it_promises(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics["ap"]) == set(boxes.CLASSES)
    points = boxes.operating_points(trained)
    assert 0 <= points["recall"] <= points["precise"] <= 1
    history = pd.read_csv(trained / "history.csv")
    assert history["step"].tolist() == [1, 2, 3, 4]
    assert len(pd.read_csv(trained / "epochs.csv")) == 2
    assert len(boxes.read_sizes(trained / "held_out.csv")) == TINY["held_out"]
    network, config = detector.load_detector(trained)
    assert not network.training
    assert config.backbone == "test_resnet"
    with pytest.raises(KitError, match="no detector folder"):
        detector.load_detector(trained.parent)


def test_finished_training_is_skipped(made, trained, serial):
    out, config, _ = made
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert detector.train_detector(PHOTOGRAPHS, config, out, serial, "cpu") == trained
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


def test_a_killed_training_resumes_and_ends_alike(trained, made, serial, tmp_path, monkeypatch):
    _, config, _ = made
    step = detector_training._Training.training_step

    def killed(self, batch, index):
        if self.current_epoch == 1:
            raise RuntimeError("killed")
        return step(self, batch, index)

    monkeypatch.setattr(detector_training._Training, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        detector.train_detector(PHOTOGRAPHS, config, tmp_path, serial, "cpu")
    monkeypatch.setattr(detector_training._Training, "training_step", step)
    again = detector.train_detector(PHOTOGRAPHS, config, tmp_path, serial, "cpu")
    assert again.name == trained.name
    pd.testing.assert_frame_equal(
        pd.read_csv(again / "history.csv"), pd.read_csv(trained / "history.csv")
    )
    whole, resumed = (detector.load_detector(f)[0].state_dict() for f in (trained, again))
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value)


class _Bright(torch.nn.Module):
    """In the place of a network: finds the bounds of what is nearly white, exactly."""

    def forward(self, images):
        found = []
        for image in images:
            rows, columns = torch.nonzero(image.min(0).values > 0.9, as_tuple=True)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes_ = torch.tensor([box, [0, 0, 8, 8]], dtype=torch.float32)
            found.append({"boxes": boxes_, "labels": torch.tensor([1, 2]),
                          "scores": torch.tensor([0.5, 0.9])})  # fmt: skip
        return found


BOUNDS = (40, 25, 120, 95)  # of the bright part, px of the original


def bright_image(size):
    pixels = np.full((size[1], size[0], 3), 30, np.uint8)
    x0, y0, x1, y1 = BOUNDS
    pixels[y0:y1, x0:x1] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def found(trained, serial, tmp_path, monkeypatch):
    """Detections of `_Bright` in files of different shapes, one of them broken, one turned."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in {"a": (201, 133), "b": (150, 333), "d": (700, 500)}.items():
        bright_image(size).save(folder / f"{name}.png")
    (folder / "c.jpg").write_bytes(b"no picture")
    # Upright it is 201 x 133: the file is stored a quarter turn off, and says so.
    turned = bright_image((201, 133)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "e.jpg", quality=98, exif=exif)
    bright_image((640, 480)).save(folder / "f.jpg", quality=98)  # decoded at a quarter of that
    _, config = detector.load_detector(trained)
    monkeypatch.setattr(detector, "load_detector", lambda folder: (_Bright(), config))
    images = open_folder(folder)
    images = images.subset([5, 4, 3, 2, 1, 0])
    return images, detector.detect(images, trained, tmp_path / "out", serial, "cpu")


def test_detections_are_in_px_of_the_original(found):
    _, path = found
    table = boxes.read_detections(path)
    assert table["image_id"].drop_duplicates().tolist() == ["f", "e", "d", "b", "a"]
    assert table["confidence"].tolist() == [0.9, 0.5] * 5
    overlay = table[table["class"] == "overlay"]
    for row in overlay.itertuples():
        # One px of the scaled picture is several of the original: 64 px are the long side.
        width, height = boxes.read_sizes(path)[row.image_id]
        step = max(width, height) / 64
        assert (row.x0, row.y0, row.x1, row.y1) == pytest.approx(BOUNDS, abs=max(1, 1.01 * step))


def test_sizes_are_upright_and_broken_pictures_listed(found):
    _, path = found
    sizes = boxes.read_sizes(path)
    assert sizes["e"] == sizes["a"] == (201, 133)
    assert sizes["f"] == (640, 480)
    ((name, file, reason),) = boxes.read_unreadable(path)
    assert name == "c"
    assert file.endswith("c.jpg")
    assert "not a JPEG" in reason


def test_scaled_boxes_return_exactly():
    table = pd.DataFrame([["overlay", 0.5, 0, 0, 64, 43], ["overlay", 0.4, 32, 0, 64, 21.5]],
                         columns=["class", "confidence", *BOX])  # fmt: skip
    back = detector_networks.to_original(table, (43, 64, 3), (201, 133), "a")
    np.testing.assert_allclose(back[BOX], [[0, 0, 201, 133], [100.5, 0, 201, 66.5]])


def test_a_drawn_detection_comes_back_within_a_pixel(trained, serial, tmp_path, monkeypatch):
    _, config = detector.load_detector(trained)
    from dataclasses import replace

    full = replace(config, size=640)
    monkeypatch.setattr(detector, "load_detector", lambda folder: (_Bright(), full))
    images = GeneratedImages(["a", "b", "c"], bright_image, [(201, 133), (640, 333), (130, 400)], 0)
    path = detector.detect(images, trained, tmp_path, serial, "cpu")
    table = boxes.read_detections(path)
    for row in table[table["class"] == "overlay"].itertuples():
        assert (row.x0, row.y0, row.x1, row.y1) == pytest.approx(BOUNDS, abs=1)


def test_a_killed_detection_resumes(trained, serial, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "SHARD", 4)
    whole = detector.detect(PHOTOGRAPHS, trained, tmp_path / "whole", serial, "cpu")
    read, seen = detector.read_scaled, []

    def killed(images, size, index):
        if index == 9:
            raise RuntimeError("killed")
        return read(images, size, index)

    def counting(images, size, index):
        seen.append(index)
        return read(images, size, index)

    monkeypatch.setattr(detector, "read_scaled", killed)
    with pytest.raises(RuntimeError, match="killed"):
        detector.detect(PHOTOGRAPHS, trained, tmp_path / "again", serial, "cpu")
    monkeypatch.setattr(detector, "read_scaled", counting)
    again = detector.detect(PHOTOGRAPHS, trained, tmp_path / "again", serial, "cpu")
    assert seen == list(range(8, 20))
    assert again.read_bytes() == whole.read_bytes()
    assert boxes.images_file(again).read_bytes() == boxes.images_file(whole).read_bytes()
    assert not list(again.parent.glob(".*"))


def test_a_silent_picture_keeps_a_row(trained, serial, tmp_path, monkeypatch):
    class Silent(torch.nn.Module):
        def forward(self, images):
            none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}
            return [{**none, "labels": torch.zeros(0, dtype=torch.int64)} for _ in images]

    _, config = detector.load_detector(trained)
    monkeypatch.setattr(detector, "load_detector", lambda folder: (Silent(), config))
    few = PHOTOGRAPHS.subset([0, 1])
    table = boxes.read_detections(detector.detect(few, trained, tmp_path, serial, "cpu"))
    assert table["image_id"].tolist() == ["p00", "p01"]
    assert table["class"].tolist() == ["", ""]


def test_opened_pictures_are_files(made):
    out, _, (train, _) = made
    folder = next(out.glob("detector-pictures-*")) / "train"
    assert isinstance(open_pictures(folder).images, FileImages)
    assert len(open_pictures(folder, limit=3).images) == 3
    assert set(open_pictures(folder, limit=3).truth["image_id"]) <= set(train.images.ids[:3])
