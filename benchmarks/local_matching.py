"""Local verification on a benchmark in ISC layout: what each switch is worth, and what it costs.

    python benchmarks/local_matching.py ../shared/bench OUT [--only imgfp,verified] [--workers 0]

No descriptor takes part: candidates are those of SIFT votes (imgFp's branch B) and, in the kit's
own method, of whole pictures. Features are made once for each setting of them and kept in OUT, hits
of the votes too; what several variants propose and score alike is scored once. `--check` ends with
an error unless the published method reaches what was measured by hand on the shared bench (1,000
references, 600 queries): µAP .75 with the acceptance rule, .88 with mirrored search, .91 with the
reference of most votes, +-.02 each.
"""

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from iscutils.evaluation.metrics import evaluate
from iscutils.evaluation.submissions import read_ground_truth
from iscutils.files.artifacts import content_key, write_json
from iscutils.files.executor import Executor, open_executor
from iscutils.files.images import open_folder
from iscutils.local import (
    Features,
    LocalConfig,
    extract_features,
    local_config,
    read_features,
    score_pairs,
)
from iscutils.local.branches import PAIR
from iscutils.local.verification import final_rows
from iscutils.local.voting import search_hits, votes_of_hits
from iscutils.local.whole import whole_candidates

MIRRORED = {"mirror_search": True}
ONE = {**MIRRORED, "vote_rule": "top", "max_candidates": 1, "min_votes": 4}
THREE = {**MIRRORED, "vote_rule": "top", "max_candidates": 3, "min_votes": 2}
AFFINE = {"geometry": "affine", "tie_break": True}
VARIANTS = {
    "imgfp": local_config("imgfp"),
    "+ mirror_search": local_config("imgfp", **MIRRORED),
    "+ 1 reference of 4 votes": local_config("imgfp", **ONE),
    "+ 1 of 4 affine": local_config("imgfp", **ONE, **AFFINE),
    "+ 1 of 4 magsac": local_config("imgfp", **ONE, **AFFINE, estimator="magsac"),
    "+ 3 references of 2 votes": local_config("imgfp", **THREE),
    "+ 3 of 2 affine": local_config("imgfp", **THREE, **AFFINE),
    "kit votes count": local_config(
        geometry="none", both_directions=False, negatives=False, whole_candidates=0
    ),
    "kit votes evidence": local_config(whole_candidates=0),
    "verified": local_config(),
}
YARDSTICKS = {"imgfp": 0.75, "+ mirror_search": 0.88, "+ 1 reference of 4 votes": 0.91}
NEAR = 0.02
# What decides which pairs are scored, not how.
OF_CANDIDATES = (
    "mirror_search", "vote_points", "vote_rule", "max_candidates", "min_votes", "consistent_votes",
    "max_mean_distance", "whole_candidates", "other_candidates", "keep_zero", "rows_per_query",
)  # fmt: skip


class Bench:
    """A benchmark's folder with what was computed on it."""

    def __init__(self, data: Path, out: Path, executor: Executor):
        self.data, self.out, self.executor = data, out, executor
        self.truth = read_ground_truth(data / "ground_truth.csv")
        self.hits: dict[str, list] = {}
        self.scored: dict[str, pd.DataFrame] = {}

    def features(self, config: LocalConfig) -> list[Features]:
        """Features of queries and references; variants of equal settings share their files."""
        folder = self.out / ("stretched" if config.stretch else "plain")
        return [
            read_features(
                extract_features(
                    open_folder(self.data / part), folder / f"{part}.h5", config, self.executor
                )
            )
            for part in ("queries", "references")
        ]

    def candidates(self, features: list[Features], config: LocalConfig) -> pd.DataFrame:
        """Voted pairs, and those alike as whole pictures. Both halves are searched but once."""
        key = f"{features[0].key}-{config.vote_points}"
        if key not in self.hits:
            both = replace(config, mirror_search=True)
            self.hits[key] = list(search_hits(*features, both, folder=self.out / "hits"))
        halves = self.hits[key][: 2 if config.mirror_search else 1]
        tables = [votes_of_hits(halves, *features, config)[PAIR]]
        if config.whole_candidates:
            count = config.whole_candidates
            tables.append(whole_candidates(*features, count, config.negatives)[PAIR])
        return pd.concat(tables).drop_duplicates()

    def score(
        self, pairs: pd.DataFrame, features: list[Features], config: LocalConfig
    ) -> pd.DataFrame:
        """Scores of pairs, those taken over that another variant gave in the same way."""
        default = local_config()
        same = replace(config, **{name: getattr(default, name) for name in OF_CANDIDATES})
        key = content_key(features[0].key, asdict(same))
        known = self.scored.get(key, pd.DataFrame(columns=PAIR, dtype=object))
        new = pairs.merge(known[PAIR], how="left", on=PAIR, indicator=True)
        new = new.loc[new["_merge"] == "left_only", PAIR]
        if len(new):
            folder = self.out / "scores" / key
            scored = score_pairs(new, *features, same, self.executor, folder=folder)
            known = pd.concat([known, scored]) if len(known) else scored
            self.scored[key] = known
        return pairs[PAIR].merge(known, on=PAIR)

    def measure(self, config: LocalConfig) -> dict[str, float]:
        """Metrics of a variant, its numbers of proposals, and seconds not yet spent before."""
        start = time.perf_counter()
        features = self.features(config)
        pairs = self.candidates(features, config)
        voted = time.perf_counter()
        scored = self.score(pairs, features, config)
        table = final_rows(scored, config)
        seconds = {"candidates": voted - start, "score": time.perf_counter() - voted}
        true = len(pairs.merge(self.truth, on=PAIR))
        proposals = {"pairs": len(pairs), "wrong": len(pairs) - true, "true": true}
        return {**evaluate(table, self.truth).as_dict(), **proposals, **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--check", action="store_true", help="compare with the shared bench")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    results = {}
    with open_executor("processes", options.workers) as executor:
        bench = Bench(options.data, options.out, executor)
        for name in options.only.split(","):
            if name not in VARIANTS:
                parser.error(f"unknown variant '{name}'; known: {', '.join(VARIANTS)}")
            results[name] = bench.measure(VARIANTS[name])
            write_json(options.out / "local_matching.json", results)
    columns = ["uap", "recall_at_p90", "recall_at_1", "true", "wrong", "candidates", "score"]
    table = pd.DataFrame(results).T[columns].astype(float).round(3)
    print(
        f"{len(bench.truth)} queries, {(bench.truth['reference_id'] != '').sum()} with an original"
    )
    print(table.to_string())
    if options.check:
        check(table["uap"])


def check(uap: pd.Series) -> None:
    """Say which yardsticks are missed, and end with an error if one is."""
    missed = [
        f"{name}: {uap[name]:.3f}, not {expected} +- {NEAR}"
        for name, expected in YARDSTICKS.items()
        if name in uap and abs(uap[name] - expected) > NEAR
    ]
    if missed:
        raise SystemExit("\n".join(missed))
    print("as measured by hand: " + ", ".join(f"{k} {v}" for k, v in YARDSTICKS.items()))


if __name__ == "__main__":
    main()
