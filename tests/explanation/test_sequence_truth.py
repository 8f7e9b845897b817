"""Explainers of models that read order, against planted causes: the latest cause decides, wherever it stands."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.explanation.explain import explain
from palate.explanation.players import game
from palate.models import MODELS
from palate.models.base import Model

PAIRS, NOISE = 8, 12
"""Item `cause k` and item `effect k` for each k, and items that say nothing."""


def a_round(rng: np.random.Generator, pair: int) -> tuple[list[str], str]:
    """A cause and up to two other items, and what then follows."""
    others = [f"noise {n}" for n in rng.choice(NOISE, int(rng.integers(3)), replace=False)]
    return [f"cause {pair}", *others], f"effect {pair}"


@cache
def planted_orders(users: int = 500) -> Dataset:
    """Each user has four rounds: a cause, others, and the effect of the latest cause."""
    rng, rows = np.random.default_rng(1), []
    for user in range(users):
        for pair in rng.choice(PAIRS, 4, replace=False):
            read, effect = a_round(rng, int(pair))
            rows += [(f"u{user}", name) for name in (*read, effect)]
    return Dataset.from_frame(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"))


@cache
def asked(count: int = 40) -> list[tuple[Queries, int, str]]:
    """Histories of two whole rounds and the beginning of a third, the item that follows, and the cause."""
    data, rng, found = planted_orders(), np.random.default_rng(2), []
    for _ in range(count):
        (first, effect), (second, other), (last, wanted) = (
            a_round(rng, int(pair)) for pair in rng.choice(PAIRS, 3, replace=False)
        )
        index = data.items.index([*first, effect, *second, other, *last])
        query = Queries(torch.tensor([-1]), Ragged.of([index.tolist()]))
        found.append((query, int(data.items.index([wanted])[0]), last[0]))
    return found


@cache
def fitted(name: str) -> Model:
    data, kind = planted_orders(), MODELS[name]
    model = kind(kind.Config(dim=32, length=20, dropout=0.1), kind.spec_of(data))
    model.fit(data, Training(epochs=25, batch_size=16, lr=0.005))
    return model


@pytest.mark.parametrize("method", ["occlusion", "shap", "lime"])
@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "nextitnet"])
def test_the_true_cause_comes_first(name: str, method: str) -> None:
    found = []
    for query, item, cause in asked():
        told = explain(fitted(name), planted_orders(), query, item, method, samples=300)
        history = told.of("history")
        found.append(history[0].key == cause and history[0].value > 0)
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "nextitnet"])
def test_leaving_an_item_out_keeps_the_order_of_the_rest(name: str) -> None:
    query, item, _ = asked()[0]
    one, values = game(fitted(name), planted_orders(), query, item), query.history.values
    for place in range(len(one.players)):
        mask = torch.ones(1, len(one.players), dtype=torch.bool)
        mask[0, place] = False
        left = values[values != int(planted_orders().items.index([one.players[place].key])[0])]
        assert torch.equal(one.masked(mask).history.values, left)
        asked_alone = Queries(torch.tensor([-1]), Ragged.of([left.tolist()]))
        torch.testing.assert_close(one.scores(mask)[0], fitted(name)._score(asked_alone)[0], rtol=1e-4, atol=1e-4)
