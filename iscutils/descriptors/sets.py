"""Extraction of a whole benchmark: every model, set and size, under the names notebooks use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iscutils.descriptors.extract import (
    OWN_RESIZE,
    check_resize,
    extract_parts,
    extract_several,
    model_names,
)
from iscutils.descriptors.parts import check_ways
from iscutils.descriptors.reduction import learn_reduction
from iscutils.descriptors.store import write_descriptors
from iscutils.files.artifacts import KitError, Run, find_local, log
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.files.prepare import SET_VARIANTS, set_variant
from iscutils.models import (
    find_model,
    is_shipped,
    load,
    model_key,
    shipped_background,
    shipped_sizes,
)

QUERIES, REFERENCES, BACKGROUND = "queries", "references", "background"
CHOICES = ("whole", "d2lv")
AUTO = "auto"
BY_NAME = "by_name"
FEW_REFERENCES = 200  # so many have their parts described in passing, in half a minute of one core


@dataclass(frozen=True)
class ExtractionConfig:
    """What is described, and how.

    Attributes:
        sizes: input sides in px; empty: each model's own, see `own_sizes`.
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
        background: "auto": a model that comes with the kit brings its own background descriptors
            and is described at their sizes, the others have the images of the set; "images": all
            have those, at `sizes`.
        precision: "32", "bf16" for half the time, or "auto": what is fast, see `extract`.
        resize: "squash" to squares, "short" side to the size, as evaluations of SSCD do; "model":
            as each was trained.
        ways: in which queries are described, see `parts.WAYS`; empty: as a whole.
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
    precision: str = "32"
    background: str = AUTO
    resize: str = OWN_RESIZE
    ways: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.parts not in CHOICES:
            raise KitError(f"parts '{self.parts}' are unknown: choose {' or '.join(CHOICES)}")
        check_resize(self.resize)
        if self.background not in (AUTO, "images"):
            raise KitError(f"background '{self.background}' is unknown: choose {AUTO} or images")
        if check_ways(self.ways) not in ((), ("whole",)) and self.separate:
            raise KitError(
                f"ways={list(self.ways)} describe queries at all sizes together: set ways=[], or "
                "parts=whole and per_size=False"
            )
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
        return {
            "device": self.device, "batch_size": self.batch_size, "precision": self.precision,
            "resize": self.resize,
        }  # fmt: skip


def find_models(run: Run, names: Sequence[str]) -> dict[str, Path]:
    """Folders or files of models, by the names that were given; see `models.find_model`."""
    if not names:
        raise KitError("no model to extract with: name those that notebooks 01, 03 and 04 made")
    return {name: find_model(name, run) for name in names}


def find_detector(run: Run, name: str) -> Path:
    """A detector's folder: published by this run as `name`, by another as RUN:NAME, or a path."""
    found = find_local(name, run)
    if found is None or not found.is_dir():
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
    own = own_sizes(models, config)
    brought = {name: models[name] for name in with_background(models, config)}
    files = shipped_backgrounds(brought, out)
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
            asked = [model for model in models if (model, kind) not in files]
            for sizes in {tuple(own.get(model, config.sizes)): None for model in asked}:
                group = [model for model in asked if tuple(own.get(model, config.sizes)) == sizes]
                described = extract_several(
                    images, {model: models[model] for model in group}, sizes, out, executor,
                    name=kind, variants=variants, replace=config.replace,
                    ways=config.ways if kind == QUERIES else (),
                    detections=found if config.replace < 1 else None, **config.options,
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


def own_sizes(models: Mapping[str, str | Path], config: ExtractionConfig) -> dict[str, list[int]]:
    """Sizes in px of those models that are not described at `config.sizes`, by name.

    Those that bring a background are described as it was; without `config.sizes` all at their own.
    """
    chosen = models if not config.sizes else with_background(models, config)
    return {
        name: shipped_sizes(models[name]) if is_shipped(models[name]) else [load(models[name]).size]
        for name in chosen
    }


def with_background(models: Mapping[str, str | Path], config: ExtractionConfig) -> list[str]:
    """Names of the models whose shipped background is used.

    Parts, single sizes and other ways to resize need a background made in the same way: then there
    are none.
    """
    if config.background != AUTO or config.separate or config.resize != OWN_RESIZE:
        return []
    return [name for name, folder in models.items() if is_shipped(folder)]


def shipped_backgrounds(
    models: Mapping[str, str | Path], out: str | Path
) -> dict[tuple[str, str], Path]:
    """Files of the background descriptors that come with shipped models, as of `extract_sets`."""
    files = {}
    for name, folder in models.items():
        vectors, sizes = shipped_background(folder)
        path = Path(out) / f"{BACKGROUND}-shipped-{model_key(folder)}.h5"
        ids = [f"background-{i:05d}" for i in range(len(vectors))]
        files[name, BACKGROUND] = write_descriptors(path, vectors, ids, sizes=sizes, skipped=[])
    return files


def extract_parts_of_few(
    sets: Mapping[str, ImageSet],
    models: Mapping[str, str | Path],
    name: str,
    config: ExtractionConfig,
    out: str | Path,
    executor: Executor,
    detections: str | Path | None = None,
) -> dict[tuple[str, str], Path]:
    """Describe small sets part by part too, to see what parts are worth before all models do so.

    Args:
        name: of the model that does it, at the smallest of the sizes.
        config: of the other descriptors; the rest as `extract_sets`.

    Returns:
        Files as `extract_sets`; none where `name` is no model, the references are more than
        `FEW_REFERENCES`, or `config` has parts of all models already.
    """
    if name not in models or len(sets[REFERENCES]) > FEW_REFERENCES or config.parts != "whole":
        return {}
    sizes = config.sizes or own_sizes({name: models[name]}, config)[name]
    own = ExtractionConfig([min(sizes)], "d2lv", **config.options)
    return extract_sets(sets, {name: models[name]}, own, out, executor, detections)


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
