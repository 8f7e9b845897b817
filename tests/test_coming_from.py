"""The pages for users of other libraries: palate's calls run, and those of the library where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

from peer_calls import PEERS, blocks, run  # noqa: E402
from run_page import with_output  # noqa: E402

PAGES = ROOT / "docs/coming-from"


def page(peer: str) -> str:
    return (PAGES / f"{peer}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file that all pages read, written by the code of the first page."""
    folder = tmp_path_factory.mktemp("coming-from")
    with_output(page("index"), folder)
    return folder


@pytest.mark.parametrize("peer", PEERS)
def test_palates_calls_run(peer: str, ratings: Path) -> None:
    codes = blocks(page(peer), "palate")
    assert len(codes) == len(blocks(page(peer), PEERS[peer])) == 5
    run(codes, ratings)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", PEERS)
def test_the_calls_of_the_other_library_run_where_it_is_installed(peer: str, ratings: Path) -> None:
    pytest.importorskip(peer)
    run(blocks(page(peer), PEERS[peer]), ratings)


def test_each_library_has_a_page() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {"index", *PEERS}
    assert all(f"]({peer}.md)" in page("index") for peer in PEERS)
