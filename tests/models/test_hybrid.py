"""hybrid: who answers what, on which scale, and what letting new items in costs."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import Training, from_dict
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import ConfigError
from palate.evaluation.evaluate import Validator
from palate.models import MODELS
from palate.models.hybrid.hybrid import Hybrid, HybridConfig
from palate.models.hybrid.hybrid_scale import _ndcg, _recall, held_out, joined
from palate.models.layers import standardised
from palate.testing import planted
from palate.testing.case import planted_with_new

KNOWN = 68


@cache
def data() -> Dataset:
    return planted().train


def fitted(config: HybridConfig, known: Dataset, training: Training | None = None) -> Hybrid:
    model = Hybrid(config, Hybrid.spec_of(known))
    model.fit(known, training)
    return model


@cache
def without_new() -> Dataset:
    whole = data()
    new = whole.items.ids[KNOWN:].implode()
    return Dataset.from_frame(
        whole.frame().filter(~pl.col("item_id").is_in(new)), whole.item_table, rating_scale=(1.0, 5.0)
    )


def test_known_items_are_the_warm_models_and_strangers_to_it_the_content_models() -> None:
    known = without_new()
    model = fitted(HybridConfig(warm="ease"), known)
    alone = MODELS["ease"](MODELS["ease"].Config(), known.spec)
    alone.fit(known)
    queries = known.queries(np.arange(160), known.spec)
    assert torch.equal(model.score(queries), standardised(alone.score(queries)))
    # deepfm knows people by their ids: a stranger's history is content-knn's.
    router = fitted(HybridConfig(warm="deepfm", held_out=0), known, Training(epochs=1))
    stranger = Queries(torch.tensor([-1, 0]), queries.history.take(torch.tensor([0, 1])))
    scores = router.score(stranger)
    assert torch.equal(scores[0], standardised(router.content.score(stranger))[0])
    assert torch.equal(scores[1], standardised(router.warm.score(stranger))[1])
    assert router.answers >= {"known_user", "history", "new_item", "similar_items"}


def test_a_history_of_new_items_is_the_content_models() -> None:
    model = fitted(HybridConfig(warm="ease", held_out=0), without_new())
    assert model.spec.item_features is not None
    grown = model.with_items(data().encoded_items(model.spec.item_features).take(torch.arange(KNOWN, 80)))
    asked = Queries(torch.tensor([-1, -1, -1]), Ragged.of([[72], [72, 4], [4]]))
    scores = grown.score(asked)
    assert isinstance(grown, Hybrid)
    content = grown.content.score(asked)
    assert torch.equal(scores[0], standardised(content, content[:, :KNOWN])[0])
    torch.testing.assert_close(scores[1, :KNOWN], scores[2, :KNOWN])  # the warm model does not know item 72


def test_new_items_by_hand() -> None:
    warm = torch.tensor([[1.0, 3.0], [2.0, 2.0]])  # means 2 and 2, deviations 1 and 0
    content = torch.tensor([[10.0, 30.0, 40.0, 20.0], [0.0, 0.0, 5.0, 1.0]])  # over the known ones 20 and 10, 0 and 0
    answered = torch.tensor([[True], [True]])
    scores = joined(warm, content, 0.5, -1.0, answered)
    assert scores.tolist() == [[2 + 0.5 * 2 - 1, 2 - 1.0], [2.0, 2.0]]
    assert joined(warm, content, 0.5, -1.0, ~answered)[0].tolist() == [1.0, 1.0]


def test_places_by_hand() -> None:
    warm, cold = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[2.5, 0.5]])
    hit, found = torch.tensor([[True, False, True]]), torch.tensor([[False, True]])
    # Merged: 3.0* 2.5 2.0 1.0* 0.5*
    gain = 1 + 1 / np.log2(5)
    assert _ndcg(warm, cold, hit, torch.tensor([2])) == pytest.approx(gain / (1 + 1 / np.log2(3)))
    assert _recall(warm, cold, found) == 1.0
    assert _recall(torch.arange(20.0, 0, -1)[None], torch.tensor([[0.5]]), torch.tensor([[True]])) == 0.0


def test_the_part_to_choose_on_holds_new_items_and_rows_of_known_ones() -> None:
    parts = held_out(data(), 0.2, seed=0)
    assert parts is not None
    assert parts.train.n_items == 64
    new = parts.test.item >= 64
    assert 0.1 < new.mean() < 0.9
    assert len(np.unique(parts.test.item[new])) == 16
    assert held_out(data(), 0.0, seed=0) is None
    assert held_out(data().take(np.arange(100)), 0.2, seed=0) is None


def test_more_is_let_in_where_less_must_be_kept() -> None:
    known = without_new()
    strict, lax = (fitted(HybridConfig(warm="ease", keep=keep), known) for keep in (1.0, 0.0))
    assert strict.spec.item_features is not None
    new = data().encoded_items(strict.spec.item_features).take(torch.arange(KNOWN, 80))
    queries = known.queries(np.arange(160), known.spec)
    seen = queries.history.row_of_value, queries.history.values
    shares = []
    for model in (strict, lax):
        scores = model.with_items(new).score(queries).clone()
        scores[seen] = -torch.inf
        shares.append(float((scores.topk(10).indices >= KNOWN).float().mean()))
    assert shares[0] < shares[1]
    assert shares[1] > 0.1


def test_ratings_of_known_items_are_the_warm_models_and_of_new_ones_the_content_models() -> None:
    known = without_new()
    settings = {
        "warm": {"model": "mf", "config": {"loss": "mse", "dim": 8}},
        "content": {"model": "convmf", "config": {"dim": 8, "text": "bag", "content_epochs": 5}},
    }
    config = from_dict(HybridConfig, settings)
    model = fitted(config, known, Training(epochs=5, batch_size=256, lr=0.05))
    assert "rating" in model.answers
    assert model.spec.item_features is not None
    grown = model.with_items(data().encoded_items(model.spec.item_features).take(torch.arange(KNOWN, 80)))
    assert isinstance(grown, Hybrid)
    queries = known.queries(np.arange(4), known.spec)
    item, row = torch.tensor([3, 70, 5, 79]), torch.arange(4)
    found = grown.predict(queries, item, row)
    assert torch.equal(found[[0, 2]], model.warm.predict(queries, item[[0, 2]], row[[0, 2]]))  # type: ignore[operator]
    assert torch.equal(found[[1, 3]], grown.content.predict(queries, item[[1, 3]], row[[1, 3]]))


def test_members_that_cannot_be_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"content = 'ease' cannot score new items; choose one of .*content-knn"):
        HybridConfig(content="ease")
    with pytest.raises(ConfigError, match=r"no model .iasl.; did you mean 'ials'"):
        HybridConfig(warm="iasl")


def test_the_fewer_likes_a_new_person_has_the_more_popularity_counts() -> None:
    plain, mixed = (fitted(HybridConfig(warm="ease", held_out=0, prior=prior), without_new()) for prior in (0.0, 4.0))
    known = without_new().queries(np.arange(3), mixed.spec)
    assert torch.equal(mixed.score(known), plain.score(known))
    few = Queries(torch.tensor([-1, -1]), Ragged.of([[4], list(range(12))]))
    alone, popular, found = plain.score(few), standardised(mixed.fallback.score(few)), mixed.score(few)
    for row, share in ((0, 1 / 5), (1, 12 / 16)):
        torch.testing.assert_close(found[row], share * alone[row] + (1 - share) * popular[row])


@pytest.mark.parametrize("warm", ["mf", "text-cnn", "multvae"])
def test_members_are_validated_on_what_they_can_answer(warm: str) -> None:
    """A validation part with new users and items reaches no member that knows items by their interactions alone."""
    parts = planted_with_new()
    model = Hybrid(HybridConfig(warm=warm, held_out=0), Hybrid.spec_of(parts.train))
    records = model.fit(parts.train, Training(epochs=2, batch_size=256, lr=0.02), Validator(parts.valid, model))
    assert [record.epoch for record in records] == [1, 2]
    assert {record.member for record in records} == {f"warm-{warm}"}
    assert all(record.valid for record in records)
