"""`find` on what people have: equal files, links, animations, many copies, names of all kinds."""

import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageDraw

from iscutils.__main__ import main
from iscutils.datasets.builtin import builtin_images
from iscutils.files.names import unwritten, written
from iscutils.find import open_pictures

MODEL = ["--model", "release-64", "--workers", "1"]
BREAK, LATIN = "two\nlines.png", os.fsdecode(b"caf\xe9.png")


def blank(kind):
    """A picture in which nothing stands out, (64, 48) px or 1 x 1."""
    if kind == "pixel":
        return Image.new("RGB", (1, 1), "red")
    image = Image.new(
        "RGB", (64, 48), {"black": "black", "scan": (250, 248, 240)}.get(kind, "white")
    )
    if kind == "line":
        ImageDraw.Draw(image).text((4, 20), "not much", "black")
    return image


BLANKS = ("white", "black", "scan", "line", "pixel")


def animate(path, *frames):
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A working directory with `new` and `old` pictures, what a search printed, and its run."""
    here = tmp_path_factory.mktemp("odd")
    new, old = here / "new", here / "old"
    new.mkdir()
    old.mkdir()
    photos = [builtin_images("reference", 6).load(i) for i in range(6)]
    for kind in BLANKS:
        blank(kind).save(old / f"{kind}.png")
        (new / f"bytes-{kind}.png").write_bytes((old / f"{kind}.png").read_bytes())
        blank(kind).save(new / f"pixels-{kind}.bmp")
    photos[0].save(old / "photo.jpg")
    Image.open(old / "photo.jpg").save(new / "pixels-photo.png")
    photos[1].save(old / "linked.jpg")
    os.link(old / "linked.jpg", new / "hard.jpg")
    os.symlink(old / "linked.jpg", new / "soft.jpg")
    for i in range(12):  # more copies than are listed of what is not likely
        photos[2].save(old / f"again-{i:02d}.jpg", quality=60 + i)
    photos[2].save(new / "many.png")
    title = Image.new("RGB", (160, 120), "navy")
    still = [photo.resize((160, 120)) for photo in photos]
    animate(old / "film.gif", title, still[3], still[4])
    other = builtin_images("distractor", 1).load(0).resize((160, 120))
    animate(new / "other film.gif", title, other, still[4].rotate(3))
    for name in ("=cmd.png", BREAK, LATIN):
        photos[5].save(new / name)
        photos[5].save(old / name, compress_level=1)
    os.symlink(new, old / "more")
    runs = here / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISCUTILS_RUNS", str(runs))
        patch.chdir(here)
        patch.setattr("builtins.print", (printed := []).append)
        assert main(["find", "new", "--among", "old", *MODEL]) == 0
    return here, printed, runs / "find-old"


@pytest.fixture(scope="module")
def matches(searched):
    return pd.read_csv(searched[2] / "matches.csv", keep_default_na=False)


@pytest.mark.parametrize("kind", BLANKS)
def test_equal_files_and_equal_pixels_are_found_where_nothing_stands_out(kind, matches):
    for query, reason in (
        (f"bytes-{kind}.png", "equal file"),
        (f"pixels-{kind}.bmp", "equal pixels"),
    ):
        rows = matches[matches.query_id == f"new/{query}"]
        first = rows.iloc[0]
        assert (first.reference_id, first.score, first.reason) == (f"old/{kind}.png", 1, reason)
        assert (rows.score[1:] < 1).all()
    equal = matches.reason != "points"
    assert equal[: equal.sum()].all()


def test_pixels_of_another_format_are_equal(matches):
    first = matches[matches.query_id == "new/pixels-photo.png"].iloc[0]
    assert (first.reference_id, first.score, first.reason) == ("old/photo.jpg", 1, "equal pixels")


def test_a_link_is_no_copy_and_is_said_to_be_one(searched, matches):
    named = matches.query_id.isin(["new/hard.jpg", "new/soft.jpg"])
    assert not (named & (matches.reference_id == "old/linked.jpg")).any()
    _, printed, run = searched
    assert any("2 pictures are references under another name" in line for line in printed)
    skipped = pd.read_csv(run / "skipped.csv").set_index("image_id")
    assert set(skipped.loc[["old/linked.jpg"], "reason"]) == {
        f"used: one file with new/{name}.jpg, by a link, and no copy of it"
        for name in ("hard", "soft")
    }


def test_a_linked_folder_is_said_to_be_left_out(searched):
    skipped = pd.read_csv(searched[2] / "skipped.csv").set_index("image_id")
    place = str(searched[0] / "old" / "more")
    assert skipped.loc[place, "reason"].startswith("link to a folder, not followed")


def test_all_likely_originals_are_listed(matches):
    likely = matches[(matches.query_id == "new/many.png") & (matches.score >= 0.5)]
    assert sorted(likely.reference_id) == [f"old/again-{i:02d}.jpg" for i in range(12)]


def test_the_best_frames_of_two_animations_count(matches):
    row = matches[matches.query_id == "new/other film.gif"].iloc[0]
    assert row.reference_id == "old/film.gif"
    assert row.score >= 0.5
    assert (int(row.query_frame), int(row.reference_frame)) == (2, 2)


def test_names_come_back_from_the_table(searched, matches):
    here, printed, _ = searched
    odd = matches[(matches.reason == "equal pixels") & matches.query_id.str.contains("=|caf|two")]
    names = {"new/=cmd.png", f"new/{BREAK}", f"new/{LATIN}"}
    assert {os.path.normpath(unwritten(name)) for name in odd.query_id} == {
        os.path.normpath(name) for name in names
    }
    assert all((here / unwritten(name)).exists() for name in (*odd.query_id, *odd.reference_id))
    assert any(r"new/two\x0alines.png" in line for line in printed)
    assert not any("\n" in line for line in printed)


def test_the_report_shows_reasons_frames_and_notes(searched):
    page = (searched[2] / "report.html").read_text(encoding="utf-8")
    for text in ("equal pixels", "q:new/other film.gif#frame=2", "under another name, by a link"):
        assert text in page


def test_no_result_is_overwritten_and_descriptors_are_shared(searched, monkeypatch, capsys):
    here, _, run = searched
    monkeypatch.setenv("ISCUTILS_RUNS", str(run.parent))
    monkeypatch.chdir(here)
    before = (run / "matches.csv").read_bytes()
    described = sorted(path.name for path in (run / "descriptors").glob("references-*"))
    assert main(["find", "new/=cmd.png", "--among", "old", *MODEL, "--rows", "1"]) == 0
    assert (run / "matches.csv").read_bytes() == before
    printed = capsys.readouterr().out
    other = Path(printed.split("all pairs:")[1].split()[0])
    assert other.exists()
    assert other.parent.parent.resolve() == run.parent.resolve()
    assert "1 picture has more likely originals than the 1 that are listed: --rows 3" in printed
    again = sorted(path.name for path in (run / "descriptors").glob("references-*"))
    assert again == described
    assert not (other.parent / "descriptors").exists()


def test_a_written_name_is_taken_as_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blank("white").save(tmp_path / LATIN)
    for given in (LATIN, written(LATIN)):
        pictures = open_pictures([given])
        assert pictures.ids == [r"caf\xe9.png"]
        assert pictures.files == [str(tmp_path / LATIN)]


def test_messages_name_what_cannot_be_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"\x89PNG" + bytes(i))
    files = [str(tmp_path / f"{i}.png") for i in range(4)]
    assert main(["find", *files, "--among", str(tmp_path), *MODEL]) == 1
    message = capsys.readouterr().err
    assert "none of the 4 images of 'queries' can be read" in message
    for i in range(3):
        assert f"{i}.png (damaged or truncated" in message
    assert "3.png" not in message


def test_one_copy_of_one_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    blank("white").save(tmp_path / "old" / "a.png")
    (tmp_path / "-b.png").write_bytes((tmp_path / "old" / "a.png").read_bytes())
    assert main(["find", *MODEL, "--among", "old", "--", "-b.png"]) == 0
    assert "-b.png   old/a.png        1.00           equal file" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "runs" / "find-old" / "matches.csv")
    assert table.query_id.tolist() == ["./-b.png"]
