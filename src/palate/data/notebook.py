"""Summaries as HTML tables, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable


def table_of(lines: Iterable[tuple[str, str]]) -> str:
    """Names and values as an HTML table."""
    cells = [(html.escape(name), html.escape(value)) for name, value in lines]
    rows = [f"<tr><th style='text-align:left'>{n}</th><td style='text-align:left'>{v}</td></tr>" for n, v in cells]
    return f"<table>{''.join(rows)}</table>"
