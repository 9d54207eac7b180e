"""The pictures that the shipped weights learn from: folders of links, decided by file names.

    python benchmarks/weights_data.py PHOTOS TRAIN OUT

PHOTOS holds photographs; TRAIN holds `images/` and `sources.csv`, whose column `ship` is 1 where a
picture may be shown. A hash of the file name decides (`held_out.fold`): of TRAIN, 12 of 100 are
kept for validation; the embedded photographs were chosen among further ones that may be shown, and
what was not chosen is background, with some of the others and with 12 of 100 of PHOTOS.
OUT/train, OUT/background, OUT/embedded and OUT/validation hold links to the files.
"""

import argparse
from pathlib import Path

import pandas as pd
from held_out import SHARE, fold

from iscutils.datasets.builtin import FOLDER

SHOWN, BACKGROUND = 40, 33  # of 100, from SHARE on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("photos", "train", "out"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    sources = pd.read_csv(arguments.train / "sources.csv", dtype=str).set_index("file")
    kinds = {file: "train" for file in sorted(arguments.photos.rglob("*.jpg"))}
    kinds |= {file: "background" for file in kinds if fold(file.name) < SHARE}
    for file in sorted((arguments.train / "images").iterdir()):
        kinds[file] = part_of(file.name, sources.ship.get(file.name) == "1")
    for file, kind in kinds.items():
        place = arguments.out / kind / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(file.resolve())
    print(pd.Series(kinds).value_counts().to_string())


def part_of(name: str, may_be_shown: bool) -> str:
    """validation, embedded, background or train: what a picture of TRAIN is for."""
    number = fold(name)
    if number < SHARE:
        return "validation"
    if number >= (SHOWN if may_be_shown else BACKGROUND):
        return "train"
    return "embedded" if (FOLDER / name).exists() else "background"


if __name__ == "__main__":
    main()
