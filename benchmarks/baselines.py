"""What a user would pick instead of the kit, measured on a folder in ISC layout.

    python benchmarks/baselines.py FOLDER [--out baselines.json] [--only pdq,phash,sift]

Rows: PDQ (256 bits) and pHash (64 bits), score = minus the Hamming distance; PDQ with the eight
hashes of the turned and mirrored query, the nearest one counting; SIFT: the strongest points of a
query, plain and mirrored, vote for the reference of their nearest point, and the five references of
most votes are scored by their ratio-test matches, as published by imgFp and without the kit's own
improvements. Hash candidates are the 10 x queries best pairs of all. Needs pdqhash and imagehash.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pdqhash

from iscutils.evaluation.metrics import check_truth, evaluate
from iscutils.evaluation.submissions import read_ground_truth
from iscutils.files.artifacts import KitError, write_json
from iscutils.files.executor import Executor, open_executor
from iscutils.files.images import ImageError, ImageSet, open_folder
from iscutils.local.config import LocalConfig, local_config
from iscutils.local.pair_score import best_matches
from iscutils.local.store import Features, extract_features, read_features
from iscutils.local.voting import vote
from iscutils.retrieval import search

HASH_SIDE = 512  # px; hashes look at far fewer, and JPEGs decode faster to a smaller size
VOTING_POINTS = 100  # strongest SIFT points of an image; the cost grows with its square
RESCORED = 5  # references per query
COLUMNS = ["uap", "recall_at_p90", "recall_at_1", "candidate_recall", "queries", "positives"]


def pdq_bits(image) -> np.ndarray:
    """PDQ hash of a PIL RGB image, (1, 256) of 0 and 1."""
    return pdqhash.compute(np.asarray(image))[0][None]


def pdq_dihedral_bits(image) -> np.ndarray:
    """PDQ hashes of the image in its eight turns and mirrors, (8, 256)."""
    return np.stack(pdqhash.compute_dihedral(np.asarray(image))[0])


def phash_bits(image) -> np.ndarray:
    """pHash of a PIL RGB image, (1, 64)."""
    return imagehash.phash(image).hash.reshape(1, 64)


def _bits(images: ImageSet, bits: Callable, i: int) -> np.ndarray | None:
    try:
        return bits(images.load(i, min_side=HASH_SIDE))
    except ImageError:
        return None


def hash_all(images: ImageSet, bits: Callable, executor: Executor) -> tuple[np.ndarray, list[str]]:
    """Hashes (M, bits) of all readable images as -1 and 1, with the image id of each row."""
    rows, ids = [], []
    found = executor.map(partial(_bits, images, bits), range(len(images)), chunk=16)
    for image_id, hashes in zip(images.ids, found, strict=True):
        if hashes is not None:
            rows.append(hashes)
            ids += [image_id] * len(hashes)
    return 2 * np.concatenate(rows).astype(np.float32) - 1, ids


def hash_baseline(
    queries: ImageSet,
    references: ImageSet,
    executor: Executor,
    *,
    query_bits: Callable,
    reference_bits: Callable,
) -> pd.DataFrame:
    """Candidates by Hamming distance: an inner product of signs is bits - 2 distances."""
    query_rows, query_ids = hash_all(queries, query_bits, executor)
    reference_rows, reference_ids = hash_all(references, reference_bits, executor)
    listed = search(query_rows, reference_rows, query_ids, reference_ids)
    return listed.assign(score=(listed["score"] - query_rows.shape[1]) / 2)


def _count_matches(
    queries: Features, references: Features, config: LocalConfig, pair: tuple[int, int]
) -> int:
    matches, _ = best_matches(queries.load(pair[0]), references.load(pair[1]), config)
    return len(matches)


def sift_baseline(queries: ImageSet, references: ImageSet, executor: Executor) -> pd.DataFrame:
    """Candidates by votes of SIFT points, score = number of ratio-test matches (all points)."""
    config = local_config(
        "imgfp",
        mirror_search=True,
        vote_rule="top",
        max_candidates=RESCORED,
        min_votes=1,
        vote_points=VOTING_POINTS,
    )
    with tempfile.TemporaryDirectory() as folder:
        query_features, reference_features = (
            read_features(extract_features(images, Path(folder) / name, config, executor))
            for images, name in ((queries, "queries.h5"), (references, "references.h5"))
        )
        voted = vote(query_features, reference_features, config)
        listed = voted.sort_values(["query_id", "votes"], ascending=[True, False], kind="stable")
        listed = listed.groupby("query_id").head(RESCORED)
        query_rows, reference_rows = query_features.index(), reference_features.index()
        pairs = [
            (query_rows[query], reference_rows[reference])
            for query, reference in zip(listed["query_id"], listed["reference_id"], strict=True)
        ]
        count = partial(_count_matches, query_features, reference_features, config)
        scores = list(executor.map(count, pairs, desc="SIFT matches", chunk=16))
    return listed[["query_id", "reference_id"]].assign(score=scores)


BASELINES = {
    "pdq": ("PDQ", partial(hash_baseline, query_bits=pdq_bits, reference_bits=pdq_bits)),
    "pdq-turned": (
        "PDQ, query turned and mirrored",
        partial(hash_baseline, query_bits=pdq_dihedral_bits, reference_bits=pdq_bits),
    ),
    "phash": ("pHash", partial(hash_baseline, query_bits=phash_bits, reference_bits=phash_bits)),
    "sift": (f"SIFT, {VOTING_POINTS} points vote, {RESCORED} rescored", sift_baseline),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="references/ queries/ ground_truth.csv")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--only", default=",".join(BASELINES), help="names, comma separated")
    parser.add_argument("--workers", type=int, default=0, help="processes, 0 = all cores")
    arguments = parser.parse_args()
    unknown = set(arguments.only.split(",")) - BASELINES.keys()
    if unknown:
        parser.error(
            f"unknown baseline {', '.join(sorted(unknown))}: choose {', '.join(BASELINES)}"
        )
    try:
        results = measure(arguments.folder, arguments.only.split(","), arguments.workers)
    except KitError as error:
        raise SystemExit(f"error: {error}") from error
    table = pd.DataFrame(results).T
    print(table.to_string(float_format="%.4f"))
    if arguments.out:
        write_json(arguments.out, {"folder": arguments.folder.name, "baselines": results})


def measure(folder: Path, names: list[str], workers: int) -> dict[str, dict]:
    """{row name: metrics and seconds} of the chosen baselines."""
    queries, references = open_folder(folder / "queries"), open_folder(folder / "references")
    truth = read_ground_truth(folder / "ground_truth.csv")
    check_truth(truth, queries.ids, references.ids)
    results = {}
    with open_executor("processes", workers) as executor:
        for name in names:
            title, run = BASELINES[name]
            start = time.perf_counter()
            listed = run(queries, references, executor)
            metrics = evaluate(listed, truth).as_dict()
            seconds = time.perf_counter() - start
            results[title] = {column: metrics[column] for column in COLUMNS} | {"seconds": seconds}
    return results


if __name__ == "__main__":
    main()
