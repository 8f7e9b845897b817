"""convmf: ratings of new items from their content, and of known ones as good as matrix factorization."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import Training
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import DataError
from palate.models.content.convmf import (
    MAX_RATINGS_PER_ITEM,
    ContentRegression,
    ConvMF,
    ConvMFConfig,
    RatedItems,
    RegressionContext,
)
from palate.models.content.encoders import ContentEncoder
from palate.models.mf.mf import MF, MFConfig
from palate.testing import planted

KNOWN = 68
CONFIG = ConvMFConfig(dim=8, init=0.1, reg=0.4, text="bag", content_lr=0.01)
TRAINING = Training(epochs=10, batch_size=256, lr=0.05)


@cache
def worlds(shuffled: bool = False) -> tuple[Dataset, Dataset]:
    """The planted people without what they had of twelve items, and with it; `shuffled`: with other items' words."""
    whole = planted().train
    table = whole.item_table
    assert table is not None
    if shuffled:
        order = np.random.default_rng(1).permutation(len(table))
        table = pl.concat([table.select("item_id"), table.drop("item_id")[order]], how="horizontal")
    new = whole.items.ids[KNOWN:].implode()
    whole = Dataset.from_frame(whole.frame(), table, rating_scale=(1.0, 5.0))
    known = Dataset.from_frame(whole.frame().filter(~pl.col("item_id").is_in(new)), table, rating_scale=(1.0, 5.0))
    return known, whole


@cache
def fitted(shuffled: bool = False, config: ConvMFConfig = CONFIG) -> ConvMF:
    known, _ = worlds(shuffled)
    model = ConvMF(config, ConvMF.spec_of(known))
    model.fit(known, TRAINING)
    return model


def of_new(shuffled: bool = False) -> tuple[float, float, float]:
    """The rmse on new items' ratings: of the model, of the user's mean, of the mean."""
    known, whole = worlds(shuffled)
    model = fitted(shuffled)
    assert model.spec.item_features is not None
    grown = model.with_items(whole.encoded_items(model.spec.item_features).take(torch.arange(KNOWN, 80)))
    rows = (whole.item >= KNOWN) & (whole.user < known.n_users)
    user, item = (torch.from_numpy(column[rows].astype(np.int64)) for column in (whole.user, whole.item))
    assert whole.rating is not None
    rating = torch.from_numpy(whole.rating[rows])
    queries = Queries(torch.arange(known.n_users), known.histories)
    fallback = model.fallback
    told = grown.predict(queries, item, user), fallback.mean + fallback.user_deviation[user], fallback.mean
    model_rmse, user_rmse, mean_rmse = (float((t - rating).square().mean().sqrt()) for t in told)
    return model_rmse, user_rmse, mean_rmse


def test_new_items_are_rated_by_their_content() -> None:
    found, by_user, by_mean = of_new()
    assert found < 0.85 * min(by_user, by_mean)
    shuffled, by_user, _ = of_new(shuffled=True)
    assert shuffled > 0.95 * by_user


def test_known_items_are_rated_as_by_matrix_factorization() -> None:
    train, test = planted().train, planted().test
    ours = ConvMF(CONFIG, ConvMF.spec_of(train))
    theirs = MF(MFConfig(loss="mse", dim=8, init=0.1, reg=0.4, bias_reg=0.5, reg_power=0.5), train.spec)
    user, item = (torch.from_numpy(column.astype(np.int64)) for column in (test.user, test.item))
    assert test.rating is not None
    errors = []
    for model in (ours, theirs):
        model.fit(train, TRAINING)
        queries = train.queries(np.arange(train.n_users), model.spec)
        errors.append(
            float((model.predict(queries, item, user) - torch.from_numpy(test.rating)).square().mean().sqrt())
        )
    assert errors[0] < 1.01 * errors[1]


def test_the_encoder_moves_no_known_item() -> None:
    model = fitted()
    rest = torch.cat([model.rest.weight, model.rest_bias.weight], 1)
    torch.testing.assert_close(model.vector[:, :-1], model.prior + rest, rtol=1e-4, atol=1e-5)
    assert float(model.prior.abs().mean()) > 0.05


