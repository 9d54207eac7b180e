"""Command line of the kit: `python -m iscutils run demo`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from iscutils import __version__
from iscutils.artifacts import KitError, runs_root
from iscutils.parameters import compose, load_notebooks, set_folders

RUN_EXAMPLES = """examples:
  python -m iscutils run demo                      the defaults: embedded data, minutes on a CPU
  python -m iscutils run rdcd disc21 --set data=disc21:/data/disc21
  python -m iscutils run rdcd smoke --only 05,06   two notebooks of the run 'rdcd-smoke'
The same command continues a run that was interrupted, and skips what is finished."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the kit; return its exit status (0 good, 1 error, 130 interrupted)."""
    options = _parser().parse_args(arguments)
    try:
        if options.project:
            os.chdir(options.project)
        options.command(options)
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


@contextlib.contextmanager
def _polite() -> Iterator[None]:
    """Turn the signals that end a process into an exception: the kernel is ended on the way out."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    former = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m iscutils", description="Image copy detection in numbered notebooks."
    )
    parser.add_argument("--version", action="version", version=f"iscutils {__version__}")
    parser.add_argument("--project", metavar="DIR", help="folder that holds notebooks/ and params/")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="execute the notebooks with parameter sets",
        description="Execute the notebooks in order, into runs/NAME/.",
        epilog=RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("sets", nargs="+", metavar="SET", help="folder of params/; the later one wins")
    _add_set(run)
    run.add_argument("--only", metavar="05,06", help="notebooks to execute, by number or name")
    run.add_argument("--name", metavar="RUN", help="run folder (default: the sets' names, joined)")
    run.add_argument("--force", action="store_true", help="execute finished notebooks again")
    run.set_defaults(command=_run)

    params = commands.add_parser("params", help="show every parameter, its value and its meaning")
    params.add_argument("sets", nargs="*", metavar="SET", help="show the values with these sets")
    _add_set(params)
    params.set_defaults(command=_params)

    listing = commands.add_parser("list", help="list notebooks, parameter sets and runs")
    listing.set_defaults(command=_list)

    outputs = commands.add_parser(
        "save-outputs", help="copy a run's cell outputs into notebooks/ (for contributors)"
    )
    outputs.add_argument("run", metavar="RUN", help="name of a finished run")
    outputs.set_defaults(command=_save_outputs)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="assignments",
        help="one parameter, wins over the sets; may be repeated",
    )


def _run(options: argparse.Namespace) -> None:
    from iscutils.runner import run_notebooks  # brings Jupyter: not needed to show parameters

    only = [part.strip() for part in (options.only or "").split(",") if part.strip()]
    with _polite():
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


def _params(options: argparse.Namespace) -> None:
    notebooks = load_notebooks()
    values = compose(notebooks, options.sets, options.assignments)
    rows = [
        (notebook.name, name, parameter.type, repr(values[notebook.name][name]), parameter.meaning)
        for notebook in notebooks
        for name, parameter in notebook.parameters.items()
    ]
    # What all notebooks share is said once.
    counts = Counter(row[1:] for row in rows)
    shared = [row for row, count in counts.items() if count == len(notebooks) > 1]
    rows = [("(all)", *row) for row in shared] + [row for row in rows if row[1:] not in shared]
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


def _save_outputs(options: argparse.Namespace) -> None:
    from iscutils.outputs import save_outputs

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
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _shown(path: Path) -> str:
    """Path as short as it can be said from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    sys.exit(main())
