"""Groups of copies within folders: tables for scripts, and a page to look through them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import networkx as nx

from iscutils import __version__
from iscutils.edits.folders import write_csv
from iscutils.files.artifacts import write_json, write_text
from iscutils.files.equal import file_states, header_size
from iscutils.files.images import FileImages, ImageError
from iscutils.files.names import to_cell
from iscutils.report.browser import encode_thumbnail
from iscutils.report.findings import Findings
from iscutils.report.templates import asset, embed_json, fill, head, text

SIDE = 176  # px, long side of a thumbnail
PICTURED = 2000  # files that get one


class Member(NamedTuple):
    """A file of a group.

    width, height in px, 0 where unknown; bytes of the file; original: the largest of the group;
    tied_to: the member whose copy it is, "" for the original; score (0..1) and reason of that pair.
    """

    group: int
    file: str
    width: int
    height: int
    bytes: int
    original: bool
    tied_to: str
    score: float
    reason: str


def groups_of(found: Findings, pictures: FileImages) -> list[list[Member]]:
    """Files that likely pairs connect, the group that takes most bytes first.

    Each group begins with its original, the file of most pixels, then of most bytes, then the first
    by name. The others follow by falling score of the pair that ties them to the group: of all
    pairs those that connect it with the highest scores (a maximum spanning tree).
    """
    files = dict(zip(pictures.ids, file_states(pictures.files), strict=True))
    graph = nx.Graph()
    for row in found.likely.itertuples():
        graph.add_edge(row.query_id, row.reference_id, score=row.score, reason=row.reason)
    tree = nx.maximum_spanning_tree(graph, weight="score")

    def member(name: str) -> Member:
        width, height = header_size(files[name].path) or (0, 0)
        return Member(0, name, width, height, files[name].size, True, "", 1.0, "original")

    groups = []
    for names in nx.connected_components(tree):
        alone = {name: member(name) for name in names}
        first = min(alone.values(), key=lambda m: (-m.width * m.height, -m.bytes, m.file))
        tied = [
            alone[name]._replace(original=False, tied_to=other, **tree.edges[name, other])
            for name, other in nx.bfs_predecessors(tree, first.file)
        ]
        groups.append([first, *sorted(tied, key=lambda m: (-m.score, m.file))])
    groups.sort(key=lambda group: (-sum(m.bytes for m in group), group[0].file))
    return [[m._replace(group=i) for m in group] for i, group in enumerate(groups, 1)]


def shown_groups(groups: Sequence[Sequence[Member]]) -> list[tuple[str, ...]]:
    """Lines of a table of all members, the first one its header."""
    members = [member for group in groups for member in group]
    return [
        ("group", "file", "pixels", "score", "reason"),
        *((str(m.group), m.file, f"{m.width} x {m.height}", f"{m.score:.2f}", m.reason)
          for m in members),
    ]  # fmt: skip


def write_groups(
    groups: Sequence[Sequence[Member]], found: Findings, pictures: FileImages, folder: str | Path
) -> Path:
    """`groups.csv`, `groups.json` and the page `groups.html` in a folder; returns the page.

    `groups.json` says of every file which others are its likely copies (in the form of the library
    imagededup).
    """
    folder = Path(folder)
    rows = [
        member._replace(file=to_cell(member.file), tied_to=to_cell(member.tied_to))
        for group in groups
        for member in group
    ]
    write_csv(folder / "groups.csv", Member._fields, rows)
    copies: dict[str, set[str]] = {name: set() for name in pictures.ids}
    for row in found.likely.itertuples():
        copies[row.query_id].add(row.reference_id)
        copies[row.reference_id].add(row.query_id)
    write_json(folder / "groups.json", {name: sorted(other) for name, other in copies.items()})
    spare = sum(member.bytes for group in groups for member in group if not member.original)
    count = sum(len(group) - 1 for group in groups)
    page = fill(
        asset("groups.html"), head=head("Groups of copies", script := asset("groups.js")),
        script=script, data=embed_json(_cards(groups, pictures)), version=text(__version__),
        lede=text(
            f"{len(groups)} groups of copies among {len(pictures)} pictures: {count} files beside "
            f"their originals, {spare / 2**20:.1f} MB. Nothing was changed or deleted."
        ),
    )  # fmt: skip
    write_text(folder / "groups.html", page)
    return folder / "groups.html"


def _cards(groups: Sequence[Sequence[Member]], pictures: FileImages) -> list[list[dict]]:
    numbers = {name: i for i, name in enumerate(pictures.ids)}
    cards, left = [], PICTURED
    for group in groups:
        cards.append([])
        for member in group:
            card = member._asdict()
            if left:
                left -= 1
                try:
                    image = pictures.load(numbers[member.file])
                    card["picture"] = encode_thumbnail(image, SIDE)["src"]
                except ImageError:
                    pass  # equal files may be unreadable
            cards[-1].append(card)
    return cards
