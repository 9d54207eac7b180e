"""Codecs: what happens to descriptors before search, written as text like `PCAW512,L2norm,Flat`.

Stages, comma separated, applied from left to right (docs/systems/sscd.md, section 6):
`L2norm` divides a row by its length, `PCA512` subtracts the background's mean and keeps its first
512 principal directions, `PCAW512` also divides each by the square root of its eigenvalue. `Flat`
ends the text.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from iscutils.files.artifacts import KitError, atomic_path, content_key, log

EIGENVALUE_FLOOR = 1e-6  # of the largest; smaller ones are noise that whitening would blow up
ROWS_PER_DIMENSION = 1000  # rows used for fitting, as in FAISS
_BLOCK = 65_536  # rows converted to float64 at a time


class Codec:
    """One codec, fitted on background descriptors only.

    Attributes: `spec` (text; after fitting with the dimension really used), `learns` (whether it
    has a PCA), and after fitting `mean` (D,), `directions` (D, d), `eigenvalues` (d,), all float64.
    """

    def __init__(self, spec: str = "L2norm,Flat") -> None:
        self.spec = spec
        self._stages = _parse(spec)
        self.learns = any(name != "L2norm" for name, _ in self._stages)
        self.fitted_on = ""
        self.mean = self.directions = self.eigenvalues = None

    def __repr__(self) -> str:
        return f"Codec('{self.spec}')"

    def fit(
        self,
        background: np.ndarray | None,
        *,
        fitted_on: str = "background",
        strict: bool = True,
        seed: int = 0,
    ) -> Codec:
        """Learn mean and directions from background descriptors (N, D); returns the codec itself.

        At most 1000 D rows are used, drawn with `seed`. A dimension beyond D or N - 1 is clipped
        with a remark. With `strict`, anything but `fitted_on="background"` is a `KitError`: the
        rules of the challenge allow training images only (docs/evaluation.md, section 3).
        """
        if not self.learns:
            return self
        if strict and fitted_on != "background":
            raise KitError(
                f"codec {self.spec} may not be fitted on '{fitted_on}': the strict protocol allows "
                "background images only; pass strict=False to leave the protocol"
            )
        if background is None:
            raise KitError(f"codec {self.spec} learns from background images: give training images")
        background = _matrix(background, "background")
        n_rows, dim = background.shape
        if n_rows < 2:
            raise KitError(
                f"codec {self.spec} needs at least 2 background descriptors, got {n_rows}: "
                "give more training images"
            )
        most = ROWS_PER_DIMENSION * dim
        if n_rows > most:
            rows = np.sort(np.random.default_rng(seed).choice(n_rows, most, replace=False))
            background = background[rows]
        rows = background.astype(np.float64)
        for name, wanted in self._stages:
            if name == "L2norm":
                rows = _unit(rows)
                continue
            kept = min(wanted, dim, n_rows - 1)
            if kept < wanted:
                log.info(
                    "%s: %d background descriptors of dimension %d allow %d dimensions",
                    self.spec,
                    n_rows,
                    dim,
                    kept,
                )
                self._stages = [(s, kept if s == name else n) for s, n in self._stages]
                self.spec = self.spec.replace(f"{name}{wanted}", f"{name}{kept}")
            self.mean, self.directions, self.eigenvalues = _principal(rows, kept)
            break
        self.fitted_on = fitted_on
        return self

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Transform (N, D) descriptors to (N, d) float32; computed in float64, block by block."""
        vectors = _matrix(vectors, "descriptors")
        if self.learns and self.mean is None:
            raise KitError(f"codec {self.spec} is not fitted: call fit(background) first")
        if self.learns and vectors.shape[1] != len(self.mean):
            raise KitError(
                f"codec {self.spec} was fitted at dimension {len(self.mean)}, the descriptors have "
                f"{vectors.shape[1]}: fit it on background descriptors of the same model"
            )
        if not self._stages:
            return vectors.astype(np.float32, copy=False)
        width = self.directions.shape[1] if self.learns else vectors.shape[1]
        result = np.empty((len(vectors), width), dtype=np.float32)
        for start in range(0, len(vectors), _BLOCK):
            rows = vectors[start : start + _BLOCK].astype(np.float64)
            for name, _ in self._stages:
                if name == "L2norm":
                    rows = _unit(rows)
                else:
                    rows = (rows - self.mean) @ self.directions  # (block, d)
                    if name == "PCAW":
                        rows /= np.sqrt(self.eigenvalues)
            result[start : start + _BLOCK] = rows
        return result

    def key(self) -> str:
        """Ten hexadecimal digits that change with what the codec does to descriptors."""
        learned = [] if self.mean is None else [self.mean, self.directions, self.eigenvalues]
        hashes = [hashlib.sha256(np.ascontiguousarray(part)).hexdigest() for part in learned]
        return content_key(self.spec, hashes)

    def save(self, path: str | Path) -> Path:
        """Write spec, mean, directions and eigenvalues as .npz, atomically."""
        learned = {}
        if self.mean is not None:
            learned = {name: getattr(self, name) for name in ("mean", "directions", "eigenvalues")}
        with atomic_path(path) as temporary:
            with open(temporary, "wb") as file:
                np.savez(file, spec=self.spec, fitted_on=self.fitted_on, **learned)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Codec:
        """Read a codec written by `save`; nothing in the file is executed."""
        try:
            with np.load(path, allow_pickle=False) as file:
                codec = cls(str(file["spec"]))
                codec.fitted_on = str(file["fitted_on"])
                if "mean" in file:
                    codec.mean, codec.directions = file["mean"], file["directions"]
                    codec.eigenvalues = file["eigenvalues"]
        except KitError:
            raise
        except (OSError, KeyError, ValueError) as error:
            raise KitError(f"cannot read the codec {path} ({error}): fit it again") from error
        return codec


def _parse(spec: str) -> list[tuple[str, int]]:
    """Stages as (name, dimension) without the closing `Flat`; at most one PCA."""
    texts = [text.strip() for text in spec.split(",")]
    stages = [re.fullmatch(r"(L2norm)|(PCAW?)([1-9][0-9]*)", text) for text in texts[:-1]]
    if texts[-1] != "Flat" or None in stages or sum(bool(s and s[2]) for s in stages) > 1:
        raise KitError(
            f"codec '{spec}' is unknown: write Flat, 'L2norm,Flat', 'PCA512,L2norm,Flat' or "
            "'PCAW512,L2norm,Flat'"
        )
    return [(stage[1] or stage[2], int(stage[3] or 0)) for stage in stages]


def _principal(rows: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (D,), directions (D, kept) and eigenvalues (kept,) of the covariance, largest first."""
    mean = rows.mean(axis=0)
    rows = rows - mean
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values[::-1][:kept], vectors[:, ::-1][:, :kept]
    if values[0] <= 0:
        raise KitError("all background descriptors are equal: give different training images")
    # The sign of a direction is arbitrary: fix it, so that equal data give equal files.
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(kept)])
    return mean, vectors, np.maximum(values, EIGENVALUE_FLOOR * values[0])


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)  # a zero row stays zero


def _matrix(vectors: np.ndarray, what: str) -> np.ndarray:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2:
        raise KitError(f"{what} of shape {vectors.shape}, expected (images, dimension)")
    if not np.isfinite(vectors).all():
        raise KitError(f"{what} hold NaN or infinity: extract them again")
    return vectors
