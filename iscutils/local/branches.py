"""imgFp's three branches: which reference each proposes for a query, and from which picture of it.

A, global: the nearest reference by a descriptor, of the crop of what a detector surely found, else
of the whole query. B, local: votes of the whole query's points. C, crop local: votes of the points
of a crop, only for queries in which the detector found something at its more tolerant threshold.
Source: imgFp (arXiv 2112.02373), published code.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from iscutils.descriptors.boxes import BOX
from iscutils.evaluation.pairs import sort_pairs
from iscutils.files.artifacts import log
from iscutils.local.config import LocalConfig
from iscutils.local.store import Features
from iscutils.local.voting import vote
from iscutils.local.whole import whole_candidates

BRANCHES = GLOBAL, LOCAL, CROP = ("a", "b", "c")
PAIR = ["query_id", "reference_id"]
PROPOSAL_COLUMNS = ["branch", "query_id", "picture", "reference_id"]


@dataclass(frozen=True)
class Crops:
    """Crops of queries and their local features; `iscutils.local.crops` makes them.

    `table` has a row a crop: picture (its id in `features`), query_id, x0, y0, x1, y1 (px of the
    query, upper bounds exclusive), and whether it is of the `precise` point, the `recall` point.
    """

    table: pd.DataFrame
    features: Features

    def __len__(self) -> int:
        return len(self.table)

    def boxes(self) -> dict[str, str]:
        """{picture: its box, "x0 y0 x1 y1" in px of the query}."""
        boxes = self.table[BOX].astype(str).agg(" ".join, axis=1) if len(self.table) else []
        return dict(zip(self.table["picture"], boxes, strict=True))

    def owners(self) -> dict[str, str]:
        """{picture: query id}."""
        return dict(zip(self.table["picture"], self.table["query_id"], strict=True))


def propose(
    query_features: Features,
    reference_features: Features,
    config: LocalConfig,
    candidates: pd.DataFrame | None = None,
    *,
    votes: pd.DataFrame | None = None,
    crops: Crops | None = None,
    crop_candidates: pd.DataFrame | None = None,
    crop_votes: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What each branch proposes: rows of branch ("a", "b", "c"), query_id, picture, reference_id.

    picture: "" for the whole query, else the crop's id. As published, every branch proposes at
    most one reference a query.

    Args:
        candidates: pairs (query_id, reference_id, score) of a global descriptor; the best
            `other_candidates` of each picture count. None: no branch A.
        votes, crop_votes: results of `vote` for queries and crops, if they are at hand.
        crops: see `crops.open_crops`. None: A uses whole queries and there is no branch C.
        crop_candidates: as `candidates`, query_id being the crops' ids.
    """
    if crops is None:
        log.info("no detections: branch A uses whole queries, branch C is skipped")
    elif crop_candidates is None and candidates is not None:
        log.info("the crops have no global candidates: branch A uses whole queries")
    found = [_global_branch(candidates, crop_candidates, crops, config)]
    local = _local_branch(query_features, reference_features, config, votes)
    found.append(local.assign(branch=LOCAL))
    if crops is not None:
        recall = crops.table.loc[crops.table["recall"], "picture"]
        local = _local_branch(crops.features, reference_features, config, crop_votes)
        local = local[local["query_id"].isin(recall)].rename(columns={"query_id": "picture"})
        found.append(local.assign(query_id=local["picture"].map(crops.owners()), branch=CROP))
    table = pd.concat(found)
    table["picture"] = table["picture"].fillna("")
    table = table[PROPOSAL_COLUMNS].drop_duplicates()
    return table.sort_values(PROPOSAL_COLUMNS, ignore_index=True)


def _global_branch(
    candidates: pd.DataFrame | None,
    crop_candidates: pd.DataFrame | None,
    crops: Crops | None,
    config: LocalConfig,
) -> pd.DataFrame:
    """Nearest references of precise crops and of whole queries (all, or those without a crop)."""
    whole, parts = _best(candidates, config), _best(crop_candidates, config)
    table = whole.assign(picture="")
    if crops is not None:
        precise = crops.table.loc[crops.table["precise"], "picture"]
        parts = parts[parts["query_id"].isin(precise)].rename(columns={"query_id": "picture"})
        parts["query_id"] = parts["picture"].map(crops.owners())
        if config.global_on == "crop":
            table = table[~table["query_id"].isin(parts["query_id"])]
        table = pd.concat([table, parts])
    return table.assign(branch=GLOBAL)


def _best(candidates: pd.DataFrame | None, config: LocalConfig) -> pd.DataFrame:
    if candidates is None:
        return pd.DataFrame(columns=PAIR, dtype=object)
    return sort_pairs(candidates).groupby("query_id").head(config.other_candidates)[PAIR]


def _local_branch(
    features: Features,
    reference_features: Features,
    config: LocalConfig,
    votes: pd.DataFrame | None,
) -> pd.DataFrame:
    """Voted pairs and, in the kit's own method, those alike as whole pictures."""
    votes = vote(features, reference_features, config) if votes is None else votes
    tables = [votes[PAIR]]
    if config.whole_candidates:
        count, negatives = config.whole_candidates, config.negatives
        tables.append(whole_candidates(features, reference_features, count, negatives)[PAIR])
    return pd.concat(tables)


def branch_table(proposed: pd.DataFrame, ground_truth: pd.DataFrame) -> pd.DataFrame:
    """How many proposals each branch makes and how many true pairs are among them.

    One row a branch and one for all together: pairs, true, wrong, recall (of all true pairs), and
    alone: true pairs that no other branch proposes. `proposed` as of `propose`.
    """
    true = ground_truth[ground_truth["reference_id"] != ""][PAIR].drop_duplicates()
    pairs = proposed[["branch", *PAIR]].drop_duplicates()
    hits = pairs.merge(true, on=PAIR)
    branches = hits.groupby(PAIR)["branch"].transform("size")
    rows = {}
    for name in sorted(pairs["branch"].unique()):
        own, hit = (table[table["branch"] == name] for table in (pairs, hits))
        rows[name.upper()] = len(own), len(hit), (branches[hit.index] == 1).sum()
    together = len(hits[PAIR].drop_duplicates())
    rows["all"] = len(pairs[PAIR].drop_duplicates()), together, together
    table = pd.DataFrame(rows, index=["pairs", "true", "alone"]).T
    table.insert(2, "wrong", table["pairs"] - table["true"])
    table.insert(3, "recall", (table["true"] / max(1, len(true))).round(3))
    return table
