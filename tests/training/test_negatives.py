"""Negatives are never seen items, and every unseen item has its fair chance, however little is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from palate.data.dataset import Dataset
from palate.data.ids import IdMap
from palate.errors import ConfigError
from palate.training.batches import Negatives


def dataset(seen: list[set[int]], n_items: int) -> Dataset:
    """User u has the items `seen[u]`."""
    return Dataset(
        users=IdMap(pl.Series("id", range(len(seen)), dtype=pl.Int64)),
        items=IdMap(pl.Series("id", range(n_items), dtype=pl.Int64)),
        user=np.array([u for u, items in enumerate(seen) for _ in items], dtype=np.int32),
        item=np.array([i for items in seen for i in sorted(items, reverse=True)], dtype=np.int32),
    )


def counts(negatives: Negatives, user: int, draws: int, seed: int = 0) -> np.ndarray:
    """How often each item was drawn for a user."""
    users = torch.full((draws // negatives.count,), user)
    drawn = negatives.draw(users, torch.Generator().manual_seed(seed))
    return np.bincount(drawn.numpy().ravel(), minlength=negatives.n_items)


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.sets(st.integers(0, n - 1)), min_size=1, max_size=6))
    ),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.75, -1.0]),
    st.integers(0, 99),
)
def test_never_a_seen_item(world: tuple[int, list[set[int]]], count: int, power: float, seed: int) -> None:
    n_items, seen = world
    negatives = Negatives(dataset(seen, n_items), count, power)
    users = torch.arange(len(seen)).repeat(8)
    drawn = negatives.draw(users, torch.Generator().manual_seed(seed))
    assert drawn.shape == (len(users), count)
    assert drawn.dtype == torch.int64
    full = [items == set(range(n_items)) for items in seen]
    assert negatives.saturated == sum(full)
    for user, row in zip(users.tolist(), drawn.tolist(), strict=True):
        assert all(0 <= item < n_items for item in row)
        assert full[user] or not set(row) & seen[user]


# Wide catalogues have more pairs than the table of bits has bits: their bits are shared.
@pytest.mark.parametrize("n_items", [40, 5000])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("left", [1, 7, 30])
def test_every_unseen_item_has_its_chance(n_items: int, power: float, left: int) -> None:
    rng = np.random.default_rng(left)
    unseen = np.sort(rng.permutation(n_items)[:left])
    popular = [set(range(0, n_items, step)) for step in (2, 3, 5, 7)]
    data = dataset([*popular, set(range(n_items)) - set(unseen.tolist())], n_items)
    negatives = Negatives(data, 4, power)
    drawn = counts(negatives, user=len(popular), draws=40_000)
    assert drawn.sum() == drawn[unseen].sum() == 40_000
    weight = (data.item_counts[unseen] + 1.0) ** power
    if left > 1:
        assert chisquare(drawn[unseen], 40_000 * weight / weight.sum()).pvalue > 1e-3


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_chances_where_little_is_seen(power: float) -> None:
    n_items, rng = 200, np.random.default_rng(1)
    seen = [set(rng.integers(0, n_items, 10).tolist()) for _ in range(300)]
    data = dataset(seen, n_items)
    drawn = counts(Negatives(data, 5, power), user=3, draws=100_000)
    unseen = np.setdiff1d(np.arange(n_items), list(seen[3]))
    weight = (data.item_counts[unseen] + 1.0) ** power
    assert drawn[list(seen[3])].sum() == 0
    assert chisquare(drawn[unseen], 100_000 * weight / weight.sum()).pvalue > 1e-3


def test_a_shared_bit_hides_no_item() -> None:
    rng = np.random.default_rng(0)
    n_items = 100_000
    seen = [set(rng.integers(0, n_items, 3).tolist()) for _ in range(50)]
    negatives = Negatives(dataset(seen, n_items), 100)
    assert not negatives._direct
    assert len(negatives._table) * 8 < 50 * n_items
    users = torch.arange(50).repeat_interleave(100)
    drawn = negatives.draw(users, torch.Generator().manual_seed(0)).numpy()
    assert all(not set(drawn[users == user].ravel().tolist()) & seen[user] for user in range(50))
    bins = np.bincount(drawn.ravel() // 1000, minlength=100)
    assert chisquare(bins).pvalue > 1e-3
    user = np.repeat(np.arange(50), n_items)
    found = negatives._seen(user, np.tile(np.arange(n_items), 50))
    assert found.tolist() == sorted(u * n_items + i for u, items in enumerate(seen) for i in items)


def test_the_history_counts_as_seen() -> None:
    whole = dataset([set(range(5)), {0}], 6)
    part = replace(whole.take(np.array([0])), history=whole.take(np.array([1, 2, 3, 4])))
    assert Negatives(part, 3).draw(torch.zeros(9, dtype=torch.int64), torch.Generator()).unique().tolist() == [5]


def test_rows_that_come_twice_count_once() -> None:
    data = dataset([{0, 1, 2}], 4)
    twice = data.take(np.array([0, 0, 1, 1, 2]))
    assert Negatives(twice, 2).draw(torch.zeros(9, dtype=torch.int64), torch.Generator()).unique().tolist() == [3]


def test_users_who_have_seen_everything_get_any_item() -> None:
    negatives = Negatives(dataset([set(range(4)), {0, 1, 2}, set()], 4), 2)
    assert negatives.saturated == 1
    assert counts(negatives, 0, 4000).min() > 800
    assert np.flatnonzero(counts(negatives, 1, 100)).tolist() == [3]
    assert counts(negatives, 2, 4000).min() > 800
    one = Negatives(dataset([{0}], 1), 3, power=1.0)
    assert one.draw(torch.zeros(2, dtype=torch.int64), torch.Generator()).tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_the_generator_is_the_only_chance(power: float) -> None:
    negatives = Negatives(dataset([{1, 2}, {5}, set()], 50), 4, power)
    users = torch.tensor([0, 1, 2, 0, 1])
    first, again, other = (negatives.draw(users, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    rng = torch.Generator().manual_seed(7)
    assert not torch.equal(negatives.draw(users, rng), negatives.draw(users, rng))


def test_no_users_no_negatives() -> None:
    negatives = Negatives(dataset([{1}], 3), 4)
    assert negatives.draw(torch.empty(0, dtype=torch.int64), torch.Generator()).shape == (0, 4)


def test_impossible_settings() -> None:
    data = dataset([{0}], 2)
    with pytest.raises(ConfigError, match="count = 0"):
        Negatives(data, 0)
    with pytest.raises(ConfigError, match="power = inf"):
        Negatives(data, 1, float("inf"))
