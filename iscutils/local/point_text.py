"""Local features as text, the format of the published imgFp tools, to and from the kit's HDF5.

One line per point: `<image id>_<index>_<x>_<y>_<sigma>_<angle>||v0,v1,...,v127`; a picture without
points has an empty file. Sigma is half of OpenCV's size, the angle is in radians (VLFeat's units).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

from iscutils.files.artifacts import KitError, atomic_path, content_key, file_hash, log
from iscutils.files.ids import file_name_of, stem_of
from iscutils.local.sift import ImageFeatures
from iscutils.local.store import Features, read_features, write_features

BINS = np.arange(128).reshape(16, 8)[:, [0, 7, 6, 5, 4, 3, 2, 1]].ravel()  # j -> (8 - j) mod 8
HDF5 = (".h5", ".hdf5")


def convert_points(src: str | Path, dst: str | Path, negate_bins: bool = False) -> Path:
    """Convert local features between HDF5 and text, by the name of `dst`; return its path.

    To text: `dst` is a file `.txt` with all points, or else a folder with a file per picture. From
    text: `src` is such a file or folder and `dst` a file `.h5`. With `negate_bins` the directions
    of the descriptors are reversed, as OpenCV's and VLFeat's (the published files) differ in that;
    never match one with the other without it. Text knows neither strength nor picture size: read
    back, all points are equally strong, and a picture is as large as its points reach.

    Raises:
        KitError: a line is not of the format, or both or neither of the two names is HDF5.
    """
    src, dst = Path(src), Path(dst)
    if not src.exists():
        raise KitError(f"{src} does not exist: give a feature file, a text file or a folder")
    if (src.suffix in HDF5) == (dst.suffix in HDF5):
        raise KitError(f"{src} to {dst}: one must end in .h5, the other be a text file or folder")
    if dst.suffix in HDF5:
        return read_texts(src, dst, negate_bins)
    return write_texts(read_features(src), dst, negate_bins)


def write_texts(features: Features, out: str | Path, negate_bins: bool = False) -> Path:
    """Write features as one text file (`.txt`), or as a folder with one file per picture."""
    out = Path(out)
    bad = [image_id for image_id in features.ids if "_" in image_id or "|" in image_id]
    if bad:
        log.warning(
            "%d image ids hold '_' or '|', as '%s': the kit reads them back, the published tools "
            "take the text before the first '_'", len(bad), bad[0],
        )  # fmt: skip
    single = out.suffix == ".txt"
    with atomic_path(out) as temporary:
        if not single:
            temporary.mkdir()
        for i, image_id in enumerate(features.ids):
            path = temporary if single else temporary / f"{file_name_of(image_id)}.txt"
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(_lines(image_id, features.load(i), negate_bins))
    return out


def _lines(image_id: str, image: ImageFeatures, negate_bins: bool) -> Iterator[str]:
    descriptors = image.descriptors[:, BINS] if negate_bins else image.descriptors
    points = zip(image.keypoints.tolist(), descriptors.tolist(), strict=True)
    for index, ((x, y, size, angle), values) in enumerate(points):
        place = f"{x:.9g}_{y:.9g}_{size / 2:.9g}_{np.deg2rad(angle):.9g}"
        yield f"{image_id}_{index}_{place}||{','.join(map(str, values))}\n"


def read_texts(src: str | Path, out: str | Path, negate_bins: bool = False) -> Path:
    """Read a text file, or all text files of a folder, into one feature file; return its path."""
    src, out = Path(src), Path(out)
    files = sorted(path for path in src.iterdir() if path.is_file()) if src.is_dir() else [src]
    ids: list[str] = []
    found: list[ImageFeatures] = []
    for path in files:
        pictures = _parse(path, negate_bins)
        if not pictures and src.is_dir():  # too few points: an empty file
            pictures = {stem_of(path.stem): _image([], [], negate_bins)}
        for image_id, picture in pictures.items():
            if image_id in ids:
                raise KitError(f"{path}: points of '{image_id}' stand in another file, too")
            ids.append(image_id)
            found.append(picture)
    key = content_key("text", negate_bins, [file_hash(path) for path in files])
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        write_features(file, ids, found)
        file.attrs["key"] = key
    return out


def _parse(path: Path, negate_bins: bool) -> dict[str, ImageFeatures]:
    points: dict[str, tuple[list, list]] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            head, _, values = line.partition("||")
            try:
                # From the right: an image id of the kit may hold underscores.
                image_id, _, x, y, sigma, angle = head.rsplit("_", 5)
                row = np.array(values.split(","), np.float64)
                place = [float(x), float(y), 2 * float(sigma), np.rad2deg(float(angle)) % 360]
                if len(row) != 128 or not _is_byte(row) or not np.isfinite(place).all():
                    raise ValueError
            except ValueError:
                raise KitError(
                    f"{path}, line {number}: expected <id>_<index>_<x>_<y>_<sigma>_<angle>||v0,...,"
                    "v127 with integers 0..255"
                ) from None
            places, rows = points.setdefault(image_id, ([], []))
            places.append(place)
            rows.append(row)
    return {image_id: _image(*lists, negate_bins) for image_id, lists in points.items()}


def _is_byte(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 255) & (values == np.rint(values))).all())


def _image(places: Iterable, rows: Iterable, negate_bins: bool) -> ImageFeatures:
    keypoints = np.array(places, np.float32).reshape(-1, 4)
    descriptors = np.array(rows, np.uint8).reshape(-1, 128)
    if negate_bins:
        descriptors = descriptors[:, BINS]
    size = np.floor(keypoints[:, :2].max(axis=0, initial=0)).astype(int) + 1
    return ImageFeatures(
        keypoints, descriptors, np.ones(len(keypoints), np.float32), tuple(size.tolist())
    )
