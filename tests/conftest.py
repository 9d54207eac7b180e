"""Fixtures for all tests, and the settings under which nbval executes the notebooks."""

import os
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

# A runs folder of this test run's own, inherited by the kernels: nothing that an earlier run left
# can make a notebook pass. It ends in `runs`, which tests/nbval.cfg knows.
_SCRATCH = Path(tempfile.mkdtemp(prefix="iscutils-test-"))
os.environ["ISCUTILS_RUNS"] = str(_SCRATCH / "runs")

# Several test processes share the cores: torch, which has not been imported yet, takes its share.
if "PYTEST_XDIST_WORKER" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def pytest_unconfigure():
    shutil.rmtree(_SCRATCH, ignore_errors=True)


def pytest_collection_modifyitems(items):
    for item in items:
        notebook = hasattr(item.parent, "skip_compare")  # of nbval
        if notebook:
            # Progress bars and log lines; committed notebooks hold none.
            item.parent.skip_compare += ("stderr",)
        # What one test process takes as a whole: a file, for its fixtures; and all notebooks, each
        # of which needs what the one before left.
        item.add_marker(pytest.mark.xdist_group("notebooks" if notebook else item.path.name))


class Project:
    """A small project with notebooks of its own, to run in place of the kit's."""

    def __init__(self, root: Path):
        self.root = root
        (root / "notebooks").mkdir(parents=True)
        (root / "params" / "demo").mkdir(parents=True)

    def notebook(self, name: str, parameters: str, *cells: str) -> Path:
        """Write a notebook; each cell can use `r`, the open run."""
        shared = 'run: str = "demo"  # name of the run folder\nworkers: int = 0  # processes\n'
        first = "from iscutils.artifacts import open_run, KitError\nr = open_run(run)"
        document = new_notebook(
            cells=[
                new_markdown_cell(f"# {name}"),
                new_code_cell(shared + parameters, metadata={"tags": ["parameters"]}),
                new_code_cell(first),
                *map(new_code_cell, cells),
            ]
        )
        path = self.root / "notebooks" / f"{name}.ipynb"
        nbformat.write(document, path)
        return path

    def params(self, name: str, text: str) -> Path:
        """Write `params/<name>.yaml`."""
        path = self.root / "params" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    """An empty project that is the working directory, with runs in its own `runs/`."""
    project = Project(tmp_path / "my {kit}")  # names that a template would trip over
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("ISCUTILS_RUNS")
    return project
