"""Blends: the formula by hand, weights against exhaustive search, never below the best member, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import CompleteTraining, Training, from_dict, to_dict
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.data.splits.build import Split
from palate.errors import ArtifactError, ConfigError, DataError
from palate.evaluation.evaluate import Validator
from palate.models import MODELS
from palate.models.buffers import check_tensors
from palate.models.hybrid import blend as module
from palate.models.hybrid.blend import Blend, BlendConfig, Member
from palate.models.hybrid.simplex import least_squares, moves, search
from palate.models.layers import standardised
from palate.models.mf.mf import MFConfig
from palate.recommender.recommender import Recommender
from palate.testing import planted
from palate.training.train_run import Epoch

MSE = Member(
    model="mf",
    config={"loss": "mse", "dim": 4, "reg": 0.4, "reg_power": 0.5},
    training=Training(epochs=8, batch_size=256, lr=0.05),
)


@pytest.fixture(scope="module")
def parts() -> Split:
    whole = planted()
    return whole.train.split("random", valid=0.2, test=0.2, seed=1)


@pytest.fixture(scope="module")
def lists(parts: Split) -> Blend:
    """Three members; weights chosen on valid."""
    model = Blend(BlendConfig(members=("ease", "itemknn", "popularity")), parts.train.spec)
    model.fit(parts.train, validate=Validator(parts.valid, model, "ndcg@10"))
    return model


@pytest.fixture(scope="module")
def ratings(parts: Split) -> Blend:
    model = Blend(BlendConfig(members=("bias", MSE)), parts.train.spec)
    model.fit(parts.train, validate=Validator(parts.valid, model, "rmse"))
    return model


def test_members_use_their_own_default_training(parts: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "palate.models.mf.mf.MF.default_training", CompleteTraining(epochs=2, batch_size=256, lr=0.01, patience=0)
    )
    monkeypatch.setattr(
        "palate.models.autoencoders.multvae.MultDAE.default_training",
        CompleteTraining(epochs=3, batch_size=64, lr=0.01, patience=0),
    )
    for training, epochs in ((None, {2, 3}), (Training(epochs=4), {4}), ({"lr": 0.02}, {2, 3})):
        last: list[int] = []
        Recommender.train(
            parts.train,
            "blend",
            {"members": ["mf", "multdae"]},
            training,
            on_step=lambda epoch, done, total, loss, last=last: last.append(epoch),  # type: ignore[misc]
        )
        ends = {epoch for epoch, then in zip(last, [*last[1:], 0], strict=True) if then < epoch}
        assert ends == epochs


def test_records_and_progress_are_those_of_the_members(parts: Split) -> None:
    members = (Member(model="mf", config={"dim": 4}), "ease", Member(model="gmf", config={"dim": 4}))
    blend = Blend(BlendConfig(members=members), parts.train.spec)
    told: list[Epoch] = []
    training = Training(epochs=2, batch_size=256, lr=0.02)
    records = blend.fit(parts.train, training, Validator(parts.valid, blend, "ndcg@10"), on_epoch=told.append)
    assert [(record.member, record.epoch) for record in records] == [
        ("0-mf", 1),
        ("0-mf", 2),
        ("2-gmf", 1),
        ("2-gmf", 2),
    ]
    assert records == told
    assert all(record.valid for record in records)


def test_two_queries_with_other_features_are_not_one_in_the_cache() -> None:
    data = planted().train
    spec = Blend.spec_of(data)
    assert spec.user_features is not None
    known = data.encoded_users(spec.user_features)
    rows = (torch.tensor([row]) for row in (0, 1))
    one, other = (Queries(torch.tensor([-1]), Ragged.empty(1), features=known.take(row)) for row in rows)
    assert not all(torch.equal(a, b) for a, b in zip(module._tensors(one), module._tensors(other), strict=True))


def everyone(data: Dataset) -> Queries:
    return data.queries(np.arange(data.n_users), data.spec)


def weigh(model: Blend, *weights: float) -> Blend:
    """The same members under other weights."""
    blend = Blend.of(model._members())
    blend.weight.copy_(torch.tensor(weights))
    return blend


def test_lists_are_blended_on_one_scale(parts: Split, lists: Blend) -> None:
    queries = everyone(parts.train)
    expected = torch.zeros(len(queries), parts.train.n_items)
    for member, weight in zip(lists._members(), (0.5, 0.2, 0.3), strict=True):
        scores = member.score(queries).numpy().astype(np.float64)
        expected += weight * torch.from_numpy((scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True))
    torch.testing.assert_close(weigh(lists, 0.5, 0.2, 0.3).score(queries), expected, atol=1e-4, rtol=1e-4)


def test_ratings_are_blended_as_they_are(parts: Split, ratings: Blend) -> None:
    blend, queries = weigh(ratings, 0.25, 0.75), everyone(parts.train)
    bias, mf = blend._members()
    torch.testing.assert_close(blend.score(queries), 0.25 * bias.score(queries) + 0.75 * mf.score(queries))
    row, item = torch.arange(50), torch.arange(50)
    expected = 0.25 * bias.predict(queries, item, row) + 0.75 * mf.predict(queries, item, row)
    torch.testing.assert_close(blend.predict(queries, item, row), expected)


@pytest.mark.parametrize("place", [0, 1])
def test_a_member_with_all_the_weight_is_the_blend(parts: Split, lists: Blend, ratings: Blend, place: int) -> None:
    queries, item = everyone(parts.train), torch.arange(20)
    alone = weigh(lists, *np.eye(3)[place].tolist())
    assert torch.equal(alone.score(queries), alone._members()[place].score(queries))
    alone = weigh(ratings, *np.eye(2)[place].tolist())
    assert torch.equal(alone.score(queries), alone._members()[place].score(queries))
    assert torch.equal(alone.predict(queries, item, item), alone._members()[place].predict(queries, item, item))


def test_a_list_of_equal_scores_has_no_say(parts: Split) -> None:
    """Its spread is rounding, which must not be blown up to the size of the others."""
    model = Blend(BlendConfig(members=("popularity", "bias")), parts.train.spec)
    model.fit(parts.train)
    popularity, bias = model._members()
    bias.item_bias.zero_()  # type: ignore[operator]
    queries = everyone(parts.train)
    one, other = model.score(queries), popularity.score(queries)
    assert torch.equal(one.argsort(dim=1, stable=True), other.argsort(dim=1, stable=True))


@pytest.mark.parametrize(("kind", "metric"), [("lists", "ndcg@10"), ("ratings", "rmse"), ("ratings", "mae")])
def test_on_valid_it_is_at_least_as_good_as_its_best_member(
    parts: Split, lists: Blend, ratings: Blend, kind: str, metric: str
) -> None:
    model = {"lists": lists, "ratings": ratings}[kind]
    validate = Validator(parts.valid, model, metric)
    blend = Blend.of(model._members(), validate)
    sign = 1 if validate.higher_is_better else -1
    members = [sign * validate(member)[metric] for member in blend._members()]
    assert sign * validate(blend)[metric] >= max(members)
    assert float(blend.weight.sum()) == pytest.approx(1, abs=1e-6)
    assert float(blend.weight.min()) >= 0
    if metric != "mae":
        torch.testing.assert_close(blend.weight, model.weight)


def test_the_weights_of_ratings_are_the_least_squares_on_valid(parts: Split, ratings: Blend) -> None:
    """Two members: the best share has a closed form, from the errors themselves."""
    valid = parts.valid
    queries = valid.queries(np.arange(valid.n_users), ratings.spec)
    row, item = torch.from_numpy(valid.user).long(), torch.from_numpy(valid.item).long()
    item = torch.where(item < ratings.spec.n_items, item, -1)
    assert valid.rating is not None
    bias, mf = (member.predict(queries, item, row).double() for member in ratings._members())
    apart, left = mf - bias, torch.from_numpy(valid.rating).double() - bias
    share = float((apart * left).sum() / apart.square().sum())
    assert float(ratings.weight[1]) == pytest.approx(min(max(share, 0), 1), abs=1e-3)


def test_least_squares_is_the_minimum_over_the_simplex() -> None:
    rng = np.random.default_rng(0)
    for common in (0.0, 1.0, 3.0):
        errors = rng.normal(size=(200, 3)) * [1.0, 1.2, 2.0] + common * rng.normal(size=(200, 1))

        def loss(weight: np.ndarray, errors: np.ndarray = errors) -> float:
            return float(np.sqrt(np.mean((errors @ weight) ** 2)))

        found = least_squares(loss, 3)
        steps = np.linspace(0, 1, 101)
        grid = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1 + 1e-9]
        assert found.sum() == pytest.approx(1)
        assert found.min() >= 0
        assert loss(found) <= min(map(loss, grid)) + 1e-9


def test_least_squares_of_members_that_are_alike() -> None:
    errors = np.random.default_rng(1).normal(size=(50, 1)) @ np.ones((1, 3))
    found = least_squares(lambda weight: float(np.sqrt(np.mean((errors @ weight) ** 2))), 3)
    assert found.sum() == pytest.approx(1)


def test_the_search_finds_the_minimum_of_a_smooth_loss() -> None:
    best = np.array([0.5, 0.3, 0.2, 0.0])
    found = search(lambda weight: float(np.abs(weight - best).sum()), 4)
    np.testing.assert_allclose(found, best, atol=0.04)


def test_moves_stay_on_the_simplex() -> None:
    weight = np.array([0.7, 0.3, 0.0])
    moved = list(moves(weight, 0.5))
    expected = [[0.85, 0.15, 0], [0.4, 0.6, 0], [0.35, 0.65, 0], [1, 0, 0], [0.35, 0.15, 0.5]]
    np.testing.assert_allclose(moved, expected)


def test_answers_are_what_all_members_answer(parts: Split) -> None:
    spec = parts.train.spec
    blend = Blend(BlendConfig(members=("popularity", MSE)), spec)
    assert blend.answers == MODELS["popularity"].answers & MODELS["mf"].answers == {"known_user", "history"}
    assert blend.needs == {"interactions", "rating"}
    assert "rating" in Blend(BlendConfig(members=("bias", MSE)), spec).answers
    nobody = Queries(torch.tensor([-1]), Ragged.empty(1))
    assert torch.equal(blend.score(nobody), blend.fallback.score(nobody))


def test_likeness_is_the_blend_of_likenesses(lists: Blend) -> None:
    assert lists.item_vectors() is None  # popularity knows none
    pair = Blend(BlendConfig(members=("ease", "puresvd")), lists.spec)
    pair.fit(planted().train.split("random", valid=0.2, test=0.2, seed=1).train)
    pair.weight.copy_(torch.tensor([0.3, 0.7]))
    vectors = pair.item_vectors()
    assert vectors is not None
    unit = torch.nn.functional.normalize
    each = [unit(v, dim=1) for m in pair._members() if (v := m.item_vectors()) is not None]
    both = unit(vectors, dim=1)
    expected = 0.3 * each[0] @ each[0].T + 0.7 * each[1] @ each[1].T
    torch.testing.assert_close(both @ both.T, expected, atol=1e-5, rtol=1e-4)


def test_it_is_saved_and_loaded(parts: Split, tmp_path: Path) -> None:
    members = ["ease", {"model": "ials", "config": {"dim": 8}}]
    trained = Recommender.train(parts.train, "blend", {"members": members}, valid=parts.valid)
    trained.save(tmp_path / "run")
    again = Recommender.load(tmp_path / "run")
    assert isinstance(again.model, Blend)
    assert torch.equal(again.model.weight, trained.model.weight)  # type: ignore[arg-type]
    users = parts.train.users.ids[:5]
    assert again.recommend(users).equals(trained.recommend(users))
    assert again.recommend(history=["i01", "i05"]).equals(trained.recommend(history=["i01", "i05"]))


def test_members_are_given_by_name_table_or_json() -> None:
    text = '{"model": "mf", "config": {"dim": 8}, "training": {"lr": 0.05}}'
    whole = Member(model="mf", config=MFConfig(dim=8), training=Training(lr=0.05))
    config = BlendConfig(members=("ease", whole, text))
    assert config.parsed() == [Member(model="ease"), whole, whole]
    assert from_dict(BlendConfig, to_dict(config)) == config
    table = {"model": "mf", "config": {"dim": 8}, "training": {"lr": 0.05}}
    assert from_dict(BlendConfig, {"members": ["ease", table, text]}) == config


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ((), "members = .* is out of range"),
        (("esae",), "there is no model 'esae'; did you mean 'ease'"),
        (("{ease}",), "is not valid JSON"),
        (('{"model": "mf", "config": {"dmi": 3}}',), "unknown setting 'dmi'; did you mean 'dim'"),
        (({"model": "mf", "config": {"dim": 0}},), "dim = 0 is out of range"),
        (({"model": "mf", "confg": {}},), "unknown setting 'confg'"),
    ],
)
def test_a_wrong_member_is_refused(members: tuple[object, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        from_dict(BlendConfig, {"members": list(members)})


def test_fitted_models_of_different_data_are_not_blended(parts: Split, lists: Blend) -> None:
    other = MODELS["ease"](MODELS["ease"].Config(), parts.train.spec)
    other.fit(parts.train.take(np.arange(len(parts.train)) % 2 == 0))
    with pytest.raises(DataError, match="were fitted to different data"):
        Blend.of([lists._members()[0], other])

    class Own(MODELS["ease"]):  # type: ignore[name-defined, misc]
        """Of somebody else."""

    with pytest.raises(ConfigError, match=r"Own is not in palate\.MODELS"):
        Blend.of([Own(MODELS["ease"].Config(), parts.train.spec)])


def test_members_train_as_they_are_told_and_by_the_seed_of_the_blend(parts: Split) -> None:
    member = Member(model="mf", config={"dim": 4}, training=Training(epochs=3, batch_size=128, lr=0.02, seed=99))
    blend = Blend(BlendConfig(members=(member,)), parts.train.spec)
    blend.fit(parts.train, Training(epochs=1, seed=5))
    alone = MODELS["mf"](MFConfig(dim=4), parts.train.spec)
    alone.fit(parts.train, Training(epochs=3, batch_size=128, lr=0.02, seed=5))
    assert torch.equal(blend.score(everyone(parts.train)), alone.score(everyone(parts.train)))


def test_a_run_that_stopped_goes_on(parts: Split, tmp_path: Path) -> None:
    config = BlendConfig(members=("ease", Member(model="mf", config={"dim": 4})))
    training = Training(epochs=3, batch_size=256, lr=0.02)
    first, second = (Blend(config, parts.train.spec) for _ in range(2))
    first.fit(parts.train, training, checkpoint=tmp_path / "state")
    steps: list[int] = []
    second.fit(parts.train, training, checkpoint=tmp_path / "state", on_step=lambda *step: steps.append(step[0]))
    assert not steps  # the member was done
    assert torch.equal(first.score(everyone(parts.train)), second.score(everyone(parts.train)))


def test_weights_do_not_depend_on_what_fits_in_memory(
    parts: Split, lists: Blend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE_BYTES", 50_000)
    blend = Blend.of(lists._members(), Validator(parts.valid, lists, "ndcg@10"))
    assert torch.equal(blend.weight, lists.weight)


def test_content_members_take_new_items_along(tmp_path: Path) -> None:
    data = planted().train
    new = data.items.ids[68:].implode()
    known = Dataset.from_frame(
        data.frame().filter(~pl.col("item_id").is_in(new)), data.item_table, rating_scale=(1.0, 5.0)
    )
    model = Blend(BlendConfig(members=("content-knn", "content-ials")), Blend.spec_of(known))
    model.fit(known)
    assert "new_item" in model.answers
    features = model.spec.item_features
    assert features is not None
    grown = model.with_items(data.encoded_items(features).take(torch.arange(68, 80)))
    assert isinstance(grown, Blend)
    queries = known.queries(np.arange(20), known.spec)
    scores = sum(0.5 * standardised(member.score(queries)) for member in grown._members())
    torch.testing.assert_close(grown.score(queries), scores)
    assert grown.score(queries).shape == (20, 80)
    assert model.score(queries).shape == (20, 68)
    mixed = Blend(BlendConfig(members=("content-knn", "ease")), Blend.spec_of(known))
    assert "new_item" not in mixed.answers  # EASE knows items by their interactions alone
    run = Recommender.train(known, "blend", {"members": ("content-knn", "content-ials")})
    run.save(tmp_path / "run")
    assert data.item_table is not None
    later = data.item_table.filter(pl.col("item_id").is_in(new))
    lists = Recommender.load(tmp_path / "run").add_items(later).recommend(users=known.users.ids[:2].to_list(), k=80)
    assert lists["item_id"].is_in(new).any()


@pytest.mark.parametrize("weight", [[0.0, 0.0], [-0.5, 1.5], [3.0, 3.0]])
def test_weights_from_a_file_are_shares(weight: list[float]) -> None:
    train = planted().train
    model = Blend(BlendConfig(members=("popularity", "ease")), Blend.spec_of(train))
    model.fit(train)
    check_tensors(model)
    model.weight = torch.tensor(weight)
    with pytest.raises(ArtifactError, match="weights are 0 or more and their sum is 1"):
        check_tensors(model)
