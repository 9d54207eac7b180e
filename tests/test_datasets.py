"""Builtin images and benchmarks in ISC layout."""

import hashlib
import io
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iscutils.artifacts import KitError
from iscutils.datasets import drawn_images, is_isc_layout, materialise, open_benchmark, open_images
from iscutils.datasets.benchmark import read_edits
from iscutils.datasets.builtin import SIZES
from iscutils.datasets.drawing.clothes import CUTS
from iscutils.datasets.photographs import (
    PARTS,
    PHOTOGRAPHS,
    TEXTURES,
    photograph,
    photograph_names,
    tile,
    tiles,
)
from iscutils.datasets.scenes import LAYOUTS, draw_scene, scene_index
from iscutils.executor import open_executor
from iscutils.images import find_unreadable, open_folder

SHARED = Path(__file__).parents[2] / "shared"


# --- photographs and scenes ---------------------------------------------------------------------


def digest(seed, index):
    return hashlib.sha256(draw_scene(seed, index).tobytes()).hexdigest()


def gray(image, side=256):
    return np.asarray(image.convert("L").resize((side, side)), float)


def spectral_slope(image):
    """s of the power spectrum f^-s, fitted on rings; 0 for noise, near 2 for photographs."""
    window = np.outer(np.hanning(256), np.hanning(256))
    power = np.abs(np.fft.fft2((gray(image) - gray(image).mean()) * window)) ** 2
    radius = 256 * np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    rings = np.arange(4, 90)
    energy = [power[(radius >= r) & (radius < r + 1)].mean() for r in rings]
    return -np.polyfit(np.log(rings), np.log(energy), 1)[0]


def bits_per_pixel(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return 8 * len(buffer.getvalue()) / (image.width * image.height)


def test_the_same_numbers_give_the_same_bytes_in_any_process():
    indices = list(range(12))
    here = [digest(3, index) for index in indices]
    with open_executor("processes", 2) as executor:
        assert list(executor.map(partial(digest, 3), indices[::-1])) == here[::-1]
    assert len(set(here)) == len(here)
    assert digest(4, 0) not in here


def test_scenes_look_like_pictures_and_not_like_noise():
    scenes = [draw_scene(1, index) for index in range(40)]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    assert spectral_slope(noise) < 0.5  # the measures tell noise ...
    assert bits_per_pixel(noise) > 5
    assert bits_per_pixel(Image.new("RGB", (400, 300), "gray")) < 0.3  # ... and emptiness
    for scene in scenes:
        assert scene.mode == "RGB"
        assert 320 <= max(scene.size) <= 480
        assert 1 <= max(scene.size) / min(scene.size) < 1.8
        assert 1.0 < spectral_slope(scene) < 5
        assert 0.4 < bits_per_pixel(scene) < 5
        assert 20 < gray(scene).mean() < 240
        assert gray(scene).std() > 15
    # medians: photographs of Caltech-101 have slope 2.5, 2.0 bits, brightness 125, deviation 59
    assert 2 < np.median([spectral_slope(scene) for scene in scenes]) < 3.3
    assert 1.2 < np.median([bits_per_pixel(scene) for scene in scenes]) < 3
    assert 85 < np.median([gray(scene).mean() for scene in scenes]) < 150
    assert len({scene.size for scene in scenes}) > 20


def test_no_two_scenes_are_alike():
    thumbnails = [np.asarray(draw_scene(0, index).resize((16, 16)), float) for index in range(40)]
    for a, b in itertools.combinations(thumbnails, 2):
        assert np.abs(a - b).mean() > 10


def test_drawn_things_lie_on_plain_ground_and_no_two_are_the_same():
    images = drawn_images(12, seed=3)
    pictures = [images.load(i) for i in range(12)]
    assert images.ids[:2] == ["drawn_000000", "drawn_000001"]
    assert drawn_images(5, seed=3).load(4).tobytes() == pictures[4].tobytes()
    assert drawn_images(5, seed=4).load(4).tobytes() != pictures[4].tobytes()
    assert drawn_images(5, seed=3).key() != drawn_images(5, seed=4).key()
    thumbnails = [np.asarray(picture.resize((16, 16)), float) for picture in pictures]
    for a, b in itertools.combinations(thumbnails, 2):
        assert np.abs(a - b).mean() > 5
    assert all(max(picture.size) == 320 for picture in pictures)
    # The middle differs from the ground more than opposite parts of the ground do.
    inner = [np.abs(t[6:10, 6:10].mean((0, 1)) - t[:2].mean((0, 1))).sum() for t in thumbnails]
    outer = [np.abs(t[:, :2].mean((0, 1)) - t[:, -2:].mean((0, 1))).sum() for t in thumbnails]
    assert np.median(inner) > 2 * np.median(outer)
    for count, seed in ((0, 0), (3, -1)):
        with pytest.raises(KitError, match="drawn images"):
            drawn_images(count, seed)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__)
