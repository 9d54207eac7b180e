"""The run folder: atomic files, content keys, published artifacts, metrics, skipped items."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iscutils.files.names import from_cell, one_line, to_cell, written

log = logging.getLogger("iscutils")
if not log.handlers:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s %(levelname)s] %(message)s"))
    log.addHandler(_handler)
    log.setLevel(logging.INFO)
    log.propagate = False

SKIPPED_COLUMNS = ("stage", "image_id", "file", "reason")
NOTE = "used: "  # begins the reason of a row whose image is used all the same
FOLLOWS = "ISCUTILS_FOLLOWS"  # environment variable of kernels that only help another one to train


class KitError(ValueError):
    """An error the user can mend; its message is one line naming the input and the remedy."""


def project_root() -> Path:
    """Folder that holds `notebooks/` and `params/`: the nearest one above, else the checkout.

    papermill keeps the caller's working directory while Jupyter and nbval use the notebook's,
    so every relative path of a parameter is resolved from here.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """Absolute form of a user's path, relative ones being meant from the project root."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else project_root() / path


def follows() -> bool:
    """Whether this process only helps another one to train, and leaves all files to that one."""
    return os.environ.get(FOLLOWS) == "1"


def wait_if_following(path: str | Path, text: str | None = None) -> None:
    """In a process that follows another, wait until that one has made a file.

    Where `text` is given, until the file holds that.
    """
    path = Path(path)
    while follows() and not (
        path.exists() and (text is None or path.read_text(encoding="utf-8") == text)
    ):
        time.sleep(0.2)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` only if the block succeeds.

    Works for files and folders. A failure or a kill leaves the former content untouched; a full
    disc becomes a `KitError`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _disc_error(path, error) from error
    temporary = holder / path.name
    try:
        yield temporary
        if path.is_dir():  # os.replace cannot overwrite a folder that has content
            path.rename(holder / "former")
        os.replace(temporary, path)
    except OSError as error:
        raise _disc_error(path, error) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _disc_error(path: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return KitError(
            f"disc full while writing {path}: free some space and run the same command again"
        )
    if error.errno in (errno.EACCES, errno.EROFS):
        return KitError(f"no permission to write {path}: choose another run folder")
    return error


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file atomically and return its path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically; NumPy numbers become plain ones, NaN becomes null."""
    return write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and torch scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value != value:
        return None
    return value


