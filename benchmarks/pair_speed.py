"""Pair scores and SIFT extraction against bare OpenCV, equal results asserted.

    python benchmarks/pair_speed.py ../shared/bench [--pairs 2000] [--pictures 100]

Pairs: each query with references that follow it, as after voting many pairs share a query. OpenCV:
`BFMatcher.knnMatch` on float32 descriptors, called for the plain and the mirrored reference of each
pair, the ratio test on its matches, then the same choice of one match per place. Extraction: the
kit's function for one gray picture against `cv2.SIFT.detectAndCompute` with equal settings, after
which all points of the doubled picture are dropped. One thread each; both times in one process.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from iscutils.executor import Executor
from iscutils.images import open_folder
from iscutils.local import ImageFeatures, extract_features, local_config, read_features
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


def pair_speed(features: list, count: int) -> tuple[float, float]:
    """Seconds of the kit and of OpenCV for the same pairs, all points in memory."""
    queries, references = features
    pictures = [[part.load(i) for i in range(len(part))] for part in features]
    number = max(1, -(-count // len(queries)))
    pairs = [
        (q, (7 * q + k) % len(references)) for q in range(len(queries)) for k in range(number)
    ][:count]
    matcher = cv2.BFMatcher(cv2.NORM_L2SQR)
    seconds, scores = [0.0, 0.0], [[], []]
    # In turns, so that whatever else the machine does disturbs both alike.
    for start in range(0, len(pairs), 50):
        for i in range(2):
            begun = time.perf_counter()
            for q, r in pairs[start : start + 50]:
                one, two = pictures[0][q], pictures[1][r]
                if i == 0:
                    scores[i].append(len(best_matches(one, two, CONFIG)[0]))
                else:
                    scores[i].append(opencv_score(matcher, one, two) if len(one) > 1 else 0)
            seconds[i] += time.perf_counter() - begun
    if scores[0] != scores[1]:
        wrong = sum(a != b for a, b in zip(*scores, strict=True))
        raise SystemExit(f"{wrong} of {len(pairs)} scores differ")
    print(f"{len(pairs)} pairs, scores equal, mean {np.mean(scores[0]):.2f}")
    some = pairs[:: max(1, len(pairs) // 50)]
    begun = time.perf_counter()
    for q, r in some:
        opencv_score(matcher, pictures[0][q], pictures[1][r], np.uint8)
    each = (time.perf_counter() - begun) / len(some)
    print(f"OpenCV on the bytes as stored, without a change to float32: {each * 1e3:.1f} ms a pair")
    return seconds[0], seconds[1]


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
        begun = time.perf_counter()
        _, ours, _ = detect(gray, CONFIG)
        middle = time.perf_counter()
        points, descriptors = bare.detectAndCompute(gray, None)
        seconds[1] += time.perf_counter() - middle
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
    images = [open_folder(options.bench / part) for part in ("queries", "references")]
    images = [part.subset(range(min(options.pictures, len(part)))) for part in images]
    with tempfile.TemporaryDirectory() as folder:
        features = [
            read_features(extract_features(part, Path(folder) / f"{i}.h5", CONFIG, Executor()))
            for i, part in enumerate(images)
        ]
        ours, opencv = pair_speed(features, options.pairs)
    count = options.pairs
    print(f"pair score   kit {ours / count * 1e3:7.3f} ms   OpenCV {opencv / count * 1e3:7.3f} ms")
    print(f"             {opencv / ours:.1f} times as fast (wanted: 5)")
    ours, opencv = extraction_speed(images[1], min(options.pictures, len(images[1])))
    count = min(options.pictures, len(images[1]))
    print(f"SIFT         kit {ours / count * 1e3:7.2f} ms   OpenCV {opencv / count * 1e3:7.2f} ms")
    print(f"             {ours / opencv:.2f} of the time (wanted: at most 1), descriptors equal")


if __name__ == "__main__":
    main()
