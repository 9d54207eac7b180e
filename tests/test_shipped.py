"""Models that come with the kit: packed small, loaded by name, with a background of their own."""

import json
import socket
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from iscutils import edits
from iscutils.__main__ import main
from iscutils.datasets.builtin import builtin_images
from iscutils.descriptors.extract import describe, open_network, read_skipped
from iscutils.descriptors.hashes import extract_pdq
from iscutils.descriptors.sets import (
    ExtractionConfig,
    extract_sets,
    find_models,
    shipped_backgrounds,
)
from iscutils.descriptors.store import read_descriptors, write_descriptors
from iscutils.evaluation.metrics import evaluate
from iscutils.evaluation.submissions import read_predictions
from iscutils.files.artifacts import KitError, Run
from iscutils.files.executor import open_executor
from iscutils.files.images import GeneratedImages
from iscutils.models import (
    Descriptor,
    DescriptorConfig,
    is_shipped,
    load,
    pack,
    shipped,
    shipped_background,
    shipped_names,
)
from iscutils.retrieval import retrieve
from iscutils.run import packing

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
    with pytest.raises(KitError, match="release-8, sscd, sscd_disc_mixup"):
        load("release-9")
    with pytest.raises(KitError, match="release-8"):
        shipped_background("release-9")


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A run that has published a student and its background."""
    monkeypatch.setattr(packing, "EXAMPLES", 4)  # photographs for int8
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    run = Run(tmp_path / "runs" / "mine")
    run.publish("student", Descriptor(SMALL).save(run.folder("models") / "student-x"))
    ids = [f"b{i}" for i in range(40)]
    file = write_descriptors(run.folder("descriptors") / "b.h5", unit_rows(40), ids)
    run.publish("descriptors:student:background", file)
    run.record("06_retrieval", stages={"student raw": {"uap": 0.5, "positives": 3}})
    given = {"05_extraction": {"sizes": [32]}, "04_distillation": {"rate": 0.003, "data": "/a/b"}}
    (run.path / "params.yaml").write_text(yaml.safe_dump({"notebooks": given}))
    return run


def test_the_command_ships_a_run_and_notebook_05_finds_it(
    weights, finished, tmp_path, capsys, caplog
):
    card = tmp_path / "card.md"
    card.write_text("Trained on drawings.")
    assert main(["ship", "mine", "release-8", "--card", str(card)]) == 0
    assert "release-8" in capsys.readouterr().out
    text = (weights / "release-8" / "README.md").read_text()
    for part in ("# release-8", "Trained on drawings.", "student raw | 0.500 | 3", "rate: 0.003"):
        assert part in text
    assert "data: b\n" in text  # its name, not where it lies
    assert (weights / "release-8" / "model.onnx").exists() == ("in int8" in caplog.text)
    models = find_models(finished, ["student", "release-8"])
    assert models["release-8"] == weights / "release-8"
    assert is_shipped(models["release-8"])
    assert not is_shipped(models["student"])


def test_a_shipped_model_is_described_as_its_background_was(weights, finished, tmp_path):
    """Its own sizes and background, whatever the other models have; the pictures for all others."""
    pack(Descriptor(SMALL), "release-8", unit_rows(40), [32, 48], "")
    pictures = GeneratedImages(["a", "b", "c"], shade, [0, 90, 180], "shades")
    sets = {"queries": pictures, "background": pictures}
    models = find_models(finished, ["student", "release-8"])

    def described(**options):
        config = ExtractionConfig([32], **options)
        with open_executor("serial") as serial:
            files = extract_sets(sets, models, config, tmp_path / "out", serial)
        return {key: read_descriptors(path) for key, path in files.items()}

    found = described()
    sizes = {key: rows.attrs["sizes"] for key, rows in found.items()}
    assert sizes == {
        ("student", "queries"): [32],
        ("student", "background"): [32],
        ("release-8", "queries"): [32, 48],
        ("release-8", "background"): [32, 48],
    }
    assert len(found["student", "background"].ids) == 3
    assert np.allclose(found["release-8", "background"].vectors, unit_rows(40), atol=1e-3)
    assert (
        read_skipped(shipped_backgrounds({"x": models["release-8"]}, tmp_path)["x", "background"])
        == []
    )
    # No background of its own fits these: it is made of the pictures, at the sizes asked for.
    for options in ({"background": "images"}, {"resize": "short"}):
        found = described(**options)
        assert len(found["release-8", "background"].ids) == 3
        assert found["release-8", "queries"].attrs["sizes"] == [32]
    assert len(described(per_size=True)["release-8@32", "background"].ids) == 3


def test_runs_of_parts_are_not_shipped(weights, finished, capsys):
    given = {"05_extraction": {"sizes": [32], "parts": "d2lv"}}
    (finished.path / "params.yaml").write_text(yaml.safe_dump({"notebooks": given}))
    assert main(["ship", "mine", "release-8"]) == 1
    assert "parts='whole'" in capsys.readouterr().err
    assert json.loads((finished.path / "artifacts.json").read_text())
    assert not weights.exists()


SHIPPED = ["release-256", "release-64", "release-lite-256"]
EDITS = ["rot90", "hflip", "crop", "text", "pad"]


def copy_of(photos, item):
    """One edit of one photograph, drawn from its number."""
    edit, i = item
    step = edits.draw_operation(edit, np.random.default_rng(i))
    return edits.apply_steps(photos.load(i), [step])[-1].image


class TestTheWeightsOfThisCopy:
    """Those that are committed: small enough, with a card, and far better than a hash."""

    def test_their_names_and_sizes(self):
        assert shipped_names() == SHIPPED
        weights = [path.stat().st_size for path in shipped.FOLDER.glob("*/model.safetensors")]
        assert max(weights) <= 12 << 20
        assert sum(weights) <= 30 << 20
        assert all(path.stat().st_size <= 6 << 20 for path in shipped.FOLDER.glob("*/model.onnx"))

    @pytest.mark.parametrize("name", SHIPPED)
    def test_int8_says_the_same(self, name):
        if not (shipped.FOLDER / name / "model.onnx").exists():
            pytest.skip(f"{name} has no int8 graph: torch runs it")
        photos, cpu = builtin_images("reference", 12), {"device": "cpu"}
        exact, quick = (open_network(name, precision, **cpu) for precision in ("32", "auto"))
        sizes = shipped.shipped_sizes(name)
        rows = [[describe(photos, i, network, sizes) for i in range(12)]
                for network in (exact, quick)]  # fmt: skip
        assert 0.99 < (np.array(rows[0]) * np.array(rows[1])).sum(1).mean() < 0.99999

    @pytest.mark.parametrize("name", SHIPPED)
    def test_background_and_card(self, name):
        folder = shipped.FOLDER / name
        assert (folder / "background.safetensors").stat().st_size <= (2 << 20) + 1024
        vectors, _ = shipped_background(name)
        assert vectors.shape[1] == load(name).dim < len(vectors)
        card = (folder / "README.md").read_text(encoding="utf-8").lower()
        for part in ("licence", "seed", "hours", "pdq", "phash", "sift", "weaknesses", "positives"):
            assert part in card, part

    @pytest.mark.parametrize("name", SHIPPED)
    def test_copies_are_found_offline_where_a_hash_fails(self, name, tmp_path, monkeypatch):
        monkeypatch.setattr(socket.socket, "connect", None)
        photos = builtin_images("reference", 40)
        items = [(edit, i) for edit in EDITS for i in range(len(photos))]
        ids = [f"{edit} of {i}" for edit, i in items]
        copies = GeneratedImages(ids, partial(copy_of, photos), items, "copies")
        truth = pd.DataFrame({"query_id": ids, "reference_id": photos.ids * len(EDITS)})
        sets, models = {"queries": copies, "references": photos}, {name: shipped.FOLDER / name}
        with open_executor("serial") as serial:
            files = extract_sets(sets, models, ExtractionConfig([80]), tmp_path, serial)
            hashes = [extract_pdq(sets[kind], tmp_path, serial, name=kind) for kind in sets]
        learnt = retrieve(
            *(files[name, kind] for kind in (*sets, "background")), tmp_path,
            codec=f"PCAW{load(name).dim},L2norm,Flat", score_norm="1.0[0,2]",
        )  # fmt: skip
        hashed = retrieve(*hashes, None, tmp_path, name="hashed")
        learnt, hashed = (evaluate(read_predictions(path), truth) for path in (learnt, hashed))
        assert learnt.uap > hashed.uap + 0.3
        assert learnt.recall_at_1 > 0.8
