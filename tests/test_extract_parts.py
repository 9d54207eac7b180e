"""Extraction of parts: against one part at a time, batches, resuming, whitening, replacement."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from iscutils.descriptors import forward, outputs
from iscutils.descriptors.boxes import COLUMNS
from iscutils.descriptors.check import difference_alone
from iscutils.descriptors.extract import extract, extract_parts, read_skipped
from iscutils.descriptors.parts import cut, reference_parts, way_parts
from iscutils.descriptors.reduction import draw_sample, fit_codec, learn_reduction
from iscutils.descriptors.sets import (
    ExtractionConfig,
    extract_parts_of_few,
    extract_sets,
    find_models,
)
from iscutils.descriptors.store import read_descriptors, read_notes, write_blocks, write_descriptors
from iscutils.files.artifacts import KitError, Run
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.files.prepare import prepare, vary
from iscutils.models import Descriptor, DescriptorConfig
from iscutils.retrieval import Codec

SMALL = DescriptorConfig(backbone="mobilenetv3_small_050", dim=16, size=32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Nine smooth pictures with a pasted one in their middle, and a broken file among them."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(9):
        coarse = rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse[0]).resize((200 + 7 * i, 150), 3)
        image.paste(Image.fromarray(coarse[1]).resize((80, 70), 0), (60, 40))
        image.save(folder / f"p{i}.png")
    (folder / "p4x.png").write_bytes(b"not an image")
    return open_folder(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [Descriptor(SMALL, seed=seed).save(folder / f"m{seed}") for seed in (1, 2)]


@pytest.fixture(scope="module")
def serial():
    with open_executor("serial") as pool:
        yield pool


@pytest.fixture
def detections(photos, tmp_path):
    rows = [
        ("p0", "overlay", 0.95, 60, 40, 140, 110),
        ("p0", "overlay", 0.3, 10, 10, 70, 60),
        ("p0", "sticker", 0.99, 0, 0, 50, 50),
        ("p1", "overlay", 0.9, 60, 40, 140, 110),
        ("p2", "overlay", 0.05, 0, 0, 90, 90),
        ("p3", "", None, None, None, None, None),
    ]
    path = tmp_path / "detections.csv"
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False)
    return path


def alone(model, image, size: int, variant: str = "none") -> np.ndarray:
    """Raw descriptor (D,) of one picture, in a batch of its own."""
    network = Descriptor(SMALL, seed=int(model.name[1:])).eval()
    pixels = torch.tensor(prepare(vary(image, variant), size)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        pooled = network.pooled(pixels.expand(-1, 3, -1, -1).float() / 255)
        return network.expand(pooled)[1][0].numpy()


def test_parts_equal_one_part_at_a_time(photos, models, serial, tmp_path):
    files = extract_parts(
        photos, models, [32, 40], tmp_path, serial, parts="reference",
        variants={"m2": "blur+gray"}, device="cpu", batch_size=7,
    )  # fmt: skip
    assert set(files) == {(m, s) for m in ("m1", "m2") for s in (32, 40)}
    good = [name for name in photos.ids if name != "p4x"]
    for (name, size), path in files.items():
        rows = read_descriptors(path)
        assert rows.ids == [name for name in good for _ in range(19)]
        assert list(rows.columns["part"][:19]) == [str(k) for k in range(19)]
        assert rows.columns["sides"].dtype == np.int32
        assert read_skipped(path) == [
            ("p4x", str(photos.path(photos.ids.index("p4x"))),
             "not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or JPEG 2000 image")
        ]  # fmt: skip
        for row in (0, 5, 19 * 3 + 14, 19 * 9 - 1):
            place = photos.ids.index(rows.ids[row])
            image = photos.load(place)
            part = reference_parts(*image.size)[row % 19]
            model = models[name == "m2"]
            z = alone(model, cut(image, part), size, "blur+gray" if name == "m2" else "none")
            assert rows.columns["norms"][row] == pytest.approx(np.linalg.norm(z), rel=1e-4)
            assert np.allclose(rows.vectors[row], z / np.linalg.norm(z), atol=1e-5)
            box = part.box / np.tile(image.size, 2)
            assert np.allclose(rows.columns["boxes"][row], box, atol=1e-6)


def test_ways_at_two_sizes_equal_one_way_at_a_time(photos, models, serial, tmp_path):
    config = ExtractionConfig([24, 32], device="cpu", ways=["tiles", "inverted"])
    sets = {"queries": photos, "references": photos}
    files = extract_sets(sets, {"m": models[0]}, config, tmp_path, serial)
    rows = read_descriptors(files["m", "queries"])
    numbers = [0, 30, 31, 32, 33, 40]  # the whole is always among them
    assert rows.columns["part"].tolist() == [str(number) for number in numbers] * 9
    image = photos.load(2)
    for place, part in enumerate(way_parts(["whole", "tiles", "inverted"], (0, 0, *image.size))):
        z = sum(unit_row(alone(models[0], cut(image, part), size)) for size in (24, 32))
        assert np.allclose(rows.vectors[2 * 6 + place], unit_row(z), atol=1e-5)
    plain = extract_sets(sets, {"m": models[0]}, ExtractionConfig([24, 32]), tmp_path, serial)
    assert plain["m", "references"] == files["m", "references"]  # always whole
    assert plain["m", "queries"] != files["m", "queries"]
    whole = read_descriptors(plain["m", "queries"])
    assert "part" not in whole.columns
    assert np.allclose(whole.vectors, rows.vectors[::6], atol=1e-6)
    with pytest.raises(KitError, match="set ways="):
        ExtractionConfig([24], "d2lv", ways=["tiles"])


def unit_row(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)


def test_norms_do_not_depend_on_the_batch(photos, models, serial, tmp_path):
    norms = []
    for batch in (1, 64):
        path = extract_parts(
            photos, models[:1], [32], tmp_path / str(batch), serial, batch_size=batch, device="cpu"
        )["m1", 32]
        norms.append(read_descriptors(path).columns["norms"])
    fresh = [np.linalg.norm(alone(models[0], photos.load(i), 32)) for i in (0, 3)]
    assert np.allclose(norms[0], norms[1], rtol=1e-4)
    assert np.allclose(norms[0][[0, 3]], fresh, rtol=1e-4)
    mean = read_descriptors(extract(photos, models[0], [24, 32], tmp_path, serial, device="cpu"))
    assert np.allclose(mean.columns["norms"], norms[0], rtol=1e-4)  # of the largest size


def test_parts_of_several_images_fill_a_batch(photos, models, serial, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        forward, "raw", lambda network, images: sizes.append(len(images)) or images[:, 0, 0, :4]
    )
    extract_parts(
        photos, models[:1], [32], tmp_path, serial, parts="reference", batch_size=16, device="cpu"
    )
    assert sizes == [16] * 10 + [9 * 19 - 160]


def test_each_image_is_decoded_once_for_all_models_and_sizes(
    photos, models, serial, tmp_path, monkeypatch
):
    calls, load = [], type(photos).load_noted
    monkeypatch.setattr(
        type(photos), "load_noted", lambda self, i, **k: calls.append(i) or load(self, i, **k)
    )
    options = dict(parts="reference", device="cpu")
    files = extract_parts(photos, models, [24, 32], tmp_path, serial, **options)
    assert sorted(calls) == list(range(10))
    assert extract_parts(photos, models, [24, 32], tmp_path, serial, **options) == files
    # What is finished is not made again, and does not keep others from being made.
    files["m2", 32].unlink()
    again = extract_parts(photos, models, [24, 32], tmp_path, serial, **options)
    assert again == files
    assert len(calls) == 20
    assert read_descriptors(files["m2", 32]).vectors.shape == (9 * 19, 16)


def test_a_killed_extraction_continues(photos, models, serial, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "SHARD", 4)
    whole = extract_parts(photos, models, [32], tmp_path / "a", serial, device="cpu")
    write = outputs.write_shard
    monkeypatch.setattr(outputs, "write_shard", _stop_at(write, 4))
    with pytest.raises(KeyboardInterrupt):
        extract_parts(photos, models, [32], tmp_path / "b", serial, device="cpu")
    written = []
    monkeypatch.setattr(
        outputs, "write_shard",
        lambda output, part, *others: written.append((output.model, part[0]))
        or write(output, part, *others),
    )  # fmt: skip
    resumed = extract_parts(photos, models, [32], tmp_path / "b", serial, device="cpu")
    assert written == [("m2", 4), ("m1", 8), ("m2", 8)]
    for key, path in whole.items():
        assert path.read_bytes() == resumed[key].read_bytes()
    assert [path.name for path in (tmp_path / "b").iterdir() if path.is_dir()] == []


def _stop_at(write, start):
    """`write_shard` that is interrupted at the second model's shard from image `start`."""

    def stopping(output, part, *others):
        if (output.model, part[0]) == ("m2", start):
            raise KeyboardInterrupt
        write(output, part, *others)

    return stopping