def test_every_cut_lies_inside_its_frame(cut):
    for number in range(20):
        for outline in cut(np.random.default_rng(number)):
            assert outline.shape[1] == 2
            assert np.abs(outline).max() < 1.3
            assert np.ptp(outline, axis=0).min() > 0.1


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_fills_any_canvas(layout):
    from iscutils.datasets.drawing.textures import Surfaces

    for number, (height, width) in enumerate([(480, 270), (180, 320), (300, 300)]):
        rng = np.random.default_rng(number)
        canvas = layout(rng, height, width, Surfaces(rng))
        assert canvas.shape == (height, width, 3)
        assert np.isfinite(canvas).all()
        assert canvas.std() > 0.02


def test_photographs_belong_to_one_part_and_are_found_in_the_packages():
    names = [name for part in PHOTOGRAPHS for name in PHOTOGRAPHS[part]]
    assert len(names) == len(set(names))
    for part in (*PARTS, TEXTURES):
        assert photograph_names(part) == tuple(sorted(PHOTOGRAPHS[part]))
        for name in photograph_names(part):
            assert photograph(part, name).shape[2] == 3


@pytest.mark.parametrize("part", PARTS)
def test_tiles_cover_each_photograph_once(part):
    for name in photograph_names(part):
        covered = np.zeros(photograph(part, name).shape[:2], int)
        for _, (x0, y0, x1, y1) in (t for t in tiles(part) if t[0] == name):
            covered[y0:y1, x0:x1] += 1
            assert min(x1 - x0, y1 - y0) >= 140
        assert (covered == 1).all()
    name, (x0, y0, x1, y1) = tiles(part)[1]
    whole = Image.fromarray(photograph(part, name)).crop((x0, y0, x1, y1))
    same = np.asarray(tile(part, 1).resize(whole.size), float) - np.asarray(whole)
    assert np.abs(same).mean() < 6


def test_parts_share_no_photograph_and_no_scene():
    items = {part: set(open_images("builtin", part=part).items) for part in PARTS}
    for part in PARTS:
        kinds = [kind for kind, _ in items[part]]
        assert kinds.count("tile") == len(tiles(part)) > 0
        assert len(items[part]) == SIZES[part] == len(kinds)
    for a, b in itertools.combinations(PARTS, 2):
        scenes = [{number for kind, number in items[p] if kind == "scene"} for p in (a, b)]
        assert not scenes[0] & scenes[1]
        assert not {name for name, _ in tiles(a)} & {name for name, _ in tiles(b)}
    indices = [scene_index(part, number) for part in PARTS for number in range(1000)]
    assert len(set(indices)) == 3000


def test_builtin_limits_seeds_and_ids():
    few, many = (open_images("builtin", part="reference", limit=n) for n in (10, 1000))
    assert few.ids[:2] == ["ref_000000", "ref_000001"]
    assert len(many) == 1000
    assert few.items == many.items[:10]
    assert open_images("builtin", part="distractor", limit=1).ids == ["dis_000000"]
    assert open_images("builtin", limit=1).ids == ["train_000000"]
    other = open_images("builtin", part="reference", limit=10, seed=1)
    assert other.key() != few.key()
    assert other.load(1).tobytes() != few.load(1).tobytes()
    assert other.load(0).tobytes() == few.load(0).tobytes()  # a tile
    for bad in ({"part": "test"}, {"limit": -1}, {"seed": -1}):
        with pytest.raises(KitError, match=str(next(iter(bad.values())))):
            open_images("builtin", **bad)


def test_materialise_resumes_and_redraws_only_what_changed(tmp_path):
    images = open_images("builtin", part="distractor", limit=4)
    with open_executor("serial") as executor:
        files = materialise(images, tmp_path / "a", executor)
        assert files.ids == images.ids
        for i in range(4):
            near = np.asarray(files.load(i), float) - np.asarray(images.load(i))
            assert np.abs(near).mean() < 3
        stamps = [files.path(i).stat().st_mtime_ns for i in range(4)]
        files.path(2).unlink()  # as if a run had been killed
        larger = materialise(
            open_images("builtin", part="distractor", limit=5), tmp_path / "a", executor
        )
        again = [larger.path(i).stat().st_mtime_ns for i in range(4)]
        assert [a == b for a, b in zip(stamps, again, strict=True)] == [True, True, False, True]
        assert sorted(path.name for path in (tmp_path / "a").iterdir())[:2] == [
            ".key",
            "dis_000000.jpg",
        ]
        other = open_images("builtin", part="distractor", limit=4, seed=9)
        redrawn = materialise(other, tmp_path / "a", executor)
        assert redrawn.path(1).stat().st_mtime_ns != again[1]
        assert materialise(redrawn, tmp_path / "b", executor) is redrawn
    with open_executor("processes", 2) as executor:
        parallel = materialise(other, tmp_path / "c", executor)
    assert [p.read_bytes() for p in map(Path, parallel.files)] == [
        p.read_bytes() for p in map(Path, redrawn.files)
    ]


