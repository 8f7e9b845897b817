"""Aligned text tables."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import polars as pl
from rich.cells import cell_len, set_cell_size

from palate.cli import CONTROL, visible

_FORMULA = r"^([=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}])"
"""Texts that spreadsheets run: they begin with =, +, -, @, also in full width, or with a blank that they remove."""
_TERMINAL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
"""Characters that a terminal obeys."""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with numbers to the right and text to the left, aligned for any script.

    Args:
        header: Column names.
        rows: Values; floats get four digits, None becomes "-".
    """
    cells = [list(header), *([_text(value) for value in row] for row in rows)]
    right = [all(isinstance(row[c], (int, float, type(None))) for row in rows) for c in range(len(header))]
    widths = [max(cell_len(line[c]) for line in cells) for c in range(len(header))]
    return "\n".join("  ".join(map(_padded, line, widths, right)).rstrip() for line in cells)


def short(text: str, width: int = 60) -> str:
    """A text cut to a width, in cells of a terminal; control characters are shown as escapes."""
    text = visible(text).replace("\n", " ")
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def as_json(values: Any) -> str:
    """Values as JSON, on several lines. What a terminal would obey or cannot show is escaped, as JSON allows."""
    ascii_only = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(values, ensure_ascii=ascii_only, indent=1)
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_csv(frame: pl.DataFrame, raw: bool) -> str:
    """A frame as CSV.

    Args:
        frame: The frame.
        raw: Whether texts are printed as they are. Else those that a spreadsheet would run as a formula get an
            apostrophe in front, and characters that a terminal would obey are shown as escapes.
    """
    if not raw:
        texts = [
            pl.Series(c.name, [t and re.sub(_TERMINAL, lambda found: visible(found[0]), t) for t in c], pl.String)
            for c in frame.select(pl.col(pl.String)).get_columns()
        ]
        frame = frame.with_columns(texts).with_columns(pl.col(pl.String).str.replace(_FORMULA, "'$1"))
    return frame.write_csv().rstrip("\n")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:z.4f}"
    return "-" if value is None else visible(str(value)).replace("\n", " ")


def _padded(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space
