"""The contest: equal budgets, test touched once, resumable, honest about who could not take part."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from palate.config import Training
from palate.data.splits.build import Split
from palate.errors import ConfigError, MissingExtra, TrainingError
from palate.evaluation.evaluate import evaluate
from palate.evaluation.protocol import Protocol
from palate.models import MODELS
from palate.recommender.recommender import Recommender
from palate.testing import planted
from palate.tune import contest
from palate.tune.child import run_in_child
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
    assert [member.model for member in blend.tuned.config.parsed()] == ["puresvd", "popularity"]
    assert blend.tuned.config.parsed()[0].config == found.entries["puresvd"].tuned.config
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


def test_without_a_budget_models_compete_as_they_come_and_without_optuna(
    parts: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match="tuning needs Optuna"):
        contest(parts, ["ease"], 1, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    found = contest(parts, ["ease", "popularity", "blend"], 0, tmp_path, protocol=PROTOCOL, seeds=(0,))
    assert not any(entry.tuned.trials for entry in found.entries.values())
    assert found.entries["ease"].tuned.config == MODELS["ease"].Config()
    assert [member.model for member in found.entries["blend"].tuned.config.parsed()] == ["ease", "popularity"]
    rec = Recommender.train(parts.train, "ease", valid=parts.valid)
    assert found.evaluations["ease"]["ndcg@10"] == evaluate(rec.model, parts.test, protocol=PROTOCOL)["ndcg@10"]


def test_a_larger_budget_trains_again_what_it_changes(parts: Split, tmp_path: Path) -> None:
    first = contest(parts, ["ease"], 1, tmp_path, protocol=PROTOCOL, seeds=(0,)).entries["ease"]
    later = contest(parts, ["ease"], 8, tmp_path, protocol=PROTOCOL, seeds=(0,)).entries["ease"]
    assert later.tuned.config != first.tuned.config
    rec = Recommender.train(parts.train, "ease", later.tuned.config, valid=parts.valid)
    assert later.evaluation["ndcg@10"] == evaluate(rec.model, parts.test, protocol=PROTOCOL)["ndcg@10"]


def test_what_a_child_process_returns_and_raises() -> None:
    assert run_in_child(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError) as caught:
        run_in_child(divmod, 1, 0)
    assert "in the child process" in caught.value.__notes__[0]
    with pytest.raises(ConfigError, match="out of range"):
        run_in_child(_bad_training)
    with pytest.raises(TrainingError, match=r"without a result \(exit code 7\)"):
        run_in_child(os._exit, 7)


def _bad_training() -> Training:
    return Training(lr=-1.0)


PARENT = """
import os, signal, sys
from palate.tune.child import run_in_child

def wait(path):
    open(path, "w").write(str(os.getpid()))
    sum(range(10**13))  # hours, without letting another thread run

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell started in the background
    run_in_child(wait, sys.argv[1])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    told = tmp_path / "child"
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", told], stderr=subprocess.DEVNULL)
    try:
        _until(lambda: told.exists() and told.read_text() != "", 120)
        child = int(told.read_text())
        os.kill(child, 0)  # it runs
        os.kill(child, signal.SIGINT)  # Ctrl-C reaches both
        parent.send_signal(number)
        assert parent.wait(30) != 0
        _until(lambda: not _runs(child), 30)
    finally:
        parent.kill()
        parent.wait()


def _until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(found.strip()) and not found.startswith("Z")


def test_nobody_able_to_take_part_is_an_error_that_says_why(parts: Split, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model could take part: nosuch: there is no model"):
        contest(parts, ["nosuch"], 1, tmp_path)
