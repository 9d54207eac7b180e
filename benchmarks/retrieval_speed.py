"""Speed of the global searches against bare faiss flat searches of the same shapes.

    python benchmarks/retrieval_speed.py [--parts 2000] [--queries 50000] [--rows 1000000]
                                         [--scale 1] [--repeat 2]

1. Parts: `top_pairs` of query parts x rows with the normaliser (mean of the ten nearest background
   rows) against two bare searches: k = 10 among the rows and k = 10 among the background.
2. Queries: `search` with a global rule of 10 pairs a query and `evaluate` against one bare k = 10.

`--scale 0.1` divides rows and queries by ten; the part of the work that grows slower than the
products (sorting, ids, the metric) then weighs more, so the ratios are upper bounds. Both sides run
in one process, in turns, and the best of `--repeat` counts. CPU seconds are those of all threads,
wall seconds what one waits; on a busy machine the former say more. Prints the peak memory.
"""

import argparse
import resource
import time

import faiss
import numpy as np
import pandas as pd

from iscutils.evaluation.metrics import evaluate
from iscutils.retrieval.score_norm import mean_similarity
from iscutils.retrieval.search import search
from iscutils.retrieval.top_pairs import top_pairs


def unit_rows(count: int, dim: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def bare(queries: np.ndarray, database: np.ndarray, k: int = 10) -> None:
    index = faiss.IndexFlatIP(database.shape[1])
    index.add(database)
    index.search(queries, k)


def ours_with_parts(queries: np.ndarray, rows: np.ndarray, background: np.ndarray) -> None:
    bias = 2 * mean_similarity(queries, background, 0, 9)
    top_pairs(queries, rows, 20 * max(1, len(queries) // 29), bias=bias)  # 29 parts a query


def bare_with_parts(queries: np.ndarray, rows: np.ndarray, background: np.ndarray) -> None:
    bare(queries, rows)
    bare(queries, background)


def ours_global(queries: np.ndarray, rows: np.ndarray, ids: tuple, truth: pd.DataFrame) -> None:
    evaluate(search(queries, rows, *ids, f"global:{10 * len(queries)}"), truth)


def best_of(repeat: int, *functions) -> list[tuple[float, float]]:
    """(CPU, wall) seconds of each function, the best of several turns."""
    times = [[] for _ in functions]
    for _ in range(repeat):
        for own, function in zip(times, functions, strict=True):
            start = time.process_time(), time.perf_counter()
            function()
            own.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return [tuple(np.min(own, axis=0)) for own in times]


def tell(what: str, ours: tuple, faiss_alone: tuple, wanted: float) -> None:
    print(f"{what}")
    for name, mine, other in zip(("CPU", "wall"), ours, faiss_alone, strict=True):
        ratio = mine / other
        print(
            f"  {name:5}{mine:8.2f} s   faiss {other:8.2f} s   {ratio:.2f} times ({wanted} wanted)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, default=2_000)
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--background", type=int, default=0, help="rows; 0: as many as the others")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    rows = unit_rows(int(options.rows * options.scale), options.dim, 0)
    count = int((options.background or options.rows) * options.scale)

    parts, background = unit_rows(options.parts, options.dim, 1), unit_rows(count, options.dim, 2)
    times = best_of(
        options.repeat,
        lambda: ours_with_parts(parts, rows, background),
        lambda: bare_with_parts(parts, rows, background),
    )
    shape = f"{len(parts):,} parts x {len(rows):,} rows x {options.dim}"
    tell(f"{shape}, normalised by {count:,} background rows", *times, 1.2)

    queries = unit_rows(int(options.queries * options.scale), options.dim, 3)
    ids = [f"Q{i:05}" for i in range(len(queries))], [f"R{i:06}" for i in range(len(rows))]
    truth = pd.DataFrame({"query_id": ids[0], "reference_id": ""})
    truth.loc[::5, "reference_id"] = ids[1][: len(truth.loc[::5])]
    queries[::5] = rows[: len(queries[::5])]
    times = best_of(
        options.repeat, lambda: ours_global(queries, rows, ids, truth), lambda: bare(queries, rows)
    )
    shape = f"{len(queries):,} queries x {len(rows):,} rows x {options.dim}"
    tell(f"{shape}, {10 * len(queries):,} pairs, evaluated", *times, 1.25)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GB, the vectors are {rows.nbytes / 2**30:.1f} GB")


if __name__ == "__main__":
    main()
