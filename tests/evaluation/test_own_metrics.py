"""Metrics that are functions of the user's, beside names: in `evaluate`, `compare`, `tune` and `contest`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.config import Training
from palate.data.splits.build import Split
from palate.errors import ConfigError
from palate.evaluation.compare import better_of, compare
from palate.evaluation.evaluate import evaluate
from palate.evaluation.metrics import METRICS, Metric, hit, metric_names
from palate.evaluation.protocol import Protocol
from palate.models import MODELS
from palate.ranking.ranked import Ranked
from palate.ranking.topk import rank
from palate.recommender.recommender import Recommender
from palate.testing import planted
from palate.tune import contest, tune

MODULE = """
from palate.evaluation.metrics import hit

def found_at_once(ranked, k=3):
    return hit(ranked, k)
"""


def found_at_once(ranked: Ranked, k: int = 3) -> torch.Tensor:
    """Share of users with a target in the first k."""
    return hit(ranked, k)


def first_index(ranked: Ranked, k: int) -> list[float]:
    return [float(items[0]) for items in ranked.items]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)


@pytest.fixture(scope="module")
def parts() -> Split:
    return planted().train.split("per-user", valid=0.2, test=0.2)


@pytest.fixture(scope="module")
def rec(parts: Split) -> Recommender:
    return Recommender.train(parts.train, "ease")


def test_a_function_beside_names_is_measured_like_them(parts: Split, rec: Recommender) -> None:
    found = rec.evaluate(parts.test, ["ndcg@10", found_at_once, "hit@3"])
    assert list(found.estimates) == ["ndcg@10", "found_at_once@3", "hit@3"]
    np.testing.assert_array_equal(found.values["found_at_once@3"], found.values["hit@3"])
    assert found["found_at_once@3"] == found["hit@3"]
    again = rec.evaluate(parts.test, ["found_at_once@5", "hit@5"])  # known by name from then on
    np.testing.assert_array_equal(again.values["found_at_once@5"], again.values["hit@5"])


def test_a_metric_says_which_direction_is_better(parts: Split, rec: Recommender) -> None:
    own = Metric(first_index, "lists", "lower", "index of the first item")
    other = evaluate(_popularity(parts), parts.test, ["recall@5", own])
    both = {"ease": rec.evaluate(parts.test, ["recall@5", own]), "popularity": other}
    lists = rank(rec.model, parts.test.queries(parts.test.active_users, rec.model.spec), 1)
    np.testing.assert_array_equal(both["ease"].values["first_index@10"], lists.items[:, 0])
    difference = compare(both, own).differences[0]
    lower = "ease" if difference.value < 0 else "popularity"
    assert better_of(difference, "first_index@10") == (lower if difference.significant else None)
    assert difference == compare(both, "first_index@10").differences[0]


def _popularity(parts: Split):
    kind = MODELS["popularity"]
    model = kind(kind.Config(), parts.train.spec)
    model.fit(parts.train, Training())
    return model


def test_functions_that_cannot_be_metrics_are_refused(parts: Split, rec: Recommender) -> None:
    def recall(ranked: Ranked, k: int) -> torch.Tensor:
        return torch.zeros(len(ranked))

    def one_number(ranked: Ranked, k: int) -> float:
        return 0.5

    def words(ranked: Ranked, k: int) -> str:
        return "good"

    with pytest.raises(ConfigError, match="has the name of a built-in metric"):
        rec.evaluate(parts.test, [recall])
    assert METRICS["recall"].function is not recall
    with pytest.raises(ConfigError, match="define it with `def`"):
        rec.evaluate(parts.test, [lambda ranked, k: torch.zeros(len(ranked))])
    with pytest.raises(ConfigError, match=r"one_number must return one number for each of the \d+ users .* shape \(\)"):
        rec.evaluate(parts.test, [one_number])
    with pytest.raises(ConfigError, match=r"words must return one number .* returned str"):
        rec.evaluate(parts.test, [words])


def test_a_search_by_a_function(parts: Split, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'palate[tune]'")
    found = tune(parts.train, parts.valid, "ease", 3, storage=tmp_path / "s.db", metric=found_at_once)
    assert found.metric == "found_at_once@3"
    by_name = tune(parts.train, parts.valid, "ease", 3, storage=tmp_path / "other.db", metric="hit@3")
    assert [trial.value for trial in found.trials] == [trial.value for trial in by_name.trials]
    with pytest.raises(ConfigError, match="leave one out"):
        tune(
            parts.train,
            parts.valid,
            "ease",
            3,
            storage=tmp_path / "s.db",
            metric=found_at_once,
            training=Training(monitor="ndcg@10"),
        )


def test_a_contest_by_a_function_of_a_module(parts: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics_of_ours.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    from metrics_of_ours import found_at_once as ours

    protocol = Protocol(metrics=metric_names([ours, "hit@3"]))
    found = contest(parts, ["popularity", "ease"], 0, tmp_path / "out", protocol=protocol, metric=ours, seeds=(0,))
    for evaluation in found.evaluations.values():
        np.testing.assert_array_equal(evaluation.values["found_at_once@3"], evaluation.values["hit@3"])
    assert found.comparison().metric == "found_at_once@3"


def test_a_contest_needs_functions_that_its_processes_can_import(parts: Split, tmp_path: Path) -> None:
    def inner(ranked: Ranked, k: int) -> torch.Tensor:
        return torch.zeros(len(ranked))

    with pytest.raises(ConfigError, match="'inner' must be defined at the top of a file"):
        contest(parts, ["popularity"], 0, tmp_path / "out", metric=inner)
    assert not (tmp_path / "out").exists()
