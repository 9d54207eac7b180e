"""The runner: execution, what counts as finished, failures, interruption, kernels."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import yaml

from iscutils.__main__ import main
from iscutils.files.artifacts import KitError, Run, content_key
from iscutils.run import runner
from iscutils.run.kernels import MARKER, _Progress
from iscutils.run.parameters import read_notebook
from iscutils.run.runner import run_notebooks
from iscutils.run.save_outputs import save_outputs

# A notebook that says in a file that it was executed, so that tests can count.
COUNT = 'with open(r.path / "executed", "a") as file:\n    file.write(NAME + "\\n")'


def count(name):
    return COUNT.replace("NAME", repr(name))


def three_notebooks(project):
    project.notebook("01_a", "lr: float = 0.1  # step", count("01"), "r.record('a', lr=lr)")
    project.notebook("05_b", "size: int = 4  # pixels", count("05"), "r.record('b', size=size)")
    project.notebook("06_c", 'data: str = "builtin"  # images', count("06"))
    return project


@pytest.fixture
def chain(project, monkeypatch):
    """Three notebooks that need each other, and a package that nobody edits during the test."""
    monkeypatch.setattr(runner, "package_key", lambda: "package")
    return three_notebooks(project)


def executed(run: Run) -> list[str]:
    """Notebooks executed since the last call."""
    path = run.path / "executed"
    lines = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_a_run_leaves_notebooks_parameters_and_results(chain, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")  # of the caller; notebooks must show their figures
    look = "import os, sys\nprint(sys.executable, os.getcwd())\nprint(os.environ['MPLBACKEND'])"
    chain.notebook("07_d", "", look)
    chain.params("small/05_b", "size: 2")
    run = run_notebooks(["demo", "small"], assignments=["lr=1e-2"])
    assert run.path == chain.root / "runs" / "demo-small"
    assert executed(run) == ["01", "05", "06"]
    assert run.metrics() == {"a": {"lr": 0.01}, "b": {"size": 2}}
    content = yaml.safe_load((run.path / "params.yaml").read_text())
    assert content["sets"] == ["demo", "small"]
    assert content["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert content["notebooks"]["05_b"] == {"run": "demo-small", "workers": 0, "size": 2}
    document = nbformat.read(run.path / "notebooks" / "07_d.ipynb", as_version=4)
    printed = document.cells[-1].outputs[0].text
    assert printed.splitlines() == [
        f"{sys.executable} {chain.root}",
        "module://matplotlib_inline.backend_inline",
    ]
    # The project's own notebooks stay as they were.
    assert not nbformat.read(chain.root / "notebooks" / "07_d.ipynb", 4).cells[-1].outputs


def test_defaults_inject_no_cell(chain):
    run = run_notebooks(["demo"], only=["01"])
    document = nbformat.read(run.path / "notebooks" / "01_a.ipynb", as_version=4)
    assert len(document.cells) == 5
    assert not any("injected" in str(cell.metadata.get("tags")) for cell in document.cells)


def test_only_what_changed_and_what_follows_is_executed_again(chain):
    run = run_notebooks(["demo"])
    assert executed(run) == ["01", "05", "06"]
    run_notebooks(["demo"])
    assert executed(run) == []
    run_notebooks(["demo"], assignments=["workers=3"])  # changes no result
    assert executed(run) == []
    run_notebooks(["demo"], assignments=["size=5"])
    assert executed(run) == ["05", "06"]
    run_notebooks(["demo"], assignments=["size=5"], only=["5", "06_c"])
    assert executed(run) == []  # the run folder says that 01 was finished with the same key
    run_notebooks(["demo"], assignments=["size=6"], only=["05"])
    assert executed(run) == ["05"]
    run_notebooks(["demo"], assignments=["size=6"])
    assert executed(run) == ["06"]
    run_notebooks(["demo"], assignments=["size=6"], only=["01"], force=True)
    assert executed(run) == ["01"]


def test_changed_notebook_package_data_or_lost_artifact_is_noticed(chain, monkeypatch):
    photos = chain.root / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"1")
    options = {"sets": ["demo"], "assignments": ["data=photos"]}
    run = run_notebooks(**options)
    executed(run)
    (photos / "b.jpg").write_bytes(b"2")
    run_notebooks(**options)
    assert executed(run) == ["06"]
    (photos / "b.jpg").write_bytes(b"three")
    run_notebooks(**options)
    assert executed(run) == ["06"]
    chain.notebook("05_b", "size: int = 4  # pixels", count("05"), "r.record('b', size=7)")
    run_notebooks(**options)
    assert executed(run) == ["05", "06"]
    run.publish("a", run.path / "metrics.json")
    run_notebooks(**options)
    assert executed(run) == []
    (run.path / "metrics.json").unlink()
    run_notebooks(**options)
    assert executed(run) == ["01", "05", "06"]
    monkeypatch.setattr(runner, "package_key", lambda: "another version of the package")
    run_notebooks(**options)
    assert executed(run) == ["01", "05", "06"]


def test_package_key_covers_code_and_recipes(project):
    before = runner.package_key()
    recipe = project.params("recipes/queries", "a: 1")
    between = runner.package_key()
    recipe.write_text("a: 2")
    assert len({before, between, runner.package_key()}) == 3


def test_a_failing_cell_ends_with_its_message_and_the_next_run_continues_there(chain, capfd):
    chain.notebook("05_b", "", count("05"), "raise KitError('no such folder: give another')")
    assert main(["run", "demo"]) == 1
    path = chain.root / "runs" / "demo" / "notebooks" / "05_b.ipynb"
    error = capfd.readouterr().err.split("error: ")[-1]
    assert error == (f"05_b, cell [4]: no such folder: give another\nexecuted notebook: {path}\n")
    failed = nbformat.read(path, as_version=4).cells[-1]
    assert failed.outputs[0].ename == "KitError"
    chain.notebook("05_b", "", count("05"))
    assert main(["run", "demo"]) == 0
    assert executed(Run(chain.root / "runs" / "demo")) == ["01", "05", "05", "06"]


def test_other_errors_are_named_and_an_old_result_does_not_count(chain):
    run_notebooks(["demo"])
    good = (chain.root / "notebooks" / "06_c.ipynb").read_text()
    chain.notebook("06_c", "", "[][3]")
    with pytest.raises(KitError, match=r"06_c, cell \[3\]: IndexError: list index out of range"):
        run_notebooks(["demo"])
    (chain.root / "notebooks" / "06_c.ipynb").write_text(good)
    run = run_notebooks(["demo"])
    assert executed(run)[-1] == "06"


def test_a_kernel_that_dies_is_reported(chain):
    chain.notebook("05_b", "", "import os\nos._exit(1)")
    with pytest.raises(KitError, match=r"05_b, cell \[3\]: the kernel died.*memory"):
        run_notebooks(["demo"], only=["05"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "szie=3"], "did you mean 'size'"),
        (["--set", "size=big"], "must be int"),
        (["--set", "data=no/such"], "'data' of 06_c: no folder .*no/such"),
        (["--only", "04"], "--only 04: no such notebook"),
        (["--name", ".."], "run name '..'"),
    ],
)
def test_wrong_input_stops_before_a_kernel_starts(chain, monkeypatch, capfd, arguments, message):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    assert main(["run", "demo", *arguments]) == 1
    assert re.search(message, capfd.readouterr().err)
    assert not (chain.root / "runs" / "demo").exists()


def test_data_of_notebooks_left_out_is_not_asked_for(chain):
    run = run_notebooks(["demo"], assignments=["data=no/such"], only=["01"])
    assert executed(run) == ["01"]


def test_the_run_is_named_by_option_assignment_or_sets(chain):
    chain.params("one/common", "run: for-plain-papermill")
    chain.params("two/common", "")
    assert run_notebooks(["one", "two"], only=["01"]).name == "one-two"
    assert run_notebooks(["one"], assignments=["run=b"], only=["01"]).name == "b"
    assert run_notebooks(["one"], assignments=["run=b"], name="c", only=["01"]).name == "c"
    assert (chain.root / "runs" / "c" / "metrics.json").exists()


def test_a_project_elsewhere_is_run_from_anywhere(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_notebooks(["demo"], only=["01"], root=chain.root)
    assert run.path == chain.root / "runs" / "demo"
    assert (run.path / "metrics.json").exists()
    assert os.getcwd() == str(tmp_path)


def test_runs_can_be_kept_elsewhere(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "big disc"))
    run = run_notebooks(["demo"], only=["01"])
    assert run.path == tmp_path / "big disc" / "demo"
    assert (run.path / "metrics.json").exists()
    assert not (chain.root / "runs").exists()


def test_installed_kernel_specs_do_not_matter(chain, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    broken = {"argv": ["/no/such/python"], "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(broken))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    assert executed(run_notebooks(["demo"], only=["01"])) == ["01"]


def test_two_runners_in_one_folder_are_refused(chain):
    run = run_notebooks(["demo"], only=["01"])
    with runner._locked(run), pytest.raises(KitError, match="being executed by another process"):
        run_notebooks(["demo"])
    assert executed(run_notebooks(["demo"])) == ["01", "05", "06"]


def test_what_killed_writers_left_is_removed_and_a_half_replaced_folder_is_restored(tmp_path):
    models = tmp_path / "models"
    # As artifacts.atomic_path leaves them when it is killed: while writing, and between its
    # two renames.
    (models / ".student.a1b2c3d_" / "student").mkdir(parents=True)
    (models / ".teacher.x9y8z7w6" / "former").mkdir(parents=True)
    (models / ".teacher.x9y8z7w6" / "teacher").mkdir()
    (models / ".teacher.x9y8z7w6" / "teacher" / "config.json").write_text("new")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / ".05_b.running.ipynb").write_text("half")
    for kept in (".finished", ".ipynb_checkpoints", ".hidden"):
        (tmp_path / kept).mkdir()
    runner.remove_stale(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [
        ".finished",
        ".hidden",
        ".ipynb_checkpoints",
        "models",
        "models/teacher",
        "models/teacher/config.json",
        "notebooks",
    ]


# --- interruption ---------------------------------------------------------------------------

WAIT = "import time\n(r.path / 'waiting').touch()\nwhile not (r.path / 'go').exists():\n"
WAIT += "    time.sleep(0.05)"
CHILD = "import subprocess, sys\n"
CHILD += "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"


def start(project, *before):
    """A runner of its own, at the moment when its kernel waits within notebook 05."""
    command = [*before, sys.executable, "-m", "iscutils", "run", "demo"]
    with open(project.root / "stderr", "w") as stderr:  # a pipe would wait for orphans
        process = subprocess.Popen(command, cwd=project.root, stderr=stderr)
    waiting = project.root / "runs" / "demo" / "waiting"
    until(waiting.exists)
    waiting.unlink()
    return process


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def carriers(project) -> list[psutil.Process]:
    """Kernels of the project's demo run, and their children."""
    marker = content_key(str((project.root / "runs" / "demo").resolve()))
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == marker and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def waiting(project):
    three_notebooks(project).notebook("05_b", "", CHILD, WAIT, count("05"))
    yield project
    for process in carriers(project):
        process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_process_and_continues(waiting, ctrl_c, number, status):
    process = start(waiting)
    assert len(carriers(waiting)) == 2
    process.send_signal(number)
    assert process.wait(timeout=30) == status
    assert "Traceback" not in (waiting.root / "stderr").read_text()
    assert carriers(waiting) == []
    (waiting.root / "runs" / "demo" / "go").touch()
    assert executed(run_notebooks(["demo"])) == ["01", "05", "06"]


