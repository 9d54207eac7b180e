"""Models that come with the kit: packed small, found by name, with a background of their own.

A shipped model is a model folder in `iscutils/weights/NAME/`: `config.json`, `model.safetensors` in
half precision, `model.onnx` (the same in int8, with which CPUs describe), `README.md` (its card),
and `background.safetensors`, descriptors of unrelated photographs from which whitening and score
normalisation learn, for users who have none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from iscutils.files.artifacts import KitError, atomic_path, log, write_json, write_text
from iscutils.models.descriptor import Descriptor
from iscutils.models.export import export_onnx, folded

FOLDER = Path(__file__).resolve().parents[1] / "weights"
SMALL = "model.onnx"
MOST_WEIGHTS, MOST_SMALL, MOST_BACKGROUND = 12 << 20, 6 << 20, 2 << 20  # bytes


def shipped_names() -> list[str]:
    """Names of the models that come with this copy of the kit."""
    return sorted(path.parent.name for path in FOLDER.glob("*/model.safetensors"))


def shipped_folder(name: str | Path) -> Path | None:
    """Folder of a shipped model; None if none has this name."""
    return FOLDER / str(name) if str(name) in shipped_names() else None


def is_shipped(folder: str | Path) -> bool:
    """Whether a model's folder is one of those that come with the kit."""
    return shipped_folder(Path(folder).name) == Path(folder)


def shipped_sizes(name: str | Path) -> list[int]:
    """Input sides in px at which a shipped model is meant to describe, see `pack`.

    Raises:
        KitError: no such model.
    """
    return json.loads((_folder(name) / "shipped.json").read_text(encoding="utf-8"))["sizes"]


def pack(
    model: Descriptor,
    name: str,
    background: np.ndarray,
    sizes: Sequence[int],
    card: str,
    seed: int = 0,
    pictures: Sequence[Image.Image] = (),
) -> Path:
    """Put a trained model among those that come with the kit; returns its folder.

    The linear layers behind the pooling are folded into one, weights and background are kept in
    half precision, and of the background as many rows as fit into 2 MiB, drawn from the seed.

    Args:
        name: by which `load` shall find it, such as "release-256".
        background: unit descriptors (N, D) of photographs that are in no benchmark, made by this
            model at `sizes` (px, their mean).
        card: Markdown: data and licences, recipe, results, weaknesses.
        pictures: photographs on which the int8 graph is calibrated; none: no such graph. A network
            that int8 changes too much has none either, and is run by torch; the log says so.

    Raises:
        KitError: the name is no plain word, the weights are over 12 MiB, the background is not
            the model's or too small to whiten with.
    """
    if not name or not all(sign.isalnum() or sign in "-_." for sign in name) or name[0] == ".":
        raise KitError(f"'{name}' is no name for a model: use letters, digits, '-' and '_'")
    if background.ndim != 2 or background.shape[1] != model.dim or len(background) <= model.dim:
        raise KitError(
            f"background {background.shape} does not fit '{name}': give more than {model.dim} rows "
            f"of {model.dim} values, described by this model"
        )
    small = folded(model)
    state = {key: _half(value) for key, value in small.state_dict().items()}
    weight = sum(value.nbytes for value in state.values())
    if weight > MOST_WEIGHTS:
        raise KitError(
            f"'{name}' weighs {weight / 2**20:.1f} MiB in half precision, more than the "
            f"{MOST_WEIGHTS >> 20} MiB that are shipped: pack a smaller student"
        )
    count = min(len(background), MOST_BACKGROUND // (2 * model.dim))
    rows = np.sort(np.random.default_rng(seed).permutation(len(background))[:count])
    vectors = torch.from_numpy(background[rows]).half()
    with atomic_path(FOLDER / name) as temporary:
        temporary.mkdir()
        write_json(temporary / "config.json", asdict(small.config))
        write_json(temporary / "shipped.json", {"sizes": list(sizes), "background": count})
        write_text(temporary / "README.md", card)
        save_file(state, temporary / "model.safetensors")
        save_file({"vectors": vectors.contiguous()}, temporary / "background.safetensors")
        if pictures:
            _write_small(small, temporary / SMALL, pictures, sizes, name)
    return FOLDER / name


def _write_small(
    model: Descriptor,
    path: Path,
    pictures: Sequence[Image.Image],
    sizes: Sequence[int],
    name: str,
) -> None:
    try:
        cosines = export_onnx(model, path, pictures, sizes, int8=True, resize=False)
    except KitError as error:
        log.warning("'%s' is shipped without an int8 graph: %s", name, error)
        return
    if path.stat().st_size > MOST_SMALL:
        path.unlink()
        log.warning("'%s' is shipped without its int8 graph: over %d MiB", name, MOST_SMALL >> 20)
        return
    log.info("'%s' in int8: cosine %.4f, at worst %.4f", name, cosines["mean"], cosines["min"])


def shipped_background(name: str | Path) -> tuple[np.ndarray, list[int]]:
    """Unit background descriptors (N, D) float32 of a shipped model, and their sizes in px.

    Raises:
        KitError: no such model.
    """
    vectors = load_file(_folder(name) / "background.safetensors")["vectors"].float()
    return torch.nn.functional.normalize(vectors, dim=1).numpy(), shipped_sizes(name)


def _folder(name: str | Path) -> Path:
    """Folder of a shipped model, by its name or the folder itself."""
    folder = shipped_folder(Path(name).name)
    if folder is None:
        known = ", ".join(shipped_names()) or "none"
        raise KitError(
            f"'{name}' does not come with the kit: models that come with the kit are {known}"
        )
    return folder


def _half(value: torch.Tensor) -> torch.Tensor:
    return (value.half() if value.is_floating_point() else value).contiguous().cpu()
