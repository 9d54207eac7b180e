"""Ordered lazy sets of images: in files, drawn by functions, or of several sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from iscutils.files.artifacts import content_key
from iscutils.files.decoding import ImageError, decode
from iscutils.files.frames import LIMIT, decode_noted, distinct_frames, frames_note, has_frames

if TYPE_CHECKING:
    from iscutils.files.executor import Executor


class ImageSet:
    """An ordered set of images with unique ids; images are loaded one by one, on demand.

    Sub-classes say where image `i` comes from: `load(i, min_side=None)` gives PIL RGB (raises
    `ImageError`), `path(i)` its file (None when it has none), `subset(indices)` an ImageSet of some
    of them in the given order, `key()` ten hexadecimal digits that change with the content.
    `load_noted` also says what is damaged or not looked at.
    """

    ids: list[str]

    def __init__(self, ids: Iterable[str]):
        self.ids = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images)"

    def load(self, i: int, min_side: int | None = None) -> Image.Image:
        raise NotImplementedError

    def load_noted(self, i: int, min_side: int | None = None) -> tuple[Image.Image, str]:
        return self.load(i, min_side), ""

    def path(self, i: int) -> Path | None:
        return None

    def subset(self, indices: Iterable[int]) -> ImageSet:
        raise NotImplementedError

    def key(self) -> str:
        raise NotImplementedError


@contextmanager
def said_file(file: str) -> Iterator[None]:
    """Name the file in an error that is not caught."""
    try:
        yield
    except ImageError as error:
        error.add_note(f"file: {file}")
        raise


class FileImages(ImageSet):
    """Images in files; `files` are their paths, one for each id.

    `left_out` are (path, reason) of what a folder holds beside them, see `scan_folder`.
    """

    left_out: Sequence[tuple[str, str]] = ()

    def __init__(self, ids: Iterable[str], files: Iterable[str | Path]):
        super().__init__(ids)
        self.files = [str(file) for file in files]  # plain strings: small when sent to workers

    def load(self, i: int, min_side: int | None = None) -> Image.Image:
        with said_file(self.files[i]):
            return decode(Path(self.files[i]), min_side=min_side)

    def load_noted(self, i: int, min_side: int | None = None) -> tuple[Image.Image, str]:
        with said_file(self.files[i]):
            return decode_noted(Path(self.files[i]), min_side=min_side)

    def path(self, i: int) -> Path:
        return Path(self.files[i])

    def subset(self, indices: Iterable[int]) -> FileImages:
        indices = list(indices)
        return FileImages([self.ids[i] for i in indices], [self.files[i] for i in indices])

    def key(self) -> str:
        stamps = []
        for file in self.files:
            try:
                stat = os.stat(file)
                stamps.append([stat.st_size, stat.st_mtime_ns])
            except OSError:
                stamps.append(None)
        return content_key(self.ids, stamps)


class FrameImages(FileImages):
    """Frames of files: image `i` is frame `frames[i]` (from 0) of `files[i]`."""

    def __init__(self, ids: Iterable[str], files: Iterable[str | Path], frames: Iterable[int]):
        super().__init__(ids, files)
        self.frames = list(frames)

    def load(self, i: int, min_side: int | None = None) -> Image.Image:
        return self.load_noted(i, min_side)[0]

    def load_noted(self, i: int, min_side: int | None = None) -> tuple[Image.Image, str]:
        with said_file(self.files[i]):
            return decode_noted(Path(self.files[i]), min_side=min_side, frame=self.frames[i])

    def subset(self, indices: Iterable[int]) -> FrameImages:
        indices = list(indices)
        parts = (self.ids, self.files, self.frames)
        return FrameImages(*([part[i] for i in indices] for part in parts))

    def key(self) -> str:
        own = super().key()
        return content_key(own, self.frames) if any(self.frames) else own


def with_frames(
    images: FileImages, limit: int = LIMIT, executor: Executor | None = None
) -> tuple[FrameImages, list[int], list[tuple[str, str, str]]]:
    """The images, with several entries for animations and files of several pages.

    The first entry of a file has its id and frame 0, those behind it `id#frame=12`; up to `limit`
    in all, see `distinct_frames`. Only files are opened that may have several, by their header.

    Returns:
        The images; for each the number of its file in `images`; notes (id, file, `NOTE` and what
        is used) on files of which frames are left out.
    """
    several = [i for i, file in enumerate(images.files) if has_frames(file)]
    look = partial(_look_through, images.files, limit)
    looked = executor.map(look, several, desc="frames") if executor else map(look, several)
    numbers = {i: [0] for i in range(len(images))}
    notes = []
    for i, (used, note) in zip(several, looked, strict=True):
        numbers[i] = used
        notes += [(images.ids[i], images.files[i], note)] if note else []
    entries = [(i, frame) for i, used in numbers.items() for frame in used]
    names = [images.ids[i] + (f"#frame={frame}" if frame else "") for i, frame in entries]
    files = [images.files[i] for i, _ in entries]
    return (
        FrameImages(names, files, [frame for _, frame in entries]),
        [i for i, _ in entries],
        notes,
    )


def _look_through(files: Sequence[str], limit: int, i: int) -> tuple[list[int], str]:
    used = distinct_frames(Path(files[i]), limit)
    return used, frames_note(Path(files[i]), used)


class GeneratedImages(ImageSet):
    """Images drawn by a function: `draw(item)` gives PIL RGB for the item of each id.

    `draw` is deterministic and picklable (a module-level function, or a `functools.partial` of
    one); `parameters` (JSON-able) is everything beside the items that changes what it draws.
    """

    def __init__(
        self,
        ids: Iterable[str],
        draw: Callable[[Any], Image.Image],
        items: Sequence[Any],
        parameters: Any,
    ):
        super().__init__(ids)
        self.draw, self.items, self.parameters = draw, list(items), parameters

    def load(self, i: int, min_side: int | None = None) -> Image.Image:
        return self.draw(self.items[i])

    def subset(self, indices: Iterable[int]) -> GeneratedImages:
        indices = list(indices)
        ids, items = [self.ids[i] for i in indices], [self.items[i] for i in indices]
        return GeneratedImages(ids, self.draw, items, self.parameters)

    def key(self) -> str:
        return content_key(self.ids, self.items, self.parameters)


def drop(images: ImageSet, bad_ids: Collection[str]) -> ImageSet:
    """The set without the images of `bad_ids`, in the same order."""
    bad_ids = set(bad_ids)
    return images.subset(i for i, identity in enumerate(images.ids) if identity not in bad_ids)
