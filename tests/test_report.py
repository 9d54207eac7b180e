"""The report: its numbers are the metrics, hostile names stay text, equal input, equal bytes."""

import base64
import dataclasses
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser

import matplotlib as mpl

mpl.use("agg")

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iscutils.datasets import Benchmark
from iscutils.evaluation.metrics import evaluate
from iscutils.evaluation.published import beside, own_rows
from iscutils.files.artifacts import KitError, Run
from iscutils.files.images import GeneratedImages, ImageError
from iscutils.report import browser, templates
from iscutils.report import page as report
from iscutils.report.stages import FINAL, edits_table, parts_table, published_stages, with_final

NASTY = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    """a"b'c,d""",
    "été 🐈 — <!-- x",
    "{{data}} & &amp; \u2028 $x$",
    "=1+1",
)


def draw(item):
    """A picture of one colour field; the item "broken" cannot be read."""
    if item == "broken":
        raise ImageError("damaged <b>on purpose</b>")
    rng = np.random.default_rng(item)
    blocks = rng.integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(blocks).resize((320, 240), Image.Resampling.NEAREST)


def make_benchmark(truth=True):
    """16 queries, 10 of them with an original; ids that try to break out of the page."""
    queries = [*NASTY, *(f"Q{i:02d}" for i in range(len(NASTY), 16))]
    references = [f"{name}/r" for name in NASTY] + [f"R{i:02d}" for i in range(len(NASTY), 20)]
    items = [*range(7), "broken", *range(8, 16)]
    ground_truth = pd.DataFrame(
        [(query, references[i] if i < 10 else "") for i, query in enumerate(queries)],
        columns=["query_id", "reference_id"],
    )
    edits = {query: "crop+text" if i % 2 else "<b>blur</b>" for i, query in enumerate(queries)}
    return Benchmark(
        name="tiny <b>set</b>",
        queries=GeneratedImages(queries, draw, items, None),
        references=GeneratedImages(references, draw, list(range(20)), None),
        background=GeneratedImages([], draw, [], None),
        ground_truth=ground_truth if truth else None,
        edits=edits,
    )


def make_matches(benchmark, seed=0, per_query=4):
    """Ranked pairs with ties; one true pair ("Q09") is missing, one scores below wrong ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, query in enumerate(benchmark.queries.ids):
        chosen = set(rng.choice(20, per_query, replace=False)) | ({i} if i < 9 else set())
        for j in sorted(chosen - ({9} if i == 9 else set())):
            score = round(0.55 + 0.4 * rng.random() if i == j else 0.7 * rng.random(), 2)
            rows.append((query, benchmark.references.ids[j], 0.05 if i == j == 8 else score))
    frame = pd.DataFrame(rows, columns=["query_id", "reference_id", "score"])
    return frame.assign(inliers=(frame["score"] * 50).astype(int), mirrored=frame["score"] > 0.8)


def draw_pair(query_id, reference_id):
    """Made-up keypoints: the query is the right half of the reference, at twice the scale."""
    reference_points = np.array([[200, 60], [240, 120], [300, 200], [10, 10]])
    return {
        "query_points": reference_points * 2 - [320, 120],
        "reference_points": reference_points,
        "inliers": np.array([True, True, True, False]),
        "homography": np.array([[2, 0, -320], [0, 2, -120], [0, 0, 1]], float),
    }


def make_report(folder, benchmark=None, matches=None, **options):
    """A run folder with parameters and skipped images, and its report's path."""
    run = Run(folder / "run <i>name")
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "params.yaml").write_text("data: '<script>alert(3)</script>'\n", encoding="utf-8")
    run.record_skipped("05_extraction", [("<u>bad", "</table>.jpg", "truncated & <i>broken</i>")])
    benchmark = benchmark or make_benchmark()
    matches = make_matches(benchmark) if matches is None else matches
    stages = {"<b>hash</b> $x$": make_matches(benchmark, seed=1), "final": matches}
    return report.write_report(run, benchmark, matches, stages, **options)


