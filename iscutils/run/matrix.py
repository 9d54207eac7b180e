"""Many runs from one parameter set: `params/<set>/matrix.yaml` names axes, each cell is a run.

    axes:                  # short name: value of the parameter that is called like the axis
      recipe: {base: d2lv/basic, blur: d2lv/blur}
      backbone: {r50: "torchvision:resnet50", ibn: resnet50_ibn_a}
    with:                  # other axes when that set is named as well
      smoke: {backbone: {tiny: resnet10t}}
    runs:                  # done in this order
      - {over: [backbone], notebooks: ["01"]}
      - {over: [recipe, backbone], notebooks: ["03"], set: {start: "{run}-{backbone}:pretrained"}}
      - {notebooks: ["05", "06"], set: {models: ["{run}-{recipe}-{backbone}:teacher"]}}

A run is called `<run>-<short>-<short>`, one without axes `<run>`. A list item that names axes which
its run does not have stands for all their combinations, other text for the first of them. An axis
value may be a mapping of several parameters.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import string
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from iscutils.files.artifacts import KitError, log, open_run, runs_root
from iscutils.files.executor import open_executor
from iscutils.run.parameters import MATRIX, set_folders
from iscutils.run.runner import read_stamp, run_name, run_notebooks, select_numbers

Axes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One run of a matrix: its name, its place on the axes, and what it executes."""

    run: str
    place: Mapping[str, str]  # axis -> short name
    notebooks: Sequence[str]  # numbers
    assignments: Sequence[str] = field(default_factory=tuple)  # name=value texts

    def chosen(self, only: Collection[str]) -> list[str]:
        """Those of its notebooks that are among some numbers; all for none."""
        return [number for number in self.notebooks if not only or number in only]

    def finished(self, only: Collection[str] = ()) -> bool:
        """Whether its chosen notebooks were finished once; only running it checks their keys."""
        folder = runs_root() / self.run
        if not (folder / "params.yaml").exists():
            return False
        run = open_run(self.run)
        return all(read_stamp(run, name) for name in select_numbers(self.chosen(only)))


def matrix_file(sets: Sequence[str], folder: str | Path | None = None) -> Path | None:
    """`matrix.yaml` of the last of these sets that has one, None if none has."""
    folders = set_folders(folder)
    files = [folders[name] / f"{MATRIX}.yaml" for name in sets if name in folders]
    return next((file for file in reversed(files) if file.exists()), None)


def stages_of(
    sets: Sequence[str], assignments: Sequence[str], name: str | None = None
) -> list[list[Cell]]:
    """Cells of the matrix of named sets, in a run of that name; empty if they have none."""
    path = matrix_file(sets)
    return [] if path is None else expand(path, sets, name or run_name(sets, assignments))


def expand(path: str | Path, sets: Sequence[str], name: str) -> list[list[Cell]]:
    """The cells of a matrix, one list a line of `runs`: those of one list do not need each other.

    Args:
        path: of the matrix.
        sets: all parameter sets in use; those under `with` change the axes.
        name: of the run without axes, and the start of all others.

    Raises:
        KitError: unknown keys, an unknown axis, text with an unknown placeholder.
    """
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    _only(content, {"axes", "with", "runs"}, path)
    axes = dict(content.get("axes") or {})
    for other in sets:
        axes |= (content.get("with") or {}).get(other) or {}
    return [_cells(line, axes, name, path) for line in content.get("runs") or []]


def _cells(line: Mapping[str, Any], axes: Axes, name: str, path: str | Path) -> list[Cell]:
    _only(line, {"over", "notebooks", "set"}, path)
    over = list(line.get("over") or [])
    unknown = [axis for axis in over if axis not in axes]
    if unknown:
        raise KitError(f"{path}: '{unknown[0]}' is no axis: choose {', '.join(axes) or 'none'}")
    cells = []
    for place in _places(over, axes):
        values: dict[str, Any] = {}
        for axis, short in place.items():
            value = axes[axis][short]
            values |= value if isinstance(value, Mapping) else {axis: value}
        for key, value in (line.get("set") or {}).items():
            values[key] = _filled(value, place, axes, name, path)
        texts = tuple(f"{key}={_as_text(value)}" for key, value in values.items())
        run = "-".join([name, *place.values()])
        cells.append(Cell(run, place, tuple(line.get("notebooks") or ()), texts))
    return cells


def _places(over: Sequence[str], axes: Axes) -> list[dict[str, str]]:
    shorts = itertools.product(*(axes[axis] for axis in over))
    return [dict(zip(over, place, strict=True)) for place in shorts]


def _filled(value: Any, place: Mapping[str, str], axes: Axes, name: str, path: str | Path) -> Any:
    """`value` with {run} and {axis} filled in; list items may stand for many."""
    if isinstance(value, list):
        return [one for item in value for one in _all_of(item, place, axes, name, path)]
    return _all_of(value, place, axes, name, path)[0]


def _all_of(
    item: Any, place: Mapping[str, str], axes: Axes, name: str, path: str | Path
) -> list[Any]:
    if not isinstance(item, str):
        return [item]
    named = [field for _, field, _, _ in string.Formatter().parse(item) if field]
    free = [axis for axis in named if axis in axes and axis not in place]
    return [_format(item, {**place, **more}, name, path) for more in _places(free, axes)]


