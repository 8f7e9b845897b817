"""Writes the chapters of docs/learn as Jupyter notebooks.

python docs/notebooks.py OUT
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from run_page import BLOCK

LEARN = Path(__file__).resolve().parent / "learn"


def notebook(page: str) -> nbformat.NotebookNode:
    """A page as a notebook: its Python blocks are code cells, and what they print is left to the notebook.

    Args:
        page: The text of the page.
    """
    cells, end = [], 0
    for number, block in enumerate(BLOCK.finditer(page)):
        kind, text = block.groups()
        prose = page[end : block.start()].strip()
        end = block.end()
        if prose:
            cells.append(new_markdown_cell(prose, id=f"text-{number}"))
        if kind == "python":
            cells.append(new_code_cell(text.rstrip(), id=f"code-{number}"))
    cells.append(new_markdown_cell(page[end:].strip(), id="end"))
    return new_notebook(cells=cells)


def printed(cells: nbformat.NotebookNode) -> list[str]:
    """What each code cell of an executed notebook prints."""
    found = []
    for cell in cells.cells:
        if cell.cell_type == "code":
            found.append("".join(out.text for out in cell.outputs if out.get("name") == "stdout"))
    return found


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for chapter in sorted(LEARN.glob("0*.md")):
        nbformat.write(notebook(chapter.read_text(encoding="utf-8")), out / f"{chapter.stem}.ipynb")
    shutil.copytree(LEARN / "images", out / "images", dirs_exist_ok=True)
    print(f"wrote {len(list(out.glob('*.ipynb')))} notebooks to {out}; open them with jupyter lab")
