"""Edit operations with known geometry, recipes that draw them, synthesis of sets and queries."""

# Importing a module registers its operations; the order is that of the gallery.
from iscutils.edits import geometric, photometric, degrading, filters  # isort: skip  # noqa: F401
from iscutils.edits import overlays, covers, screens, compositions, faces  # isort: skip  # noqa: F401
from iscutils.edits.manifest import iter_pictures, read_manifest
from iscutils.edits.recipe_files import list_recipes, load_recipe
from iscutils.edits.recipes import Recipe, edit
from iscutils.edits.record import Edited, transform
from iscutils.edits.registry import (
    REGISTRY,
    apply,
    apply_steps,
    describe_operations,
    draw_operation,
    grade_operation,
)
from iscutils.edits.repeating import count_repeated, repeat_picture
from iscutils.edits.sets import synthesise
from iscutils.edits.synthesis import synthesise_queries

__all__ = [
    "REGISTRY",
    "Edited",
    "Recipe",
    "apply",
    "apply_steps",
    "count_repeated",
    "describe_operations",
    "draw_operation",
    "edit",
    "grade_operation",
    "iter_pictures",
    "list_recipes",
    "load_recipe",
    "read_manifest",
    "repeat_picture",
    "synthesise",
    "synthesise_queries",
    "transform",
]
