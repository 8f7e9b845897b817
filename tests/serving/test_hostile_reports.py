"""Every HTML file that palate writes, made from data that holds markup, opened in Chromium: text, and nothing runs."""

from __future__ import annotations

from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from palate.data.dataset import Dataset
from palate.recommender.recommender import Recommender
from test_cli import palate

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCRIPT = "<script>window.hit=1</script>"
IMAGE = '"><img src=x onerror=window.hit=1>'
HEAD = "</title></style><svg onload=window.hit=1>"
USER, ITEM = f"user{IMAGE}", f"item{SCRIPT}"
QUICK = ("--training.epochs", "1")


def tables(folder: Path) -> tuple[Path, Path]:
    """Interactions and items: markup in ids, titles, names of columns and of the file, and in what notes quote."""
    rows = [(f"{IMAGE}{u}", f"{SCRIPT}{(u * 5 + k * 3) % 12}", u * 100 + k) for u in range(40) for k in range(6)]
    rows[0] = (f"{rows[0][0]} ", *rows[0][1:])
    seen = folder / "plays<img src=x onerror=window.hit=1>.csv"
    pl.DataFrame(rows, schema=[USER, ITEM, "timestamp"], orient="row").write_csv(seen)
    items = folder / "items.csv"
    columns = {ITEM: [f"{SCRIPT}{i}" for i in range(12)], "title": [f"{IMAGE}{HEAD} film {i}" for i in range(12)]}
    plots = [f"{SCRIPT} a {'calm' if i % 2 else 'loud'} story {IMAGE} of two people and {i} dogs" for i in range(12)]
    pl.DataFrame(columns | {f"plot{SCRIPT}": plots}).write_csv(items)
    return seen, items


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """HTML files by what wrote them."""
    folder = tmp_path_factory.mktemp("reports")
    seen, items = tables(folder)
    given = (seen, "--user-id", USER, "--item-id", ITEM, "--items", items, "--split", "random")
    commands = {
        "compare": ("compare", *given, "--models", "mf,itemknn", "--budget", "1", "--seeds", "1", *QUICK),
        "auto": ("auto", *given, "--minutes", "0.3", "--candidates", "itemknn", "--trials", "0"),
    }
    for name, words in commands.items():
        done = palate(*words, "--out", folder / name)
        assert done.code == 0, done.err
    pages = {name: folder / name / "report.html" for name in commands}
    run = folder / "cnn"
    done = palate("train", "text-cnn", *given, "--out", run, *QUICK)
    assert done.code == 0, done.err
    explained = ("--by", "word", "--plot", folder / "words.html")
    done = palate("explain", run, "--user", f"{IMAGE}3", "--item", f"{SCRIPT}3", *explained)
    assert done.code == 0, done.err
    recommender = Recommender.load(run)
    notebook = {"recommender": recommender, "data": Dataset.read(seen, columns={"user_id": USER, "item_id": ITEM})}
    for name, shown in notebook.items():
        (folder / f"{name}.html").write_text(f"<meta charset=utf-8>{shown._repr_html_()}", encoding="utf-8")
    return pages | {"words": folder / "words.html"} | {name: folder / f"{name}.html" for name in notebook}


WRITERS = ("compare", "auto", "words", "recommender", "data")


@pytest.fixture(scope="module")
def page(chrome: Browser) -> Iterator[Page]:
    context = chrome.new_context()
    yield context.new_page()
    context.close()


def test_the_test_would_see_a_script_that_runs(page: Page, tmp_path: Path) -> None:
    for markup in (SCRIPT, f'<p title="{IMAGE}</p>', HEAD):
        (tmp_path / "page.html").write_text(markup)
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_function("window.hit === 1")


@pytest.mark.parametrize("name", WRITERS)
def test_markup_in_data_is_text(name: str, page: Page, written: dict[str, Path]) -> None:
    page.goto(written[name].as_uri(), wait_until="load")
    page.wait_for_timeout(100)  # an image that cannot be loaded says so a moment later
    assert page.evaluate("window.hit") is None
    assert page.locator("script, svg, img[src=x], [onerror], [onload]").count() == 0
    source = written[name].read_text(encoding="utf-8")
    shown = page.evaluate("document.title + document.body.innerText")
    quoted = [text for text in (SCRIPT, IMAGE, "<img src=x onerror=window.hit=1>") if text in unescape(source)]
    assert quoted or name in ("recommender", "data")  # these two count, and quote little
    for text in quoted:
        assert text in shown
