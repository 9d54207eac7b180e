"""One self-contained `report.html`: metrics of every stage, curves, edits, and all matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from iscutils import __version__, figures, plots, templates
from iscutils.artifacts import Run, log, write_text
from iscutils.browser import DrawPair, browser_data
from iscutils.pairs import check_predictions
from iscutils.published import OWN, RESULT
from iscutils.stages import RANDOM, edits_table, stages_table, with_final

if TYPE_CHECKING:
    from iscutils.datasets import Benchmark

_MAX_SKIPPED = 500


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
    max_thumbnails: int = 200,
    max_rows: int = 20_000,
    out: str | Path | None = None,
) -> Path:
    """Write the report of a run as one HTML file that loads nothing from anywhere.

    `matches` are the final ranked pairs (query_id, reference_id, score; `inliers`, `mirrored`,
    `similarity` and a homography `h00`..`h22`, reference px to query px, are shown when present).
    `stages` are the ranked pairs of each stage, by label. `table` is `stages_table(stages, ...)`
    if it is there already. `published` is what `published.beside` gives, `by_part` what
    `parts_table` gives; `direction` the norm ratios of candidates and which of them are true pairs,
    (n,) each. `draw_pair` gives the keypoints of a pair, see `browser.DrawPair`.
    `threshold` is where the browser's starts; by default that of 90 % precision, if it is known.
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
        sections += [
            ("stages", "Stages", _stages_section(table, final, RANDOM in stages)),
            ("curves", "Precision, recall and scores", _curves(benchmark, stages, final, table)),
        ]
        if published is not None:
            sections.insert(1, ("published", "Published results", _published_section(published)))
        if benchmark.edits:
            sections.append(("edits", "Edits", _edits_section(benchmark, stages)))
        if by_part is not None:
            sections.append(("parts", "Parts", _parts_section(by_part)))
        if direction is not None:
            sections.append(("direction", "Which way round", _direction_section(*direction)))
    if threshold is None and final_metrics is not None:
        threshold = _number(final_metrics["threshold_p90"])
    data = browser_data(
        matches,
        benchmark,
        draw_pair=draw_pair,
        threshold=threshold,
        max_thumbnails=max_thumbnails,
        max_rows=max_rows,
    )
    skipped = run.skipped()
    sections += [  # above the match browser, which has no end
        ("skipped", f"Skipped images ({len(skipped)})", _skipped_section(skipped)),
        ("parameters", "Parameters", _parameters_section(run)),
    ]
    page = templates.fill(
        templates.asset("report.html"),
        title=templates.text(run.name),
        lede=templates.text(_lede(benchmark, len(matches))),
        figures=_headline(final_metrics, len(skipped)),
        navigation=_navigation([*sections, ("browser", "Match browser", "")]),
        sections=_join(sections),
        browser_note=_browser_note(truth is not None),
        style=templates.asset("report.css"),
        script=(script := templates.asset("report.js")),
        policy=templates.policy(script),
        data=templates.embed_json(data),
    )
    path = write_text(run.path / "report.html" if out is None else out, page)
    log.info("report: %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return path


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


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
    positive = benchmark.ground_truth
    positive = positive.loc[positive["reference_id"].fillna("") != "", "query_id"].nunique()
    return f"{benchmark.name}: {sizes}; {positive:,} queries have an original, the others none."


def _headline(metrics: pd.Series | None, skipped: int) -> str:
    """The final list's numbers, each with what it means."""
    items = []
    if metrics is not None:
        threshold = _number(metrics["threshold_p90"])
        items = [
            ("uAP", f"{metrics['uap']:.3f}",
             f"95 % interval {metrics['uap_low']:.3f} to {metrics['uap_high']:.3f}"),
            ("recall at 90 % precision", f"{metrics['recall_at_p90']:.3f}",
             "never reached" if threshold is None else f"at score {threshold:.4g} and above"),
            ("recall@1", f"{metrics['recall_at_1']:.3f}", "the original ranks first"),
            ("candidate recall", f"{metrics['candidate_recall']:.3f}", "the original is listed"),
        ]  # fmt: skip
    items.append(("skipped images", f"{skipped:,}", "could not be read"))
    cells = (
        f"<div><dt>{templates.text(name)}</dt><dd>{templates.text(value)}<small>{templates.text(note)}</small></dd></div>"
        for name, value, note in items
    )
    return f'<dl class="figures">{"".join(cells)}</dl>'


def _stages_section(table: pd.DataFrame, final: str, has_random: bool) -> str:
    rows = []
    for name, row in table.iterrows():
        low, high = row["uap_low"], row["uap_high"]
        bar = (
            f'<span class="interval"><i style="width:{100 * row["uap"]:.1f}%"></i>'
            f'<b style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></b></span>'
        )
        threshold = _number(row["threshold_p90"])
        rows.append([
            templates.text(name),
            f"{row['uap']:.3f}{bar}",
            f"{low:.3f}–{high:.3f}",
            f"{row['recall_at_p90']:.3f}",
            "–" if threshold is None else f"{threshold:.4g}",
            *(f"{row[name]:.3f}" for name in ("recall_at_1", "recall_at_10", "candidate_recall")),
            f"{int(row['rows']):,}",
        ])  # fmt: skip
    header = ["stage", "uAP", "95 % interval", "R@P90", "at score", "recall@1", "recall@10",
              "candidate recall", "pairs"]  # fmt: skip
    note = (
        "uAP ranks all pairs of all queries in one list, so scores must be comparable between "
        "queries. R@P90 is the largest recall at 90 % precision, reached at the score beside it. "
        "Candidate recall is the share of true pairs that a stage lists at all: later stages "
        "cannot exceed it. The interval comes from redrawing the queries."
    )
    if has_random:
        note += " “random” is the order of chance: what any method must beat."
    last = list(table.index).index(final)
    return (
        templates.table(header, rows, range(1, 9), last)
        + f'<p class="note">{templates.text(note)}</p>'
    )


def _curves(
    benchmark: Benchmark, stages: Mapping[str, pd.DataFrame], final: str, table: pd.DataFrame
) -> str:
    truth = benchmark.ground_truth
    pairs = len(benchmark.queries) * len(benchmark.references)

    def precision_recall(ax: Axes) -> None:
        for name, predictions in stages.items():
            if name != RANDOM:  # the baseline is drawn anyway, exactly
                plots.precision_recall(predictions, truth, label=name, pairs=pairs, ax=ax)

    def histogram(ax: Axes) -> None:
        threshold = _number(table.loc[final, "threshold_p90"])
        plots.score_histogram(stages[final], truth, threshold=threshold, ax=ax)

    figures = [
        ("precision and recall of every stage", precision_recall,
         "Every stage's list cut at every score. The dot marks recall at 90 % precision."),
        (f"scores of {final}", histogram,
         f"{final}: where the two overlap, no threshold tells copies from other pictures."),
    ]  # fmt: skip
    return _figures((label, draw, note, (5.2, 4.4)) for label, draw, note in figures)


def _edits_section(benchmark: Benchmark, stages: Mapping[str, pd.DataFrame]) -> str:
    names = [name for name in stages if name != RANDOM]
    # Bars of more than five stages are too thin to compare: the baseline and the last ones.
    names = names if len(names) <= 5 else [names[0], *names[-4:]]
    shown = {name: stages[name] for name in names}
    table, counts = edits_table(shown, benchmark.ground_truth, benchmark.edits)
    if table.empty:
        return '<p class="note">No query with an original has an edit on record.</p>'
    note = (
        "Share of the true pairs found at 90 % precision, by edit; behind each edit the number of "
        "its pairs. A query with several edits counts for each of them."
    )
    size = 10.5, 0.9 + len(table) * max(0.24, 0.07 * table.shape[1])
    return _figures(
        [("recall by edit", lambda ax: plots.edit_bars(table, counts=counts, ax=ax), note, size)]
    )


def _published_section(table: pd.DataFrame) -> str:
    """Own rows and those that may be compared with them; all others folded away."""
    names = ["system", "method", "split", "protocol", "rule", *RESULT, "difference", "source"]
    header = [*names[:5], "uAP", "R@P90", *names[7:]]

    def rows(part: pd.DataFrame) -> str:
        cells = (
            [_cell(row[name], "+.3f" if name == "difference" else ".3f") for name in names]
            for row in part.to_dict("records")
        )
        return templates.table(header, cells, (5, 6, 7))

    near = (table["source"] == OWN) | table["difference"].notna()
    note = (
        "This run first, then what was published on the same data with the same split, protocol "
        "and candidate rule; the difference is own minus published uAP."
    )
    if not table["difference"].notna().any():
        note = "No published result has the split, protocol and candidate rule of this run."
    return (
        f'{rows(table[near])}<p class="note">{note}</p><details><summary>{(~near).sum()} published '
        f"results of other splits and protocols</summary>{rows(table[~near])}</details>"
    )


def _cell(value: Any, form: str) -> str:
    """Text as it is, numbers in this form, nothing for what is missing."""
    if isinstance(value, str):
        return templates.text(value)
    return "" if pd.isna(value) else format(value, form)


def _parts_section(table: pd.DataFrame) -> str:
    """Table of `parts_table`."""
    rows = [
        [
            *(templates.text(name) for name in kinds),
            f"{row['pairs']:,.0f}",
            f"{row['correct']:,.0f}",
            f"{row['precision']:.3f}",
            f"{row['recall']:.3f}",
        ]
        for kinds, row in table.iterrows()
    ]
    note = (
        "For every pair the two parts that were most alike: how many pairs each kind found, and "
        "how often it was right. Recall is the share of all true pairs."
    )
    header = [*table.index.names, *table.columns]
    return templates.table(header, rows, range(2, 6)) + f'<p class="note">{note}</p>'


def _direction_section(ratios: np.ndarray, hits: np.ndarray) -> str:
    note = (
        "Norm of the query's descriptor over that of the reference's. A model trained with the "
        "norm-ratio loss makes it 1 at most for true pairs; of others the two curves are alike."
    )
    size = 10.5, 2.8
    return _figures(
        [("norm ratios", lambda ax: figures.norm_ratio_histogram(ratios, hits, ax=ax), note, size)]
    )


def _skipped_section(skipped: list[dict[str, str]]) -> str:
    if not skipped:
        return '<p class="note">Every image could be read.</p>'
    columns = ["stage", "image_id", "file", "reason"]
    rows = [[templates.text(row[name]) for name in columns] for row in skipped[:_MAX_SKIPPED]]
    left = len(skipped) - len(rows)
    more = f'<p class="note">{left:,} more are in skipped.csv.</p>' if left else ""
    return templates.table(["stage", "image", "file", "reason"], rows) + more


def _parameters_section(run: Run) -> str:
    path = run.path / "params.yaml"
    version = f'<p class="note">Written by iscutils {templates.text(__version__)}.</p>'
    if not path.exists():
        return version  # not of the notebooks
    text = templates.text(path.read_text(encoding="utf-8", errors="replace"))
    return f"<details><summary>params.yaml</summary><pre>{text}</pre></details>{version}"


def _browser_note(judged: bool) -> str:
    badges = {
        "correct": "✓ a true pair",
        "wrong": "✕ the query has another original",
        "distractor": "! the query has no original",
        "missed": "○ a true pair that is not in the list",
    }
    verdicts = (
        f'<span class="meaning"><span class="badge {name}">{text[0]} {name}</span>{text[1:]}</span>'
        for name, text in badges.items()
    )
    if not judged:
        return (
            "Every ranked pair, best first. Without a ground truth the verdict is unknown; move "
            "the threshold to see how many pairs it accepts. Click a pair to enlarge it."
        )
    return (
        "Every ranked pair, best first; pairs below the threshold are pale. Click a pair to "
        f'enlarge it.</p><p class="note meanings">{"".join(verdicts)}'
    )


def _figures(
    items: Iterable[tuple[str, Callable[[Axes], Any], str, tuple[float, float]]],
) -> str:
    blocks = (
        f"<figure{' class=wide' if size[0] > 8 else ''}>{templates.inline_svg(draw, label, size)}"
        f"<figcaption>{templates.text(note)}</figcaption></figure>"
        for label, draw, note, size in items
    )
    return f'<div class="plots">{"".join(blocks)}</div>'
