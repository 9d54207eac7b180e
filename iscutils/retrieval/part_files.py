"""Files of image parts: which ones a run has, what their rows are, and the tables of part pairs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.descriptors.store import open_h5
from iscutils.files.artifacts import KitError, Run
from iscutils.files.ids import image_id

WHOLE = "0"  # number of the part that is the whole image
PAIR_KEYS = ["query_id", "query_part", "reference_id", "reference_part"]
SOURCE_KEYS = ["direction", "set", "backbone", "size"]
PART_PAIR_COLUMNS = [*PAIR_KEYS, *SOURCE_KEYS, "score"]
SETS = (
    "base", "base_bw", "blur", "blur_bw", "color", "color_bw",
    "dark", "face", "face_bw", "opaque", "occlude",
)  # fmt: skip


@dataclass(frozen=True)
class PartFiles:
    """Descriptor files with parts of one model at one input size.

    `set` is the training set of the model and `backbone` the rest of its name: the models that
    vote on a pair are those of one set and size.
    """

    set: str
    backbone: str
    size: int
    queries: Path
    references: Path
    background: Path | None = None


def has_parts(run: Run) -> bool:
    """Whether a run has published files that `part_files` finds."""
    return bool(_published(run))


def part_files(run: Run, models: list[str] | None = None) -> list[PartFiles]:
    """The part files that a run has published as `descriptors:<model>@<size>:<kind>`.

    `models` names them, `<model>@<size>` or `<model>` for all its sizes; None or empty: all.
    Raises `KitError` when a name is unknown or nothing was published.
    """
    known = _published(run)
    if not known:
        raise KitError(
            f"run '{run.name}' has no descriptors with parts: run notebook 05 with parts and one "
            "file a size, or set parts to False"
        )
    wanted = models or [model for model, _ in known]
    for name in wanted:
        if all(name not in (model, f"{model}@{size}") for model, size in known):
            choices = ", ".join(sorted(f"{model}@{size}" for model, size in known))
            raise KitError(f"no part descriptors of '{name}': choose among {choices}")
    found = []
    for model, size in sorted(known):
        if {model, f"{model}@{size}"} & set(wanted):
            base = f"descriptors:{model}@{size}"
            files = [run.find(f"{base}:{kind}") for kind in ("queries", "references")]
            last = run.find(f"{base}:background") if run.has(f"{base}:background") else None
            found.append(PartFiles(*set_and_backbone(model), size, *files, last))
    return found


def _published(run: Run) -> list[tuple[str, int]]:
    """Model and size of the part files of a run."""
    listed = run.path / "artifacts.json"
    published = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else {}
    names = [re.fullmatch(r"descriptors:(.+)@(\d+):queries", name) for name in published]
    return [(match[1], int(match[2])) for match in names if match]


def set_and_backbone(model: str) -> tuple[str, str]:
    """Training set and backbone in a model's name, words apart by `-`, `:` or `/`.

    `d2lv-blur_bw-resnet50:descriptor` gives ("blur_bw", "d2lv-resnet50-descriptor"); a name
    without one of the eleven sets belongs to "base".
    """
    words = re.split(r"[-:/]", model)
    known = [word for word in words if word in SETS]
    rest = [word for word in words if word not in SETS]
    return (known[0] if known else "base"), ("-".join(rest) or "model")


def read_part_pairs(path: str | Path) -> pd.DataFrame:
    """Read a table of `search_parts`; ids, parts and names are texts."""
    texts = dict.fromkeys([*PAIR_KEYS, *SOURCE_KEYS[:3]], str)
    try:
        frame = pd.read_csv(path, dtype=texts, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read the pairs {path} ({error}): search again") from error
    missing = [column for column in PART_PAIR_COLUMNS if column not in frame]
    if missing:
        raise KitError(f"{path} has no column {', '.join(missing)}: not a table of part pairs")
    return frame


def read_part_table(path: str | Path) -> pd.DataFrame:
    """What a descriptor file says about its rows, without the vectors.

    Columns: image_id, part (text; "0" where the file has no parts), row; and where the file has
    them x0, y0, x1, y1 (normalised), width, height (pixels, for the rule of small parts), norm.
    """
    with open_h5(path) as file:
        if "image_names" not in file or "vectors" not in file:
            raise KitError(f"{path} is not a descriptor file: extract it again")
        table = pd.DataFrame({"image_id": [image_id(name) for name in file["image_names"][:]]})
        table["part"] = (
            [value.decode() if isinstance(value, bytes) else str(value) for value in file["part"]]
            if "part" in file
            else WHOLE
        )
        table["row"] = np.arange(len(table))
        for name, columns in (("boxes", ["x0", "y0", "x1", "y1"]), ("sides", ["width", "height"])):
            if name in file:
                table[columns] = file[name][:]
        if "norms" in file:
            table["norm"] = file["norms"][:]
    return table
