"""One self-contained `report.html`: metrics of every stage, curves, edits, and all matches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from iscutils import __version__
from iscutils.evaluation.pairs import check_predictions, true_pairs
from iscutils.files.artifacts import Run, is_note, log, write_text
from iscutils.report import templates
from iscutils.report.browser import DrawPair, browser_data
from iscutils.report.sections import (
    credits_line,
    curves_section,
    direction_section,
    edits_section,
    number,
    parts_section,
    published_section,
    skipped_section,
    stages_section,
)
from iscutils.report.stages import RANDOM, stages_table, with_final

if TYPE_CHECKING:
    from iscutils.datasets import Benchmark


def write_report(
    run: Run,
    benchmark: Benchmark,
    matches: pd.DataFrame,
    stages: Mapping[str, pd.DataFrame],
    *,
    table: pd.DataFrame | None = None,
    published: pd.DataFrame | None = None,
    by_part: pd.DataFrame | None = None,
    direction: tuple[np.ndarray, np.ndarray] | None = None,
    draw_pair: DrawPair | None = None,
    threshold: float | None = None,
    notes: Sequence[str] = (),
    max_thumbnails: int = 200,
    max_rows: int = 20_000,
    out: str | Path | None = None,
) -> Path:
    """Write the report of a run as one HTML file that loads no other file.

    `matches` are the final ranked pairs (query_id, reference_id, score; `inliers`, `mirrored`,
    `similarity` and a homography `h00`..`h22`, reference px to query px, are shown when present).
    `stages` are the ranked pairs of each stage, by label. `table` is `stages_table(stages, ...)`
    if it is there already. `published` is what `published.beside` gives, `by_part` what
    `parts_table` gives; `direction` the norm ratios of candidates and which of them are true pairs,
    (n,) each. `draw_pair` gives the keypoints of a pair, see `browser.DrawPair`.
    `threshold` is where the browser's starts; by default that of 90 % precision, if it is known.
    `notes` are sentences shown above the matches.
    `max_thumbnails` pairs get pictures, the best of each verdict; `max_rows` matches are listed.
    Without a ground truth no metric is given. Default `out`: `report.html` in the run folder.
    The same inputs give the same bytes.
    """
    matches = check_predictions(matches, source="matches")
    truth = benchmark.ground_truth
    sections: list[tuple[str, str, str]] = []  # id, title, HTML
    final_metrics = None
    if truth is not None:
        stages, final = with_final(stages, matches)
        if table is None or not set(stages) <= set(table.index):
            table = stages_table(stages, truth)
        final_metrics = table.loc[final]
        curves = curves_section(benchmark, stages, final, table)
        sections += [
            ("stages", "Stages", stages_section(table, final, RANDOM in stages)),
            ("curves", "Precision, recall and scores", curves),
        ]
        if published is not None:
            sections.insert(1, ("published", "Published results", published_section(published)))
        if benchmark.edits:
            sections.append(("edits", "Edits", edits_section(benchmark, stages)))
        if by_part is not None:
            sections.append(("parts", "Parts", parts_section(by_part)))
        if direction is not None:
            sections.append(("direction", "Which way round", direction_section(*direction)))
    if threshold is None and final_metrics is not None:
        threshold = number(final_metrics["threshold_p90"])
    data = browser_data(
        matches,
        benchmark,
        draw_pair=draw_pair,
        threshold=threshold,
        max_thumbnails=max_thumbnails,
        max_rows=max_rows,
    )
    skipped = run.skipped()
    lost = sum(not is_note(row["reason"]) for row in skipped)
    sections += [  # above the match browser, which has no end
        ("skipped", f"Skipped images ({lost})", skipped_section(skipped)),
        ("parameters", "Parameters", _parameters_section(run)),
    ]
    page = templates.fill(
        templates.asset("report.html"),
        title=templates.text(run.name),
        lede=templates.text(_lede(benchmark, len(matches))),
        figures=_headline(final_metrics, lost, truth),
        navigation=_navigation([*sections, ("browser", "Match browser", "")]),
        sections=_join(sections),
        browser_note=_browser_note(truth is not None, notes),
        credits=credits_line(benchmark),
        head=templates.head(run.name, script := templates.asset("report.js")),
        script=script,
        data=templates.embed_json(data),
    )
    path = write_text(run.path / "report.html" if out is None else out, page)
    log.info("report: %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return path


def _join(sections: Iterable[tuple[str, str, str]]) -> str:
    return "\n".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{templates.text(title)}</h2>'
        f"{body}</section>"
        for name, title, body in sections
    )


def _navigation(sections: Iterable[tuple[str, str, str]]) -> str:
    return "".join(f'<a href="#{name}">{templates.text(title)}</a>' for name, title, _ in sections)


def _lede(benchmark: Benchmark, rows: int) -> str:
    sizes = f"{len(benchmark.queries):,} queries against {len(benchmark.references):,} references"
    if benchmark.ground_truth is None:
        return f"{benchmark.name}: {sizes}; {rows:,} ranked pairs. There is no ground truth."
    pairs = true_pairs(benchmark.ground_truth)
    positive = f"{pairs['query_id'].nunique():,} queries have an original"
    if pairs["query_id"].duplicated().any():
        positive += f", some several ({len(pairs):,} true pairs)"
    return f"{benchmark.name}: {sizes}; {positive}, the others none."


def _headline(metrics: pd.Series | None, skipped: int, truth: pd.DataFrame | None) -> str:
    """The final list's numbers, each with what it means."""
    items = []
    if metrics is not None:
        threshold = number(metrics["threshold_p90"])
        first, queries = "the original ranks first", true_pairs(truth)["query_id"]
        if queries.duplicated().any():
            most = queries.nunique() / len(queries)
            first = f"of several originals one can rank first: {most:.3f} at most"
        items = [
            ("µAP", f"{metrics['uap']:.3f}",
             f"95 % interval {metrics['uap_low']:.3f} to {metrics['uap_high']:.3f}"),
            ("recall at 90 % precision", f"{metrics['recall_at_p90']:.3f}",
             "never reached" if threshold is None else f"at score {threshold:.4g} and above"),
            ("recall@1", f"{metrics['recall_at_1']:.3f}", first),
            ("candidate recall", f"{metrics['candidate_recall']:.3f}", "the original is listed"),
        ]  # fmt: skip
    items.append(("skipped images", f"{skipped:,}", "could not be read"))
    cells = (
        f"<div><dt>{templates.text(name)}</dt><dd>{templates.text(value)}<small>{templates.text(note)}</small></dd></div>"
        for name, value, note in items
    )
    return f'<dl class="figures">{"".join(cells)}</dl>'


