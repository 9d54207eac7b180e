"""The run folder: whole files or none, keys, published artifacts, skipped items."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from iscutils.files import artifacts
from iscutils.files.artifacts import KitError, Run, atomic_path, content_key, open_run, write_json


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("tw")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "model"
    for text in ("one", "two"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert [p.name for p in path.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_full_disc_is_one_clear_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "vectors.h5"
    path.write_text("old")
    with pytest.raises(KitError, match=r"disc full while writing .*vectors.h5: free some space"):
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["vectors.h5"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_really_full_device(tmp_path):
    with pytest.raises(KitError, match="disc full"), atomic_path(tmp_path / "x") as temporary:
        os.symlink("/dev/full", temporary)
        temporary.write_text("does not fit")
    assert list(tmp_path.iterdir()) == []


def test_keys_change_with_the_content_only():
    assert content_key({"a": 1, "b": [1, 2]}) == content_key({"b": [1, 2], "a": 1})
    assert content_key(np.float64(0.5), np.arange(2)) == content_key(0.5, [0, 1])
    assert len({content_key(x) for x in (1, "1", 1.5, [1], None)}) == 5


def test_json_has_plain_numbers_and_null_for_nan(tmp_path):
    path = write_json(tmp_path / "m.json", {"a": np.float32(0.5), "b": float("nan"), 3: (1, 2)})
    assert json.loads(path.read_text()) == {"a": 0.5, "b": None, "3": [1, 2]}


def test_published_artifacts_are_found_also_after_a_move(tmp_path):
    run = Run(tmp_path / "run")
    run.folder("models")
    (run.path / "models" / "x").write_text("x")
    run.publish("teacher", run.path / "models" / "x")
    moved = Run((tmp_path / "run").rename(tmp_path / "elsewhere"))
    assert moved.find("teacher") == moved.path / "models" / "x"
    with pytest.raises(KitError, match=r"no 'student' \(it has: teacher\); run the earlier"):
        moved.find("student")
    (moved.path / "models" / "x").unlink()
    assert not moved.has("teacher")
    with pytest.raises(KitError, match="is gone"):
        moved.find("teacher")
    with pytest.raises(KitError, match="does not exist"):
        moved.publish("nothing", tmp_path / "nothing")


def test_metrics_are_kept_by_stage(tmp_path):
    run = Run(tmp_path)
    run.record("03", loss=1.0, steps=5)
    run.record("03", loss=0.5)
    run.record("06", uap=np.float64(0.25))
    assert run.metrics() == {"03": {"loss": 0.5, "steps": 5}, "06": {"uap": 0.25}}


def test_skipped_images_are_listed_once_a_stage(tmp_path):
    run = Run(tmp_path)
    rows = [("b", "b.jpg", "truncated, at the end"), ("a", "a.jpg", "empty")]
    for _ in range(2):
        assert run.record_skipped("05", rows) == 2
    run.record_skipped("07", [])
    listed = [(row["stage"], row["image_id"], row["reason"]) for row in run.skipped()]
    assert listed == [("05", "a", "empty"), ("05", "b", "truncated, at the end")]


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_senseless_run_names_are_refused(name):
    with pytest.raises(KitError, match="run name"):
        open_run(name)


def test_runs_go_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    assert open_run("mine").path == tmp_path / "runs" / "mine"
    assert artifacts.open_run(str(tmp_path / "other")).path == tmp_path / "other"


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="cannot make the run folder"):
        open_run(str(tmp_path / "file" / "run"))
