"""Descriptors on disc: one HDF5 file per data set, `vectors` (N, D) beside `image_names` (N,)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from iscutils.files.artifacts import KitError, atomic_path
from iscutils.files.ids import image_id

_NOTES = "attributes"
SUBMISSION_DIM = 256  # limit of the descriptor track
_ROWS_AT_A_TIME = 65_536  # bounds the memory of checks and copies


@dataclass(frozen=True)
class Descriptors:
    """Vectors of a data set, row by row with their image ids.

    `vectors` is float32 (N, D), `ids` a list of N texts, `attrs` what the writer noted about them.
    `columns` holds further arrays of N rows, such as `boxes` (N, 4), `part` (N,) or `norms` (N,).
    """

    vectors: np.ndarray
    ids: list[str]
    attrs: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


def write_descriptors(
    path: str | Path,
    vectors: np.ndarray,
    image_names: Sequence[str],
    *,
    columns: Mapping[str, np.ndarray] | None = None,
    **attrs: Any,
) -> Path:
    """Write vectors (N, D) and their N image names as one HDF5 file, atomically.

    `columns` are further arrays of N rows (numbers or texts); `attrs` are JSON values kept beside
    the data. Raises `KitError` for unequal lengths, non-finite rows and repeated names.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    names = [image_id(name) for name in image_names]
    columns = {name: np.asarray(values) for name, values in (columns or {}).items()}
    check_descriptors(vectors, names, columns, str(path))
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            file["vectors"] = vectors
            file["image_names"] = to_bytes(image_names)
            for name, values in columns.items():
                file[name] = to_bytes(values) if values.dtype.kind in "OUS" else values
            # A dataset, as HDF5 attributes end at 64 kB and a list of skipped images may not.
            file[_NOTES] = json.dumps(attrs, default=_plain)
    return Path(path)


def write_blocks(
    path: str | Path, blocks: Iterable[Mapping[str, np.ndarray]], rows: int, **attrs: Any
) -> Path:
    """Write a descriptor file of `rows` rows block by block, atomically, with memory for one.

    Each block maps `vectors`, `image_names` (bytes) and any columns to arrays of equally many rows,
    with the same names and types in all blocks. What `check_descriptors` finds is the caller's to
    check. Raises `KitError` where the blocks have another number of rows.
    """
    written = 0
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            for block in blocks:
                end = written + len(block["vectors"])
                for name, values in block.items():
                    if name not in file:
                        file.create_dataset(name, (rows, *values.shape[1:]), values.dtype)
                    if end <= rows:
                        file[name][written:end] = values
                written = end
            if written != rows:
                raise KitError(f"{path}: {written} rows in its blocks, expected {rows}")
            file[_NOTES] = json.dumps(attrs, default=_plain)
    return Path(path)


def read_notes(path: str | Path) -> dict[str, Any]:
    """What the writer of a descriptor file noted beside the data, without reading the vectors."""
    with open_h5(path) as file:
        return json.loads(file[_NOTES][()] if _NOTES in file else "{}")


def read_descriptors(path: str | Path, dim: int | None = None) -> Descriptors:
    """Read a descriptor file; names become ids, see `ids.image_id`.

    With `dim`, vectors of another dimension are a `KitError`; so are unreadable or truncated
    files, non-finite rows, repeated ids and unequal numbers of rows and names.
    """
    path = Path(path)
    with open_h5(path) as file:
        try:
            missing = {"vectors", "image_names"} - set(file)
            if missing:
                raise KitError(
                    f"{path} has no dataset {' and '.join(sorted(missing))} but "
                    f"{', '.join(sorted(file)) or 'nothing'}: not a descriptor file; extract again"
                )
            vectors = np.asarray(file["vectors"][:], dtype=np.float32)
            ids = [image_id(name) for name in file["image_names"][:]]
            others = set(file) - {"vectors", "image_names", _NOTES}
            columns = {name: _from_bytes(file[name][:]) for name in sorted(others)}
            attrs = json.loads(file[_NOTES][()] if _NOTES in file else "{}")
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise _unreadable(path, error) from error
    check_descriptors(vectors, ids, columns, str(path))
    if dim is not None and vectors.shape[1] != dim:
        raise KitError(
            f"{path} holds descriptors of dimension {vectors.shape[1]}, expected {dim}: "
            "extract them again with the model in use"
        )
    return Descriptors(vectors, ids, attrs, columns)


