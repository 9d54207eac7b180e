"""Data of the match browser in the report: verdicts, threshold curve, thumbnails, drawings."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from iscutils.evaluation.pairs import true_pairs
from iscutils.figures import plots
from iscutils.files.artifacts import KitError
from iscutils.files.images import ImageError, ImageSet, decode_noted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from iscutils.datasets import Benchmark

VERDICTS = ("correct", "wrong", "distractor", "missed", "unknown")
# Shown and exported when present.
EXTRA_COLUMNS = ("reason", "inliers", "mirrored", "similarity", "coverage", "agreement")
FRAME_COLUMNS = ("query_frame", "reference_frame")  # of an animation, counted from 0; else missing
GEOMETRY = [f"h{row}{column}" for row in range(3) for column in range(3)]

# (query_id, reference_id) -> query_points (M, 2), reference_points (M, 2), inliers (M,) bool,
# homography (3, 3) reference px -> query px or None; all in pixels of the original images.
DrawPair = Callable[[str, str], Mapping[str, Any]]


def judge(matches: pd.DataFrame, ground_truth: pd.DataFrame | None) -> pd.DataFrame:
    """Matches with a `verdict`, followed by the true pairs that the list lacks ("missed").

    correct: a true pair; wrong: the query has originals, but this is none of them; distractor: it
    has no original at all; unknown: there is no ground truth. A query with several originals has a
    verdict on each of them. Rows are sorted by score
    (falling), query id, reference id; missed pairs have no score (NaN) and stand last.
    """
    rows = matches.sort_values(
        ["score", "query_id", "reference_id"], ascending=[False, True, True], ignore_index=True
    )
    if ground_truth is None:
        return rows.assign(verdict="unknown")
    positives = true_pairs(ground_truth)
    truth = set(positives.itertuples(index=False, name=None))
    answered = set(positives["query_id"])
    pairs = list(zip(rows["query_id"], rows["reference_id"], strict=True))
    rows["verdict"] = [
        "correct" if pair in truth else "wrong" if pair[0] in answered else "distractor"
        for pair in pairs
    ]
    missed = pd.DataFrame(sorted(truth - set(pairs)), columns=["query_id", "reference_id"])
    if missed.empty:
        return rows
    return pd.concat([rows, missed.assign(verdict="missed")], ignore_index=True)


def fates(true: pd.DataFrame) -> dict[str, list[str]]:
    """What became of each original of a query: {"Q1": ["R1 (correct, 0.93)", "R2 (missed)"]}.

    `true` are rows of `judge` with the verdicts correct and missed.
    """
    found: dict[str, list[str]] = {}
    columns = ["query_id", "reference_id", "score", "verdict"]
    rows = true.sort_values(columns[:2])[columns].itertuples(index=False, name=None)
    for query, reference, score, verdict in rows:
        fate = verdict if verdict == "missed" else f"{verdict}, {score:.4g}"
        found.setdefault(query, []).append(f"{reference} ({fate})")
    return found


def worst_alarms(judged: pd.DataFrame, count: int) -> pd.DataFrame:
    """The `count` best-scored rows of `judge` that are no true pairs."""
    return judged[judged["verdict"].isin(["wrong", "distractor"])].head(count)


def worst_misses(judged: pd.DataFrame, count: int) -> pd.DataFrame:
    """True pairs that are not in the list, then those with the lowest scores, `count` in all."""
    true = judged[judged["verdict"].isin(["missed", "correct"])]
    return true.sort_values("score", na_position="first", kind="stable").head(count)


def pairs_picture(rows: pd.DataFrame, benchmark: Benchmark, *, ax: Axes | None = None) -> Axes:
    """Pairs of `judge`, one a column: the query above the reference, framed by the verdict.

    Green: a true pair, red: none, gray: unknown. An image that cannot be read is left gray.
    """
    if rows.empty:
        ax = plots.new_axes(ax, 3, 0.5, grid="none")
        ax.set_axis_off()
        ax.text(0, 0.5, "no such pair", va="center", color=plots.NEUTRAL)
        return ax
    colours = {"correct": plots.TRUE, "missed": plots.TRUE, "unknown": plots.NEUTRAL}
    sides = []
    for images, column in ((benchmark.queries, "query_id"), (benchmark.references, "reference_id")):
        index = {name: i for i, name in enumerate(images.ids)}
        sides.append([_load(images, index.get(name)) for name in rows[column]])
    scores = ["not listed" if pd.isna(score) else f"{score:.4g}" for score in rows["score"]]
    titles = [f"{name}\n{s}" for name, s in zip(rows["query_id"], scores, strict=True)]
    titles += [f"\n{name}" for name in rows["reference_id"]]
    frames = [None] * len(rows) + [colours.get(v, plots.WRONG) for v in rows["verdict"]]
    return plots.image_grid([*sides[0], *sides[1]], titles, columns=len(rows), frames=frames, ax=ax)


def _load(images: ImageSet, i: int | None) -> Image.Image:
    try:
        return Image.new("RGB", (64, 64), "lightgray") if i is None else images.load(i, 200)
    except ImageError:
        return Image.new("RGB", (64, 64), "lightgray")


def threshold_curve(rows: pd.DataFrame, keep: float | None = None, points: int = 2000) -> dict:
    """How many rows, and how many correct ones, have at least each score (falling scores).

    Returns lists `score`, `rows`, `hits`. Beyond `points` distinct scores, evenly spaced ones are
    kept, the ends and the score nearest to `keep` among them.
    """
    scored = rows[rows["verdict"] != "missed"]
    correct = (scored["verdict"] == "correct").to_numpy()
    score = scored["score"].to_numpy(np.float64)
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.cumsum(correct[order])
    last = np.flatnonzero(np.append(score[1:] != score[:-1], len(score) > 0))  # of each score
    if len(last) > points:
        chosen = np.linspace(0, len(last) - 1, points).round().astype(int)
        if keep is not None:
            chosen = np.append(chosen, np.abs(score[last] - keep).argmin())
        last = last[np.unique(chosen)]
    return {
        "score": score[last].tolist(),
        "rows": (last + 1).tolist(),
        "hits": hits[last].tolist(),
    }


def choose_pictured(verdicts: Sequence[str], limit: int) -> list[int]:
    """Positions of at most `limit` rows that get pictures: the first of each verdict in turn."""
    rank = pd.Series(list(verdicts)).groupby(list(verdicts)).cumcount().to_numpy()
    return sorted(np.argsort(rank, kind="stable")[:limit].tolist())


def browser_data(
    matches: pd.DataFrame,
    benchmark: Benchmark,
    *,
    draw_pair: DrawPair | None = None,
    threshold: float | None = None,
    max_thumbnails: int = 200,
    max_rows: int = 20_000,
    side: int = 240,
) -> dict[str, Any]:
    """Everything the match browser shows, as JSON-able values.

    `max_thumbnails` pairs get pictures of at most `side` pixels; beyond `max_rows` matches only
    the best are listed, while the threshold's numbers still count all. `threshold` is where the
    slider starts.
    """
    judged = judge(matches, benchmark.ground_truth)
    curve = threshold_curve(judged, keep=threshold)
    missed = judged["verdict"] == "missed"
    listed = judged[missed | (np.arange(len(judged)) < max_rows)].reset_index(drop=True)
    extras = [name for name in (*EXTRA_COLUMNS, *FRAME_COLUMNS) if name in listed]
    true = judged[judged["verdict"].isin(["correct", "missed"])]
    pictured = choose_pictured(listed["verdict"], max_thumbnails)
    pictures = _Pictures(benchmark, side)
    drawings = {}
    for position in tqdm(pictured, desc="thumbnails", disable=len(pictured) < 20):
        drawings[position] = pictures.draw(listed.iloc[position], draw_pair)
    queries = set(listed["query_id"])
    return {
        "columns": ["query_id", "reference_id", "score", *extras],
        "rows": [
            [*(_plain(value) for value in values[:-1]), VERDICTS.index(values[-1])]
            for values in listed[
                ["query_id", "reference_id", "score", *extras, "verdict"]
            ].itertuples(index=False, name=None)
        ],
        "verdicts": VERDICTS,
        "edits": {
            query: benchmark.edits[query] for query in sorted(queries & set(benchmark.edits))
        },
        "truth": fates(true[true["query_id"].isin(queries)]),
        "positives": None if benchmark.ground_truth is None else len(true),
        "curve": curve,
        "threshold": threshold,
        "total": len(judged),
        "pictures": pictures.encoded,
        "drawings": drawings,
    }


def _plain(value: Any) -> Any:
    """A JSON-able scalar; NaN and other missing values become None."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


