"""Kinds of strengths an edit can have: how each is drawn, narrowed by a recipe and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from iscutils.files.artifacts import KitError


@dataclass(frozen=True)
class Real:
    """A real number drawn uniformly (or log-uniformly) from low..high, within hard limits."""

    low: float
    high: float
    floor: float
    ceiling: float
    log: bool = False

    def draw(self, rng: np.random.Generator) -> float:
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return min(max(round(float(value), 4), self.low), self.high)

    def at(self, share: float) -> float:
        """The value at a share (0..1) of the range."""
        if self.log:
            return round(self.low * (self.high / self.low) ** share, 4)
        return round(self.low + share * (self.high - self.low), 4)

    def narrowed(self, value: Any, where: str) -> Real:
        low, high = _pair(value, where, (int, float), self.allowed())
        self.check(low, where), self.check(high, where)
        return replace(self, low=float(low), high=float(high))

    def check(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise KitError(f"{where}: {value!r} is not a number; allowed: {self.allowed()}")
        if not self.floor <= value <= self.ceiling:
            raise KitError(f"{where}: {value} is out of bounds; allowed: {self.allowed()}")
        return float(value)

    def allowed(self) -> str:
        return f"{self.floor:g} to {self.ceiling:g}"


@dataclass(frozen=True)
class Whole:
    """A whole number drawn uniformly from low..high, both included, within hard limits."""

    low: int
    high: int
    floor: int
    ceiling: int

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.low, self.high + 1))

    def at(self, share: float) -> int:
        """The value at a share (0..1) of the range."""
        return round(self.low + share * (self.high - self.low))

    def narrowed(self, value: Any, where: str) -> Whole:
        low, high = _pair(value, where, (int,), self.allowed())
        self.check(low, where), self.check(high, where)
        return replace(self, low=low, high=high)

    def check(self, value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise KitError(f"{where}: {value!r} is not a whole number; allowed: {self.allowed()}")
        if not self.floor <= value <= self.ceiling:
            raise KitError(f"{where}: {value} is out of bounds; allowed: {self.allowed()}")
        return value

    def allowed(self) -> str:
        return f"whole numbers {self.floor} to {self.ceiling}"


@dataclass(frozen=True)
class Choice:
    """One of some options, each equally likely."""

    options: tuple
    every: tuple = ()  # all options there are; `options` may be a part of them

    def draw(self, rng: np.random.Generator) -> Any:
        return self.options[int(rng.integers(len(self.options)))]

    def at(self, share: float) -> Any:
        """The option at a share (0..1) of the list."""
        return self.options[min(int(share * len(self.options)), len(self.options) - 1)]

    def narrowed(self, value: Any, where: str) -> Choice:
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if not values:
            raise KitError(f"{where}: the list is empty; allowed: {self.allowed()}")
        return Choice(tuple(self.check(item, where) for item in values), self.every or self.options)

    def check(self, value: Any, where: str) -> Any:
        for option in self.every or self.options:
            if option == value and type(option) is type(value):
                return option
        raise KitError(f"{where}: {value!r} is unknown; allowed: {self.allowed()}")

    def allowed(self) -> str:
        return ", ".join(str(option) for option in self.every or self.options)


@dataclass(frozen=True)
class Colour:
    """An (r, g, b) of 0..255: black or white with probability 0.2 each, else any colour."""

    options: tuple = ()

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        kind, free = rng.random(), tuple(int(v) for v in rng.integers(0, 256, 3))
        if self.options:
            return self.options[int(kind * len(self.options))]
        return (0, 0, 0) if kind < 0.2 else (255, 255, 255) if kind < 0.4 else free

    def at(self, share: float) -> tuple[int, int, int]:
        """Black, a colour, white."""
        colours = self.options or ((0, 0, 0), (70, 130, 180), (255, 255, 255))
        return colours[min(int(share * len(colours)), len(colours) - 1)]

    def narrowed(self, value: Any, where: str) -> Colour:
        if not isinstance(value, (list, tuple)) or not value:
            raise KitError(f"{where}: {value!r} is not a list of colours; allowed: [[r, g, b], ..]")
        colours = value if isinstance(value[0], (list, tuple)) else [value]
        return Colour(tuple(self.check(colour, where) for colour in colours))

    def check(self, value: Any, where: str) -> tuple[int, int, int]:
        right = isinstance(value, (list, tuple)) and len(value) == 3
        if not right or any(type(v) is not int or not 0 <= v <= 255 for v in value):
            raise KitError(f"{where}: {value!r} is not a colour; allowed: {self.allowed()}")
        return tuple(value)

    def allowed(self) -> str:
        return "[r, g, b] with whole numbers 0 to 255"


@dataclass(frozen=True)
class Mixed:
    """One of some ranges, each drawn with its weight."""

    parts: tuple[tuple[float, Real | Whole | Choice | Colour], ...]

    def draw(self, rng: np.random.Generator) -> Any:
        ends = np.cumsum([weight for weight, _ in self.parts])
        _, part = self.parts[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]
        return part.draw(rng)

    def at(self, share: float) -> Any:
        """The value at a share (0..1) of the range with the largest weight."""
        return max(self.parts, key=lambda part: part[0])[1].at(share)


Parameter = Real | Whole | Choice | Colour | Mixed


def narrowed(parameter: Parameter, value: Any, where: str) -> Parameter:
    """A parameter limited to what a recipe says.

    value: [low, high], one value, a list of options, {one_of: [values]}, equally likely, or
    {either: [[weight, range], ..]}.
    """
    if not isinstance(value, Mapping):
        return parameter.narrowed(value, where)
    (kind, parts), *more = value.items() or [("", None)]
    if more or kind not in ("one_of", "either") or not isinstance(parts, list) or not parts:
        raise KitError(
            f"{where}: {dict(value)!r} is not a range; write {{one_of: [a, b, ..]}} or "
            "{either: [[weight, range], ..]}"
        )
    if kind == "one_of":
        return Choice(tuple(parameter.check(option, where) for option in parts))
    for part in parts:
        weight = part[0] if isinstance(part, list) and len(part) == 2 else None
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight <= 0:
            raise KitError(f"{where}: {part!r} is not a [weight, range] with a weight above 0")
    return Mixed(tuple((float(w), parameter.narrowed(range_, where)) for w, range_ in parts))


SEED = Whole(0, 2**31 - 1, 0, 2**31 - 1)  # for edits that need a random number per pixel or glyph
DONOR = Whole(0, 7, 0, 7)  # which of the donor photographs, counted modulo their number
POSITION = Real(0.0, 1.0, 0.0, 1.0)  # share of the free space left of (above) what is placed


def _pair(value: Any, where: str, types: tuple, allowed: str) -> tuple:
    """(low, high) of a recipe's range, which may also be one fixed value."""
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    numbers = all(isinstance(v, types) and not isinstance(v, bool) for v in pair)
    if len(pair) != 2 or not numbers or pair[0] > pair[1]:
        raise KitError(f"{where}: {value!r} is not a range [low, high]; allowed: {allowed}")
    return pair
