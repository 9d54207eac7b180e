"""Models that come with the kit: packed small, loaded by name, with a background of their own."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from iscutils.__main__ import main
from iscutils.artifacts import KitError, Run
from iscutils.descriptors.extract import read_skipped
from iscutils.descriptors.sets import (
    ExtractionConfig,
    extract_sets,
    find_models,
    shipped_backgrounds,
)
from iscutils.descriptors.store import read_descriptors, write_descriptors
from iscutils.executor import open_executor
from iscutils.images import GeneratedImages
from iscutils.models import Descriptor, DescriptorConfig, load, pack, shipped, shipped_background

SMALL = DescriptorConfig(backbone="mobilenetv3_small_050", dim=8, hidden=16, size=32)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty place for shipped models."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    return tmp_path / "weights"


def shade(item):
    return Image.new("RGB", (40, 40), (item, 5, 5))


def unit_rows(count, dim=8):
    rows = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_packed_model_describes_as_before(weights):
    model = Descriptor(SMALL).eval()
    folder = pack(model, "release-8", unit_rows(40), [32, 48], "# card")
    small = load("release-8")
    assert small.config.hidden == 0  # folded
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        assert (small(images) * model(images)).sum(1).min() > 0.999
    assert (folder / "README.md").read_text() == "# card"
    whole = sum(value.numel() for value in small.state_dict().values())
    assert (folder / "model.safetensors").stat().st_size < 2.5 * whole  # two bytes a weight
    assert shipped.shipped_names() == ["release-8"]


def test_the_background_is_as_much_as_fits(weights, monkeypatch):
    monkeypatch.setattr(shipped, "MOST_BACKGROUND", 2 * 8 * 30)
    given = unit_rows(40)
    pack(Descriptor(SMALL), "release-8", given, [32], "")
    vectors, sizes = shipped_background("release-8")
    assert vectors.shape == (30, 8)
    assert sizes == [32]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    nearest = (vectors @ given.T).argmax(1)
    assert (np.diff(nearest) > 0).all()  # thirty different ones, in their order
    assert np.allclose(vectors, given[nearest], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "rows", "limit", "message"),
    [
        ("../x", 40, None, "no name for a model"),
        (".x", 40, None, "no name for a model"),
        ("x", 8, None, "more than 8 rows"),
        ("x", 40, 1000, "pack a smaller student"),
    ],
)
def test_what_cannot_be_packed_leaves_nothing(weights, monkeypatch, name, rows, limit, message):
    if limit:
        monkeypatch.setattr(shipped, "MOST_WEIGHTS", limit)
    with pytest.raises(KitError, match=message):
        pack(Descriptor(SMALL), name, unit_rows(rows), [32], "")
    assert not weights.exists()


def test_unknown_names_say_what_there_is(weights):
    pack(Descriptor(SMALL), "release-8", unit_rows(40), [32], "")
    with pytest.raises(KitError, match="release-8, sscd_disc_mixup"):
        load("release-9")
    with pytest.raises(KitError, match="release-8"):
        shipped_background("release-9")


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A run that has published a student and its background."""
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    run = Run(tmp_path / "runs" / "mine")
    run.publish("student", Descriptor(SMALL).save(run.folder("models") / "student-x"))
    ids = [f"b{i}" for i in range(40)]
    file = write_descriptors(run.folder("descriptors") / "b.h5", unit_rows(40), ids)
    run.publish("descriptors:student:background", file)
    run.record("06_retrieval", stages={"student raw": {"uap": 0.5, "positives": 3}})
    given = {"05_extraction": {"sizes": [32]}, "04_distillation": {"rate": 0.003}}
    (run.path / "params.yaml").write_text(yaml.safe_dump({"notebooks": given}))
    return run


def test_the_command_ships_a_run_and_notebook_05_finds_it(weights, finished, tmp_path, capsys):
    card = tmp_path / "card.md"
    card.write_text("Trained on drawings.")
    assert main(["ship", "mine", "release-8", "--card", str(card)]) == 0
    assert "release-8" in capsys.readouterr().out
    text = (weights / "release-8" / "README.md").read_text()
    for part in ("# release-8", "Trained on drawings.", "student raw | 0.500 | 3", "rate: 0.003"):
        assert part in text
    models = find_models(finished, ["student", "release-8"])
    assert models["release-8"] == weights / "release-8"
    alone = {"release-8": models["release-8"]}
    files = shipped_backgrounds(alone, ExtractionConfig([32]), tmp_path)
    described = read_descriptors(files["release-8", "background"])
    assert described.vectors.shape == (40, 8)
    assert read_skipped(files["release-8", "background"]) == []
    for config in (ExtractionConfig([32, 48]), ExtractionConfig([32], per_size=True)):
        with pytest.raises(KitError, match=r"sizes=\[32\]"):
            shipped_backgrounds(alone, config, tmp_path)
    with pytest.raises(KitError, match="ships no background"):
        shipped_backgrounds({"student": models["student"]}, ExtractionConfig([32]), tmp_path)


def test_sets_are_described_with_the_shipped_background(weights, tmp_path):
    pack(Descriptor(SMALL), "release-8", unit_rows(40), [32], "")
    pictures = GeneratedImages(["a", "b", "c"], shade, [0, 90, 180], "shades")
    sets = {"queries": pictures, "background": pictures}
    config = ExtractionConfig([32], background="shipped")
    with open_executor("serial") as serial:
        models = {"release-8": weights / "release-8"}
        files = extract_sets(sets, models, config, tmp_path / "out", serial)
    assert len(read_descriptors(files["release-8", "queries"]).ids) == 3
    assert len(read_descriptors(files["release-8", "background"]).ids) == 40
    with pytest.raises(KitError, match="choose images or shipped"):
        ExtractionConfig([32], background="none")


def test_runs_of_parts_are_not_shipped(weights, finished, capsys):
    given = {"05_extraction": {"sizes": [32], "parts": "d2lv"}}
    (finished.path / "params.yaml").write_text(yaml.safe_dump({"notebooks": given}))
    assert main(["ship", "mine", "release-8"]) == 1
    assert "parts='whole'" in capsys.readouterr().err
    assert json.loads((finished.path / "artifacts.json").read_text())
    assert not weights.exists()
