"""`python -m iscutils find`: originals in folders of folders, with what comes with the kit."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iscutils import edits
from iscutils.__main__ import main
from iscutils.datasets.builtin import builtin_images
from iscutils.descriptors.store import read_descriptors
from iscutils.files.artifacts import KitError
from iscutils.find import open_pictures

EDITS = ["hflip", "crop", "text"]


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Twelve photographs in two folders that use the same file names, and a broken file."""
    folder = tmp_path_factory.mktemp("album")
    photos = builtin_images("reference", 12)
    for i in range(len(photos)):
        path = folder / ("old" if i < 6 else "new") / f"{i % 6}.jpg"
        path.parent.mkdir(exist_ok=True)
        photos.load(i).save(path, quality=90)
    (folder / "new" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture(scope="module")
def suspects(album, tmp_path_factory):
    """Edited copies of new/1.jpg, and a picture of which there is no original."""
    folder = tmp_path_factory.mktemp("suspects")
    original = Image.open(album / "new" / "1.jpg").convert("RGB")
    for i, edit in enumerate(EDITS):
        step = edits.draw_operation(edit, np.random.default_rng(i))
        edits.apply_steps(original, [step])[-1].image.save(folder / f"{edit}.png")
    builtin_images("distractor", 1).load(0).save(folder / "other.png")
    return folder


@pytest.fixture(scope="module")
def searched(album, suspects, tmp_path_factory):
    """The run folder of one search, and what was printed."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISCUTILS_RUNS", str(runs))
        arguments = ["find", str(suspects), "--among", str(album), "--workers", "1"]
        assert main([*arguments, "--name", "search"]) == 0
    return runs / "search"


def test_the_original_is_first_by_its_path(searched, suspects, album):
    matches = pd.read_csv(searched / "matches.csv")
    first = matches.drop_duplicates("query_id").set_index("query_id")
    for edit in EDITS:
        row = first.loc[str(suspects / f"{edit}.png")]
        assert row.reference_id == str(album / "new" / "1.jpg")
        assert row.score > 0.9
    assert matches[matches.query_id == str(suspects / "other.png")].score.max() < 0.5


def test_the_report_shows_paths_and_points(searched, album):
    page = (searched / "report.html").read_text(encoding="utf-8")
    assert str(album / "new" / "1.jpg") in page
    assert '"points"' in page


def test_a_broken_file_is_listed(searched, album):
    skipped = pd.read_csv(searched / "skipped.csv")
    assert skipped.file.tolist() == [str(album / "new" / "broken.jpg")]


def test_what_is_likely_is_printed(album, suspects, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path))
    files = [str(suspects / "hflip.png"), str(suspects / "other.png")]
    assert main(["find", *files, "--among", str(album), "--workers", "1", "--rows", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"{files[0]}  {album / 'new' / '1.jpg'}" in printed
    assert "1 of 2 pictures have a likely original" in printed
    assert (tmp_path / f"find-{album.name}" / "matches.csv").exists()


def test_a_file_is_not_its_own_copy(album, tmp_path, monkeypatch):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path))
    assert main(["find", str(album), "--among", str(album), "--workers", "1"]) == 0
    matches = pd.read_csv(tmp_path / f"find-{album.name}" / "matches.csv")
    assert (matches.query_id != matches.reference_id).all()


def test_pictures_are_named_as_they_were_given(album, monkeypatch):
    monkeypatch.chdir(album)
    names = open_pictures(["old", "./new/3.jpg"]).ids
    assert names == [*(f"old/{i}.jpg" for i in range(6)), "new/3.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.jpg"], "gone.jpg is neither a picture nor a folder"),
        (["{suspects}", "--rows", "0"], "give numbers of 1 or more"),
        (["{suspects}", "--model", "release-9"], "no run published it: give the path of one"),
    ],
)
def test_errors_say_what_is_wrong(
    arguments, message, album, suspects, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path))
    given = [text.format(suspects=suspects) for text in arguments]
    assert main(["find", *given, "--among", str(album)]) == 1
    assert message in capsys.readouterr().err


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(KitError, match="holds no images"):
        open_pictures([tmp_path])


def test_a_picture_is_asked_in_the_ways_wanted(searched, album, suspects, tmp_path, monkeypatch):
    """Numbers of `parts.WAYS`: a whole, four tiles and the centre, a negative."""
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path))
    command = ["find", str(suspects / "crop.png"), "--among", str(album), "--workers", "1"]
    assert main([*command, "--name", "two", "--ways", "whole,inverted"]) == 0
    wanted = {searched: ["0", "30", "31", "32", "33", "34", "40"], tmp_path / "two": ["0", "40"]}
    for run, parts in wanted.items():
        (file,) = (run / "descriptors").glob("queries-*.h5")
        assert list(dict.fromkeys(read_descriptors(file).columns["part"])) == parts
    matches = pd.read_csv(tmp_path / "two" / "matches.csv")
    assert matches.reference_id.iloc[0] == str(album / "new" / "1.jpg")


def test_an_unknown_way_is_refused(album, suspects, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path))
    assert main(["find", str(suspects), "--among", str(album), "--ways", "whole,upside"]) == 1
    assert "choose among whole, tiles, centre, inverted" in capsys.readouterr().err