def test_who_chooses_better_than_content_says_is_told_so_of_new_items_alone() -> None:
    """By hand: c_u from the ratings, and that it stands in the predictions of new items and in no others."""
    known, whole = worlds()
    model = fitted()
    assert known.rating is not None
    assert model.spec.item_features is not None
    asked = Queries(torch.tensor([7]), known.histories.take(torch.tensor([7])))
    mine = known.user == 7
    content = model.prior[torch.from_numpy(known.item[mine].astype(np.int64))]
    person = torch.cat([model.user.weight[7], torch.ones(1)]).detach()
    told = model.bias + model.user_bias.weight[7].detach() + content @ person
    choice = (torch.from_numpy(known.rating[mine]) - told).sum() / (int(mine.sum()) + 10)
    torch.testing.assert_close(model.content_bias[7, 0], choice, rtol=1e-4, atol=1e-5)
    grown = model.with_items(whole.encoded_items(model.spec.item_features).take(torch.arange(KNOWN, 80)))
    expected = model.bias + model.user_bias.weight[7].detach() + choice + grown.prior[KNOWN:] @ person
    torch.testing.assert_close(grown.score(asked)[0, KNOWN:], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grown.score(asked)[:, :KNOWN], model.score(asked), rtol=1e-4, atol=1e-5)


def test_a_new_persons_choice_is_found_from_a_history() -> None:
    """The training person's own history, asked about as a stranger's, gives about what training gave."""
    known, whole = worlds()
    model = fitted()
    assert known.rating is not None
    assert model.spec.item_features is not None
    grown = model.with_items(whole.encoded_items(model.spec.item_features).take(torch.arange(KNOWN, 80)))
    own = known.queries(np.arange(known.n_users), model.spec)
    ours, theirs = grown.score(own)[:, KNOWN:], grown.score(own.anonymous())[:, KNOWN:]
    assert float((ours - theirs).abs().mean()) < 0.3 * float((ours - ours.mean()).abs().mean())


def test_a_run_that_was_stopped_between_its_turns_ends_the_same(tmp_path: Path) -> None:
    known, _ = worlds()
    config = replace(CONFIG, rounds=2, content_epochs=2)
    states = []
    for stops in (False, True):
        folder = tmp_path / str(stops)
        training = replace(TRAINING, epochs=3)
        if stops:

            def stop(*_: object, left: list[int] = [12]) -> None:  # noqa: B006
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                ConvMF(config, ConvMF.spec_of(known)).fit(known, training, checkpoint=folder, every=0, on_step=stop)
        model = ConvMF(config, ConvMF.spec_of(known))
        model.fit(known, training, checkpoint=folder, every=0)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_an_item_of_many_ratings_brings_some_of_them() -> None:
    rows = Ragged.of([list(range(1000)), [1000, 1001], list(range(1002, 2000))])
    data = planted().train
    features = data.feature_spec.item_features
    assert features is not None
    regression, nothing, items = ContentRegression(ContentEncoder(features, 4)), torch.empty(0), torch.arange(3)
    context = RegressionContext(  # batches read only `data`
        data=RatedItems(items, rows, ""), content=data.encoded_items(features), user=nothing, user_vector=nothing,
        target=nothing, weight=nothing,
    )  # fmt: skip
    [batch] = regression.batches(context, torch.Generator().manual_seed(0), 3)
    assert len(context.data) == len(batch) == 3
    some = batch.rows.take(batch.item.argsort())
    assert some.lengths.tolist() == [MAX_RATINGS_PER_ITEM, 2, MAX_RATINGS_PER_ITEM]
    assert some[1].sort().values.tolist() == [1000, 1001]
    assert set(some[0].tolist()) < set(range(1000))
    assert len(set(some[0].tolist())) == len(set(some[2].tolist())) == MAX_RATINGS_PER_ITEM
    assert set(some[2].tolist()) < set(range(1002, 2000))


def test_without_ratings_or_features_it_is_refused() -> None:
    data = planted().train
    with pytest.raises(DataError, match="needs rating"):
        ConvMF(CONFIG, ConvMF.spec_of(data)).fit(replace(data, rating=None))
