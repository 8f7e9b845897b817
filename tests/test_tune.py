"""The search: on `valid` alone, resumable, shared, and not stopped by a trial that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palate.config import Training, from_dict
from palate.data.splits.build import Split
from palate.errors import ConfigError
from palate.evaluation.metrics import METRICS, hit
from palate.models import MODELS
from palate.ranking.ranked import Ranked
from palate.recommender.recommender import Recommender
from palate.testing import planted
from palate.tune import Trial, Tuned, tune
from palate.tune.search import unknown_settings
from palate.tune.spaces import SPACES
from palate.tune.study import PARALLEL, Study

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'palate[tune]'")

QUICK = Training(epochs=3, batch_size=256)


class Stops:
    """hit@10 that is interrupted when it has been asked `left` times."""

    __name__ = "interrupted_hit"

    def __init__(self) -> None:
        self.left: int | None = None

    def __call__(self, ranked: Ranked, k: int = 10) -> torch.Tensor:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return hit(ranked, k)


@pytest.fixture
def own_metric() -> Iterator[Stops]:
    yield Stops()
    METRICS.pop("interrupted_hit", None)


@pytest.fixture(scope="module")
def parts() -> Split:
    return planted().train.split("per-user", valid=0.2, test=0.2)


def test_every_space_names_real_settings_of_a_real_model() -> None:
    assert unknown_settings() == []
    assert set(SPACES) == set(MODELS)
    assert unknown_settings({"ease": {"rig": SPACES["ease"]["reg"]}}) == ["ease: rig"]


def test_it_finds_a_better_ridge_than_the_worst_it_tried(parts: Split, tmp_path: Path) -> None:
    found = tune(parts.train, parts.valid, "ease", 6, storage=tmp_path / "study.db")
    values = [trial.value for trial in found.trials]
    assert len(values) == 6
    assert found.metric == "ndcg@10"
    assert found.value == max(values) > min(values)
    best = max(found.trials, key=lambda trial: trial.value or 0)
    assert found.config.reg == best.settings["reg"]


def test_a_stopped_search_goes_on_and_a_finished_one_is_only_read(parts: Split, tmp_path: Path) -> None:
    storage, seen = tmp_path / "study.db", []
    tune(parts.train, parts.valid, "ease", 2, storage=storage, on_trial=lambda trial: seen.append(trial.number))
    more = tune(parts.train, parts.valid, "ease", 5, storage=storage, on_trial=lambda trial: seen.append(trial.number))
    assert seen == [0, 1, 2, 3, 4]
    again = tune(parts.train, parts.valid, "ease", 5, storage=storage, on_trial=lambda trial: seen.append(trial.number))
    assert again == more
    assert len(seen) == 5
    fewer = tune(parts.train, parts.valid, "ease", 3, storage=storage)
    assert fewer.trials == more.trials[:3]


def test_a_search_in_pieces_tries_what_one_in_a_go_tries(parts: Split, tmp_path: Path) -> None:
    whole = tune(parts.train, parts.valid, "ease", 13, storage=tmp_path / "whole.db")
    for trials in (1, 2, 5, 12, 13):
        pieces = tune(parts.train, parts.valid, "ease", trials, storage=tmp_path / "pieces.db")
    tried = [trial.settings["reg"] for trial in whole.trials]
    assert [trial.settings["reg"] for trial in pieces.trials] == tried
    assert len(set(tried)) == 13
    other = tune(parts.train, parts.valid, "ease", 2, storage=tmp_path / "pieces.db", seed=1)
    assert not {trial.settings["reg"] for trial in other.trials} & set(tried)


def timeless(trials: tuple[Trial, ...]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]


def test_a_trial_that_is_stopped_is_taken_up_again(parts: Split, tmp_path: Path, own_metric: Stops) -> None:
    """The metric itself stops the process, as Ctrl-C would: at its tenth call, which is within a trial."""

    def search(storage: str, trials: int = 12) -> Tuned:
        how = Training(epochs=4, batch_size=64, patience=2)
        where = tmp_path / storage
        return tune(
            parts.train,
            parts.valid,
            "multdae",
            trials,
            storage=where,
            config={"dim": 4},
            training=how,
            metric=own_metric,
        )

    whole = search("whole.db")
    assert {trial.state for trial in whole.trials} == {"complete", "pruned"}
    for left in (10, 13, 1, 17):
        own_metric.left = left
        with pytest.raises(KeyboardInterrupt):
            search("pieces.db")
        own_metric.left = None
    pieces = search("pieces.db")
    assert timeless(pieces.trials) == timeless(whole.trials)
    assert (pieces.config, pieces.training, pieces.value) == (whole.config, whole.training, whole.value)


def test_two_at_once_run_each_trial_once(parts: Split, tmp_path: Path) -> None:
    """Locks are between open files, so that two threads stand for two processes; ease draws no random numbers."""
    whole = tune(parts.train, parts.valid, "ease", 14, storage=tmp_path / "whole.db")
    seen: list[list[int]] = [[], []]

    def search(turn: int) -> Tuned:
        return tune(
            parts.train,
            parts.valid,
            "ease",
            14,
            storage=tmp_path / "shared.db",
            on_trial=lambda trial: seen[turn].append(trial.number),
        )

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(search, range(2))
    assert first == second
    assert timeless(first.trials) == timeless(whole.trials)
    assert max(map(len, seen)) == 14
    for numbers in seen:  # whoever comes later is not told of trials that ended before
        assert sorted(numbers) == list(range(14 - len(numbers), 14))


def test_a_trial_depends_on_trials_far_enough_before_it_alone(tmp_path: Path) -> None:
    def study(name: str) -> Study:
        return Study(tmp_path / name, "any", ["conditions"], seed=3, higher_is_better=True, patience=0)

    def objective(trial) -> float:
        return -((trial.suggest_float("x", 0, 1) - 0.3) ** 2)

    def tried(of: Study) -> dict[int, dict[str, float]]:
        return {number: frozen.params for number, frozen in of.finished().items()}

    straight, crossed = study("straight.db"), study("crossed.db")
    for number in range(16):
        straight.run(number, objective)
    for start in range(0, 16, PARALLEL):
        for number in reversed(range(start, start + PARALLEL)):
            crossed.run(number, objective)
    assert tried(crossed) == tried(straight)
    with crossed.claim(16) as done, crossed.claim(18) as first, study("crossed.db").claim(18) as second:
        assert (done, first, second) == (None, 16, 17)


def test_a_trial_waits_for_those_it_depends_on(tmp_path: Path) -> None:
    study = Study(tmp_path / "s.db", "any", ["conditions"], seed=3, higher_is_better=True, patience=0)
    with study.claim(9) as a, study.claim(9) as b, study.claim(9) as c, study.claim(9) as d, study.claim(9) as e:
        assert (a, b, c, d, e) == (0, 1, 2, 3, None)


def test_studies_of_other_models_share_the_file(parts: Split, tmp_path: Path) -> None:
    storage = tmp_path / "study.db"
    assert len(tune(parts.train, parts.valid, "ease", 2, storage=storage).trials) == 2
    assert len(tune(parts.train, parts.valid, "puresvd", 3, storage=storage).trials) == 3


def test_a_model_with_nothing_to_tune_is_judged_once(parts: Split, tmp_path: Path) -> None:
    found = tune(parts.train, parts.valid, "popularity", 20, storage=tmp_path / "study.db")
    assert len(found.trials) == 1


@pytest.mark.parametrize("patience", [0, 2, 5])
def test_no_trial_is_stopped_within_its_patience(parts: Split, tmp_path: Path, patience: int) -> None:
    import optuna

    how = Training(epochs=8, batch_size=256, patience=patience)
    tune(parts.train, parts.valid, "multdae", 10, storage=tmp_path / "s.db", config={"dim": 4}, training=how)
    storage = f"sqlite:///{tmp_path / 's.db'}"
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    stopped = [len(t.intermediate_values) for t in trials if t.state is optuna.trial.TrialState.PRUNED]
    assert len(trials) == 10
    assert stopped, "some are behind"
    assert min(stopped) == max(2, patience)


@pytest.mark.parametrize("trials", [0, -1])
def test_no_trials_are_refused(parts: Split, tmp_path: Path, trials: int) -> None:
    with pytest.raises(ConfigError, match=f"trials = {trials} is out of range; give at least 1"):
        tune(parts.train, parts.valid, "ease", trials, storage=tmp_path / "s.db")


def test_failed_trials_are_recorded_and_the_search_goes_on(parts: Split, tmp_path: Path) -> None:
    hot = Training(epochs=1, batch_size=64, optimizer="sgd", lr=1e30)
    # lr is searched, so only weight decay is left to blow up: w -= lr * weight_decay * w overflows.
    found = {"fault": "", "states": set()}

    def keep(trial) -> None:
        found["states"].add(trial.state)
        found["fault"] = found["fault"] or trial.fault

    fixed = {"dim": 4, "negatives": 2, "reg": 1e30}
    with pytest.raises(ConfigError, match=r"all 3 trials of mf failed; the first: .*loss became"):
        tune(parts.train, parts.valid, "mf", 3, storage=tmp_path / "s.db", config=fixed, training=hot, on_trial=keep)
    assert found["states"] == {"failed"}
    assert "loss became" in found["fault"]


def test_found_settings_train_a_model_and_can_be_saved(parts: Split, tmp_path: Path) -> None:
    found = tune(parts.train, parts.valid, "multdae", 3, storage=tmp_path / "s.db", config={"dim": 8}, training=QUICK)
    found.save(tmp_path / "best.json")
    saved = json.loads((tmp_path / "best.json").read_text())
    how = from_dict(Training, saved.pop("training"))
    assert how == found.training
    assert from_dict(MODELS["multdae"].Config, saved) == found.config
    rec = Recommender.train(parts.train, "multdae", saved, how, parts.valid)
    assert max(epoch.valid["ndcg@10"] for epoch in rec.records) == pytest.approx(found.value, abs=1e-6)


def test_a_wrong_name_is_told_before_the_first_trial(parts: Split, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean .ease."):
        tune(parts.train, parts.valid, "eese", 2, storage=tmp_path / "study.db")
    with pytest.raises(ConfigError, match="rig"):
        tune(parts.train, parts.valid, "ease", 2, storage=tmp_path / "study.db", config={"rig": 1})
