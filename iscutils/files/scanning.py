"""Which files of a folder are its pictures, and what is left out."""

from __future__ import annotations

import os
from pathlib import Path

from iscutils.files.artifacts import KitError, log, resolve
from iscutils.files.formats import (
    HEAD,
    RAW_SUFFIXES,
    SUFFIXES,
    kind_of_file,
    picture_kind,
    read_regular,
)

Left = list[tuple[str, str]]  # (path, reason)


def scan_folder(path: str | Path, recursive: bool = True) -> tuple[list[str], Left]:
    """The picture files of a folder, and (path, reason) of what is left out.

    A picture is a regular file whose first bytes are a picture's, whatever its name, and one with a
    picture's ending (which decoding refuses with a reason if its bytes are not). Left out with a
    reason: folders that cannot be opened, links to folders, pipes and devices with a picture's
    ending, raw files of cameras. Hidden files and folders, and other files, go without a word.

    Raises `KitError` for a missing folder.
    """
    folder = resolve(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise KitError(f"image folder {folder} {what}: give a folder that holds images")
    files: list[str] = []
    left: Left = []
    waiting = [str(folder)]
    while waiting:
        below = _scan(waiting.pop(), files, left)
        if recursive:
            left += [(link, _linked(link)) for link, is_link in below if is_link]
            waiting += [sub for sub, is_link in reversed(below) if not is_link]
    return files, left


def _scan(where: str, files: list[str], left: Left) -> list[tuple[str, bool]]:
    """Add what lies in one folder; return its folders, and whether each is a link."""
    try:
        with os.scandir(where) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        left.append((where, f"folder cannot be opened: {error.strerror}"))
        return []
    below = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                below.append((entry.path, entry.is_symlink()))
            elif (reason := _judge(entry)) is None:
                files.append(entry.path)
            elif reason:
                left.append((entry.path, reason))
        except OSError as error:
            left.append((entry.path, f"cannot be opened: {error.strerror}"))
    return below


def _judge(entry: os.DirEntry[str]) -> str | None:
    """None for a picture, why something like one is left out, "" for anything else."""
    ending = os.path.splitext(entry.name)[1].lower()
    named = ending in SUFFIXES
    if not entry.is_file():
        if not named or not os.path.exists(entry.path):
            return None if named else ""  # a broken link: decoding says so
        return f"{kind_of_file(entry.stat().st_mode)}, not a file"
    if ending in RAW_SUFFIXES:
        return "raw file of a camera: not supported, convert it to JPEG"
    if named or picture_kind(read_regular(entry.path, HEAD)):
        return None
    return ""


def _linked(link: str) -> str:
    return f"link to a folder, not followed: give {os.path.realpath(link)} itself"


def image_files(path: str | Path, recursive: bool = True) -> list[str]:
    """The picture files of a folder, see `scan_folder`; what is left out is logged.

    Raises `KitError` for a missing folder and one without images.
    """
    files, left = scan_folder(path, recursive)
    if not files:
        raise no_images(path, left)
    warn(path, left)
    return files


def no_images(path: str | Path, left: Left) -> KitError:
    """The error for a folder without pictures."""
    seen = f"; left out: {said(left)}" if left else ""
    return KitError(f"image folder {resolve(path)} holds no images (expected JPEG, PNG ..){seen}")


def warn(path: str | Path, left: Left) -> None:
    """Log what is left out of a folder."""
    if left:
        log.warning("%s: left out %s", path, said(left))


def said(left: Left, most: int = 3) -> str:
    """The first places that are left out, with reasons."""
    more = f" and {len(left) - most} more" if len(left) > most else ""
    return ", ".join(f"{path} ({reason})" for path, reason in left[:most]) + more
