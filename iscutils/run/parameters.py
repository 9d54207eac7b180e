"""Notebook parameters: read from the tagged cell, composed from parameter sets, checked.

A parameter is one line of the cell tagged `parameters`, `name: type = literal  # meaning, unit`.
A set is a folder `params/<set>/` with `common.yaml` (parameters that several notebooks share) and
`NN_name.yaml` (those of one notebook). Sets compose: the later one wins.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from iscutils.files.artifacts import KitError, project_root

SCALARS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
LISTS = ("list[int]", "list[float]", "list[str]")
TYPES = frozenset(kind + optional for kind in (*SCALARS, *LISTS) for optional in ("", " | None"))
MATRIX = "matrix"  # a set's file of that name describes many runs, see `iscutils.run.matrix`
NOT_SETS = ("recipes",)  # params/recipes holds the edit recipes of notebook 02


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell; `type` is its annotation as text, such as `list[int]`."""

    name: str
    type: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Notebook:
    """A numbered notebook of the kit, its cells and its parameters in the order of the cell."""

    path: Path
    document: nbformat.NotebookNode
    parameters: Mapping[str, Parameter]

    @property
    def name(self) -> str:
        """`05_extraction` for `notebooks/05_extraction.ipynb`."""
        return self.path.stem

    @property
    def number(self) -> str:
        """The two digits in front of the name."""
        return self.name[:2]

    def defaults(self) -> dict[str, Any]:
        """Value of each parameter when nobody sets it."""
        return {name: parameter.default for name, parameter in self.parameters.items()}


class _Mismatch(ValueError):
    """A value that its declared type does not allow; the text is a remedy or empty."""


def load_notebooks(folder: str | Path | None = None) -> list[Notebook]:
    """All notebooks `NN_name.ipynb` of a folder (default: `notebooks/` of the project), in order.

    Raises:
        KitError: no notebook there, one that is not readable, or a malformed parameters cell.
    """
    folder = project_root() / "notebooks" if folder is None else Path(folder)
    paths = sorted(path for path in folder.glob("*.ipynb") if re.match(r"\d\d_", path.name))
    if not paths:
        raise KitError(f"no notebooks NN_name.ipynb in {folder}: run this inside the project")
    return [read_notebook(path) for path in paths]


