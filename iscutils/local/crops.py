"""Crops of queries for local verification: which boxes are cut, and their points.

Boxes come from an overlay detector's file, or are fixed parts of every query.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.descriptors.boxes import (
    BOX,
    CROP_COLUMNS,
    choose_crops,
    cropped,
    operating_points,
    read_crops,
    read_detections,
    write_crops,
)
from iscutils.descriptors.parts import query_parts
from iscutils.descriptors.sets import find_detector
from iscutils.files.artifacts import Run, content_key, log, resolve
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.local.branches import Crops
from iscutils.local.config import LocalConfig
from iscutils.local.sift import MIN_SIDE
from iscutils.local.store import Features, extract_features, read_features

PRECISE, RECALL, PART = "precise", "recall", "part"
PUBLISHED_POINTS = {PRECISE: 0.55, RECALL: 0.50}  # confidences of imgFp's own detector


def find_detections(
    run: Run,
    images: ImageSet,
    executor: Executor,
    *,
    detector: str = "",
    detections: str = "",
    device: str = "auto",
) -> tuple[Path | None, Path | None]:
    """Detections of the queries and the detector that made them, (CSV, folder); None for what
    there is not.

    Args:
        run: where both may have been published, as "detections" and "detector".
        images: the queries.
        detector: "none", "train" (that of this run, which notebook 05 trains when told so), a
            folder, or RUN:detector; empty: that of this run, if any.
        detections: CSV; empty: that of this run, if any. With a detector that is named, and no
            CSV, the queries are searched with it now.
    """
    if detector == "none":
        return None, None
    own = detector in ("", "train")
    table = resolve(detections) if detections else None
    if own:
        folder = run.find("detector") if run.has("detector") and not detections else None
        if table is None and run.has("detections"):
            table = run.find("detections")
    else:
        folder = find_detector(run, detector)
    if table is None and folder is not None:
        from iscutils.detector.detect import detect  # loads the networks

        table = detect(images, folder, run.folder("detections"), executor, device=device)
    return table, folder


def crop_queries(
    query_features: Features,
    detections: str | Path | None,
    config: LocalConfig,
    out: str | Path,
    *,
    detector: str | Path | None = None,
) -> Path:
    """Choose what to crop of the queries and write `crops-<key>.csv` to a folder.

    Args:
        query_features: tells the queries and their sizes.
        detections: CSV `image_id,class,confidence,x0,y0,x1,y1`, or None: nothing was detected.
        config: `crops`, `max_crops`.
        detector: its folder, which knows its two thresholds; without it those of imgFp count.

    Returns:
        Path of a CSV `query_id,point,confidence,x0,y0,x1,y1`, one row a crop and point: "precise"
        (branch A), "recall" (branch C) or "part" (fixed ones, branch C; without a confidence).
    """
    points = operating_points(detector) if detector else PUBLISHED_POINTS
    found = read_detections(detections) if detections and config.crops != "parts" else None
    parts = config.crops != "detector"
    key = content_key(
        query_features.key, points, config.max_crops, parts,
        None if found is None else found.to_csv(index=False),
    )  # fmt: skip
    path = Path(out) / f"crops-{key}.csv"
    if path.exists():
        return path
    tables = [pd.DataFrame(columns=CROP_COLUMNS)]
    if found is not None:
        sizes = dict(
            zip(query_features.ids, map(tuple, query_features.sizes.tolist()), strict=True)
        )
        known = found[found["image_id"].isin(sizes.keys())]
        tables += [
            choose_crops(known, points[name], sizes, config.max_crops, name)
            for name in (PRECISE, RECALL)
        ]
    if parts:
        tables.append(_part_table(query_features))
    tables = [table for table in tables if len(table)] or tables[:1]
    return write_crops(pd.concat(tables, ignore_index=True), path)


def _part_table(features: Features) -> pd.DataFrame:
    """The upright parts of every query beside the whole: its centre and four tiles (D2LV)."""
    rows = []
    for name, (width, height) in zip(features.ids, features.sizes.tolist(), strict=True):
        for part in query_parts(width, height):
            sides = part.box[2] - part.box[0], part.box[3] - part.box[1]
            if not part.turn and part.box != (0, 0, width, height) and min(sides) >= MIN_SIDE:
                rows.append((name, PART, np.nan, *part.box))  # SIFT is blind to turns
    return pd.DataFrame(rows, columns=CROP_COLUMNS)


def crop_images(images: ImageSet, crops: str | Path) -> tuple[pd.DataFrame, ImageSet]:
    """Distinct crops of a file of `crop_queries`: the table of `Crops`, and them as pictures."""
    rows = read_crops(crops)
    points = rows.groupby(["query_id", *BOX], sort=False)["point"].agg(set).reset_index()
    boxes = cropped(images, points)
    table = points[["query_id", *BOX]].copy()
    table.insert(0, "picture", boxes.ids)
    table["precise"] = np.array([PRECISE in one for one in points["point"]], bool)
    table["recall"] = np.array([bool({RECALL, PART} & one) for one in points["point"]], bool)
    return table, boxes


def open_crops(
    images: ImageSet,
    crops: str | Path,
    config: LocalConfig,
    out: str | Path,
    executor: Executor,
) -> Crops | None:
    """Local features of the crops of a file of `crop_queries`; None when it lists none.

    `out` is the feature file to write; see `extract_features`.
    """
    table, pictures = crop_images(images, crops)
    if table.empty:
        log.info("no crops: branch A uses whole queries, branch C is skipped")
        return None
    return Crops(table, read_features(extract_features(pictures, out, config, executor)))
