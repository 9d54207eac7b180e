"""The compressed point index against exact search: bytes, time, and agreement of the votes.

    python benchmarks/point_index.py ../shared/bench ../shared/photos OUT [--distractors 500000]

References: those of the benchmark and points of unrelated photographs, mirrored, inverted and
jittered until there are enough. Both searches vote for the same query points. Printed is the share
of the (query, reference) pairs accepted after exact search that the compressed index gives, too,
for the published rule ("accept") and for the kit's ("top"), then times, bytes a point, and what as
many points as the challenge has (600 million) take. OUT keeps features and index, so that a second
run with other --index, --probes or --rerank is quick.
"""

import argparse
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from iscutils.files.artifacts import atomic_path
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.local import Features, LocalConfig, extract_features, local_config, read_features
from iscutils.local.nearest import NearestPoint
from iscutils.local.point_index import build_point_index, factory_for, index_state
from iscutils.local.sift import mirror_descriptors, negative_descriptors
from iscutils.local.voting import choose, count_votes, search_hits

CODE = 24  # bytes: code and number of a point
TARGET = 600_000_000  # points of the challenge's million references
JITTER = 6.0  # deviation per number; squared distance to the original about 4,600
RULES = {
    "accept": local_config("imgfp"),
    "top": local_config("imgfp", vote_rule="top", max_candidates=3, min_votes=2,
                        consistent_votes=True),
}  # fmt: skip


def add_distractors(references: Features, photos: Features, points: int, path: Path) -> Features:
    """A feature file of the references and of `points` points of photographs, if need be changed.

    Copies are mirrored, inverted, both, and so on, each point with noise of its own.
    """
    with h5py.File(references.path, "r") as file:
        old = {name: file[name][:] for name in file}
    with h5py.File(photos.path, "r") as file:
        new = {name: file[name][:] for name in ("keypoints", "descriptors", "responses")}
    rng = np.random.default_rng(0)
    offsets, ids, sizes, rows = [old["offsets"]], [old["image_names"]], [old["sizes"]], []
    copies, count = [], 0
    while count < points:
        number = len(copies)
        descriptors = mirror_descriptors(new["descriptors"]) if number & 1 else new["descriptors"]
        descriptors = negative_descriptors(descriptors) if number & 2 else descriptors
        if number:
            noise = rng.normal(0, JITTER, descriptors.shape).astype(np.float32)
            descriptors = np.clip(np.rint(descriptors + noise * (descriptors > 0)), 0, 255)
        last = int(np.searchsorted(photos.offsets, points - count))  # whole pictures
        last = min(last, len(photos))
        end = int(photos.offsets[last])
        copies.append(descriptors[:end].astype(np.uint8))
        rows.append(end)
        offsets.append(offsets[-1][-1] + photos.offsets[1 : last + 1])
        ids.append(np.array([f"{number}-{i}".encode() for i in range(last)]))
        sizes.append(photos.sizes[:last])
        count += end
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name in ("keypoints", "responses"):
            file[name] = np.concatenate([old[name], *(new[name][:end] for end in rows)])
        file["descriptors"] = np.concatenate([old["descriptors"], *copies])
        file["offsets"], file["sizes"] = np.concatenate(offsets), np.concatenate(sizes)
        file["image_names"] = np.concatenate([names.astype("S32") for names in ids])
        file["thumbnails"] = np.zeros(0, np.uint8)
        file["thumbnail_sizes"] = np.zeros((len(file["sizes"]), 2), np.int32)
        file.create_dataset("skipped", data=np.zeros((0, 3), object), dtype=h5py.string_dtype())
        file.attrs["key"] = f"{references.key}-{photos.key}-{points}"
    return read_features(path)


def accepted(hits: list, rule: LocalConfig) -> set[tuple[int, int]]:
    """(query, reference) pairs that a rule accepts in the plain or the mirrored half."""
    found: set[tuple[int, int]] = set()
    for _, half in hits:
        table = choose(count_votes(half, rule.consistent_votes), rule)
        found |= set(zip(table["query"], table["reference"], strict=True))
    return found


def timed_hits(queries: Features, references: Features, config: LocalConfig) -> tuple[list, float]:
    start = time.perf_counter()
    hits = list(search_hits(queries, references, config))
    return hits, time.perf_counter() - start


