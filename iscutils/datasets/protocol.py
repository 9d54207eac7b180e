"""What a result has to say of itself, and the strict rules of the challenge.

Strict (docs/evaluation.md, section 3): a pair's score may use its two images and training images
only. Nothing is learnt from queries or references, and the background shares no image with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from iscutils.datasets.benchmark import Benchmark
from iscutils.datasets.leaks import check_leaks
from iscutils.files.artifacts import KitError, log

# A model tuned on one of these has seen the truth of all splits beside it.
OVERLAPS = {
    "dev": {"dev", "dev1", "dev2", "subset_1"},
    "dev1": {"dev", "dev1", "subset_1"},
    "dev2": {"dev", "dev2"},
    "subset_1": {"dev", "dev1", "subset_1"},
}
TESTS = ("ndec", "copydays")  # data sets without a split to develop on


def check_strict(
    benchmark: Benchmark, fitted_on: Mapping[str, str] | None = None, *, strict: bool = True
) -> dict[str, Any]:
    """Check the strict rules; return what the row of results says of them.

    Args:
        benchmark: its background is compared with queries and references by file content.
        fitted_on: what each learning step learnt from, such as {"codec": "background"}.
        strict: False only warns, and the row of results says so.

    Raises:
        KitError: with `strict`, a shared image, or a step that learnt from something else.
    """
    broken = {name: what for name, what in (fitted_on or {}).items() if what != "background"}
    if broken:
        said = ", ".join(f"{name} on {what}" for name, what in broken.items())
        text = f"learnt from other images than the background: {said}"
        if strict:
            raise KitError(
                f"{text}; the strict rules allow training images only: fit on the background, or "
                "pass strict=False"
            )
        log.warning(text)
    shared = {}
    for name in ("queries", "references"):
        sets = {"background": benchmark.background, name: getattr(benchmark, name)}
        shared |= check_leaks(sets, strict=strict)
    return {"strict": strict, "rules kept": not (broken or shared)}


def tuned_on(model: str | Path) -> list[str]:
    """The data that a model was tuned on: `tuned_on` of its `metrics.json` or `config.json`.

    A text or a list of texts, such as "disc21-dev1"; [] where the folder says nothing. Nothing in
    the kit learns from the truth of a benchmark, so no training writes it: write it into
    `metrics.json` of a model that you tuned by such labels, or that was published so.
    """
    found: list[str] = []
    for name in ("config.json", "metrics.json"):
        path = Path(model) / name
        try:
            value = json.loads(path.read_text(encoding="utf-8")).get("tuned_on") or []
        except (OSError, ValueError, AttributeError):
            continue
        found += [value] if isinstance(value, str) else map(str, value)
    return list(dict.fromkeys(found))


def check_tuning(models: Iterable[str | Path], benchmark: Benchmark) -> list[str]:
    """Warn of each model that was tuned on the split it is scored on; return the warnings.

    The published price of it: 94.8 against 77.4 (lyakaap), 89.8 against 84.7 (imgFp).
    """
    warnings = []
    for model in models:
        for name in tuned_on(model):
            if _same_data(name, benchmark.name):
                text = (
                    f"{Path(model).name} was tuned on {name} and is scored on {benchmark.name}: "
                    "the result says little about other images; report another split"
                )
                log.warning(text)
                warnings.append(text)
    return warnings


def _same_data(tuned: str, scored: str) -> bool:
    """Whether two names such as "disc21-dev" and "disc21-dev1" share queries."""
    (data, _, part), (other, _, other_part) = tuned.partition("-"), scored.partition("-")
    return tuned == scored or (data == other == "disc21" and other_part in OVERLAPS.get(part, ()))


def is_test(benchmark: Benchmark) -> bool:
    """Whether nothing may be chosen by the benchmark's truth: the test of DISC21, NDEC, Copydays.

    All else may be a validation split, such as dev2 or photographs of one's own.
    """
    return benchmark.notes.get("split") == "test" or benchmark.notes.get("data") in TESTS


def result_row(benchmark: Benchmark, **settings: Any) -> dict[str, Any]:
    """What stands beside a metric: split, counts, hash of the truth, then `settings`.

    Give as settings the candidate rule, rows used, codec, score_norm, resize, model and strict
    (docs/evaluation.md, section 3). Numbers of other rows compare only if these agree.
    """
    notes = {name: value for name, value in benchmark.notes.items() if name != "summary"}
    return {"benchmark": benchmark.name} | notes | settings
