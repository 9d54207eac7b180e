"""The command of the kit under torchrun: one runner leads, the others follow into trainings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iscutils import training
from iscutils.__main__ import main
from iscutils.files.artifacts import FOLLOWS, Run, wait_if_following
from iscutils.run import together
from iscutils.training.fit import _nodes

ROOT = Path(__file__).resolve().parents[1]


def torchrun(runs: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "iscutils", "run", "smoke", "--only", "01"]
    return subprocess.run(
        [*command, "--set", "device=cpu", "--set", "train_limit=40", *arguments],
        cwd=ROOT,
        env=os.environ | {"ISCUTILS_RUNS": str(runs)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_two_runners_train_one_model(tmp_path):
    done = torchrun(tmp_path, "--set", "devices=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("process 1 joins") == 1
    run = Run(tmp_path / "smoke")
    history = training.read_history(run.find("pretrained"))
    assert len(history) == 40 // (16 * 2)  # steps of both processes together
    assert json.loads((run.path / "metrics.json").read_text())["01_pretrain"]["steps"] == 1
    assert [path.name for path in run.path.glob("notebooks/[!.]*")] == ["01_pretrain.ipynb"]
    again = torchrun(tmp_path, "--set", "devices=2")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "finished, skipped" in again.stderr
    assert "joins" not in again.stderr


@pytest.fixture
def second_of_two(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)


def test_a_matrix_is_refused(second_of_two, capsys):
    assert together.started_together()
    assert not together.is_first()
    assert main(["run", "d2lv", "smoke"]) == 1
    assert "without torchrun" in capsys.readouterr().err


def test_devices_have_to_be_what_torchrun_started(second_of_two):
    with pytest.raises(ValueError, match="devices=2"):
        _nodes(3)


def test_one_process_has_nobody_to_talk_to(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    leader = together.Leader()
    assert leader.begin("03_training", {"devices": 4}) == {}
    leader.end()


def test_a_follower_writes_nothing_and_waits_for_files(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.record("a", value=1)
    monkeypatch.setenv(FOLLOWS, "1")
    assert run.record("a", value=2) == {"value": 2}
    run.publish("model", tmp_path)
    run.record_skipped("a", [("x", "x.jpg", "broken")])
    assert run.metrics() == {"a": {"value": 1}}
    assert not run.has("model")
    assert run.skipped() == []
    waits = []
    monkeypatch.setattr(
        "iscutils.files.artifacts.time.sleep",
        lambda _: waits.append(1) or (tmp_path / "there").touch(),
    )
    wait_if_following(tmp_path / "there")
    assert waits == [1]
