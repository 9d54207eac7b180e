"""Every kind of image file people have on disc, made on the fly."""

import io
import os
import pickle
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import (
    FileImages,
    GeneratedImages,
    ImageError,
    decode,
    drop,
    find_unreadable,
    open_folder,
)

WHITE = (255, 255, 255)


def photo(width=64, height=48):
    """A smooth colour image (H, W, 3) uint8 that survives JPEG."""
    y, x = np.mgrid[:height, :width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    return Image.fromarray(np.stack([red, green, 255 - red], -1).astype(np.uint8))


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_same_pixels(format):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(photo(), format, **options)
    assert (pixels(decode(data)) == pixels(photo())).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_brings_the_picture_upright(orientation, format):
    stored = np.asarray(photo(64, 48))  # HWC
    rows_first = {  # EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored image belong
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: stored.transpose(1, 0, 2)[::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(format, {})
    image = decode(encoded(photo(64, 48), format, exif=exif, **options))
    expected = rows_first[orientation].astype(int)
    assert pixels(image).shape == expected.shape
    assert np.abs(pixels(image) - expected).mean() < 3


def test_broken_exif_does_not_cost_the_picture():
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff broken")
    assert decode(data).size == (64, 48)


def test_cmyk_jpeg_is_stored_inverted_and_cmyk_tiff_is_not():
    orange = Image.new("CMYK", (32, 32), (0, 128, 255, 0))
    jpeg = encoded(orange, "JPEG", quality=95)
    assert b"Adobe" in jpeg
    for data in (jpeg, encoded(orange, "TIFF")):
        assert np.abs(pixels(decode(data)) - (255, 127, 0)).max() <= 6


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_by_the_range_of_the_type(format):
    values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    image = decode(encoded(Image.fromarray(values), format))
    assert pixels(image)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_big_endian_16_bit_tiff():
    values = np.array([[0, 32768, 65535]], ">u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes())
    assert pixels(decode(encoded(image, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_float_and_32_bit_tiff_keep_their_shades():
    floats = Image.fromarray(np.array([[0, 0.5, 1, np.nan]], np.float32))
    assert pixels(decode(encoded(floats, "TIFF")))[0, :, 0].tolist() == [0, 128, 255, 0]
    integers = Image.fromarray(np.array([[0, 2**30, 2**31 - 1]], np.int32))
    assert pixels(decode(encoded(integers, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_1_bit_palette_and_gray():
    one = Image.fromarray(np.array([[True, False]]))
    assert one.mode == "1"
    assert pixels(decode(encoded(one, "PNG")))[0].tolist() == [[255] * 3, [0] * 3]
    palette = photo().quantize(200)
    assert np.abs(pixels(decode(encoded(palette, "PNG"))) - pixels(photo())).mean() < 12
    assert pixels(decode(encoded(photo().convert("L"), "JPEG"))).shape == (48, 64, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    if mode in ("P", "PA"):
        data = encoded(image.convert("P"), "PNG", transparency=0)  # palette entry 0 is clear
        indices = np.asarray(Image.open(io.BytesIO(data)))
        expected = [[255] * 3 if index == 0 else [0] * 3 for index in indices[0]]
        assert [255] * 3 in expected
    else:
        data, expected = encoded(image.convert(mode), "PNG"), [[255] * 3, [0] * 3]
    assert pixels(decode(data))[0].tolist() == expected


def test_half_transparent_is_mixed_with_white():
    data = encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG")
    assert pixels(decode(data))[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_first_frame_of_an_animation(format):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(red, format, save_all=True, append_images=[blue], duration=50)
    assert np.abs(pixels(decode(data))[4, 4] - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.85])
def test_truncated_files_are_errors_and_never_gray(format, share, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as other libraries set it
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format)
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        decode(data[: int(len(data) * share)])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # put back


def test_half_a_jpeg_says_truncated():
    data = encoded(photo(256, 256), "JPEG")
    with pytest.raises(ImageError, match=r"^truncated$"):
        decode(data[: len(data) // 2])


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "drawing.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, reason in {
        "empty.jpg": "empty file",
        "page.jpg": "not a JPEG",
        "drawing.jpg": "not a JPEG",  # Ghostscript is never started
        "gone.jpg": "cannot open: No such file",
    }.items():
        with pytest.raises(ImageError, match=reason):
            decode(tmp_path / name)


def bomb(width, height):
    """A PNG header that promises many pixels, and holds none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    crc = struct.pack(">I", zlib.crc32(chunk))
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    )


def test_decompression_bombs_are_refused_from_the_header():
    with pytest.raises(ImageError, match="12000 x 9000 pixels are more than the limit"):
        decode(bomb(12_000, 9_000))
    with pytest.raises(ImageError, match="more pixels than the limit"):
        decode(bomb(100_000, 100_000))
    with pytest.raises(ImageError, match="64 x 48 pixels are more than the limit of 3071"):
        decode(encoded(photo(), "PNG"), max_pixels=3071)
    assert decode(encoded(photo(), "PNG"), max_pixels=3072).size == (64, 48)


@pytest.mark.parametrize(("min_side", "short"), [(None, 800), (801, 800), (400, 400), (101, 200)])
def test_draft_decoding_never_goes_below_min_side(min_side, short):
    full = photo(1600, 800)
    image = decode(encoded(full, "JPEG", quality=95), min_side=min_side)
    assert image.size == (2 * short, short)
    shrunk = full.resize(image.size, Image.Resampling.BOX)
    assert np.abs(pixels(image) - pixels(shrunk)).mean() < 3


def test_min_side_with_rotation():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(1600, 800), "JPEG", exif=exif)
    assert decode(data, min_side=200).size == (200, 400)


def test_open_folder_sorts_by_id_and_goes_into_folders(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.Jpeg", "übung 1.webp", ".hidden.jpg", "._a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo().save(tmp_path / name, {".webp": "WEBP", ".png": "PNG"}.get(name[-4:], "JPEG"))
    (tmp_path / "notes.txt").write_text("no image")
    images = open_folder(tmp_path)
    assert images.ids == ["a", "b", "c", "übung 1"]
    assert images.path(2) == tmp_path / "sub" / "c.Jpeg"
    assert [images.load(i).size for i in range(4)] == [(64, 48)] * 4
    assert open_folder(tmp_path, recursive=False).ids == ["a", "b", "übung 1"]


def test_ids_are_composed_unicode(tmp_path):
    name = unicodedata.normalize("NFD", "café.png")
    photo().save(tmp_path / name)
    images = open_folder(tmp_path)
    assert images.ids == ["café"]
    assert images.load(0).size == (64, 48)


def test_names_that_are_not_utf8_get_an_id_that_can_be_written(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
            file.write(encoded(photo(), "PNG"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    images = open_folder(tmp_path)
    assert images.ids == ["\ufffd"]
    assert images.load(0).size == (64, 48)


def test_duplicate_names_of_a_benchmark_name_both_files(tmp_path):
    photo().save(tmp_path / "a.png")
    photo().save(tmp_path / "a.jpg")
    with pytest.raises(KitError, match=r"a\.jpg and .*a\.png"):
        open_folder(tmp_path, by_name=True)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(KitError, match="nowhere does not exist"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(KitError, match="holds no images"):
        open_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(KitError, match="is a file, not a folder"):
        open_folder(tmp_path / "file")


def test_subset_key_and_pickle(tmp_path):
    for name in "abc":
        photo().save(tmp_path / f"{name}.png")
    images = open_folder(tmp_path)
    some = images.subset([2, 0])
    assert some.ids == ["c", "a"]
    assert some.path(0) == tmp_path / "c.png"
    assert some.key() != images.key() == open_folder(tmp_path).key()
    copy = pickle.loads(pickle.dumps(images))
    assert copy.ids == images.ids
    assert copy.key() == images.key()
    former = images.key()
    photo(65).save(tmp_path / "a.png")
    changed = images.key()
    assert changed != former
    (tmp_path / "a.png").unlink()
    assert images.key() not in (former, changed)


def plain_colour(value):
    return Image.new("RGB", (4, 4), (value, 0, 0))


def test_generated_images():
    images = GeneratedImages(["x", "y", "z"], plain_colour, [1, 2, 3], {"version": 1})
    assert images.subset([2]).load(0).getpixel((0, 0)) == (3, 0, 0)
    assert images.path(0) is None
    assert images.key() != GeneratedImages(images.ids, plain_colour, [1, 2, 3], {}).key()


def test_find_unreadable_names_every_bad_file_once_and_drop_leaves_the_rest(tmp_path):
    for name in ("a", "c", "e"):
        photo().save(tmp_path / f"{name}.jpg")
    (tmp_path / "b.jpg").touch()
    (tmp_path / "d.png").write_text("text")
    half = encoded(photo(300, 300), "JPEG")
    (tmp_path / "f.jpg").write_bytes(half[: len(half) // 2])
    images = open_folder(tmp_path)
    with open_executor("serial") as executor:
        rows = find_unreadable(images, executor)
    assert [row[0] for row in rows] == ["b", "d", "f"]
    assert [row[1] for row in rows] == [str(tmp_path / n) for n in ("b.jpg", "d.png", "f.jpg")]
    assert [row[2][:10] for row in rows] == ["empty file", "not a JPEG", "truncated"]
    kept = drop(images, {row[0] for row in rows})
    assert kept.ids == ["a", "c", "e"]
    assert kept.path(2) == tmp_path / "e.jpg"


def test_load_says_which_file(tmp_path):
    images = FileImages(["a"], [tmp_path / "a.jpg"])
    with pytest.raises(ImageError) as caught:
        images.load(0)
    assert caught.value.__notes__ == [f"file: {tmp_path / 'a.jpg'}"]
