"""Local verification on a benchmark in ISC layout: accuracy of each switch, and time of each step.

    python benchmarks/local_matching.py ../shared/bench OUT [--only imgfp,verified] [--workers 0]

The expected values on the shared bench (1,000 references, 600 queries) are those of the published
method as measured by hand: uAP .75 with the acceptance rule, .88 with mirrored search, +-.02 each.
"""

import argparse
import time
from pathlib import Path

import pandas as pd

from iscutils.artifacts import write_json
from iscutils.evaluation import candidate_recall, evaluate
from iscutils.executor import open_executor
from iscutils.images import open_folder
from iscutils.local import (
    extract_features,
    find_candidates,
    local_config,
    read_features,
    score_pairs,
    vote,
)
from iscutils.local.verification import final_rows
from iscutils.submissions import read_ground_truth, read_predictions

MIRRORED = {"mirror_search": True}
TOP = {**MIRRORED, "vote_rule": "top"}
VARIANTS = {
    "imgfp": local_config("imgfp"),
    "imgfp + mirrored": local_config("imgfp", **MIRRORED),
    "imgfp + top 1 of 4 votes": local_config("imgfp", **TOP),
    "imgfp + top 1 of 4 votes + affine": local_config(
        "imgfp", **TOP, geometry="affine", tie_break=True
    ),
    "kit votes + count": local_config(
        geometry="none", both_directions=False, negatives=False, whole_candidates=0
    ),
    "kit votes + affine": local_config(geometry="affine", negatives=False, whole_candidates=0),
    "kit votes + evidence": local_config(whole_candidates=0),
    "verified": local_config(),
}


def measure(
    name: str, data: Path, out: Path, executor, candidates: pd.DataFrame | None
) -> dict[str, float]:
    config, seconds = VARIANTS[name], {}
    start = time.perf_counter()
    # Variants of equal feature settings share their files.
    folder = out / ("stretched" if config.stretch else "plain")
    features = [
        read_features(
            extract_features(open_folder(data / part), folder / f"{part}.h5", config, executor)
        )
        for part in ("queries", "references")
    ]
    seconds["extract"] = time.perf_counter() - start
    start = time.perf_counter()
    key = "-".join(map(str, (config.mirror_search, config.vote_rule, config.vote_points)))
    votes_file = folder / f"votes-{key}-{config.max_candidates}.csv"
    if votes_file.exists():
        votes = pd.read_csv(votes_file)
    else:
        votes = vote(*features, config)
        votes.to_csv(votes_file, index=False)
    seconds["vote"] = time.perf_counter() - start
    start = time.perf_counter()
    pairs = find_candidates(*features, config, candidates, votes=votes)
    table = final_rows(score_pairs(pairs, *features, config, executor), config)
    seconds["score"] = time.perf_counter() - start
    truth = read_ground_truth(data / "ground_truth.csv")
    result = evaluate(table, truth).as_dict()
    recall = candidate_recall(pairs[["query_id", "reference_id"]].assign(score=0.0), truth)
    return {**result, "candidate_recall": recall, "pairs": len(pairs), **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--candidates", help="CSV of a global descriptor, added to all variants")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    candidates = read_predictions(options.candidates) if options.candidates else None
    results = {}
    with open_executor("processes", options.workers) as executor:
        for name in options.only.split(","):
            if name not in VARIANTS:
                parser.error(f"unknown variant '{name}'; known: {', '.join(VARIANTS)}")
            results[name] = measure(name, options.data, options.out, executor, candidates)
            write_json(options.out / "local_matching.json", results)
    columns = ["uap", "recall_at_p90", "recall_at_1", "candidate_recall", "pairs", "extract",
               "vote", "score"]  # fmt: skip
    print(pd.DataFrame(results).T[columns].astype(float).round(3).to_string())


if __name__ == "__main__":
    main()
