"""Recipes: which edits are drawn how often and how strongly, read from `params/recipes/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from iscutils.artifacts import KitError, content_key, project_root, resolve
from iscutils.edits.parameters import Parameter
from iscutils.edits.record import Edited, Operation
from iscutils.edits.registry import apply, find_edit, narrow

KEYS = ("description", "draw", "count", "operations")
DRAWS = ("choose", "each")


@dataclass(frozen=True)
class Recipe:
    """How edits are drawn.

    draw "choose": a number of edits is drawn by the weights of `count`, that many different
    operations by `weights`, and their order at random. draw "each": every operation is applied with
    its probability, independently, in the order of the file.
    """

    name: str
    description: str
    draw: str
    count: dict[int, float]  # number of edits -> relative frequency ("choose" only)
    weights: dict[str, float]  # operation -> relative frequency ("choose") or probability ("each")
    parameters: dict[str, dict[str, Parameter]]

    def sample(self, rng: np.random.Generator) -> tuple[Operation, ...]:
        """Draw operations with their strengths."""
        names = list(self.weights)
        weights = np.array(list(self.weights.values()))
        if self.draw == "each":
            chosen = [name for name, draw in zip(names, rng.random(len(names)), strict=True)
                      if draw < self.weights[name]]  # fmt: skip
        else:
            frequencies = np.array(list(self.count.values()))
            number = rng.choice(list(self.count), p=frequencies / frequencies.sum())
            chosen = rng.choice(names, int(number), replace=False, p=weights / weights.sum())
        return tuple(
            (str(name), {key: p.draw(rng) for key, p in self.parameters[name].items()})
            for name in chosen
        )

    @property
    def needs_donors(self) -> bool:
        """Whether any of its operations needs other photographs."""
        return any(find_edit(name).needs_donor for name in self.weights)

    def key(self) -> str:
        """Ten hexadecimal digits that change with whatever changes the drawn edits."""
        return content_key(self.draw, self.count, list(self.weights.items()), repr(self.parameters))


def edit(
    image: Image.Image,
    recipe: Recipe,
    rng: np.random.Generator,
    donors: Sequence[Image.Image] = (),
) -> Edited:
    """Draw edits of a recipe and apply them to a PIL RGB picture; see `apply`."""
    return apply(image, recipe.sample(rng), donors)


def recipe_folder() -> Path:
    """Where recipes lie: `params/recipes` of the project."""
    return project_root() / "params" / "recipes"


def list_recipes() -> list[str]:
    """Names of the recipes that `load_recipe` finds."""
    return sorted(file.stem for file in recipe_folder().glob("*.yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """Read and check a recipe: a name in `params/recipes`, or the path of a `.yaml` file.

    Raises `KitError` naming the file, what is not allowed there and what is.
    """
    named = not str(name).endswith((".yaml", ".yml"))
    path = recipe_folder() / f"{name}.yaml" if named else resolve(name)
    if not path.is_file():
        known = ", ".join(list_recipes()) or "none"
        raise KitError(f"no recipe '{name}' ({path}); recipes: {known}; or give a .yaml file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise KitError(f"recipe {path.name} is not valid YAML: {reason}") from error
    return parse_recipe(path.stem, content)


def parse_recipe(name: str, content: Any) -> Recipe:
    """A `Recipe` from the content of its file, checked; see `load_recipe`."""
    where = f"recipe '{name}'"
    if not isinstance(content, Mapping) or not isinstance(content.get("operations"), Mapping):
        raise KitError(f"{where}: expected a mapping with {', '.join(KEYS)}")
    for key in content:
        if key not in KEYS:
            raise KitError(f"{where}: unknown key '{key}'; allowed: {', '.join(KEYS)}")
    draw = content.get("draw", "choose")
    if draw not in DRAWS:
        raise KitError(f"{where}: draw '{draw}' is unknown; allowed: {', '.join(DRAWS)}")
    weights, parameters = {}, {}
    for operation, ranges in content["operations"].items():
        known = find_edit(operation, f"{where}: operation")
        inside = f"{where}, operation '{operation}'"
        if not isinstance(ranges, (Mapping, type(None))):
            raise KitError(f"{inside}: expected a mapping of ranges, not {ranges!r}")
        ranges = dict(ranges or {})
        word = "weight" if draw == "choose" else "probability"
        weights[operation] = _weight(ranges.pop(word, 1.0), draw, f"{inside}, '{word}'")
        parameters[operation] = narrow(known, ranges, inside)
    count = _count(content, draw, sum(weight > 0 for weight in weights.values()), where)
    description = str(content.get("description", ""))
    return Recipe(name, description, draw, count, weights, parameters)


def _weight(value: Any, draw: str, where: str) -> float:
    highest = 1.0 if draw == "each" else float("inf")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= highest or value == float("inf"):
        allowed = "0 to 1" if draw == "each" else "0 or more"
        raise KitError(f"{where}: {value!r} is not allowed; allowed: {allowed}")
    return float(value)


def _count(content: Mapping, draw: str, operations: int, where: str) -> dict[int, float]:
    if draw == "each":
        if "count" in content:
            raise KitError(f"{where}: 'count' is for draw 'choose'; remove it")
        return {}
    count = content.get("count", {1: 1.0})
    if not isinstance(count, Mapping) or not count:
        raise KitError(f"{where}: 'count' must map numbers of edits to frequencies, {{1: 1, 2: 1}}")
    for number, frequency in count.items():
        if type(number) is not int or not 1 <= number <= operations:
            raise KitError(f"{where}: count {number!r}; allowed: 1 to {operations} (operations)")
        _weight(frequency, draw, f"{where}, count {number}")
    if not sum(count.values()):
        raise KitError(f"{where}: all frequencies of 'count' are 0; give one above 0")
    return {number: float(frequency) for number, frequency in count.items()}
