"""The strict rules, leaks between sets, warnings about tuning, and the row of results."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from iscutils.__main__ import main
from iscutils.datasets import builtin_images, open_benchmark
from iscutils.datasets.layouts import collect
from iscutils.datasets.leaks import check_leaks, shared_images
from iscutils.datasets.protocol import check_strict, check_tuning, is_test, result_row, tuned_on
from iscutils.files.artifacts import KitError
from iscutils.files.images import GeneratedImages
from iscutils.run import runner


def write_images(folder, names, seed):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.bmp")  # all of one size
    return folder


@pytest.fixture
def bench(tmp_path):
    write_images(tmp_path / "bench" / "queries", ["q0", "q1"], 0)
    write_images(tmp_path / "bench" / "references", ["r0", "r1"], 1)
    (tmp_path / "bench" / "ground_truth.csv").write_text("q0,r1\nq1,\n")
    write_images(tmp_path / "train", ["t0", "t1", "t2"], 2)
    return open_benchmark(tmp_path / "bench", tmp_path / "train")


def copy_of(bench, tmp_path, part="references"):
    """The bench with a background that holds one of its references under another name."""
    source = getattr(bench, part).path(1)
    (tmp_path / "train" / "harmless.bmp").write_bytes(source.read_bytes())
    return open_benchmark(tmp_path / "bench", tmp_path / "train")


@pytest.mark.parametrize("part", ["queries", "references"])
def test_strict_mode_refuses_a_shared_image(bench, tmp_path, part):
    assert check_strict(bench) == {"strict": True, "rules kept": True}
    leaking = copy_of(bench, tmp_path, part)
    with pytest.raises(KitError, match=f"background and {part} share 1 images.*harmless = .1"):
        check_strict(leaking)
    assert check_strict(leaking, strict=False) == {"strict": False, "rules kept": False}


def test_strict_mode_refuses_what_learnt_from_references(bench):
    fitted = {"codec": "references", "score_norm": "background"}
    with pytest.raises(KitError, match="codec on references; the strict rules"):
        check_strict(bench, fitted)
    assert check_strict(bench, fitted, strict=False)["rules kept"] is False
    assert check_strict(bench, {"codec": "background"})["rules kept"]


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return collect([path])


@pytest.mark.parametrize("zips", ["", "a", "b", "ab"])
def test_shared_images_in_files_and_archives(tmp_path, zips):
    a = write_images(tmp_path / "a", ["a0", "a1", "a2"], 5)
    b = write_images(tmp_path / "b", ["b0", "b1", "b2"], 6)
    (b / "b1.bmp").write_bytes((a / "a2.bmp").read_bytes())
    sets = [
        zipped(folder, tmp_path / f"{folder.name}.zip")
        if folder.name in zips
        else collect([folder])
        for folder in (a, b)
    ]
    assert shared_images(*sets) == [("a2", "b1")]
    assert shared_images(*sets[::-1]) == [("b1", "a2")]


def test_files_that_differ_in_one_byte_are_not_shared(tmp_path):
    a, b = (write_images(tmp_path / name, ["x"], 7) for name in "ab")
    data = bytearray((a / "x.bmp").read_bytes())
    assert shared_images(collect([a]), collect([b])) == [("x", "x")]
    data[60] ^= 1
    (b / "x.bmp").write_bytes(data)
    assert shared_images(collect([a]), collect([b])) == []


def test_generated_images_are_known_by_their_ids():
    images = GeneratedImages(list("abcdef"), Image.new, range(6), "test")
    assert shared_images(images, images.subset([2, 4])) == [("c", "c"), ("e", "e")]
    assert shared_images(images, builtin_images("reference", 6)) == []


def test_leaks_of_any_two_sets(bench, tmp_path):
    pairs = write_images(tmp_path / "pairs", ["p0", "p1"], 2)  # the bytes of t0 and t1
    sets = {"queries": bench.queries, "background": bench.background}
    sets["pairs"] = collect([pairs])
    with pytest.raises(KitError, match="background and pairs share 2 images"):
        check_leaks(sets)
    assert check_leaks(sets, strict=False) == {"background, pairs": 2}


@pytest.mark.parametrize(
    ("tuned", "scored", "warned"),
    [
        ("disc21-dev1", "disc21-dev1", True),
        ("disc21-dev1", "disc21-dev", True),
        ("disc21-dev", "disc21-dev2", True),
        ("disc21-dev1", "disc21-dev2", False),
        ("disc21-dev1", "disc21-subset_1", True),
        ("disc21-dev2", "disc21-subset_1", False),
        ("disc21-dev", "disc21-test", False),
        ("ndec", "ndec", True),
        ("ndec", "disc21-dev", False),
        (["bench", "disc21-dev1"], "bench", True),
        ([], "bench", False),
    ],
)
def test_a_model_tuned_on_the_split_it_is_scored_on(bench, tmp_path, tuned, scored, warned):
    model = tmp_path / "model"
    model.mkdir()
    (model / "metrics.json").write_text(json.dumps({"tuned_on": tuned, "loss": 1}))
    found = check_tuning([model, tmp_path / "no model"], replace(bench, name=scored))
    assert len(found) == warned
    assert tuned_on(model) == ([tuned] if isinstance(tuned, str) else tuned)


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ({"data": "disc21", "split": "test"}, True),
        ({"data": "disc21", "split": "dev2"}, False),
        ({"data": "ndec", "split": "all"}, True),
        ({}, False),
    ],
)
def test_nothing_is_chosen_on_a_test(bench, notes, expected):
    assert is_test(replace(bench, notes=notes)) is expected


def test_the_row_of_results_says_what_was_measured(bench):
    row = result_row(bench, rule="knn:10", uap=0.5)
    assert (row["benchmark"], row["queries"], row["references"], row["positives"]) == (
        "bench", 2, 2, 1,
    )  # fmt: skip
    assert row["rule"] == "knn:10"
    assert len(row["truth"]["ground_truth.csv"]) == 64
    json.dumps(row)


# --- a run that names a data set ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("data=disc21:no/such", "'data' of 06_c: disc21:.*no/such does not exist"),
        ("data=dsic21:DIR", "did you mean 'disc21:'"),
        ("train_images=copydays:DIR", "DIR is no Copydays"),
    ],
)
def test_data_sets_are_looked_at_before_a_kernel_starts(
    project, monkeypatch, capfd, assignment, message
):
    import re

    (project.root / "DIR").mkdir()
    project.notebook("06_c", 'data: str = "builtin"  # data\ntrain_images: str = "builtin"  # data')
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    assert main(["run", "demo", "--set", assignment]) == 1
    assert re.search(message, capfd.readouterr().err)


def test_the_key_of_a_run_follows_all_files_that_a_data_set_names(tmp_path):
    data = f"disc21:{tmp_path}?split=dev2&truth={tmp_path}.csv"
    tmp_path.with_name(tmp_path.name + ".csv").write_text("Q1,R1")
    first = runner.fingerprint(data, {})
    tmp_path.with_name(tmp_path.name + ".csv").write_text("Q1,R12")
    second = runner.fingerprint(data, {})
    (tmp_path / "new.jpg").write_bytes(b"x")
    assert len({str(key) for key in (first, second, runner.fingerprint(data, {}))}) == 3
