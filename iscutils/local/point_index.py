"""Nearest reference points for voting: exact, or by a compressed index of millions of points.

A compressed index is an inverted file of product codes (Jegou, Douze, Schmid, "Product quantization
for nearest neighbor search", PAMI 2011) made by faiss: 24 to 32 bytes a point, on disc, mapped into
memory as lists are read. The codes only propose: the distances of the proposed points are computed
from their descriptors in the feature file, so that votes and mean distances are exact.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from iscutils.files.artifacts import KitError, atomic_path, content_key, log, write_json
from iscutils.files.executor import Executor
from iscutils.local.config import LocalConfig
from iscutils.local.nearest import NearestPoint
from iscutils.local.store import Features

VERSION = 1  # raise when the same points get another index
BLOCK = 2_000_000  # points searched exactly at a time: 256 MB as integers, 1 GB as float32
SHARD = 1_000_000  # points per shard, the unit of resuming
PER_LIST = 64  # training points per inverted list
CODES_AT_ONCE = 1 << 18  # pairs of points whose exact distances are computed at a time
SMALL = 20_000  # with fewer points, exact search is as fast, and training has too few
HELP = "choose 'flat', 'ivf' or a faiss text with an inverted file, such as 'IVF4096,PQ16'"


def factory_for(points: int) -> str:
    """The faiss text that "ivf" means for a number of points; "flat" for a few.

    About four times the square root of the number of points as lists, at most 65,536, as learning
    them takes time by their square; 16 bytes a code. From 16,384 lists on, a graph finds those of a
    query point.
    """
    if points < SMALL:
        return "flat"
    lists = min(2 ** round(np.log2(4 * np.sqrt(points))), 65_536)
    return f"IVF{lists}{'_HNSW32' if lists >= 16_384 else ''},PQ16"


class FlatPoints:
    """Exact search among chosen points of a feature file, read in blocks of bounded memory."""

    def __init__(self, features: Features, rows: np.ndarray):
        self.features, self.rows = features, rows
        self.in_memory = len(rows) <= BLOCK
        self._single: NearestPoint | None = None

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances (Q,) float32 and places in `rows` (Q,) of queries (Q, 128) uint8."""
        best = np.full(len(queries), np.inf, np.float32)
        places = np.full(len(queries), -1, np.int64)
        for start, index in self._blocks():
            distances, found = index.search(queries)
            closer = distances < best
            best[closer], places[closer] = distances[closer], found[closer] + start
        return best, places

    def _blocks(self) -> Iterator[tuple[int, NearestPoint]]:
        for start in range(0, len(self.rows), BLOCK):
            index = self._single or NearestPoint(
                read_points(self.features, self.rows[start : start + BLOCK])
            )
            if self.in_memory:
                self._single = index  # kept for the next queries
            yield start, index


class CompressedPoints:
    """Search by an index of `build_point_index`, distances recomputed from the feature file."""

    in_memory = False

    def __init__(
        self, features: Features, rows: np.ndarray, path: str | Path, probes: int, rerank: int
    ):
        import faiss

        self.features, self.rows, self.rerank = features, rows, rerank
        flags = faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_SKIP_IVF_DATA
        self.index = faiss.read_index(str(Path(path) / "index.faiss"), flags)
        inverted = faiss.extract_index_ivf(self.index)
        inverted.nprobe = min(probes, inverted.nlist)
        lists = faiss.downcast_InvertedLists(inverted.invlists)
        lists.filename = str(Path(path) / "lists.bin")  # faiss remembers where they were written
        lists.do_mmap()
        # Reading ahead touches each list once per query point, far more often than needed.
        lists.prefetch_nthread = 0

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `FlatPoints.search`; place -1 where the searched lists are empty."""
        _, places = self.index.search(np.ascontiguousarray(queries, np.float32), self.rerank)
        return nearest_of(self.features, self.rows, queries, places)


def nearest_of(
    features: Features, rows: np.ndarray, queries: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of some points for each query point, by exact squared distances.

    queries (Q, 128) uint8, places (Q, K) in `rows`, -1 for none; of equal distances the lower place
    wins. Descriptors are read in the order of the file, each once per piece of work.
    """
    best = np.full(len(queries), np.inf, np.float32)
    chosen = np.full(len(queries), -1, np.int64)
    query, place = np.repeat(np.arange(len(queries)), places.shape[1]), places.ravel()
    query, place = query[place >= 0], place[place >= 0]
    order = np.argsort(place, kind="stable")
    for start in range(0, len(order), CODES_AT_ONCE):
        part = order[start : start + CODES_AT_ONCE]
        wanted, where = np.unique(place[part], return_inverse=True)
        known = features.descriptors_at(rows[wanted])[where].astype(np.float32)
        known -= queries[query[part]]
        distances = np.einsum("ij,ij->i", known, known)
        # Nearest pair of each query point in this piece; earlier pieces hold lower places.
        ranks = np.lexsort((place[part], distances, query[part]))
        firsts = ranks[np.unique(query[part][ranks], return_index=True)[1]]
        firsts = firsts[distances[firsts] < best[query[part][firsts]]]
        best[query[part][firsts]] = distances[firsts]
        chosen[query[part][firsts]] = place[part][firsts]
    return best, chosen


def read_points(features: Features, rows: np.ndarray) -> np.ndarray:
    """Descriptors (K, 128) uint8 of points in rising order, most of a range."""
    if not len(rows):
        return np.zeros((0, 128), np.uint8)
    return features.descriptors(int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]]


