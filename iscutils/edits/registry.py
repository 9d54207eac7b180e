"""The list of edit operations and how recorded operations are applied to a picture."""

from __future__ import annotations

import difflib
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from iscutils.edits.moves import Move, render
from iscutils.edits.parameters import DONOR, POSITION, SEED, Parameter, narrowed
from iscutils.edits.record import Edited, Operation, Step, within_limits
from iscutils.files.artifacts import KitError


@dataclass(frozen=True)
class Edit:
    """One registered operation: its function, its parameters and where it belongs.

    move: for edits that only move pixels, (size, **values) -> `Move`; None for all others.
    """

    name: str
    function: Callable[..., Step]
    parameters: dict[str, Parameter]
    family: str  # geometric, colour, quality, overlay, composition
    donors: int  # other photographs it uses, at most
    move: Callable[..., Move] | None = None

    @property
    def description(self) -> str:
        """First line of the function's docstring."""
        return inspect.getdoc(self.move or self.function).splitlines()[0]


REGISTRY: dict[str, Edit] = {}


def operation(family: str, donors: int = 0, **parameters: Parameter) -> Callable:
    """Register a function `(image, **values) -> Step` as the operation of the function's name.

    With `donors` the function is `(image, donors, **values)` and gets the list of donor
    photographs, the drawn one first.
    """

    def register(function: Callable[..., Step]) -> Callable[..., Step]:
        known = {"donor": DONOR, **parameters} if donors else parameters
        name = function.__name__
        REGISTRY[name] = Edit(name, function, known, family, donors)
        return function

    return register


def geometry(**parameters: Parameter) -> Callable:
    """Register a function `(size, **values) -> Move` as a geometric operation."""

    def register(move: Callable[..., Move]) -> Callable[..., Move]:
        def function(image: Image.Image, **values: Any) -> Step:
            plan = move(image.size, **values)
            return Step(render(image, plan), plan.matrix)

        REGISTRY[move.__name__] = Edit(move.__name__, function, parameters, "geometric", 0, move)
        return move

    return register


def find_edit(name: str, where: str = "operation") -> Edit:
    """The registered operation of a name; a `KitError` lists all names and the closest one."""
    if name in REGISTRY:
        return REGISTRY[name]
    close = difflib.get_close_matches(str(name), REGISTRY, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise KitError(f"{where} '{name}' is unknown; {hint}allowed: {', '.join(sorted(REGISTRY))}")


def draw_operation(name: str, rng: np.random.Generator, **ranges: Any) -> Operation:
    """Draw one operation's strengths; `ranges` narrows parameters, e.g. `area=(0.3, 0.5)`."""
    edit = find_edit(name)
    parameters = narrow(edit, ranges, f"operation '{name}'")
    return name, {key: parameter.draw(rng) for key, parameter in parameters.items()}


def grade_operation(name: str, share: float, **ranges: Any) -> Operation:
    """One operation with every strength at the same share (0..1) of its range.

    Places and seeds, which are no strengths, stay in the middle of theirs.
    """
    edit = find_edit(name)
    neutral = (POSITION, SEED, DONOR)
    return name, {
        key: parameter.at(0.5 if parameter in neutral else share)
        for key, parameter in narrow(edit, ranges, f"operation '{name}'").items()
    }


def narrow(edit: Edit, ranges: Mapping[str, Any], where: str) -> dict[str, Parameter]:
    """An operation's parameters with some ranges replaced; `KitError` names what is not allowed."""
    for key in ranges:
        if key not in edit.parameters:
            allowed = ", ".join(edit.parameters) or "none"
            raise KitError(f"{where}: no parameter '{key}'; allowed: {allowed}")
    return {
        key: narrowed(parameter, ranges[key], f"{where}, '{key}'") if key in ranges else parameter
        for key, parameter in edit.parameters.items()
    }


def apply(
    image: Image.Image, operations: Iterable[Operation], donors: Sequence[Image.Image] = ()
) -> Edited:
    """Apply recorded operations in order.

    image: PIL RGB. operations: (name, values) pairs, as drawn or as read from a manifest.
    donors: photographs for compositions. The same arguments give the same pixels. Canvases beyond
    16 megapixels are shrunk on the way (the homography says so). Raises `KitError` for an unknown
    operation or value, and for a composition without donors.
    """
    last = deque(_states(image, operations, donors), maxlen=1)  # frees the pictures in between
    return last.pop()


def apply_steps(
    image: Image.Image, operations: Iterable[Operation], donors: Sequence[Image.Image] = ()
) -> list[Edited]:
    """Like `apply`, but every intermediate record, the unedited picture first."""
    return list(_states(image, operations, donors))


def _states(
    image: Image.Image, operations: Iterable[Operation], donors: Sequence[Image.Image]
) -> Iterator[Edited]:
    edited = _limited(Edited.of(image))
    yield edited
    for name, values in operations:
        edit = find_edit(name)
        values = _checked(edit, values)
        step = edit.function(edited.image, *_donors(edit, values, donors), **_own(edit, values))
        edited = _limited(edited.then(step, (name, values)))
        yield edited


def _checked(edit: Edit, values: Mapping[str, Any]) -> dict[str, Any]:
    if set(values) != set(edit.parameters):
        wrong = ", ".join(sorted(set(values) ^ set(edit.parameters)))
        raise KitError(
            f"operation '{edit.name}': values missing or unknown: {wrong}; "
            f"it takes {', '.join(edit.parameters) or 'none'}"
        )
    where = f"operation '{edit.name}'"
    return {key: p.check(values[key], f"{where}, '{key}'") for key, p in edit.parameters.items()}


def _own(edit: Edit, values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "donor" or not edit.donors}


def _donors(edit: Edit, values: dict[str, Any], donors: Sequence[Image.Image]) -> tuple:
    if not edit.donors:
        return ()
    if not donors:
        raise KitError(f"operation '{edit.name}' needs other photographs: pass donors=[image, ...]")
    first = values["donor"] % len(donors)
    return ([*donors[first:], *donors[:first]],)


def _limited(edited: Edited) -> Edited:
    step = within_limits(edited.image)
    return edited if step is None else edited.then(step)


def describe_operations() -> list[dict[str, str]]:
    """Rows {operation, family, what it does, strengths} of all operations, for a table."""
    return [
        {
            "operation": edit.name,
            "family": edit.family,
            "what it does": edit.description,
            "strengths": ", ".join(k for k in edit.parameters if k not in ("seed", "donor")),
        }
        for edit in REGISTRY.values()
    ]