def test_a_run_under_nohup_outlives_its_terminal(waiting):
    process = start(waiting, "nohup")
    process.send_signal(signal.SIGHUP)
    (waiting.root / "runs" / "demo" / "go").touch()
    assert process.wait(timeout=60) == 0
    assert executed(Run(waiting.root / "runs" / "demo")) == ["01", "05", "06"]


def test_a_killed_run_leaves_no_kernel_and_continues(waiting):
    process = start(waiting)
    process.kill()
    process.wait()
    # The kernel watches its parent; what the kernel started, the next runner ends.
    until(lambda: len(carriers(waiting)) == 1, seconds=10)
    (waiting.root / "runs" / "demo" / "go").touch()
    run = run_notebooks(["demo"])
    assert carriers(waiting) == []
    assert executed(run) == ["01", "05", "06"]
    assert not list(run.path.glob("notebooks/.*.ipynb"))


def test_a_runner_that_starts_at_once_does_not_share_the_folder_with_the_old_kernel(waiting):
    process = start(waiting)
    old = carriers(waiting)
    process.kill()
    process.wait()
    process = start(waiting)  # at once: the old kernel has not noticed yet
    assert not any(one.is_running() and one.status() != "zombie" for one in old)
    (waiting.root / "runs" / "demo" / "go").touch()
    assert process.wait(timeout=60) == 0
    assert executed(Run(waiting.root / "runs" / "demo")) == ["01", "05", "06"]


