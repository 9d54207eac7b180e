"""How good a detector's boxes are: precision, recall, average precision, operating points.

Tables are those of `iscutils.descriptors.boxes`; a table of truths has no confidence.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_iou

from iscutils.descriptors.boxes import BOX, OVERLAY, fits_rules

START_POINTS = {"precise": 0.55, "recall": 0.50}  # published by imgFp, of another network
FALSE_FIRES = {"precise": 0.02, "recall": 0.15}  # most pictures without overlay that may fire
RIGHT_SHARE = 0.95  # of the boxes kept at the precise point


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes, (N, 4) and (M, 4) -> (N, M) float64."""
    first, second = (torch.tensor(np.asarray(part, float)) for part in (boxes, others))
    return box_iou(first.reshape(-1, 4), second.reshape(-1, 4)).numpy()


def match_boxes(
    detections: pd.DataFrame, truth: pd.DataFrame, kind: str = OVERLAY, least: float = 0.5
) -> pd.DataFrame:
    """The detections of a class by falling confidence, with a column `right` (bool).

    In that order each takes the true box of its picture and class that it overlaps most, among
    those not taken yet; it is right if their intersection over union is at least `least`.
    """
    found = detections[detections["class"] == kind]
    found = found.sort_values("confidence", ascending=False, kind="stable").reset_index(drop=True)
    boxes = truth[truth["class"] == kind]
    real = {name: rows[BOX].to_numpy(float) for name, rows in boxes.groupby("image_id")}
    right = np.zeros(len(found), bool)
    for name, rows in found.groupby("image_id"):
        if name not in real:
            continue
        overlap = iou(rows[BOX].to_numpy(float), real[name])  # (detections, truths)
        for i, place in enumerate(rows.index):
            best = int(overlap[i].argmax())
            if overlap[i, best] >= least:
                right[place] = True
                overlap[:, best] = -1
    return found.assign(right=right)


def precision_recall(
    detections: pd.DataFrame, truth: pd.DataFrame, kind: str = OVERLAY, least: float = 0.5
) -> pd.DataFrame:
    """Precision and recall of a class after each detection, by falling confidence."""
    matched = match_boxes(detections, truth, kind, least)
    hits = matched["right"].cumsum().to_numpy()
    total = int((truth["class"] == kind).sum())
    return pd.DataFrame(
        {
            "confidence": matched["confidence"],
            "precision": hits / np.arange(1, len(hits) + 1),
            "recall": hits / max(1, total),
        }
    )


def average_precision(
    detections: pd.DataFrame, truth: pd.DataFrame, kind: str = OVERLAY, least: float = 0.5
) -> float:
    """Area under the precision-recall curve of a class, 0..1; nan without any true box.

    All-point interpolation (PASCAL VOC since 2010): at each recall the highest precision of that
    recall or more.
    """
    if not (truth["class"] == kind).any():
        return float("nan")
    curve = precision_recall(detections, truth, kind, least)
    highest = np.maximum.accumulate(curve["precision"].to_numpy()[::-1])[::-1]
    return float((np.diff(curve["recall"].to_numpy(), prepend=0.0) * highest).sum())


def measure_points(
    detections: pd.DataFrame, truth: pd.DataFrame, sizes: Mapping[str, tuple[int, int]]
) -> pd.DataFrame:
    """What each threshold would mean, lowest first; the last one keeps nothing.

    Columns: threshold; false_fires, share of the pictures without overlay in which a box is kept;
    right, share of the kept boxes with an intersection over union of 0.5 with a true overlay (1
    where none is kept); recall, share of the true overlays that are found.
    """
    found = detections[detections["class"] == OVERLAY]
    shape = np.array([sizes[name] for name in found["image_id"]], float).reshape(-1, 2)
    kept = match_boxes(found[fits_rules(found[BOX].to_numpy(float), shape)], truth)
    boxes = truth[truth["class"] == OVERLAY]
    empty = set(sizes) - set(boxes["image_id"])
    # The first detection of a picture without overlay is the one that fires.
    fires = kept["image_id"].isin(empty) & ~kept["image_id"].duplicated()
    number = np.arange(1, len(kept) + 1)
    measured = pd.DataFrame(
        {
            "confidence": kept["confidence"],
            "false_fires": fires.cumsum() / max(1, len(empty)),
            "right": kept["right"].cumsum() / number,
            "recall": kept["right"].cumsum() / max(1, len(boxes)),
        }
    )
    # Confidences above a threshold count: below each confidence lies the next one's.
    measured = measured[~measured["confidence"].duplicated(keep="last")]
    next_lower = measured["confidence"].shift(-1).fillna(0.0)
    none = pd.DataFrame([[measured["confidence"].max() if len(measured) else 1.0, 0.0, 1.0, 0.0]],
                        columns=["threshold", "false_fires", "right", "recall"])  # fmt: skip
    rows = measured.assign(threshold=next_lower)[none.columns]
    parts = [part for part in (rows.iloc[::-1], none) if len(part)]
    return pd.concat(parts, ignore_index=True)


def choose_points(
    detections: pd.DataFrame, truth: pd.DataFrame, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, float]:
    """Two thresholds for cropping, chosen on pictures whose boxes are known.

    precise: the lowest at which at most 2 % of the pictures without overlay fire and 95 % of the
    kept boxes are right. recall: the lowest with at most 15 % false fires. Boxes are kept by the
    rules of `fits_rules`. A detector that is never that good gets a threshold that keeps nothing.
    Without pictures that show no overlay it is .55 and .50, the published ones.
    """
    if not set(sizes) - set(truth.loc[truth["class"] == OVERLAY, "image_id"]):
        return dict(START_POINTS)
    measured = measure_points(detections, truth, sizes)
    quiet = {name: measured["false_fires"] <= share for name, share in FALSE_FIRES.items()}
    quiet["precise"] &= measured["right"] >= RIGHT_SHARE
    return {name: float(measured.loc[fits, "threshold"].iloc[0]) for name, fits in quiet.items()}
