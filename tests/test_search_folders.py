"""Run folders of searches: one process at a time, and nobody's results overwritten."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iscutils.files.artifacts import KitError, open_run
from iscutils.files.locks import locked
from iscutils.files.search_folders import open_search


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def folders(*arguments):
    with open_search(*arguments) as (run, library):
        return run.path.name, library.name


def test_other_pictures_get_a_run_of_their_own_and_share_descriptors():
    assert folders(["a.jpg"], "my/Pictures") == ("find-Pictures", "find-Pictures")
    other, library = folders(["b.jpg"], "my/Pictures")
    assert other.startswith("find-Pictures-")
    assert library == "find-Pictures"
    assert folders(["./b.jpg"], "my/../my/Pictures/") == (other, library)  # the same search
    assert folders(["a.jpg"], "my/Pictures") == ("find-Pictures", "find-Pictures")


def test_another_folder_of_the_same_name_gets_another_library():
    first = folders(["a.jpg"], "my/Pictures")
    second = folders(["a.jpg"], "your/Pictures")
    assert second[0] == second[1] != first[0]
    third = folders(["b.jpg"], "your/Pictures")
    assert third[1] == second[1]
    assert len({first[0], second[0], third[0]}) == 3


def test_a_name_that_is_given_is_taken(caplog):
    assert folders(["a.jpg"], "Pictures", "mine") == ("mine", "mine")
    assert folders(["b.jpg"], "Pictures", "mine") == ("mine", "mine")


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "new\nline", "x" * 250])
def test_any_name_of_a_folder_makes_a_run(name):
    run, _ = folders(["a.jpg"], f"/somewhere/{name}")
    assert run.isprintable()
    assert run.startswith("find-")


HOLD = """
import sys, time
from iscutils.files.locks import locked
with locked(sys.argv[1], "busy"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_waits_or_is_refused_and_a_killed_one_frees_the_folder(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(KitError, match="in use"), locked(tmp_path, "in use"):
        pass
    entered = threading.Event()

    def wait():
        with locked(tmp_path, "in use", wait=True):
            entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.5)
    holder.kill()
    holder.wait()
    assert entered.wait(30)
    waiting.join()


def test_a_run_folder_without_a_record_is_taken_over(runs):
    open_run("find-Pictures")
    assert folders(["a.jpg"], "Pictures") == ("find-Pictures", "find-Pictures")
    assert Path(runs / "find-Pictures" / "search.json").exists()
