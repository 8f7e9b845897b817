"""The chapters of docs/learn run as notebooks, print what the pages show and write the pictures the pages show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

from notebooks import LEARN, notebook, printed  # noqa: E402

from test_docs import rounded  # noqa: E402

CHAPTERS = sorted(LEARN.glob("0*.md"))
PRINTED = re.compile(r"^```python\n.*?^```$\n+^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_a_chapter_runs_as_a_notebook(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("COLUMNS", "100")
    text = page.read_text(encoding="utf-8")
    cells = notebook(text)
    nbclient.NotebookClient(cells, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = printed(cells)
    assert [rounded(one) for one in shown] == [rounded(one) for one in PRINTED.findall(text)], (
        f"run python docs/run_page.py docs/learn/{page.name}"
    )
    for picture in tmp_path.glob("*.png"):
        assert f"images/{page.stem[:2]}-{picture.name}" in text


def test_notebooks_are_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/notebooks.py", tmp_path / "out"], capture_output=True, text=True, check=True
    )
    assert f"wrote {len(CHAPTERS)} notebooks" in done.stdout
    assert (tmp_path / "out/images/02-neumf.svg").is_file()


def test_each_chapter_has_its_parts() -> None:
    assert len(CHAPTERS) == 6
    index = (LEARN / "index.md").read_text(encoding="utf-8")
    for page in CHAPTERS:
        text = page.read_text(encoding="utf-8")
        assert page.name in index
        for part in ("The idea", "The formula", "The code", "What to see", "Exercises"):
            assert f"## {part}" in text, f"{page.name} has no part {part}"
        assert ".svg)" in text, "a drawing"
        assert ".png)" in text, "a picture that the code makes"