class _Pictures:
    """Thumbnails by image, encoded once however many pairs show them."""

    def __init__(self, benchmark: Benchmark, side: int) -> None:
        self.side = side
        self.sets: dict[str, ImageSet] = {"q": benchmark.queries, "r": benchmark.references}
        self.index = {
            kind: {name: i for i, name in enumerate(images.ids)}
            for kind, images in self.sets.items()
        }
        self.sizes: dict[str, tuple[int, int] | None] = {}  # original width, height
        self.encoded: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, name: str, frame: Any = None) -> tuple[int, int] | None:
        """Encode one picture; its original (width, height), or None where it cannot be read."""
        frame = _plain(frame)
        key = f"{kind}:{name}" + (f"#frame={frame}" if frame else "")
        if key not in self.sizes:
            try:
                if name not in self.index[kind]:
                    raise ImageError("no picture of this id in the data")
                # In full, not drafted: drawings are given in pixels of the original.
                images, i = self.sets[kind], self.index[kind][name]
                image = decode_noted(images.path(i), frame=frame)[0] if frame else images.load(i)
                self.sizes[key] = image.size
                self.encoded[key] = encode_thumbnail(image, self.side)
            except ImageError as error:
                self.sizes[key] = None
                self.encoded[key] = {"error": str(error)}
        return self.sizes[key]

    def draw(self, row: pd.Series, draw_pair: DrawPair | None) -> dict[str, Any]:
        """Normalised drawing of one pair: inlier points and both outlines, where known."""
        query, reference = row["query_id"], row["reference_id"]
        query_size = self.add("q", query, row.get("query_frame"))
        reference_size = self.add("r", reference, row.get("reference_frame"))
        if query_size is None or reference_size is None:
            return {}
        pair: Mapping[str, Any] = {}
        if draw_pair is not None:
            try:
                pair = draw_pair(query, reference)
            except KitError as error:  # one pair that cannot be compared never ends the report
                return {"note": str(error)}
        elif set(GEOMETRY) <= set(row.index) and row[GEOMETRY].notna().all():
            pair = {"homography": row[GEOMETRY].to_numpy(np.float64).reshape(3, 3)}
        return normalised_drawing(pair, query_size, reference_size)


