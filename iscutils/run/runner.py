"""Execute the numbered notebooks with papermill into a run folder, skipping finished ones.

Each finished notebook leaves a stamp with the key of everything that its results depend on. A run
that was changed, interrupted or killed continues by running the same command again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from iscutils.datasets import check_data
from iscutils.files.artifacts import (
    KitError,
    Run,
    content_key,
    file_hash,
    log,
    open_run,
    project_root,
    published_by,
    resolve,
    write_json,
    write_text,
)
from iscutils.files.locks import locked
from iscutils.run.kernels import end_processes, execute, running_path
from iscutils.run.parameters import Notebook, compose, load_notebooks, nearest, parse_assignment
from iscutils.run.together import Leader

# They decide where and how fast, never what: a run may move to another machine half-way.
WITHOUT_EFFECT = frozenset({"workers", "executor", "device"})
VERSIONS = ("iscutils", "torch", "torchvision", "lightning", "timm", "numpy", "faiss-cpu")
VERSIONS += ("faiss-gpu", "opencv-python-headless", "augly", "papermill")
_HOLDER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")  # as artifacts.atomic_path makes them


@dataclass(frozen=True)
class Step:
    """One notebook of a run, all its parameter values, and the key of its results."""

    notebook: Notebook
    parameters: Mapping[str, Any]
    key: str


def run_notebooks(
    sets: Sequence[str] = ("demo",),
    *,
    assignments: Sequence[str] = (),
    only: Sequence[str] = (),
    name: str | None = None,
    force: bool = False,
    root: str | Path | None = None,
) -> Run:
    """Execute the project's notebooks in the order of their numbers and return the run folder.

    Args:
        sets: names of parameter sets, the later one wins.
        assignments: `name=value` texts that win over every set.
        only: numbers or names of the notebooks to run (default: all).
        name: of the run folder (default: `run` of `assignments`, else the sets' names joined).
        force: execute the chosen notebooks even if they are finished.
        root: the project's folder (default: found from the working directory).

    Raises:
        KitError: wrong parameters or paths (before any kernel starts), a run folder in use, or a
            cell that failed.
    """
    # Kernels inherit the working directory, so that notebooks find the same project.
    with contextlib.chdir(project_root() if root is None else root):
        notebooks = load_notebooks()
        values = compose(notebooks, sets, assignments)
        chosen = select(notebooks, only)
        name = name or run_name(sets, assignments)
        for parameters in values.values():
            if "run" in parameters:
                parameters["run"] = name
        _check_paths(values, chosen)
        run = open_run(name)
        with _locked(run):
            marker = content_key(str(run.path.resolve()))
            end_processes(marker)
            remove_stale(run.path)
            steps = plan(run, notebooks, values, chosen)
            _write_parameters(run, sets, assignments, steps)
            whole = _all_published_exist(run)
            leader = Leader()
            for step in steps:
                if whole and not force and read_stamp(run, step.notebook.name) == step.key:
                    log.info("%s  finished, skipped", step.notebook.name)
                else:
                    _execute(step, run, marker, leader)
            leader.end()
    return run


def _execute(step: Step, run: Run, marker: str, leader: Leader) -> None:
    """Execute one notebook; only a success leaves a stamp."""
    stamp = _stamp_path(run, step.notebook.name)
    stamp.unlink(missing_ok=True)
    started = time.monotonic()
    out = run.folder("notebooks") / step.notebook.path.name
    environment = leader.begin(step.notebook.name, step.parameters)
    execute(step.notebook, step.parameters, out, marker, environment)
    write_json(stamp, {"key": step.key, "seconds": round(time.monotonic() - started, 1)})


def select(notebooks: Sequence[Notebook], only: Sequence[str]) -> list[str]:
    """Names of the notebooks that `only` means by number (`5`, `05`) or name; all when empty."""
    if not only:
        return [notebook.name for notebook in notebooks]
    chosen = set()
    for text in only:
        number = text.zfill(2)
        found = [book.name for book in notebooks if text == book.name or number == book.number]
        if not found:
            known = [notebook.name for notebook in notebooks]
            raise KitError(f"--only {text}: no such notebook{nearest(text, known)}")
        chosen.update(found)
    return sorted(chosen)


def select_numbers(numbers: Sequence[str]) -> list[str]:
    """Names of the project's notebooks with these numbers, without reading the notebooks."""
    paths = (project_root() / "notebooks").glob("*.ipynb")
    return sorted(path.stem for path in paths if path.name[:2] in numbers)


def run_name(sets: Sequence[str], assignments: Sequence[str]) -> str:
    """Name of the run folder: `--set run=` if given, else the sets' names joined.

    A `run` in a set serves those who use plain papermill; here sets compose, so it cannot count.
    """
    given = [value for name, value in map(parse_assignment, assignments) if name == "run"]
    return given[-1] if given else "-".join(sets)


def _check_paths(values: Mapping[str, Mapping[str, Any]], chosen: Sequence[str]) -> None:
    """Raise for data that cannot be opened, before minutes are spent on the way to them."""
    for notebook in chosen:
        for parameter in ("data", "train_images"):
            value = values[notebook].get(parameter) or "builtin"
            try:
                check_data(value, train=parameter == "train_images")
            except KitError as error:
                raise KitError(f"'{parameter}' of {notebook}: {error}") from error


def plan(
    run: Run,
    notebooks: Sequence[Notebook],
    values: Mapping[str, Mapping[str, Any]],
    chosen: Sequence[str],
) -> list[Step]:
    """The chosen notebooks with the keys of their results.

    A key covers the notebook's cells, its parameters, the files that these name, the package, and
    the keys of all notebooks before it: the chosen ones, or what the run folder says of the others.
    """
    package = package_key()
    prints: dict[str, Any] = {}  # fingerprints of input files, each taken once
    steps, before = [], []
    for notebook in notebooks:
        if notebook.name not in chosen:
            before.append(read_stamp(run, notebook.name))
            continue
        parameters = values[notebook.name]
        effective = {k: v for k, v in parameters.items() if k not in WITHOUT_EFFECT}
        inputs = {k: fingerprint(v, prints) for k, v in effective.items() if k != "run"}
        cells = [(cell.cell_type, cell.source) for cell in notebook.document.cells]
        key = content_key(cells, effective, inputs, package, before)
        steps.append(Step(notebook, parameters, key))
        before.append(key)
    return steps


def package_key() -> str:
    """Key of the package's files and of the edit recipes, which the notebooks load by name."""
    package = Path(__file__).resolve().parents[1]
    recipes = project_root() / "params" / "recipes"
    files = [(path.relative_to(package), path) for path in package.rglob("*")]
    files += [(path.relative_to(recipes), path) for path in recipes.rglob("*")]
    return content_key(
        sorted(
            (str(name), file_hash(path))
            for name, path in files
            if path.is_file() and "__pycache__" not in path.parts
        )
    )


def fingerprint(value: Any, taken: dict[str, Any]) -> Any:
    """What changes when a file or folder that a parameter names changes; None if it names none.

    Sizes and times of modification stand for the bytes, as in `make`. `disc21:DIR` means DIR,
    `RUN:NAME` what another run has published.
    `taken` remembers the folders that were walked already.
    """
    if isinstance(value, list):
        return [fingerprint(item, taken) for item in value]
    if not isinstance(value, str) or not value:
        return None
    named = re.split(r"[?&]\w+=", value)  # disc21:DIR?truth=FILE
    if len(named) > 1:
        return [fingerprint(item, taken) for item in named]
    published = published_by(value)
    if published is not None:
        return published.name  # it carries a key of its content
    path = str(resolve(re.sub(r"^\w+:", "", value)))
    if path not in taken:
        # os.path: a text that cannot be a path at all is just not there.
        taken[path] = content_key(sorted(_states(Path(path)))) if os.path.exists(path) else None
    return taken[path]


def _states(path: Path) -> Iterator[tuple[str, int, int]]:
    if path.is_file():
        yield "", path.stat().st_size, path.stat().st_mtime_ns
        return
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # a broken link
                state = os.stat(file)
                yield os.path.relpath(file, path), state.st_size, state.st_mtime_ns


def _stamp_path(run: Run, notebook: str) -> Path:
    return run.path / "notebooks" / ".finished" / f"{notebook}.json"


def read_stamp(run: Run, notebook: str) -> str | None:
    """Key under which a notebook was finished in this run, None if it was not."""
    path = _stamp_path(run, notebook)
    try:
        return json.loads(path.read_text(encoding="utf-8"))["key"]
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _all_published_exist(run: Run) -> bool:
    """Whether no file that a notebook published has vanished since; says so if one has."""
    path = run.path / "artifacts.json"
    published = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    gone = [name for name in published if not run.has(name)]
    if gone:
        log.warning("%s of the run is gone: notebooks are executed again", ", ".join(gone))
    return not gone


def _write_parameters(run: Run, sets, assignments, steps: Sequence[Step]) -> None:
    """`params.yaml`: what the notebooks of this run were executed with."""
    path = run.path / "params.yaml"
    former = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    notebooks = dict((former or {}).get("notebooks") or {})
    notebooks |= {step.notebook.name: dict(step.parameters) for step in steps}
    content = {
        "sets": list(sets),
        "set": list(assignments),
        "versions": _versions(),
        "notebooks": dict(sorted(notebooks.items())),
    }
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _locked(run: Run) -> contextlib.AbstractContextManager[None]:
    """Hold the run folder for this process."""
    return locked(
        run.path,
        f"run '{run.name}' is being executed by another process: "
        "wait for it, or give this one another --name",
    )


def remove_stale(folder: Path) -> None:
    """Remove what killed writers left behind: temporary holders and half-executed notebooks."""
    for path in sorted(folder.rglob(".*"), reverse=True):
        match = _HOLDER.fullmatch(path.name)
        if match and path.is_dir():
            finished = path / match["name"]
            target = path.parent / match["name"]
            # Killed between its two renames: the new folder is complete, the old one moved away.
            if (path / "former").exists() and finished.exists() and not target.exists():
                os.replace(finished, target)
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"notebooks/{running_path(Path('*.ipynb'))}"):
        path.unlink()
