"""The facade: ids keep their type, each answer names its route, bad questions get clear errors, save and load agree."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import palate
from palate import Recommender
from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.sources.synthetic import synthetic
from palate.data.splits import Split
from palate.errors import ArtifactError, CannotAnswer, ConfigError, DataError, TrainingError, UnknownId
from palate.evaluation.measure import ROUTES
from palate.models import MODELS
from palate.models.baselines.popularity import Popularity
from palate.models.ncf.ncf import NeuMF
from palate.recommender import predictions
from palate.recommender.id_translation import build_queries, list_length, require_item
from palate.testing import planted

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 256, "lr": 0.01}


@pytest.fixture(scope="module")
def parts() -> Split:
    tables = synthetic(2000)
    return Dataset.from_frame(tables.interactions, tables.items, rating_scale=(1.0, 5.0)).split("per-user")


@pytest.fixture(scope="module", params=list(MODELS))
def trained(request: pytest.FixtureRequest, parts: Split) -> Recommender:
    lacking = MODELS[request.param].needs - parts.train.provides
    if lacking:
        pytest.skip(f"made-up items have no {', '.join(lacking)}; the contract tests train {request.param}")
    return Recommender.train(parts.train, request.param, valid=parts.valid, training=QUICK)


@pytest.fixture(scope="module")
def popular(parts: Split) -> Recommender:
    return Recommender.train(parts.train, "popularity")


@pytest.fixture(scope="module")
def neumf(parts: Split) -> Recommender:
    config = {"dim": 8, "layers": (8,), "loss": "joint"}
    return Recommender.train(parts.train, "neumf", config, QUICK, parts.valid, seed=3)


def small(text: bool) -> Dataset:
    """Four people, four items; item 3 is had by one who has nothing else."""
    frame = pl.DataFrame({"user_id": [7, 7, 8, 8, 9, 9, 9, 10], "item_id": [0, 1, 0, 1, 0, 1, 2, 3]})
    return Dataset.from_frame(frame.cast(pl.String).with_columns(pl.all().str.zfill(3)) if text else frame)


def test_the_signature_is_the_designs() -> None:
    names = list(inspect.signature(Recommender.train).parameters)
    assert names[:6] == ["data", "model", "config", "training", "valid", "seed"]
    recommend = list(inspect.signature(Recommender.recommend).parameters)
    assert {"self", "users", "history", "ratings", "features", "k", "exclude_seen", "candidates"} <= set(recommend)


def test_every_model_answers_and_comes_back_the_same(trained: Recommender, parts: Split, tmp_path: Path) -> None:
    users, items = parts.train.users.ids[:3], parts.train.items.ids[:4]
    trained.save(tmp_path / "run")
    again = Recommender.load(tmp_path / "run")
    assert (again.name, again.training, again.records) == (trained.name, trained.training, trained.records)
    for ask in (
        lambda r: r.recommend(users, k=5),
        lambda r: r.recommend(history=items, k=5),
        lambda r: r.similar(items[0], k=5),
    ):
        assert ask(trained).height > 0
        assert_frame_equal(ask(trained), ask(again))
    if "rating" in trained.model.answers:
        assert_frame_equal(trained.predict(users[0], items), again.predict(users[0], items))
    assert trained.evaluate(parts.test)["ndcg@10"] == again.evaluate(parts.test)["ndcg@10"]


def test_the_answers_of_a_list(popular: Recommender, parts: Split) -> None:
    train, users = parts.train, parts.train.users.ids[:3].to_list()
    found = popular.recommend(users, k=5)
    assert found.columns == ["user_id", "item_id", "score", "rank", "route"]
    assert found["user_id"].to_list() == [user for user in users for _ in range(5)]
    assert found["rank"].to_list() == [1, 2, 3, 4, 5] * 3
    for index, user in enumerate(users):
        mine = found.filter(user_id=user)
        had = train.items.ids[train.item[train.user == index]].implode()
        assert not mine["item_id"].is_in(had).any()
        assert mine["score"].is_sorted(descending=True)
        counts = train.item_counts[train.items.index(mine["item_id"])]
        assert counts.tolist() == mine["score"].to_list()


@pytest.mark.parametrize("text", [True, False])
def test_ids_keep_their_type(text: bool, tmp_path: Path) -> None:
    data = small(text)
    Recommender.train(data, "popularity").save(tmp_path / "run")
    recommender = Recommender.load(tmp_path / "run")
    user, item = data.users.ids[0], data.items.ids[0]
    assert (user, item) == (("007", "000") if text else (7, 0))
    for found in (recommender.recommend(user), recommender.recommend(history=item), recommender.similar(item)):
        assert found["item_id"].dtype == data.items.ids.dtype
    assert recommender.recommend(user)["user_id"].to_list() == [user, user]


def test_one_id_or_many_and_any_container(popular: Recommender, parts: Split) -> None:
    ids = parts.train.users.ids
    one = popular.recommend(ids[0], k=2)
    for users in ([ids[0]], (ids[0],), ids[:1], np.array([ids[0]])):
        assert_frame_equal(popular.recommend(users, k=2), one)
    assert popular.recommend([], k=2).is_empty()
    assert popular.recommend([ids[0], ids[0]], k=2).height == 4


def test_routes(neumf: Recommender, parts: Split) -> None:
    items = parts.train.items.ids
    assert set(neumf.recommend(parts.train.users.ids[:2])["route"]) == {"known_user"}
    found = neumf.recommend(history=[items[:3], []], k=4)
    assert found.columns == ["query", "item_id", "score", "rank", "route"]
    assert found["query"].to_list() == [0] * 4 + [1] * 4
    assert found["route"].to_list() == ["history"] * 4 + ["popularity"] * 4
    best = popular_items(parts.train, 4)
    assert found.filter(query=1)["item_id"].to_list() == best


def popular_items(data: Dataset, k: int) -> list[Any]:
    return data.items.ids[np.argsort(-data.item_counts, kind="stable")[:k]].to_list()


def test_a_history_is_left_out_of_its_list_unless_asked_for(popular: Recommender, parts: Split) -> None:
    best = popular_items(parts.train, 4)
    assert popular.recommend(history=best[:2], k=2)["item_id"].to_list() == best[2:]
    assert popular.recommend(history=best[:2], k=4, exclude_seen=False)["item_id"].to_list() == best
    assert popular.recommend(history=best[0], k=1)["item_id"].to_list() == best[1:2]


def test_ratings_of_a_history_count(parts: Split) -> None:
    recommender = Recommender.train(parts.train, "mf", {"loss": "mse"}, QUICK)
    items = parts.train.items.ids[:4].to_list()
    low, high = (recommender.recommend(history=items, ratings=[r] * 4, k=3)["score"].sum() for r in (1.0, 5.0))
    assert low < high
    both = recommender.recommend(history=[items, items], ratings=[[1.0] * 4, [5.0] * 4], k=3)
    assert both.group_by("query", maintain_order=True).agg(pl.sum("score"))["score"].to_list() == pytest.approx(
        [low, high], rel=1e-6
    )
    with pytest.raises(ConfigError, match="one number for each item of history"):
        recommender.recommend(history=items, ratings=[1.0])


def test_candidates(popular: Recommender, parts: Split) -> None:
    allowed = parts.train.items.ids[5:8].to_list()
    found = popular.recommend(parts.train.users.ids[:5], candidates=allowed)
    assert 0 < found.height <= 15
    assert set(found["item_id"]) <= set(allowed)


def test_a_list_is_no_longer_than_the_catalogue() -> None:
    recommender = Recommender.train(small(text=False), "popularity")
    assert recommender.recommend(10, k=10**9)["item_id"].to_list() == [0, 1, 2]
    assert recommender.similar(0, k=10**9).height == 2


def test_who_has_everything_gets_nothing() -> None:
    recommender = Recommender.train(small(text=False), "popularity")
    assert recommender.recommend(history=[0, 1, 2, 3]).is_empty()
    found = recommender.recommend(history=[[0, 1, 2, 3], [0]])
    assert found["query"].to_list() == [1, 1, 1]
    assert found.schema == recommender.recommend(history=[0, 1, 2, 3]).schema


def test_similar_by_hand_for_a_model_without_vectors() -> None:
    found = Recommender.train(small(text=False), "popularity").similar(2)
    # Item 2 was had by one person, together with 0 and with 1, each of which three have: 1 / sqrt(1 * 3).
    expected = pl.DataFrame({"item_id": [0, 1], "score": [3**-0.5] * 2, "rank": [1, 2], "route": ["co_occurrence"] * 2})
    assert_frame_equal(found, expected)
    assert Recommender.train(small(text=False), "popularity").similar(3).is_empty()


def test_similar_by_the_models_vectors(neumf: Recommender, parts: Split) -> None:
    item = parts.train.items.ids[3]
    found = neumf.similar(item, k=6)
    vectors = neumf.model.item_vectors()
    assert vectors is not None
    cosine = torch.nn.functional.cosine_similarity(vectors, vectors[3:4])
    cosine[3] = -2
    assert found["score"].to_list() == pytest.approx(cosine.topk(6).values.tolist(), abs=1e-6)
    assert item not in found["item_id"].to_list()
    assert set(found["route"]) == {"item_vectors"}


def test_predictions_and_their_fallback(neumf: Recommender, parts: Split) -> None:
    users, items = parts.train.users.ids, parts.train.items.ids
    found = neumf.predict([users[0], -1, users[1], -1], [items[0], items[0], -1, -1])
    assert found.columns == ["user_id", "item_id", "prediction", "route"]
    assert found["route"].to_list() == ["known_user", "fallback", "fallback", "fallback"]
    assert found["prediction"].is_between(1, 5).all()
    assert parts.train.rating is not None
    assert found["prediction"][3] == pytest.approx(parts.train.rating.mean(), abs=1e-4)
    assert neumf.predict(users[0], items[:3]).height == 3
    assert neumf.predict(users[:3], items[0])["user_id"].to_list() == users[:3].to_list()
    assert neumf.predict([], items[0]).is_empty()
    with pytest.raises(ConfigError, match="2 users do not match 3 items"):
        neumf.predict(users[:2], items[:3])


def test_predictions_refuse_ids_of_the_wrong_type(neumf: Recommender) -> None:
    with pytest.raises(DataError, match=r"user ids here are whole numbers, for example .*, and text was given, '5'"):
        neumf.predict(["5"], [10])
    with pytest.raises(DataError, match="item ids here are whole numbers"):
        neumf.predict([5], ["10"])


def test_predicting_needs_ratings(popular: Recommender) -> None:
    with pytest.raises(CannotAnswer, match="Popularity"):
        popular.predict(0, 0)


def test_unknown_ids(popular: Recommender) -> None:
    with pytest.raises(UnknownId, match=r"unknown user -5: .*give their items instead, history="):
        popular.recommend([-5])
    with pytest.raises(UnknownId, match=r"7 unknown users: -1, -2, -3, -4, -5, \.\.\.: .*unknown='popularity'"):
        popular.recommend([-1, -2, -3, -4, -5, -6, -7, 0])
    with pytest.raises(UnknownId, match=r"unknown user '0'.*ids here are whole numbers"):
        popular.recommend("0")
    with pytest.raises(UnknownId, match="unknown item -5"):
        popular.recommend(history=[-5])
    with pytest.raises(UnknownId, match="unknown item -5"):
        popular.recommend(history=[], candidates=[-5])
    with pytest.raises(UnknownId, match="unknown item 'x'"):
        popular.similar("x")


def test_questions_that_make_no_sense(popular: Recommender) -> None:
    with pytest.raises(ConfigError, match="users=, history= or features="):
        popular.recommend()
    with pytest.raises(ConfigError, match="ratings= are those of the items in history="):
        popular.recommend([0], ratings=[3.0])
    with pytest.raises(ConfigError, match="2 histories do not match 1 users"):
        popular.recommend([0], history=[[0], [1]])
    with pytest.raises(ConfigError, match="unknown = 'skip' is not one of 'error', 'popularity'"):
        build_queries(popular.data, popular.model.spec, [0], None, None, unknown="skip")
    for ask in (lambda: popular.recommend(0, k=0), lambda: popular.similar(0, k=0)):
        with pytest.raises(ConfigError, match="k = 0 is out of range; give a whole number of at least 1"):
            ask()
    for k in (-1, 2.0, "5", None, True):
        with pytest.raises(ConfigError, match=f"k = {k!r} is out of range"):
            list_length(k)
    with pytest.raises(ConfigError, match="one user can be explained at a time, and 2 are given"):
        popular.explain(user=popular.data.users.ids[:2], item=popular.data.items.ids[0])
    with pytest.raises(ConfigError, match="item= takes one item, and 2 are given"):
        require_item(popular.data, popular.data.items.ids[:2])
    with pytest.raises(DataError, match="all text or all whole numbers, not int, str"):
        popular.recommend([0, "1"])
    for ids in ([0.0], np.array([0.0]), pl.Series([0.0]), {0.0}):
        for ask in (lambda ids=ids: popular.recommend(ids), lambda ids=ids: popular.recommend(history=ids)):
            with pytest.raises(DataError, match="not float"):
                ask()
    with pytest.raises(DataError, match=r"users= takes ids .* not bool"):
        popular.recommend(True)
    for table in (pl.DataFrame({"item_id": [0]}), {0: 5.0}):
        with pytest.raises(DataError, match=f"history= takes ids, not a {type(table).__name__}"):
            popular.recommend(history=table)


def test_ratings_that_cannot_be_used_are_refused(neumf: Recommender) -> None:
    for ratings in ([float("nan")], [float("inf")], ["good"]):
        with pytest.raises(DataError, match="ratings takes finite numbers"):
            neumf.recommend(history=[0], ratings=ratings)
    with pytest.raises(ConfigError, match="a set has none; give a list"):
        neumf.recommend(history={0}, ratings=[3.0])
    unrated = Recommender.train(small(text=False), "ease")
    with pytest.raises(ConfigError, match="the training data has no ratings"):
        unrated.recommend(history=[0], ratings=[3.0])


def test_a_history_comes_in_any_container(popular: Recommender) -> None:
    one = popular.recommend(history=[3, 1], k=2)
    for history in (
        (1, 3),
        {1, 3},
        np.array([3, 1]),
        pl.Series([3, 1]),
        (item for item in (3, 1)),
        [[3, 1]],
        {3: 0, 1: 0}.keys(),
    ):
        assert_frame_equal(popular.recommend(history=history, k=2), one)
    two = popular.recommend(history=[[3, 1], [2]], k=2)
    for history in (
        pl.Series([[3, 1], [2]]),
        ((3, 1), np.array([2])),
        (row for row in ([3, 1], {2})),
        [iter([3, 1]), [2]],
    ):
        assert_frame_equal(popular.recommend(history=history, k=2), two)
    with pytest.raises(DataError, match="not int, list"):
        popular.recommend(history=[1, [2]])


def test_a_history_comes_from_pandas(popular: Recommender) -> None:
    pd = pytest.importorskip("pandas")
    rows = pd.DataFrame({"user": [7, 7, 8], "item": [3, 1, 2]})
    assert_frame_equal(
        popular.recommend(history=rows[rows.user == 7].item, k=2), popular.recommend(history=[3, 1], k=2)
    )
    grouped = rows.groupby("user").item.agg(list)
    assert_frame_equal(popular.recommend(history=grouped, k=2), popular.recommend(history=[[3, 1], [2]], k=2))


def test_unknown_users_get_popularity_if_asked_for(neumf: Recommender, parts: Split) -> None:
    user, best = parts.train.users.ids[0], popular_items(parts.train, 3)
    found = neumf.recommend([user, -5], k=3, unknown="popularity")
    assert_frame_equal(found.filter(user_id=user), neumf.recommend(user, k=3))
    assert found.filter(user_id=-5).select("item_id", "route").rows() == [(item, "popularity") for item in best]
    rated = {"history": [best[:2]], "ratings": [[5.0, 4.0]], "k": 3}
    both = neumf.recommend([-5], **rated, unknown="popularity")
    assert_frame_equal(both.drop("user_id"), neumf.recommend(**rated).drop("query"))
    with pytest.raises(DataError, match=r"user ids here are whole numbers, for example .*, and text was given"):
        neumf.recommend(["5"], unknown="popularity")


@pytest.mark.parametrize(
    ("name", "config"), [("mf", {"dim": 8}), ("ease", None), ("neumf", {"dim": 8, "layers": (8,)})]
)
def test_a_known_user_brings_fresh_history(parts: Split, name: str, config: dict[str, Any] | None) -> None:
    training = QUICK if name != "ease" else None
    rec, train = Recommender.train(parts.train, name, config, training), parts.train
    user, other = train.users.ids[:2]
    had = train.items.ids[train.item[train.user == 0]].to_list()
    unseen = [item for item in train.items.ids if item not in had]
    before, newer = rec.recommend([user, other], k=train.n_items), unseen[-3:]
    found = rec.recommend([user, other], history=[newer, []], k=train.n_items)
    assert found.filter(user_id=user)["route"].unique().to_list() == ["history"]
    assert set(found.filter(user_id=user)["item_id"]) == set(unseen) - set(newer)
    # The answer is that of the whole history, training's and newer; who brings nothing is answered as before.
    ratings = None if train.rating is None else train.rating[train.user == 0].tolist()
    liked = None if ratings is None else (float(train.rating.mean()) + 5.0) / 2
    whole = rec.recommend(
        history=had + newer, ratings=None if ratings is None else ratings + [liked] * 3, k=train.n_items
    )
    expected = dict(whole.select("item_id", "score").rows())
    for item, score in found.filter(user_id=user).select("item_id", "score").rows():
        assert score == pytest.approx(expected[item], rel=1e-3, abs=1e-5)
    unchanged = dict(before.filter(user_id=other).select("item_id", "score").rows())
    assert dict(found.filter(user_id=other).select("item_id", "score").rows()) == pytest.approx(unchanged, rel=1e-5)
    again = rec.recommend(user, history=[*newer, had[0]], k=3, exclude_seen=False)  # an item of both counts once
    assert again.height == 3


def test_fresh_history_is_the_newest_and_keeps_ratings_and_times(parts: Split) -> None:
    train = parts.train
    had = train.item[train.user == 0]
    new = [int(item) for item in range(train.n_items) if item not in had][:1]
    given = [train.items.ids[int(had[0])], train.items.ids[new[0]]]
    users, queries = build_queries(train, train.spec, train.users.ids[:2], [given, []], [[2.0, 4.0], []])
    assert users.to_list() == train.users.ids[:2].to_list()
    assert queries.history[0].tolist() == [*had[1:].tolist(), int(had[0]), new[0]]
    assert queries.history[1].tolist() == train.item[train.user == 1].tolist()
    length = len(queries.history[0])
    assert queries.ratings is not None
    assert queries.ratings[length - 2 : length].tolist() == [2.0, 4.0]
    assert queries.times is not None
    assert queries.times[length - 2 : length].tolist() == [int(train.timestamp.max())] * 2
    assert queries.fresh is not None
    assert queries.fresh.tolist() == [True, False]


def test_a_model_that_reads_no_history_only_excludes_fresh_items(parts: Split) -> None:
    rec = Recommender.train(parts.train, "gmf", {"dim": 4}, QUICK)
    if "history" in rec.model.answers:
        rec = Recommender.train(parts.train, "popularity")
    user = parts.train.users.ids[0]
    first = rec.recommend(user, k=1)["item_id"][0]
    found = rec.recommend(user, history=[first], k=2)
    assert found["item_id"].to_list() == rec.recommend(user, k=3)["item_id"].to_list()[1:]


def test_training_is_told_what_is_wrong(parts: Split) -> None:
    train = parts.train
    for arguments, says in [
        ({"model": "neumff"}, "no model 'neumff'.*did you mean 'neumf'"),
        ({"config": {"dmi": 3}}, "unknown setting 'dmi'; did you mean 'dim'"),
        ({"config": {"dim": 0, "dropout": 2.0}}, "2 faults"),
        ({"config": 3}, "must be a NeuMFConfig or a dict, not int"),
        ({"config": Training()}, "not Training"),
        ({"training": {"epoch": 3}}, "unknown setting 'epoch'; did you mean 'epochs'"),
        ({"training": {"lr": -1.0}}, "lr = -1.0 is out of range"),
        ({"seed": -1}, "seed = -1 is out of range"),
        ({"model": Popularity(Popularity.Config(), small(text=True).spec)}, "build it on data.spec"),
        ({"model": Popularity(Popularity.Config(), train.spec), "config": {}}, "has its own"),
    ]:
        with pytest.raises(ConfigError, match=says):
            Recommender.train(train, **arguments)
    with pytest.raises(DataError, match="rating"):
        Recommender.train(small(text=True), "bias")


def test_training_is_what_was_asked_for(neumf: Recommender, parts: Split) -> None:
    asked = Training(epochs=2, batch_size=256, lr=0.01, seed=3)
    assert neumf.training == replace(
        asked, weight_decay=NeuMF.default_training.weight_decay, patience=NeuMF.default_training.patience
    )
    assert neumf.model.config.layers == (8,)
    assert [record.epoch for record in neumf.records] == [1, 2]
    assert all("ndcg@10" in record.valid for record in neumf.records)
    seen: list[int] = []
    steps: list[tuple[int, int, int]] = []
    again = Recommender.train(
        parts.train,
        "neumf",
        neumf.model.config,
        Training(epochs=2, batch_size=256, lr=0.01),
        parts.valid,
        3,
        on_epoch=lambda record: seen.append(record.epoch),
        on_step=lambda epoch, done, total, loss: steps.append((epoch, done, total)),
    )
    assert seen == [1, 2]
    assert steps[-1] == (2, len(parts.train), len(parts.train))
    for name, tensor in neumf.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])


def test_valid_can_be_a_table_of_its_own(neumf: Recommender, parts: Split) -> None:
    table = Dataset.from_frame(parts.valid.frame(), rating_scale=(1.0, 5.0))
    again = Recommender.train(parts.train, "neumf", neumf.model.config, QUICK, table, 3)
    for mine, theirs in zip(again.records, neumf.records, strict=True):
        assert mine.valid["ndcg@10"] == pytest.approx(theirs.valid["ndcg@10"])


@pytest.mark.parametrize("name", ["popularity", "bias", "mf", "neumf"])
@pytest.mark.parametrize(
    "rows", [[(1, 1, 3.0)], [(1, 1, 3.0), (1, 2, 3.0)], [(1, 1, 3.0), (2, 1, 3.0)]], ids=["one", "one user", "one item"]
)
def test_next_to_nothing_to_learn_from(name: str, rows: list[tuple[int, int, float]]) -> None:
    data = Dataset.from_frame(pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row"))
    recommender = Recommender.train(data, name, training=QUICK)
    assert recommender.recommend(1).is_empty()
    assert recommender.recommend(1, exclude_seen=False).height == data.n_items
    assert recommender.recommend(history=[]).height == data.n_items
    if "rating" in recommender.model.answers:
        assert recommender.predict(1, 1)["prediction"].to_list() == [3.0]


def test_a_run_goes_on_from_its_checkpoint(parts: Split, neumf: Recommender, tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        raise KeyboardInterrupt

    arguments: tuple[Any, ...] = (parts.train, "neumf", neumf.model.config, QUICK, parts.valid, 3, tmp_path / "state")
    with pytest.raises(KeyboardInterrupt):
        Recommender.train(*arguments, on_epoch=stop)
    seen: list[int] = []
    again = Recommender.train(*arguments, on_epoch=lambda record: seen.append(record.epoch))
    assert seen == [2]
    for name, tensor in neumf.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])


class Mine(Popularity):
    """A model of one's own."""


