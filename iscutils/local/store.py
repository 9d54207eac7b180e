"""Local features of an image set on disc: one HDF5 file, read picture by picture.

Layout (docs/systems/imgfp.md, section 3): `keypoints` float32 (M, 4) x, y, size, angle;
`descriptors` uint8 (M, 128); `offsets` int64 (N + 1); `image_names` bytes (N,); `sizes` int32
(N, 2). Besides: `responses` float32 (M,), `thumbnails` uint8 (all pixels in a row) with
`thumbnail_sizes` int32 (N, 2) as width, height, and `skipped` (K, 3) texts: image id, file, reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from iscutils.files.artifacts import KitError, atomic_path, content_key, log
from iscutils.files.executor import Executor
from iscutils.files.images import ImageError, ImageSet
from iscutils.files.names import unwritten, written
from iscutils.local.config import LocalConfig
from iscutils.local.sift import MIN_SIDE, ImageFeatures, extract_image

VERSION = 1  # raise when the same picture gets other features
PART = 64  # pictures per part file, the unit of resuming
BLOCK_ROWS = 65_536  # points read at a time where only some are wanted: 8 MB
FEATURE_FIELDS = (
    "short_side", "octave_layers", "peak_threshold", "edge_threshold", "upsample", "stretch",
    "max_points", "thumbnail",
)  # fmt: skip
_ROWS = {  # dataset -> (dtype, columns) of what is concatenated over pictures
    "keypoints": (np.float32, (4,)),
    "descriptors": (np.uint8, (128,)),
    "responses": (np.float32, ()),
    "thumbnails": (np.uint8, ()),
    "sizes": (np.int32, (2,)),
    "thumbnail_sizes": (np.int32, (2,)),
}


@dataclass(frozen=True)
class Features:
    """Local features of N pictures in a file; small, and cheap to send to workers.

    `ids` are the image ids, `offsets` (N + 1,) and `thumbnail_offsets` (N + 1,) where each
    picture's rows begin, `sizes` (N, 2) the original widths and heights.
    """

    path: Path
    ids: list[str]
    offsets: np.ndarray
    sizes: np.ndarray
    thumbnail_sizes: np.ndarray
    thumbnail_offsets: np.ndarray
    key: str
    skipped: list[tuple[str, str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def index(self) -> dict[str, int]:
        """{image id: row}."""
        return {image_id: i for i, image_id in enumerate(self.ids)}

    def load(self, i: int) -> ImageFeatures:
        """Features of one picture."""
        sets = self._sets()
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return ImageFeatures(
            sets["keypoints"][rows], sets["descriptors"][rows], sets["responses"][rows],
            tuple(self.sizes[i].tolist()), self.thumbnail(i),
        )  # fmt: skip

    def all_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (M, 4) and responses (M,) of all pictures, in memory."""
        sets = self._sets()
        return sets["keypoints"][:], sets["responses"][:]

    def descriptors(self, start: int, end: int) -> np.ndarray:
        """Descriptors (end - start, 128) uint8 of a range of points."""
        return self._sets()["descriptors"][start:end]

    def descriptors_at(self, rows: np.ndarray) -> np.ndarray:
        """Descriptors (K, 128) uint8 of points in rising order (K,)."""
        stored = self._sets()["descriptors"]
        start = stored.id.get_offset()
        if start is not None and not stored.chunks:  # one run of bytes: read nothing but the rows
            mapped = np.memmap(self.path, np.uint8, "r", start, stored.shape)
            return np.asarray(mapped[rows])
        found = np.empty((len(rows), 128), np.uint8)
        first = 0
        while first < len(rows):  # all rows that one block of the file holds
            end = int(np.searchsorted(rows, rows[first] + BLOCK_ROWS))
            block = stored[int(rows[first]) : int(rows[end - 1]) + 1]
            found[first:end] = block[rows[first:end] - rows[first]]
            first = end
        return found

    def _sets(self) -> dict[str, h5py.Dataset]:
        return _open(str(self.path), self.key, os.getpid())

    def thumbnail(self, i: int) -> np.ndarray | None:
        """Gray thumbnail (h, w) uint8 of one picture, None when none were stored."""
        width, height = self.thumbnail_sizes[i].tolist()
        if not width:
            return None
        start = int(self.thumbnail_offsets[i])
        thumbnails = self._sets()["thumbnails"]
        return thumbnails[start : start + width * height].reshape(height, width)


def with_features(
    pairs: pd.DataFrame, query_features: Features, reference_features: Features
) -> pd.DataFrame:
    """Those pairs (query_id, reference_id) whose pictures have features; says how many have not."""
    known = pairs["query_id"].isin(query_features.ids)
    known &= pairs["reference_id"].isin(reference_features.ids)
    if not known.all():
        log.warning("%d pairs left out: their pictures have no local features", (~known).sum())
    return pairs[known]


@lru_cache(maxsize=8)
def _open(path: str, key: str, process: int) -> dict[str, h5py.Dataset]:
    # Looking a data set up takes as long as reading a picture's rows. The key tells a file from
    # its successor of the same name, the process id keeps forked workers from sharing one.
    file = h5py.File(path, "r")
    return {name: file[name] for name in _ROWS}


