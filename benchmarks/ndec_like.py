"""What ASL is worth on hard negatives: the rows of asl_ndec.md, section 9.6, without NDEC.

    python benchmarks/ndec_like.py PHOTOS BENCHMARK OUT --start MODEL [--rows base,pairs,norm]
                                   [--epochs 4] [--steps 120] [--seed 0]

PHOTOS train (85 %; the others, by the split of notebook 03, choose tau and the soft weight).
BENCHMARK is a folder in ISC layout of other photographs; hard negatives are made of references
without a query, 49 % of all queries. MODEL is a trained descriptor to start from: RUN:teacher.
The norm loss gets a weight of 10: at this scale one of 1 is drowned by the gradients of CosFace.
Every row trains as long as the others, from the same start, with the same edited copies:

base       D2LV: classes alone
pairs      + hard negative pairs (tiles of one photograph, photographs of one category)
norm       + norm-ratio loss
direction  + plain crops among the pictures of a class (`parts`), and edited copies that count less
           than their original; the reading of 9.3 that the option `directional` stands for

Prints of each model the lists "symmetric", "filter" (tau = 1, as published) and "soft" (weight and
tau chosen on the validation set), and the area under the curve of the norm ratios.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils import training
from iscutils.artifacts import find_weights, open_run
from iscutils.datasets import open_benchmark, open_images
from iscutils.descriptors.extract import extract_several
from iscutils.edits import synthesise
from iscutils.edits.ndec_like import add_hard_negatives, hard_queries, ndec_like, read_kinds
from iscutils.edits.negatives import hard_negative_pairs
from iscutils.edits.sources import split_photographs
from iscutils.evaluation import evaluate
from iscutils.executor import open_executor
from iscutils.models import Descriptor, DescriptorConfig, load
from iscutils.retrieval import (
    by_direction,
    hard_negative_table,
    norm_ratios,
    read_norms,
    retrieve,
)
from iscutils.retrieval.direction import soften_direction
from iscutils.submissions import read_predictions

SIZE, HELD_OUT, PAIRS = 80, 0.15, 300
SCORE_NORM = "1.0[0,2]"
WEIGHTS, TAUS = (0.25, 0.5, 1.0, 2.0, 4.0), (0.8, 0.9, 1.0, 1.05, 1.1)
ROWS = {  # method, sets, whether there are pairs, options of ASL
    "base": ("d2lv", ["copies"], False, {}),
    "pairs": ("asl", ["copies", "pair_copies"], True, {"norm_weight": 0.0}),
    "norm": ("asl", ["copies", "pair_copies"], True, {}),
    "direction": ("asl", ["copies", "parts", "pair_copies"], True, {"edited": 0.7}),
}


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
    method, sets, paired, settings = ROWS[name]
    data = training.read_labelled(
        [out / part for part in sets], SIZE, out / "pixels", pool, steps=options.steps,
        pairs=out / "pairs" / "pairs.csv" if paired else None, edited=settings.get("edited", 1.0),
    )  # fmt: skip
    config = training.TrainConfig(
        epochs=options.epochs, batch_size=128, size=SIZE, rate=options.rate, seed=options.seed,
        path="labelled", views=4,
    )  # fmt: skip
    if method == "asl":
        settings = {"norm_weight": options.norm_weight, "norm_ramp": 1.0, **settings}
    model = Descriptor(DescriptorConfig(dim=load(start).dim, size=SIZE)).start_from(start)
    learner = training.choose(method, "train")(
        model, config, training.steps_of(data, config), classes=data.classes, scale=16.0,
        margin=0.1, **settings,
    )  # fmt: skip
    learner.imprint(data)
    return training.fit(learner, data, out / "models", name)


def candidates(model: Path, folder: Path, background, out: Path, pool):
    """Normalised candidates of a benchmark, ten a query, and the norms of both sides."""
    bench = open_benchmark(folder, background)
    sets = {"queries": bench.queries, "references": bench.references, "background": background}
    files = {
        kind: extract_several(
            images, {model.name: model}, [SIZE], out / "descriptors", pool,
            name=f"{folder.name}-{kind}",
        )[model.name]
        for kind, images in sets.items()
    }  # fmt: skip
    path = retrieve(
        files["queries"], files["references"], files["background"], out / "candidates",
        name=f"{folder.name}-{model.name}", score_norm=SCORE_NORM,
    )  # fmt: skip
    norms = [read_norms(files[kind]) for kind in ("queries", "references")]
    return read_predictions(path), norms, bench.ground_truth


def choose_soft(found, norms, truth) -> tuple[float, float]:
    """Weight and tau of the soft form with the best uAP."""
    ratios = norm_ratios(found, *norms)
    scored = {
        (weight, tau): evaluate(soften_direction(found, ratios, weight, tau), truth).uap
        for weight in WEIGHTS
        for tau in TAUS
    }
    return max(scored, key=scored.get)


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
    for name in ("photos", "benchmark", "out"):
        parser.add_argument(name)
    parser.add_argument("--start", required=True)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=120, help="of an epoch, 128 pictures each")
    parser.add_argument("--norm-weight", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out, photos = Path(options.out), open_images(options.photos)
    start = str(find_weights(open_run("ndec_like"), options.start))
    with open_executor("serial") as pool:
        cached, _ = training.cache_pixels(photos, SIZE, out / "pixels", pool)
        kept, held = (set(p.ids) for p in training.Pixels(cached).split(HELD_OUT, options.seed))
        ours, others = (
            photos.subset([i for i, name in enumerate(photos.ids) if name in part])
            for part in (kept, held)
        )
        make_sets(ours, out, options.seed, pool)
        test = add_hard_negatives(options.benchmark, out / "test", seed=options.seed, executor=pool)
        chosen = split_photographs(
            others, references=220, negatives=400, seed=options.seed, executor=pool
        )
        validation = ndec_like(
            chosen.references, chosen.distractors, "isc_queries", out / "validation",
            positives=110, negatives=50, seed=options.seed, executor=pool,
        )  # fmt: skip
        background = ours.subset(range(0, len(ours), 4))
        tables = []
        for name in options.rows.split(","):
            model = train(name, start, out, options, pool)
            weight, tau = choose_soft(*candidates(model, validation, background, out, pool))
            found, norms, truth = candidates(model, test, background, out, pool)
            lists = {
                f"{name}, symmetric": found,
                f"{name}, filter": by_direction(found, *norms, tau=1.0),
                f"{name}, soft {weight:g} from {tau:g}": by_direction(
                    found, *norms, tau=tau, soft=weight
                ),
            }
            tables.append(hard_negative_table(lists, truth, hard_queries(test)))
            auc, decoys, copies = ratio_auc(test, norms, truth)
            print(f"{name}: AUC {auc:.3f}; above 1: {decoys:.0%} of decoys, {copies:.0%} of copies")
            print(tables[-1].round(3).to_string(), flush=True)
    pd.concat(tables).to_csv(out / "rows.csv")


if __name__ == "__main__":
    main()