def test_a_model_of_ones_own(parts: Split, tmp_path: Path) -> None:
    recommender = Recommender.train(parts.train, Mine(Popularity.Config(), parts.train.spec))
    assert recommender.name == "Mine"
    recommender.save(tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"a model 'Mine'.*models=\{\*\*MODELS, 'Mine': YourModel\}"):
        Recommender.load(tmp_path / "run")
    again = Recommender.load(tmp_path / "run", models={**MODELS, "mine": Mine})
    assert isinstance(again.model, Mine)
    known = Recommender.train(parts.train, Popularity(Popularity.Config(), parts.train.spec))
    assert known.name == "popularity"


def test_evaluation_of_a_part_and_of_the_same_rows_as_a_table(popular: Recommender, parts: Split) -> None:
    # Without valid, test's history is train, which is also what new data gets.
    whole = Dataset.from_frame(pl.concat([p.frame() for p in (parts.train, parts.test)]))
    alone = whole.split("per-user", valid=0)
    recommender = Recommender.train(alone.train, "popularity")
    by_part = recommender.evaluate(alone.test)
    shuffled = alone.test.frame().sample(fraction=1, shuffle=True, seed=1)
    by_table = recommender.evaluate(Dataset.from_frame(shuffled))
    assert by_part["ndcg@10"].value == pytest.approx(by_table["ndcg@10"].value)
    assert by_part.model == "popularity"
    assert list(recommender.evaluate(alone.test, ["recall@5"]).estimates) == ["recall@5"]


