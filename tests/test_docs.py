"""README and docs: what they name exists, and what they show can be typed."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest

from iscutils.__main__ import main
from iscutils.run.arguments import parser
from iscutils.run.parameters import compose, load_notebooks

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = load_notebooks()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
CITED = re.compile(r"(docs/[\w/]+\.md), sections? (\d+(?:(?:, | and )\d+)*)")
COMMAND = re.compile(r"(?:python|torchrun .*) -m iscutils (\w.*)")


def named(page):
    return str(page.relative_to(ROOT))


def texts():
    """Source of the package, tests, benchmarks and notebooks; a line break is one space."""
    for folder in ("iscutils", "tests", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file, file.read_text(encoding="utf-8")
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(file, as_version=4).cells
        yield file, "\n".join(cell.source for cell in cells)


def citations():
    found = {
        (file, number, text.name)
        for text, content in texts()
        for file, numbers in CITED.findall(re.sub(r"\s*\n\s*#?\s*", " ", content))
        for number in re.findall(r"\d+", numbers)
    }
    return sorted(found)


def test_a_cited_section_is_a_heading_of_its_page():
    found = citations()
    assert len(found) > 15
    headings = {
        named(page): set(re.findall(r"^## (\d+)\. ", page.read_text(encoding="utf-8"), re.M))
        for page in PAGES
    }
    assert [row for row in found if row[1] not in headings.get(row[0], ())] == []


def test_no_page_is_long():
    limits = {"README.md": 10_240}
    sizes = {named(page): page.stat().st_size for page in PAGES}
    assert [name for name, size in sizes.items() if size > limits.get(name, 12 * 1024)] == []


def test_the_page_of_parameters_is_what_the_command_prints(capsys):
    assert main(["params", "--markdown"]) == 0
    written = (ROOT / "docs/params.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == written, "write it again, as its first lines say"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_sections(page):
    links = re.findall(r"\]\((?!\w+:)([^)]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, link


def commands(page):
    """Calls of the kit in blocks of commands, lines joined at `\\`."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    return COMMAND.findall("\n".join(blocks).replace("\\\n", " "))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_are_understood(page):
    for line in commands(page):
        line = re.split(r"\s[>&]", line)[0]
        options = parser().parse_args(shlex.split(line, comments=True))
        if options.command in ("run", "params"):
            compose(NOTEBOOKS, options.sets, options.assignments)
        if getattr(options, "only", None):
            numbers = {notebook.number for notebook in NOTEBOOKS}
            assert set(options.only.split(",")) <= numbers, line


def test_the_page_says_values_of_a_set_and_what_is_shared_once(capsys):
    assert main(["params", "rdcd", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("name|type|value|meaning") == lines.count("-|-|-|-") > 5
    assert sum(line.startswith("seed|") for line in lines) == 1
    assert any(line.startswith("method|str|rdcd|") for line in lines)
    assert any(r"runs/\<run>" in line for line in lines)  # no tag of HTML
