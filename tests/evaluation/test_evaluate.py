"""evaluate(): values, means and intervals by hand; slices; candidates; JSON; faults."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log2

import numpy as np
import polars as pl
import pytest
import torch

import palate
from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError, DataError, TrainingError
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.measure import ROUTES, why_no_ratings
from palate.evaluation.metrics import METRICS, Metric
from palate.evaluation.protocol import Protocol, given_candidates
from palate.models import MODELS
from palate.ranking.ranked import tag_vectors
from tiny import Popular, Table, TableConfig, dataset, part, queries

TRAIN = [(1, 10, 4.0), (1, 11, 2.0), (2, 11, 5.0), (2, 12, 3.0), (3, 13, 4.0)]
# Users 1, 2, 3 are 0, 1, 2; items 10 .. 13 are 0 .. 3.
SCORES = [[9, 8, 7, 6], [1, 2, 3, 4], [4, 3, 2, 1]]


def fitted(table=SCORES, train=None, rates=False, scale=None) -> Table:
    model = Table(table, rates=rates, scale=scale)
    model.fit(dataset(TRAIN) if train is None else train)
    return model


@pytest.fixture
def held_out() -> Dataset:
    """User 1 finds item 12 later, user 2 items 10 and 13, user 3 a new item; user 4 is new."""
    return part(dataset(TRAIN), [(1, 12, 5.0), (2, 10, 1.0), (2, 13, 4.0), (3, 99, 3.0), (4, 11, 5.0)])


def test_by_hand(held_out):
    model = fitted([[9, 8, 7, 6], [1, 2, 3, 4], [4, 3, 2, 1]])
    found = evaluate(model, held_out, ["ndcg@2", "recall@2", "hit@1", "coverage@2", "rmse"])
    # User 1 (seen 0, 1): list 2, 3; target 2 first. User 2 (seen 1, 2): list 3, 0; targets 0, 3 both. User 3 (seen 3):
    # list 0, 1; target 99 unknown. User 4 gets popularity, 11 twice, then 10, 12, 13 once each: list 1, 0; target 1.
    assert found.users.to_list() == [1, 2, 3, 4]
    assert found.values["ndcg@2"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert found.values["recall@2"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert found.values["hit@1"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert found["recall@2"].value == 0.75
    assert found["recall@2"].n == 4
    assert 0 <= found["recall@2"].low < 0.75 < found["recall@2"].high <= 1
    assert found["coverage@2"].value == 1.0  # items 2, 3; 3, 0; 0, 1; 1, 0
    assert found.exposure.tolist() == [3, 2, 1, 2]
    assert found.popularity.tolist() == [1, 2, 1, 1]
    assert "rmse" not in found.estimates  # this model does not predict ratings
    assert found.routes == {route: {"known_user": 0.75, "popularity": 0.25}.get(route, 0.0) for route in ROUTES}
    assert found.notes == (
        "RMSE and MAE are not available: Table ranks items and does not predict ratings",
        "1 of 5 targets count as missed: new items that the model cannot score, or items the user already has",
        "intervals over fewer than 50 users tend to be too narrow: all (4), warm (2), new_user (1), new_item (1)",
    )


def test_slices(held_out):
    found = evaluate(fitted(), held_out, ["recall@2"])
    assert {name: (s.rows, s.users) for name, s in found.slices.items()} == {
        "all": (5, 4),
        "warm": (3, 2),
        "new_user": (1, 1),
        "new_item": (1, 1),
    }
    assert found.slices["warm"].estimates["recall@2"].value == 1.0
    assert found.slices["warm"].estimates["recall@2"].n == 2
    assert found.slices["new_item"].estimates["recall@2"].value == 0.0
    assert np.isnan(found.slices["new_user"].values["recall@2"]).tolist() == [True, True, True, False]
    table = found.summary().filter(metric="recall@2")
    assert table.select("slice", "n", "rows", "users").rows() == [
        ("all", 4, 5, 4), ("warm", 2, 3, 2), ("new_user", 1, 1, 1), ("new_item", 1, 1, 1)
    ]  # fmt: skip
    assert table["value"][0] == found["recall@2"].value
    assert table["low"][0] <= table["value"][0] <= table["high"][0]
    with pytest.raises(ConfigError, match=r"part = 'cold' is no slice .* all, warm, new_user, new_item"):
        found.frame("cold")


def test_frames_have_the_ids_of_the_table():
    rows = pl.DataFrame({"user_id": ["007", "007", "8", "8"], "item_id": ["a", "b", "a", "c"]})
    split = Dataset.from_frame(rows).split("leave-last-out", valid=0)
    found = palate.Recommender.train(split.train, "popularity").evaluate(split.test, ["recall@1"])
    assert found.frame()["user_id"].to_list() == ["007", "8"]
    assert found.frame("new_item").columns == ["user_id", "recall@1"]


def test_a_user_with_warm_and_new_targets_is_in_both_slices():
    test = part(dataset(TRAIN), [(1, 12, 5.0), (1, 99, 5.0)])
    found = evaluate(fitted(), test, ["recall@2"])
    assert found["recall@2"].value == 0.5
    assert found.slices["warm"].estimates["recall@2"].value == 1.0
    assert found.slices["new_item"].estimates["recall@2"].value == 0.0


def test_nothing_new_gives_one_slice():
    found = evaluate(fitted(), part(dataset(TRAIN), [(1, 12, 5.0)]), ["recall@2"])
    assert list(found.slices) == ["all"]
    assert found.notes == ("intervals over fewer than 50 users tend to be too narrow: all (1)",)


def test_enough_users_and_no_missed_targets_need_no_notes():
    train, test = many()
    assert evaluate(fitted(np.zeros((61, 150)), train), part(train, test), ["hit@10"]).notes == ()


def test_routes_of_ratings_are_those_that_predict_knows(held_out):
    """New users' ratings come from mean ratings, not from popularity."""
    model = fitted(rates=True)
    assert evaluate(model, held_out, ["rmse"]).routes == {
        "known_user": 0.75, "history": 0.0, "content": 0.0, "fallback": 0.25
    }  # fmt: skip
    assert evaluate(model, held_out, ["rmse", "hit@1"]).routes["popularity"] == 0.25