def test_evaluation_of_new_people_and_items_in_a_table() -> None:
    recommender = Recommender.train(small(text=False), "popularity")
    new = Dataset.from_frame(pl.DataFrame({"user_id": [7, 99, 99], "item_id": [2, 0, 77]}))
    found = recommender.evaluate(new, ["recall@1", "recall@2"])
    # User 7 has 0 and 1; 2 and 3 tie. User 99 has nothing; 0 and 1 tie, and 77 is never found.
    assert found.frame()["recall@1"].to_list() == [0.5, 0.25]
    assert found.frame()["recall@2"].to_list() == [1.0, 0.5]
    with pytest.raises(DataError, match="ids of type String cannot be added to ids of type Int64"):
        recommender.evaluate(small(text=True))


def test_held_out_parts_survive_load_and_save(popular: Recommender, parts: Split, tmp_path: Path) -> None:
    popular.save(tmp_path / "run", {"test": parts.test})
    rec = Recommender.load(tmp_path / "run")
    assert rec.parts["test"].fingerprint == parts.test.fingerprint
    rec.save(tmp_path / "run", {"valid": parts.valid})
    again = Recommender.load(tmp_path / "run")
    assert {name: part.fingerprint for name, part in again.parts.items()} == {
        "test": parts.test.fingerprint,
        "valid": parts.valid.fingerprint,
    }
    again.save(tmp_path / "other")
    assert set(Recommender.load(tmp_path / "other").parts) == {"test", "valid"}


