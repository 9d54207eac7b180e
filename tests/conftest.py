"""Fixtures for all tests, and the settings under which nbval executes the notebooks."""

import os
import shutil
import signal
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
    # What takes longest comes first, so that no process is left alone with it at the end.
    items.sort(key=lambda item: item.path.suffix == ".py" and item.path.stem != "test_end_to_end")
    for item in items:
        if hasattr(item.parent, "skip_compare"):  # a notebook of nbval
            # Progress bars and log lines; committed notebooks hold none.
            item.parent.skip_compare += ("stderr",)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """A test process takes a file as a whole, and all notebooks: each needs what is before it."""
    from xdist.scheduler import LoadFileScheduling

    class Whole(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "notebooks" if file.endswith(".ipynb") else file

    return Whole(config, log)


@pytest.fixture
def ctrl_c():
    """SIGINT as a terminal has it, here and in what a test starts.

    A job that a script starts with `&` inherits an ignored one: `nohup make test &` has no Ctrl-C.
    """
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


class Project:
    """A small project with notebooks of its own, to run in place of the kit's."""

    def __init__(self, root: Path):
        self.root = root
        (root / "notebooks").mkdir(parents=True)
        (root / "params" / "demo").mkdir(parents=True)

    def notebook(self, name: str, parameters: str, *cells: str) -> Path:
        """Write a notebook; each cell can use `r`, the open run."""
        shared = 'run: str = "demo"  # name of the run folder\nworkers: int = 0  # processes\n'
        first = "from iscutils.files.artifacts import open_run, KitError\nr = open_run(run)"
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