def content_key(*parts: Any) -> str:
    """Ten hexadecimal digits that change when any of the parts changes (JSON-able values)."""
    text = json.dumps(_plain(list(parts)), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Run:
    """One run folder: what its notebooks wrote, by name."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def folder(self, name: str) -> Path:
        """Sub-folder of the run (`models`, `descriptors`, ...), created when missing."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def record(self, stage: str, **values: Any) -> dict[str, Any]:
        """Add results to `metrics.json` under a stage's name and return that stage's results."""
        metrics = self.metrics()
        metrics.setdefault(stage, {}).update(_plain(values))
        if not follows():
            write_json(self.path / "metrics.json", metrics)
        return metrics[stage]

    def metrics(self) -> dict[str, dict[str, Any]]:
        """All results recorded so far, {stage: {name: value}}."""
        return _read_json(self.path / "metrics.json")

    def publish(self, name: str, path: str | Path) -> Path:
        """Register a finished file or folder under a name, for later notebooks to `find`."""
        path = Path(path)
        if not path.exists():
            raise KitError(f"cannot publish '{name}': {path} does not exist")
        if follows():
            return path
        published = _read_json(self.path / "artifacts.json")
        # Relative inside the run, so that a run folder can be moved.
        inside = path.resolve().is_relative_to(self.path.resolve())
        published[name] = os.path.relpath(path, self.path) if inside else str(path.resolve())
        write_json(self.path / "artifacts.json", published)
        return path

    def find(self, name: str) -> Path:
        """Path published under `name`; a `KitError` says which names this run has."""
        published = _read_json(self.path / "artifacts.json")
        if name not in published:
            known = ", ".join(sorted(published)) or "nothing yet"
            raise KitError(
                f"run '{self.name}' has no '{name}' (it has: {known}); "
                "run the earlier notebooks first"
            )
        path = self.path / published[name]
        if not path.exists():
            raise KitError(f"'{name}' of run '{self.name}' is gone: {path}; run its notebook again")
        return path

    def has(self, name: str) -> bool:
        """Whether `find(name)` would succeed."""
        published = _read_json(self.path / "artifacts.json")
        return name in published and (self.path / published[name]).exists()

    def save_figure(self, figure: Any, name: str) -> Path:
        """Save a matplotlib figure (or the figure of an axes) as `figures/<name>.png`."""
        figure = getattr(figure, "figure", figure)
        path = self.path / "figures" / f"{name}.png"
        if not follows():
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=110, bbox_inches="tight")
        return path

    def record_skipped(self, stage: str, rows: Iterable[tuple[str, str, str]]) -> int:
        """Replace a stage's rows (image_id, file, reason) in `skipped.csv`; return how many count.

        Rows whose reason begins with `NOTE` are notes on images that are used, and do not count.
        """
        rows = [(stage, one_line(name), written(file), reason) for name, file, reason in rows]
        lost = sum(not is_note(reason) for *_, reason in rows)
        if follows():
            return lost
        kept = [tuple(row.values()) for row in self.skipped() if row["stage"] != stage]
        with atomic_path(self.path / "skipped.csv") as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(SKIPPED_COLUMNS)
                writer.writerows(
                    [one, to_cell(image_id), to_cell(path), reason]
                    for one, image_id, path, reason in sorted(kept + rows)
                )
        if lost:
            log.warning("%d images skipped in %s, see %s", lost, stage, "skipped.csv")
        if len(rows) > lost:
            log.info("%d images used with a note, see skipped.csv", len(rows) - lost)
        return lost

    def skipped(self) -> list[dict[str, str]]:
        """Rows of `skipped.csv` as {stage, image_id, file, reason}; empty when nothing was."""
        path = self.path / "skipped.csv"
        if not path.exists():
            return []
        with open(path, newline="", encoding="utf-8") as file:
            return [
                {name: from_cell(cell) for name, cell in row.items()}
                for row in csv.DictReader(file)
            ]


def is_note(reason: str) -> bool:
    """Whether the reason of a row of `skipped.csv` says that its image is used all the same."""
    return reason.startswith(NOTE)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def runs_root() -> Path:
    """Folder that holds the run folders: `ISCUTILS_RUNS` when set, else `runs/` of the project."""
    return resolve(os.environ.get("ISCUTILS_RUNS") or "runs")


def open_run(name: str) -> Run:
    """The run folder `runs/<name>` of the project (or a path, when `name` holds a slash)."""
    if not name or name in (".", ".."):
        raise KitError(f"run name '{name}' cannot be a folder: give it a word, such as 'demo'")
    path = resolve(name) if "/" in name else runs_root() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"cannot make the run folder {path}: {error.strerror}") from error
    return Run(path)


def published_by(spec: str) -> Path | None:
    """What another run published, written RUN:NAME; None where there is no such run or name."""
    name, colon, published = spec.partition(":")
    if not (name and colon and published) or "/" in name:
        return None
    run = Run(runs_root() / name)
    return run.find(published) if run.has(published) else None


def find_published(run: Run, spec: str) -> Path:
    """What this run published as `spec`, or another one, written RUN:NAME.

    Raises:
        KitError: neither has.
    """
    other = None if run.has(spec) else published_by(spec)
    return run.find(spec) if other is None else other


def find_local(spec: str | Path, run: Run | None = None) -> Path | None:
    """What lies on this disc: published by a run (NAME or RUN:NAME), else a file or folder.

    Paths count from here, then from the project. None where there is no such thing.
    """
    if not str(spec):
        return None
    if run is not None and run.has(str(spec)):
        return run.find(str(spec))
    published = published_by(str(spec))
    if published is not None:
        return published
    return next((p for p in (Path(spec).expanduser(), resolve(spec)) if p.exists()), None)