def read_shards(paths: Iterable[str | Path], dim: int | None = None) -> Descriptors:
    """Read any number of descriptor files of one data set as one, rows sorted by id.

    The order of the files does not matter. Raises `KitError` when dimensions differ or an id
    occurs in two shards. Columns are kept when every shard has them.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise KitError("no descriptor shards given: name at least one .h5 file")
    shards = [read_descriptors(path, dim) for path in paths]
    dims = {shard.vectors.shape[1]: path for shard, path in zip(shards, paths, strict=True)}
    if len(dims) > 1:
        listed = ", ".join(f"{path.name} has {dim}" for dim, path in sorted(dims.items()))
        raise KitError(f"descriptor shards of different dimensions ({listed}): extract them again")
    ids = [id_ for shard in shards for id_ in shard.ids]
    shared = set.intersection(*(set(shard.columns) for shard in shards))
    columns = {
        name: np.concatenate([shard.columns[name] for shard in shards]) for name in sorted(shared)
    }
    vectors = np.concatenate([shard.vectors for shard in shards])
    check_descriptors(vectors, ids, columns, f"{len(paths)} shards beginning with {paths[0]}")
    keys = [np.asarray(ids, dtype=object)]
    if "part" in columns:
        keys.insert(0, columns["part"])
    order = np.lexsort(keys)
    return Descriptors(
        vectors[order],
        [ids[i] for i in order],
        shards[0].attrs,
        {name: values[order] for name, values in columns.items()},
    )


def write_submission(
    path: str | Path,
    queries: Descriptors,
    references: Descriptors,
    *,
    counts: tuple[int, int] | None = None,
) -> Path:
    """Write the official descriptor submission: rows sorted by id, query and reference together.

    Datasets `query`, `reference` float32 (n, d) with d <= 256, `query_ids` of 6 bytes,
    `reference_ids` of 7 (docs/evaluation.md, sections 3 and 4). `counts` (queries, references) is
    checked when given; the challenge asks for (50_000, 1_000_000). Raises `KitError` otherwise.
    """
    parts = {"query": (queries, 6), "reference": (references, 7)}
    dims = [part.vectors.shape[1] for part, _ in parts.values()]
    if dims[0] != dims[1] or dims[0] > SUBMISSION_DIM:
        raise KitError(
            f"{path}: query dimension {dims[0]}, reference dimension {dims[1]}; a submission needs "
            f"equal ones of at most {SUBMISSION_DIM}: use a PCA{SUBMISSION_DIM} codec"
        )
    if counts is not None and (len(queries), len(references)) != tuple(counts):
        raise KitError(
            f"{path}: {len(queries)} queries and {len(references)} references, expected "
            f"{counts[0]} and {counts[1]}: extract the missing images"
        )
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            for name, (part, width) in parts.items():
                check_descriptors(part.vectors, part.ids, source=f"{path}, {name}")
                ids = to_bytes(part.ids)
                odd = np.flatnonzero(np.char.str_len(ids) != width)
                if len(odd):
                    raise KitError(
                        f"{path}: the {name} id '{part.ids[odd[0]]}' is not {width} characters "
                        f"long; a submission holds the challenge's ids only"
                    )
                order = np.argsort(ids, kind="stable")
                file[f"{name}_ids"] = ids[order].astype(f"S{width}")
                dataset = file.create_dataset(name, part.vectors.shape, np.float32)
                for start in range(0, len(order), _ROWS_AT_A_TIME):
                    block = order[start : start + _ROWS_AT_A_TIME]
                    dataset[start : start + len(block)] = part.vectors[block]
    return Path(path)


def read_submission(path: str | Path) -> tuple[Descriptors, Descriptors]:
    """Queries and references of an official descriptor submission; other datasets are ignored."""
    found = []
    with open_h5(path) as file:
        for name in ("query", "reference"):
            if name not in file or f"{name}_ids" not in file:
                raise KitError(
                    f"{path} has no datasets {name} and {name}_ids but {', '.join(sorted(file))}: "
                    "not a submission; read single sets with read_descriptors"
                )
            try:
                vectors = np.asarray(file[name][:], dtype=np.float32)
                ids = [image_id(value) for value in file[f"{name}_ids"][:]]
            except (OSError, UnicodeDecodeError) as error:
                raise _unreadable(path, error) from error
            check_descriptors(vectors, ids, source=f"{path}, {name}")
            found.append(Descriptors(vectors, ids))
    queries, references = found
    if queries.vectors.shape[1] != references.vectors.shape[1]:
        raise KitError(
            f"{path}: query dimension {queries.vectors.shape[1]}, reference dimension "
            f"{references.vectors.shape[1]}; they must be equal: write the file again"
        )
    return queries, references


def check_descriptors(
    vectors: np.ndarray,
    ids: Sequence[str],
    columns: Mapping[str, np.ndarray] | None = None,
    source: str = "descriptors",
) -> None:
    """Raise `KitError` unless vectors (N, D) are finite and match N distinct, non-empty ids.

    With a column `part`, the pair (id, part) has to be distinct instead of the id.
    """
    columns = columns or {}
    if vectors.ndim != 2:
        raise KitError(f"{source}: vectors of shape {vectors.shape}, expected (images, dimension)")
    for name, values in {"image names": ids, **columns}.items():
        if len(values) != len(vectors):
            raise KitError(
                f"{source}: {len(vectors)} vectors but {len(values)} {name}; extract again"
            )
    if "" in ids:
        raise KitError(f"{source}: row {list(ids).index('')} has an empty image name; name it")
    keys = pd.DataFrame({"id": list(ids)}, dtype=object)
    if "part" in columns:
        keys["part"] = columns["part"]
    repeated = np.flatnonzero(keys.duplicated())
    if len(repeated):
        raise KitError(
            f"{source}: {len(repeated)} repeated image ids, the first is "
            f"'{ids[repeated[0]]}': every image needs its own name"
        )
    bad = non_finite_rows(vectors)
    if len(bad):
        raise KitError(
            f"{source}: {len(bad)} vectors are not finite, the first is of image "
            f"'{ids[bad[0]]}': extract again in float32 or leave these images out"
        )


def non_finite_rows(vectors: np.ndarray) -> np.ndarray:
    """Indices of the rows of (N, D) that contain NaN or infinity."""
    blocks = range(0, len(vectors), _ROWS_AT_A_TIME)
    bad = [
        start + np.flatnonzero(~np.isfinite(vectors[start : start + _ROWS_AT_A_TIME]).all(axis=1))
        for start in blocks
    ]
    return np.concatenate(bad) if bad else np.zeros(0, dtype=np.int64)


def open_h5(path: str | Path) -> h5py.File:
    """Open an HDF5 file for reading; a missing or damaged one is a `KitError`."""
    if not Path(path).is_file():
        raise KitError(f"descriptor file {path} does not exist: run the extraction first")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise _unreadable(path, error) from error


def to_bytes(texts: Iterable[str | bytes]) -> np.ndarray:
    """Texts as a NumPy array of UTF-8 bytes of one width, the form in which HDF5 holds names."""
    encoded = [text if isinstance(text, bytes) else str(text).encode("utf-8") for text in texts]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")


def _from_bytes(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "SO":
        return values
    return np.array(
        [value.decode("utf-8") if isinstance(value, bytes) else value for value in values],
        dtype=object,
    )


def _unreadable(path: str | Path, error: Exception) -> KitError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return KitError(f"cannot read {path} ({reason}): damaged or not HDF5; extract it again")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
