"""What the descriptors that come with the kit are worth, on a folder in ISC layout.

    python benchmarks/shipped.py FOLDER OUT [--models release-256] [--verified 200]

One run, Markdown tables: what a user would pick instead (`baselines.py`); each model's own
scores, the same normalised, and whitened and normalised, with the background that it brings; the
queries asked in several ways; then local verification of a shortlist of each query: its ten best
candidates, and those that points vote for within the list.
Then what each way adds, recall by edit, and images a second from files to descriptors on all cores.
Finished work is kept in OUT.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
from baselines import BASELINES, measure

from iscutils.datasets import open_benchmark, open_images
from iscutils.datasets.benchmark import Benchmark
from iscutils.descriptors import parts
from iscutils.descriptors.sets import ExtractionConfig, extract_sets
from iscutils.evaluation.metrics import by_edit, evaluate, join_truth
from iscutils.evaluation.submissions import read_predictions
from iscutils.files.artifacts import KitError
from iscutils.files.executor import Executor, open_executor
from iscutils.find import LIKELY, SCORE_NORM, WAYS, nearest, points_of, settings_of
from iscutils.find import verified as checked
from iscutils.models import load, shipped_folder, shipped_names, shipped_sizes
from iscutils.retrieval import retrieve, ways_ladder
from iscutils.run.packing import markdown

ROWS = 10  # a query, of every list
COLUMNS = ["uap", "recall_at_p90", "recall_at_1", "candidate_recall"]


def lists_of(
    name: str, benchmark: Benchmark, out: Path, executor: Executor, verified: int
) -> dict[str, pd.DataFrame]:
    """Ranked pairs of a shipped model: as it is, normalised, in ways, after local verification."""
    sets = {"queries": benchmark.queries, "references": benchmark.references}
    files = described(name, benchmark, out, executor)
    plain = dict(codec="L2norm,Flat", score_norm=SCORE_NORM)
    white = plain | {"codec": f"PCAW{load(name).dim},L2norm,Flat"}
    whole = {"raw": {}, "normalised": plain, "whitened and normalised": white}
    steps = {step: options | {"whole": True} for step, options in whole.items()}
    steps["in several ways"] = white | {"ways": WAYS}
    found = {
        f"{name}, {step}": read_predictions(retrieve(*files, out, name=f"{name} {step}", **options))
        for step, options in steps.items()
    }
    near, _ = nearest(sets, name, verified, out, executor)
    local = settings_of(verified, ROWS)
    features = points_of(sets, local, out, executor)
    rows = checked(features, near, local, out, executor)
    return found | {f"{name}, {verified} candidates, verified": rows}


def described(name: str, benchmark: Benchmark, out: Path, executor: Executor) -> list[Path]:
    """Descriptors of queries in all ways, of references and of the model's background."""
    sets = {"queries": benchmark.queries, "references": benchmark.references}
    config = ExtractionConfig(shipped_sizes(name), precision="auto", ways=list(parts.WAYS))
    files = extract_sets(sets, {name: shipped_folder(name)}, config, out, executor)
    return [files[name, kind] for kind in (*sets, "background")]


def of_ways(
    name: str, benchmark: Benchmark, out: Path, executor: Executor, count: int
) -> pd.DataFrame:
    """What each way of asking adds to those before it, and to the `count` candidates of a query."""
    files = described(name, benchmark, out, executor)
    codec = f"PCAW{load(name).dim},L2norm,Flat"
    options = dict(candidates=count, codec=codec, score_norm=SCORE_NORM)
    return ways_ladder(files, out, benchmark.ground_truth, list(parts.WAYS), **options)


def of_likely(rows: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    """Precision and recall of verified pairs that are more likely copies than not."""
    pairs = join_truth(rows, truth)
    hits = pairs.hit[pairs.score >= LIKELY]
    return {
        "precision": round(float(hits.mean()), 3),
        "recall": round(float(hits.sum() / pairs.positives.sum()), 3),
    }


def images_a_second(name: str, benchmark: Benchmark, out: Path, executor: Executor) -> float:
    """Of the references, from files to descriptors; the first few warm the processes up."""
    config = ExtractionConfig(shipped_sizes(name), precision="auto", background="images")
    for turn, images in enumerate((benchmark.queries.subset(range(64)), benchmark.references)):
        start = time.perf_counter()
        extract_sets({"queries": images}, {name: shipped_folder(name)}, config,
                     out / f"speed-{time.time_ns()}-{turn}", executor)  # fmt: skip
    return len(images) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="references/ queries/ ground_truth.csv")
    parser.add_argument("out", type=Path, help="folder of descriptors and features")
    parser.add_argument("--models", default=",".join(shipped_names()), help="comma separated")
    parser.add_argument("--baselines", default=",".join(BASELINES), help="names, or none")
    parser.add_argument(
        "--verified", type=int, default=200, help="candidates a query that points vote among"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes, 0 = all cores")
    arguments = parser.parse_args()
    try:
        report(arguments)
    except KitError as error:
        raise SystemExit(f"error: {error}") from error


def report(arguments: argparse.Namespace) -> None:
    """Measure and print everything."""
    benchmark = open_benchmark(arguments.folder, open_images("builtin", limit=1))
    truth = benchmark.ground_truth
    names = [name for name in arguments.baselines.split(",") if name in BASELINES]
    results = measure(arguments.folder, names, arguments.workers)
    edits, likely, speeds, gains = {}, {}, {}, {}
    with open_executor("processes", arguments.workers) as executor:
        for name in arguments.models.split(","):
            lists = lists_of(name, benchmark, arguments.out, executor, arguments.verified)
            results |= {label: evaluate(rows, truth).as_dict() for label, rows in lists.items()}
            for label, rows in list(lists.items())[1:]:
                table = by_edit(rows, truth, benchmark.edits).set_index("edit")
                edits[label] = table.recall_at_p90_threshold
            gains[name] = of_ways(name, benchmark, arguments.out, executor, arguments.verified)
            likely[name] = of_likely(list(lists.values())[-1], truth)
            speeds[name] = images_a_second(name, benchmark, arguments.out, executor)
    table = pd.DataFrame(results).T[COLUMNS].astype(float)
    print(f"{truth.query_id.nunique()} queries, {int((truth.reference_id != '').sum())} positives, "
          f"{len(benchmark.references)} references, {ROWS} rows a query\n")  # fmt: skip
    print(markdown(table, "list"), "\n")
    for name, gain in gains.items():
        print(f"{name}, one way to ask more at a time:\n")
        print(markdown(gain.set_index("step"), "way"), "\n")
    print(markdown(pd.DataFrame(edits), "edit"), "\n")
    print(f"verified pairs of a score of {LIKELY} and more:", likely)
    print({name: f"{speed:.0f} images a second" for name, speed in speeds.items()})


if __name__ == "__main__":
    main()