def extract_features(
    images: ImageSet, out: str | Path, config: LocalConfig, executor: Executor
) -> Path:
    """Detect SIFT points in every picture and write them to one HDF5 file; return its path.

    Unreadable pictures and those with a side below 16 px are left out and listed in the file
    (`read_features(path).skipped`). Finished work is kept: the file itself when it was made from
    the same pictures with the same settings, else the parts of a killed call.
    """
    out = Path(out)
    settings = {name: asdict(config)[name] for name in FEATURE_FIELDS}
    key = content_key(VERSION, images.key(), settings)
    if out.exists() and _key_of(out) == key:
        log.info("local features finished before: %s", out)
        return out
    folder = out.with_name(f".{out.stem}-{key}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(images), PART)
    parts = list(
        executor.map(partial(_extract_part, images, folder, config), starts, desc="SIFT points")
    )
    with atomic_path(out) as temporary:
        _merge(parts, temporary, key)
    shutil.rmtree(folder)
    _report(read_features(out), out)
    return out


def _extract_part(images: ImageSet, folder: Path, config: LocalConfig, start: int) -> Path:
    path = folder / f"{start:08d}.h5"
    if path.exists():
        return path
    ids, found, skipped = [], [], []
    for i in range(start, min(start + PART, len(images))):
        try:
            image = images.load(i)
            if min(image.size) < MIN_SIDE:
                raise ImageError(f"{image.size[0]} x {image.size[1]} pixels are too few for SIFT")
        except ImageError as error:
            skipped.append((images.ids[i], written(images.path(i) or ""), str(error)))
            continue
        ids.append(images.ids[i])
        found.append(extract_image(image, config))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        write_features(file, ids, found, skipped)
    return path


def write_features(
    file: h5py.File, ids: list[str], found: list[ImageFeatures], skipped: Iterable[tuple] = ()
) -> None:
    """Write features of some pictures, and rows of those left out, to an open HDF5 file."""
    empty = np.zeros((0, 0), np.uint8)
    thumbnails = [empty if one.thumbnail is None else one.thumbnail for one in found]
    values = {
        "keypoints": [one.keypoints for one in found],
        "descriptors": [one.descriptors for one in found],
        "responses": [one.responses for one in found],
        "thumbnails": [thumbnail.ravel() for thumbnail in thumbnails],
        "sizes": [np.array([one.size]) for one in found],
        "thumbnail_sizes": [np.array([thumbnail.shape[::-1]]) for thumbnail in thumbnails],
    }
    for name, (dtype, columns) in _ROWS.items():
        rows = [np.zeros((0, *columns)), *values[name]]
        file[name] = np.concatenate([np.asarray(row, dtype) for row in rows])
    file["offsets"] = np.cumsum([0] + [len(one) for one in found], dtype=np.int64)
    file["image_names"] = np.array([name.encode() for name in ids], dtype=bytes)
    _write_skipped(file, skipped)


def _write_skipped(file: h5py.File, skipped: Iterable[tuple]) -> None:
    rows = [list(row) for row in skipped]
    table = np.array(rows, dtype=object).reshape(len(rows), 3)
    file.create_dataset("skipped", data=table, dtype=h5py.string_dtype())


def _merge(parts: list[Path], target: Path, key: str) -> None:
    """Concatenate part files, one in memory at a time."""
    lengths = [_lengths(part) for part in parts]
    with h5py.File(target, "w") as merged:
        for name, (dtype, columns) in _ROWS.items():
            # Of known length, so that HDF5 stores it as one run of bytes.
            total = sum(length[name] for length in lengths)
            merged.create_dataset(name, (total, *columns), dtype)
        names: list[bytes] = []
        counts, skipped = [np.zeros(1, np.int64)], []
        done = dict.fromkeys(_ROWS, 0)
        for part, length in zip(parts, lengths, strict=True):
            with h5py.File(part, "r") as file:
                for name in _ROWS:
                    merged[name][done[name] : done[name] + length[name]] = file[name][:]
                    done[name] += length[name]
                names += file["image_names"][:].tolist()
                counts.append(np.diff(file["offsets"][:]))
                skipped += [[text.decode() for text in row] for row in file["skipped"][:]]
        merged["offsets"] = np.cumsum(np.concatenate(counts))
        merged["image_names"] = np.array(names, dtype=bytes)
        _write_skipped(merged, skipped)
        merged.attrs["key"] = key


def _lengths(part: Path) -> dict[str, int]:
    with h5py.File(part, "r") as file:
        return {name: len(file[name]) for name in _ROWS}


def _key_of(path: Path) -> str:
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("key", ""))
    except OSError:
        return ""  # not HDF5: made anew


def read_features(path: str | Path) -> Features:
    """Open a feature file; points are read on demand, picture by picture.

    Raises `KitError` when the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.exists():
        raise KitError(f"{path} does not exist: extract the local features first")
    try:
        with h5py.File(path, "r") as file:
            missing = {*_ROWS, "offsets", "image_names", "skipped"} - set(file)
            if missing:
                raise KitError(
                    f"{path} has no dataset {', '.join(sorted(missing))}: not a file of local "
                    "features; extract them again"
                )
            areas = file["thumbnail_sizes"][:].astype(np.int64).prod(axis=1)
            return Features(
                path.resolve(),
                [name.decode() for name in file["image_names"][:].tolist()],
                file["offsets"][:],
                file["sizes"][:],
                file["thumbnail_sizes"][:],
                np.concatenate([[0], np.cumsum(areas)]),
                str(file.attrs.get("key", "")),
                [_skipped(*(text.decode() for text in row)) for row in file["skipped"][:]],
            )
    except OSError as error:
        raise KitError(f"{path} is damaged ({error}): delete it and extract again") from error


def _skipped(image_id: str, file: str, reason: str) -> tuple[str, str, str]:
    return image_id, unwritten(file), reason


def _report(features: Features, path: Path) -> None:
    empty = int((np.diff(features.offsets) == 0).sum())
    log.info(
        "%s: %d pictures, %.0f points each, %d without points, %d skipped",
        path.name, len(features), features.offsets[-1] / max(1, len(features)), empty,
        len(features.skipped),
    )  # fmt: skip
