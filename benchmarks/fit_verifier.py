"""Fit the weights of local verification on training photographs.

    python benchmarks/fit_verifier.py PHOTOS OUT [--queries 2000] [--seed 0]

PHOTOS is a folder of at least 100 photographs that are in no benchmark (the published weights:
2,400 photographs of Caltech-101, 1,400 of textbooks, shops, clothes and screens), OUT a folder for
the synthesised queries, the features and verifier.safetensors.
"""

import argparse
from pathlib import Path

from safetensors.numpy import save_file

from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.local.config import local_config
from iscutils.local.fit import fit_verifier
from iscutils.local.verifier import WEIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("out")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    with open_executor("processes", options.workers) as executor:
        weights = fit_verifier(
            open_folder(options.photos), options.out, local_config(), executor,
            queries=options.queries, seed=options.seed,
        )  # fmt: skip
    file = Path(options.out) / WEIGHTS.name
    save_file(weights, file)
    print(f"{file}: iscutils/local/{WEIGHTS.name} is replaced by it")


if __name__ == "__main__":
    main()
