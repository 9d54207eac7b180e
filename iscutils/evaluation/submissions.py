"""Files of scored pairs and of ground truth (docs/evaluation.md, section 4)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.evaluation.pairs import (
    PAIR_COLUMNS,
    check_ground_truth,
    check_predictions,
    sort_pairs,
)
from iscutils.files.artifacts import KitError, atomic_path, log
from iscutils.files.ids import image_id
from iscutils.files.names import from_cell, to_cell

SUBMISSION_ROWS = 500_000  # limit of the matching track for 50,000 queries


def read_predictions(
    path: str | Path, *, duplicates: str = "error", default_score: float | None = None
) -> pd.DataFrame:
    """Read scored pairs: query_id, reference_id, score (float64) and any further columns.

    Comma or TAB separated, header optional, LF or CRLF, scores as `34` or `score:34`; folders and
    .jpg/.jpeg/.png are removed from the ids, which stay texts. Lines without a score column need
    a `default_score`. Raises `KitError` naming file, line and pair for non-finite scores, empty
    ids and, unless `duplicates="max"`, pairs given twice.
    """
    table, lines = _read_table(Path(path), PAIR_COLUMNS)
    if "score" not in table and default_score is not None:
        table["score"] = default_score
    elif "score" in table:
        table["score"] = _scores(table["score"])
    return check_predictions(table, duplicates=duplicates, source=str(path), lines=lines)


def read_imgfp(path: str | Path, *, duplicates: str = "error") -> pd.DataFrame:
    """Read a file of the imgFp system: TAB lines, `q.jpg,r.jpg,score:34` or bare `q.jpg,r.jpg`.

    Bare pairs (proposals that nobody scored yet) get score 1.
    """
    return read_predictions(path, duplicates=duplicates, default_score=1.0)


def write_predictions(
    path: str | Path,
    predictions: pd.DataFrame,
    *,
    cap: int | None = SUBMISSION_ROWS,
    cut: bool = False,
    extra: bool = False,
) -> Path:
    """Write `query_id,reference_id,score` by falling score, then ids, atomically.

    Scores have up to 9 significant digits, enough for every float32 to come back unchanged. More
    rows than `cap` (None: no limit) are a `KitError`, or are left out with `cut=True`. `extra`
    keeps further columns, which a submission must not have, and writes ids so that no spreadsheet
    runs them (`names.to_cell`); `read_predictions` gives them back.
    """
    frame = sort_pairs(check_predictions(predictions))
    if cap is not None and len(frame) > cap:
        if not cut:
            raise KitError(
                f"{path}: {len(frame)} rows, a submission holds at most {cap}: "
                "pass cut=True to keep the best ones"
            )
        log.info("%s: the best %d of %d rows are kept", path, cap, len(frame))
        frame = frame.iloc[:cap].copy()
    frame["score"] = _score_texts(frame["score"].to_numpy())
    others = [column for column in frame if column not in PAIR_COLUMNS] if extra else []
    if extra:  # opened in spreadsheets; a submission keeps its ids to the letter
        for column in PAIR_COLUMNS[:2]:
            frame[column] = frame[column].map(to_cell)
    with atomic_path(path) as temporary:
        frame[PAIR_COLUMNS + others].to_csv(temporary, index=False, lineterminator="\n")
    return Path(path)


def read_ground_truth(path: str | Path) -> pd.DataFrame:
    """Read the truth as (query_id, reference_id) texts; an empty reference is a distractor query.

    Header or none, LF or CRLF, byte order mark, positives only or all queries: all are accepted.
    Raises `KitError` for an empty query id and for a file without any true pair.
    """
    table, lines = _read_table(Path(path), PAIR_COLUMNS[:2])
    return check_ground_truth(table, source=str(path), lines=lines)


def write_ground_truth(path: str | Path, ground_truth: pd.DataFrame) -> Path:
    """Write `query_id,reference_id` with a header, sorted by query, atomically."""
    frame = check_ground_truth(ground_truth).sort_values(PAIR_COLUMNS[:2])
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    return Path(path)


def _read_table(path: Path, names: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Columns of a CSV or TAB file as texts, ids cleaned, and the line number of each row."""
    columns = names
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
        separator = "\t" if "\t" in first and "," not in first else ","
        cells = [cell.strip() for cell in next(csv.reader([first], delimiter=separator), [])]
        header = "query_id" in [cell.lower() for cell in cells]
        if header:
            columns = [cell.lower() if cell.lower() in PAIR_COLUMNS else cell for cell in cells]
        elif cells:
            columns = (names + [f"column_{i + 1}" for i in range(len(names), len(cells))])[
                : len(cells)
            ]
        table = pd.read_csv(
            path,
            sep=separator,
            header=None,
            names=columns,
            skiprows=int(header),
            dtype=str,
            keep_default_na=False,  # an image may be called NA or null
            skip_blank_lines=False,  # so that rows keep their line numbers
            skipinitialspace=True,
            encoding="utf-8-sig",
            index_col=False,
        )
    except pd.errors.EmptyDataError:
        table = pd.DataFrame({name: pd.Series(dtype=str) for name in columns})
    except (pd.errors.ParserError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise KitError(f"{path} is not a table of {','.join(names)} ({reason})") from error
    except OSError as error:
        raise KitError(f"cannot read {path}: {error.strerror}; check the path") from error
    table = table.fillna("")
    filled = (table != "").any(axis=1).to_numpy()
    lines = (np.arange(len(table)) + 1 + header)[filled]
    table = table[filled].reset_index(drop=True)
    for column in table:
        if column in PAIR_COLUMNS[:2]:
            codes, ids = pd.factorize(table[column])
            names = [image_id(from_cell(name)) for name in ids]
            table[column] = np.array(names, dtype=object)[codes]
        elif column != "score":
            table[column] = _numbers_if_possible(table[column])
    return table, lines


def _scores(texts: pd.Series) -> np.ndarray:
    """Texts as float64; Python's own conversion, exact to the last bit. Unreadable ones stay."""
    values = texts.str.removeprefix("score:").to_numpy(dtype=object)
    try:
        return values.astype(np.float64)
    except ValueError:
        return values  # the check names the line


def _score_texts(score: np.ndarray) -> list[str]:
    # float32 scores in their shortest form (.9, not .899999976). One form for the whole column:
    # mixing both could swap two neighbours.
    single = score.astype(np.float32)
    if (single == score).all():
        return [text.removesuffix(".0") for text in single.astype(str).tolist()]
    return [f"{value:.9g}" for value in score.tolist()]


def _numbers_if_possible(texts: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(texts.where(texts != ""), errors="coerce")
    return numbers if (numbers.isna() == (texts == "")).all() else texts
