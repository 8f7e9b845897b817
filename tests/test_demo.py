"""The demo: what it prints, what it leaves, and that it runs without a network."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palate import Recommender
from palate.data import sources
from palate.demos import movielens as demo
from palate.demos import shared
from palate.errors import SourceError
from palate.evaluation.evaluate import evaluate
from tiny import Table, dataset, part


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo on a small synthetic data set, after the download has failed."""
    out, lines = tmp_path_factory.mktemp("demo") / "run", []

    def refuse(*_: object) -> None:
        raise SourceError("no answer")

    with pytest.MonkeyPatch.context() as patch:
        quick = {name: replace(entry, training={"epochs": 2, "lr": 0.01}) for name, entry in demo.DEMO_MODELS.items()}
        patch.setattr(demo, "DEMO_MODELS", quick)
        patch.setattr(shared, "SYNTHETIC", "synthetic-3000")
        patch.setattr(sources, "_obtain", refuse)
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        demo.run(out, "movielens-100k", seed=1)
    return out, "\n".join(lines)


def test_it_says_that_there_is_no_network(output: tuple[Path, str]) -> None:
    assert "no answer\n  NO DOWNLOAD: the demo continues with the synthetic data set" in output[1]


def test_it_prints_one_aligned_table(output: tuple[Path, str]) -> None:
    names = r"model|-+|popularity|bias|(?:mf|neumf) \(\w+\)"
    [head, rule, *rows] = re.findall(rf"^(?:{names})  .*$", output[1], re.MULTILINE)
    assert head.split() == ["model", *demo.METRICS]
    assert [row[: rule.index(" ")].strip() for row in rows] == list(demo.DEMO_MODELS)
    assert {len(line) for line in (head, rule, *rows)} == {len(rule)}
    numbers = [re.findall(r"(\d\.\d{4}) ±(\d\.\d{4})", row) for row in rows]
    assert [len(found) for found in numbers] == [3, 5, 5, 3, 5, 3]
    assert all(float(half) > 0 for found in numbers for _, half in found)


def test_the_summary_says_on_which_metric_a_model_is_better(output: tuple[Path, str]) -> None:
    verdicts = re.findall(r"^.*(?:is better than|no significant difference between).*$", output[1], re.MULTILINE)
    assert len(verdicts) == 7  # two other models with rmse, five with ndcg@10
    assert all("neumf" in line for line in verdicts)
    [summary] = re.findall(r"^Summary by metric\. .*$", output[1], re.MULTILINE)
    for metric, (neumf, baseline) in demo.JUDGED.items():
        beats = f" is better than {neumf} on {metric} by"
        better = [line.partition(" is better")[0] for line in verdicts if beats in line]
        assert f"{metric}: significantly better than {neumf}: {', '.join(better) or 'none'};" in summary
        won = any(line.startswith(f"{neumf} is better than {baseline} on {metric} by") for line in verdicts)
        assert (f"{neumf} is better than {baseline} on {metric}" in summary) == won


def test_the_summary_is_true_as_a_whole() -> None:
    """A model that is better on one metric and worse on the other is named with each."""
    rng = np.random.default_rng(0)
    train = dataset([(u, i, 3.0) for u in range(80) for i in (u % 20, (u + 1) % 20)])
    test = part(train, [(u, (u + 5) % 20, float(1 + u % 5)) for u in range(80)])
    noise, truth = rng.normal(size=(80, 20)) / 9, np.array([1.0 + u % 5 for u in range(80)])[:, None]
    target = np.zeros((80, 20))
    target[np.arange(80), (np.arange(80) + 5) % 20] = 1
    tables = {"bias": truth + noise, "neumf (ratings)": noise, "neumf (lists)": 9 * target + noise, "popularity": noise}
    found = {}
    for name, table in tables.items():
        model = Table(table, rates=True)
        model.fit(train)
        found[name] = evaluate(model, test, ["rmse", "ndcg@10"], name=name)
    _, summary = demo._comparison(found)
    assert "rmse: significantly better than neumf (ratings): bias; significantly worse:" in summary
    assert "ndcg@10: significantly better than neumf (lists): none; significantly worse: bias" in summary
    assert summary.endswith(
        "So neumf (ratings) is worse than bias on rmse, and neumf (lists) is better than popularity on ndcg@10."
    )


def test_it_shows_three_users_with_titles_and_routes(output: tuple[Path, str]) -> None:
    users = re.findall(r"^(User \d+|New user, known only by these items) \(route: (\w+)\)$", output[1], re.MULTILINE)
    assert [route for _, route in users] == ["known_user", "known_user", "history"]
    titles = set(Recommender.load(output[0]).data.item_table["title"])  # type: ignore[index]
    shown = output[1].split("New user, known only")[1].splitlines()[2:7]
    assert all(re.split(r"\s{2,}", line.strip())[1] in titles for line in shown)


def test_what_it_leaves(output: tuple[Path, str]) -> None:
    out = output[0]
    assert (out / "learning.png").read_bytes().startswith(b"\x89PNG")
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for report in (page, text):
        assert "NeuMF and baselines on MovieLens" in report
        assert "(route: history)" in report.replace("\\", "")
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
    assert "NO DOWNLOAD" not in done.stdout
    assert re.search(r"\(19\d\d\)", done.stdout), "films have titles"
