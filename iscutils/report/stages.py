"""Ranked lists of a run by stage, and their tables: metrics, edits, parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

from iscutils.descriptors.parts import FIRST_DETECTION, FIRST_REGION
from iscutils.evaluation.metrics import bootstrap, by_edit, evaluate
from iscutils.evaluation.pairs import join_truth
from iscutils.evaluation.submissions import read_predictions
from iscutils.files.artifacts import Run

STAGE_PREFIX = "stage:"
RANDOM = "random"
FINAL = "final matches"


def published_stages(run: Run) -> dict[str, pd.DataFrame]:
    """Predictions that the notebooks published as `stage:<label>`, by label, in that order."""
    path = run.path / "artifacts.json"
    names = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = [name for name in names if name.startswith(STAGE_PREFIX)]
    return {name.removeprefix(STAGE_PREFIX): read_predictions(run.find(name)) for name in names}


def stages_table(
    stages: Mapping[str, pd.DataFrame], ground_truth: pd.DataFrame, *, draws: int = 1000, seed=0
) -> pd.DataFrame:
    """Metrics of every stage, one row each, in the order given.

    Columns: those of `evaluation.Metrics`, with `uap_low` and `uap_high`, the 95 % interval of
    µAP over `draws` redrawn query sets.
    """
    rows = {}
    for name, predictions in stages.items():
        low, high = bootstrap(predictions, ground_truth, draws=draws, seed=seed)["uap"]
        metrics = evaluate(predictions, ground_truth).as_dict()
        rows[name] = {"uap": metrics.pop("uap"), "uap_low": low, "uap_high": high, **metrics}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis("stage")


def edits_table(
    stages: Mapping[str, pd.DataFrame],
    ground_truth: pd.DataFrame,
    edits: Mapping[str, str],
    measure: str = "recall_at_p90_threshold",
) -> tuple[pd.DataFrame, dict[str, int]]:
    """A measure of `evaluation.by_edit` for every edit (rows) and stage (columns).

    Also returns the number of true pairs of each edit.
    """
    columns, counts = {}, {}
    for name, predictions in stages.items():
        table = by_edit(predictions, ground_truth, dict(edits)).set_index("edit")
        columns[name] = table[measure]
        counts = table["positives"].to_dict()  # the same for every stage
    return pd.DataFrame(columns), counts


def parts_table(matching: pd.DataFrame, ground_truth: pd.DataFrame) -> pd.DataFrame:
    """Which kinds of parts found pairs, and how often they were right.

    `matching` has for each pair the row that scored best (`retrieval.matching_parts`). A row for
    each kind of query part and of reference part, whole or cut; columns: pairs, `correct`, their
    share `precision`, and `recall`, the share of all true pairs. The most pairs first.
    """
    kinds = pd.DataFrame(
        {
            "query part": [_query_part(int(part)) for part in matching["query_part"]],
            "reference part": np.where(matching["reference_part"].astype(int) == 0, "whole", "cut"),
            "correct": join_truth(matching, ground_truth).hit,
        }
    )
    table = kinds.groupby(["query part", "reference part"])["correct"].agg(["size", "sum"])
    table.columns = ["pairs", "correct"]
    table["precision"] = table["correct"] / table["pairs"]
    table["recall"] = table["correct"] / (ground_truth["reference_id"] != "").sum()
    return table.sort_values("pairs", ascending=False, kind="stable")


def _query_part(number: int) -> str:
    """What a query's part with this number is, see `descriptors.parts`."""
    if number >= FIRST_DETECTION:
        return "detected overlay"
    if number >= FIRST_REGION:
        return "region"
    return "whole" if number == 0 else "turned" if number <= 3 else "centre or tile"


def with_final(
    stages: Mapping[str, pd.DataFrame], matches: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], str]:
    """Stages including the final matches, and the label under which these are listed."""
    wanted = _pair_key(matches)
    for name in reversed(stages):
        if len(stages[name]) == len(matches) and _pair_key(stages[name]) == wanted:
            return dict(stages), name
    return {**stages, FINAL: matches}, FINAL


def _pair_key(frame: pd.DataFrame) -> str:
    frame = frame[["query_id", "reference_id", "score"]].astype({"score": float})
    frame = frame.sort_values(["query_id", "reference_id", "score"], ignore_index=True)
    return hashlib.sha256(frame.to_csv(index=False, float_format="%.9g").encode()).hexdigest()
