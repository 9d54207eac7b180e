"""What the command line understands; `__main__` does it."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import yaml

from iscutils import __version__
from iscutils.files.artifacts import project_root

FIND_EXAMPLES = """examples:
  python -m iscutils find edited.jpg --among ~/Pictures
  python -m iscutils find suspects/ --among archive/ --rows 3
  python -m iscutils duplicates archive/              copies within one folder"""

RUN_EXAMPLES = """examples:
  python -m iscutils run demo                      the defaults: embedded data, minutes on a CPU
  python -m iscutils run rdcd disc21 --set data=disc21:/data/disc21
  python -m iscutils run rdcd smoke --only 05,06   two notebooks of the run 'rdcd-smoke'
The same command continues a run that was interrupted, and skips what is finished."""

CHECK_EXAMPLES = """examples:
  python -m iscutils check disc21:/data/disc21?split=dev2
  python -m iscutils check ndec:/data/ndec?references=/data/disc21
  python -m iscutils check copydays:/data/copydays?distractors=/data/yfcc10k"""


def parser() -> argparse.ArgumentParser:
    """Of all commands; `command` of what it parses is the name of one."""
    top = argparse.ArgumentParser(
        prog="python -m iscutils", description="Image copy detection in numbered notebooks."
    )
    top.add_argument("--version", action="version", version=f"iscutils {__version__}")
    top.add_argument("--project", metavar="DIR", help="folder that holds notebooks/ and params/")
    commands = top.add_subparsers(
        title="commands", required=True, metavar="COMMAND", dest="command"
    )

    find = commands.add_parser(
        "find",
        help="find the originals of pictures among those of a folder",
        description="Rank likely originals with a descriptor that comes with the kit, and check "
        "them point by point. Nothing is trained.",
        epilog=FIND_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    find.add_argument("--among", required=True, metavar="FOLDER", help="of possible originals")
    _add_search(find)

    duplicates = commands.add_parser(
        "duplicates",
        help="find groups of copies within folders",
        description="Equal files first, then likely copies, as groups that begin with the largest "
        "picture. Nothing is changed or deleted.",
    )
    _add_search(duplicates)

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
    run.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="of a set with a matrix: runs at a time, each on a GPU of its own (default: 1)",
    )
    run.add_argument(
        "--cluster",
        default="processes",
        metavar="ADDRESS",
        help="of a set with a matrix and --jobs: Dask scheduler, tcp://host:port",
    )

    matrix = commands.add_parser("matrix", help="show which runs of a set's matrix are finished")
    matrix.add_argument("sets", nargs="+", metavar="SET", help="as for run")
    matrix.add_argument("--name", metavar="RUN", help="as for run")

    params = commands.add_parser("params", help="show every parameter, its value and its meaning")
    params.add_argument("sets", nargs="*", metavar="SET", help="show the values with these sets")
    params.add_argument("--markdown", action="store_true", help="as a page, such as docs/params.md")
    _add_set(params)

    commands.add_parser("list", help="list notebooks, parameter sets and runs")

    check = commands.add_parser(
        "check",
        help="look at a data set before a long run: what is there, missing, unreadable",
        description="Exit status 1 if the data cannot be used; incomplete data are no error.",
        epilog=CHECK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "data", metavar="DATA", help="disc21:DIR, ndec:DIR, copydays:DIR or a folder"
    )
    check.add_argument(
        "--sample",
        type=int,
        default=100,
        metavar="N",
        help="images of each part that are decoded, 0: all (default: 100)",
    )

    validate = commands.add_parser(
        "validate",
        help="check a submission (.csv or .h5) before it is uploaded",
        description="Name every violation of the challenge's rules; exit status 1 if there is one.",
    )
    validate.add_argument("file", metavar="FILE", help="pairs (.csv) or descriptors (.h5)")
    validate.add_argument("--data", metavar="DATA", help="compare ids with these, as for check")
    validate.add_argument(
        "--cap", type=int, default=500_000, metavar="N", help="most rows of pairs (default: 500000)"
    )
    validate.add_argument(
        "--write",
        metavar="OUT",
        help="first make the submission OUT from FILE, such as matches.csv",
    )

    points = commands.add_parser(
        "points", help="convert local features to or from imgFp's text files"
    )
    points.add_argument("source", metavar="SRC", help=".h5 of notebook 07, .txt, or folder of .txt")
    points.add_argument("target", metavar="DST", help=".txt or folder for an .h5, .h5 for text")
    points.add_argument(
        "--negate-bins", action="store_true", help="between VLFeat's and OpenCV's order of bins"
    )

    ship = commands.add_parser(
        "ship",
        help="make a run's model one that comes with the kit, found by its name",
        description="Write weights, background descriptors and a card to iscutils/weights/NAME/.",
    )
    ship.add_argument("run", metavar="RUN", help="a run that finished notebook 05")
    ship.add_argument("name", metavar="NAME", help="of the model, such as release-256")
    ship.add_argument("--model", default="student", metavar="MODEL", help="published by the run")
    ship.add_argument("--card", metavar="FILE", help="Markdown: data, licences, weaknesses")

    export = commands.add_parser(
        "export",
        help="write a model as one ONNX file, from pixels to the descriptor",
        description="The file takes uint8 RGB pixels (N, H, W, 3) of any size and gives unit "
        "vectors (N, D); onnxruntime runs it without the kit. What it is stands in its metadata. "
        "It is compared with torch before it is written.",
    )
    export.add_argument("model", metavar="MODEL", help="of the kit, RUN:NAME, a folder or a file")
    export.add_argument("out", metavar="OUT", help="file to write, such as descriptor.onnx")
    export.add_argument("--int8", action="store_true", help="8 bits: smaller, faster on a CPU")
    export.add_argument(
        "--calibrate",
        default="builtin",
        metavar="FOLDER",
        help="photographs to compare and to calibrate with (default: those of the kit)",
    )
    export.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[],
        metavar="PX",
        help="input sides whose descriptors are averaged (default: the model's own)",
    )

    outputs = commands.add_parser(
        "save-outputs", help="copy a run's cell outputs into notebooks/ (for contributors)"
    )
    outputs.add_argument("run", metavar="RUN", help="name of a finished run")
    return top


def _add_search(find: argparse.ArgumentParser) -> None:
    """Arguments of commands that search folders."""
    find.add_argument("pictures", nargs="+", metavar="PICTURE", help="files or folders")
    find.add_argument(
        "--name",
        metavar="RUN",
        help="run folder (default: find-FOLDER, with a key if other pictures have that one)",
    )
    find.add_argument("--json", action="store_true", help="print rows for scripts, and no table")
    find.add_argument(
        "--model",
        default="release-256",
        metavar="MODEL",
        help="of the kit (default: %(default)s; release-64 is faster and finds less; "
        "release-lite-256 knows more kinds of pictures), sscd, RUN:NAME, a folder, or a file of "
        "weights or ONNX",
    )
    find.add_argument(
        "--ways",
        default="whole,tiles,centre,inverted",
        metavar="WAY,WAY",
        help="descriptions of a picture, the best of which counts (default: %(default)s); also "
        "mirrored, turned; whole alone takes a seventh of the time",
    )
    find.add_argument(
        "--shortlist",
        type=int,
        default=200,
        metavar="N",
        help="nearest references of a picture whose points are compared (default: %(default)s)",
    )
    find.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="most references listed for a picture (default: 10, and all that are likely)",
    )
    find.add_argument(
        "--frames",
        type=int,
        default=3,
        metavar="N",
        help="of an animation or a file of pages that are compared (default: %(default)s)",
    )
    find.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes (default: one a core)"
    )


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="assignments",
        help="one parameter, wins over the sets; may be repeated",
    )


DATA = ("data", "train_images")  # parameters that always name places, or the embedded pictures


def assignments_from_here(texts: list[str]) -> list[str]:
    """`name=value` of the command line with relative paths as the working directory means them.

    Within notebooks and parameter files a relative path is meant from the project. `data` and
    `train_images` are paths; other values only where they hold a slash and exist.
    """
    return [_assignment_from_here(text) for text in texts]


def _assignment_from_here(text: str) -> str:
    name, equals, value = text.partition("=")
    if name.strip() in DATA:
        return name + equals + data_from_here(value.strip())
    if not value.lstrip().startswith("["):
        return name + equals + _from_here(value.strip(), needed=False)
    try:
        items = yaml.safe_load(value)
        items = [_from_here(one, needed=False) if isinstance(one, str) else one for one in items]
    except yaml.YAMLError:
        return text  # `compose` says what is wrong
    return name + equals + yaml.safe_dump(items, default_flow_style=True, width=10**9).strip()


def data_from_here(data: str) -> str:
    """A data parameter of the command line: `builtin`, FOLDER or `disc21:FOLDER?truth=FILE`."""
    if data in ("", "builtin"):
        return data
    place, *options = re.split(r"([?&]\w+=)", data)
    kind = re.match(r"\w+:|", place)[0] if not os.path.exists(place) else ""
    names, values = options[::2], options[1::2]
    further = [
        name + _from_here(value, needed=False) for name, value in zip(names, values, strict=True)
    ]
    return "".join([kind, _from_here(place[len(kind) :], needed=True), *further])


def _from_here(path: str, *, needed: bool) -> str:
    """The absolute form of what is meant from here; other text as it is.

    needed: it is a path, even if it is missing and in whatever form.
    """
    here, root = Path.cwd(), project_root()
    own = here / os.path.expanduser(path)
    if here == root or not (needed or ("/" in path and own.exists())):
        return path
    return path if not own.exists() and (root / path).exists() else str(own)
