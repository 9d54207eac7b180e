"""Published results, to stand beside those of a run: never compare rows of different protocols."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from iscutils.files.artifacts import KitError, atomic_path

FILE = Path(__file__).with_suffix(".csv")
RESULT = ["uap", "recall_at_p90"]
OWN = "this run"  # source of own rows


def published(*systems: str, dataset: str = "") -> pd.DataFrame:
    """Results as reported: system, method, dataset, split, protocol, rule, uap, ..., source.

    uap and recall_at_p90 are shares (0 to 1), NaN where nothing was reported. A protocol names
    what was done to the scores: `1.0[0,2]` is a score normalisation, "pairs" a pairwise method.
    `rule` is the candidate rule, empty where it was not stated. Copydays has two numbers of its
    own, both in the column uap, the split says which.

    Args:
        systems: such as "rdcd" and "sscd"; none: all.
        dataset: "disc21", "ndec", "copydays" or "private"; empty: all.

    Raises:
        KitError: an unknown system.
    """
    table = pd.read_csv(FILE).fillna({"rule": ""})
    known = table["system"].unique()
    for system in systems:
        if system not in known:
            close = difflib.get_close_matches(system, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f": choose {', '.join(known)}"
            raise KitError(f"no published results of '{system}'{hint}")
    if systems:
        table = table[table["system"].isin(systems)]
    if dataset:
        table = table[table["dataset"] == dataset]
    return table.reset_index(drop=True)


def own_rows(
    stages: pd.DataFrame, codec: str, score_norm: str, *, dataset: str, split: str, rule: str
) -> pd.DataFrame:
    """The stages of a run as rows for `beside`, with the protocol that their names tell.

    Args:
        stages: uap and recall_at_p90, a row a stage; "NAME raw", "NAME whitened" and "NAME
            normalised" as notebook 06 calls them, all others are pairwise methods.
        codec, score_norm, rule: of notebook 06; pairwise methods have no rule.
        dataset, split: of the benchmark.
    """
    whitened = "whitened" if "PCAW" in codec else "raw"
    normalised = whitened if score_norm == "none" else f"{whitened}, {score_norm}"
    if whitened == "raw" and score_norm != "none":
        normalised = score_norm
    names = {"raw": "raw", "whitened": whitened, "normalised": normalised}
    protocols = [names.get(str(stage).rpartition(" ")[2], "pairs") for stage in stages.index]
    results = stages[RESULT].reset_index(drop=True).astype(float)
    return results.assign(
        method=[str(stage) for stage in stages.index],
        dataset=dataset,
        split=split,
        protocol=protocols,
        rule=["" if protocol == "pairs" else rule for protocol in protocols],
    )


def write_sscd_metrics(
    path: str | Path, rows: Mapping[tuple[str, str], Mapping[str, float]], *, copydays: bool = False
) -> Path:
    """Write results as SSCD's evaluation does: `disc_metrics.csv` or `copydays_metrics.csv`.

    Args:
        rows: metrics by (codec, score normalisation): uap, recall_at_1 and recall_at_p90, or for
            `copydays` strong_map and overall_uap.
    """
    names = {"uap": "uAP", "recall_at_1": "accuracy-at-1", "recall_at_p90": "recall-at-p90"}
    columns = ["codec", "score_norm", *names.values()]
    if copydays:
        names = {"strong_map": "strong_mAP", "overall_uap": "overall_uAP"}
        columns = ["codec", *names.values()]
    table = pd.DataFrame(
        [
            {"codec": codec, "score_norm": norm} | {names[key]: row[key] for key in names}
            for (codec, norm), row in rows.items()
        ]
    )
    with atomic_path(path) as temporary:
        table[columns].to_csv(temporary, index=False)
    return Path(path)


def beside(own: pd.DataFrame, *systems: str, dataset: str = "") -> pd.DataFrame:
    """Own rows (method, dataset, split, protocol, uap, ...) first, then the published ones.

    Own rows have "this run" as their source. The column `difference` is own µAP minus published
    µAP; it is filled only for published rows of the same data set, split, protocol and candidate
    rule (any where the publication states none), against the best own row among those.
    """
    own = own.assign(
        source=OWN, system=own.get("system", ""), rule=own.get("rule", "")
    ).reset_index(drop=True)
    others = published(*systems, dataset=dataset)
    same = ["dataset", "split", "protocol", "rule"]
    best = own.groupby(same)["uap"].max()
    unstated = own.assign(rule="").groupby(same)["uap"].max()  # a published row without a rule
    best = pd.concat([best, unstated.drop(best.index, errors="ignore")]).rename("own")
    others["difference"] = others.join(best, on=same)["own"] - others["uap"]
    columns = [*others.columns[:6], *RESULT, "difference", "source"]
    return pd.concat([own, others], ignore_index=True).reindex(columns=columns)
