"""The best pairs of two large sets of vectors by inner product: exact, in bounded memory.

Scores are computed block by block and only those that reach the floor are kept; the floor is the
worst of the best pairs met so far, so it rises and soon almost nothing passes it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

BLOCK = 1024, 1024  # query and database rows of one block of scores on a processor (4 MB)
DEVICE_BLOCK = 4096, 65_536  # the same on a GPU (1 GB)
SLACK = 1024  # pairs kept beyond the wanted ones: block scores are rounded, the last ones are not
_GATHER = 1 << 23  # numbers gathered at a time for the exact scores

Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # query rows, database rows, scores


def top_pairs(
    queries: np.ndarray,
    database: np.ndarray,
    count: int,
    *,
    bias: np.ndarray | None = None,
    query_code: np.ndarray | None = None,
    database_code: np.ndarray | None = None,
    memory_gb: float = 2.0,
    block: tuple[int, int] | None = None,
    device: str = "cpu",
    desc: str = "",
) -> Found:
    """The `count` best pairs of queries (P, D) and database rows (N, D), over all queries together.

    Score: <q, r> - bias_q, with `bias` (P,) zero by default. Both arrays may be memory-mapped;
    the database is read in stretches of at most `memory_gb` gigabytes. Codes (P,), (N,) name the
    image of each row: a pair of images counts once, with its best rows. Without them each row is
    an image of its own. Among equal scores, pairs of smaller codes come first.

    The scores of the pairs kept are computed again in float64, so that they do not depend on the
    blocks: a pair has the same score wherever it is found.

    `device` "cuda" multiplies on a GPU in float32. `desc` names a progress bar.

    Returns rows of queries, rows of the database, float32 scores; by falling score, then code.
    """
    many = query_code is not None or database_code is not None
    query_code = np.arange(len(queries)) if query_code is None else query_code
    database_code = np.arange(len(database)) if database_code is None else database_code
    width = int(database_code.max(initial=0)) + 1
    bias = np.zeros(len(queries)) if bias is None else np.asarray(bias, dtype=np.float64)
    gpu = str(device).startswith("cuda")
    high, wide = block or (DEVICE_BLOCK if gpu else BLOCK)
    kept = _Kept(count + SLACK, partial(_trim, query_code, database_code, width, many))
    stretch = max(wide, int(memory_gb * 2**30) // (4 * queries.shape[1]) // wide * wide)
    steps = -(-len(queries) // high) * -(-len(database) // stretch)
    threads = torch.get_num_threads()  # what the user or the scheduler allows
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=steps, desc=desc, disable=not desc, leave=False) as bar,
    ):
        if gpu:
            scan = partial(_scan_torch, device)
        else:  # one block of scores, used again and again: fresh memory is slow
            scan = partial(_scan, pool, threads, np.empty(high * wide, dtype=np.float32))
        for left in range(0, len(database), stretch):
            rows = np.ascontiguousarray(database[left : left + stretch], dtype=np.float32)
            held = torch.from_numpy(rows).to(device) if gpu else rows
            for top in range(0, len(queries), high):
                part = np.ascontiguousarray(queries[top : top + high], dtype=np.float32)
                own = bias[top : top + high]
                for start in range(0, len(rows), wide):
                    q, r, score = scan(part, held[start : start + wide], own + kept.floor)
                    kept.add(q + top, r + (left + start), score - own[q])
                bar.update()
    q, r, score = kept.take()
    score = exact_scores(queries, database, q, r) - bias[q]
    order = np.lexsort((query_code[q] * width + database_code[r], -score))[:count]
    return q[order], r[order], score[order].astype(np.float32)


def exact_scores(
    queries: np.ndarray, database: np.ndarray, q: np.ndarray, r: np.ndarray
) -> np.ndarray:
    """Inner products (n,) of the rows `q` of queries and `r` of the database, in float64."""
    score = np.empty(len(q), dtype=np.float64)
    step = max(1, _GATHER // queries.shape[1])
    for start in range(0, len(q), step):
        own = slice(start, start + step)
        left, right = np.asarray(queries[q[own]]), np.asarray(database[r[own]])
        score[own] = np.einsum("nd,nd->n", left, right, dtype=np.float64, casting="safe")
    return score


class _Kept:
    """Pairs met so far; never more than twice the wanted number and one block."""

    def __init__(self, most: int, trim: Callable[[Found, int], Found]) -> None:
        self.most, self.trim = most, trim
        self.floor = -np.inf
        self.parts: list[Found] = []
        self.size = 0

    def add(self, q: np.ndarray, r: np.ndarray, score: np.ndarray) -> None:
        if len(q):
            self.parts.append((q, r, score))
            self.size += len(q)
        if self.size > 2 * self.most:
            self.parts = [self.take()]
            self.size = len(self.parts[0][0])
            if self.size >= self.most:
                self.floor = self.parts[0][2].min()

    def take(self) -> Found:
        if not self.parts:
            none = np.zeros(0, dtype=np.int64)
            return none, none, np.zeros(0)
        joined = tuple(np.concatenate(column) for column in zip(*self.parts, strict=True))
        return self.trim(joined, self.most)


def _trim(
    query_code: np.ndarray,
    database_code: np.ndarray,
    width: int,
    many: bool,
    found: Found,
    most: int,
) -> Found:
    """The `most` best of the pairs found, one a pair of images; equal scores by smaller code."""
    q, r, score = found
    code = query_code[q] * width + database_code[r]
    if many:  # several rows of an image: the best one
        order = np.lexsort((-score, code))
        order = order[np.diff(code[order], prepend=-1) > 0]
        q, r, score, code = q[order], r[order], score[order], code[order]
    if len(score) > most:
        worst = np.partition(score, len(score) - most)[len(score) - most]
        keep = np.flatnonzero(score > worst)
        equal = np.flatnonzero(score == worst)
        equal = equal[np.argsort(code[equal], kind="stable")[: most - len(keep)]]
        keep = np.concatenate([keep, equal])
        q, r, score = q[keep], r[keep], score[keep]
    return q, r, score


def _scan(
    pool: ThreadPoolExecutor,
    threads: int,
    memory: np.ndarray,
    part: np.ndarray,
    rows: np.ndarray,
    floor: np.ndarray,
) -> Found:
    """Pairs of a block whose inner product is at least the floor (B,) of their query."""
    scores = memory[: len(part) * len(rows)].reshape(len(part), len(rows))
    np.matmul(part, rows.T, out=scores)  # (B, W), by all threads of the BLAS
    # float64 floors would turn the whole block into float64; the next lower float32 lets all pass.
    low = np.nextafter(floor.astype(np.float32), np.float32(-np.inf))
    step = -(-len(part) // threads)
    slices = [slice(start, start + step) for start in range(0, len(part), step)]
    if threads == 1:
        return _reaching(scores, low, slices[0])
    found = list(pool.map(partial(_reaching, scores, low), slices))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def _reaching(scores: np.ndarray, low: np.ndarray, own: slice) -> Found:
    block, low = scores[own], low[own]
    # Most rows hold nothing any more: one pass for their largest value is all they cost.
    some = np.flatnonzero(block.max(axis=1) >= low)
    chosen = block if len(some) == len(block) else block[some]
    place, r = np.nonzero(chosen >= low[some, None])
    return some[place] + own.start, r, chosen[place, r].astype(np.float64)


@torch.inference_mode()
def _scan_torch(device: str, part: np.ndarray, rows: torch.Tensor, floor: np.ndarray) -> Found:
    low = np.nextafter(floor.astype(np.float32), np.float32(-np.inf))
    scores = torch.from_numpy(part).to(device) @ rows.T  # (B, W)
    place, r = (scores >= torch.from_numpy(low).to(device)[:, None]).nonzero(as_tuple=True)
    values = scores[place, r].double()
    return place.cpu().numpy(), r.cpu().numpy(), values.cpu().numpy()
