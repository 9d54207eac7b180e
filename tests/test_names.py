"""File names as texts: lines, tables and spreadsheets take them, and they lead back to the file."""

import os

import pandas as pd
import pytest

from iscutils.__main__ import main
from iscutils.evaluation.submissions import read_predictions, write_predictions
from iscutils.files.artifacts import open_run
from iscutils.files.names import from_cell, one_line, to_cell, unwritten, written
from iscutils.run.arguments import assignments_from_here, data_from_here

NASTY = [
    "plain.jpg",
    "a b.jpg",
    "two\nlines",
    "tab\t",
    "\x1b[31m",
    "caf\u00e9",
    "\u2028",
    "\\x41.jpg",
    "\\x5c",
    "\\",
]
FORMULAS = ["=1+1", "+1", "-1", "@sum", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("name", [*NASTY, os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"\xff\\xff")])
def test_a_written_name_is_one_line_of_utf8_and_leads_back(name):
    text = written(name)
    assert len(text.encode().splitlines()) == 1
    assert "\x1b" not in text
    assert unwritten(text) == name
    assert one_line(text) == text


def test_bytes_that_are_not_utf8_are_written_as_a_shell_takes_them():
    assert written(os.fsdecode(b"caf\xe9\n.jpg")) == r"caf\xe9\x0a.jpg"


@pytest.mark.parametrize("name", [*FORMULAS, "./plain", "plain", ""])
def test_a_cell_is_never_a_formula(name):
    assert to_cell(name)[:1] not in "=+-@" or not name
    assert from_cell(to_cell(name)) == name


def test_ids_come_back_from_matches_and_from_skipped(tmp_path):
    pairs = pd.DataFrame({"query_id": FORMULAS, "reference_id": FORMULAS[::-1], "score": range(5)})
    path = write_predictions(tmp_path / "matches.csv", pairs, extra=True)
    assert not any(
        cell[0] in "=+-@" for line in path.read_text().splitlines() for cell in line.split(",")[:2]
    )
    assert set(read_predictions(path).query_id) == set(FORMULAS)
    submission = write_predictions(tmp_path / "submission.csv", pairs)
    assert set(pd.read_csv(submission, dtype=str).query_id) == set(FORMULAS)
    run = open_run(str(tmp_path / "run"))
    latin = os.fsdecode(b"caf\xe9.jpg")
    run.record_skipped("one", [("=1+1", latin, "damaged")])
    run.record_skipped("two", [("b", "/b", "damaged")])
    rows = {row["stage"]: row for row in run.skipped()}
    assert rows["one"]["image_id"] == "=1+1"
    assert unwritten(rows["one"]["file"]) == latin
    assert pd.read_csv(run.path / "skipped.csv").image_id.tolist() == ["./=1+1", "b"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working directory that is no project, with some pictures."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "disc").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_relative_data_of_the_command_line_mean_the_working_directory(elsewhere):
    assert data_from_here("pictures") == str(elsewhere / "pictures")
    assert data_from_here("gone") == str(elsewhere / "gone")
    assert data_from_here("builtin") == "builtin"
    spec = data_from_here("disc21:disc?split=dev2&truth=./pictures")
    assert spec == f"disc21:{elsewhere}/disc?split=dev2&truth={elsewhere}/pictures"
    assert data_from_here("/abs") == "/abs"
    assert assignments_from_here(
        ["data=pictures", "train_images=builtin", "start=pictures", "start=./pictures", "epochs=3",
         "models=[release-64, ./pictures]"]
    ) == [
        f"data={elsewhere}/pictures", "train_images=builtin", "start=pictures",
        f"start={elsewhere}/pictures", "epochs=3", f"models=[release-64, {elsewhere}/pictures]",
    ]  # fmt: skip


def test_check_looks_in_the_working_directory(elsewhere, capsys):
    assert main(["check", "pictures"]) == 1
    assert str(elsewhere / "pictures") in capsys.readouterr().err


def test_in_the_project_relative_data_stay_as_they_are(elsewhere, monkeypatch):
    for name in ("notebooks", "params"):
        (elsewhere / name).mkdir()
    assert data_from_here("pictures") == "pictures"
    monkeypatch.chdir(elsewhere / "notebooks")
    assert data_from_here("pictures") == "pictures"  # found from the project alone
