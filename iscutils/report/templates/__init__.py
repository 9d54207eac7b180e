"""HTML of the report: files of this folder, escaping, tables, drawings that follow the page."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK, _GRID = "#010203", "#040506"  # stand-ins in drawings, replaced by the page's own colours


def embed_json(value: Any) -> str:
    """JSON that is safe inside a script element: no `<`, `>`, `&` and nothing beyond ASCII."""
    code = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":  # in JSON they occur inside strings only
        code = code.replace(sign, f"\\u{ord(sign):04x}")
    return code


def asset(name: str) -> str:
    """Text of a file of this folder."""
    return (files(__name__) / name).read_text(encoding="utf-8")


def fill(template: str, **values: str) -> str:
    """Replace each `{{name}}` once, so that inserted text is never read as a placeholder."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def head(title: str, script: str) -> str:
    """The beginning of a page, up to its body, that runs this one script."""
    return fill(
        asset("head.html"), policy=policy(script), title=text(title), style=asset("report.css")
    )


def policy(script: str) -> str:
    """Content security policy: no network at all, this one script, pictures inside the file."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def text(value: Any) -> str:
    """Escaped for HTML; file names that are not Unicode become readable instead of an error."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = (), final=-1
) -> str:
    """An HTML table of cells that are HTML already; columns in `numbers` are right-aligned."""
    kinds = ["number" if i in set(numbers) else "text" for i in range(len(header))]
    head = "".join(
        f'<th class="{kind}" scope="col">{text(name)}</th>'
        for kind, name in zip(kinds, header, strict=True)
    )
    body = "".join(
        ('<tr class="final">' if i == final else "<tr>")
        + "".join(f'<td class="{k}">{cell}</td>' for k, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="table"><table><thead>'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def inline_svg(draw: Callable[[Axes], Any], label: str, size: tuple[float, float]) -> str:
    """What `draw(ax)` draws, as an SVG element that takes its colours and fonts from the page.

    `size` is in inches. No date, no address, and ids that depend on the content alone.
    """
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": label,  # ids of two drawings in one page must differ
        "text.parse_math": False,
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": _GRID,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href=", "href=")
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 var(--sans)", svg)
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--muted)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{text(label)}"', 1)
