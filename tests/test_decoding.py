"""Damaged, animated, transparent and oddly named pictures, made on the fly."""

import io
import os
import pickle
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_images import encoded, pixels

from iscutils.files import images as sets
from iscutils.files.artifacts import KitError
from iscutils.files.executor import Executor
from iscutils.files.formats import FORMATS, picture_kind
from iscutils.files.frames import tiff_pages
from iscutils.files.images import (
    FileImages,
    ImageError,
    decode,
    decode_frames,
    decode_noted,
    frame_count,
    look_at,
    open_folder,
    scan_folder,
    with_frames,
)


def photo(width=160, height=128, seed=0):
    """A textured colour image (H, W, 3) uint8 whose rows all differ."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


# What is missing


@pytest.mark.parametrize("missing", [1, 2, 3, 40, 200])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}],
    ids=["plain", "progressive", "rows", "blocks"],
)
def test_a_jpeg_without_its_last_bytes_keeps_the_rows_that_are_there(missing, options):
    data = encoded(photo(320, 320), "JPEG", quality=95, **options)
    whole = pixels(decode(data))
    image, note = decode_noted(data[:-missing])
    rows = image.height
    assert 288 <= rows <= 320
    assert rows == 320 or missing > 2
    assert note.startswith("used: lacks its last bytes, ")
    if options.get("progressive"):  # the last scan refines
        assert np.abs(pixels(image) - whole[:rows]).mean() < 2
    else:
        assert (pixels(image) == whole[:rows]).all()
    assert decode(data[:-missing], min_side=150).size == (160, rows // 2)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_jpegs_without_an_end(mode):
    data = encoded(photo().convert(mode), "JPEG", quality=95)
    assert (pixels(decode(data[:-2])) == pixels(decode(data))).all()


@pytest.mark.parametrize("colour", ["white", "black", "gray"])
def test_missing_rows_of_a_plain_jpeg_are_not_taken_for_gray_ones(colour):
    data = encoded(Image.new("RGB", (512, 512), colour), "JPEG")
    start = data.index(b"\xff\xda")
    for share in (0.3, 0.7):
        with pytest.raises(ImageError, match="truncated"):
            decode(data[: start + int((len(data) - start) * share)])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_a_jpeg_that_lacks_more_is_truncated(share, options):
    data = encoded(photo(320, 320), "JPEG", quality=95, **options)
    with pytest.raises(ImageError, match=r"^truncated$"):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "1", "I;16"])
def test_a_png_without_its_last_bytes_keeps_its_rows(mode):
    image = photo(100, 200)
    if mode == "I;16":
        values = np.random.default_rng(0).integers(0, 2**16, (200, 100)).astype(np.uint16)
        image = Image.fromarray(values)
    else:
        image = image.convert(mode)
    data = encoded(image, "PNG")
    short, note = decode_noted(data[: int(len(data) * 0.97)])
    assert 180 <= short.height < 200
    assert "of its rows are there" in note
    assert (pixels(short) == pixels(decode(data))[: short.height]).all()


def test_a_damaged_png_is_not_rescued():
    data = bytearray(encoded(photo(100, 200), "PNG")[:-12])
    data[len(data) // 2] ^= 255
    with pytest.raises(ImageError, match=r"damaged|truncated"):
        decode(bytes(data))


def test_orientation_holds_for_what_is_left():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(320, 320), "JPEG", quality=95, exif=exif)
    whole, short = pixels(decode(data)), pixels(decode(data[:-200]))
    rows = short.shape[1]
    assert short.shape[0] == 320 > rows
    assert (short == whole[:, -rows:]).all()


# Transparency


def logo(colours, background=(0, 0, 0, 0), size=(120, 80)):
    image = Image.new("RGBA", size, background)
    draw = ImageDraw.Draw(image)
    width = size[0] // len(colours)
    for k, colour in enumerate(colours):
        draw.ellipse((k * width + 8, 20, (k + 1) * width - 8, 60), fill=colour)
    return image


@pytest.mark.parametrize(
    ("colours", "ground"),
    [
        (["white"], 0),
        (["#f4f4f4", "white"], 0),
        (["black"], 255),
        (["navy", "#c33"], 255),
        (["white", "black"], 128),
        (["#ffffff80"], 0),
        (["#00000080"], 255),
        (["#888"], 255),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_the_ground_on_which_it_shows(colours, ground, format):
    options = {"lossless": True} if format == "WEBP" else {}
    image = decode(encoded(logo(colours), format, **options))
    assert image.getpixel((0, 0)) == (ground,) * 3
    assert pixels(image).std() > 10  # it is seen


def test_a_bright_photograph_with_round_corners_stays_on_white():
    image = photo(200, 200).point(lambda value: 200 + value // 5).convert("RGBA")
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 199, 199), 30, fill=255)
    image.putalpha(mask)
    assert decode(encoded(image, "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_an_opaque_picture_with_alpha_stays_as_it_is():
    image = Image.new("RGB", (40, 40), "white")
    assert (pixels(decode(encoded(image.convert("RGBA"), "PNG"))) == 255).all()


# Frames


def film(colours, format, **options):
    first, *others = (Image.new("RGB", (16, 16), colour) for colour in colours)
    if format != "TIFF":
        options = {"duration": 50} | options
    if format == "WEBP":
        options["lossless"] = True
    if format == "AVIF":
        options["quality"] = 100
    return encoded(first, format, save_all=True, append_images=others, **options)


ANIMATED = ["GIF", "PNG", "WEBP", "TIFF"] + (["AVIF"] if "AVIF" in FORMATS else [])


@pytest.mark.parametrize("format", ANIMATED)
def test_first_middle_and_last_of_the_frames(format):
    colours = ["red", "lime", "blue", "yellow", "black"]
    data = film(colours, format)
    assert frame_count(data) == 5
    frames = decode_frames(data)
    assert [number for number, _ in frames] == [0, 2, 4]
    for number, image in frames:
        expected = np.asarray(Image.new("RGB", (1, 1), colours[number])).astype(int)
        assert np.abs(pixels(image)[8, 8] - expected).max() < 12
    assert [number for number, _ in decode_frames(data, limit=1)] == [0]
    assert [number for number, _ in decode_frames(data, limit=9)] == [0, 1, 2, 3, 4]
    assert decode_noted(data)[1] == "used: frame 0 of 5, counted from 0"


def test_frames_that_come_again_count_once():
    data = film(["red", "lime", "red", "lime", "red", "blue"], "TIFF")
    assert [number for number, _ in decode_frames(data)] == [0, 1, 5]


def test_reduced_copies_among_the_pages_of_a_tiff_do_not_count():
    thumbnail = photo(16, 16)
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    data = encoded(photo(), "TIFF", save_all=True, append_images=[thumbnail, photo(seed=1)])
    assert frame_count(data) == 2
    assert [number for number, _ in decode_frames(data)] == [0, 2]


def test_a_long_film_is_looked_through_only_so_far(monkeypatch):
    monkeypatch.setattr("iscutils.files.frames.MOST_FRAMES", 10)
    colours = [(k, 0, 255 - k) for k in range(100)]
    assert [number for number, _ in decode_frames(film(colours, "GIF"))] == [0, 4, 9]
    assert [number for number, _ in decode_frames(film(colours, "TIFF"))] == [0, 44, 99]


def test_frames_behind_a_damaged_one_are_left_out():
    data = film(["red", "lime", "blue", "yellow"], "GIF")
    frames = decode_frames(data[: len(data) * 2 // 3])
    assert frames[0][0] == 0
    assert len(frames) < 3


def test_with_frames(tmp_path):
    photo().save(tmp_path / "a.jpg")
    (tmp_path / "b.gif").write_bytes(film(["red", "lime", "blue", "white"], "GIF"))
    (tmp_path / "c.png").write_bytes(film(["red", "lime"], "PNG"))
    photo().save(tmp_path / "d.png")
    (tmp_path / "e.gif").write_bytes(b"GIF89a nothing")
    images = open_folder(tmp_path)
    found, owners, notes = with_frames(images)
    assert found.ids == ["a", "b", "b#frame=2", "b#frame=3", "c", "c#frame=1", "d", "e"]
    assert owners == [0, 1, 1, 1, 2, 2, 3, 4]
    assert notes == [("b", str(tmp_path / "b.gif"), "used: frames 0, 2, 3 of 4, counted from 0")]
    some = pickle.loads(pickle.dumps(found.subset([5, 2])))
    assert some.files == [str(tmp_path / "c.png"), str(tmp_path / "b.gif")]
    assert some.load(0).getpixel((8, 8)) == (0, 255, 0)
    assert some.load_noted(1)[1] == ""
    assert some.key() != FileImages(some.ids, some.files).key()
    assert with_frames(images, limit=1)[0].key() == images.key()
    parallel = with_frames(images, executor=Executor())
    assert (parallel[0].ids, *parallel[1:]) == (found.ids, owners, notes)


# Which files are pictures


def signed(kind):
    """A small file of a format, or bytes that begin like one."""
    box = {
        "HEIF": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "JXL": b"\0\0\0\x0cJXL \r\n\x87\n",
    }
    return box[kind] if kind in box else encoded(photo(), kind)


@pytest.mark.parametrize("kind", [*FORMATS, "HEIF", "JXL"])
def test_formats_are_known_by_their_first_bytes(kind):
    assert picture_kind(signed(kind)[:64]) == kind


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"BMW cars are listed here",
        b"\0\0\0\x18ftypisom\0\0\0\0mp42",
        b"RIFF\0\0\0\0WAVE",
        b"%PDF",
    ],
)
def test_other_files_are_not_pictures(head):
    assert picture_kind(head) == ""


@pytest.mark.parametrize(
    "name", ["a.HEIC", "a.jfif", "a.jpe", "photo", "a.jpg_large", "holiday.2019", "a.txt"]
)
def test_a_jpeg_is_one_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(photo(), "JPEG"))
    images = open_folder(tmp_path)
    assert images.files == [str(tmp_path / name)]
    assert images.load(0).size == (160, 128)


@pytest.mark.parametrize("format", ["MPO", "AVIF", "JPEG2000"])
def test_further_formats_are_read(tmp_path, format):
    if format not in (*FORMATS, "MPO"):
        pytest.skip(f"this Pillow reads no {format}")
    options = {"save_all": True, "append_images": [photo(seed=1)]} if format == "MPO" else {}
    data = encoded(photo(), format, **options)
    image, note = decode_noted(data)
    assert np.abs(pixels(image) - pixels(photo())).mean() < 6
    assert note == ""


def test_what_cannot_be_read_says_why(monkeypatch):
    with pytest.raises(ImageError, match="JPEG XL is not supported: convert it"):
        decode(signed("JXL"))
    monkeypatch.setattr("iscutils.files.formats._heif", lambda: False)
    with pytest.raises(ImageError, match=r"iscutils\[heif\]"):
        decode(signed("HEIF"))


def test_heic_with_its_package():
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    data = encoded(photo(), "HEIF", quality=95)
    assert np.abs(pixels(decode(data)) - pixels(photo())).mean() < 6


def test_scan_lists_what_it_leaves_out(tmp_path):
    photo().save(tmp_path / "a.jpg")
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "raw.NEF").write_bytes(encoded(photo(), "TIFF"))
    (tmp_path / "sub").mkdir()
    photo().save(tmp_path / "sub" / "b.jpg")
    (tmp_path / ".hidden").mkdir()
    photo().save(tmp_path / ".hidden" / "c.jpg")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(tmp_path)
        bound.bind("socket.png")
    files, left = scan_folder(tmp_path)
    names = [os.path.relpath(file, tmp_path) for file in files]
    assert names == ["a.jpg", "link.jpg", "page.jpg", "sub/b.jpg"]
    assert {os.path.basename(path): reason.partition(":")[0] for path, reason in left} == {
        "circle": "link to a folder, not followed",
        "pipe.jpg": "a named pipe, not a file",
        "raw.NEF": "raw file of a camera",
        "socket.png": "a socket, not a file",
    }
    assert open_folder(tmp_path).left_out == left


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_folders_that_cannot_be_opened_are_listed(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert scan_folder(tmp_path)[1][0][1] == "folder cannot be opened: Permission denied"


def test_folders_that_cannot_be_opened_are_listed_whoever_asks(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert scan_folder(tmp_path) == (
        [],
        [(str(tmp_path / "closed"), "folder cannot be opened: Permission denied")],
    )
    with pytest.raises(KitError, match=r"holds no images .*closed .folder cannot be opened"):
        open_folder(tmp_path)


def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="a named pipe, not a file"):
        decode(tmp_path / "a.jpg")
    assert not sets.looks_like_picture(tmp_path / "a.jpg")


def test_look_at_tells_losses_from_notes(tmp_path):
    data = encoded(photo(320, 320), "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(data[:-2])
    (tmp_path / "b.jpg").write_bytes(data[:5000])
    (tmp_path / "c.jpg").write_bytes(data)
    bad, noted = look_at(open_folder(tmp_path), Executor())
    assert [(row[0], row[2]) for row in bad] == [("b", "truncated")]
    assert [(row[0], row[2]) for row in noted] == [
        ("a", "used: lacks its last bytes, 100.0 % of its rows are there")
    ]


# Large pictures


def jpeg_header(data, width, height):
    """A JPEG that says another size in its header."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def test_a_jpeg_above_the_limit_is_decoded_at_reduced_scale():
    data = encoded(photo(400, 320), "JPEG")
    assert decode(data, max_pixels=128_000).size == (400, 320)
    assert decode(data, max_pixels=127_999).size == (200, 160)
    assert decode(data, max_pixels=20_000).size == (100, 80)
    with pytest.raises(ImageError, match="400 x 320 pixels are more than the limit of 12000"):
        decode(data, max_pixels=12_000)  # ten times the limit and more
    scans = encoded(photo(400, 320), "JPEG", progressive=True)
    assert decode(scans, max_pixels=60_000).size == (200, 160)
    with pytest.raises(ImageError, match="more than the limit"):
        decode(scans, max_pixels=20_000)


