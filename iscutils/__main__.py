"""Command line of the kit: `python -m iscutils run demo`."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iscutils.files.artifacts import KitError, runs_root
from iscutils.files.names import one_line
from iscutils.run.arguments import assignments_from_here, data_from_here, parser
from iscutils.run.parameter_page import parameter_page, parameter_rows
from iscutils.run.parameters import compose, load_notebooks, set_folders
from iscutils.run.signals import ending_politely

if TYPE_CHECKING:
    from iscutils.find import Pictures
    from iscutils.report.findings import Findings

SHOWN = 40  # rows of a result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the kit; return its exit status (0 good, 1 error, 130 interrupted)."""
    options = parser().parse_args(arguments)
    try:
        if options.project:
            os.chdir(options.project)
        if getattr(options, "assignments", None):
            options.assignments = assignments_from_here(options.assignments)
        if getattr(options, "data", None):
            options.data = data_from_here(options.data)
        COMMANDS[options.command](options)
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `... params | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command continues from here", file=sys.stderr)
        return 130
    return 0


def _find(options: argparse.Namespace) -> None:
    from iscutils.report.findings import shown

    found, pictures, run = _searched(options, options.pictures, options.among)
    if options.json:
        print(found.likely.to_json(orient="records", force_ascii=False))
        return
    header, *rows = shown(found.likely.head(SHOWN))
    if rows:
        _print_table(header, rows)
    if len(found.likely) > SHOWN:
        print(f"... and {len(found.likely) - SHOWN} more")
    count = found.likely["query_id"].nunique()
    print(f"{count} of {len(pictures)} pictures have a likely original")
    _print_end(found.notes, {"all pairs": run / "matches.csv", "report": run / "report.html"})


def _duplicates(options: argparse.Namespace) -> None:
    from iscutils.report.groups import groups_of, shown_groups, write_groups

    found, pictures, run = _searched(options, options.pictures)
    groups = groups_of(found, pictures)
    page = write_groups(groups, found, pictures, run)
    if options.json:
        print(json.dumps([[member._asdict() for member in group] for group in groups]))
        return
    header, *rows = shown_groups(groups)
    if rows:
        _print_table(header, rows[:SHOWN])  # the page shows all
    print(f"{len(groups)} groups with {len(rows)} of {len(pictures)} pictures; nothing was changed")
    _print_end(found.notes, {"groups": run / "groups.csv", "report": page})


def _searched(
    options: argparse.Namespace, places: Sequence[str], among: str | None = None
) -> tuple[Findings, Pictures, Path]:
    """What a search finds, its pictures, and the folder of its results."""
    from iscutils.files.executor import open_executor
    from iscutils.files.search_folders import open_search
    from iscutils.find import find_copies, open_pictures

    pictures = open_pictures(places)
    references = open_pictures([among]) if among else pictures
    with open_search(places, among or places[0], options.name) as (run, library):
        with open_executor("processes", options.workers) as executor:
            found = find_copies(
                pictures, references, run, executor, model=options.model,
                shortlist=options.shortlist, rows=options.rows, frames=options.frames,
                library=library, ways=options.ways.split(","),
            )  # fmt: skip
    return found, pictures, run.path


def _print_end(notes: Sequence[str], files: Mapping[str, Path]) -> None:
    lines = [f"note: {note}" for note in notes]
    for line in lines + [f"{name + ':':<10} {_shown(path)}" for name, path in files.items()]:
        print(line)


def _run(options: argparse.Namespace) -> None:
    from iscutils.run.matrix import run_matrix, stages_of  # brings Jupyter: not needed for others
    from iscutils.run.runner import run_notebooks
    from iscutils.run.together import follow, is_first, started_together

    only = [part.strip() for part in (options.only or "").split(",") if part.strip()]
    stages = stages_of(options.sets, getattr(options, "assignments", []), options.name)
    if stages and started_together():
        raise KitError("a matrix of runs is no single training: start it without torchrun")
    if not is_first():
        with ending_politely():
            follow()
        return
    if stages:
        with ending_politely():
            run_matrix(
                stages, options.sets, assignments=options.assignments, only=only,
                force=options.force, executor=options.cluster, jobs=options.jobs,
            )  # fmt: skip
        _matrix(options, only)
        for path in (runs_root() / cell.run for stage in stages for cell in stage):
            if (path / "report.html").exists():
                print(f"report: {_shown(path / 'report.html')}")
        return
    with ending_politely():
        run = run_notebooks(
            options.sets,
            assignments=options.assignments,
            only=only,
            name=options.name,
            force=options.force,
        )
    print(f"run folder: {_shown(run.path)}")
    if (run.path / "report.html").exists():
        print(f"report:     {_shown(run.path / 'report.html')}")


def _matrix(options: argparse.Namespace, only: Sequence[str] = ()) -> None:
    from iscutils.run.matrix import stages_of, table

    stages = stages_of(options.sets, getattr(options, "assignments", []), options.name)
    if not stages:
        raise KitError(f"none of the sets {', '.join(options.sets)} has a matrix.yaml")
    rows = table(stages, only)
    _print_table(rows[0], rows[1:])


def _params(options: argparse.Namespace) -> None:
    notebooks = load_notebooks()
    values = compose(notebooks, options.sets, options.assignments)
    if options.markdown:
        value = "value" if options.sets or options.assignments else "default"
        print(parameter_page(notebooks, values, value), end="")
        return
    rows = parameter_rows(notebooks, values)
    _print_table(("notebook", "parameter", "type", "value", "meaning"), rows)


def _list(_options: argparse.Namespace) -> None:
    notebooks = load_notebooks()
    titles = [(notebook.name, _first_heading(notebook)) for notebook in notebooks]
    _print_table(("notebook", "title"), titles)
    print()
    sets = [(name, _first_comment(path)) for name, path in set_folders().items()]
    _print_table(("set", "what for"), sets)
    runs = [
        (path.name, str(len(list(path.glob("notebooks/.finished/*.json")))))
        for path in sorted(runs_root().glob("*"))
        if (path / "params.yaml").exists()
    ]
    if runs:
        print()
        _print_table(("run", "finished notebooks"), runs)


def _check(options: argparse.Namespace) -> None:
    from iscutils.datasets.check import check
    from iscutils.files.executor import open_executor

    with open_executor("processes") as executor:
        checked = check(options.data, executor, sample=options.sample)
    print("\n".join(checked.lines))
    if checked.errors:
        raise KitError(f"{options.data} cannot be used: {'; '.join(checked.errors)}")
    print("usable")


def _validate(options: argparse.Namespace) -> None:
    from iscutils.datasets import open_benchmark
    from iscutils.descriptors.submission_check import check_submission
    from iscutils.evaluation.submissions import read_predictions, write_predictions

    file = options.file
    if options.write:
        pairs = read_predictions(file)
        file = write_predictions(options.write, pairs, cap=options.cap, cut=True)
    known = ()
    if options.data:
        benchmark = open_benchmark(options.data, require_truth=False)
        known = benchmark.queries.ids, benchmark.references.ids
    violations = check_submission(file, *known, cap=options.cap)
    for violation in violations:
        print(f"- {violation}")
    if violations:
        raise KitError(f"{file}: {len(violations)} rules broken: correct them before upload")
    print("valid: no rule is broken")


def _points(options: argparse.Namespace) -> None:
    from iscutils.local import convert_points

    print(_shown(convert_points(options.source, options.target, options.negate_bins)))


def _ship(options: argparse.Namespace) -> None:
    from iscutils.files.artifacts import open_run
    from iscutils.run.packing import pack_run

    text = Path(options.card).read_text(encoding="utf-8") if options.card else ""
    folder = pack_run(open_run(options.run), options.name, options.model, text)
    print(f"{_shown(folder)}: use it as models=[{options.name}]")


def _export(options: argparse.Namespace) -> None:
    from iscutils.run.packing import export_model

    cosines = export_model(
        options.model, options.out, sizes=options.sizes, int8=options.int8,
        examples=options.calibrate,
    )  # fmt: skip
    weight = Path(options.out).stat().st_size / 2**20
    print(f"{options.out}: {weight:.1f} MiB")
    print(f"cosine with torch: {cosines['mean']:.4f} on average, {cosines['min']:.4f} at worst")


def _save_outputs(options: argparse.Namespace) -> None:
    from iscutils.run.save_outputs import save_outputs

    for path, size in save_outputs(options.run):
        print(f"{_shown(path)}  {size / 1024:.0f} kB")


def _first_heading(notebook) -> str:
    sources = [cell.source for cell in notebook.document.cells if cell.cell_type == "markdown"]
    lines = [line for source in sources for line in source.splitlines()]
    return next((line.lstrip("# ") for line in lines if line.startswith("# ")), "")


def _first_comment(folder: Path) -> str:
    """First comment of a set, which says what it is for."""
    path = folder / "common.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = [header, *([one_line(cell) for cell in row] for row in rows)]
    # A row of one text is a remark, as wide as it likes.
    columns = itertools.zip_longest(*(row for row in table if len(row) > 1), fillvalue="")
    widths = [max(map(len, column)) for column in columns]
    for row in table:
        cells = map(str.ljust, row, widths) if len(row) > 1 else row
        print("  ".join(cells).rstrip())


def _shown(path: Path) -> str:
    """Path as short as it can be said from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


COMMANDS = {
    "run": _run,
    "find": _find,
    "duplicates": _duplicates,
    "matrix": _matrix,
    "params": _params,
    "list": _list,
    "check": _check,
    "validate": _validate,
    "points": _points,
    "ship": _ship,
    "export": _export,
    "save-outputs": _save_outputs,
}

if __name__ == "__main__":
    sys.exit(main())
