"""The page: sections as HTML, in one file that asks for nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

from tvcodec import __version__
from tvcodec.report import style
from tvcodec.report.sections import Chart, Section, Table
from tvcodec.wording import printable

MOST_LETTERS = 300
WORDS = {"recipe", "task"}  # columns of words, flush left
HASHES = {"base model, SHA-256", "root digest"}


def page(
    heading: str, lead: str, terms: Iterable[tuple[str, str]], sections: Sequence[Section]
) -> str:
    """The whole document. Nothing in it is taken for markup but what is written here."""
    links = [_link("file", "The file"), *(_link(one.name, one.title) for one in sections)]
    return _template("page.html").substitute(
        title=_text(heading),
        style=_template("page.css").template.strip(),
        heading=_text(heading),
        summary=_text(lead),
        links="\n".join(links),
        sections="\n".join([_terms(terms), *map(_section, sections)]),
        version=_text(__version__),
    )


def _template(name: str) -> Template:
    return Template(resources.files(__package__).joinpath(name).read_text("utf-8"))


def _text(text: str) -> str:
    """As text, in an attribute too: names and metadata are whatever a file's writer wrote."""
    if len(text) > MOST_LETTERS:
        text = f"{text[:MOST_LETTERS]}…"
    return escape(printable(text))


def _link(name: str, title: str) -> str:
    return f'<li><a href="#{name}">{_text(title)}</a></li>'


def _terms(terms: Iterable[tuple[str, str]]) -> str:
    rows = []
    for term, value in terms:
        shown = f'<span class="hash">{_text(value)}</span>' if term in HASHES else _text(value)
        rows.append(f"<dt>{_text(term)}</dt><dd>{shown}</dd>")
    return _wrapped("file", "The file", "<dl>\n" + "\n".join(rows) + "\n</dl>")


def _section(section: Section) -> str:
    words = [f"<p>{_text(paragraph)}</p>" for paragraph in section.words]
    figure = [_figure(section.chart)] if section.chart else []
    tables = [_folded(one) if section.chart else _table(one) for one in section.tables]
    return _wrapped(section.name, section.title, "\n".join([*words, *figure, *tables]))


def _wrapped(name: str, title: str, inside: str) -> str:
    heading = f'<h2 id="{name}-heading">{_text(title)}</h2>'
    label = f'aria-labelledby="{name}-heading"'
    return f'<section id="{name}" {label}>\n{heading}\n{inside}\n</section>'


def _figure(chart: Chart) -> str:
    drawn = style.svg(chart.draw, f"chart-{chart.name}", chart.title, printable(chart.says))
    label = f'tabindex="0" role="region" aria-label="Chart: {_text(chart.title)}"'
    return f'<figure><div class="scroll chart" {label}>\n{drawn}\n</div></figure>'


def _folded(table: Table) -> str:
    summary = f"<summary>{_text(table.title)}, as a table</summary>"
    return f"<details>{summary}\n{_table(table)}\n</details>"


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_flush(header)}>{_text(header)}</th>' for header in table.headers
    )
    rows = [_row(table.headers, row) for row in table.rows]
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {_text(table.title)}">'
        f"<table><caption>{_text(table.title)}</caption><thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _row(headers: Sequence[str], row: Sequence[str]) -> str:
    first, *rest = row
    cells = [
        f"<td{_flush(header)}>{_text(cell)}</td>"
        for header, cell in zip(headers[1:], rest, strict=True)
    ]
    return f'<tr><th scope="row">{_text(first)}</th>{"".join(cells)}</tr>'


def _flush(header: str) -> str:
    return ' class="words"' if header in WORDS else ""