def test_a_jpeg_bomb_is_refused_from_its_header():
    begin = time.perf_counter()
    with pytest.raises(ImageError, match="65000 x 65000 pixels are more than the limit"):
        decode(jpeg_header(encoded(photo(), "JPEG"), 65000, 65000))
    assert time.perf_counter() - begin < 2


# Fuzz


def mutated(data, rng):
    """A copy with bytes changed, removed, repeated or cut off."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(len(data)))
        length = int(rng.integers(1, 40))
        match int(rng.integers(5)):
            case 0:
                data[place] = int(rng.integers(256))
            case 1:
                data[place : place + length] = rng.bytes(length)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                del data[max(20, place) :]
    return bytes(data)


@pytest.mark.parametrize("format", [*FORMATS, "APNG", "MPO", "progressive"])
def test_mutated_files_give_a_picture_or_an_image_error(format, tmp_path):
    name = {"APNG": "PNG", "progressive": "JPEG"}.get(format, format)
    small = photo(48, 40)
    options = {"progressive": True} if format == "progressive" else {}
    if format in ("APNG", "GIF", "TIFF", "WEBP", "MPO"):
        options |= {"save_all": True, "append_images": [photo(48, 40, seed=1), small]}
    data = encoded(small, name, **options)
    rng = np.random.default_rng([20, len(format)])
    files = [tmp_path / f"{k}.bin" for k in range(200)]
    for file in files:
        file.write_bytes(mutated(data, rng))
    images = FileImages(map(str, range(200)), files)
    begin = time.perf_counter()
    bad, noted = look_at(images, Executor())
    taken = time.perf_counter() - begin
    lost = {row[0] for row in bad}
    assert all(reason for *_, reason in bad + noted)
    for i, identity in enumerate(images.ids):
        if identity not in lost:
            assert images.load(i, min_side=16).mode == "RGB"  # what was said holds
    found, owners, _ = with_frames(images)
    assert sorted(set(owners)) == list(range(200))
    for i, frame in enumerate(found.frames):
        if frame:
            assert found.load(i).mode == "RGB"
    assert len(lost) > 5
    assert taken < 5


def test_a_png_bomb_is_not_unpacked_to_see_what_it_lacks():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(10_000_000), 9)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", packed)):
        check = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + check
    with pytest.raises(ImageError, match="limit"):
        decode(data[:-6])


@pytest.mark.parametrize("big", [False, True])
def test_pages_of_a_tiff_are_those_of_pillow(big):
    first, *others = (photo(20, 20, seed=k) for k in range(7))
    data = encoded(first, "TIFF", save_all=True, append_images=others, big_tiff=big)
    with Image.open(io.BytesIO(data)) as image:
        assert tiff_pages(data) == list(range(image.n_frames))
    assert tiff_pages(data[:200]) == [0]