def test_a_metric_of_ones_own(held_out, monkeypatch):
    """An entry of METRICS is all it takes, in protocols, comparisons and files too."""

    def worst(ranked, k):
        """The last of the first k items."""
        return ranked.items[:, k - 1].double()

    monkeypatch.setitem(METRICS, "worst", Metric(worst, "lists", None, "index of the last listed item"))
    found = evaluate(fitted(), held_out, ["worst@2", "ndcg@2"])
    assert found.values["worst@2"].tolist() == [3.0, 0.0, 1.0, 0.0]
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict())))["worst@2"].value == 1.0
    compare({"one": found, "two": found}, "worst@2")


def test_rating_errors_by_hand(held_out):
    model = fitted([[3, 3, 4, 3], [2, 3, 3, 3], [3, 3, 3, 3]], rates=True, scale=(1.0, 5.0))
    found = evaluate(model, held_out, ["rmse", "mae", "user_rmse", "user_mae"])
    # User 1: 12 predicted 4, true 5: -1. User 2: 10 at 2, true 1: 1; 13 at 3, true 4: -1. The rest is the fallback's:
    # mean of all 18 / 5 = 3.6. New item 99 for user 3: their deviation (4 - 3.6) / 11 on top, true 3. New user 4 on
    # item 11: its deviation (2 - 3.6 + 5 - 3.6) / 12 on top, true 5.
    third, fourth = 3.6 + 0.4 / 11 - 3, 3.6 - 0.2 / 12 - 5
    errors = [-1, 1, -1, third, fourth]
    assert found["rmse"].value == pytest.approx(np.sqrt(np.mean(np.square(errors))), abs=1e-6)
    assert found["mae"].value == pytest.approx(np.mean(np.abs(errors)), abs=1e-6)
    by_user = [1.0, 1.0, abs(third), abs(fourth)]
    assert found["user_rmse"].value == pytest.approx(np.mean(by_user), abs=1e-6)
    assert found["user_mae"].value == pytest.approx(np.mean(by_user), abs=1e-6)
    assert found.values["rmse"].tolist() == pytest.approx(by_user, abs=1e-6)
    assert found.slices["all"].weights.ratings.tolist() == [1, 2, 1, 1]
    assert found.slices["warm"].estimates["rmse"].value == pytest.approx(1.0)
    assert found.slices["new_item"].estimates["mae"].value == pytest.approx(abs(third), abs=1e-6)
    assert found["rmse"].low <= found["rmse"].value <= found["rmse"].high


