"""Runs the examples of a page, in order, and puts what they print into the text blocks that follow them.

python docs/run_page.py docs/quickstart.md docs/learn/0*.md docs/how-to/*.md

The pages of `docs/how-to` go on with the tables that the quickstart writes: `write_shop` makes these first.
Pictures that the examples write are copied to where the page shows them: `curves.png` of a page `02-...` to
`images/02-curves.png`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from palate.cli import main

BLOCK = re.compile(r"^```(python|sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FAULTS = 2
"""Exit code of `palate data inspect` for a table with faults."""


def with_output(page: str, folder: Path) -> str:
    """The page with the output of each example in the text block after it; examples without one run all the same.

    Args:
        page: The text of the page.
        folder: The folder to run in.
    """
    shown, names = "", {"__name__": "page"}
    pieces, end = [], 0
    with contextlib.chdir(folder):
        for block in BLOCK.finditer(page):
            kind, text = block.groups()
            if kind == "text":
                text = shown
            else:
                shown = run_python(text, names) if kind == "python" else run_commands(text)
            pieces += [page[end : block.start()], f"```{kind}\n{text}```"]
            end = block.end()
    return "".join([*pieces, page[end:]])


def write_shop(folder: Path) -> None:
    """Write the tables of the quickstart, `orders.csv` and `articles.csv`, into a folder."""
    quickstart = Path(__file__).with_name("quickstart.md").read_text(encoding="utf-8")
    code = next(text for kind, text in BLOCK.findall(quickstart) if kind == "python")
    with contextlib.chdir(folder):
        run_python(code, {"__name__": "page"})


def run_python(code: str, names: dict[str, Any]) -> str:
    """What a block of Python prints; `names` carries its variables to the next block."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out:
        path = Path(folder, "block.py")
        path.write_text(code, encoding="utf-8")
        names |= runpy.run_path(str(path), names, "page")
    return out.getvalue()


def run_commands(block: str) -> str:
    """What `palate` commands print to standard output, with an empty line between two of them.

    Raises:
        RuntimeError: A command fails.
    """
    shown = []
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        out, error, code = io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                main(words[1:])
            except SystemExit as end:
                code = end.code or 0
        if words[0] != "palate" or code not in ((0, FAULTS) if words[1:3] == ["data", "inspect"] else (0,)):
            raise RuntimeError(f"{line}\n{out.getvalue()}{error.getvalue()}")
        shown.append(out.getvalue().rstrip() + "\n")
    return "\n".join(shown)


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"
    for name in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            if name.parent.name == "how-to":
                write_shop(Path(folder))
            whole = with_output(name.read_text(encoding="utf-8"), Path(folder))
            for picture in Path(folder).glob("*.png"):
                shown = name.parent / "images" / f"{name.stem[:2]}-{picture.name}"
                if f"images/{shown.name}" in whole:
                    shutil.copyfile(picture, shown)
        name.write_text(whole, encoding="utf-8")
