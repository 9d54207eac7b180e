"""What a search lists: equal pictures first, then pairs by their points, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from iscutils.files.equal import Pair
from iscutils.local.numbered import SIDES, frames_of, numbers_of

LIKELY = 0.5  # scores are probabilities, see `local.verifier`
EQUAL_FILE, EQUAL_PIXELS, POINTS = "equal file", "equal pixels", "points"
ROWS = 10  # references listed for a picture, likely ones apart
BELOW_ONE = 1 - 1e-9  # highest score of what is not equal, to the digits that files hold


@dataclass(frozen=True)
class Findings:
    """Pairs of a search, best first, and sentences on what the list does not show.

    Columns of `pairs` are query_id, reference_id, score, reason, then those of `score_pairs`;
    query_frame and reference_frame where a frame other than the first one matched.
    """

    pairs: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def likely(self) -> pd.DataFrame:
        """Pairs that are more likely copies than not."""
        return self.pairs[self.pairs["score"] >= LIKELY]


def ranked(verified: pd.DataFrame, equal: Mapping[str, Sequence[Pair]]) -> pd.DataFrame:
    """All pairs of pictures by falling score, equal ones first, each with the best of its frames.

    Args:
        verified: rows of `score_pairs`; its ids are those of frames.
        equal: pairs of numbers by their reason.

    Returns:
        Numbers query and reference, score, reason, the columns of `score_pairs`, and the numbers
        query_frame and reference_frame.
    """
    table = verified.drop(columns=["query_id", "reference_id"])
    table = table.assign(score=table["score"].clip(upper=BELOW_ONE))
    table.insert(1, "reason", POINTS)
    for place, side in enumerate(SIDES):
        table.insert(place, side, numbers_of(verified[f"{side}_id"]))
        table[f"{side}_frame"] = frames_of(verified[f"{side}_id"])
    rows = [(q, r, reason) for reason, pairs in equal.items() for q, r in pairs]
    same = pd.DataFrame(rows, columns=[*SIDES, "reason"]).reindex(columns=table.columns)
    # The second is the first: all of it agrees, and nothing had to be compared.
    same = same.fillna(dict.fromkeys(same, 0) | {"score": 1, "coverage": 1, "agreement": 1})
    same[["h00", "h11", "h22"]] = 1
    table = pd.concat([same.astype(table.dtypes.to_dict()), table], ignore_index=True)
    table = table.sort_values(
        ["score", *SIDES], ascending=[False, True, True], kind="stable", ignore_index=True
    )
    return table.drop_duplicates([*SIDES], ignore_index=True)


def cut(table: pd.DataFrame, rows: int | None, shortlist: int) -> tuple[pd.DataFrame, list[str]]:
    """The first rows of each query, and whether more are likely.

    rows: most of a query; None: `ROWS`, and all that are likely. `shortlist` is how many references
    of a query were looked at.
    """
    likely = (table["score"] >= LIKELY).groupby(table["query"]).sum()
    limits = likely.clip(lower=ROWS) if rows is None else likely * 0 + rows
    kept = table.groupby("query").cumcount() < table["query"].map(limits)
    notes = []
    more = likely[likely > limits]
    if len(more):
        notes.append(
            f"{_pictures(len(more))} more likely originals than the {rows} that are listed: "
            f"--rows {more.max()} shows all that were found"
        )
    full = likely[likely >= shortlist]
    if len(full):
        notes.append(
            f"{_pictures(len(full))} as many likely originals as references were looked at: "
            f"there may be more, --shortlist {2 * shortlist} looks further"
        )
    return table[kept].reset_index(drop=True), notes


def named(table: pd.DataFrame, queries: Sequence[str], references: Sequence[str]) -> pd.DataFrame:
    """Numbers as the ids that they stand for; columns of frames only where they say something."""
    table = table.copy()
    for place, (side, ids) in enumerate(zip(SIDES, (queries, references), strict=True)):
        numbers = table.pop(side)
        table.insert(place, f"{side}_id", np.array(ids, object)[numbers])
        frames = table.pop(f"{side}_frame")
        if frames.any():
            table[f"{side}_frame"] = frames.astype("Int64").where(frames > 0)
    return table


def said_of_links(links: Sequence[Pair]) -> list[str]:
    """A sentence on pictures that are references, if there are any."""
    count = len({q for q, _ in links})
    what = "1 picture is a reference" if count == 1 else f"{count} pictures are references"
    return [f"{what} under another name, by a link: no copy, see skipped.csv"] if count else []


def shown(pairs: pd.DataFrame) -> list[tuple[str, ...]]:
    """Lines of a table of some pairs, the first one its header."""
    header = ("picture", "likely original", "score", "points", "reason")
    lines = [header, *(_line(row) for row in pairs.to_dict("records"))]
    width = max(len(line) for line in lines[1:]) if lines[1:] else 4
    return [line[:width] for line in lines]


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    by_points = row["reason"] == POINTS
    reasons = [] if by_points else [row["reason"]]
    for side, what in zip(SIDES, ("picture", "original"), strict=True):
        if not pd.isna(row.get(f"{side}_frame")):
            reasons.append(f"frame {row[f'{side}_frame']} of the {what}")
    points = str(row["inliers"]) if by_points else ""
    line = (row["query_id"], row["reference_id"], f"{row['score']:.2f}", points)
    return (*line, ", ".join(reasons)) if reasons else line


def _pictures(count: int) -> str:
    return "1 picture has" if count == 1 else f"{count} pictures have"
