"""Extraction of a whole benchmark: every model, set and size, under the names notebooks use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iscutils.artifacts import KitError, Run, find_published, find_weights, log
from iscutils.descriptors.extract import extract_parts, extract_several, model_names
from iscutils.descriptors.reduction import learn_reduction
from iscutils.executor import Executor
from iscutils.images import ImageSet
from iscutils.models.download import KNOWN
from iscutils.preprocess import SET_VARIANTS, set_variant

QUERIES, REFERENCES, BACKGROUND = "queries", "references", "background"
CHOICES = ("whole", "d2lv")
BY_NAME = "by_name"


@dataclass(frozen=True)
class ExtractionConfig:
    """What is described, and how.

    Attributes:
        sizes: input sides in px.
        parts: "whole", or "d2lv": queries in 9 parts, regions and detections, references in 19.
        per_size: one file a size instead of the mean over sizes; always so with parts.
        variants: training set of each model (`preprocess.SET_VARIANTS`), which says how images are
            prepared; ["by_name"]: the set that is a word of its name, as in `d2lv-blur_bw-ibn`;
            empty: unchanged.
        reduce: dimensions of the whitening that is learnt from background images and applied before
            anything is stored (needs `per_size`); 0: none.
        both_ways: MODEL@SIZE whose references are cut too (for OQ+AR); empty: all. Others describe
            whole references alone.
        replace: confidence above which a detected overlay takes the place of its query.
    """

    sizes: Sequence[int]
    parts: str = "whole"
    per_size: bool = False
    variants: Sequence[str] = ()
    reduce: int = 0
    both_ways: Sequence[str] = ()
    replace: float = 1.0
    device: str = "auto"
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.parts not in CHOICES:
            raise KitError(f"parts '{self.parts}' are unknown: choose {' or '.join(CHOICES)}")
        if self.reduce and not self.separate:
            raise KitError(
                f"reduce={self.reduce} whitens the descriptors of one size: set per_size=True, or "
                "0 and whiten in retrieval"
            )

    @property
    def separate(self) -> bool:
        """Whether every size has a file of its own."""
        return self.per_size or self.parts != "whole"

    @property
    def options(self) -> dict[str, str | int]:
        return {"device": self.device, "batch_size": self.batch_size}


def find_models(run: Run, names: Sequence[str]) -> dict[str, str | Path]:
    """Models by the names under which this run, or another (RUN:NAME), published them.

    Names of published weights, such as `sscd_disc_mixup`, stand for themselves.
    """
    if not names:
        raise KitError("no model to extract with: name those that notebooks 01, 03 and 04 made")
    return {
        name: name if name in KNOWN and not run.has(name) else find_published(run, name)
        for name in names
    }


def find_detector(run: Run, name: str) -> Path:
    """A detector's folder: published by this run as `name`, by another as RUN:NAME, or a path."""
    found = Path(find_weights(run, name) or "")
    if not found.is_dir():
        raise KitError(
            f"detector '{name}' is no folder, and nothing that a run published: give 'none', "
            "'train', RUN:detector, or the folder of one"
        )
    return found


def extract_sets(
    sets: Mapping[str, ImageSet],
    models: Mapping[str, str | Path],
    config: ExtractionConfig,
    out: str | Path,
    executor: Executor,
    detections: str | Path | None = None,
) -> dict[tuple[str, str], Path]:
    """Describe queries, references and background images with every model.

    Args:
        sets: images by kind: "queries", "references", "background".
        models: model folders by name.
        detections: CSV of the boxes found on the queries; None: there is no detector.

    Returns:
        Files by (label, kind); the label is the model's name, followed by `@<size>` where every
        size has a file.
    """
    _check_both_ways(models, config)
    files: dict[tuple[str, str], Path] = {}
    training_sets = _training_sets(models, config)
    labels = dict(zip(model_names(list(models.values())), models, strict=True))  # by folder
    codecs = None
    if config.reduce:
        codecs = learn_reduction(
            sets[BACKGROUND], list(models.values()), config.sizes, out, executor,
            dimensions=config.reduce, **config.options,
            variants={name: set_variant(training_sets[labels[name]], "") for name in labels},
        )  # fmt: skip
    for kind, images in sets.items():
        found = detections if kind == QUERIES else None
        variants = {model: set_variant(name, kind) for model, name in training_sets.items()}
        if not config.separate:
            described = extract_several(
                images, models, config.sizes, out, executor, name=kind, variants=variants,
                detections=found if config.replace < 1 else None, replace=config.replace,
                **config.options,
            )  # fmt: skip
            files |= {(model, kind): path for model, path in described.items()}
            continue
        for (parts, sizes), group in _groups(models, kind, config).items():
            described = extract_parts(
                images, [models[model] for model in group], sizes, out, executor, parts=parts,
                variants={name: variants[model] for name, model in labels.items()},
                reduce=codecs, detections=found, name=kind, **config.options,
            )  # fmt: skip
            for (name, size), path in described.items():
                files[f"{labels[name]}@{size}", kind] = path
    return files


def _check_both_ways(models: Mapping[str, str | Path], config: ExtractionConfig) -> None:
    """A wrong model is an error; a size that is not described, as in short runs, a warning."""
    for label in config.both_ways:
        model, _, size = label.rpartition("@")
        if model not in models:
            raise KitError(
                f"both_ways names '{label}': write MODEL@SIZE, the model one of {', '.join(models)}"
            )
        if size not in map(str, config.sizes):
            log.warning("both_ways names %s, but sizes are %s: ignored", label, config.sizes)


def _training_sets(models: Mapping[str, str | Path], config: ExtractionConfig) -> dict[str, str]:
    if not config.variants:
        return dict.fromkeys(models, "base")  # prepared as they are
    if list(config.variants) == [BY_NAME]:
        return {model: _set_in(model) for model in models}
    if len(config.variants) != len(models):
        raise KitError(
            f"{len(config.variants)} variants for {len(models)} models: name the training set of "
            f"each model, of none, or ['{BY_NAME}']"
        )
    return dict(zip(models, config.variants, strict=True))


def _set_in(model: str) -> str:
    """The training set among the words of a model's name, "base" if there is none."""
    words = re.split(r"[-:/]", model)
    return next((word for word in words if word in SET_VARIANTS), "base")


def _groups(
    models: Sequence[str] | Mapping[str, str | Path], kind: str, config: ExtractionConfig
) -> dict[tuple[str, tuple[int, ...]], list[str]]:
    """Models that describe a set in the same parts at the same sizes, by (parts, sizes)."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for model in models:
        for parts, sizes in _parts_and_sizes(model, kind, config).items():
            groups.setdefault((parts, tuple(sizes)), []).append(model)
    return groups


def _parts_and_sizes(model: str, kind: str, config: ExtractionConfig) -> dict[str, list[int]]:
    """Sizes at which a model describes a set in the parts "query", "reference" or "whole"."""
    if config.parts == "whole" or kind == BACKGROUND:
        return {"whole": list(config.sizes)}
    if kind == QUERIES:
        return {"query": list(config.sizes)}
    wanted = [size for size in config.sizes
              if not config.both_ways or f"{model}@{size}" in config.both_ways]  # fmt: skip
    others = [size for size in config.sizes if size not in wanted]
    return {name: sizes for name, sizes in (("reference", wanted), ("whole", others)) if sizes}