def read_notebook(path: str | Path) -> Notebook:
    """Read a notebook and parse its parameters cell (none: no parameters)."""
    path = Path(path)
    try:
        document = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises JSON, validation and attribute errors alike
        raise KitError(f"{path} is not a readable notebook: {error}") from error
    tagged = [
        cell.source
        for cell in document.cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(tagged) > 1:
        raise KitError(f"{path.name} has {len(tagged)} cells tagged 'parameters': keep one")
    parameters = parse_parameters(tagged[0], path.name) if tagged else {}
    return Notebook(path, document, parameters)


def parse_parameters(source: str, where: str = "parameters cell") -> dict[str, Parameter]:
    """Parameters of a cell's source, {name: Parameter}, without executing anything.

    Raises:
        KitError: a line that is not `name: type = literal`, naming `where` and the line.
    """
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise KitError(f"{where}, parameters cell: {error.msg}: {error.text}") from error
    lines = source.splitlines()
    found: dict[str, Parameter] = {}
    for node in body:
        line = lines[node.lineno - 1]
        problem = _line_problem(node, found)
        if problem:
            raise KitError(f"{where}, parameters cell: {problem}: {line.strip()}")
        assert isinstance(node, ast.AnnAssign)
        assert isinstance(node.target, ast.Name)
        assert node.value is not None
        name, kind = node.target.id, ast.unparse(node.annotation)
        try:
            default = convert(ast.literal_eval(node.value), kind)
        except ValueError as error:
            raise KitError(
                f"{where}, parameters cell: not a literal of its type: {line.strip()}"
            ) from error
        # Offsets of `ast` count bytes of UTF-8.
        rest = line.encode()[node.end_col_offset :].decode()
        found[name] = Parameter(name, kind, default, rest.strip().lstrip("#").strip())
    return found


def _line_problem(node: ast.stmt, found: Mapping[str, Parameter]) -> str:
    """What is wrong with the shape of one statement of a parameters cell; empty when nothing."""
    if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
        return "expected 'name: type = literal  # meaning', got"
    if node.lineno != node.end_lineno:
        return "a parameter takes one line"
    if node.target.id in found:
        return "declared twice"
    kind = ast.unparse(node.annotation)
    if kind not in TYPES:
        return f"type '{kind}' is not one of {', '.join((*SCALARS, *LISTS))} or 'X | None'"
    return ""


def convert(value: Any, kind: str) -> Any:
    """`value` as declared type `kind`; an int becomes a float where a float is meant.

    Raises:
        ValueError: the value is of another type; its text is a remedy, or empty.
    """
    if kind.endswith(" | None"):
        if value is None:
            return None
        kind = kind.removesuffix(" | None")
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise _Mismatch("write a list in square brackets, such as [1, 2]")
        return [convert(item, kind[5:-1]) for item in value]
    if kind == "float" and type(value) in (int, float):
        return float(value)
    if type(value) is SCALARS[kind]:  # not isinstance: True is an int to Python
        return value
    raise _Mismatch(_remedy(value, kind))


def _remedy(value: Any, kind: str) -> str:
    if kind == "str" and not isinstance(value, (list, dict)):
        return "put it in quotes"
    if kind in ("int", "float") and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return ""
        scientific = re.fullmatch(r"([-+]?\d+)(\.\d*)?[eE]([-+]?)(\d+)", value)
        if kind == "float" and scientific:
            whole, fraction, sign, exponent = scientific.groups()
            # YAML 1.1 wants a point and a signed exponent.
            written = f"{whole}{fraction or '.0'}e{sign or '+'}{exponent}"
            return f"YAML reads {value} as text: write {written}"
        return f"write {number!r} without quotes" if kind == "float" else "write it without quotes"
    return ""


def parse_assignment(text: str) -> tuple[str, str]:
    """Split `name=value` of the command line."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise KitError(f"--set {text}: expected name=value, such as --set epochs=5")
    return name.strip(), value.strip()


def _convert_text(text: str, kind: str) -> Any:
    """Value of the command line, read as YAML for the declared type; text stays text."""
    base = kind.removesuffix(" | None")
    if base != kind and text in ("null", "None", "~", ""):
        return None
    if base == "str":
        return text
    if base == "float":
        try:
            return float(text)  # 1e-3, which YAML alone would call text
        except ValueError:
            pass
    try:
        return convert(yaml.safe_load(text), base)
    except yaml.YAMLError as error:
        raise _Mismatch("it is not YAML") from error


def set_folders(folder: str | Path | None = None) -> dict[str, Path]:
    """All parameter sets of a `params/` folder, {name: folder}, by name."""
    folder = project_root() / "params" if folder is None else Path(folder)
    found = sorted(path for path in folder.glob("[!._]*") if path.is_dir())
    return {path.name: path for path in found if path.name not in NOT_SETS}


def compose(
    notebooks: Sequence[Notebook],
    sets: Iterable[str] = (),
    assignments: Iterable[str] = (),
    folder: str | Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Every parameter of every notebook, {notebook: {parameter: value}}, checked.

    Notebook defaults, then the sets in order (in each `common.yaml` first), then `name=value`
    assignments, which go to all notebooks that declare the name.

    Raises:
        KitError: unknown set, file or parameter (with the nearest known name), or a value of
            another type than the notebook declares.
    """
    values = {notebook.name: notebook.defaults() for notebook in notebooks}
    by_name = {notebook.name: notebook for notebook in notebooks}
    known_sets = set_folders(folder)
    for set_name in sets:
        if set_name not in known_sets:
            raise KitError(f"unknown parameter set '{set_name}'{nearest(set_name, known_sets)}")
        for path in _set_files(known_sets[set_name], by_name):
            shared = path.stem == "common"
            targets = list(notebooks) if shared else [by_name[path.stem]]
            where = f"params/{set_name}/{path.name}"
            for name, value in _read_yaml(path, where).items():
                _assign(values, targets, str(name), value, where, convert)
    for text in assignments:
        name, value = parse_assignment(text)
        _assign(values, list(notebooks), name, value, "--set", _convert_text)
    return values


def _set_files(folder: Path, notebooks: Mapping[str, Notebook]) -> list[Path]:
    """Files of a set, `common.yaml` first; a `KitError` for one that no notebook would read."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    files = [path for path in files if path.name != f"{MATRIX}.yaml"]
    for path in files:
        where = f"params/{folder.name}/{path.name}"
        if path.suffix == ".yml":
            raise KitError(f"{where} would not be read: name it {path.stem}.yaml")
        if path.stem != "common" and path.stem not in notebooks:
            names = ["common", *notebooks]
            raise KitError(f"{where} belongs to no notebook{nearest(path.stem, names)}")
    return sorted(files, key=lambda path: path.stem != "common")


def _read_yaml(path: Path, where: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise KitError(f"{where} is not valid YAML: {problem}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise KitError(f"{where} must hold lines 'name: value', got {type(content).__name__}")
    return content


def _assign(values, notebooks, name, value, where, converter) -> None:
    """Set a parameter in all the given notebooks that declare it; at least one must."""
    declaring = [notebook for notebook in notebooks if name in notebook.parameters]
    if not declaring:
        known = {known for notebook in notebooks for known in notebook.parameters}
        owner = notebooks[0].name if len(notebooks) == 1 else "any notebook"
        raise KitError(f"{where}: '{name}' is not a parameter of {owner}{nearest(name, known)}")
    for notebook in declaring:
        kind = notebook.parameters[name].type
        try:
            values[notebook.name][name] = converter(value, kind)
        except _Mismatch as error:
            remedy = f"; {error}" if str(error) else ""
            raise KitError(
                f"{where}: '{name}' of {notebook.name} must be {kind}, "
                f"got {value!r} ({type(value).__name__}){remedy}"
            ) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error message about an unknown name: the close match, or all that is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if close:
        return f"; did you mean '{close[0]}'?"
    if not 0 < len(known) <= 12:
        return "; `python -m iscutils params` shows what is known"
    return f"; known: {', '.join(known)}"
