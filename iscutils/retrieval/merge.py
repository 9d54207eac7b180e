"""From tables of part pairs to one ranked list: D2LV's rules (docs/systems/d2lv.md, section 9).

Every rule is a function table -> table; `merge` applies those that a `MergeConfig` switches on, in
the published order, and tells how many rows each one leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.evaluation.pairs import PAIR_COLUMNS, sort_pairs
from iscutils.files.artifacts import KitError, log
from iscutils.files.ids import image_id
from iscutils.retrieval.part_files import (
    PAIR_KEYS,
    SOURCE_KEYS,
    WHOLE,
    read_part_pairs,
    read_part_table,
)

# Smallest side of a query part that may vote, pixels, by set (docs/systems/d2lv.md, section 3).
SMALLEST_SIDE = {
    "base": 200, "base_bw": 200, "blur": 100, "blur_bw": 100, "color": 100, "color_bw": 200,
    "dark": 100, "face": 100, "face_bw": 150, "opaque": 200, "occlude": 200,
}  # fmt: skip
UNPENALISED = {WHOLE, *(str(number) for number in range(1000, 1020))}
DECIMALS = 6  # scores that agree so far are the same score
_MERGE_ROWS = 4_000_000  # pairs collected before they are reduced to one row each

Tables = Sequence[pd.DataFrame | str | Path]


@dataclass(frozen=True)
class MergeConfig:
    """Which rules run.

    `vote`: pairs of parts found by enough backbones. `smallest`: factor on the smallest side T of
    a query part, 0 = off; the published sides are meant for photographs of 500 px and more.
    `faces`: file of reference ids that show a face, one a line; their OQ+AR rows are dropped.
    `penalty`: subtracted where the query part is neither whole nor a detection. `top_two`: mean of
    the two best distinct scores of a pair instead of its best. `cap`: rows kept, 0 = all.
    `penalty_references`: subtracted in OQ+AR; published: the same. There a whole query meets
    nineteen parts of each reference, while its normaliser knows whole background images alone.
    """

    vote: bool = True
    smallest: float = 1.0
    faces: str = ""
    penalty: float = 0.05
    top_two: bool = True
    cap: int = 0
    penalty_references: float = 0.05


PUBLISHED_RULES = MergeConfig()


def vote(rows: pd.DataFrame, backbones: int = 0) -> pd.DataFrame:
    """Rows of one direction, set and size whose pair of parts enough backbones found.

    Of n backbones ceil(2n/3) have to agree in AQ+OR (2 of 3) and all in OQ+AR; each keeps its own
    row and score. `backbones` is n, 0: as many as the table names.
    """
    n = backbones or rows["backbone"].nunique()
    if n < 2 or rows.empty:
        return rows
    both = (rows["direction"] == "OQ+AR").all()
    needed = n if both else -(-2 * n // 3)
    code = _codes(rows[PAIR_KEYS])
    once = ~pd.DataFrame({"code": code, "backbone": rows["backbone"].to_numpy()}).duplicated()
    return rows[np.bincount(code[once.to_numpy()])[code] >= needed]


def drop_small(rows: pd.DataFrame, sides: pd.DataFrame, factor: float = 1.0) -> pd.DataFrame:
    """Without AQ+OR rows whose query part is narrower or lower than T; exactly T stays.

    `sides` are those of `read_sides`: original pixels, detections at a long side of 640. T is
    that of the row's training set times `factor`.
    """
    shortest = sides.set_index(["query_id", "query_part"])[["width", "height"]].min(axis=1)
    own = shortest.reindex(pd.MultiIndex.from_frame(rows[["query_id", "query_part"]])).to_numpy()
    checked = (rows["direction"] == "AQ+OR").to_numpy()
    unknown = np.flatnonzero(np.isnan(own) & checked)
    if len(unknown):
        row = rows.iloc[unknown[0]]
        raise KitError(
            f"no size is known of part {row.query_part} of query '{row.query_id}': extract the "
            "queries again, or set the rule of small parts to 0"
        )
    least = rows["set"].map(SMALLEST_SIDE).fillna(SMALLEST_SIDE["base"]).to_numpy() * factor
    return rows[~checked | (own >= least)]


def drop_faces(rows: pd.DataFrame, faces: Collection[str]) -> pd.DataFrame:
    """Without OQ+AR rows whose reference is listed as showing a face."""
    return rows[(rows["direction"] != "OQ+AR") | ~rows["reference_id"].isin(list(faces))]


def penalise(rows: pd.DataFrame, penalty: float = 0.05, references: float = 0.05) -> pd.DataFrame:
    """Scores less the penalty, except AQ+OR rows of whole queries and of detections 1000..1019.

    `references` is the penalty of OQ+AR rows, all of them.
    """
    free = rows["query_part"].isin(UNPENALISED)
    own = np.where(rows["direction"] == "AQ+OR", penalty * ~free, references)
    return rows.assign(score=rows["score"] - own)


def best_two(rows: pd.DataFrame) -> pd.DataFrame:
    """The two best distinct scores of each (query, reference): up to two rows a pair.

    Scores are rounded to 6 decimals first; equal ones count once. Joining tables and taking the
    best two again is the same as taking the best two of all.
    """
    rows = rows[PAIR_COLUMNS]
    score = rows["score"].to_numpy(np.float64).round(DECIMALS)
    code = _codes(rows[PAIR_COLUMNS[:2]])
    order = np.lexsort((-score, code))
    new = np.diff(code[order], prepend=-1) != 0
    distinct = order[new | (np.diff(score[order], prepend=np.nan) != 0)]
    place = np.arange(len(distinct))
    first = np.flatnonzero(np.diff(code[distinct], prepend=-1) != 0)
    rank = place - np.repeat(first, np.diff(first, append=len(distinct)))
    kept = distinct[rank < 2]
    return rows.iloc[kept].assign(score=score[kept])


def mean_of_two(rows: pd.DataFrame, top_two: bool = True) -> pd.DataFrame:
    """One row a pair: the mean of its two best distinct scores, or only the best one."""
    if not top_two:
        rows = rows.assign(score=rows["score"].round(DECIMALS))
        return rows.groupby(PAIR_COLUMNS[:2], as_index=False, sort=False)["score"].max()
    best = best_two(rows)
    return best.groupby(PAIR_COLUMNS[:2], as_index=False, sort=False)["score"].mean()


def largest(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Maximum merge of two lists: each pair with the larger of its scores."""
    both = pd.concat([first[PAIR_COLUMNS], second[PAIR_COLUMNS]], ignore_index=True)
    return mean_of_two(both, top_two=False)


