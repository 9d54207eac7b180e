"""Edit operations with known geometry, recipes that draw them, synthesis of query sets."""

# Importing a module registers its operations; the order is that of the gallery.
from iscutils.edits import geometric, photometric, degrading, overlays, compositions  # isort: skip  # noqa: F401
from iscutils.edits.queryset import encode_query, read_manifest
from iscutils.edits.recipes import Recipe, edit, list_recipes, load_recipe
from iscutils.edits.record import Edited, transform
from iscutils.edits.registry import (
    REGISTRY,
    apply,
    apply_steps,
    describe_operations,
    draw_operation,
)
from iscutils.edits.synthesis import count_repeated, repeat_query, synthesise_queries

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
    "encode_query",
    "list_recipes",
    "load_recipe",
    "read_manifest",
    "repeat_query",
    "synthesise_queries",
    "transform",
]
