"""The demo: what it prints, what it leaves, and that it runs without a network."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from palate import Recommender, demo
from palate.data import sources
from palate.errors import SourceError


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo on a small made-up data set, after the network has failed."""
    out, lines = tmp_path_factory.mktemp("demo") / "run", []

    def refuse(*_: object) -> None:
        raise SourceError("no answer")

    with pytest.MonkeyPatch.context() as patch:
        quick = {name: replace(entry, training={"epochs": 2, "lr": 0.01}) for name, entry in demo.ENTRIES.items()}
        patch.setattr(demo, "ENTRIES", quick)
        patch.setattr(demo, "MADE_UP", "synthetic-3000")
        patch.setattr(sources, "_obtain", refuse)
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        demo.run(out, "movielens-100k", seed=1)
    return out, "\n".join(lines)


def test_it_says_that_there_is_no_network(output: tuple[Path, str]) -> None:
    assert "no answer\n  NO NETWORK: the demo goes on with made-up people and films" in output[1]


def test_it_prints_one_aligned_table(output: tuple[Path, str]) -> None:
    [head, rule, *rows] = re.findall(r"^(?:model|-+|popularity|bias|mf \(\w+\)|neumf)  .*$", output[1], re.MULTILINE)
    assert head.split() == ["model", *demo.METRICS]
    assert [row[: rule.index(" ")].strip() for row in rows] == list(demo.ENTRIES)
    assert {len(line) for line in (head, rule, *rows)} == {len(rule)}
    numbers = [re.findall(r"(\d\.\d{4}) ±(\d\.\d{4})", row) for row in rows]
    assert [len(found) for found in numbers] == [3, 5, 5, 3, 5]
    assert all(float(half) > 0 for found in numbers for _, half in found)


def test_it_says_in_words_what_beats_what(output: tuple[Path, str]) -> None:
    verdicts = re.findall(r"^.*(?:beats|no difference between).*$", output[1], re.MULTILINE)
    assert len(verdicts) == 6  # against two on rmse, and on ndcg@10 against four
    assert all("neumf" in line for line in verdicts)
    lost = {line.partition(" beats")[0] for line in verdicts if "beats neumf" in line}
    assert ("is not the model to use for everything" in output[1]) == bool(lost)
    assert all(name in output[1].partition("So here")[2].partition("\n")[0] for name in lost)


def test_it_shows_three_people_with_titles_and_routes(output: tuple[Path, str]) -> None:
    people = re.findall(r"^(Person \d+|Somebody unknown).*; route (\w+)$", output[1], re.MULTILINE)
    assert [route for _, route in people] == ["known_user", "known_user", "history"]
    titles = set(Recommender.load(output[0]).data.item_table["title"])  # type: ignore[index]
    shown = output[1].split("Somebody unknown")[1].splitlines()[2:7]
    assert all(re.split(r"\s{2,}", line.strip())[1] in titles for line in shown)


def test_what_it_leaves(output: tuple[Path, str]) -> None:
    out = output[0]
    assert (out / "learning.png").read_bytes().startswith(b"\x89PNG")
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for report in (page, text):
        assert "NeuMF beside its baselines" in report
        assert "route history" in report.replace("\\", "")
    assert page.count("data:image/png;base64,") == text.count(".png)") == 3
    assert all((out / name).exists() for name in re.findall(r"\]\((\w+\.png)\)", text))
    assert Recommender.load(out).name == "neumf"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(300)
def test_the_whole_demo_takes_less_than_two_minutes(tmp_path: Path) -> None:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "palate", "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - begin < 120
    assert "NO NETWORK" not in done.stdout
    assert re.search(r"\(19\d\d\)", done.stdout), "films have titles"
