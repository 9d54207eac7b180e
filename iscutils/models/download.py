"""Published weights by name: one table, and a download that resumes and is checked ever after."""

from __future__ import annotations

import errno
import fcntl
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from iscutils.files.artifacts import KitError, file_hash, log, write_text

_SSCD = "https://dl.fbaipublicfiles.com/sscd-copy-detection"
_DINO = "https://dl.fbaipublicfiles.com/dino"
CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without an answer
_DISC_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR)


@dataclass(frozen=True)
class Weights:
    """A published file of weights."""

    url: str
    layout: str  # torchvision, classy, torchscript or dino
    licence: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


def _sscd(name: str, *layouts: str) -> dict[str, Weights]:
    files = {kind: Weights(f"{_SSCD}/{name}.{kind}.pt", kind, "MIT") for kind in layouts}
    return {name: files[layouts[0]], **{f"{name}.{kind}.pt": w for kind, w in files.items()}}


# The plain name is the first layout; `<name>.<layout>.pt` names any of them.
KNOWN: dict[str, Weights] = {
    **_sscd("sscd_disc_mixup", "torchvision", "classy", "torchscript"),
    **_sscd("sscd_disc_advanced", "torchvision", "classy", "torchscript"),
    **_sscd("sscd_disc_blur", "torchvision", "classy", "torchscript"),
    **_sscd("sscd_disc_large", "classy", "torchscript"),
    **_sscd("sscd_imagenet_mixup", "torchvision", "classy", "torchscript"),
    **_sscd("sscd_imagenet_advanced", "torchvision", "classy", "torchscript"),
    **_sscd("sscd_imagenet_blur", "torchvision", "classy", "torchscript"),
    "dino_vitb16": Weights(
        f"{_DINO}/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth", "dino", "Apache-2.0"
    ),
    "dino_vitb8": Weights(
        f"{_DINO}/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth", "dino", "Apache-2.0"
    ),
}


def cache_folder() -> Path:
    """Where downloaded weights lie: `ISCUTILS_CACHE`, else `~/.cache/iscutils`."""
    return Path(os.environ.get("ISCUTILS_CACHE") or "~/.cache/iscutils").expanduser()


def fetch(name: str) -> Path:
    """Local file of published weights; downloaded when it is not in the cache yet.

    Raises:
        KitError: the name is not in `KNOWN`, the file was changed, or there is no connection.
    """
    if name not in KNOWN:
        raise KitError(f"no published weights are called '{name}': known are {', '.join(KNOWN)}")
    weights = KNOWN[name]
    return download(weights.url, cache_folder() / weights.file)


def download(url: str, path: str | Path) -> Path:
    """Download a file once; it appears whole or not at all, and an interruption is continued.

    Its SHA-256 is written beside it (`<file>.sha256`) at the first download, or at the first use
    of a file that was put there by hand, and compared at every further use.

    Raises:
        KitError: no connection, an interruption, or bytes that changed since the first use.
    """
    path = Path(path)
    if path.is_file() and _record_of(path).is_file():
        _compare(path)  # nothing to write: the cache may be read-only
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(f".{path.name}.lock")):
            if path.is_file():
                _compare(path)
            else:
                _download(url, path)
    except urllib.error.HTTPError as error:
        raise _unreachable(url, path, f"answer {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        if getattr(error, "errno", None) in _DISC_ERRORS:
            raise KitError(
                f"cannot write to {path.parent} ({error.strerror}): free some space, or name "
                "another folder in ISCUTILS_CACHE"
            ) from error
        raise _unreachable(url, path, getattr(error, "reason", error)) from error
    return path


def _download(url: str, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    log.info("downloading %s to %s", url, path.parent)
    total = _receive(url, part)
    if total is not None and part.stat().st_size != total:
        raise KitError(
            f"the download of {url} stopped after {part.stat().st_size:,} of {total:,} bytes: "
            "run the same again, it continues there"
        )
    _note_checksum(path, file_hash(part))
    os.replace(part, path)
    _tag_of(part).unlink(missing_ok=True)


def _receive(url: str, part: Path) -> int | None:
    """Append what is missing to a partial file; return the full size if the server says it."""
    tag = _tag_of(part)
    # Without a tag nobody can say that the rest belongs to the same version of the file.
    done = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "iscutils"})
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag.read_text())  # a newer version is sent whole
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        tag.unlink()  # there is no rest, and what is here was not complete: start afresh
        return _receive(url, part)
    with answer:
        if answer.status == 206:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                raise HTTPException("the server sent another part than asked for")
        else:
            done = 0
            _start_afresh(part, answer.headers.get("ETag") or answer.headers.get("Last-Modified"))
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        name = part.name.removesuffix(".part")
        with (
            open(part, "ab") as file,
            tqdm(total=total, initial=done, desc=name, unit="B", unit_scale=True) as bar,
        ):
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total


def _start_afresh(part: Path, version: str | None) -> None:
    part.unlink(missing_ok=True)
    tag = _tag_of(part)
    tag.unlink(missing_ok=True)
    if version and not version.startswith("W/"):  # weak tags do not hold for parts of a file
        tag.write_text(version)


def _tag_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _note_checksum(path: Path, digest: str) -> None:
    write_text(_record_of(path), f"{digest}  {path.name}\n")  # as `sha256sum --check` reads it


def _compare(path: Path) -> None:
    digest, record = file_hash(path), _record_of(path)
    if not record.exists():
        _note_checksum(path, digest)
        log.info("noted the checksum of %s at its first use", path.name)
    elif record.read_text().split()[:1] != [digest]:
        raise KitError(
            f"{path} is not the file of its first use ({record.name} differs): delete both to "
            "download it again"
        )


def _unreachable(url: str, path: Path, reason: object) -> KitError:
    return KitError(
        f"cannot download {url} ({reason}): connect and run the same again, or put the file by "
        f"hand at {path}"
    )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time: those of a distributed training all ask for the same teacher."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
