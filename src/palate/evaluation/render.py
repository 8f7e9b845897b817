"""Blocks of a report, rendered as Markdown or as a self-contained HTML file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Heading:
    """The heading of a section."""

    text: str


@dataclass(frozen=True)
class Points:
    """A bulleted list."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of texts: the first column is aligned left, the others right; each (row, column) in `best` is bold."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A PNG and a text that says what it shows."""

    name: str
    alt: str
    png: bytes


Block = Text | Heading | Points | Table | Picture


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """As Markdown, which refers to pictures by file name."""
    lines = [f"# {_md(title)}"]
    for block in blocks:
        if isinstance(block, Heading):
            lines += ["", f"## {_md(block.text)}"]
        elif isinstance(block, Text):
            lines += ["", _md(block.text)]
        elif isinstance(block, Points):
            lines += ["", *(f"- {_md(line)}" for line in block.lines)]
        elif isinstance(block, Picture):
            lines += ["", f"![{_md(block.alt)}]({block.name}.png)"]
        else:
            rows = [
                [f"**{_md(cell)}**" if (r, c) in block.best else _md(cell) for c, cell in enumerate(row)]
                for r, row in enumerate(block.rows)
            ]
            rule = ["---"] + ["---:"] * (len(block.header) - 1)
            lines += ["", *("| " + " | ".join(row) + " |" for row in [[_md(h) for h in block.header], rule, *rows])]
    return "\n".join(lines) + "\n"


def page(title: str, blocks: Sequence[Block]) -> str:
    """As one self-contained HTML file; all text is escaped."""
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"<h2>{html.escape(block.text)}</h2>")
        elif isinstance(block, Text):
            parts.append(f"<p>{html.escape(block.text)}</p>")
        elif isinstance(block, Points):
            parts.append("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in block.lines) + "</ul>")
        elif isinstance(block, Picture):
            data = base64.b64encode(block.png).decode("ascii")
            parts.append(f'<img alt="{html.escape(block.alt)}" src="data:image/png;base64,{data}">')
        else:
            head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in block.header)
            body = "".join(f"<tr>{_cells(block, r)}</tr>" for r in range(len(block.rows)))
            parts.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')
    safe = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{safe}</title><style>{STYLE}</style></head>\n<body><h1>{safe}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.2rem;font-size:1.2rem}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem}"
    "th,td{padding:.3rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid #e3e3e3;"
    "font-variant-numeric:tabular-nums}th:first-child,td:first-child{text-align:left}small{color:#666}"
    "td small{display:block}.wide+.wide{margin-top:1.2rem}"
    "thead th{border-bottom:2px solid #888}img{max-width:100%;height:auto;margin-top:1rem}"
)


def write(folder: Path, name: str, title: str, blocks: Sequence[Block], whole_page: bool = True) -> Path:
    """Write `NAME.md`, its pictures and, as one self-contained file, `NAME.html`.

    Args:
        folder: The folder; created if it does not exist.
        name: Name of the files.
        title: Heading of the report.
        blocks: Content of the report.
        whole_page: Whether to write the HTML file too.

    Returns:
        The Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Picture):
            (folder / f"{block.name}.png").write_bytes(block.png)
    if whole_page:
        (folder / f"{name}.html").write_text(page(title, blocks), encoding="utf-8")
    path = folder / f"{name}.md"
    path.write_text(markdown(title, blocks), encoding="utf-8")
    return path


def _cells(table: Table, row: int) -> str:
    cells = []
    for column, cell in enumerate(table.rows[row]):
        value, bracket, rest = html.escape(cell).partition(" (")
        value = f"<b>{value}</b>" if (row, column) in table.best else value
        cells.append(f"<td>{value}" + (f" <small>({rest}</small>" if bracket and column else bracket + rest) + "</td>")
    return "".join(cells)


def _md(text: str) -> str:
    """Text with the characters escaped that Markdown would interpret."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*\[\]<>|#]|(?<!\w)_|_(?!\w))", r"\\\1", one_line)
