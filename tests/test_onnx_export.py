"""Models as ONNX files: from pixels to the descriptor, in floats and in 8 bits."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from timm.layers import Conv2dSame

from iscutils.__main__ import main
from iscutils.descriptors.extract import extract
from iscutils.descriptors.store import read_descriptors
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.files.prepare import prepare
from iscutils.models import (
    Descriptor,
    DescriptorConfig,
    OnnxDescriptor,
    export,
    load,
    pack,
    shipped,
)
from iscutils.models.export import core_graph, export_onnx, fixed_padding
from iscutils.models.graph import with_resize

CONFIG = DescriptorConfig("resnet10t", dim=8, hidden=12, size=48)
SIDES = [(60, 90), (120, 75), (64, 64), (200, 130), (90, 61), (75, 121)]


@pytest.fixture(scope="module")
def model():
    network = Descriptor(CONFIG, seed=1).train()
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(8):  # batch norms with statistics of their own
            network(torch.rand(4, 3, 48, 48))
    return network.eval()


@pytest.fixture(scope="module")
def core(model):
    return core_graph(export.folded(model), [32, 48])


@pytest.fixture
def quick(core, monkeypatch):
    """Torch writes the graph once for all tests: it takes seconds."""

    def copy(*_):
        made = type(core)()
        made.CopyFrom(core)
        return made

    monkeypatch.setattr(export, "core_graph", copy)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in SIDES]
    return [
        Image.fromarray(small).resize(sides, Image.Resampling.BICUBIC)
        for small, sides in zip(noise, SIDES, strict=True)
    ]


@torch.inference_mode()
def by_torch(model, picture, sizes, resize="squash"):
    """Unit rows, size by size, averaged."""
    ways = [torch.tensor(prepare(picture, size, resize)) for size in sizes]
    rows = sum(model(way.permute(2, 0, 1)[None].float() / 255) for way in ways)
    return torch.nn.functional.normalize(rows, dim=1)[0].numpy()


def test_the_graph_goes_from_pixels_of_any_size_to_the_descriptor(model, pictures, quick, tmp_path):
    file = tmp_path / "m.onnx"
    cosines = export_onnx(model, file, pictures, [48, 32])
    assert cosines["min"] > 0.999
    session = onnxruntime.InferenceSession(file)  # all that who uses the file needs
    for picture in pictures:
        rows = session.run(None, {"image": np.asarray(picture)[None]})[0]
        assert rows.shape == (1, 8)
        assert abs(np.linalg.norm(rows) - 1) < 1e-5
        assert rows[0] @ by_torch(model, picture, [32, 48]) > 0.999
    batch = np.stack([np.asarray(pictures[2])] * 3)
    assert np.allclose(session.run(None, {"image": batch})[0], rows_of(session, batch), atol=1e-5)
    notes = session.get_modelmeta().custom_metadata_map
    facts = ("dim", "size", "sizes", "resize", "precision", "opset", "backbone")
    assert [notes[name] for name in facts] == [
        "8", "48", "[32, 48]", "squash", "float32", "18", "resnet10t",
    ]  # fmt: skip
    assert notes["kit"].startswith("iscutils ")
    assert "uint8 RGB (N, H, W, 3) of any size" in notes["input"]
    again = load(file)
    assert (again.name, again.dim, again.size) == ("resnet10t-8d", 8, 48)
    assert list(tmp_path.iterdir()) == [file]


def rows_of(session, batch):
    return np.concatenate([session.run(None, {"image": one[None]})[0] for one in batch])


def test_the_shape_may_be_kept(model, core, pictures):
    graph = with_resize(core, [32, 48], "short")
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for picture in pictures:
        rows = session.run(None, {"image": np.asarray(picture)[None]})[0]
        assert rows[0] @ by_torch(model, picture, [32, 48], "short") > 0.999


@pytest.fixture
def small(model, pictures, quick, tmp_path, monkeypatch):
    """The network as one that comes with the kit, with its int8 graph."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    return pack(model, "small", rows, [32, 48], "", pictures=pictures)


def test_a_cpu_describes_in_int8_where_precision_is_auto(model, pictures, small, tmp_path):
    weights = sum(value.numel() for value in load("small").parameters())
    assert (small / "model.onnx").stat().st_size < 1.2 * weights
    assert OnnxDescriptor(small / "model.onnx").layout.whole
    (tmp_path / "photos").mkdir()
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / "photos" / f"p{i}.png")
    photos, found = open_folder(tmp_path / "photos"), {}
    with open_executor("serial") as pool:
        for precision in ("32", "auto"):
            file = extract(photos, "small", [32, 48], tmp_path / "out", pool, device="cpu",
                           precision=precision)  # fmt: skip
            found[precision] = read_descriptors(file).vectors
    expected = np.array([by_torch(model, picture, [32, 48]) for picture in pictures])
    assert (found["32"] * expected).sum(1).min() > 0.9999
    cosines = (found["auto"] * expected).sum(1)
    assert 0.99 < cosines.mean() < 0.99999
    assert len(list((tmp_path / "out").glob("*.h5"))) == 2  # told apart by their names


def test_what_int8_changes_too_much_is_refused(model, pictures, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LEAST_INT8", 1.1)
    with pytest.raises(KitError, match=r"resnet10t.*cosine 0\.99.*in float32 \(no int8\)"):
        export_onnx(model, tmp_path / "m.onnx", pictures, int8=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    folder = pack(model, "small", rows, [32], "", pictures=pictures)
    assert not (folder / "model.onnx").exists()  # torch runs it


def test_the_command_writes_a_file(model, pictures, quick, tmp_path, capsys):
    model.save(tmp_path / "model")
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"p{i}.png")
    out = tmp_path / "m.onnx"
    given = ["export", str(tmp_path / "model"), str(out), "--calibrate", str(tmp_path), "--int8"]
    assert main(given) == 0
    assert "cosine with torch: 0.99" in capsys.readouterr().out
    assert json.loads(load(out).session.get_modelmeta().custom_metadata_map["sizes"]) == [48]
    assert main(["export", str(out), str(tmp_path / "again.onnx")]) == 1
    assert "exported already" in capsys.readouterr().err


class Fixed(torch.nn.Module):
    """A trunk whose shapes a trace writes down."""

    def forward(self, images):
        return images.reshape(len(images), 3, int(images.shape[2]), 80).relu()


def test_a_network_bound_to_one_size_is_not_exported(tmp_path, pictures):
    bound = Descriptor(DescriptorConfig(CONFIG.backbone, dim=0, size=48))
    bound.backbone.net = Fixed()
    with pytest.raises(KitError, match="cannot be exported for every image size"):
        export_onnx(bound, tmp_path / "m.onnx", pictures)
    assert not list(tmp_path.iterdir())


@torch.inference_mode()
def test_padding_that_depends_on_the_side_is_fixed():
    """TensorFlow's padding, as EfficientNet-Lite0 has it."""
    model = Descriptor(DescriptorConfig(backbone="tf_efficientnet_lite0", dim=8, size=64)).eval()
    fixed = fixed_padding(model)
    assert not any(isinstance(layer, Conv2dSame) for layer in fixed.modules())
    for size in ((64, 64), (96, 160)):
        images = torch.rand(1, 3, *size)
        torch.testing.assert_close(fixed(images), model(images))
    with pytest.raises(KitError, match="multiples of 32, not for 112, 144"):
        core_graph(model, [112, 144])
    plain = Descriptor(DescriptorConfig(backbone="resnet10t", dim=8))
    assert fixed_padding(plain) is plain
