"""The contest: equal budgets, test touched once, resumable, honest about who could not take part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from palate.config import Training
from palate.data.parts import Split
from palate.errors import ConfigError
from palate.evaluation.evaluate import evaluate
from palate.evaluation.protocol import Protocol
from palate.recommender import Recommender
from palate.testing import planted
from palate.tune import contest
from palate.tune.contest import averaged

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'palate[tune]'")

PROTOCOL = Protocol(metrics=("ndcg@10", "recall@10", "coverage@10"))


@pytest.fixture(scope="module")
def parts() -> Split:
    return planted().train.split("per-user", valid=0.2, test=0.2)


@pytest.mark.timeout(240)
def test_a_contest_tunes_judges_compares_and_goes_on_where_it_stopped(parts: Split, tmp_path: Path) -> None:
    news: list[str] = []
    how = {"protocol": PROTOCOL, "training": Training(monitor="ndcg@10"), "seeds": (0, 1), "on_news": news.append}
    found = contest(parts, ["popularity", "puresvd", "nosuch"], 2, tmp_path, **how)
    assert list(found.entries) == ["popularity", "puresvd"]
    assert "there is no model" in found.faults["nosuch"]
    assert len(found.entries["puresvd"].tuned.trials) == 2
    assert set(found.entries["puresvd"].runs) == {0, 1}
    assert found.entries["puresvd"].memory > 50e6
    assert {e.protocol.hash for e in found.evaluations.values()} == {found.entries["puresvd"].runs[1].protocol.hash}
    (difference,) = found.comparison().differences
    assert (difference.first, difference.second) == ("popularity", "puresvd")
    assert "popularity and puresvd" in difference.verdict  # too few people here to tell them apart, and it says so
    before = len(news)
    again = contest(parts, ["popularity", "puresvd"], 2, tmp_path, **how)
    assert not [line for line in news[before:] if "trial" in line and "of 2:" in line]
    for name, entry in again.entries.items():
        assert entry.evaluation["ndcg@10"] == found.entries[name].evaluation["ndcg@10"]
    with pytest.raises(ConfigError, match="another folder"):
        contest(parts, ["popularity"], 2, tmp_path, protocol=Protocol(seed=9))


@pytest.mark.timeout(240)
def test_a_blend_is_of_those_before_it_as_they_were_tuned(parts: Split, tmp_path: Path) -> None:
    found = contest(parts, ["puresvd", "popularity", "blend"], 2, tmp_path, protocol=PROTOCOL, seeds=(0,))
    blend = found.entries["blend"]
    assert [member.model for member in blend.tuned.config.each()] == ["puresvd", "popularity"]
    assert blend.tuned.config.each()[0].config == found.entries["puresvd"].tuned.config
    assert blend.tuned.value >= found.entries["puresvd"].tuned.value - 1e-9


def test_the_mean_over_seeds_is_the_mean_of_each_user(parts: Split) -> None:
    runs = []
    for seed in (0, 1):
        rec = Recommender.train(parts.train, "gmf", {"dim": 8}, Training(epochs=2), seed=seed)
        runs.append(evaluate(rec.model, parts.test, protocol=PROTOCOL))
    mean = averaged(runs)
    first, second = runs
    assert not np.array_equal(first.values["ndcg@10"], second.values["ndcg@10"])
    np.testing.assert_allclose(mean.values["ndcg@10"], (first.values["ndcg@10"] + second.values["ndcg@10"]) / 2)
    assert mean["ndcg@10"].value == pytest.approx((first["ndcg@10"].value + second["ndcg@10"].value) / 2)
    assert mean["coverage@10"].value == pytest.approx((first["coverage@10"].value + second["coverage@10"].value) / 2)


def test_nobody_able_to_take_part_is_an_error_that_says_why(parts: Split, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model could take part: nosuch: there is no model"):
        contest(parts, ["nosuch"], 1, tmp_path)