def embedded(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_judge_equals_a_slow_version():
    benchmark = make_benchmark()
    matches = make_matches(benchmark)
    judged = browser.judge(matches.sample(frac=1, random_state=1), benchmark.ground_truth)
    truth = {q: r for q, r in benchmark.ground_truth.to_numpy() if r}
    for row in judged.itertuples():
        if row.verdict == "missed":
            assert truth[row.query_id] == row.reference_id
            assert np.isnan(row.score)
        elif row.query_id not in truth:
            assert row.verdict == "distractor"
        else:
            assert (row.verdict == "correct") == (truth[row.query_id] == row.reference_id)
    assert list(judged["verdict"]).count("missed") == 1
    assert judged["verdict"].iloc[-1] == "missed"
    assert list(judged["verdict"]).count("correct") == 9
    key = [(-s, q, r) for q, r, s in judged.to_numpy()[:-1, :3]]
    assert key == sorted(key)


def test_each_original_of_a_query_has_its_fate_and_queries_count_once(tmp_path):
    benchmark = make_benchmark()
    matches = make_matches(benchmark)
    truth, listed = benchmark.ground_truth, matches[matches.query_id == "Q08"]
    other = next(name for name in listed.reference_id if name != "R08")
    absent = next(n for n in benchmark.references.ids if n not in set(listed.reference_id))
    more = [("Q08", other), ("Q08", absent), ("Q15", "")]
    more = pd.DataFrame(more, columns=["query_id", "reference_id"])
    benchmark = dataclasses.replace(benchmark, ground_truth=pd.concat([truth, more]))
    path = make_report(tmp_path, benchmark, matches)
    data, scores = embedded(path), listed.set_index("reference_id").score
    assert sorted(data["truth"]["Q08"]) == sorted(
        [f"R08 (correct, {scores['R08']:.4g})", f"{other} (correct, {scores[other]:.4g})",
         f"{absent} (missed)"]
    )  # fmt: skip
    assert data["truth"]["Q09"] == ["R09 (missed)"]
    assert data["positives"] == 12
    text = path.read_text(encoding="utf-8")
    assert "16 queries against 20 references; 10 queries have an original, some several" in text
    assert "(12 true pairs), the others none." in text
    assert "of several originals one can rank first: 0.833 at most" in text


def test_verdict_is_unknown_without_truth():
    judged = browser.judge(make_matches(make_benchmark()), None)
    assert set(judged["verdict"]) == {"unknown"}


def test_threshold_curve_counts_the_rows_at_every_score():
    benchmark = make_benchmark()
    judged = browser.judge(make_matches(benchmark), benchmark.ground_truth)
    curve = browser.threshold_curve(judged)
    assert curve["score"] == sorted(set(judged["score"].dropna()), reverse=True)
    for score, rows, hits in zip(curve["score"], curve["rows"], curve["hits"], strict=True):
        above = judged[judged["score"] >= score]
        assert (rows, hits) == (len(above), (above["verdict"] == "correct").sum())


def test_a_long_threshold_curve_keeps_its_ends_and_the_wanted_score():
    score = np.linspace(1, 0, 5001)
    rows = pd.DataFrame(
        {"score": score, "verdict": np.where(np.arange(5001) % 3, "wrong", "correct")}
    )
    curve = browser.threshold_curve(rows, keep=score[1234], points=50)
    assert len(curve["score"]) <= 51
    assert {score[0], score[1234], score[-1]} <= set(curve["score"])
    for value, count, hits in zip(curve["score"], curve["rows"], curve["hits"], strict=True):
        above = rows[rows["score"] >= value]
        assert (count, hits) == (len(above), (above["verdict"] == "correct").sum())


def test_threshold_curve_of_an_empty_list():
    empty = pd.DataFrame({"score": [], "verdict": []})
    assert browser.threshold_curve(empty) == {"score": [], "rows": [], "hits": []}


def test_pictures_go_to_the_first_of_each_verdict_in_turn():
    verdicts = ["wrong", "wrong", "correct", "wrong", "missed", "correct", "wrong"]
    assert browser.choose_pictured(verdicts, 4) == [0, 1, 2, 4]
    assert browser.choose_pictured(verdicts, 0) == []
    assert browser.choose_pictured(verdicts, 99) == list(range(7))


def test_drawing_is_in_shares_of_both_pictures():
    drawing = browser.normalised_drawing(draw_pair("q", "r"), (320, 240), (320, 240))
    assert drawing["outline"] == [[-1, -0.5], [1, -0.5], [1, 1.5], [-1, 1.5]]
    assert drawing["window"] == [[0.5, 0.25], [1, 0.25], [1, 0.75], [0.5, 0.75]]
    assert drawing["points"][0] == [0.25, 0.0, 0.625, 0.25]
    assert len(drawing["points"]) == 3


def test_drawing_leaves_out_what_cannot_be_drawn():
    size = (100, 100)
    assert browser.normalised_drawing({}, size, size) == {}
    for homography in (np.zeros((3, 3)), np.full((3, 3), np.nan), np.diag([1e9, 1e9, 1])):
        drawing = browser.normalised_drawing({"homography": homography}, size, size)
        assert "outline" not in drawing
    many = {"query_points": np.ones((500, 2)), "reference_points": np.ones((500, 2))}
    drawing = browser.normalised_drawing({**many, "inliers": np.ones(500, bool)}, size, size)
    assert len(drawing["points"]) == 40


def test_thumbnail_is_a_small_jpeg():
    picture = browser.encode_thumbnail(draw(1), 240)
    assert (picture["w"], picture["h"]) == (240, 180)
    data = base64.b64decode(picture["src"].removeprefix("data:image/jpeg;base64,"))
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    assert image.size == (240, 180)


def test_embedded_json_is_inert_and_comes_back():
    value = {"</script>": ["<!--", "&", "\u2028", "\ud800", 1.5, None]}
    code = templates.embed_json(value)
    assert not set("<>&") & set(code)
    assert code.isascii()
    assert json.loads(code) == value
    with pytest.raises(ValueError, match="JSON compliant"):
        templates.embed_json([float("nan")])


def test_fill_never_reads_inserted_text_as_a_placeholder():
    assert templates.fill("{{a}}|{{b}}", a="{{b}}", b="$1 \\1") == "{{b}}|$1 \\1"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.scripts += tag == "script"


def test_hostile_names_stay_text(tmp_path):
    text = make_report(tmp_path, draw_pair=draw_pair).read_text(encoding="utf-8")
    page = Tags(text)
    assert not {"img", "u", "iframe", "object"} & set(page.tags)
    assert page.scripts == 2  # the data and the one script
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "&lt;b&gt;hash&lt;/b&gt; $x$" in text
    assert "run &lt;i&gt;name" in text
    assert "&lt;script&gt;alert(3)&lt;/script&gt;" in text
    assert "&lt;/table&gt;.jpg" in text
    assert text.count("<!--") == 0


def test_report_names_no_address_and_forbids_all_but_its_own_script(tmp_path):
    text = make_report(tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w+\.\w|@import|url\((?!#)", text)
    page = Tags(text)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "action", "srcset", "xlink:href"):
            assert value.startswith(("#", "data:")), (tag, name, value)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(v for t, n, v in page.attributes if n == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe-eval" not in policy
    assert "innerHTML" not in script


def test_embedded_photographs_are_credited(tmp_path, monkeypatch):
    text = make_report(tmp_path / "own").read_text(encoding="utf-8")
    assert "<footer" not in text  # the pictures of others are not the kit's to credit
    benchmark = make_benchmark()
    benchmark.references.ids[7] = "book_1"
    rows = [
        {"file": f"book_{i}.jpg", "part": part, "source": f"source {i}", "licence": "CC BY 4.0",
         "credit": f"by <i>nobody {i}</i>"}
        for i, part in enumerate(["train", "reference", "distractor"])
    ]  # fmt: skip
    monkeypatch.setattr("iscutils.report.sections.read_credits", lambda: rows)
    text = make_report(tmp_path / "builtin", benchmark).read_text(encoding="utf-8")
    footer = re.search(r"<footer.*</footer>", text, re.DOTALL)[0]
    for i in (1, 2):  # a query without an original is an edit of a distractor
        line = f"book_{i}: by &lt;i&gt;nobody {i}&lt;/i&gt; source {i}. CC BY 4.0"
        assert f"<li>{line}</li>" in footer
    assert "nobody 0" not in footer


def test_the_same_input_gives_the_same_bytes(tmp_path):
    first = make_report(tmp_path / "a", draw_pair=draw_pair).read_bytes()
    second = make_report(tmp_path / "b", draw_pair=draw_pair).read_bytes()
    assert first == second


def test_table_and_headline_show_the_metrics(tmp_path):
    benchmark = make_benchmark()
    matches = make_matches(benchmark)
    text = make_report(tmp_path, benchmark, matches).read_text(encoding="utf-8")
    metrics = evaluate(matches, benchmark.ground_truth)
    row = re.search(r'<tr class="final">(.*?)</tr>', text, re.DOTALL)[1]
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)]
    assert cells[0] == "final"
    assert cells[1] == f"{metrics.uap:.3f}"
    low, high = map(float, cells[2].split("–"))
    assert low <= metrics.uap <= high
    assert cells[3:5] == [f"{metrics.recall_at_p90:.3f}", f"{metrics.threshold_p90:.4g}"]
    assert cells[5:8] == [
        f"{value:.3f}"
        for value in (metrics.recall_at_1, metrics.recall_at_10, metrics.candidate_recall)
    ]
    assert f"<dd>{metrics.uap:.3f}<small>" in text
    data = embedded(path=tmp_path / "run <i>name" / "report.html")
    assert data["threshold"] == metrics.threshold_p90
    at = data["curve"]["score"].index(metrics.threshold_p90)
    assert data["curve"]["hits"][at] / data["positives"] == metrics.recall_at_p90
    assert data["curve"]["hits"][at] / data["curve"]["rows"][at] >= 0.9


def body_rows(text, section):
    """Texts of the cells of a section's tables, a list a row."""
    part = re.search(rf'<h2 id="{section}">.*?</section>', text, re.DOTALL)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    cells = filter(None, (re.findall(r"<td.*?>(.*?)</td>", row) for row in rows))
    return [[html.unescape(re.sub("<.*?>", "", cell)) for cell in row] for row in cells]


def test_published_results_parts_and_directions_have_their_sections(tmp_path):
    own = pd.DataFrame({"uap": [0.7], "recall_at_p90": [0.6]}, index=["<b>teacher</b> raw"])
    own = own_rows(
        own, codec="Flat", score_norm="none", rule="knn:10", dataset="disc21", split="dev"
    )
    parts = pd.DataFrame(
        {"pairs": [1200, 3], "correct": [600, 0], "precision": [0.5, 0.0], "recall": [0.25, 0.0]},
        index=pd.MultiIndex.from_tuples(
            [("whole", "whole"), ("turned", "cut")], names=["query part", "reference part"]
        ),
    )
    direction = np.array([0.5, 0.8, 1.2, 1.4]), np.array([True, True, False, False])
    table = beside(own, dataset="disc21")
    path = make_report(tmp_path, published=table, by_part=parts, direction=direction)
    text = path.read_text(encoding="utf-8")
    rows = body_rows(text, "published")
    assert len(rows) == len(table)
    assert rows[0] == ["", "<b>teacher</b> raw", "dev", "raw", "knn:10", "0.700", "0.600", "",
                       "this run"]  # fmt: skip
    differences = {row[-2] for row in rows[1:]} - {""}
    expected = table.difference.dropna()
    assert len(expected)
    assert all(row[-2] for row in rows[1 : 1 + len(expected)])  # not folded away
    assert differences == {f"{value:+.3f}" for value in expected}
    assert body_rows(text, "parts") == [
        ["whole", "whole", "1,200", "600", "0.500", "0.250"],
        ["turned", "cut", "3", "0", "0.000", "0.000"],
    ]
    assert 'aria-label="norm ratios"' in text
    plain = make_report(tmp_path / "plain").read_text(encoding="utf-8")
    assert not re.search(r'id="(published|parts|direction)"', plain)


def test_data_lists_every_match_and_every_missed_pair(tmp_path):
    benchmark = make_benchmark()
    matches = make_matches(benchmark)
    data = embedded(make_report(tmp_path, benchmark, matches))
    assert data["columns"] == ["query_id", "reference_id", "score", "inliers", "mirrored"]
    listed = {(q, r): (score, data["verdicts"][v]) for q, r, score, _, _, v in data["rows"]}
    expected = {(q, r): s for q, r, s in matches.to_numpy()[:, :3]}
    missed = {pair for pair, (_, verdict) in listed.items() if verdict == "missed"}
    assert missed == {("Q09", "R09")}
    assert {pair: score for pair, (score, _) in listed.items() if pair not in missed} == expected
    assert data["total"] == len(matches) + 1
    assert data["pictures"]["q:Q07"] == {"error": "damaged <b>on purpose</b>"}
    assert data["pictures"]["q:Q08"]["src"].startswith("data:image/jpeg;base64,")


def test_max_rows_and_max_thumbnails_limit_the_page_not_the_numbers(tmp_path):
    full = embedded(make_report(tmp_path / "a"))
    small = embedded(make_report(tmp_path / "b", max_rows=10, max_thumbnails=3))
    assert len(small["rows"]) == 10 + 1  # and the missed pair
    assert small["rows"][:10] == full["rows"][:10]
    assert len(small["drawings"]) == 3
    assert (small["curve"], small["total"]) == (full["curve"], full["total"])


def test_geometry_comes_from_columns_where_there_is_no_callback(tmp_path):
    benchmark = make_benchmark()
    matches = make_matches(benchmark)
    homography = draw_pair("", "")["homography"].ravel()
    for name, value in zip(browser.GEOMETRY, homography, strict=True):
        matches[name] = value
    matches.loc[matches["query_id"] == "Q06", "h00"] = np.nan
    data = embedded(make_report(tmp_path, benchmark, matches))
    drawn = {data["rows"][int(i)][0]: d for i, d in data["drawings"].items()}
    assert drawn["Q08"]["outline"] == [[-1, -0.5], [1, -0.5], [1, 1.5], [-1, 1.5]]
    assert drawn["Q06"] == {}  # no geometry on record
    assert drawn["Q07"] == {}  # unreadable


def test_a_pair_that_cannot_be_drawn_does_not_end_the_report(tmp_path):
    def fail(query_id, reference_id):
        raise KitError(f"no keypoints in {query_id}")

    data = embedded(make_report(tmp_path, draw_pair=fail))
    notes = {drawing.get("note") for drawing in data["drawings"].values()}
    assert "no keypoints in Q08" in notes


def test_report_without_truth_gives_no_metric(tmp_path):
    path = make_report(tmp_path, make_benchmark(truth=False), draw_pair=draw_pair)
    text, data = path.read_text(encoding="utf-8"), embedded(path)
    assert "There is no ground truth" in text
    assert "µAP" not in text.split("<script")[0]
    assert {data["verdicts"][row[-1]] for row in data["rows"]} == {"unknown"}
    assert data["positives"] is None
    assert data["threshold"] is None


def test_matches_that_are_no_stage_are_added_as_final(tmp_path):
    benchmark = make_benchmark()
    matches = make_matches(benchmark)
    stages = {"a": make_matches(benchmark, seed=1), "b": matches.sample(frac=1, random_state=0)}
    assert with_final(stages, matches)[1] == "b"
    everything, final = with_final({"a": stages["a"]}, matches)
    assert list(everything) == ["a", FINAL]
    assert final == FINAL
    changed = matches.assign(score=matches["score"] + 0.001)
    assert with_final(stages, changed)[1] == FINAL


def test_invalid_matches_are_refused_by_name(tmp_path):
    benchmark = make_benchmark()
    matches = make_matches(benchmark)
    matches.loc[0, "score"] = np.inf
    with pytest.raises(KitError, match="matches"):
        make_report(tmp_path, benchmark, matches)


def test_published_stages_are_read_in_order_with_ids_as_text(tmp_path):
    run = Run(tmp_path)
    for label, ids in (("random", "007,NA"), ("a: b", "1e5,null")):
        path = tmp_path / f"{len(label)}.csv"
        path.write_text(f"query_id,reference_id,score\n{ids},0.5\n", encoding="utf-8")
        run.publish(f"stage:{label}", path)
    run.publish("matches", path)
    stages = published_stages(run)
    assert list(stages) == ["random", "a: b"]
    assert stages["random"].iloc[0].tolist() == ["007", "NA", 0.5]
    assert stages["a: b"].iloc[0].tolist() == ["1e5", "null", 0.5]
    assert published_stages(Run(tmp_path / "none")) == {}


def test_edits_table_has_a_row_per_edit_and_counts_true_pairs():
    benchmark = make_benchmark()
    matches = make_matches(benchmark)
    table, counts = edits_table({"m": matches}, benchmark.ground_truth, benchmark.edits)
    threshold = evaluate(matches, benchmark.ground_truth).threshold_p90
    found = matches[matches["score"] >= threshold].merge(benchmark.ground_truth)
    positives = benchmark.ground_truth.query("reference_id != ''")["query_id"]
    for edit in ("crop", "text", "<b>blur</b>"):
        own = {query for query in positives if edit in benchmark.edits[query].split("+")}
        assert counts[edit] == len(own)
        assert table.loc[edit, "m"] == pytest.approx(found["query_id"].isin(own).sum() / len(own))


def test_parts_are_counted_by_kind():
    numbers = [
        ("0", "0"),
        ("2", "0"),
        ("0", "7"),
        ("5", "0"),
        ("4", "0"),
        ("12", "0"),
        ("1003", "0"),
    ]
    found = pd.DataFrame(
        [(f"q{i}", "r", 1.0 - i / 10, *parts) for i, parts in enumerate([*numbers, numbers[0]])],
        columns=["query_id", "reference_id", "score", "query_part", "reference_part"],
    )
    truth = pd.DataFrame(
        {"query_id": ["q0", "q4", "q6", "q9"], "reference_id": ["r", "r", "r", "s"]}
    )
    table = parts_table(found, truth)
    expected = {
        ("whole", "whole"): (2, 1),
        ("centre or tile", "whole"): (2, 1),
        ("detected overlay", "whole"): (1, 1),
        ("region", "whole"): (1, 0),
        ("turned", "whole"): (1, 0),
        ("whole", "cut"): (1, 0),
    }
    assert {key: tuple(row) for key, row in table[["pairs", "correct"]].T.items()} == expected
    assert table.precision["whole", "whole"] == 0.5
    assert table.recall["detected overlay", "whole"] == 0.25  # of four true pairs


def test_drawings_follow_the_colours_of_the_page():
    svg = templates.inline_svg(lambda ax: ax.set_title("<b> & $"), "a label", (2, 1))
    assert svg.startswith('<svg role="img" aria-label="a label"')
    assert "var(--ink)" in svg
    assert "#010203" not in svg
    assert "&lt;b&gt; &amp; $" in svg
    assert not re.search(r"xmlns|http|<style|<metadata", svg)


def test_report_of_an_empty_list_says_so(tmp_path):
    benchmark = dataclasses.replace(make_benchmark(), edits={})
    data = embedded(make_report(tmp_path, benchmark, make_matches(benchmark).iloc[:0]))
    assert {data["verdicts"][row[-1]] for row in data["rows"]} == {"missed"}
    assert len(data["rows"]) == 10
    assert data["curve"]["score"] == []


def test_worst_alarms_and_misses_equal_a_slow_choice():
    benchmark = make_benchmark()
    judged = browser.judge(make_matches(benchmark), benchmark.ground_truth)
    false = [r for r in judged.itertuples() if r.verdict in ("wrong", "distractor")]
    best = sorted(false, key=lambda r: -r.score)[:3]
    assert browser.worst_alarms(judged, 3)["score"].tolist() == [r.score for r in best]
    misses = browser.worst_misses(judged, 2)
    assert misses["query_id"].tolist() == ["Q09", "Q08"]  # not listed; listed with score .05


def test_pairs_picture_shows_queries_above_references():
    benchmark = make_benchmark()
    judged = browser.judge(make_matches(benchmark), benchmark.ground_truth)
    rows = pd.concat([browser.worst_alarms(judged, 2), browser.worst_misses(judged, 1)])
    ax = browser.pairs_picture(rows, benchmark)
    assert len(ax.images) == 6
    first = benchmark.queries.load(benchmark.queries.ids.index(rows["query_id"].iloc[0]))
    np.testing.assert_array_equal(ax.images[0].get_array(), np.asarray(first))
    colours = [patch.get_edgecolor() for patch in ax.patches]
    assert colours == [mpl.colors.to_rgba(c) for c in ("tab:red", "tab:red", "tab:green")]
    assert browser.pairs_picture(rows.iloc[:0], benchmark).texts[0].get_text() == "no such pair"
    unreadable = judged[judged["query_id"] == "Q07"].head(1)
    assert len(browser.pairs_picture(unreadable, benchmark).images) == 2