# --- committed outputs ----------------------------------------------------------------------

NOISY = """import sys
print("hello")
for text in ("50 %", "\\r99 %", "\\r100 %", "\\nend"):
    print(text, file=sys.stderr, end="", flush=True)
size"""
PICTURE = "import matplotlib.pyplot as plt, numpy as np\n"
PICTURE += "plt.imshow(np.random.default_rng(0).random((300, 300, 3)));"


def test_a_log_shows_the_progress_within_a_long_cell(project, capsys):
    path = project.notebook("05_b", "size: int = 4  # pixels", "slow()")
    progress = _Progress(read_notebook(path))
    progress.cell()
    progress.write("views:  40 %\r")
    assert "40 %" not in capsys.readouterr().err  # a log file wants few lines
    progress.bar.last_print_t -= 31  # seconds
    progress.write("views:  50 %\r")
    assert capsys.readouterr().err.endswith("cell 1/3  00:00, views:  50 %")
    progress.close()


def test_outputs_are_saved_without_what_changes_from_run_to_run(chain):
    path = chain.notebook("05_b", "size: int = 4  # pixels", NOISY, PICTURE)
    run = run_notebooks(["demo"])
    assert executed(run) == ["01", "06"]
    noisy = nbformat.read(run.path / "notebooks" / "05_b.ipynb", as_version=4).cells[-2].outputs
    assert {o.name: o.text for o in noisy if o.output_type == "stream"} == {
        "stdout": "hello\n",
        "stderr": "100 %\nend",  # the last state of a progress bar
    }
    sizes = dict(save_outputs("demo"))
    assert sizes[path] == path.stat().st_size
    document = nbformat.read(path, as_version=4)
    nbformat.validate(document)
    cells = [cell for cell in document.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    assert [(o.output_type, o.get("text"), o.get("data")) for o in cells[2].outputs] == [
        ("stream", "hello\n", None),
        ("execute_result", None, {"text/plain": "4"}),
    ]
    assert "image/png" in cells[3].outputs[0].data
    full = nbformat.read(run.path / "notebooks" / "05_b.ipynb", as_version=4).cells[-1].outputs[0]
    assert len(cells[3].outputs[0].data["image/png"]) < 0.6 * len(full.data["image/png"])
    assert "papermill" not in path.read_text()
    assert executed(run_notebooks(["demo"])) == []  # outputs are no part of the key


def test_outputs_are_saved_only_if_they_belong_to_the_present_code_and_are_small(chain):
    path = chain.notebook("05_b", "size: int = 4  # pixels", "print('x' * size)")
    with pytest.raises(KitError, match=r"has no 01_a\.ipynb"):
        save_outputs("demo")
    run_notebooks(["demo"], assignments=["size=1_100_000"])
    before = path.read_bytes()
    with pytest.raises(KitError, match=r"05_b\.ipynb would take 1\.1 MB .* cell \[3\] smaller"):
        save_outputs("demo")
    chain.notebook("06_c", "", "1")
    run_notebooks(["demo"], assignments=["size=3"])
    chain.notebook("06_c", "", "2")
    with pytest.raises(KitError, match=r"06_c\.ipynb changed after the run"):
        save_outputs("demo")
    assert path.read_bytes() == before
