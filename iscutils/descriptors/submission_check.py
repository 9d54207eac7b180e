"""Check a submission before it is uploaded: every violation at once, each with an example."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from iscutils.descriptors.store import SUBMISSION_DIM, non_finite_rows, open_h5
from iscutils.evaluation.pairs import PAIR_COLUMNS
from iscutils.evaluation.submissions import SUBMISSION_ROWS
from iscutils.files.artifacts import KitError

ROWS = 65_536  # vectors looked at in one go
PATTERNS = {"query": r"Q\d{5}", "reference": r"R\d{6}"}


def check_submission(
    path: str | Path,
    queries: Collection[str] | None = None,
    references: Collection[str] | None = None,
    *,
    cap: int = SUBMISSION_ROWS,
) -> list[str]:
    """Violations of the rules of a submission, [] for a file that may be uploaded.

    CSV (matching track): columns query_id,reference_id,score, at most `cap` rows, known ids, finite
    scores, no pair twice, falling scores. HDF5 (descriptor track): float32 of at most 256
    dimensions, equal for both sets, ids of 6 and 7 bytes, sorted, each once, none missing, finite
    values. Ids are compared with `queries` and `references`; without them, with the challenge's
    form. Raises `KitError` if the file cannot be read at all.
    """
    path = Path(path)
    if not path.is_file():
        raise KitError(f"submission {path} does not exist: give a .csv or .h5 file")
    with open(path, "rb") as file:
        hdf5 = file.read(8) == b"\x89HDF\r\n\x1a\n"
    known = {"query": queries, "reference": references}
    return _check_h5(path, known) if hdf5 else _check_csv(path, known, cap)


def _check_csv(path: Path, known: dict[str, Collection[str] | None], cap: int) -> list[str]:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise KitError(f"{path} is no CSV file ({' '.join(str(error).split())})") from error
    if list(table.columns) != PAIR_COLUMNS:
        return [f"columns {','.join(map(str, table.columns))}, expected {','.join(PAIR_COLUMNS)}"]
    found = []
    if len(table) > cap:
        found.append(f"{len(table)} rows, at most {cap} are allowed")
    if table.empty:
        found.append("no rows")
    for name, ids in known.items():
        column = table[f"{name}_id"]
        wrong = ~(column.str.fullmatch(PATTERNS[name]) if ids is None else column.isin(set(ids)))
        wanted = f"of the form {PATTERNS[name]}" if ids is None else f"a {name} of the data"
        _say(found, wrong, column, f"{name} ids are not {wanted}")
    score = pd.to_numeric(table["score"], errors="coerce").to_numpy(np.float64)
    finite = np.isfinite(score)
    _say(found, ~finite, table["score"], "scores are no finite number")
    pairs = table["query_id"] + "," + table["reference_id"]
    _say(found, pairs.duplicated(), pairs, "pairs occur before already")
    rising = np.r_[False, np.diff(score) > 0]
    _say(found, rising, table["score"], "rows have a higher score than the row before")
    return found


def _say(found: list[str], wrong, values: pd.Series, text: str) -> None:
    """Add "3 <text>, the first in line 7: 'x'" if any row is wrong."""
    rows = np.flatnonzero(np.asarray(wrong, dtype=bool))
    if len(rows):
        # Line 1 is the header.
        found.append(f"{len(rows)} {text}, the first in line {rows[0] + 2}: '{values[rows[0]]}'")


def _check_h5(path: Path, known: dict[str, Collection[str] | None]) -> list[str]:
    found: list[str] = []
    with open_h5(path) as file:
        wanted = [name for part in known for name in (part, f"{part}_ids")]
        missing = [name for name in wanted if not isinstance(file.get(name), h5py.Dataset)]
        if missing:
            return [f"no data set {', '.join(missing)} but {', '.join(sorted(file)) or 'nothing'}"]
        for part, ids in known.items():
            found += _check_vectors(part, file[part], file[f"{part}_ids"])
            found += _check_ids(part, file[f"{part}_ids"], ids)
        shapes = [file[part].shape for part in known]
        if all(len(shape) == 2 for shape in shapes) and shapes[0][1] != shapes[1][1]:
            found.append(f"query dimension {shapes[0][1]}, reference dimension {shapes[1][1]}")
    return found


def _check_vectors(part: str, vectors: h5py.Dataset, ids: h5py.Dataset) -> list[str]:
    if len(vectors.shape) != 2:
        return [f"{part}: shape {vectors.shape}, expected (images, dimension)"]
    found = []
    if vectors.dtype != np.float32:
        found.append(f"{part}: type {vectors.dtype}, expected float32")
    if vectors.shape[1] > SUBMISSION_DIM:
        found.append(f"{part}: dimension {vectors.shape[1]}, at most {SUBMISSION_DIM}")
    if len(vectors) != len(ids):
        found.append(f"{part}: {len(vectors)} vectors but {len(ids)} ids")
    if vectors.dtype.kind != "f":
        return found
    bad = [
        start + row
        for start in range(0, len(vectors), ROWS)
        for row in non_finite_rows(vectors[start : start + ROWS])
    ]
    if bad:
        found.append(f"{part}: {len(bad)} vectors are not finite, the first in row {bad[0]}")
    return found


def _check_ids(part: str, dataset: h5py.Dataset, known: Collection[str] | None) -> list[str]:
    width = {"query": 6, "reference": 7}[part]
    found = []
    if dataset.dtype != np.dtype(f"S{width}"):
        found.append(f"{part}_ids: type {dataset.dtype}, expected texts of {width} bytes")
    values = dataset[:]
    if values.ndim != 1 or values.dtype.kind not in "SO":
        return [*found, f"{part}_ids: expected one row of texts"]
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]
    ids = pd.Series(texts, dtype=object)
    unsorted = np.flatnonzero(ids.to_numpy()[1:] < ids.to_numpy()[:-1])
    if len(unsorted):
        found.append(f"{part}_ids: not sorted, '{ids[unsorted[0] + 1]}' after '{ids[unsorted[0]]}'")
    if ids.duplicated().any():
        found.append(f"{part}_ids: {ids.duplicated().sum()} repeated, such as '"
                     f"{ids[ids.duplicated()].iloc[0]}'")  # fmt: skip
    if known is None:
        wrong = ids[~ids.str.fullmatch(PATTERNS[part])]
        missing = pd.Index([])
    else:
        wrong = ids[~ids.isin(set(known))]
        missing = pd.Index(list(known)).difference(pd.Index(ids))
    if len(wrong):
        found.append(
            f"{part}_ids: {len(wrong)} are no {part} of the data, such as '{wrong.iloc[0]}'"
        )
    if len(missing):
        found.append(f"{part}_ids: {len(missing)} images have no row, such as '{missing[0]}'")
    return found