def test_defaults_follow_the_model_and_the_part(held_out):
    rater, ranker = fitted(rates=True), fitted()
    both = evaluate(rater, held_out)
    lists = evaluate(ranker, held_out)
    assert set(both.estimates) - set(lists.estimates) == {"rmse", "mae"}
    assert list(lists.estimates) == [m for m in Protocol().metrics if m not in ("rmse", "mae")]
    assert both.protocol.hash == lists.protocol.hash  # so that they compare


def test_every_metric_has_a_value(held_out):
    names = [name if metric.cut == "never" else f"{name}@2" for name, metric in METRICS.items()] + ["auc"]
    found = evaluate(fitted(rates=True), held_out, names)
    assert list(found.estimates) == names
    for estimate in found.estimates.values():
        assert estimate.low <= estimate.value + 1e-12
        assert estimate.value <= estimate.high + 1e-12


def test_relevance_is_a_matter_of_rating(held_out):
    found = evaluate(fitted(rates=True), held_out, ["recall@2", "rmse"], protocol=Protocol(min_rating=4.0))
    # Targets: 12 of user 1, 13 of user 2, 11 of user 4; user 3 has none.
    assert np.isnan(found.values["recall@2"]).tolist() == [False, False, True, False]
    assert found["recall@2"].n == 3
    assert found["rmse"].n == 4  # all rows


def test_a_target_twice_counts_once():
    rows = [(1, 12), (1, 12), (1, 13)]
    train = dataset([(1, 10), (2, 11), (2, 12), (2, 13)])
    found = evaluate(fitted([[9, 8, 7, 6], [1, 2, 3, 4]], train), part(train, rows), ["recall@2", "precision@2"])
    assert found["recall@2"].value == 0.5  # of two targets; the list is 11, 12
    assert found["precision@2"].value == 0.5


def test_seen_targets_are_kept_out_or_found_as_the_protocol_says():
    train = dataset([(1, 10), (1, 11), (2, 12)])
    test = part(train, [(1, 10), (1, 12)])
    model = fitted([[9, 8, 7], [1, 2, 3]], train)
    assert evaluate(model, test, ["recall@1"])["recall@1"].value == 0.5
    assert evaluate(model, test, ["hit@1"], protocol=Protocol(exclude_seen=False))["hit@1"].value == 1.0
    everything = part(dataset([(1, 10), (1, 11), (1, 12), (2, 12)]), [(1, 10)])
    assert evaluate(fitted([[9, 8, 7], [1, 2, 3]], train), everything, ["hit@3", "coverage@3"])["hit@3"].value == 0.0


def many(n_users=60, n_items=150, per_user=3):
    """A train part and a test part in which user u has the next items."""
    rng = np.random.default_rng(0)
    train, test = [], []
    for user in range(n_users):
        items = rng.permutation(n_items)[: 2 * per_user]
        train += [(user, int(i), float(rng.integers(1, 6))) for i in items[:per_user]]
        test += [(user, int(i), float(rng.integers(1, 6))) for i in items[per_user:]]
    train += [(n_users, i, 3.0) for i in range(n_items)]
    return dataset(train), test


def test_uni99_gives_a_constant_scorer_ten_of_a_hundred():
    train, test = many(per_user=1)
    model = fitted(np.zeros((61, 150)), train)
    found = evaluate(model, part(train, test), ["hit@10", "auc"], candidates="uni99")
    assert found["hit@10"].value == pytest.approx(0.1)
    assert found.values["hit@10"].tolist() == pytest.approx([0.1] * 60)
    assert found["auc"].value == 0.5
    assert found.protocol.candidates == "uni99"


def test_uni99_samples_by_seed_and_not_by_model_or_block():
    train, test = many(n_items=300, per_user=1)
    scores = np.random.default_rng(1).normal(size=(61, 300))
    model, held = fitted(scores, train), part(train, test)
    one = evaluate(model, held, ["ndcg@10"], candidates="uni99")
    again = evaluate(fitted(scores * 2, train), held, ["ndcg@10"], candidates="uni99", block=7)
    other = evaluate(model, held, ["ndcg@10"], candidates="uni99", protocol=Protocol(seed=1))
    assert one.values["ndcg@10"].tolist() == again.values["ndcg@10"].tolist()
    assert one.values["ndcg@10"].tolist() != other.values["ndcg@10"].tolist()
    full = evaluate(model, held, ["ndcg@10"])
    assert one["ndcg@10"].value > full["ndcg@10"].value  # fewer rivals
    assert len({e.protocol.hash for e in (one, other, full)}) == 3


