"""What starts often must start fast: worker processes without torch, reports without Lightning."""

import subprocess
import sys

import pytest

WORKERS = (  # modules of the functions that an executor maps
    "iscutils.files.images",
    "iscutils.files.prepare",
    "iscutils.datasets.check",
    "iscutils.descriptors.hashes",
    "iscutils.descriptors.parts",
    "iscutils.edits",
    "iscutils.edits.decoded",
    "iscutils.edits.ndec_like",
    "iscutils.edits.negatives",
    "iscutils.local",
    "iscutils.local.fit",
    "iscutils.detector.scaled",
)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (WORKERS, "torch"),
        (("iscutils.__main__", "iscutils.report.page", "iscutils.figures"), "torch"),
        (("iscutils.find", "iscutils.retrieval"), "lightning"),
    ],
    ids=["workers", "report", "find"],
)
def test_heavy_libraries_are_left_alone(modules, heavy):
    code = f"import sys, {', '.join(modules)}; print({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_every_figure_of_the_package_is_found():
    from iscutils import figures

    assert all(callable(getattr(figures, name)) for name in figures.__all__)
