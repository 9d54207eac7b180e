"""What ASL is worth on hard negatives: the rows of docs/systems/asl.md, section 9, without NDEC.

    python benchmarks/ndec_like.py PHOTOS OUT --start MODEL [--benchmark FOLDER]
                                   [--rows base,edited] [--epochs 12] [--steps 120] [--seed 0]

85 % of PHOTOS train. The others, by the split of notebook 03, become two NDEC-like sets of their
own photographs: a third validates (weight and tau of the soft form are chosen there), the others
test. With --benchmark, a folder in ISC layout of photographs from elsewhere, hard negatives are
made of its references without a query, and it is a second test. MODEL is a trained descriptor to
start from: RUN:teacher, best one trained on the same 85 %.
Every row trains as long as the others, from the same start, on the same pictures: edited copies and
plain crops of the photographs.

base       D2LV: classes alone
norm       ASL: + norm-ratio loss
edited     the same, and an edited copy counts less than its original, also one that shows all of it
pairs      norm + hard negative pairs (tiles of one photograph, photographs of one category)

Each is used on whole images, and on parts of queries and references as D2LV does: there decoys cost
most, since the whole picture's middle or tile is the very crop among the references. The norms are
the model's own, and those of the other rows for the lists of the first one: the filter as published
takes a finished list of any method. Prints for each the lists "symmetric", "filter" (at tau = 1, as
published, and at the tau best on the validation set) and "soft", and the area under the curve of
the norm ratios.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils import training
from iscutils.datasets import open_benchmark, open_images
from iscutils.descriptors.extract import extract_parts
from iscutils.edits import synthesise
from iscutils.edits.ndec_like import add_hard_negatives, hard_queries, ndec_like, read_kinds
from iscutils.edits.negatives import hard_negative_pairs
from iscutils.edits.sources import split_photographs
from iscutils.evaluation.metrics import evaluate
from iscutils.files.artifacts import open_run
from iscutils.files.executor import open_executor
from iscutils.models import Descriptor, DescriptorConfig, find_model, load
from iscutils.retrieval import (
    MergeConfig,
    by_direction,
    cap,
    hard_negative_table,
    merge,
    norm_ratios,
    read_norms,
    read_sides,
    search_models,
    search_whole,
)
from iscutils.retrieval.direction import filter_direction, soften_direction
from iscutils.retrieval.part_files import PartFiles

SIZE, HELD_OUT, PAIRS = 80, 0.15, 300
CODEC, SCORE_NORM = "PCAW256,L2norm,Flat", "1.0[0,2]"
WHOLE = MergeConfig(False, 0.0, "", 0.0, False, penalty_references=0.0)
# The published sides of parts hold for inputs of 256 px; one network has no one to vote with.
PARTS = MergeConfig(vote=False, smallest=0.3)
WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
TAUS = (0.7, 0.8, 0.9, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.6)
ROWS = {  # method, sets beside copies and parts, options of ASL
    "base": ("d2lv", [], {}),
    "norm": ("asl", [], {}),
    "edited": ("asl", [], {"edited": 0.7}),
    "pairs": ("asl", ["pair_copies"], {}),
}
# Shares of the held-out photographs: references, queries with and without an original.
SHARES = {"references": 0.42, "positives": 0.3, "negatives": 0.14}


def make_sets(photos, out: Path, seed: int, pool) -> None:
    """The labelled sets of all rows."""
    recipe = "small/copies"
    synthesise(photos, recipe, 5, out / "copies", seed=seed, executor=pool)
    synthesise(photos, "small/parts", 3, out / "parts", seed=seed + 1, executor=pool)
    pairs = hard_negative_pairs(
        photos, "ndec_negatives", PAIRS, out / "pairs", seed=seed, executor=pool
    )
    pieces = open_images(pairs / "images")
    synthesise(pieces, recipe, 5, out / "pair_copies", seed=seed + 2, executor=pool)


def train(name: str, start: str, out: Path, options, pool) -> Path:
    method, more, settings = ROWS[name]
    data = training.read_labelled(
        [out / part for part in ("copies", "parts", *more)], SIZE, out / "pixels", pool,
        steps=options.steps, edited=settings.get("edited", 1.0),
        pairs=out / "pairs" / "pairs.csv" if more else None,
    )  # fmt: skip
    config = training.TrainConfig(
        epochs=options.epochs, batch_size=128, size=SIZE, rate=options.rate, seed=options.seed,
        path="labelled", views=4,
    )  # fmt: skip
    if method == "asl":
        settings = {"norm_weight": options.norm_weight, "norm_ramp": 0.0, **settings}
    model = Descriptor(DescriptorConfig(dim=load(start).dim, size=SIZE)).start_from(start)
    learner = training.choose(method, "train")(
        model, config, training.steps_of(data, config), classes=data.classes, scale=16.0,
        margin=0.1, **settings,
    )  # fmt: skip
    learner.imprint(data)
    return training.fit(learner, data, out / "models", name)


def held_out_sets(others, out: Path, seed: int, pool) -> dict[str, Path]:
    """NDEC-like sets "validation" and "test" of photographs of their own."""
    order = np.random.default_rng([seed, 6]).permutation(len(others))
    third = len(others) // 3
    made = {}
    for name, chosen in (("validation", order[:third]), ("test", order[third:])):
        counts = {kind: round(share * len(chosen)) for kind, share in SHARES.items()}
        sources = split_photographs(
            others.subset(sorted(chosen.tolist())), references=counts["references"],
            negatives=len(chosen) - counts["references"] - 2, seed=seed, executor=pool,
        )  # fmt: skip
        made[name] = ndec_like(
            sources.references, sources.distractors, "isc_queries", out / name,
            positives=counts["positives"], negatives=counts["negatives"], seed=seed, executor=pool,
        )  # fmt: skip
    return made


def candidates(model: Path, folder: Path, background, out: Path, pool):
    """Lists on whole images and on parts, ten rows a query; norms of both sides, and the truth."""
    bench = open_benchmark(folder, background)
    sets = {
        "queries": (bench.queries, "query"),
        "references": (bench.references, "reference"),
        "background": (background, "whole"),
    }
    files = {}
    for kind, (images, parts) in sets.items():
        name = "background" if kind == "background" else f"{folder.name}-{kind}"
        made = extract_parts(
            images, [model], [SIZE], out / "descriptors", pool, parts=parts, name=name
        )
        (files[kind],) = made.values()
    own = PartFiles("base", model.name, SIZE, **files)
    options = {"codec": CODEC, "score_norm": SCORE_NORM}
    tables = out / "tables" / f"{folder.name}-{model.name}"
    sides = read_sides(own.queries)
    *_, whole = search_whole([own], tables, **options).values()
    lists = {
        "whole": merge([whole], sides, WHOLE)[0],
        "parts": merge(search_models([own], tables, **options), sides, PARTS)[0],
    }
    lists = {use: cap(found, 10 * len(bench.queries)) for use, found in lists.items()}
    norms = [read_norms(files[kind]) for kind in ("queries", "references")]
    return lists, norms, bench.ground_truth


def choose(found, norms, truth) -> tuple[float, float, float]:
    """Tau of the filter, weight and tau of the soft form, each with the best µAP."""
    ratios = norm_ratios(found, *norms)
    filtered = {tau: evaluate(filter_direction(found, ratios, tau), truth).uap for tau in TAUS}
    soft = {
        (weight, tau): evaluate(soften_direction(found, ratios, weight, tau), truth).uap
        for weight in WEIGHTS
        for tau in TAUS
    }
    return max(filtered, key=filtered.get), *max(soft, key=soft.get)


def compare(title: str, lists, norms, folder: Path, truth, chosen) -> pd.DataFrame:
    """Print and return the rows of `hard_negative_table` with and without the direction."""
    auc, decoys, copies = ratio_auc(folder, norms, truth)
    print(f"{title}: AUC {auc:.3f}; above 1: {decoys:.0%} of decoys, {copies:.0%} of copies")
    stages = {}
    for use, rows in lists.items():
        best, weight, tau = chosen[use]
        stages |= {
            f"{title}, {use}, symmetric": rows,
            f"{title}, {use}, filter 1": by_direction(rows, *norms, tau=1.0),
            f"{title}, {use}, filter {best:g}": by_direction(rows, *norms, tau=best),
            f"{title}, {use}, soft {weight:g} from {tau:g}": by_direction(
                rows, *norms, tau=tau, soft=weight
            ),
        }
    table = hard_negative_table(stages, truth, hard_queries(folder))
    print(table.round(3).to_string(), flush=True)
    return table


def ratio_auc(folder: Path, norms, truth) -> tuple[float, float, float]:
    """Area under the curve of decoys' against true pairs' ratios, and the shares above 1."""
    queries, references = norms
    kinds = read_kinds(folder)
    decoys = np.array(
        [queries[q] / references[f"crop_of_{q}"] for q in kinds.index[kinds == "decoy"]]
    )
    true = truth[truth.reference_id != ""].to_numpy()
    copies = np.array([queries[q] / references[r] for q, r in true])
    above = np.sign(decoys[:, None] - copies[None, :])
    return float((above.mean() + 1) / 2), float((decoys > 1).mean()), float((copies > 1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("photos", "out"):
        parser.add_argument(name)
    parser.add_argument("--start", required=True)
    parser.add_argument("--benchmark", default="")
    parser.add_argument("--rows", default="base,edited")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=120, help="of an epoch, 128 pictures each")
    parser.add_argument("--norm-weight", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out, photos = Path(options.out), open_images(options.photos)
    start = str(find_model(options.start, open_run("ndec_like")))
    with open_executor("serial") as pool:
        cached, _ = training.cache_pixels(photos, SIZE, out / "pixels", pool)
        kept, held = (set(p.ids) for p in training.Pixels(cached).split(HELD_OUT, options.seed))
        ours, others = (
            photos.subset([i for i, name in enumerate(photos.ids) if name in part])
            for part in (kept, held)
        )
        make_sets(ours, out, options.seed, pool)
        folders = held_out_sets(others, out, options.seed, pool)
        if options.benchmark:
            folders["benchmark"] = add_hard_negatives(
                options.benchmark, out / "benchmark", seed=options.seed, executor=pool
            )
        for name, folder in folders.items():
            print(name, read_kinds(folder).value_counts().to_dict())
        background = ours.subset(range(0, len(ours), 4))
        tables, first, names = [], {}, options.rows.split(",")
        for name in names:
            model = train(name, start, out, options, pool)
            found = {
                split: candidates(model, folder, background, out, pool)
                for split, folder in folders.items()
            }
            pairings = [(name, found)]
            if first:
                pairings.append((f"{names[0]} by norms of {name}", first))
            for title, lists in pairings:
                norms = {split: own for split, (_, own, _) in found.items()}
                rows, _, truth = lists["validation"]
                chosen = {
                    use: choose(rows[use], norms["validation"], truth) for use in ("whole", "parts")
                }
                tables += [
                    compare(
                        f"{title}, {split}", lists[split][0], norms[split], folder, lists[split][2],
                        chosen,
                    )
                    for split, folder in folders.items()
                ]  # fmt: skip
            first = first or found
    pd.concat(tables).to_csv(out / "rows.csv")


if __name__ == "__main__":
    main()