def test_given_candidates_compete_with_the_targets(held_out):
    frame = pl.DataFrame({"user_id": [1, 2, 4], "negatives": [[13], [12], [10, 12]]})
    lists = given_candidates(held_out, frame)
    found = evaluate(fitted(), held_out, ["hit@1", "coverage@1"], candidates=lists)
    # User 1: 12 against 13; user 2: 10, 13 (12 is seen); user 3: nothing to list; user 4: 11 against 10, 12.
    assert found.values["hit@1"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert found.exposure.tolist() == [0, 1, 1, 1]
    assert found.protocol.candidates == "given"
    assert found.protocol.given
    with pytest.raises(DataError, match="got 3 candidate lists for a part of 4 users"):
        evaluate(fitted(), held_out, ["hit@1"], candidates=Ragged.empty(3))
    with pytest.raises(ConfigError, match="given_candidates"):
        evaluate(fitted(), held_out, ["hit@1"], candidates=None, protocol=Protocol(candidates="given"))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_change_nothing(block):
    train, test = many()
    model = fitted(np.random.default_rng(2).integers(0, 5, (61, 150)), train, rates=True)
    held = part(train, [*test, (0, 777, 3.0), (888, 3, 3.0)])
    metrics = ["ndcg@10", "auc", "coverage@5", "diversity@5", "rmse"]
    once, again = evaluate(model, held, metrics), evaluate(model, held, metrics, block=block)
    assert json.dumps(once.to_dict()["slices"]) == json.dumps(again.to_dict()["slices"])
    assert (once.exposure == again.exposure).all()


def test_intervals_of_catalogue_metrics_hold_the_value():
    train, test = many()
    found = evaluate(fitted(np.random.default_rng(2).normal(size=(61, 150)), train), part(train, test))
    for name in ("coverage@10", "gini@10"):
        assert 0 <= found[name].low < found[name].value < found[name].high <= 1
    # Eleven items in all lists but those of four users: hardly any resample lists fewer than twelve.
    table = np.tile(np.r_[np.arange(150.0, 139.0, -1), np.zeros(139)], (61, 1))
    table[:4, 11] = 1000
    rare = evaluate(fitted(table, train), part(train, test))["coverage@10"]
    assert rare.low <= rare.value <= rare.high


def test_one_user_one_item():
    train = dataset([(1, 10), (2, 11)])
    found = evaluate(fitted([[1, 2], [2, 1]], train), part(train, [(1, 11)]))
    assert found["ndcg@10"].value == found["ndcg@10"].low == found["ndcg@10"].high == 1.0
    assert found["coverage@10"].value == 0.5


def test_popularity_stands_in_where_a_model_has_no_answer(held_out):
    model = Popular(TableConfig(), dataset(TRAIN).spec)
    model.fit(dataset(TRAIN))
    found = evaluate(model, held_out, ["hit@1"])
    assert found.routes == {route: float(route == "popularity") for route in ROUTES}
    # Item 11 (two interactions) first; then 10, 12, 13 with one each, alike. User 1 has 10 and 11: 12 or 13, 1/2.
    # User 2 has 11 and 12: 10 or 13, both targets. User 3: 11 is no target. User 4: 11.
    assert found.values["hit@1"].tolist() == [0.5, 1.0, 0.0, 1.0]


def test_vectors_for_diversity(held_out):
    same = evaluate(fitted(), held_out, ["diversity@2"], item_vectors=torch.ones(4, 1))
    tags = tag_vectors(pl.Series(["a", "b", "c", "d"]))
    apart = evaluate(fitted(), held_out, ["diversity@2"], item_vectors=tags)
    assert same["diversity@2"].value == pytest.approx(0.0)
    assert apart["diversity@2"].value == pytest.approx(1.0)
    assert same.protocol.hash != apart.protocol.hash


def test_json_and_frame(held_out):
    found = evaluate(fitted(rates=True), held_out, name="table", fit_seconds=1.5)
    again = Evaluation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert str(again) == str(found)
    assert again.protocol == found.protocol
    assert again.frame().equals(found.frame())
    assert again.frame("new_item").equals(found.frame("new_item"))
    assert again.seconds["fit"] == 1.5
    assert found.frame().columns[:2] == ["user_id", "ndcg@10"]
    assert found.frame("new_user")["ndcg@10"].null_count() == 3
    edited = found.to_dict()
    edited["protocol"]["exclude_seen"] = False
    with pytest.raises(ConfigError, match="edited"):
        Evaluation.from_dict(edited)
    with pytest.raises(ConfigError, match="format 2"):
        Evaluation.from_dict({**found.to_dict(), "format": 2})
    broken = found.to_dict()
    del broken["routes"]
    with pytest.raises(ConfigError, match="lacks 'routes'"):
        Evaluation.from_dict(broken)


def test_text_ids_stay_text():
    train = dataset([("007", "x"), ("8", "y")])
    found = evaluate(fitted([[1, 2], [2, 1]], train), part(train, [("007", "y")]), ["hit@1"])
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))).users.to_list() == ["007"]