def cap(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """The best rows in the order of every pair file; 0: all."""
    rows = sort_pairs(rows)
    return rows.iloc[:most] if most else rows


def merge(
    tables: Tables,
    sides: pd.DataFrame | None = None,
    config: MergeConfig = PUBLISHED_RULES,
    *,
    second: pd.DataFrame | None = None,
    then: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One list of (query, reference, score) from the tables of all models, sizes and directions.

    Args:
        tables: those of `search_parts`, as files or tables; a file holds one direction, set,
            backbone and size. They are read one set and size at a time.
        sides: of the query parts (`read_sides`); may be None when the rule of small parts is off.
        second: another submission; each pair keeps the larger of its two scores.
        then: applied to the joined list before that and before the cap, when the parts are gone,
            such as the norm filter.

    Returns:
        The list by falling score, and a table step, rows: what each step leaves.
    """
    if not len(tables):
        raise KitError("no tables of part pairs to merge: search first")
    if config.smallest and sides is None:
        raise KitError("the rule of small parts needs the sides of the query parts, or smallest 0")
    faces = _read_ids(config.faces) if config.faces else None
    counts: dict[str, int] = {}
    waiting, size = [pd.DataFrame({"query_id": [], "reference_id": [], "score": []})], 0
    for group in _groups(tables):
        for step, rows in _rules(group, sides, config, faces):
            counts[step] = counts.get(step, 0) + len(rows)
        waiting.append(best_two(rows) if config.top_two else rows[PAIR_COLUMNS])
        size += len(waiting[-1])
        if size > _MERGE_ROWS:
            waiting = [best_two(pd.concat(waiting, ignore_index=True))]
            size = len(waiting[0])
    found = mean_of_two(pd.concat(waiting, ignore_index=True), config.top_two)
    counts["joined to pairs of images"] = len(found)
    if then is not None:
        found = then(found)
        counts["filter"] = len(found)
    if second is not None:
        found = largest(found, second)
        counts["larger of two lists"] = len(found)
    found = cap(found, config.cap)
    counts["best rows"] = len(found)
    return found, pd.DataFrame({"step": list(counts), "rows": list(counts.values())})


def matching_parts(
    tables: Tables, pairs: pd.DataFrame, config: MergeConfig = PUBLISHED_RULES
) -> pd.DataFrame:
    """For each (query, reference) of `pairs` the row that scored best, after the penalty.

    Columns of the tables; `score` is the row's. Pairs without a row are left out.
    """
    wanted = pairs[PAIR_COLUMNS[:2]].drop_duplicates()
    rows = [wanted.merge(read_table(table), on=PAIR_COLUMNS[:2]) for table in tables]
    rows = pd.concat(rows, ignore_index=True)
    rows = penalise(rows, config.penalty, config.penalty_references)
    rows = sort_pairs(rows).drop_duplicates(PAIR_COLUMNS[:2])
    return wanted.merge(rows, on=PAIR_COLUMNS[:2])


def read_sides(path: str | Path) -> pd.DataFrame | None:
    """Width and height of the query parts of a descriptor file (query_id, query_part, width,
    height), as `drop_small` takes them; None where the file does not have them."""
    table = read_part_table(path)
    if "width" not in table:
        return None
    named = table.rename(columns={"image_id": "query_id", "part": "query_part"})
    return named[["query_id", "query_part", "width", "height"]]


def _rules(
    rows: pd.DataFrame,
    sides: pd.DataFrame | None,
    config: MergeConfig,
    faces: Collection[str] | None,
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The table of one direction, set and size after each rule."""
    yield "found", rows
    if config.vote:
        rows = vote(rows)
        yield "vote of the backbones", rows
    if config.smallest:
        whole = (rows["query_part"] == WHOLE).sum()
        rows = drop_small(rows, sides, config.smallest)
        yield "smallest part", rows
        if whole and 2 * (rows["query_part"] == WHOLE).sum() < whole:
            log.warning(
                "most whole queries are smaller than the smallest part that may vote: lower the "
                "factor %g of that rule for small images",
                config.smallest,
            )
    if faces is not None:
        rows = drop_faces(rows, faces)
        yield "faces", rows
    if config.penalty or config.penalty_references:
        yield "penalty", penalise(rows, config.penalty, config.penalty_references)


def sources_of(tables: Tables) -> pd.DataFrame:
    """direction, set, backbone, size and the table itself, one row each; empty ones left out."""
    found = []
    for table in tables:
        if isinstance(table, pd.DataFrame):
            parts = table.groupby(SOURCE_KEYS, sort=False, observed=True)
            found += [(*key, part) for key, part in parts]
        else:
            head = pd.read_csv(table, nrows=1, keep_default_na=False)
            found += [(*row, table) for row in head[SOURCE_KEYS].itertuples(index=False, name=None)]
    return pd.DataFrame(found, columns=[*SOURCE_KEYS, "table"])


def _groups(tables: Tables) -> Iterator[pd.DataFrame]:
    """All rows of one direction, set and size at a time."""
    sources = sources_of(tables)
    for _, own in sources.groupby([name for name in SOURCE_KEYS if name != "backbone"]):
        yield pd.concat([read_table(table) for table in own.table], ignore_index=True)


def read_table(table: pd.DataFrame | str | Path) -> pd.DataFrame:
    return table if isinstance(table, pd.DataFrame) else read_part_pairs(table)


def _codes(columns: pd.DataFrame) -> np.ndarray:
    """One number (n,) for each distinct row of the columns, without gaps."""
    code = np.zeros(len(columns), dtype=np.int64)
    for name in columns:
        own, values = pd.factorize(columns[name])
        code = pd.factorize(code * max(1, len(values)) + own)[0]
    return code


def _read_ids(path: str | Path) -> set[str]:
    try:
        lines: Iterable[str] = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise KitError(f"cannot read the list of faces {path}: {error.strerror}") from error
    return {image_id(line.split(",")[0].strip()) for line in lines if line.strip()}
