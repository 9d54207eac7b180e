"""Recipe files: read and check `params/recipes/*.yaml`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from iscutils.edits.recipes import Entry, Group, Recipe
from iscutils.edits.registry import REGISTRY, find_edit, narrow
from iscutils.files.artifacts import KitError, project_root, resolve

DRAWS = ("choose", "each", "shuffle")
GROUP_KEYS = ("draw", "count", "operations")
INCLUDE_KEYS = ("count", "without", "operations")  # how an included recipe may be changed
# What a recipe may say beside its group: (type, lowest, highest) of plain values.
LIMITS = {
    "min_visible": (float, 0.0, 0.95),
    "min_contrast": (float, 0.0, 100.0),
    "source": (int, 16, 24_000),
    "faces": (bool, 0, 1),
}
RANGE = "box_area"  # the only range outside of operations
TABLES = {
    "mix": {"probability": (float, 0.0, 1.0), "alpha": (float, 0.01, 100.0)},
    "pairs": {
        "tiles": (float, 0.0, 1.0),  # share of the pairs that are two tiles of one photograph
        "gap": (float, 0.0, 0.5),  # between the tiles, share of the side they lie along
        "min_side": (int, 16, 24_000),  # of a tile, px
    },
}
KEYS = ("description", *GROUP_KEYS, "original", "fallback", *LIMITS, RANGE, *TABLES)
DEEPEST = 6  # groups within groups; also stops recipes that include each other


def recipe_folder() -> Path:
    """Where recipes lie: `params/recipes` of the project."""
    return project_root() / "params" / "recipes"


def list_recipes() -> list[str]:
    """Names of the recipes that `load_recipe` finds, such as "training" or "d2lv/blur"."""
    folder = recipe_folder()
    files = folder.rglob("*.yaml")
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def load_recipe(name: str | Path) -> Recipe:
    """Read and check a recipe: a name in `params/recipes`, or the path of a `.yaml` file.

    Raises `KitError` naming the file, what is not allowed there and what is.
    """
    named = not str(name).endswith((".yaml", ".yml"))
    path = recipe_folder() / f"{name}.yaml" if named else resolve(name)
    return parse_recipe(str(name) if named else path.stem, _read(name, path))


def _read(name: str | Path, path: Path) -> Any:
    if not path.is_file():
        known = list_recipes()
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        known = ", ".join(known) or "none"
        raise KitError(f"no recipe '{name}' ({path}); {hint}recipes: {known}; or give a .yaml file")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise KitError(f"recipe {path.name} is not valid YAML: {reason}") from error


def parse_recipe(name: str, content: Any) -> Recipe:
    """A `Recipe` from the content of its file, checked; see `load_recipe`."""
    where = f"recipe '{name}'"
    if not isinstance(content, Mapping) or "operations" not in content:
        raise KitError(f"{where}: expected a mapping with 'operations'; keys: {', '.join(KEYS)}")
    _known_keys(content, KEYS, where)
    limits = {k: _plain(content[k], *LIMITS[k], f"{where}, '{k}'") for k in LIMITS if k in content}
    tables = {key: _table(content[key], key, where) for key in TABLES if key in content}
    groups = {
        key: _group(content[key], f"{where}, '{key}'")
        for key in ("original", "fallback")
        if key in content
    }
    if RANGE in content:
        limits[RANGE] = _box_area(content[RANGE], f"{where}, '{RANGE}'")
    own = {key: content[key] for key in GROUP_KEYS if key in content}
    description = str(content.get("description", ""))
    return Recipe(name, description, _group(own, where), **groups, **limits, **tables)


def _known_keys(content: Mapping, allowed: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise KitError(f"{where}: unknown key '{key}'; {hint}allowed: {', '.join(allowed)}")


def _plain(value: Any, kind: type, low: float, high: float, where: str) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = isinstance(value, bool) if kind is bool else whole or (kind, type(value)) == (float,) * 2
    if not fits or not low <= value <= high:
        allowed = "true, false" if kind is bool else f"{kind.__name__} of {low:g} to {high:g}"
        raise KitError(f"{where}: {value!r} is not allowed; allowed: {allowed}")
    return kind(value)


def _box_area(value: Any, where: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2 or value != sorted(value):
        raise KitError(f"{where}: {value!r} is not a range [low, high]")
    low, high = (_plain(share, float, 0.0, 1.0, where) for share in value)
    return low, high


def _table(content: Any, key: str, where: str) -> dict[str, float]:
    where, table = f"{where}, '{key}'", TABLES[key]
    if not isinstance(content, Mapping) or set(content) != set(table):
        raise KitError(f"{where}: expected exactly {', '.join(table)}; got {content!r}")
    return {name: _plain(content[name], *table[name], f"{where}, '{name}'") for name in table}


def _group(content: Any, where: str, depth: int = 0) -> Group:
    if depth > DEEPEST:
        raise KitError(f"{where}: groups are nested more than {DEEPEST} deep (in a circle?)")
    if not isinstance(content, Mapping) or not isinstance(content.get("operations"), Mapping):
        raise KitError(f"{where}: expected a mapping with {', '.join(GROUP_KEYS)}")
    _known_keys(content, GROUP_KEYS, where)
    draw = content.get("draw", "choose")
    if draw not in DRAWS:
        raise KitError(f"{where}: draw '{draw}' is unknown; allowed: {', '.join(DRAWS)}")
    entries = tuple(
        _entry(str(name), line, draw, where, depth) for name, line in content["operations"].items()
    )
    count = _count(content, draw, sum(entry.share > 0 for entry in entries), where)
    return Group(draw, count, entries)


def _entry(name: str, line: Any, draw: str, where: str, depth: int) -> Entry:
    """One line: `name: {ranges}`, `name: {operation: .., ranges}`, a group, or `{recipe: ..}`."""
    inside = f"{where}, operation '{name}'"
    if not isinstance(line, (Mapping, type(None))):
        raise KitError(f"{inside}: expected a mapping of ranges, not {line!r}")
    line = dict(line or {})
    word = "weight" if draw == "choose" else "probability"
    share = _share(line.pop(word, 1.0), draw, f"{inside}, '{word}'")
    if "recipe" in line:
        return Entry(name, share, None, {}, _included(line, inside, depth + 1))
    if "operations" in line:
        return Entry(name, share, None, {}, _group(line, inside, depth + 1))
    # `operation` lets one edit stand in a group twice, under two names with other ranges.
    operation = line.pop("operation", name)
    known = REGISTRY.get(operation) or find_edit(operation, f"{where}: operation")
    return Entry(name, share, known.name, narrow(known, line, inside))


def _included(line: dict[str, Any], where: str, depth: int) -> Group:
    """The group of another recipe, with another count, without some lines or with further ones."""
    name = line.pop("recipe")
    _known_keys(line, INCLUDE_KEYS, where)
    content = _read(name, recipe_folder() / f"{name}.yaml")
    group = {key: content[key] for key in GROUP_KEYS if key in content}
    dropped = line.get("without", [])
    for operation in dropped:
        if operation not in group["operations"]:
            allowed = ", ".join(group["operations"])
            raise KitError(f"{where}: no '{operation}' in recipe '{name}' to leave out: {allowed}")
    kept = {key: value for key, value in group["operations"].items() if key not in dropped}
    group["operations"] = {**kept, **line.get("operations", {})}
    group["count"] = line.get("count", group.get("count"))
    if group["count"] is None:
        del group["count"]
    return _group(group, f"recipe '{name}'", depth)


def _share(value: Any, draw: str, where: str) -> float:
    highest = float("inf") if draw == "choose" else 1.0
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= highest or value == float("inf"):
        allowed = "0 or more" if draw == "choose" else "0 to 1"
        raise KitError(f"{where}: {value!r} is not allowed; allowed: {allowed}")
    return float(value)


def _count(content: Mapping, draw: str, operations: int, where: str) -> dict[int, float]:
    if draw != "choose":
        if "count" in content:
            raise KitError(f"{where}: 'count' is for draw 'choose'; remove it")
        return {}
    count = content.get("count", {1: 1.0})
    if not isinstance(count, Mapping) or not count:
        raise KitError(f"{where}: 'count' must map numbers of edits to frequencies, {{1: 1, 2: 1}}")
    for number, frequency in count.items():
        if type(number) is not int or not 0 <= number <= operations:
            raise KitError(f"{where}: count {number!r}; allowed: 0 to {operations} (operations)")
        _share(frequency, draw, f"{where}, count {number}")
    if not sum(count.values()):
        raise KitError(f"{where}: all frequencies of 'count' are 0; give one above 0")
    return {number: float(frequency) for number, frequency in count.items()}
