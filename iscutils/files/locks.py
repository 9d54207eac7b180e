"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from iscutils.files.artifacts import KitError, log


@contextmanager
def locked(folder: str | Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process; the system frees it however the process ends.

    Args:
        folder: gets a file `.lock`.
        busy: says that another process holds the folder: the error, or what is logged once while
            this one waits.

    Raises:
        KitError: another process holds it, and `wait` is False.
    """
    lock = FileLock(Path(folder) / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        if not wait:
            raise KitError(busy) from error
        log.warning("%s", busy)
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()
