"""The house stays in order: imports run from room to room, downwards, never in a circle."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "iscutils"
# From the ground up: a room imports itself and those before it.
ROOMS = [
    "files", "evaluation", "datasets", "edits", "models", "losses", "training", "descriptors",
    "retrieval", "detector", "local", "figures", "report", "run",
]  # fmt: skip
TOP = {"__init__", "__main__", "find"}  # above all rooms


def imported(path: Path) -> set[tuple[str, ...]]:
    """Dotted places inside the package that a module imports, wherever the import stands."""
    places = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            places |= {(*node.module.split("."), alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            places |= {tuple(alias.name.split(".")) for alias in node.names}
    return {place[1:] for place in places if place[0] == "iscutils" and len(place) > 1}


def test_every_module_has_a_room():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == {*ROOMS}
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP


def test_imports_run_down():
    upwards = [
        f"{path.relative_to(PACKAGE)} imports {'.'.join(place)}"
        for path in PACKAGE.rglob("*.py")
        if (room := path.relative_to(PACKAGE).parts[0]) in ROOMS
        for place in imported(path)
        if place[0] not in ROOMS[: ROOMS.index(room) + 1] and place[0] != "__version__"
    ]
    assert not upwards