def _parameters_section(run: Run) -> str:
    path = run.path / "params.yaml"
    version = f'<p class="note">Written by iscutils {templates.text(__version__)}.</p>'
    if not path.exists():
        return version  # not of the notebooks
    text = templates.text(path.read_text(encoding="utf-8", errors="replace"))
    return f"<details><summary>params.yaml</summary><pre>{text}</pre></details>{version}"


def _browser_note(judged: bool, notes: Sequence[str] = ()) -> str:
    """HTML inside a paragraph."""
    remarks = (f'</p><p class="note">{templates.text(note)}' for note in notes)
    return _meaning_of_rows(judged) + "".join(remarks)


def _meaning_of_rows(judged: bool) -> str:
    badges = {
        "correct": "✓ a true pair",
        "wrong": "✕ the query has an original, but not this",
        "distractor": "! the query has no original",
        "missed": "○ a true pair that is not in the list",
    }
    verdicts = (
        f'<span class="meaning"><span class="badge {name}">{text[0]} {name}</span>{text[1:]}</span>'
        for name, text in badges.items()
    )
    if not judged:
        return (
            "Every ranked pair, best first; pairs below the threshold are pale. There is no ground "
            "truth: move the threshold to see which pairs it accepts. Click a pair to enlarge it."
        )
    return (
        "Every ranked pair, best first; pairs below the threshold are pale. Click a pair to "
        f'enlarge it.</p><p class="note meanings">{"".join(verdicts)}'
    )