def test_evaluation_says_which_rows_training_saw(popular: Recommender, parts: Split) -> None:
    rows = pl.concat([parts.train.frame()[:50], parts.test.frame()])
    notes = popular.evaluate(Dataset.from_frame(rows), ["recall@5"]).notes
    assert any(note.startswith(f"50 of {len(rows)} rows are in the training data") for note in notes)
    assert not any("training data" in note for note in popular.evaluate(parts.test, ["recall@5"]).notes)


def test_training_that_diverges_is_an_error(parts: Split) -> None:
    with pytest.raises(
        TrainingError, match=r"training diverged: the loss rose from 0\.\d+ before training to .* lr 1000"
    ):
        Recommender.train(parts.train, "mf", training={"epochs": 2, "lr": 1000.0})


def test_weights_are_used_or_refused() -> None:
    frame = pl.DataFrame({"user_id": [7, 7, 8], "item_id": [0, 1, 1], "qty": [3.0, 1.0, 1.0]})
    data = Dataset.read(frame, columns={"weight": "qty"})
    assert Recommender.train(data, "popularity").recommend(history=[], k=1)["item_id"].to_list() == [0]
    assert Recommender.train(data.without_weights(), "popularity").recommend(history=[], k=1)["item_id"].to_list() == [
        1
    ]
    unweighted = type("Unweighted", (Mine,), {"uses_weights": False})
    with pytest.raises(DataError, match=r"cannot learn from sample weights.*train on `data.without_weights\(\)`"):
        Recommender.train(data, unweighted(Popularity.Config(), data.spec))


