"""Pair scores and SIFT extraction against bare OpenCV, equal results asserted.

    python benchmarks/pair_speed.py ../shared/bench [--pairs 2000] [--pictures 100]

Pairs: each query with references that follow it, as after voting many pairs share a query. OpenCV:
`BFMatcher.knnMatch` on float32 descriptors, called for the plain and the mirrored reference of each
pair, the ratio test on its matches, then the same choice of one match per place. The kit multiplies
bytes where torch is loaded and fast at it, as in a notebook after voting, else float32, as in a
worker process; both are timed. Extraction: the kit's function for one gray picture against
`cv2.SIFT.detectAndCompute` with equal settings, after which all points of the doubled picture are
dropped. One thread each; processor time, all in one process.
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch

from iscutils.files.executor import Executor
from iscutils.files.images import open_folder
from iscutils.local import ImageFeatures, extract_features, local_config, read_features
from iscutils.local.nearest import integer_products
from iscutils.local.pair_score import best_matches, one_to_one
from iscutils.local.sift import (
    SIGMA,
    detect,
    gray_picture,
    mirror_descriptors,
    root_sift,
    shrunk_size,
)

CONFIG = local_config("imgfp")


def opencv_score(
    matcher: cv2.BFMatcher, query: ImageFeatures, reference: ImageFeatures, kind: type = np.float32
) -> int:
    """The published score, pair by pair with OpenCV: matches of the better half."""
    scores = []
    wanted = query.descriptors.astype(kind)
    for descriptors in (reference.descriptors, mirror_descriptors(reference.descriptors)):
        found = matcher.knnMatch(np.ascontiguousarray(descriptors, kind), wanted, 2)
        kept = [
            (pair[0].trainIdx, pair[0].queryIdx, pair[0].distance)
            for pair in found
            if len(pair) == 2 and CONFIG.ratio * pair[0].distance < pair[1].distance
        ]
        columns, rows, distances = np.array(kept, float).reshape(-1, 3).T
        places = (
            query.keypoints[columns.astype(int), :2],
            reference.keypoints[rows.astype(int), :2],
        )
        scores.append(len(one_to_one(*places, distances)))
    return max(scores)


def pair_speed(features: list, count: int) -> dict[str, float]:
    """Seconds of OpenCV and of the kit for the same pairs, all points in memory."""
    queries, references = features
    pictures = [[part.load(i) for i in range(len(part))] for part in features]
    number = max(1, -(-count // len(queries)))
    pairs = [
        (q, (7 * q + k) % len(references)) for q in range(len(queries)) for k in range(number)
    ][:count]
    matcher = cv2.BFMatcher(cv2.NORM_L2SQR)

    def by_opencv(query: ImageFeatures, reference: ImageFeatures) -> int:
        return opencv_score(matcher, query, reference) if len(query) > 1 else 0

    def by_kit(query: ImageFeatures, reference: ImageFeatures) -> int:
        return len(best_matches(query, reference, CONFIG)[0])

    methods = {"OpenCV": (by_opencv, None), "kit, float32": (by_kit, False)}
    if integer_products():
        methods["kit, bytes"] = by_kit, True
    seconds, scores = dict.fromkeys(methods, 0.0), {name: [] for name in methods}
    # In turns, so that whatever else the machine does disturbs all alike.
    for start in range(0, len(pairs), 50):
        for name, (score, integers) in methods.items():
            with patch("iscutils.local.pair_score.integer_products", lambda on=integers: on):
                begun = time.process_time()
                for q, r in pairs[start : start + 50]:
                    scores[name].append(score(pictures[0][q], pictures[1][r]))
                seconds[name] += time.process_time() - begun
    for name, found in scores.items():
        wrong = sum(a != b for a, b in zip(found, scores["OpenCV"], strict=True))
        if wrong:
            raise SystemExit(f"{wrong} of {len(pairs)} scores differ ({name})")
    print(f"{len(pairs)} pairs, scores equal, mean {np.mean(scores['OpenCV']):.2f}")
    some = pairs[:: max(1, len(pairs) // 50)]
    begun = time.process_time()
    for q, r in some:
        opencv_score(matcher, pictures[0][q], pictures[1][r], np.uint8)
    each = (time.process_time() - begun) / len(some)
    print(f"OpenCV on the bytes as stored, without a change to float32: {each * 1e3:.1f} ms a pair")
    return seconds


def extraction_speed(images, count: int) -> tuple[float, float]:
    """Seconds of the kit and of bare OpenCV for the same gray pictures."""
    bare = cv2.SIFT_create(
        0, CONFIG.octave_layers, CONFIG.peak_threshold / 255 * CONFIG.octave_layers,
        CONFIG.edge_threshold, SIGMA,
    )  # fmt: skip
    seconds = [0.0, 0.0]
    for i in np.linspace(0, len(images) - 1, count).astype(int):
        image = images.load(i)
        gray = gray_picture(image, shrunk_size(image.size, CONFIG.short_side))
        begun = time.process_time()
        _, ours, _ = detect(gray, CONFIG)
        middle = time.process_time()
        points, descriptors = bare.detectAndCompute(gray, None)
        seconds[1] += time.process_time() - middle
        seconds[0] += middle - begun
        kept = [j for j, point in enumerate(points) if point.octave & 255 != 255]
        if len(ours) and not np.array_equal(
            np.sort(ours, axis=0), np.sort(root_sift(descriptors[kept]), axis=0)
        ):
            raise SystemExit(f"other descriptors for picture {images.ids[i]}")
    return seconds[0], seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", type=Path, help="references/ and queries/")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--pictures", type=int, default=100, help="of each folder")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    images = [open_folder(options.bench / part) for part in ("queries", "references")]
    images = [part.subset(range(min(options.pictures, len(part)))) for part in images]
    with tempfile.TemporaryDirectory() as folder:
        features = [
            read_features(extract_features(part, Path(folder) / f"{i}.h5", CONFIG, Executor()))
            for i, part in enumerate(images)
        ]
        seconds = pair_speed(features, options.pairs)
    for name, one in seconds.items():
        times = seconds["OpenCV"] / one
        print(f"pair score   {name:12s} {one / options.pairs * 1e3:7.3f} ms   {times:4.1f} times as"
              " fast as OpenCV (wanted: 5)")  # fmt: skip
    ours, opencv = extraction_speed(images[1], min(options.pictures, len(images[1])))
    count = min(options.pictures, len(images[1]))
    print(f"SIFT         kit {ours / count * 1e3:7.2f} ms   OpenCV {opencv / count * 1e3:7.2f} ms")
    print(f"             {ours / opencv:.2f} of the time (wanted: at most 1), descriptors equal")


if __name__ == "__main__":
    main()