def encode_thumbnail(image: Image.Image, side: int) -> dict[str, Any]:
    """A JPEG of at most `side` pixels as a data URI, with its width and height."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=74, optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"src": f"data:image/jpeg;base64,{code}", "w": small.width, "h": small.height}


def normalised_drawing(
    pair: Mapping[str, Any],
    query_size: tuple[int, int],
    reference_size: tuple[int, int],
    max_lines: int = 40,
) -> dict[str, Any]:
    """Inliers and outlines of a pair in units of the two pictures' widths and heights (0 to 1).

    `points` are at most `max_lines` inliers (x, y in the query, x, y in the reference);
    `outline` is the reference's frame seen in the query, `window` the query's frame seen in the
    reference, each four corners, and absent where there is no usable homography.
    """
    drawing: dict[str, Any] = {}
    homography = pair.get("homography")
    if homography is not None:
        homography = np.asarray(homography, np.float64)
        drawing["outline"] = _outline(homography, reference_size, query_size)
        if np.isfinite(homography).all() and abs(np.linalg.det(homography)) > 1e-12:
            inverse = np.linalg.inv(homography)
            drawing["window"] = _outline(inverse, query_size, reference_size)
    inliers = np.asarray(pair.get("inliers", []), bool)
    if inliers.any():
        shown = np.flatnonzero(inliers)
        if len(shown) > max_lines:
            shown = shown[np.linspace(0, len(shown) - 1, max_lines).round().astype(int)]
        query = np.asarray(pair["query_points"], np.float64)[shown] / query_size
        reference = np.asarray(pair["reference_points"], np.float64)[shown] / reference_size
        drawing["points"] = np.hstack([query, reference]).round(4).tolist()
    return {name: value for name, value in drawing.items() if value is not None}


def _outline(
    homography: np.ndarray, source_size: tuple[int, int], target_size: tuple[int, int]
) -> list[list[float]] | None:
    """Corners for the page; None when they are unusable or absurdly far away (20 pictures)."""
    corners = plots.project_frame(homography, source_size, target_size)
    if corners is None or np.abs(corners).max() > 20:
        return None
    return corners.round(4).tolist()
