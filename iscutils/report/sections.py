"""The sections of `report.html`, each as escaped HTML without its heading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from iscutils import figures
from iscutils.datasets.builtin import read_credits
from iscutils.evaluation.published import OWN, RESULT
from iscutils.figures import plots
from iscutils.files.images import image_id
from iscutils.report import templates
from iscutils.report.stages import RANDOM, edits_table

if TYPE_CHECKING:
    from iscutils.datasets import Benchmark

_MAX_SKIPPED = 500


def stages_section(table: pd.DataFrame, final: str, has_random: bool) -> str:
    """Table of `stages_table` with bars and intervals; the row of the final list stands out."""
    rows = []
    for name, row in table.iterrows():
        low, high = row["uap_low"], row["uap_high"]
        bar = (
            f'<span class="interval"><i style="width:{100 * row["uap"]:.1f}%"></i>'
            f'<b style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></b></span>'
        )
        threshold = number(row["threshold_p90"])
        rows.append([
            templates.text(name),
            f"{row['uap']:.3f}{bar}",
            f"{low:.3f}–{high:.3f}",
            f"{row['recall_at_p90']:.3f}",
            "–" if threshold is None else f"{threshold:.4g}",
            *(f"{row[name]:.3f}" for name in ("recall_at_1", "recall_at_10", "candidate_recall")),
            f"{int(row['rows']):,}",
        ])  # fmt: skip
    header = ["stage", "µAP", "95 % interval", "R@P90", "at score", "recall@1", "recall@10",
              "candidate recall", "pairs"]  # fmt: skip
    note = (
        "µAP ranks all pairs of all queries in one list, so scores must be comparable between "
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


def curves_section(
    benchmark: Benchmark, stages: Mapping[str, pd.DataFrame], final: str, table: pd.DataFrame
) -> str:
    """Precision over recall of every stage, and the scores of the final list."""
    truth = benchmark.ground_truth
    pairs = len(benchmark.queries) * len(benchmark.references)

    def precision_recall(ax: Axes) -> None:
        for name, predictions in stages.items():
            if name != RANDOM:  # the baseline is drawn anyway, exactly
                plots.precision_recall(predictions, truth, label=name, pairs=pairs, ax=ax)

    def histogram(ax: Axes) -> None:
        threshold = number(table.loc[final, "threshold_p90"])
        plots.score_histogram(stages[final], truth, threshold=threshold, ax=ax)

    figures = [
        ("precision and recall of every stage", precision_recall,
         "Every stage's list cut at every score. The dot marks recall at 90 % precision."),
        (f"scores of {final}", histogram,
         f"{final}: where the two overlap, no threshold tells copies from other pictures."),
    ]  # fmt: skip
    return _figures((label, draw, note, (5.2, 4.4)) for label, draw, note in figures)


def edits_section(benchmark: Benchmark, stages: Mapping[str, pd.DataFrame]) -> str:
    """Recall by edit, of five stages at most."""
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


def published_section(table: pd.DataFrame) -> str:
    """Own rows and those that may be compared with them; all others folded away."""
    names = ["system", "method", "split", "protocol", "rule", *RESULT, "difference", "source"]
    header = [*names[:5], "µAP", "R@P90", *names[7:]]

    def rows(part: pd.DataFrame) -> str:
        cells = (
            [_cell(row[name], "+.3f" if name == "difference" else ".3f") for name in names]
            for row in part.to_dict("records")
        )
        return templates.table(header, cells, (5, 6, 7))

    near = (table["source"] == OWN) | table["difference"].notna()
    note = (
        "This run first, then what was published on the same data with the same split, protocol "
        "and candidate rule; the difference is own minus published µAP."
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


def parts_section(table: pd.DataFrame) -> str:
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


def direction_section(ratios: np.ndarray, hits: np.ndarray) -> str:
    """Norm ratios (n,) of candidates, true pairs (`hits`, (n,) bool) apart from the others."""
    note = (
        "Norm of the query's descriptor over that of the reference's. A model trained with the "
        "norm-ratio loss makes it 1 at most for true pairs; of others the two curves are alike."
    )
    size = 10.5, 2.8
    return _figures(
        [("norm ratios", lambda ax: figures.norm_ratio_histogram(ratios, hits, ax=ax), note, size)]
    )


def skipped_section(skipped: list[dict[str, str]]) -> str:
    """Images that could not be read, and notes on others (rows of `Run.skipped`), the first 500."""
    if not skipped:
        return '<p class="note">Every image could be read.</p>'
    columns = ["stage", "image_id", "file", "reason"]
    rows = [[templates.text(row[name]) for name in columns] for row in skipped[:_MAX_SKIPPED]]
    left = len(skipped) - len(rows)
    more = f'<p class="note">{left:,} more are in skipped.csv.</p>' if left else ""
    return templates.table(["stage", "image", "file", "reason"], rows) + more


def _figures(
    items: Iterable[tuple[str, Callable[[Axes], Any], str, tuple[float, float]]],
) -> str:
    blocks = (
        f"<figure{' class=wide' if size[0] > 8 else ''}>{templates.inline_svg(draw, label, size)}"
        f"<figcaption>{templates.text(note)}</figcaption></figure>"
        for label, draw, note, size in items
    )
    return f'<div class="plots">{"".join(blocks)}</div>'


def number(value: Any) -> float | None:
    """The number of a table's cell, None where it is missing."""
    return None if value is None or pd.isna(value) else float(value)


def credits_line(benchmark: Benchmark) -> str:
    """Credits of the embedded photographs, folded up; empty where no reference is one of them.

    Those of queries without an original are named too: they are edits of distractors.
    """
    rows = [row for row in read_credits() if row["part"] != "train"]
    if not {image_id(row["file"]) for row in rows} & set(benchmark.references.ids):
        return ""
    lines = (
        f"<li>{templates.text(image_id(row['file']))}: {templates.text(row['credit'])} "
        f"{templates.text(row['source'])}. {templates.text(row['licence'])}</li>"
        for row in rows
    )
    return (
        '<footer class="note"><details><summary>Embedded photographs: credits</summary>'
        "<p>Scaled to 256 px; queries are edited further. All credits are in "
        f"iscutils/datasets/photographs/CREDITS.csv.</p><ul>{''.join(lines)}</ul></details></footer>"
    )
