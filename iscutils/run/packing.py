"""Models that leave a run: into the kit, with a card that says how, or as an ONNX file."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from PIL import Image

from iscutils.datasets import open_images
from iscutils.descriptors.store import read_descriptors
from iscutils.files.artifacts import KitError, Run
from iscutils.files.images import ImageError
from iscutils.models import Descriptor, find_model, is_shipped, load, pack, shipped_sizes
from iscutils.models.export import export_onnx
from iscutils.training import read_probes

EXAMPLES = 64  # photographs on which int8 is calibrated
TRAINING = ("01_pretrain", "02_dataset_synthesis", "03_training", "04_distillation")
MEASURED = ("06_retrieval", "07_local_verification")
METRICS = ["uap", "recall_at_p90", "recall_at_1", "candidate_recall", "positives"]


def pack_run(run: Run, name: str, model: str = "student", text: str = "") -> Path:
    """Ship the model that a run published, with the background that notebook 05 described.

    Args:
        run: finished up to notebook 05; its results up to 07 go to the card.
        name: of the shipped model, see `models.pack`.
        model: name under which the run published it.
        text: Markdown for the head of the card: data, licences, weaknesses.

    Raises:
        KitError: what `models.pack` raises, or notebook 05 described several sizes apart.
    """
    given = _parameters(run)
    extraction = given.get("05_extraction", {})
    if extraction.get("per_size") or extraction.get("parts", "whole") != "whole":
        raise KitError(
            f"run '{run.name}' described parts, or every size apart: run notebook 05 with "
            "parts='whole' and per_size=False, so that one background belongs to the model"
        )
    background = read_descriptors(run.find(f"descriptors:{model}:background"))
    network = load(run.find(model))
    sizes = background.attrs.get("sizes") or extraction["sizes"]
    card = model_card(run, name, network, text)
    pictures = example_pictures(extraction.get("train_images", "builtin"), 2 * max(sizes))
    return pack(network, name, background.vectors, sizes, card, pictures=pictures)


def export_model(
    model: str | Path,
    path: str | Path,
    *,
    sizes: Sequence[int] = (),
    int8: bool = False,
    examples: str = "builtin",
) -> dict[str, float]:
    """Write any trained model as an ONNX file, see `models.export.export_onnx`.

    Args:
        model: whatever `models.find_model` finds.
        sizes: input sides in px; none: those of a model that comes with the kit, else the one at
            which it was trained.
        examples: training photographs, to compare and to calibrate with: "builtin" or a folder.

    Raises:
        KitError: the model is a file for inference alone, or `export_onnx` refuses it.
    """
    found = find_model(model)
    network = load(found)
    if not isinstance(network, Descriptor):
        raise KitError(f"{model} is {network.kind}, for inference alone: it is exported already")
    sizes = list(sizes) or (shipped_sizes(found) if is_shipped(found) else [network.size])
    pictures = example_pictures(examples, 2 * max(sizes))
    return export_onnx(network, path, pictures, sizes, int8)


def example_pictures(spec: str, least: int = 0) -> list[Image.Image]:
    """Up to 64 photographs, evenly chosen from a folder or "builtin"; `least` px as in `decode`.

    Raises:
        KitError: not one can be read.
    """
    images, pictures = open_images(spec, limit=EXAMPLES), []
    for i in range(len(images)):
        with contextlib.suppress(ImageError):
            pictures.append(images.load(i, min_side=least))
    if not pictures:
        raise KitError(f"{spec} holds no picture that can be read: give a folder of photographs")
    return pictures


def model_card(run: Run, name: str, network: Descriptor, text: str = "") -> str:
    """Markdown: the text, then what the run knows: recipe, hardware, minutes, results."""
    parts = [f"# {name}", text.strip()] if text.strip() else [f"# {name}"]
    parts += [
        f"{network.config.backbone}, {network.dim} values, "
        f"{network.parameter_count() / 1e6:.2f} M weights, input {network.size} px.",
        "## Results",
        _results(run),
        "## Training",
        f"On {_hardware()}; minutes of optimisation: {_minutes(run)}.",
        "```yaml\n" + _recipe(run).strip() + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _parameters(run: Run) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load((run.path / "params.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise KitError(
            f"run '{run.name}' has no params.yaml: make it with python -m iscutils run"
        ) from error
    return content["notebooks"]


def _recipe(run: Run) -> str:
    """Parameters of the notebooks that train; of data the name, not the place."""
    given = {name: dict(values) for name, values in _parameters(run).items() if name in TRAINING}
    for values in given.values():
        for key in ("run", "device", "workers", "executor"):
            values.pop(key, None)
        for key in ("data", "train_images"):
            values |= {key: Path(values[key]).name} if key in values else {}
    return yaml.safe_dump(given, sort_keys=True, allow_unicode=True)


def _results(run: Run) -> str:
    """Every stage that the run measured, as a Markdown table."""
    stages = {}
    for notebook in MEASURED:
        stages |= run.metrics().get(notebook, {}).get("stages", {})
    if not stages:
        return "None measured."
    table = pd.DataFrame(stages).T
    table = table[[column for column in METRICS if column in table]]
    data = _parameters(run).get("06_retrieval", {}).get("data", "builtin")
    return f"On `{Path(data).name}`:\n\n{markdown(table, 'stage')}"


def markdown(table: pd.DataFrame, first: str) -> str:
    """A table of numbers as Markdown, three digits behind the point; `first` heads its index."""
    head = [first, *table.columns]
    rows = [[label, *(f"{value:.3f}" for value in row)] for label, row in table.iterrows()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").removesuffix(".000")


def _hardware() -> str:
    if torch.cuda.is_available():
        return (
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)} (as seen when packed)"
        )
    return f"a CPU ({platform.machine()}, as seen when packed)"


def _minutes(run: Run) -> str:
    found = []
    for name in ("pretrained", "teacher", "student"):
        if run.has(name) and (run.find(name) / "probe.csv").exists():
            found.append(f"{name} {read_probes(run.find(name)).minutes.iloc[-1]:.0f}")
    return ", ".join(found) or "not measured"