def test_processes_give_the_same_file(photos, models, serial, tmp_path):
    files = []
    with open_executor("processes", 2) as pool:
        for name, executor in (("a", serial), ("b", pool)):
            files.append(
                extract_parts(photos, models[:1], [32], tmp_path / name, executor, parts="query",
                              device="cpu")["m1", 32]
            )  # fmt: skip
    assert files[0].name == files[1].name
    assert files[0].read_bytes() == files[1].read_bytes()
    numbers = [int(part) for part in read_descriptors(files[0]).columns["part"]]
    assert numbers[:9] == list(range(9))
    assert sum(10 <= number < 1000 for number in numbers) >= 9  # the pasted pictures


def test_detected_overlays_are_parts_of_queries(photos, models, serial, tmp_path, detections):
    path = extract_parts(
        photos, models[:1], [32], tmp_path, serial, parts="query", detections=detections,
        device="cpu",
    )["m1", 32]  # fmt: skip
    rows = read_descriptors(path)
    found = [(rows.ids[i], part) for i, part in enumerate(rows.columns["part"]) if len(part) == 4]
    assert found == [("p0", "1000"), ("p0", "1001"), ("p1", "1000")]  # 0.05 and stickers are none
    row = [*zip(rows.ids, rows.columns["part"], strict=True)].index(("p0", "1000"))
    z = alone(models[0], photos.load(0).crop((60, 40, 140, 110)), 32)
    assert np.allclose(rows.vectors[row], z / np.linalg.norm(z), atol=1e-5)
    width = photos.load(0).width
    assert np.allclose(rows.columns["sides"][row], [80 * 640 / width, 70 * 640 / width], atol=1)


