"""The shape of the notebooks: one reader's guide, many short cells, outputs of the present code.

That they run, and that marked outputs come out the same, is checked by nbval (`make test`).
"""

import ast
import re
import statistics
import sys
from pathlib import Path

import nbformat
import pytest

from iscutils.run.parameters import read_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMON = {
    "run": ("str", "demo"),
    "data": ("str", "builtin"),
    "train_images": ("str", "builtin"),
    "seed": ("int", 0),
    "device": ("str", "auto"),
    "workers": ("int", 0),
    "executor": ("str", "processes"),
}
PATH_OF_A_MACHINE = re.compile(
    r"(?<![\w.~])/(?:" + "|".join(("home", "Users", "root", "tmp", "work", "mnt", "var")) + r")/\w"
    r"|\b[A-Z]:\\\\?\w"
)

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks in this checkout")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    document = nbformat.read(path, as_version=4)
    return [cell for cell in document.cells if cell.cell_type == kind]


def code_lines(cell) -> int:
    """Lines of a cell that are code: neither blank nor only a comment."""
    lines = [line.strip() for line in cell.source.splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def python(cell) -> ast.Module:
    """Syntax tree of a code cell, its line magics blanked."""
    lines = cell.source.splitlines()
    return ast.parse("\n".join("" if line.startswith("%") else line for line in lines))


def test_the_path_from_00_to_08_is_complete():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert [number for number in numbers if number < "09"] == [f"{n:02}" for n in range(9)]
    assert len(set(numbers)) == len(numbers)


@each
def test_one_title_and_the_reader_is_told_what_comes(path):
    prose = [cell.source for cell in cells(path, "markdown")]
    titles = [line for text in prose for line in text.splitlines() if line.startswith("# ")]
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert len(titles) == 1
    for promise in ("What you'll do", "What you'll learn", "What you'll need", "What to try"):
        assert promise in "\n".join(prose).replace("’", "'"), f"no '{promise}'"


@each
def test_links_lead_to_notebooks_that_exist(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    targets = set(re.findall(r"\]\(([\w./-]+\.ipynb)\)", text))
    assert all((path.parent / target).exists() for target in targets), targets
    later = [other.name for other in NOTEBOOKS if path.name < other.name < "09"]
    assert not later or later[0] in targets, f"no link to {later[0]}"


@each
def test_parameters_are_tagged_explained_and_common_ones_alike(path):
    notebook = read_notebook(path)
    assert notebook.parameters, "no cell tagged 'parameters'"
    for name, parameter in notebook.parameters.items():
        assert parameter.meaning, f"{name} has no comment"
        # papermill --help-notebook loses a line with a second '='.
        assert "=" not in parameter.meaning, f"'=' in the comment of {name}"
    for name, expected in COMMON.items():
        if name in notebook.parameters:
            parameter = notebook.parameters[name]
            assert (parameter.type, parameter.default) == expected
    assert {"run", "data", "seed"} <= set(notebook.parameters)


@each
def test_cells_are_short_and_prose_and_code_balance(path):
    code, prose = cells(path, "code"), cells(path, "markdown")
    # One parameter a line: that cell is as long as the notebook has parameters.
    told = [cell for cell in code if "parameters" not in cell.metadata.get("tags", ())]
    lengths = sorted(code_lines(cell) for cell in told)
    assert lengths[-1] <= 25
    assert sum(length <= 12 for length in lengths) >= 0.9 * len(lengths)
    assert statistics.median(lengths) <= 4
    assert 0.8 <= len(prose) / len(code) <= 1.4


@each
def test_cells_call_and_do_not_define(path):
    for number, cell in enumerate(cells(path, "code"), start=1):
        # The exit status of a shell command is lost: a failure would pass.
        assert not re.search(r"^\s*(!|%%(bash|sh))", cell.source, re.M), f"shell in cell [{number}]"
        for node in ast.walk(python(cell)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno < 5, f"cell [{number}] defines {node.name}"


@each
def test_outputs_are_committed_complete_small_and_of_no_machine(path):
    assert path.stat().st_size < 1_000_000
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [(number, o) for number, cell in enumerate(code, 1) for o in cell.outputs]
    assert outputs
    for number, output in outputs:
        assert output.output_type != "error", f"cell [{number}] failed"
        assert output.get("name") != "stderr", f"cell [{number}] holds progress or log lines"
    text = "\n".join(
        [cell.source for cell in nbformat.read(path, as_version=4).cells]
        + [str(o.get("text", "")) for _, o in outputs]
        + [str(v) for _, o in outputs for k, v in o.get("data", {}).items() if "image" not in k]
    )
    assert not PATH_OF_A_MACHINE.findall(text)
    assert str(ROOT) not in text
    assert sys.prefix not in text


@each
def test_compared_cells_do_not_rely_on_a_semicolon(path):
    # It silences the last value in Jupyter and papermill, but not in nbval.
    for number, cell in enumerate(cells(path, "code"), start=1):
        if "NBVAL_CHECK_OUTPUT" in cell.source:
            assert not cell.source.rstrip().endswith(";"), f"cell [{number}]"


def test_some_outputs_of_every_notebook_are_compared():
    without = [
        path.name
        for path in NOTEBOOKS
        if not any("NBVAL_CHECK_OUTPUT" in cell.source for cell in cells(path, "code"))
    ]
    assert without == []