def test_the_printed_table_is_aligned(held_out):
    text = str(evaluate(fitted(rates=True), held_out, name="table", fit_seconds=2.0))
    lines = text.splitlines()
    assert lines[0].startswith("table: 5 rows of 4 users, protocol ")
    table = lines[2 : lines.index("", 2)]
    assert table[0].split() == ["metric", "value", "95", "%", "interval", "users", "warm", "new_user", "new_item"]
    assert len({len(line) for line in table}) == 1
    assert "2.0 s to fit" in text
    assert "users by route: known_user 75.0%, popularity 25.0%" in text
    assert max(map(len, lines)) <= 120


def test_a_metric_that_was_not_measured(held_out):
    with pytest.raises(ConfigError, match=r"'rmse' was not measured for Table; choose from hit@1"):
        evaluate(fitted(), held_out, ["hit@1"])["rmse"]


def test_faults(held_out):
    model = fitted()
    with pytest.raises(DataError, match="no rows"):
        evaluate(model, held_out.take(np.zeros(5, dtype=bool)))
    with pytest.raises(DataError, match="not a part of a split"):
        evaluate(model, dataset(TRAIN))
    with pytest.raises(DataError, match="min_rating = 6: no row of the part has such a rating"):
        evaluate(model, held_out, protocol=Protocol(min_rating=6.0))
    with pytest.raises(DataError, match="needs ratings"):
        evaluate(model, replace(held_out, rating=None), protocol=Protocol(min_rating=4.0))
    with pytest.raises(
        CannotAnswer, match=r"^RMSE and MAE are not available: Table ranks items and does not predict ratings$"
    ):
        evaluate(model, held_out, ["rmse"])
    with pytest.raises(CannotAnswer, match="RMSE and MAE are not available: the part has no ratings"):
        evaluate(fitted(rates=True), replace(held_out, rating=None), ["mae"])
    with pytest.raises(ConfigError, match="unknown metric"):
        evaluate(model, held_out, ["ndgc@10"])


@pytest.mark.parametrize(("model", "remedy"), [("neumf", True), ("mf", True), ("deepfm", True), ("ease", False)])
def test_the_setting_that_gives_ratings_is_named_if_there_is_one(model, remedy, held_out):
    settings = {"loss": "bce"} if remedy else {}
    reason = why_no_ratings(MODELS[model](MODELS[model].Config(**settings), dataset(TRAIN).spec), held_out)
    assert ("does not predict ratings" in reason, 'Train it with `loss="mse"` to get them' in reason) == (True, remedy)
    if remedy:
        assert why_no_ratings(MODELS[model](MODELS[model].Config(loss="mse"), dataset(TRAIN).spec), held_out) is None


def test_metrics_that_were_asked_for_by_name_are_not_omitted_silently(held_out):
    found = evaluate(fitted(), held_out, ["ndcg@2", "rmse"])
    assert found.notes[0] == "RMSE and MAE are not available: Table ranks items and does not predict ratings"
    assert not any("RMSE" in note for note in evaluate(fitted(), held_out).notes)


def test_predictions_that_are_not_numbers_are_an_error(held_out):
    with pytest.raises(TrainingError, match="predicted NaN"):
        evaluate(fitted(np.full((3, 4), np.nan), rates=True), held_out, ["rmse"])


def test_the_catalogue_comes_from_training(held_out):
    found = evaluate(fitted(), held_out, ["novelty@1"])
    # Lists 12; 13; 10; 11 of popularity 1, 1, 1, 2 among 3 people.
    assert found["novelty@1"].value == pytest.approx((3 * log2(3) + log2(3 / 2)) / 4)


def test_queries_helper_is_what_evaluate_asks(held_out):
    asked = held_out.queries(held_out.active_users, fitted().spec)
    assert asked.user.tolist() == [0, 1, 2, -1]
    assert [asked.history[i].tolist() for i in range(4)] == [[0, 1], [1, 2], [3], []]
    assert queries(2).user.tolist() == [0, 1]
