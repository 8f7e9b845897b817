"""Aligned text tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size


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
    """A text cut to a width, in cells of a terminal."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _text(value: object) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _padded(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space