def _format(text: str, place: Mapping[str, str], name: str, path: str | Path) -> str:
    try:
        return text.format(run=name, **place)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(["run", *place])
        raise KitError(f"{path}: '{text}' has an unknown placeholder: use {known}") from error


def _as_text(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**9).splitlines()[0]


def _only(mapping: Mapping[str, Any], known: set[str], path: str | Path) -> None:
    unknown = sorted(set(mapping) - known)
    if unknown:
        raise KitError(f"{path}: unknown key '{unknown[0]}': use {', '.join(sorted(known))}")


def run_matrix(
    stages: Sequence[Sequence[Cell]],
    sets: Sequence[str],
    *,
    assignments: Sequence[str] = (),
    only: Sequence[str] = (),
    force: bool = False,
    executor: str = "serial",
    jobs: int = 1,
) -> None:
    """Execute the cells of every stage, finished ones at no cost, and go on when one fails.

    Args:
        stages: what `expand` gives.
        assignments: win over the matrix.
        only: numbers of notebooks; the cells' other notebooks are left out.
        executor: `serial`, `processes`, `dask` or the address of a Dask scheduler whose workers see
            the same disc. Where there are GPUs, each cell gets one that no other cell uses.
        jobs: cells at a time.

    Raises:
        KitError: cells that failed, named at the end of their stage; later stages need them.
    """
    chosen = _numbers(only)
    for stage in stages:
        cells = [cell for cell in stage if cell.chosen(chosen)]
        job = partial(
            _run_cell, tuple(sets), tuple(assignments), frozenset(chosen), force, jobs > 1
        )
        with open_executor(executor if jobs > 1 else "serial", jobs) as pool:
            problems = [text for text in pool.map(job, cells, desc="runs") if text]
        if problems:
            raise KitError(f"{len(problems)} of {len(cells)} runs failed: " + "; ".join(problems))


def _run_cell(
    sets: Sequence[str],
    assignments: Sequence[str],
    chosen: frozenset[str],
    force: bool,
    several: bool,
    cell: Cell,
) -> str:
    """Execute one cell; returns what went wrong, empty if nothing did."""
    numbers = cell.chosen(chosen)
    log.info("run %s: notebooks %s", cell.run, ", ".join(numbers))
    try:
        with one_gpu() if several else contextlib.nullcontext():
            run_notebooks(
                sets,
                assignments=[*cell.assignments, *assignments],
                only=numbers,
                name=cell.run,
                force=force,
            )
    except KitError as error:
        return f"{cell.run}: {error}"
    return ""


@contextlib.contextmanager
def one_gpu() -> Iterator[str]:
    """Reserve a GPU of this machine that no other run has; yields its name ('' where none is).

    `CUDA_VISIBLE_DEVICES` is set to it meanwhile, for the kernel to inherit.
    """
    former = os.environ.get("CUDA_VISIBLE_DEVICES")
    with contextlib.ExitStack() as held:
        for gpu in _gpus(former):
            path = Path(tempfile.gettempdir(), f"iscutils-{os.getuid()}-gpu-{gpu}.lock")
            file = held.enter_context(open(path, "w", encoding="utf-8"))
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                try:
                    yield gpu
                finally:
                    if former is None:
                        del os.environ["CUDA_VISIBLE_DEVICES"]
                    else:
                        os.environ["CUDA_VISIBLE_DEVICES"] = former
                return
        yield ""


def _gpus(visible: str | None) -> list[str]:
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip()]
    import torch  # takes seconds, and cells of one at a time do not need it

    return [str(i) for i in range(torch.cuda.device_count())]


def table(stages: Sequence[Sequence[Cell]], only: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Rows of text that show which runs are finished: a grid for stages over two axes.

    only: numbers of the notebooks that count; runs without them are left out.
    """
    chosen = _numbers(only)
    stages = [[cell for cell in stage if cell.chosen(chosen)] for stage in stages]
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        axes = list(stage[0].place) if stage else []
        if len(axes) != 2:
            rows += [(cell.run, _mark(cell, chosen)) for cell in stage]
            continue
        across = list(dict.fromkeys(cell.place[axes[1]] for cell in stage))
        rows.append((f"{axes[0]} / {axes[1]}", *across))
        for down in dict.fromkeys(cell.place[axes[0]] for cell in stage):
            line = {c.place[axes[1]]: _mark(c, chosen) for c in stage if c.place[axes[0]] == down}
            rows.append((down, *(line.get(name, "") for name in across)))
    done = sum(cell.finished(chosen) for stage in stages for cell in stage)
    asked = f" with {', '.join(sorted(chosen))}" if chosen else ""
    rows.append((f"{done} of {sum(map(len, stages))} runs finished{asked}",))
    return rows


def _numbers(only: Sequence[str]) -> frozenset[str]:
    """Numbers of notebooks as cells name them."""
    return frozenset(number.zfill(2) for number in only)


def _mark(cell: Cell, chosen: Collection[str]) -> str:
    return "finished" if cell.finished(chosen) else "-"
