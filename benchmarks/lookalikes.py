"""Look-alikes that are no copies, and true copies of some: which pairs verification calls likely.

    python benchmarks/lookalikes.py FOLDER [--workers 0]

FOLDER holds a folder for each family of look-alikes, no two pictures of which are copies, and
`true.csv` (query, reference: files relative to FOLDER). All pairs of a family are scored, and those
of `true.csv`. `iscutils.edits.lookalike_sets` draws such folders.
"""

import argparse
from functools import partial
from itertools import combinations
from pathlib import Path

import pandas as pd
from PIL import Image

from iscutils.files.executor import Executor, open_executor
from iscutils.files.images import image_files
from iscutils.local import local_config
from iscutils.local.matching import match_pair
from iscutils.local.sift import ImageFeatures, extract_image

LIKELY = 0.5
CONFIG = local_config()


def features_of(file: str) -> ImageFeatures:
    with Image.open(file) as image:
        return extract_image(image.convert("RGB"), CONFIG)


def score(features: dict[str, ImageFeatures], pair: tuple[str, str]) -> float:
    return match_pair(*(features[file] for file in pair), CONFIG).score


def scored(pairs: list[tuple[str, str]], executor: Executor) -> pd.DataFrame:
    """Columns query, reference, score of pairs of files."""
    files = sorted({file for pair in pairs for file in pair})
    features = dict(zip(files, executor.map(features_of, files, desc="points"), strict=True))
    scores = list(executor.map(partial(score, features), pairs, desc="pairs"))
    return pd.DataFrame(pairs, columns=["query", "reference"]).assign(score=scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    truth = pd.read_csv(options.folder / "true.csv", dtype=str)
    copies = {str(options.folder / query) for query in truth["query"]}
    with open_executor("processes", options.workers) as executor:
        for family in sorted(path for path in options.folder.iterdir() if path.is_dir()):
            files = [str(file) for file in image_files(family) if str(file) not in copies]
            if len(files) > 1:
                table = scored(list(combinations(files, 2)), executor)
                wrong = (table["score"] >= LIKELY).sum()
                print(
                    f"{family.name}: {wrong} of {len(table)} pairs at {LIKELY} or more, "
                    f"highest {table['score'].max():.3f}"
                )
        names = truth[["query", "reference"]].map(lambda name: str(options.folder / name))
        table = scored(list(names.itertuples(index=False, name=None)), executor)
    found = (table["score"] >= LIKELY).sum()
    print(f"true: {found} of {len(table)} at {LIKELY} or more, lowest {table['score'].min():.3f}")
    for row in table[table["score"] < LIKELY].itertuples():
        print(f"  {row.score:.3f} {row.query}")


if __name__ == "__main__":
    main()