# --- benchmarks -----------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    """Two queries, one a distractor, and three references."""
    for name in ("queries/q1", "queries/q2", "references/r1", "references/r2", "references/r3"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
    (tmp_path / "ground_truth.csv").write_bytes(b"query_id,reference_id\r\nq1,r2\r\nq2,\r\n")
    return tmp_path


def test_a_folder_in_isc_layout(bench):
    (bench / "edits.csv").write_bytes(b"query_id,edits\r\nq1,crop+text\r\nq2,\r\n")
    assert is_isc_layout(bench)
    benchmark = open_benchmark(str(bench), "builtin")
    assert benchmark.name == bench.name
    assert benchmark.queries.ids == ["q1", "q2"]
    assert benchmark.references.ids == ["r1", "r2", "r3"]
    assert benchmark.background.ids == open_images("builtin").ids
    truth = benchmark.ground_truth
    assert list(truth.columns) == ["query_id", "reference_id"]
    assert sorted(truth.itertuples(index=False, name=None)) == [("q1", "r2"), ("q2", "")]
    assert benchmark.edits == {"q1": "crop+text", "q2": ""}


def test_truth_without_header_and_edits_without_file(bench):
    (bench / "ground_truth.csv").write_bytes(b"q1,r2\r\nq2,\r\n")
    benchmark = open_benchmark(bench, limit=5)
    assert len(benchmark.ground_truth) == 2
    assert len(benchmark.background) == 5
    assert benchmark.edits == {}


def test_truth_may_be_missing_when_it_is_not_required(bench):
    (bench / "ground_truth.csv").unlink()
    with pytest.raises(KitError, match=r"ground_truth\.csv is missing: the metric needs"):
        open_benchmark(bench)
    assert open_benchmark(bench, require_truth=False).ground_truth is None


def remove(path):
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: (b / "references").rename(b / "refs"), "has no folder references/"),
        (lambda b: remove(b / "queries"), "queries holds no images"),
        (lambda b: (b / "ground_truth.csv").write_text("q1,r9\n"), "reference_id.*r9"),
        (lambda b: (b / "ground_truth.csv").write_text("q7,r1\n"), "query_id.*q7"),
        (lambda b: (b / "ground_truth.csv").write_text("q1,\n"), "ground_truth.csv"),
        (
            lambda b: Image.new("RGB", (2, 2)).save(b / "references" / "r1.jpg"),
            r"two images have the id 'r1'.*r1\.jpg and .*r1\.png",
        ),
        (lambda b: (b / "edits.csv").write_text("q1,crop,text\n"), r"edits\.csv, line 1: expected"),
        (
            lambda b: (b / "edits.csv").write_text("query_id,edits\nq9,crop\n"),
            "line 2: 'q9' is not",
        ),
        (lambda b: (b / "edits.csv").write_text("q1,crop\nq1,text\n"), "line 2: .*'q1' .*twice"),
    ],
)
def test_bad_benchmarks_are_named_in_one_line(bench, spoil, message):
    spoil(bench)
    with pytest.raises(KitError, match=message) as caught:
        open_benchmark(bench)
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_benchmark(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for data, message in (
        (tmp_path / "nowhere", "nowhere does not exist: expected a folder with references/"),
        (tmp_path, "is no benchmark.*notebook 02"),
        ("builtin", "'builtin' has no queries yet.*notebook 02"),
    ):
        with pytest.raises(KitError, match=message):
            open_benchmark(data)
        assert not is_isc_layout(data)


@pytest.mark.parametrize("part", ["references", "queries", "."])
def test_training_on_the_benchmark_is_refused(bench, part):
    with pytest.raises(KitError, match=r"learning from the .* of a benchmark"):
        open_benchmark(bench, bench / part)


def test_open_images_of_a_folder(tmp_path):
    for i in range(10):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    assert open_images(tmp_path).ids == list("0123456789")
    assert open_images(tmp_path, limit=5).ids == list("02468")
    assert open_images(tmp_path, limit=99, part="reference").ids == list("0123456789")
    with pytest.raises(KitError, match="limit=-1"):
        open_images(tmp_path, limit=-1)


def test_edits_with_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "edits.csv"
    path.write_bytes(b"\xef\xbb\xbfquery_id,edits\r\n\r\nq1,blur\r\n")
    assert read_edits(path, ["q1"]) == {"q1": "blur"}


def test_the_shared_benchmark():
    if not (SHARED / "bench").is_dir():
        pytest.skip("no ../shared/bench beside this checkout")
    benchmark = open_benchmark(SHARED / "bench", "builtin")
    assert (len(benchmark.queries), len(benchmark.references)) == (600, 1000)
    assert (benchmark.ground_truth.reference_id != "").sum() == 300
    assert set(benchmark.edits) == set(benchmark.queries.ids)
    with open_executor("serial") as executor:
        assert find_unreadable(benchmark.queries.subset(range(40)), executor) == []
    assert open_folder(SHARED / "bench" / "queries").key() == benchmark.queries.key()
