"""Recipes: which edits are drawn how often, in which order and how strongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from iscutils.edits.parameters import Parameter
from iscutils.edits.record import Edited, Operation
from iscutils.edits.registry import apply, find_edit
from iscutils.files.artifacts import content_key

Operations = tuple[Operation, ...]


@dataclass(frozen=True)
class Entry:
    """A line of a recipe: an operation with its ranges, or a group of further lines.

    share: relative frequency in a group that chooses, else probability.
    """

    name: str
    share: float
    operation: str | None
    parameters: dict[str, Parameter]
    group: Group | None = None

    def sample(self, rng: np.random.Generator) -> Operations:
        """Draw the strengths of the operation, or from the group."""
        if self.group is not None:
            return self.group.sample(rng)
        return ((self.operation, {key: p.draw(rng) for key, p in self.parameters.items()}),)

    def leaves(self) -> Iterator[Entry]:
        """The entry itself, or those of its group, however deep, that name an operation."""
        return iter((self,)) if self.group is None else self.group.leaves()


@dataclass(frozen=True)
class Group:
    """Lines of a recipe and how they are drawn.

    draw "choose": a number of lines is drawn by the frequencies of `count`, that many different
    lines by their weights, in random order. "each": every line with its own probability, in the
    order of the file. "shuffle": the same in random order.
    """

    draw: str
    count: dict[int, float]
    entries: tuple[Entry, ...]

    def sample(self, rng: np.random.Generator) -> Operations:
        """Draw operations with their strengths."""
        shares = np.array([entry.share for entry in self.entries])
        if self.draw == "choose":
            frequencies = np.array(list(self.count.values()))
            number = int(rng.choice(list(self.count), p=frequencies / frequencies.sum()))
            chosen = rng.choice(len(shares), number, replace=False, p=shares / shares.sum())
        else:
            chosen = np.flatnonzero(rng.random(len(shares)) < shares)
            chosen = rng.permutation(chosen) if self.draw == "shuffle" else chosen
        return tuple(step for index in chosen for step in self.entries[index].sample(rng))

    def leaves(self) -> Iterator[Entry]:
        """All entries, however deep, that name an operation."""
        for entry in self.entries:
            yield from entry.leaves()


@dataclass(frozen=True)
class Recipe:
    """A named way to edit pictures, read from a file by `load_recipe`.

    group: what edits a picture. original: how copy 0 of a set, or the first of two training views,
    is made; None: like all others. fallback: edits in the place of a draw that was refused too
    often. min_visible: a draw that leaves less of the original in sight (0..1) is refused, so is
    one with a luminance that varies by less than min_contrast (standard deviation, 0..255), or with
    a photograph whose box covers a share of the picture outside of box_area.
    source: longest side, px, to which larger photographs are shrunk before the edits. mix: settings
    of mixup and cutmix for batches of training views (see `mixing`). pairs: settings of hard
    negative pairs (see `negatives`). faces: donors are photographs with a face, where there are.
    """

    name: str
    description: str
    group: Group
    original: Group | None = None
    fallback: Group | None = None
    min_visible: float = 0.05
    min_contrast: float = 0.0
    box_area: tuple[float, float] = (0.0, 1.0)
    source: int = 1024
    mix: dict[str, float] | None = None
    pairs: dict[str, float] | None = None
    faces: bool = False

    def sample(self, rng: np.random.Generator) -> Operations:
        """Draw operations with their strengths."""
        return self.group.sample(rng)

    def accepts(self, edited: Edited) -> bool:
        """Whether an edited picture keeps the limits of the recipe."""
        if edited.visible < self.min_visible:
            return False
        if self.min_contrast and np.asarray(edited.image.convert("L")).std() < self.min_contrast:
            return False
        pixels = edited.image.width * edited.image.height
        sides = (np.ptp(box.outline, axis=0) for box in edited.boxes if box.kind != "sticker")
        low, high = self.box_area
        return all(low <= width * height / pixels <= high for width, height in sides)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Its groups: of the edits, of the original, of the fallback."""
        return tuple(g for g in (self.group, self.original, self.fallback) if g is not None)

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the operations that may occur in it, each once, in the order of the file."""
        names = (leaf.operation for group in self.groups for leaf in group.leaves())
        return tuple(dict.fromkeys(names))

    @property
    def needs_donors(self) -> bool:
        """Whether any of its operations needs other photographs."""
        return any(find_edit(name).donors for name in self.operations)

    def key(self) -> str:
        """Ten hexadecimal digits that change with whatever changes the drawn edits."""
        limits = (self.min_visible, self.min_contrast, self.box_area, self.source, self.faces)
        return content_key(repr(self.groups), *limits, self.mix, self.pairs)


def edit(
    image: Image.Image,
    recipe: Recipe,
    rng: np.random.Generator,
    donors: Sequence[Image.Image] = (),
) -> Edited:
    """Draw edits of a recipe and apply them to a PIL RGB picture; see `apply`."""
    return apply(image, recipe.sample(rng), donors)