def test_an_overlay_of_a_query_replaces_it(photos, models, serial, tmp_path, detections):
    plain = extract(photos, models[0], [24, 32], tmp_path, serial, device="cpu")
    replaced = extract(
        photos, models[0], [24, 32], tmp_path, serial, device="cpu", detections=detections
    )
    assert plain != replaced
    before, after = read_descriptors(plain), read_descriptors(replaced)
    changed = ~np.isclose(before.vectors, after.vectors, atol=1e-6).all(1)
    assert [after.ids[i] for i in np.flatnonzero(changed)] == ["p0"]  # 0.90 is not above 0.90
    crop = photos.load(0).crop((60, 40, 140, 110))
    rows = [alone(models[0], crop, size) for size in (24, 32)]
    mean = sum(row / np.linalg.norm(row) for row in rows)
    assert np.allclose(after.vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    width, height = photos.load(0).size
    assert np.allclose(after.columns["boxes"][0], [60 / width, 40 / height, 140 / width,
                                                   110 / height])  # fmt: skip
    with pytest.raises(KitError, match="none of the 1 images"):
        extract(photos.subset([9]), models[0], [32], tmp_path, serial, detections=detections)


def test_whitening_is_learnt_on_raw_background_and_applied_before_writing(
    photos, models, serial, tmp_path
):
    options = dict(device="cpu", batch_size=8)
    codecs = learn_reduction(photos, models, [32], tmp_path, serial, dimensions=5, **options)
    assert {codec.spec for codec in codecs.values()} == {"PCAW5,L2norm,Flat"}
    stored = sorted(tmp_path.glob("whitening-m1@32-*.npz"))
    assert len(stored) == 1
    raw = np.stack([alone(models[0], photos.load(i), 32) for i in range(10)
                    if photos.ids[i] != "p4x"])  # fmt: skip
    codec = codecs["m1", 32]
    white = (raw - codec.mean) @ codec.directions / np.sqrt(codec.eigenvalues)
    assert np.allclose(white.mean(0), 0, atol=1e-3)
    assert np.allclose(white.T @ white / len(white), np.eye(5), atol=1e-3)
    reduced = extract_parts(photos, models, [32], tmp_path, serial, reduce=codecs, **options)
    rows = read_descriptors(reduced["m1", 32])
    unit = white / np.linalg.norm(white, axis=1, keepdims=True)
    assert np.allclose(rows.vectors, unit, atol=1e-3)
    assert np.allclose(rows.columns["norms"], np.linalg.norm(raw, axis=1), rtol=1e-4)
    plain = extract_parts(photos, models, [32], tmp_path, serial, **options)
    assert plain["m1", 32] != reduced["m1", 32]
    stamp = stored[0].stat().st_mtime_ns
    again = learn_reduction(photos, models, [32], tmp_path, serial, dimensions=5, **options)
    assert stored[0].stat().st_mtime_ns == stamp
    assert again["m1", 32].key() == codec.key() != codecs["m2", 32].key()
    with pytest.raises(KitError, match="no codec to reduce 'm1' at 40 px"):
        extract_parts(photos, models, [40], tmp_path, serial, reduce=codecs, **options)


def test_half_precision_is_near_and_has_a_file_of_its_own(
    photos, models, serial, tmp_path, monkeypatch
):
    for make in (extract, lambda images, model, *others, **options: extract_parts(
        images, [model], *others, parts="reference", **options
    )["m1", 32]):  # fmt: skip
        exact = make(photos, models[0], [32], tmp_path, serial)
        near = make(photos, models[0], [32], tmp_path, serial, precision="bf16")
        assert exact != near
        difference = read_descriptors(exact).vectors - read_descriptors(near).vectors
        assert 0 < np.abs(difference).max() < 0.05
        for fast, same in ((True, near), (False, exact)):  # "auto" asks the processor
            monkeypatch.setattr(forward, "fast_in_bf16", lambda *_, fast=fast: fast)
            assert make(photos, models[0], [32], tmp_path, serial, precision="auto") == same
    with pytest.raises(KitError, match="precision '16' is unknown: choose 32, bf16, auto"):
        extract(photos, models[0], [32], tmp_path, serial, precision="16")


def test_more_dimensions_than_images_are_clipped(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    path = write_descriptors(tmp_path / "sample-m@32-0.h5", rows, [f"i{k}" for k in range(6)])
    codec = fit_codec(path, 1500)
    assert codec.spec == "PCAW5,L2norm,Flat"
    assert fit_codec(path, 1500).key() == codec.key()
    assert Codec("L2norm,Flat").key() != codec.key()


def test_the_sample_is_the_published_draw(photos):
    expected = sorted(np.random.RandomState(123).choice(10, 4, replace=False).tolist())
    assert draw_sample(photos, 4).ids == [photos.ids[i] for i in expected]
    assert draw_sample(photos, 10) is photos


def test_sets_are_published_by_model_and_size(photos, models, serial, tmp_path, detections):
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.publish("one", models[0])
    run.publish("two", models[1])
    named = find_models(run, ["one", "two"])
    sets = {kind: photos.subset(range(4)) for kind in ("queries", "references", "background")}
    whole = extract_sets(sets, named, ExtractionConfig([24, 32]), tmp_path, serial)
    assert sorted(whole) == sorted((m, kind) for m in named for kind in sets)
    assert len(read_descriptors(whole["one", "queries"])) == 4
    settings = ExtractionConfig(
        [24, 32], parts="d2lv", variants=["base", "blur_bw"], reduce=2, both_ways=["one@32"]
    )
    files = extract_sets(sets, named, settings, tmp_path, serial, detections)
    assert sorted({label for label, _ in files}) == ["one@24", "one@32", "two@24", "two@32"]
    rows = {key: len(read_descriptors(path)) for key, path in files.items()}
    assert rows["one@32", "references"] == 4 * 19
    assert rows["two@32", "references"] == rows["one@24", "references"] == 4
    assert rows["one@32", "background"] == 4
    assert rows["one@24", "queries"] == rows["two@32", "queries"] > 4 * 9
    assert read_notes(files["two@32", "references"])["variant"] == "blur+gray"
    assert read_notes(files["two@32", "queries"])["variant"] == "gray"
    assert read_notes(files["one@32", "queries"])["codec"] == "PCAW2,L2norm,Flat"


def test_small_sets_are_described_by_parts_in_passing(
    photos, models, serial, tmp_path, monkeypatch
):
    sets = {kind: photos.subset(range(3)) for kind in ("queries", "references", "background")}
    named, config = {"one": models[0], "two": models[1]}, ExtractionConfig([32, 24])
    files = extract_parts_of_few(sets, named, "two", config, tmp_path, serial)
    assert {label for label, _ in files} == {"two@24"}
    assert len(read_descriptors(files["two@24", "references"])) == 3 * 19
    monkeypatch.setattr("iscutils.descriptors.sets.FEW_REFERENCES", 2)
    assert extract_parts_of_few(sets, named, "two", config, tmp_path, serial) == {}
    monkeypatch.undo()
    assert extract_parts_of_few(sets, named, "teacher", config, tmp_path, serial) == {}
    all_parts = ExtractionConfig([32], parts="d2lv")
    assert extract_parts_of_few(sets, named, "two", all_parts, tmp_path, serial) == {}


def test_the_training_set_can_be_read_from_names(photos, models, serial, tmp_path):
    named = {"R:blur_bw-18": models[0], "plain": models[1]}
    config = ExtractionConfig([32], per_size=True, variants=["by_name"])
    files = extract_sets({"queries": photos, "references": photos}, named, config, tmp_path, serial)
    variants = {key: read_notes(path)["variant"] for key, path in files.items()}
    assert variants == {
        ("R:blur_bw-18@32", "queries"): "gray",
        ("R:blur_bw-18@32", "references"): "blur+gray",
        ("plain@32", "queries"): "none",
        ("plain@32", "references"): "none",
    }


def test_an_image_done_again_alone_agrees_and_another_does_not(photos, models, serial, tmp_path):
    network = Descriptor(SMALL, seed=1).eval()
    codecs = learn_reduction(photos, models[:1], [32], tmp_path, serial, dimensions=4)
    files = [
        extract(photos, models[0], [24, 32], tmp_path, serial, variant="gray"),
        *extract_parts(photos, models[:1], [32], tmp_path, serial, parts="reference").values(),
        *extract_parts(photos, models[:1], [32], tmp_path, serial, reduce=codecs).values(),
    ]
    for path in files:
        assert difference_alone(path, photos, network, 3) < 1e-5
        assert difference_alone(path, photos, Descriptor(SMALL, seed=2).eval(), 3) > 1e-3
    with pytest.raises(KitError, match=r"'p4x' cannot be compared"):
        difference_alone(files[0], photos, network, photos.ids.index("p4x"))


def test_senseless_settings_are_refused(photos, models, serial, tmp_path):
    with pytest.raises(KitError, match="per_size=True"):
        ExtractionConfig([32], reduce=8)
    with pytest.raises(KitError, match="choose model, squash, short"):
        ExtractionConfig([32], resize="crop")
    with pytest.raises(KitError, match="choose auto or images"):
        ExtractionConfig([32], background="none")
    with pytest.raises(KitError, match="'grid'"):
        ExtractionConfig([32], parts="grid")
    with pytest.raises(KitError, match="two models are called 'm1'"):
        extract_parts(photos, [models[0], models[0]], [32], tmp_path, serial)
    config = ExtractionConfig([32], parts="d2lv", both_ways=["m2@32"])
    with pytest.raises(KitError, match=r"'m2@32': write MODEL@SIZE, the model one of m1"):
        extract_sets({}, {"m1": models[0]}, config, tmp_path, serial)
    config = ExtractionConfig([32], variants=["base", "blur"])
    with pytest.raises(KitError, match="2 variants for 1 models"):
        extract_sets({}, {"m1": models[0]}, config, tmp_path, serial)


def test_blocks_must_fill_the_file(tmp_path):
    block = {"vectors": np.ones((2, 3), np.float32), "image_names": np.array([b"a", b"b"])}
    with pytest.raises(KitError, match="4 rows in its blocks, expected 5"):
        write_blocks(tmp_path / "x.h5", [block, block], 5)
    assert not (tmp_path / "x.h5").exists()