def measure(options: argparse.Namespace) -> None:
    config = local_config("imgfp", mirror_search=True)
    with open_executor("processes", options.workers) as executor:
        images = {
            "queries": open_folder(options.bench / "queries"),
            "references": open_folder(options.bench / "references"),
            "photos": open_folder(options.photos),
        }
        if options.queries:
            images["queries"] = images["queries"].subset(range(options.queries))
        wanted = min(len(images["photos"]), options.distractors // 350 + 1)
        chosen = np.random.default_rng(0).permutation(len(images["photos"]))[:wanted]
        images["photos"] = images["photos"].subset(np.sort(chosen))
        queries, references, photos = (
            read_features(
                extract_features(part, options.out / f"{name}-{len(part)}.h5", config, executor)
            )
            for name, part in images.items()
        )
        together = add_distractors(
            references, photos, options.distractors, options.out / f"all-{options.distractors}.h5"
        )
        points, asked = int(together.offsets[-1]), int(queries.offsets[-1])
        factory = factory_for(points) if options.index == "ivf" else options.index
        print(f"{points:,} reference points, {asked:,} query points, twice (mirrored); {factory}")
        if options.rebuild:
            for old in options.out.glob(f"{together.path.stem}-points-*"):
                shutil.rmtree(old)
        path = build_point_index(together, np.arange(points), options.index, executor)
    state = index_state(path)
    each = state["bytes"] / points
    exact, exact_seconds = timed_hits(queries, together, config)
    found, seconds = timed_hits(
        queries, together,
        replace(config, index=options.index, probes=options.probes, rerank=options.rerank),
    )  # fmt: skip
    rows = []
    for (_, one), (_, two) in zip(exact, found, strict=True):
        same = np.mean(one.point == two.point) if len(one.point) == len(two.point) else np.nan
        rows.append(same)
    print(f"same nearest point: {np.mean(rows):.4f} of all query points")
    for name, rule in RULES.items():
        truth, given = accepted(exact, rule), accepted(found, rule)
        print(
            f"rule {name:6s} {len(truth):6d} pairs by exact search, {len(truth & given):6d} by the "
            f"index, too: {len(truth & given) / max(1, len(truth)):.4f}; {len(given - truth)} new"
        )
    print(f"bytes a point: {each:.2f} (descriptors 128; float32 {4 * 128})")
    sample = together.descriptors(0, points), queries.descriptors(0, min(asked, 1000))
    plain = faiss_seconds(*sample) * 2 * asked / len(sample[1])
    print(
        f"search: index {seconds:.1f} s (probes {options.probes}, rerank {options.rerank}), exact "
        f"{exact_seconds:.1f} s ({exact_seconds / seconds:.1f} times as long), exact by faiss "
        f"{plain:.1f} s ({plain / seconds:.1f} times; {plain / exact_seconds:.1f} times ours)"
    )
    rates = {"exact": exact_seconds / asked / 2, "index": seconds / asked / 2}
    print(projection(state, rates, each).round(2).to_string(index=False))


def faiss_seconds(points: np.ndarray, queries: np.ndarray) -> float:
    """Seconds of a plain exact search by faiss, which takes points as float32."""
    index = NearestPoint(points, "faiss")
    start = time.perf_counter()
    index.search(queries)
    return time.perf_counter() - start


def projection(state: dict, rates: dict[str, float], each: float) -> pd.DataFrame:
    """What more points take, from the measured rates.

    Exact search grows with the points, the index with points per list; learning lists with the
    square of their number.
    """
    points, rows = state["points"], []
    for count in (points, 10_000_000, 100_000_000, TARGET):
        factory = factory_for(count) if count > points else state["factory"]
        lists, now = (int(re.search(r"IVF(\d+)", text)[1]) for text in (factory, state["factory"]))
        centroids = 4 * 128 * lists * (1.6 if "HNSW" in factory else 1)  # with the links of a graph
        size = count * CODE if count > points else points * each
        rows.append(
            {
                "points": f"{count:,}",
                "index": factory,
                "GB": (size + (centroids if count > points else 0)) / 1e9,
                "fp16 flat GB": count * 256 / 1e9,
                "descriptors GB": count * 128 / 1e9,
                "learn h": state["train_seconds"] / 3600 * (lists / now) ** 2,
                "add h": state["add_seconds"] / 3600 * count / points,
                "index ms/point": rates["index"] * 1e3 * (count / lists) / (points / now),
                "exact ms/point": rates["exact"] * 1e3 * count / points,
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", type=Path, help="references/ and queries/")
    parser.add_argument("photos", type=Path, help="a folder of other photographs")
    parser.add_argument("out", type=Path, help="features and index are kept there")
    parser.add_argument("--distractors", type=int, default=500_000, help="points")
    parser.add_argument("--queries", type=int, default=0, help="the first of them, 0 = all")
    parser.add_argument("--index", default="ivf", help="'ivf' or a faiss factory text")
    parser.add_argument("--probes", type=int, default=LocalConfig.probes)
    parser.add_argument("--rerank", type=int, default=LocalConfig.rerank)
    parser.add_argument("--rebuild", action="store_true", help="to time the build again")
    parser.add_argument("--workers", type=int, default=0)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