def test_parts_can_be_kept(popular: Recommender, parts: Split, tmp_path: Path) -> None:
    from palate.recommender import artifact

    popular.save(tmp_path / "run", {"test": parts.test})
    kept = artifact.read(tmp_path / "run", MODELS).parts["test"]
    assert kept.fingerprint == parts.test.fingerprint
    assert popular.evaluate(kept)["ndcg@10"] == popular.evaluate(parts.test)["ndcg@10"]


def test_the_public_names() -> None:
    assert palate.Recommender is Recommender


def test_the_page_of_the_recommender_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "recommender.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert (tmp_path / "runs" / "mine" / "test").is_dir()
    assert isinstance(names["rec"].model, names["Mine"])


def test_the_routes_are_on_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "recommender.md").read_text(encoding="utf-8")
    for route in (*ROUTES, predictions.FALLBACK):
        assert f"`{route}`" in page


def test_similar_answers_for_each_of_several_items() -> None:
    rec = Recommender.train(planted().train, "itemknn")
    one, other = rec.data.items.ids[:2]
    both = rec.similar([one, other], k=3)
    assert both.columns == ["of", "item_id", "score", "rank", "route"]
    for item in (one, other):
        assert both.filter(pl.col("of") == item).drop("of").equals(rec.similar(item, k=3))
    assert rec.similar(pl.Series([one]), k=3)["of"].to_list() == [one] * 3
    assert rec.similar([], k=3).is_empty()


def test_a_recommender_prints_its_counts() -> None:
    rec = Recommender.train(planted().train, "itemknn")
    lines = repr(rec).splitlines()
    assert lines[0] == "Recommender: itemknn"
    assert len(lines) == 5
    assert f"{rec.data.n_users:,} users, {rec.data.n_items:,} items, {len(rec.data):,} interactions" in lines[1]
    named = replace(rec, name="<script>")
    assert named._repr_html_().startswith("<table><tr>")
    assert "<script>" not in named._repr_html_()


def test_tensors_and_arrow_arrays_are_collections_of_ids() -> None:
    data = Dataset.read(pl.DataFrame({"user_id": [1, 1, 2, 2, 3], "item_id": [1, 2, 2, 3, 1]}))
    rec = Recommender.train(data, "itemknn")
    expected = rec.recommend([1, 2], k=2)
    assert rec.recommend(torch.tensor([1, 2]), k=2).equals(expected)
    assert rec.recommend(np.array([1, 2]), k=2).equals(expected)
    assert rec.recommend(pl.Series([1, 2]).to_arrow(), k=2).equals(expected)
