"""Validator: what it watches, the loss on valid, and that it leaves training alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from palate.config import Training
from palate.errors import CannotAnswer, ConfigError, DataError
from palate.evaluation import validate
from palate.evaluation.evaluate import evaluate
from palate.evaluation.validate import Validator, known_only
from palate.training.train_run import FitContext, Validate
from tiny import Popular, Slope, Table, TableConfig, dataset, part

TRAIN = [(1, 10, 4.0), (1, 11, 2.0), (2, 11, 5.0), (2, 12, 3.0), (3, 13, 4.0)]
VALID = [(1, 12, 5.0), (2, 10, 1.0), (3, 99, 3.0), (4, 11, 5.0), (3, 11, 2.0)]


@pytest.fixture
def valid():
    """Rows of known users and items, one of a new item, one of a new user."""
    return part(dataset(TRAIN), VALID)


@pytest.fixture
def model():
    return Slope(TableConfig(), dataset(TRAIN).spec)


def test_auto_follows_the_model(valid, model):
    ranker = Table(np.eye(3, 4))
    wishing = Table(np.eye(3, 4), rates=True)
    wishing.monitor = "recall@5"
    for who, data, metric, higher in (
        (model, valid, "rmse", False),
        (ranker, valid, "ndcg@10", True),
        (model, replace(valid, rating=None), "ndcg@10", True),
        (wishing, valid, "recall@5", True),
    ):
        validator: Validate = Validator(data, who)
        assert (validator.metric, validator.higher_is_better) == (metric, higher)
    assert not Validator(valid, model, "mae").higher_is_better


def test_the_metric_is_evaluates(valid, model):
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    for metric in ("rmse", "mae", "user_rmse", "ndcg@2", "auc", "novelty@2"):
        if metric == "novelty@2":
            with pytest.raises(ConfigError, match="cannot choose an epoch"):
                Validator(valid, model, metric)
            continue
        found = Validator(valid, model, metric)(model.eval())
        assert found[metric] == pytest.approx(evaluate(model, valid, [metric])[metric].value, rel=1e-12), metric


def test_the_loss_counts_known_users_and_items_only(valid, model):
    # Weights are 3: (12, 5), (10, 1), (11, 2) remain, with errors 2, 2, 1 once dropout is off.
    found = Validator(valid, model)(model)
    assert found["loss"] == pytest.approx((4 + 4 + 1) / 3)


def test_the_model_may_be_monitored_by_its_loss(valid, model):
    validator = Validator(valid, model, "loss")
    assert validator.metric == "loss"
    assert not validator.higher_is_better
    assert validator(model) == {"loss": pytest.approx(3.0)}


def test_the_loss_is_of_a_fixed_sample_unless_it_chooses(monkeypatch):
    monkeypatch.setattr(validate, "MAX_LOSS_USERS", 10)
    train = [(u, i, 3.0) for u in range(40) for i in (u % 7, 7)]
    valid = part(dataset(train), [(u, (u + 1) % 7, float(1 + u % 5)) for u in range(40)])
    scorer = Slope(TableConfig(), dataset(train).spec)
    every = np.array([(3 - (1 + u % 5)) ** 2 for u in range(40)])
    drawn = np.random.default_rng(1).choice(40, 10, replace=False)
    watched = Validator(valid, scorer, "rmse", seed=1)(scorer)
    assert watched == {"loss": pytest.approx(every[drawn].mean()), "rmse": pytest.approx(np.sqrt(every.mean()))}
    assert Validator(valid, scorer, "loss", seed=1)(scorer)["loss"] == pytest.approx(every.mean())


def test_a_part_of_strangers_has_no_loss(model):
    strangers = part(dataset(TRAIN), [(7, 12, 5.0), (8, 99, 1.0)])
    assert set(Validator(strangers, model)(model)) == {"rmse"}


def test_only_gradient_models_have_a_loss(valid):
    table = Table(np.eye(3, 4))
    assert set(Validator(valid, table)(table)) == {"ndcg@10"}


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_random_state_stay_as_they_were(valid, model, training):
    model.train(training)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = Validator(valid, model)(model)
    assert model.training is training
    assert torch.equal(before, torch.random.get_rng_state())
    assert Validator(valid, model)(model) == first


def test_the_same_chance_after_each_epoch(valid):
    class Noisy(Slope):
        def loss(self, batch, context):
            return super().loss(batch, context) + torch.rand(()) + batch.user.float().mean() * 0

        def batches(self, context, rng, size):
            assert torch.rand(1, generator=rng).item() == pytest.approx(expected)
            return super().batches(context, rng, size)

    expected = torch.rand(1, generator=torch.Generator().manual_seed(3)).item()
    noisy = Noisy(TableConfig(), dataset(TRAIN).spec)
    validator = Validator(valid, noisy, seed=3)
    assert validator(noisy)["loss"] == validator(noisy)["loss"]


def test_a_sample_of_users_is_fixed(model):
    train = [(u, i, 3.0) for u in range(40) for i in (u % 7, 7)]
    valid = part(dataset(train), [(u, (u + 1) % 7, float(1 + u % 5)) for u in range(40)])
    scorer = Slope(TableConfig(), dataset(train).spec)
    one, again = Validator(valid, scorer, max_users=10, seed=1), Validator(valid, scorer, max_users=10, seed=1)
    assert len(one.users) == len(np.unique(one.part.user)) == 10
    assert one.users.tolist() == again.users.tolist() == sorted(one.users.tolist())
    assert one.users.tolist() != Validator(valid, scorer, max_users=10, seed=2).users.tolist()
    expected = np.sqrt(np.mean([(3 - (1 + u % 5)) ** 2 for u in one.users]))
    assert one(scorer)["rmse"] == pytest.approx(expected)
    assert len(Validator(valid, scorer, max_users=99).users) == 40


def test_known_only_ends_where_the_model_ends(valid, model):
    known = known_only(valid, model.spec)
    assert (known.n_users, known.n_items, len(known)) == (3, 4, 3)
    assert (known.history.n_users, known.history.n_items, len(known.history)) == (3, 4, 5)
    assert known.items.ids.to_list() == [10, 11, 12, 13]


def test_it_chooses_the_epoch_in_training(valid, model):
    records = model.fit(dataset(TRAIN), Training(epochs=4, lr=0.1, patience=0), Validator(valid, model))
    assert all(set(r.valid) == {"rmse", "loss"} for r in records)
    best = min(records, key=lambda r: r.valid["rmse"])
    assert Validator(valid, model)(model)["rmse"] == pytest.approx(best.valid["rmse"])


class Recentred(Slope):
    """Subtracts what it learned of the training data from the ratings: the context of its loss depends on the fit."""

    built = 0

    def init_from_data(self, data):
        super().init_from_data(data)
        self.center = float(data.rating.mean())

    def fit_context(self, data, settings):
        self.built += 1
        return FitContext(replace(data, rating=data.rating - self.center))


def test_it_can_be_used_again_after_fit(valid, model):
    validator = Validator(valid, model)
    records = model.fit(dataset(TRAIN), Training(epochs=3, lr=0.1, patience=0), validator)
    best = min(records, key=lambda r: r.valid["rmse"])
    assert validator(model) == validator(model) == pytest.approx(best.valid)
    assert validator(model) == Validator(valid, model)(model)


def test_the_context_of_the_loss_is_that_of_the_fit(valid):
    """Built once a fit; anew for another model, and for the same model fitted to other data."""
    once = Training(epochs=3, lr=1e-6, patience=0)
    one, two = (Recentred(TableConfig(), dataset(TRAIN).spec) for _ in range(2))
    validator = Validator(valid, one)
    one.fit(dataset(TRAIN), once, validator)
    assert one.built == 2  # for training and for the validation part
    other = dataset([(user, item, rating - 1) for user, item, rating in TRAIN])
    two.fit(other, once, validator)
    assert two.built == 2
    assert validator(two) == Validator(valid, two)(two)
    one.fit(other, once, validator)
    assert validator(one) == Validator(valid, one)(one)
    before = Recentred(TableConfig(), one.spec)
    before.fit(dataset(TRAIN), once)
    assert validator(one)["loss"] != pytest.approx(validator(before)["loss"])


def test_a_member_has_a_validator_of_its_own(valid, model):
    """By the metric that suits it, on the same users."""
    ranker = Table(np.eye(3, 4))
    validator = Validator(valid, ranker, max_users=2, seed=4)
    member = validator.for_member(model)
    assert member is not None
    assert (validator.metric, member.metric) == ("ndcg@10", "rmse")
    assert member.users.tolist() == validator.users.tolist()
    assert member(model) == Validator(valid, model, max_users=2, seed=4)(model)


def test_a_member_without_answers_has_no_validator(model):
    new_only = part(dataset(TRAIN), [(1, 98, 5.0), (7, 99, 1.0)])
    assert Validator(new_only, model).for_member(Table(np.eye(3, 4))) is None


def test_faults(valid, model):
    with pytest.raises(ConfigError, match="did you mean 'ndcg'"):
        Validator(valid, model, "ndgc@10")
    for name in ("coverage@10", "popularity@10", "diversity@10"):
        with pytest.raises(ConfigError, match="cannot choose an epoch"):
            Validator(valid, model, name)
    with pytest.raises(CannotAnswer, match="predicts ratings, and ratings in the validation part"):
        Validator(valid, Table(np.eye(3, 4)), "rmse")
    with pytest.raises(CannotAnswer, match="Popular is not"):
        Validator(valid, Popular(TableConfig(), dataset(TRAIN).spec), "loss")
    with pytest.raises(DataError, match="valid part of a split"):
        Validator(dataset(TRAIN), model)
    with pytest.raises(DataError, match="valid part of a split"):
        Validator(valid.take(np.zeros(5, dtype=bool)), model)


def test_a_part_without_weight_is_refused(valid, model):
    nothing = replace(valid, weight=np.zeros(len(valid), np.float32))
    for who, monitor in ((model, "auto"), (model, "loss"), (Table(np.eye(3, 4)), "ndcg@10")):
        with pytest.raises(DataError, match=r"weights of all 5 rows of the validation part are 0.*without_weights\(\)"):
            Validator(nothing, who, monitor)


def test_known_rows_without_weight_have_no_loss(valid, model):
    known = (valid.user < model.spec.n_users) & (valid.item < model.spec.n_items)
    strangers_only = replace(valid, weight=np.where(known, 0, 1).astype(np.float32))
    assert "loss" not in Validator(strangers_only, model)(model)
    with pytest.raises(DataError, match="monitor = 'loss' needs rows"):
        Validator(strangers_only, model, "loss")
