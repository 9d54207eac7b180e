"""Search over image parts in two directions: the best (query part, reference part) pairs.

AQ+OR: all parts of the queries against whole references. OQ+AR: whole queries against all parts of
the references. OQ+OR: whole images alone, to compare with. In all of them the score is
<q, r> - beta * mean of the nearest background rows of q (docs/systems/d2lv.md, section 8), so a
pair of whole images scores the same in each.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from iscutils.descriptors.codec import ROWS_PER_DIMENSION, Codec
from iscutils.descriptors.store import non_finite_rows, open_h5
from iscutils.files.artifacts import KitError, atomic_path, content_key, log
from iscutils.retrieval.part_files import (
    PART_PAIR_COLUMNS,
    SOURCE_KEYS,
    WHOLE,
    PartFiles,
    read_part_table,
)
from iscutils.retrieval.score_norm import mean_similarity, parse_score_norm
from iscutils.retrieval.top_pairs import top_pairs

DIRECTIONS = ("AQ+OR", "OQ+AR")
WHOLE_IMAGES = "OQ+OR"
# Steps of the ladder before there are parts, see `search_whole`.
RAW, NORMALISED = "whole images, raw scores", "+ score normalisation"
ROWS_A_QUERY = 20  # pairs of a table, times the number of whole queries (1,000,000 for 50,000)
_BLOCK_BYTES = 1 << 28  # of vectors read at a time


def suits_parts(score_norm: str) -> bool:
    """Whether a score normalisation can be used with parts: none, or a subtracting form."""
    return parse_score_norm(score_norm).kind in ("none", "subtract")


def search_models(
    files: list[PartFiles], out: str | Path, *, directions: tuple[str, ...] = DIRECTIONS, **options
) -> list[Path]:
    """`search_parts` for every model and direction; OQ+AR where the references have parts.

    `options` are those of `search_parts`. Returns the tables in the order of the models.
    """
    return [
        search_parts(own, out, direction=direction, **options)
        for own in files
        for direction in directions
        if direction == "AQ+OR" or (read_part_table(own.references).part != WHOLE).any()
    ]


def search_whole(
    files: list[PartFiles], out: str | Path, *, score_norm: str, **options
) -> dict[str, Path]:
    """The first model on whole images, without and with score normalisation: where `ladder` starts.

    First is set "base" at 256 px where there are such, then what comes first by name. `options` are
    those of `search_parts`. Returns tables by step.
    """
    first = min(
        files,
        key=lambda own: (own.set != "base", own.set, own.size != 256, own.size, own.backbone),
    )
    steps = {RAW: "none"} | ({} if score_norm == "none" else {NORMALISED: score_norm})
    return {
        step: search_parts(first, out, direction=WHOLE_IMAGES, score_norm=norm, **options)
        for step, norm in steps.items()
    }


def search_parts(
    files: PartFiles,
    out: str | Path,
    *,
    direction: str = "AQ+OR",
    count: int = 0,
    codec: str = "L2norm,Flat",
    score_norm: str = "2.0[0,9]",
    memory_gb: float = 4.0,
    device: str = "auto",
) -> Path:
    """The best pairs of parts of one model, one size and one direction, over all queries together.

    Every query part has its own normaliser. Vectors are read in stretches of `memory_gb`
    gigabytes; what a codec changes and does not fit lies in a temporary file in `out`.

    Args:
        files: descriptor files with the columns `part`; the background holds whole images.
        out: folder of the table; its name carries a key of files and settings.
        direction: "AQ+OR", "OQ+AR" or "OQ+OR".
        count: rows kept; 0: 20 for each whole query.
        codec: as `Codec`; "Flat" for vectors that were whitened at extraction.
        score_norm: "none" or a subtracting form; the default is D2LV's.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.

    Returns:
        CSV of query_id, query_part, reference_id, reference_part, direction, set, backbone, size,
        score by falling score. Finished work is skipped.
    """
    if direction not in (*DIRECTIONS, WHOLE_IMAGES):
        known = " or ".join((*DIRECTIONS, WHOLE_IMAGES))
        raise KitError(f"direction '{direction}' is unknown: choose {known}")
    norm = parse_score_norm(score_norm)
    if not suits_parts(score_norm):
        raise KitError(
            f"score normalisation '{score_norm}' cannot be used with parts: write none or a "
            "subtracting form such as 2.0[0,9]"
        )
    source = dict(zip(SOURCE_KEYS, (direction, files.set, files.backbone, files.size), strict=True))
    inputs = [
        Path(f).name if f else "" for f in (files.queries, files.references, files.background)
    ]
    key = content_key(inputs, source, count, codec, score_norm)
    path = Path(out) / f"{files.set}-{files.backbone}@{files.size}-{direction}-{key}.csv"
    if path.exists():
        log.info("%s is there already", path.name)
        return path
    queries, references = read_part_table(files.queries), read_part_table(files.references)
    if direction.startswith("OQ"):
        queries = queries[queries.part == WHOLE]
    if direction.endswith("OR"):
        references = references[references.part == WHOLE]
    if queries.empty or references.empty:
        raise KitError(f"{path.name}: no whole images (part 0) in the files: extract them again")
    count = count or ROWS_A_QUERY * int((queries.part == WHOLE).sum())
    fitted, device = _fitted(codec, files.background), _device(device)
    with atomic_path(path) as temporary:
        scratch = temporary.parent
        rows = _vectors(files.queries, queries.row, fitted, memory_gb, scratch / "queries")
        base = _vectors(files.references, references.row, fitted, memory_gb, scratch / "references")
        bias = _normaliser(rows, files.background, norm, fitted, memory_gb, scratch, device)
        q, r, score = top_pairs(
            rows,
            base,
            count,
            bias=bias,
            memory_gb=memory_gb,
            device=device,
            desc=path.stem.rpartition("-")[0],
        )
        frame = _table(queries, references, q, r, score, source)
        frame.to_csv(temporary, index=False, lineterminator="\n")
    return path


def _table(
    queries: pd.DataFrame,
    references: pd.DataFrame,
    q: np.ndarray,
    r: np.ndarray,
    score: np.ndarray,
    source: dict,
) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "query_id": queries.image_id.to_numpy()[q],
            "query_part": queries.part.to_numpy()[q],
            "reference_id": references.image_id.to_numpy()[r],
            "reference_part": references.part.to_numpy()[r],
            **source,
            "score": score,
        }
    )
    return frame[PART_PAIR_COLUMNS]


def _normaliser(
    rows: np.ndarray,
    background: Path | None,
    norm,
    codec: Codec,
    memory_gb: float,
    scratch: Path,
    device: str,
) -> np.ndarray | None:
    """beta * mean similarity (P,) of every query row with its nearest background rows."""
    if norm.kind == "none":
        return None
    if background is None:
        raise KitError("score normalisation learns from background images: give their descriptors")
    table = read_part_table(background)
    table = table[table.part == WHOLE]
    if len(table) <= norm.last:
        raise KitError(
            f"score normalisation needs {norm.last + 1} background images, {background} has "
            f"{len(table)}: give more training images or smaller ranks"
        )
    base = _vectors(background, table.row, codec, memory_gb, scratch / "background")
    level = mean_similarity(rows, base, norm.first, norm.last, memory_gb=memory_gb, device=device)
    return norm.factor * level


def _fitted(spec: str, background: Path | None) -> Codec:
    codec = Codec(spec)
    if not codec.learns:
        return codec
    if background is None:
        raise KitError(f"codec {spec} learns from background images: give their descriptors")
    with open_h5(background) as file:
        vectors = file["vectors"]
        most = min(len(vectors), ROWS_PER_DIMENSION * vectors.shape[1])
        rows = np.random.default_rng(0).choice(len(vectors), most, replace=False)
        return codec.fit(vectors[np.sort(rows)] if most < len(vectors) else vectors[:])


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise KitError("device 'cuda' was asked for, but torch sees no GPU: choose auto or cpu")
    return device


def _vectors(
    path: Path, rows: pd.Series, codec: Codec, memory_gb: float, scratch: Path
) -> np.ndarray:
    """Rows of a descriptor file after a codec; larger ones than the memory lie in a file."""
    rows = rows.to_numpy()
    with open_h5(path) as file:
        stored = file["vectors"]
        offset = stored.id.get_offset()
        if codec.spec == "Flat" and len(rows) == len(stored) and offset and stored.dtype == "<f4":
            mapped = np.memmap(path, "<f4", "r", offset, stored.shape)
            bad = non_finite_rows(mapped)
            if len(bad):
                raise KitError(f"{path}: {len(bad)} vectors are not finite; extract again")
            return mapped
        step = max(1, _BLOCK_BYTES // (4 * stored.shape[1]))
        result = None
        for start in range(0, len(stored), step):
            first, last = np.searchsorted(rows, [start, start + step])
            if first == last:
                continue
            block = stored[start : start + step]
            if last - first < len(block):
                block = block[rows[first:last] - start]
            block = codec.apply(block)
            if result is None:
                shape = (len(rows), block.shape[1])
                large = 4 * shape[0] * shape[1] > memory_gb * 2**30
                result = (
                    np.memmap(scratch, "<f4", "w+", shape=shape)
                    if large
                    else np.empty(shape, dtype=np.float32)
                )
            result[first:last] = block
    return result