def open_points(
    features: Features,
    rows: np.ndarray,
    config: LocalConfig,
    executor: Executor | None = None,
    *,
    training: Features | None = None,
) -> FlatPoints | CompressedPoints:
    """The index that `config.index` names over the points `rows` of a feature file.

    A compressed one is built first, beside the feature file, unless it is there.
    """
    if _factory(config.index, len(rows)) == "flat":
        return FlatPoints(features, rows)
    path = build_point_index(features, rows, config.index, executor, training=training)
    return CompressedPoints(features, rows, path, config.probes, config.rerank)


def build_point_index(
    features: Features,
    rows: np.ndarray,
    index: str = "ivf",
    executor: Executor | None = None,
    *,
    out: str | Path | None = None,
    training: Features | None = None,
) -> Path:
    """Build a compressed index of points (rising rows of a feature file); return its folder.

    It lies beside the feature file, or in the folder `out`, under a name with the key of its
    content. Trained on a sample of the points, or of those of other pictures (`training`). Points
    are added shard by shard, by the executor's workers; a killed call continues. Finished work is
    kept. The folder holds `index.faiss`, `lists.bin` and `index.json`
    (`index_state`).

    Raises:
        KitError: the factory text has no inverted file, or fewer points than lists.
    """
    factory = _factory(index, len(rows))
    if factory == "flat":
        raise KitError(f"{len(rows):,} points are too few for a compressed index: use index='flat'")
    key = content_key(
        VERSION, features.key, len(features.offsets), len(rows), int(rows.sum()), factory,
        None if training is None else training.key, PER_LIST,
    )  # fmt: skip
    folder = features.path.parent if out is None else Path(out)
    path = folder / f"{features.path.stem}-points-{key}"
    if (path / "index.json").exists():
        return path
    parts = path.with_name(f".{path.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    _train(parts / "trained.faiss", features, rows, factory, training)
    trained = time.perf_counter()
    job = partial(_build_shard, parts, features, rows)
    starts = range(0, len(rows), SHARD)
    shards = list((executor or Executor()).map(job, starts, desc="point index"))
    with atomic_path(path) as temporary:
        temporary.mkdir()
        _merge(parts / "trained.faiss", shards, temporary)
        size = sum(file.stat().st_size for file in temporary.iterdir())
        state = {
            "factory": factory, "points": len(rows), "bytes": size,
            "train_seconds": trained - started, "add_seconds": time.perf_counter() - trained,
        }  # fmt: skip
        write_json(temporary / "index.json", state)
    shutil.rmtree(parts)
    log.info("%s: %d points, %.1f bytes each, %s", path.name, len(rows), size / len(rows), factory)
    return path


def index_state(path: str | Path) -> dict:
    """Factory text, points, bytes on disc, and seconds of training and adding of an index."""
    return json.loads((Path(path) / "index.json").read_text(encoding="utf-8"))


def _factory(index: str, points: int) -> str:
    if index in ("ivf", "flat"):
        return factory_for(points) if index == "ivf" else "flat"
    if not re.search(r"(^|,)IVF\d+", index):
        raise KitError(f"index='{index}' has no inverted file: {HELP}")
    return index


def _train(
    path: Path, features: Features, rows: np.ndarray, factory: str, training: Features | None
) -> None:
    import faiss

    if path.exists():
        return
    try:
        index = faiss.index_factory(128, factory)
    except RuntimeError as error:
        raise KitError(f"index='{factory}' is no text that faiss knows: {HELP}") from error
    inverted = faiss.downcast_index(faiss.extract_index_ivf(index))
    if isinstance(inverted, faiss.IndexIVFFastScan):
        raise KitError(f"index='{factory}': 'fs' codes cannot lie on disc; use 'PQ16' or the like")
    if hasattr(inverted, "do_polysemous_training"):
        inverted.do_polysemous_training = False  # half a minute for an order of codes unused here
    source = (features, rows) if training is None else (training, np.arange(training.offsets[-1]))
    lists = inverted.nlist
    if len(source[1]) < max(lists, 256):
        raise KitError(
            f"index='{factory}' has {lists} lists, but only {len(source[1])} points to learn them "
            "from: name fewer lists, or use index='flat'"
        )
    wanted = min(len(source[1]), max(PER_LIST * lists, 65_536))
    chosen = np.random.default_rng(0).choice(len(source[1]), wanted, replace=False)
    sample = source[0].descriptors_at(source[1][np.sort(chosen)])
    log.info("point index: learning %s from %d points", factory, len(sample))
    index.train(np.ascontiguousarray(sample, np.float32))
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))


def _build_shard(parts: Path, features: Features, rows: np.ndarray, start: int) -> Path:
    import faiss

    path = parts / f"{start:012d}.faiss"
    if path.exists():
        return path
    index = faiss.read_index(str(parts / "trained.faiss"))
    places = np.arange(start, min(start + SHARD, len(rows)))
    for some in np.array_split(places, max(1, len(places) // 100_000)):  # float32 takes 50 MB
        points = read_points(features, rows[some]).astype(np.float32)
        index.add_with_ids(points, some)
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))
    return path


def _merge(trained: Path, shards: list[Path], folder: Path) -> None:
    import faiss
    from faiss.contrib.ondisk import merge_ondisk

    index = faiss.read_index(str(trained))
    # The shards stay on disc; the lists are written one after the other.
    merge_ondisk(index, [str(shard) for shard in shards], str(folder / "lists.bin"))
    faiss.write_index(index, str(folder / "index.faiss"))
