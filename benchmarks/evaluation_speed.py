"""Speed of `evaluate` against a plain Python loop of the same definitions.

    python benchmarks/evaluation_speed.py [--rows 500000]

Both get the same DataFrame: 10 rows a query, one query in five with a match (the shape of a full
submission of the challenge). Prints both times and their ratio; fails when the results differ.
"""

import argparse
import time

import numpy as np
import pandas as pd

from iscutils.evaluation.metrics import bootstrap, evaluate


def make_lists(rows: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions of `rows` rows in random order, and the truth of all their queries."""
    rng = np.random.default_rng(seed)
    queries = [f"Q{i:05d}" for i in range(rows // 10)]
    references = [f"R{i:06d}" for i in rng.permutation(2 * rows)]
    predictions = pd.DataFrame(
        {
            "query_id": np.repeat(queries, 10),
            "reference_id": references[: 10 * len(queries)],
            "score": rng.random(10 * len(queries)).round(5),  # some equal scores
        }
    )
    truth = pd.DataFrame({"query_id": queries, "reference_id": ""})
    truth.loc[::5, "reference_id"] = predictions["reference_id"].to_numpy()[::50]
    lost = truth.index[::25]  # one true pair in five is not in the list
    truth.loc[lost, "reference_id"] = references[-len(lost) :]
    predictions.loc[::50, "score"] += 0.5
    return predictions.sample(frac=1, random_state=seed), truth


def plain_metrics(predictions: pd.DataFrame, truth: pd.DataFrame) -> tuple[float, ...]:
    """µAP, R@P90, recall@1, recall@10: the definitions, row by row."""
    true = set()
    for query, reference in zip(truth["query_id"], truth["reference_id"], strict=True):
        if reference:
            true.add((query, reference))
    seen, ranking, of_query = set(), [], {}
    columns = (predictions[name] for name in ("query_id", "reference_id", "score"))
    for query, reference, score in zip(*columns, strict=True):
        if not query or not reference or not np.isfinite(score) or (query, reference) in seen:
            raise ValueError(f"bad row {query}, {reference}, {score}")
        seen.add((query, reference))
        ranking.append((-score, (query, reference) in true, query))
        of_query.setdefault(query, []).append(score)
    ranking.sort()
    found = at_1 = at_10 = 0
    uap = recall_p90 = 0.0
    for place, (score, hit, query) in enumerate(ranking, 1):
        if hit:
            found += 1
            uap += found / place
            rank = sum(other >= -score for other in of_query[query]) - 1
            at_1 += rank == 0
            at_10 += rank < 10
        if found / place >= 0.9:
            recall_p90 = max(recall_p90, found / len(true))
    return uap / len(true), recall_p90, at_1 / len(true), at_10 / len(true)


def timed(function, *arguments, repeat: int = 3):
    """(best seconds, result)."""
    best = np.inf
    for _ in range(repeat):
        start = time.perf_counter()
        result = function(*arguments)
        best = min(best, time.perf_counter() - start)
    return best, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    rows = parser.parse_args().rows
    predictions, truth = make_lists(rows)
    fast, metrics = timed(evaluate, predictions, truth)
    slow, expected = timed(plain_metrics, predictions, truth)
    found = (metrics.uap, metrics.recall_at_p90, metrics.recall_at_1, metrics.recall_at_10)
    if not np.allclose(found, expected, atol=1e-12):
        raise SystemExit(f"results differ: {found} and {expected}")
    draws, _ = timed(bootstrap, predictions, truth, repeat=1)
    print(f"{rows:,} rows, µAP {metrics.uap:.6f} both ways")
    print(f"evaluate    {fast:8.3f} s")
    print(f"plain loop  {slow:8.3f} s   {slow / fast:.1f} times as long")
    print(f"bootstrap   {draws:8.3f} s   1,000 draws")


if __name__ == "__main__":
    main()
