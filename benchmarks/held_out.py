"""A benchmark to choose weights by: photographs and edits that training leaves out.

    python benchmarks/held_out.py PHOTOS OUT [--recipe unseen] [--references 330]
                                  [--positives 320] [--negatives 280] [--seed 0]

PHOTOS is a folder of training photographs. Those whose file name's hash is below 12 of 100
(`held_out`) are kept from training: 330 of them become references, the others make the queries
without an original and lend compositions their pictures. OUT is a folder in ISC layout, the same
for any number of workers. With --exclude FILE, the names of all kept photographs are written there,
one a line, so that a training run can leave them out.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from iscutils.edits.synthesis import synthesise_queries
from iscutils.files.artifacts import KitError, write_text
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder

SHARE = 12  # of 100 photographs


def fold(name: str) -> int:
    """A number 0 to 99 that the file name of a photograph decides, such as "book_02000.jpg"."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100


def held_out(name: str) -> bool:
    """Whether training leaves out the photograph of this file name."""
    return fold(name) < SHARE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of training photographs")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--recipe", default="unseen", help="of the queries' edits")
    parser.add_argument("--references", type=int, default=330)
    parser.add_argument("--positives", type=int, default=320, help="queries with an original")
    parser.add_argument("--negatives", type=int, default=280, help="queries without one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes, 0 = all cores")
    parser.add_argument("--exclude", type=Path, help="write the kept photographs' names here")
    arguments = parser.parse_args()
    try:
        print(make(arguments))
    except KitError as error:
        raise SystemExit(f"error: {error}") from error


def make(arguments: argparse.Namespace) -> Path:
    """Make the benchmark and return its folder."""
    photos = open_folder(arguments.photos)
    kept = [i for i in range(len(photos)) if held_out(photos.path(i).name)]
    if len(kept) < arguments.references + arguments.negatives:
        raise KitError(
            f"{arguments.photos} has {len(kept)} photographs that training leaves out, fewer than "
            f"{arguments.references} references and {arguments.negatives} negatives: give a larger "
            "folder or smaller numbers"
        )
    if arguments.exclude:
        write_text(arguments.exclude, "".join(f"{photos.path(i).name}\n" for i in kept))
    order = np.random.default_rng(arguments.seed).permutation(kept)
    references, others = np.split(order, [arguments.references])
    with open_executor("processes", arguments.workers) as executor:
        return synthesise_queries(
            photos.subset(sorted(references.tolist())), photos.subset(sorted(others.tolist())),
            arguments.recipe, arguments.out, positives=arguments.positives,
            negatives=arguments.negatives, seed=arguments.seed, executor=executor,
        )  # fmt: skip


if __name__ == "__main__":
    main()
