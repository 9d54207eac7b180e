"""A matrix of runs: names, order, what is left to do, and one GPU each."""

import os

import nbformat
import pytest

from iscutils.__main__ import main
from iscutils.files.artifacts import KitError, open_run
from iscutils.run.matrix import expand, matrix_file, one_gpu, table

MATRIX = """
axes:
  recipe: {base: d2lv/basic, blur: {recipe: d2lv/blur, epochs: 2}}
  backbone: {r50: "torchvision:resnet50", ibn: resnet50_ibn_a}
with:
  small: {backbone: {tiny: resnet10t}}
runs:
  - {over: [backbone], notebooks: ["01"]}
  - {over: [recipe, backbone], notebooks: ["03"], set: {start: "{run}-{backbone}:pretrained"}}
  - {notebooks: ["05"], set: {models: ["{run}-{recipe}-{backbone}:teacher"]}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "matrix.yaml"
    path.write_text(MATRIX)
    return path


def test_cells_are_named_after_their_place(file):
    first, second, last = expand(file, ["d2lv"], "d2lv")
    assert [cell.run for cell in first] == ["d2lv-r50", "d2lv-ibn"]
    assert [cell.run for cell in second] == [
        "d2lv-base-r50", "d2lv-base-ibn", "d2lv-blur-r50", "d2lv-blur-ibn"
    ]  # fmt: skip
    assert second[3].assignments == (
        "recipe=d2lv/blur", "epochs=2", "backbone=resnet50_ibn_a", "start=d2lv-ibn:pretrained"
    )  # fmt: skip
    assert [cell.run for cell in last] == ["d2lv"]
    assert last[0].assignments == (
        "models=['d2lv-base-r50:teacher', 'd2lv-base-ibn:teacher', 'd2lv-blur-r50:teacher', "
        "'d2lv-blur-ibn:teacher']",
    )


def test_another_set_changes_the_axes(file):
    stages = expand(file, ["d2lv", "small"], "d2lv-small")
    assert [cell.run for cell in stages[0]] == ["d2lv-small-tiny"]
    assert [cell.run for cell in stages[1]] == ["d2lv-small-base-tiny", "d2lv-small-blur-tiny"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("over: [backbone]", "over: [network]", "'network' is no axis: choose recipe, backbone"),
        ("{run}-{backbone}:", "{run}-{seed}:", "unknown placeholder: use run, recipe, backbone"),
        ("axes:", "axis:", "unknown key 'axis'"),
    ],
)
def test_mistakes_are_named(file, old, new, message):
    file.write_text(MATRIX.replace(old, new))
    with pytest.raises(KitError, match=message):
        expand(file, ["d2lv"], "d2lv")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one notebook, which fails when `value` is 3, and a matrix of it."""
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    cells = [
        nbformat.v4.new_code_cell('run: str = "x"  # run\nvalue: int = 0  # a\nseen: str = ""  # b',
                                  metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "from iscutils.files.artifacts import open_run, write_text, find_published\n"
            "folder = open_run(run)\nassert value != 3\n"
            "if seen:\n    print(find_published(folder, seen).read_text())\n"
            "folder.publish('value', write_text(folder.path / 'value.txt', str(value)));"
        ),
    ]  # fmt: skip
    for cell in cells:
        cell.pop("id", None)
    book = nbformat.v4.new_notebook(cells=cells)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params" / "many").mkdir(parents=True)
    nbformat.write(book, tmp_path / "notebooks" / "01_only.ipynb")
    (tmp_path / "params" / "many" / "matrix.yaml").write_text(
        'axes: {value: {one: 1, two: 2}}\nruns:\n  - {over: [value], notebooks: ["01"]}\n'
        '  - {notebooks: ["01"], set: {seen: "{run}-two:value"}}\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_cells_run_once_and_feed_later_ones(project, capsys):
    assert main(["matrix", "many"]) == 0
    assert "0 of 3 runs finished" in capsys.readouterr().out
    assert main(["run", "many"]) == 0
    assert "3 of 3 runs finished" in capsys.readouterr().out
    assert (project / "runs" / "many-two" / "value.txt").read_text() == "2"
    done = nbformat.read(project / "runs" / "many" / "notebooks" / "01_only.ipynb", 4)
    assert any("2" in str(cell.get("outputs")) for cell in done.cells)
    stamp = project / "runs" / "many-one" / "notebooks" / ".finished" / "01_only.json"
    before = stamp.stat().st_mtime_ns
    assert main(["run", "many"]) == 0
    assert stamp.stat().st_mtime_ns == before


def test_with_only_some_notebooks_these_alone_count(project, capsys):
    book = nbformat.read(project / "notebooks" / "01_only.ipynb", 4)
    nbformat.write(book, project / "notebooks" / "02_later.ipynb")
    (project / "params" / "many" / "matrix.yaml").write_text(
        'runs:\n  - {notebooks: ["01", "02"]}\n  - {notebooks: ["02"]}\n'
    )
    assert main(["run", "many", "--only", "1"]) == 0
    assert "1 of 1 runs finished with 01" in capsys.readouterr().out
    assert main(["matrix", "many"]) == 0
    assert "0 of 2 runs finished" in capsys.readouterr().out


def test_a_failed_cell_is_named_after_the_others_ran(project, capsys):
    path = project / "params" / "many" / "matrix.yaml"
    path.write_text(path.read_text().replace("one: 1", "bad: 3"))
    assert main(["run", "many"]) == 1
    assert "1 of 2 runs failed: many-bad:" in capsys.readouterr().err
    assert open_run("many-two").has("value")


def test_without_a_matrix_the_command_says_so(project, capsys):
    (project / "params" / "plain").mkdir()
    assert matrix_file(["plain"]) is None
    assert main(["matrix", "plain"]) == 1
    assert "has a matrix.yaml" in capsys.readouterr().err


def test_two_runs_never_share_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "907,908")
    with one_gpu() as first:
        assert (first, os.environ["CUDA_VISIBLE_DEVICES"]) == ("907", "907")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "907,908")  # what another process sees
        with one_gpu() as second:
            assert second == "908"
    with one_gpu() as again:
        assert again == "907"


def test_the_table_is_a_grid(file, tmp_path, monkeypatch):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    rows = table(expand(file, ["d2lv"], "d2lv"))
    assert ("recipe / backbone", "r50", "ibn") in rows
    assert ("blur", "-", "-") in rows
    assert rows[-1] == ("0 of 7 runs finished",)
