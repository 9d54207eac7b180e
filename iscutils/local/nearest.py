"""Exact nearest points: the fastest of three engines that give the same numbers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial

import numpy as np

TILE = (256, 2048)  # query and reference points of one product: its table stays in the cache
NORMS = 65_536  # rows whose norms are computed at a time
ENGINES = ("int8", "faiss", "numpy")


class NearestPoint:
    """Exact nearest point by squared L2 distance of descriptors (M, 128) uint8.

    Engines: "int8" (integer products of torch, threads over the queries), "faiss" and "numpy"
    (float32, exact for integers below 2^24) give the same result; of equal distances the lower
    index wins. "" takes the fastest that this machine has.
    """

    def __init__(self, points: np.ndarray, engine: str = ""):
        self.engine = engine or fastest_engine()
        self.count = len(points)
        if self.engine == "faiss":
            import faiss

            self.index = faiss.IndexFlatL2(points.shape[1])
            self.index.add(np.ascontiguousarray(points, np.float32))
            return
        self.points = signed(points) if self.engine == "int8" else points.astype(np.float32)
        self.norms = squared_norms(self.points)

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances (Q,) float32 and indices (Q,) of the nearest points of queries (Q, 128)."""
        if self.engine == "faiss":
            distances, indices = self.index.search(np.ascontiguousarray(queries, np.float32), 1)
            return distances[:, 0], indices[:, 0]
        if not len(queries):
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        queries = signed(queries) if self.engine == "int8" else queries.astype(np.float32)
        nearest = _nearest_int8 if self.engine == "int8" else _nearest_float
        tiles = [queries[start : start + TILE[0]] for start in range(0, len(queries), TILE[0])]
        with _one_thread_each() as threads:
            pool = ThreadPoolExecutor(threads)
            try:
                found = list(pool.map(partial(nearest, self.points, self.norms), tiles))
            finally:
                pool.shutdown(cancel_futures=True)
        distances, indices = (np.concatenate(part) for part in zip(*found, strict=True))
        return (distances + squared_norms(queries)).astype(np.float32), indices


def signed(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors uint8 moved to -128..127, which changes no distance."""
    return (np.ascontiguousarray(descriptors, np.uint8) ^ 128).view(np.int8)


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """Squared norms (M,) of descriptors (M, 128): int32 of int8, float32 of float32; exact."""
    kind = np.int32 if rows.dtype == np.int8 else np.float32
    norms = np.empty(len(rows), kind)
    for start in range(0, len(rows), NORMS):  # as float32: three times as fast, four times as large
        wide = rows[start : start + NORMS].astype(np.float32)
        norms[start : start + NORMS] = np.einsum("ij,ij->i", wide, wide)
    return norms


def _nearest_int8(
    points: np.ndarray, norms: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    import torch  # slow to import, and workers that detect points do without

    left, right = torch.from_numpy(queries), torch.from_numpy(points)
    added = torch.from_numpy(norms)

    def table(part: slice) -> np.ndarray:
        products = torch._int_mm(left, right[part].T)
        return torch.add(added[part], products, alpha=-2, out=products).numpy()

    return _nearest(table, len(queries), len(points), np.int32)


def _nearest_float(
    points: np.ndarray, norms: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    def table(part: slice) -> np.ndarray:
        products = queries @ points[part].T
        products *= -2
        products += norms[part]
        return products

    return _nearest(table, len(queries), len(points), np.float32)


def _nearest(
    tables: Callable[[slice], np.ndarray], count: int, points: int, kind: type
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest |p|^2 - 2 p.q of each query, and where; `tables(part)` gives it (count, part)."""
    rows = np.arange(count)
    best = np.full(count, np.iinfo(np.int32).max, kind)
    indices = np.zeros(count, np.int64)
    for start in range(0, points, TILE[1]):
        table = tables(slice(start, start + TILE[1]))
        found = table.argmin(axis=1)
        lowest = table[rows, found]
        closer = lowest < best
        best[closer], indices[closer] = lowest[closer], found[closer] + start
    return best, indices


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Number of threads to start, while torch uses one in each of them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def fastest_engine() -> str:
    """The engine that is the fastest here, by a trial of some milliseconds.

    Integer products are 4 times as fast as faiss on processors with VNNI instructions, and slow on
    some without; faiss may be absent.
    """
    rng = np.random.default_rng(0)
    points, queries = (rng.integers(0, 256, (n, 128)).astype(np.uint8) for n in (4096, 512))
    seconds, results = {}, {}
    for engine in reversed(ENGINES):
        try:
            index = NearestPoint(points, engine)
            results[engine] = index.search(queries)[1]  # the first call prepares kernels
        except (ImportError, AttributeError, RuntimeError, NotImplementedError):
            continue  # not on this machine
        seconds[engine] = min(_seconds(index, queries) for _ in range(5))
    right = [name for name in seconds if np.array_equal(results[name], results["numpy"])]
    return min(right, key=seconds.get)


def integer_products() -> bool:
    """Whether torch is loaded in this process and its integer products are the fastest engine.

    Search loads torch anyway; a worker that scores some pairs is done before torch is loaded.
    """
    return "torch" in sys.modules and fastest_engine() == "int8"


def _seconds(index: NearestPoint, queries: np.ndarray) -> float:
    start = time.perf_counter()
    index.search(queries)
    return time.perf_counter() - start
