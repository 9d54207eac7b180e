"""Turn the model of a finished run into one that comes with the kit, with a card that says how."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from iscutils.artifacts import KitError, Run
from iscutils.descriptors.store import read_descriptors
from iscutils.models import Descriptor, load, pack
from iscutils.training import read_probes

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
    background = read_descriptors(run.find(f"descriptors:{model}:background")).vectors
    network = load(run.find(model))
    card = model_card(run, name, network, text)
    return pack(network, name, background, extraction["sizes"], card)


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
