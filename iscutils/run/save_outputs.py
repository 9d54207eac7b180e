"""Committed outputs: cell outputs of an executed run, written back into the project's notebooks."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

from iscutils.files.artifacts import KitError, atomic_path, open_run
from iscutils.run.parameters import load_notebooks

MAX_BYTES = 1_000_000  # of a committed notebook
SMALL_IMAGE = 30_000  # bytes of a PNG that is kept as it is


def save_outputs(name: str) -> list[tuple[Path, int]]:
    """Write the outputs of the run `name` into the project's notebooks; return paths and bytes.

    What changes from run to run is dropped: papermill's metadata and injected cell, timings,
    progress bars on standard error. Images lose colours, not size in pixels.

    Raises:
        KitError: a notebook is not in the run, has other code than the run's, failed there, or
            would exceed 1 MB. No notebook is changed then.
    """
    executed = open_run(name).path / "notebooks"
    results = []
    for notebook in load_notebooks():
        path = executed / notebook.path.name
        if not path.exists():
            raise KitError(f"run '{name}' has no {path.name}: execute it first")
        document = with_outputs(notebook.document, nbformat.read(path, as_version=4), path.name)
        text = nbformat.writes(document) + "\n"
        if len(text.encode()) > MAX_BYTES:
            raise KitError(
                f"{path.name} would take {len(text.encode()) / 1e6:.1f} MB with its outputs, "
                f"more than {MAX_BYTES / 1e6:.0f} MB: make the figures of cell "
                f"[{_largest_cell(document)}] smaller"
            )
        results.append((notebook.path, text))
    for path, text in results:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [(path, len(text.encode())) for path, text in results]


def with_outputs(source: NotebookNode, executed: NotebookNode, where: str) -> NotebookNode:
    """A copy of the notebook `source` that carries the outputs of its `executed` version."""
    document = nbformat.from_dict(source)
    document.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    cells = [cell for cell in document.cells if cell.cell_type == "code"]
    twins = [
        cell
        for cell in executed.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    if [cell.source for cell in cells] != [cell.source for cell in twins]:
        raise KitError(f"{where} changed after the run: execute it again")
    for count, (cell, twin) in enumerate(zip(cells, twins, strict=True), start=1):
        if twin.execution_count is None or any(o.output_type == "error" for o in twin.outputs):
            raise KitError(f"{where}, cell [{count}] did not succeed in the run: execute it again")
        cell.execution_count = count
        cell.outputs = [_stable(output, count) for output in twin.outputs if not _noise(output)]
    for cell in document.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
    return nbformat.from_dict(document)


def _noise(output: NotebookNode) -> bool:
    """Whether an output is only about this execution: progress bars and log lines."""
    return output.output_type == "stream" and output.name == "stderr"


def _stable(output: NotebookNode, count: int) -> NotebookNode:
    output = nbformat.from_dict(output)
    if output.output_type == "execute_result":
        output.execution_count = count
    if "data" in output:
        output.metadata = {}
        if "image/png" in output.data:
            output.data["image/png"] = small_png(output.data["image/png"])
    return output


def small_png(encoded: str) -> str:
    """A base64 PNG with at most 256 colours, if that is smaller."""
    content = base64.b64decode(encoded)
    if len(content) <= SMALL_IMAGE:
        return encoded
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    buffer = io.BytesIO()
    page.convert("RGB").quantize(256).save(buffer, format="PNG", optimize=True)
    smaller = min(content, buffer.getvalue(), key=len)
    return base64.b64encode(smaller).decode()


def _largest_cell(document: NotebookNode) -> int:
    cells = [cell for cell in document.cells if cell.cell_type == "code"]
    return max(cells, key=lambda cell: len(str(cell.outputs))).execution_count
