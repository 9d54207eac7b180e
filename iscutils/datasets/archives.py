"""Images inside zip files, read without unpacking, beside images in ordinary files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from PIL import Image

from iscutils.files.artifacts import KitError, content_key
from iscutils.files.formats import read_regular
from iscutils.files.image_sets import said_file
from iscutils.files.images import ImageError, ImageSet, decode, decode_noted

MAX_BYTES = 500_000_000  # of one member unpacked: far above any photograph, far below a zip bomb


class ArchiveImages(ImageSet):
    """Images, each a file or a member of a zip file.

    `files` are paths of images or archives, `members` the names inside ("" = the file itself), both
    one for each id.
    """

    def __init__(self, ids: Iterable[str], files: Iterable[str], members: Iterable[str]):
        super().__init__(ids)
        self.files, self.members = [str(file) for file in files], list(members)

    def load(self, i: int, min_side: int | None = None) -> Image.Image:
        with said_file(f"{self.files[i]} {self.members[i]}".rstrip()):
            return decode(self.read(i), min_side=min_side)

    def load_noted(self, i: int, min_side: int | None = None) -> tuple[Image.Image, str]:
        with said_file(f"{self.files[i]} {self.members[i]}".rstrip()):
            return decode_noted(self.read(i), min_side=min_side)

    def read(self, i: int) -> bytes:
        """The bytes of image `i`; `ImageError` if they cannot be read."""
        try:
            if not self.members[i]:
                return read_regular(self.files[i])
            archive = _archive(self.files[i], os.getpid())
            if archive.getinfo(self.members[i]).file_size > MAX_BYTES:
                raise ImageError(f"more than {MAX_BYTES} bytes when unpacked")
            return archive.read(self.members[i])
        except OSError as error:
            raise ImageError(f"cannot open: {error.strerror or error}") from error
        # RuntimeError: a password; NotImplementedError: an unknown compression
        except (KeyError, RuntimeError, zipfile.BadZipFile, EOFError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"damaged zip member: {' '.join(str(error).split())}") from error

    def path(self, i: int) -> Path | None:
        """The file of image `i`; None for a member of an archive."""
        return None if self.members[i] else Path(self.files[i])

    def subset(self, indices: Iterable[int]) -> ArchiveImages:
        indices = list(indices)
        parts = (self.ids, self.files, self.members)
        return ArchiveImages(*([part[i] for i in indices] for part in parts))

    def key(self) -> str:
        stamps = {file: _stamp(file) for file in set(self.files)}
        return content_key(self.ids, self.members, [stamps[file] for file in self.files])


def member_names(archive: str | Path) -> list[str]:
    """Names of the files in a zip archive; a damaged one is a `KitError`."""
    try:
        return [info.filename for info in _archive(str(archive), os.getpid()).infolist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise KitError(f"cannot read {archive} ({error}): download it again") from error


@lru_cache(maxsize=64)
def _archive(path: str, _process: int) -> zipfile.ZipFile:
    # One a process: after a fork two processes would move the same file position.
    return zipfile.ZipFile(path)


def _stamp(file: str) -> list[int] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
