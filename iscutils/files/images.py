"""Images of folders: opened as sets, and looked at before they are used.

Decoding, sets and the search for files are in modules of their own; their functions are names of
this one, too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from iscutils.files.artifacts import NOTE, KitError, is_note, resolve
from iscutils.files.decoding import MAX_PIXELS, ImageError, decode
from iscutils.files.formats import FORMATS, SUFFIXES, looks_like_picture
from iscutils.files.frames import decode_frames, decode_noted, distinct_frames, frame_count
from iscutils.files.ids import file_name_of, folder_ids, image_id, stem_of
from iscutils.files.image_sets import (
    FileImages,
    FrameImages,
    GeneratedImages,
    ImageSet,
    drop,
    with_frames,
)
from iscutils.files.scanning import image_files, no_images, scan_folder, warn

if TYPE_CHECKING:
    from iscutils.files.executor import Executor

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "NOTE",
    "SUFFIXES",
    "FileImages",
    "FrameImages",
    "GeneratedImages",
    "ImageError",
    "ImageSet",
    "decode",
    "decode_frames",
    "decode_noted",
    "distinct_frames",
    "drop",
    "file_name_of",
    "find_unreadable",
    "frame_count",
    "image_files",
    "image_id",
    "is_note",
    "look_at",
    "looks_like_picture",
    "open_folder",
    "scan_folder",
    "with_frames",
]

Rows = list[tuple[str, str, str]]  # (image_id, file, reason)


def open_folder(path: str | Path, recursive: bool = True, *, by_name: bool = False) -> FileImages:
    """The picture files of a folder, see `scan_folder`, sorted by id.

    Ids are names without ending, and paths in the folder where names repeat, see `folder_ids`; with
    `by_name`, as a benchmark needs it, names that repeat are an error. What is left out is logged.

    Raises `KitError` for a missing folder, one without images, and two files of one id.
    """
    files, left = scan_folder(path, recursive)
    if not files:
        raise no_images(path, left)
    warn(path, left)
    ids = [stem_of(file) for file in files] if by_name else folder_ids(files, resolve(path))
    found: dict[str, str] = {}
    for identity, file in zip(ids, files, strict=True):
        if identity in found:
            raise KitError(
                f"two images have the id '{identity}': {found[identity]} and {file}; "
                "rename one of them (the id is the file's name without its ending)"
            )
        found[identity] = file
    images = FileImages(sorted(found), [found[identity] for identity in sorted(found)])
    images.left_out = left
    return images


def look_at(images: ImageSet, executor: Executor) -> tuple[Rows, Rows]:
    """Decode every file: rows of those that fail, and of those that are used with a note.

    Rows are (image_id, file, reason); reasons of notes begin with `NOTE`. Generated images have no
    file and are taken as readable.
    """
    files = [i for i in range(len(images)) if images.path(i) is not None]
    reasons = executor.map(partial(remark, images), files, desc="reading images", chunk=8)
    rows = [
        (images.ids[i], str(images.path(i)), reason)
        for i, reason in zip(files, reasons, strict=True)
        if reason
    ]
    return [row for row in rows if not is_note(row[2])], [row for row in rows if is_note(row[2])]


def find_unreadable(images: ImageSet, executor: Executor) -> Rows:
    """Decode every file completely and return (image_id, file, reason) of those that fail."""
    return look_at(images, executor)[0]


def remark(images: ImageSet, i: int) -> str:
    """Why image `i` cannot be read, or what there is to note about it; "" for a sound one."""
    try:
        return images.load_noted(i)[1]
    except ImageError as error:
        return str(error)
