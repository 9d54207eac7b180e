"""Equal files and equal pixels, beside comparing every file with every other."""

import itertools
import os

import numpy as np
import pytest
from PIL import Image

from iscutils.files.equal import equal_files, equal_pixels, file_states, linked_pairs
from iscutils.files.executor import Executor
from iscutils.files.images import FileImages


@pytest.fixture
def files(tmp_path):
    """Contents of one size and of several, an empty file twice, links, and one that is gone."""
    contents = [b"aaaa", b"aaab", b"aaaa", b"bb", b"aaaa", b"", b"", b"bb", b"c" * 9]
    paths = [tmp_path / f"{i}.jpg" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    os.link(paths[0], tmp_path / "hard.jpg")
    os.symlink(paths[3], tmp_path / "soft.jpg")
    return [str(path) for path in (*paths, tmp_path / "hard.jpg", tmp_path / "soft.jpg",
                                   tmp_path / "gone.jpg")]  # fmt: skip


def read(path):
    return open(path, "rb").read() if os.path.exists(path) else b""


def same(one, other):
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def test_equal_files_are_those_of_the_same_bytes(files):
    queries, references = files[1:], files
    expected = [
        (q, r) for q, one in enumerate(queries) for r, other in enumerate(references)
        if read(one) and read(one) == read(other) and not same(one, other)
    ]  # fmt: skip
    assert expected
    assert equal_files(file_states(queries), file_states(references), 99) == expected
    first = {}
    for pair in expected:
        first.setdefault(pair[0], pair)
    assert equal_files(file_states(queries), file_states(references), 1) == list(first.values())


def test_links_are_other_names_of_one_file(files):
    states = file_states(files)
    names = [os.path.basename(file) for file in files]
    found = {(names[q], names[r]) for q, r in linked_pairs(states, states)}
    pairs = {("0.jpg", "hard.jpg"), ("3.jpg", "soft.jpg")}
    assert found == pairs | {pair[::-1] for pair in pairs}


def test_only_files_that_share_their_size_are_read(files, monkeypatch):
    opened = []
    monkeypatch.setattr("iscutils.files.equal.file_hash", lambda path: opened.append(path) or path)
    equal_files(file_states(files), file_states(files), 9)
    assert {len(read(path)) for path in opened} == {2, 4}
    assert len(opened) == len(set(opened))


def test_pixels_are_compared_upright_and_whatever_the_format(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8))
    changed = image.copy()
    changed.putpixel((3, 3), (1, 2, 3))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    turned.save(tmp_path / "c.tif", exif=exif)
    changed.save(tmp_path / "d.png")
    turned.save(tmp_path / "e.png")
    (tmp_path / "f.png").write_bytes(b"\x89PNG")
    paths = sorted(path for path in tmp_path.iterdir())
    images = FileImages([path.stem for path in paths], paths)
    every = list(itertools.permutations(range(len(images)), 2))
    found = equal_pixels(every, images, images, Executor())
    assert {"".join(images.ids[i] for i in pair) for pair in found} == {
        "ab", "ba", "ac", "ca", "bc", "cb"
    }  # fmt: skip
    assert equal_pixels([], images, images, Executor()) == []
