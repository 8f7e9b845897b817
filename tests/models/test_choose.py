"""Settings that models choose by themselves: the search, its result, and rules that suit data of every shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset
from palate.data.sources.synthetic import make_world
from palate.data.splits.build import Split
from palate.errors import ConfigError
from palate.evaluation.evaluate import Validator, evaluate
from palate.models import MODELS
from palate.models.base import Model
from palate.models.baselines.popularity import Popularity, PopularityConfig
from palate.models.choose import MAX_FITS, around, climb, noise_level
from palate.models.linear.ease import EASE, EASEConfig
from palate.models.mf.ials import IALS, IALSConfig
from palate.models.neighbours.knn import UserKNN, UserKNNConfig
from palate.recommender.recommender import Recommender

CHOOSING = (
    "ease", "edlae", "sparse-ease", "puresvd", "ials", "itemknn", "userknn", "rp3beta", "gf-cf", "turbo-cf",
)  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> Split:
    return Dataset.from_frame(make_world(6_000, 200, 120, seed=1).tables().interactions).split("per-user", seed=0)


def fitted(model: Model, parts: Split, valid: bool = True) -> Model:
    model.fit(parts.train, None, Validator(parts.valid, model) if valid else None)
    return model


def named(name: str, parts: Split, **settings: Any) -> Model:
    return MODELS[name](MODELS[name].Config(**settings), parts.train.spec)


@pytest.mark.parametrize("name", CHOOSING)
def test_a_model_that_chose_is_the_model_given_the_choice(parts: Split, name: str) -> None:
    chose = fitted(named(name, parts), parts)
    open_settings = [field for field, value in vars(chose.given).items() if value is None]
    chosen = {field: getattr(chose.config, field) for field in open_settings}
    assert open_settings
    assert None not in chosen.values()
    assert all(f"{field} " in chose.chosen for field in open_settings)
    told = fitted(named(name, parts, **chosen), parts, valid=False)
    assert told.chosen == ""
    queries = parts.train.queries(np.arange(parts.train.n_users), parts.train.spec)
    # The decompositions of puresvd and gf-cf are the first columns of a wider one.
    torch.testing.assert_close(chose.score(queries), told.score(queries), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CHOOSING)
def test_the_choice_is_no_worse_on_valid_than_the_rule(parts: Split, name: str) -> None:
    chose, rule = fitted(named(name, parts), parts), fitted(named(name, parts), parts, valid=False)
    judge = Validator(parts.valid, chose)
    # iALS compares its candidates after a few rounds.
    assert judge(chose)["ndcg@10"] >= judge(rule)["ndcg@10"] - (0.01 if name == "ials" else 1e-6)


def test_a_setting_that_is_given_is_not_changed(parts: Split) -> None:
    model = fitted(named("itemknn", parts, k=3), parts)
    assert model.config.k == 3
    assert model.config.shrink is not None
    assert "k " not in model.chosen.split(" chosen ")[0].replace("shrink", "")


def test_a_second_fit_chooses_anew(parts: Split) -> None:
    model = EASE(EASEConfig(), parts.train.spec)
    model.fit(parts.train)
    rule = model.config.reg
    assert rule == pytest.approx(noise_level(parts.train) ** 2)
    few = parts.train.take(np.arange(len(parts.train)) % 9 == 0)
    model.fit(few)
    assert model.config.reg == pytest.approx(noise_level(few) ** 2)
    assert model.config.reg < rule


def test_the_caller_never_sees_the_random_numbers_of_a_search(parts: Split) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fitted(IALS(IALSConfig(dim=4), parts.train.spec), parts)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", ["ease", "userknn", "gf-cf", "puresvd", "ials"])
def test_an_artifact_keeps_the_choice(parts: Split, name: str, tmp_path) -> None:
    rec = Recommender.train(parts.train, name, valid=parts.valid)
    rec.save(tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run")
    assert loaded.model.config == rec.model.config
    assert None not in vars(loaded.model.config).values()
    user = parts.train.users.ids[0]
    assert loaded.recommend(user).equals(rec.recommend(user))


def test_members_of_a_blend_choose_and_are_loaded(parts: Split, tmp_path) -> None:
    rec = Recommender.train(parts.train, "blend", {"members": ["userknn", "gf-cf"]}, valid=parts.valid)
    rec.save(tmp_path / "run")
    user = parts.train.users.ids[0]
    assert Recommender.load(tmp_path / "run").recommend(user).equals(rec.recommend(user))


def test_forged_settings_are_refused(parts: Split) -> None:
    from palate.errors import ArtifactError
    from palate.models.buffers import check_tensors

    model = fitted(UserKNN(UserKNNConfig(), parts.train.spec), parts)
    model.settings = torch.tensor([10.0, 1.0, 7.0], dtype=torch.float64)
    with pytest.raises(ArtifactError, match="weighting 7"):
        check_tensors(model)


LADDERS = {"a": tuple(range(20)), "b": around(1.0, 2, 4)}


def test_the_search_climbs_one_setting_after_the_other() -> None:
    asked = []

    def value(settings) -> float:
        asked.append(dict(settings))
        return 100.0 - (settings["a"] - 9) ** 2 - abs(np.log2(settings["b"]) - 2 + 0.1 * settings["a"])

    assert climb({"a": 5, "b": 1.0}, LADDERS, value) == {"a": 9, "b": 2.0}
    assert len({tuple(settings.items()) for settings in asked}) < 14


def test_small_gains_are_noise() -> None:
    assert climb({"a": 5}, {"a": tuple(range(9))}, lambda settings: 1.0 + 0.004 * settings["a"])["a"] == 5
    assert climb({"a": 5}, {"a": tuple(range(9))}, lambda settings: 1.0 + 0.02 * settings["a"])["a"] == 8
    # Lower is better: values are negative.
    assert climb({"a": 5}, {"a": tuple(range(9))}, lambda settings: -1.0 - 0.02 * settings["a"])["a"] == 0


def test_a_search_has_an_end(parts: Split, monkeypatch) -> None:
    monkeypatch.setattr("palate.models.choose.MIN_GAIN", -1.0)  # every step counts as better
    model = fitted(named("rp3beta", parts), parts)
    assert f"of {MAX_FITS} settings" in model.chosen


def clustered(users: int, items: int, each: int, groups: int) -> Dataset:
    """Users who mostly choose within their group of items, popular items more often."""
    rng = np.random.default_rng(0)
    liked, group = rng.integers(0, groups, users), np.arange(items) % groups
    logits = np.where(liked[:, None] == group, 2.5, 0.0) - np.arange(items) / items
    best = np.argsort(-(logits + rng.gumbel(size=(users, items))), axis=1)[:, :each]
    return Dataset.from_frame(pl.DataFrame({"user_id": np.repeat(np.arange(users), each), "item_id": best.ravel()}))


@pytest.mark.parametrize(
    ("users", "items", "each", "groups"),
    [(400, 60, 20, 3), (300, 1500, 20, 6), (3000, 200, 5, 8)],
    ids=["dense", "wide", "short sessions"],
)
@pytest.mark.parametrize("name", ["ials", "ease"])
def test_the_rule_suits_data_of_every_shape(name: str, users: int, items: int, each: int, groups: int) -> None:
    parts = clustered(users, items, each, groups).split("per-user", seed=0)
    popular = Popularity(PopularityConfig(), parts.train.spec)
    popular.fit(parts.train)
    bar = evaluate(popular, parts.test, ["ndcg@10"])["ndcg@10"].value
    rule = evaluate(fitted(named(name, parts), parts, valid=False), parts.test, ["ndcg@10"])["ndcg@10"].value
    chose = evaluate(fitted(named(name, parts), parts), parts.test, ["ndcg@10"])["ndcg@10"].value
    assert rule > 1.3 * bar
    assert chose > 0.95 * rule


@pytest.mark.parametrize("name", ["gru4rec", "sasrec", "lightgcn", "xsimgcl"])
def test_a_setting_cannot_ask_for_more_layers_than_a_network_may_have(name: str) -> None:
    with pytest.raises(ConfigError, match="layers = 2147483648 is out of range"):
        MODELS[name].Config(layers=2**31)
