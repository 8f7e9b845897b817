"""Runs what the pages of docs/coming-from show of another library, where that library is installed; palate need not be.

python docs/peer_calls.py docs/coming-from/implicit.md ratings.csv
"""

from __future__ import annotations

import contextlib
import re
import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

PEERS = {
    "surprise": "Surprise",
    "implicit": "implicit",
    "lightfm": "LightFM",
    "recbole": "RecBole",
    "rectools": "RecTools",
    "lenskit": "LensKit",
}
"""How the first line of a block names each library, by the name under which the library is imported."""


def blocks(page: str, library: str) -> list[str]:
    """The Python blocks of a page that begin with the name of a library, `palate` for palate's own.

    Args:
        page: The text of the page.
        library: The name in the first line of its blocks.
    """
    return re.findall(rf"^```python\n(# {library}\n.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run(codes: list[str], folder: Path) -> None:
    """Run blocks one after the other, each with the names of those before it.

    Args:
        codes: The blocks.
        folder: The folder to run in; it holds `ratings.csv`.
    """
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as where, contextlib.chdir(folder):
        for code in codes:
            path = Path(where, "block.py")
            path.write_text(code, encoding="utf-8")
            names |= runpy.run_path(str(path), names, "page")


if __name__ == "__main__":
    page = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(sys.argv[2], Path(folder, "ratings.csv"))
        run(blocks(page.read_text(encoding="utf-8"), PEERS[page.stem]), Path(folder))
