"""The match browser, used in headless Chromium as a person would: by clicks and keys."""

import csv
import io
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from test_report import NASTY, draw_pair, make_benchmark, make_matches, make_report

from iscutils.evaluation.metrics import evaluate, precision_recall_curve
from iscutils.files.names import to_cell
from iscutils.report import browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

if not CHROMIUM:
    pytest.skip("no chromium, chromium-browser or google-chrome", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is missing")


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        engine = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield engine
        engine.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Path of the report, its benchmark and its matches."""
    benchmark = make_benchmark()
    matches = make_matches(benchmark)
    path = make_report(tmp_path_factory.mktemp("report"), benchmark, matches, draw_pair=draw_pair)
    return path, benchmark, matches


@pytest.fixture
def open_page(chromium):
    """Opens a file; after the test no error, no dialog and no request but for files was seen."""
    trouble, contexts = [], []

    def show(path, width=1200, height=900, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (trouble.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    requests = []
    yield show
    for context in contexts:
        context.close()
    assert not trouble
    outside = [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    assert not outside
    assert requests


def ids(page):
    """(query, reference) of the cards shown, in order."""
    return page.eval_on_selector_all(
        ".card",
        "cards => cards.map(c => [c.querySelector('.query').textContent, "
        "c.querySelector('.reference').textContent])",
    )


def show_everything(page):
    page.evaluate(
        "() => { const m = document.getElementById('more'); while (!m.hidden) m.click(); }"
    )


def exported(page):
    with page.expect_download() as download:
        page.get_by_role("button", name="Export these rows as CSV").click()
    assert download.value.suggested_filename == "matches.csv"
    text = download.value.path().read_bytes().decode("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_hostile_names_are_shown_as_they_are(open_page, tiny):
    path, _, matches = tiny
    page = open_page(path)
    show_everything(page)
    shown = {query for query, _ in ids(page)}
    assert shown == set(matches["query_id"])
    assert set(NASTY) <= shown
    assert page.locator("#cards img, #cards script").count() == 0
    assert page.title() == "run <i>name"
    assert "<b>hash</b> $x$" in page.locator("#stages ~ .scroll").inner_text()


def test_every_card_is_there_once_in_falling_score(open_page, tiny):
    path, benchmark, matches = tiny
    page = open_page(path)
    show_everything(page)
    judged = browser.judge(matches, benchmark.ground_truth)
    assert ids(page) == judged[["query_id", "reference_id"]].to_numpy().tolist()
    badges = page.locator(".card .badge").all_text_contents()
    assert [badge.split()[-1] for badge in badges] == judged["verdict"].tolist()


def test_verdict_chips_filter(open_page, tiny):
    path, benchmark, matches = tiny
    page = open_page(path)
    counts = browser.judge(matches, benchmark.ground_truth)["verdict"].value_counts()
    for verdict in ("wrong", "distractor", "missed", "correct"):
        chip = page.locator(f'#chips [data-verdict="{verdict}"]')
        assert chip.locator(".of").inner_text() == str(counts[verdict])
        chip.click()
        assert chip.get_attribute("aria-pressed") == "true"
        assert page.locator('#chips [aria-pressed="true"]').count() == 1
        assert page.locator("#count").inner_text().startswith(f"{counts[verdict]} of ")
        assert page.locator(".card").count() == counts[verdict]
        assert page.locator(f".card.{verdict}").count() == counts[verdict]


def test_edits_search_and_decision_combine(open_page, tiny):
    path, benchmark, matches = tiny
    page = open_page(path)
    options = page.locator("#edit option").all_inner_texts()
    assert options == ["all edits", "<b>blur</b>", "crop", "text"]
    page.select_option("#edit", "crop")
    page.select_option("#decision", "accepted")
    page.fill("#search", "  q1 ")
    threshold = float(page.locator("#threshold-value").inner_text())
    wanted = matches[
        matches["query_id"].map(lambda query: "crop" in benchmark.edits[query])
        & (matches["score"] >= threshold)
        & (matches["query_id"].str.contains("Q1") | matches["reference_id"].str.contains("R1"))
    ]
    show_everything(page)
    assert sorted(map(tuple, ids(page))) == sorted(
        wanted[["query_id", "reference_id"]].itertuples(index=False, name=None)
    )
    page.fill("#search", "no such id")
    assert page.locator(".card").count() == 0
    assert page.get_by_text("No pair matches these filters.").is_visible()


def test_sorting(open_page, tiny):
    path, benchmark, matches = tiny
    page = open_page(path)
    judged = browser.judge(matches, benchmark.ground_truth)
    listed = judged[judged["verdict"] != "missed"]
    page.select_option("#sort", "rising")
    show_everything(page)
    scores = page.locator(".card .score").all_text_contents()
    assert [float(score) for score in scores[:-1]] == sorted(listed["score"])
    assert scores[-1] == "–"  # the missed pair has no score
    page.select_option("#sort", "query")
    show_everything(page)
    queries = [query for query, _ in ids(page)]
    assert queries == sorted(queries, key=lambda text: text.encode("utf-16-be"))
    page.select_option("#sort", "verdict")
    show_everything(page)
    badges = [text.split()[-1] for text in page.locator(".card .badge").all_text_contents()]
    assert badges == sorted(badges, key=browser.VERDICTS.index)


def test_threshold_numbers_equal_the_evaluation(open_page, tiny):
    path, benchmark, matches = tiny
    page = open_page(path)
    precision, recall, score = precision_recall_curve(matches, benchmark.ground_truth)
    slider = page.locator("#threshold")
    distinct = np.unique(score)
    assert int(slider.get_attribute("max")) == len(distinct) - 1
    seen = set()
    slider.press("Home")
    for _ in distinct:
        threshold = float(page.locator("#threshold-value").inner_text())
        last = np.flatnonzero(score >= threshold)[-1]
        assert page.locator("#live-accepted").inner_text() == str(last + 1)
        assert page.locator("#live-precision").inner_text() == f"{precision[last]:.3f}"
        assert page.locator("#live-recall").inner_text() == f"{recall[last]:.3f}"
        seen.add(threshold)
        slider.press("ArrowRight")
    assert seen == set(distinct)
    show_everything(page)
    assert page.locator(".card:not(.rejected):not(.missed)").count() == (score >= max(seen)).sum()


def test_the_slider_starts_at_90_percent_precision(open_page, tiny):
    path, benchmark, matches = tiny
    page = open_page(path)
    metrics = evaluate(matches, benchmark.ground_truth)
    assert float(page.locator("#threshold-value").inner_text()) == metrics.threshold_p90
    assert page.locator("#live-recall").inner_text() == f"{metrics.recall_at_p90:.3f}"


def test_export_gives_the_filtered_rows_back_unchanged(open_page, tiny):
    path, benchmark, matches = tiny
    page = open_page(path)
    judged = browser.judge(matches, benchmark.ground_truth)

    def check(rows, expected):
        assert list(rows[0]) == [*matches.columns, "verdict", "edits"]
        for row, wanted in zip(rows, expected.to_dict("records"), strict=True):
            assert row["query_id"] == to_cell(wanted["query_id"])
            assert row["reference_id"] == to_cell(wanted["reference_id"])
            assert row["verdict"] == wanted["verdict"]
            assert row["edits"] == benchmark.edits[wanted["query_id"]]
            if wanted["verdict"] == "missed":
                assert row["score"] == row["inliers"] == ""
            else:
                assert float(row["score"]) == wanted["score"]
                assert float(row["inliers"]) == wanted["inliers"]

    check(exported(page), judged)  # all of them, though only the first cards are drawn
    page.locator('#chips [data-verdict="wrong"]').click()
    check(exported(page), judged[judged["verdict"] == "wrong"])


def test_a_card_opens_enlarged_and_keys_move_on(open_page, tiny):
    path, benchmark, matches = tiny
    page = open_page(path)
    page.locator('#chips [data-verdict="correct"]').click()
    rows = browser.judge(matches, benchmark.ground_truth).query("verdict == 'correct'")
    position = rows["query_id"].tolist().index("Q08")
    page.locator(".card").nth(position).focus()
    page.keyboard.press("Enter")
    view = page.locator("#view")
    assert view.is_visible()
    assert "Q08 → R08" in page.locator("#view-title").inner_text()
    assert view.locator("line.inlier").count() == 3
    assert view.locator("circle.inlier").count() == 6
    assert view.locator("polygon.outline").count() == 2
    assert view.locator("image").nth(1).get_attribute("href").startswith("data:image/jpeg")
    details = page.locator("#view-details").inner_text()
    assert re.search(r"true reference\s+R08", details)
    page.keyboard.press("ArrowLeft")
    before = rows.iloc[position - 1]
    assert before["query_id"] in page.locator("#view-title").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert not view.is_visible()
    focused = page.evaluate("document.activeElement.querySelector('.query').textContent")
    assert focused == "Q08"


def test_outline_lies_where_the_homography_says(open_page, tiny):
    page = open_page(tiny[0])
    page.fill("#search", "r08")
    page.locator(".card", has_text="Q08").first.click()
    points = page.locator("#view polygon.outline").nth(1).get_attribute("points")
    corners = np.array([pair.split(",") for pair in points.split()], float)
    # The picture of 320 x 240 fills its cell's width: 100 x 75 units, from y = 12.5.
    shares = np.array([[0.5, 0.25], [1, 0.25], [1, 0.75], [0.5, 0.75]])
    np.testing.assert_allclose(corners, shares * [100, 75] + [104, 12.5])


def test_unreadable_and_unpictured_images_say_so(open_page, tmp_path):
    page = open_page(make_report(tmp_path, max_thumbnails=8, draw_pair=draw_pair))
    show_everything(page)
    assert page.locator(".card image[href]").count() <= 16
    assert page.get_by_text("not pictured").count() > 0
    page.locator(".card", has_text="not pictured").first.click()
    assert "max_thumbnails" in page.locator("#view-note").inner_text()


def test_report_without_truth_hides_what_it_cannot_know(open_page, tmp_path):
    page = open_page(make_report(tmp_path, make_benchmark(truth=False)))
    assert page.locator("#live-accepted").is_visible()
    assert not page.locator("#live-precision").is_visible()
    assert not page.locator("#live-recall").is_visible()
    assert not page.locator("#chips").is_visible()
    badges = page.locator(".card .badge")
    assert set(badges.all_text_contents()) == {"accepted"}
    page.locator("#threshold").fill(page.locator("#threshold").get_attribute("max"))
    assert badges.all_text_contents() == ["accepted"] + ["rejected"] * (badges.count() - 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_never_scrolls_sideways(open_page, tiny, scheme):
    page = open_page(tiny[0], width=400, height=800, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]])
    assert (light > 200) == (scheme == "light")


def test_five_thousand_rows_stay_quick(open_page, tmp_path):
    benchmark = make_benchmark()
    rng = np.random.default_rng(0)
    references = [f"X{i:04d}" for i in range(320)]
    rows = pd.DataFrame(
        [(query, reference) for query in benchmark.queries.ids for reference in references],
        columns=["query_id", "reference_id"],
    )
    rows = rows.assign(score=rng.random(len(rows)))
    page = open_page(make_report(tmp_path, benchmark, rows, max_thumbnails=20))
    assert page.locator(".card").count() < 200  # drawn in pieces
    start = time.perf_counter()
    page.select_option("#sort", "rising")
    page.fill("#search", "x03")
    page.locator("#threshold").press("ArrowLeft")
    assert page.locator("#count").inner_text().startswith("320 of 5,130 pairs")
    assert time.perf_counter() - start < 3
    before = page.locator(".card").count()
    page.locator("#more").scroll_into_view_if_needed()
    page.locator(".card").nth(before).wait_for(state="attached")  # scrolling drew the next piece
