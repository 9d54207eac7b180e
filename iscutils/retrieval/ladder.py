"""What each step is worth: whole images first, then one thing more at a time.

The steps of D2LV's own ablation stand beside ours (docs/systems/d2lv.md, section 11).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from iscutils.evaluation.metrics import candidate_recall, evaluate
from iscutils.evaluation.published import published
from iscutils.evaluation.submissions import read_predictions
from iscutils.retrieval.merge import (
    PUBLISHED_RULES,
    MergeConfig,
    Tables,
    merge,
    read_table,
    sources_of,
)
from iscutils.retrieval.part_files import WHOLE
from iscutils.retrieval.part_search import NORMALISED
from iscutils.retrieval.retrieve import retrieve

FIRST = "whole images"
# Steps that the original reports, as `published.csv` calls them (development phase).
REPORTED = {
    FIRST: "unsupervised pretraining",
    "+ parts of queries": "+ global-local matching",
    "+ parts of references": "+ both directions",
    "+ training sets": "+ six advanced sets",
    "+ sizes": "+ multi-scale and tricks",
}


def ladder(
    tables: Tables,
    sides: pd.DataFrame | None,
    truth: pd.DataFrame,
    config: MergeConfig = PUBLISHED_RULES,
    *,
    whole: Mapping[str, pd.DataFrame | str | Path] | None = None,
    unlisted: str = "false",
) -> pd.DataFrame:
    """µAP and R@P90 after each step, cumulative: the ablation of the original beside ours.

    It starts with one model (of set "base" and size 256 where there is one) on whole images; then
    follow both kinds of parts, further backbones, sets and sizes. Each rule that `config` switches
    on comes with what it is for: those about parts with the parts, the vote with the backbones, the
    mean of the two best scores at the end. Last, what remains without each of the rules ("all but
    .."). Steps that the tables do not allow are left out.

    Args:
        whole: the first steps, those of `search_whole`. Without it the first step is the rows of
            whole images that the search over all parts kept among its best.

    Columns: step, rows, uap, recall_at_p90, and published_uap, published_recall_at_p90 where the
    original reports such a step, on other images.
    """
    results = []
    for step, wanted, rules in _rungs(sources_of(tables), whole, config):
        found, _ = merge(wanted, sides, rules)
        metrics = evaluate(found, truth, unlisted=unlisted)
        results.append((step, len(found), metrics.uap, metrics.recall_at_p90))
    table = pd.DataFrame(results, columns=["step", "rows", "uap", "recall_at_p90"])
    # The original has one row of whole images; whether its scores are normalised is not stated.
    methods = table["step"].replace(NORMALISED, FIRST).map(REPORTED)
    reported = published("d2lv").set_index("method").reindex(methods)
    for column in ("uap", "recall_at_p90"):
        table[f"published_{column}"] = reported[column].to_numpy()
    return table


def ways_ladder(
    files: Sequence[str | Path],
    out: str | Path,
    truth: pd.DataFrame,
    ways: Sequence[str],
    *,
    candidates: int = 0,
    **options,
) -> pd.DataFrame:
    """µAP, R@P90 and recall@1 of the first way to ask with a query, then of one way more at a time.

    Args:
        files: descriptors of queries, references and background, as for `retrieve`.
        ways: of `parts.WAYS`.
        candidates: also the share of the true pairs among so many references of each query.
        options: of `retrieve`, such as codec and score_norm.

    Columns: step, uap, recall_at_p90, recall_at_1 and, with `candidates`, `recall_at_<candidates>`.
    """
    rows = []
    for n, way in enumerate(ways):
        own = options | {"ways": list(ways[: n + 1]), "name": "ways"}
        metrics = evaluate(read_predictions(retrieve(*files, out, **own)), truth).as_dict()
        row = {"step": f"+ {way}" if n else way}
        row |= {name: metrics[name] for name in ("uap", "recall_at_p90", "recall_at_1")}
        if candidates:
            nearest = retrieve(*files, out, **own | {"rule": f"knn:{candidates}"})
            row[f"recall_at_{candidates}"] = candidate_recall(read_predictions(nearest), truth)
        rows.append(row)
    return pd.DataFrame(rows)


def _rungs(
    sources: pd.DataFrame,
    whole: Mapping[str, pd.DataFrame | str | Path] | None,
    config: MergeConfig,
) -> Iterator[tuple[str, list, MergeConfig]]:
    """(name, tables, rules) of each step that changes something."""
    plain = replace(
        config, vote=False, smallest=0.0, faces="", penalty=0.0, penalty_references=0.0,
        top_two=False,
    )  # fmt: skip
    parts = replace(config, vote=False, top_two=False)
    joined = replace(config, top_two=False)
    in_set, in_size = _first(sources, "set", "base"), _first(sources, "size", 256)
    one = in_set & in_size
    one &= _first(sources[one], "backbone").reindex(one.index, fill_value=False)
    to_whole = sources["direction"] == "AQ+OR"
    if whole is None:
        kept = map(read_table, sources.table[one & to_whole])
        yield FIRST, [rows[rows["query_part"] == WHOLE] for rows in kept], plain
    for step, table in (whole or {}).items():
        yield step, [table], plain
    before = 0
    for step, wanted, rules in (
        ("+ parts of queries", one & to_whole, parts),
        ("+ parts of references", one, parts),
        ("+ backbones", in_set & in_size, joined),
        ("+ training sets", in_size, joined),
        ("+ sizes", pd.Series(True, index=sources.index), joined),
    ):
        if wanted.sum() > before:
            yield step, list(sources.table[wanted]), rules
        before = wanted.sum()
    every = list(sources.table)
    if config.top_two:
        yield "+ mean of the two best", every, config
    for step, without in (
        ("all but the vote", {"vote": False}),
        ("all but the smallest part", {"smallest": 0.0}),
        ("all but the face filter", {"faces": ""}),
        ("all but the penalties", {"penalty": 0.0, "penalty_references": 0.0}),
    ):
        if "vote" in without and sources["backbone"].nunique() < 2:
            continue
        if replace(config, **without) != config:
            yield step, every, replace(config, **without)


def _first(sources: pd.DataFrame, column: str, wanted: object = None) -> pd.Series:
    """Mask of the tables whose column is the wanted value, else the first there is."""
    names = sorted(sources[column].unique())
    return sources[column] == (wanted if wanted in names else names[0])
