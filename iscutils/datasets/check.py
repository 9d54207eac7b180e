"""Look at a data set before a long run: what was found, what is missing, what cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from iscutils.datasets.benchmark import READERS, is_isc_layout, open_benchmark, open_images
from iscutils.datasets.layouts import Found, parse_spec
from iscutils.files.artifacts import KitError, is_note
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet, remark

MANY = 0.5  # share of unreadable images of a sample from which on a set is of no use
SHOWN = 5  # ids named in full


@dataclass
class Checked:
    """Result of `check`: lines for a person, and why the data cannot be used (empty: they can)."""

    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def check(data: str, executor: Executor, *, sample: int = 100) -> Checked:
    """Open a data set, count it, and decode a sample of each part, evenly over its ids.

    `data` is an official data set (`disc21:DIR`), a folder in ISC layout, or a folder of images.
    `sample` images of each part are decoded, 0: all. Never raises for bad data: that is what
    `errors` is for. Incomplete data are remarks, not errors.
    """
    checked = Checked()
    try:
        parts = _open(data, checked)
    except KitError as error:
        checked.errors.append(str(error))
        return checked
    for name, images in parts.items():
        _look(name, images, executor, sample, checked)
    return checked


def _open(data: str, checked: Checked) -> dict[str, ImageSet]:
    """The parts of the data; what there is to say about them goes to `checked`."""
    spec = parse_spec(data)
    if spec is not None:
        reader = READERS[spec.kind]
        found = reader.read(spec)
        _remark(found, checked)
        parts = {"queries": found.queries, "references": found.references}
        if found.places.get("training"):
            parts["training images"] = reader.training(spec)
        return parts
    if not is_isc_layout(data):
        images = open_images(data)
        checked.lines.append(f"{data}: {len(images)} images, no benchmark (no queries/ beside)")
        return {"images": images}
    benchmark = open_benchmark(data, require_truth=False)
    notes = benchmark.notes
    checked.lines.append(
        f"{data}: {notes['queries']} queries, {notes['references']} references, "
        f"{notes['positives']} true pairs"
    )
    if benchmark.ground_truth is None:
        checked.lines.append("remark: no ground truth: search works, metrics do not")
    return {"queries": benchmark.queries, "references": benchmark.references}


def _remark(found: Found, checked: Checked) -> None:
    checked.lines.append(found.notes["summary"])
    checked.lines += [f"remark: {problem}" for problem in found.problems]
    if found.missing:
        more = f" and {len(found.missing) - SHOWN} more" if len(found.missing) > SHOWN else ""
        checked.lines.append(f"missing: {', '.join(found.missing[:SHOWN])}{more}")
    if not found.problems:
        checked.lines.append("complete: all counts are those of the published data")


def _look(name: str, images: ImageSet, executor: Executor, sample: int, checked: Checked) -> None:
    """Decode a sample of one part."""
    count = min(sample or len(images), len(images))
    part = images.subset(i * len(images) // count for i in range(count))
    reasons = list(executor.map(partial(remark, part), range(count), desc=name, chunk=8))
    said = [(part.ids[i], reason) for i, reason in enumerate(reasons) if reason]
    bad, noted = ([row for row in said if is_note(row[1]) == note] for note in (False, True))
    how = "all" if count == len(images) else f"a sample of {count}"
    checked.lines.append(f"{name}: {len(images)}, decoded {how}, {len(bad)} unreadable")
    checked.lines += [f"unreadable: {identity}: {reason}" for identity, reason in bad[:SHOWN]]
    checked.lines += [f"noted: {identity}: {reason}" for identity, reason in noted[:SHOWN]]
    left_out = getattr(images, "left_out", ())
    checked.lines += [f"left out: {path}: {reason}" for path, reason in left_out[:SHOWN]]
    if len(bad) > MANY * count:
        checked.errors.append(
            f"{len(bad)} of {count} {name} cannot be read, such as {bad[0][0]} ({bad[0][1]}): "
            "download or unpack them again"
        )
