"""Each row comes once an epoch, with its own rating, weight and negatives, in an order the generator decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.data.dataset import Dataset
from palate.training.batches import Histories, Negatives, Pairs, histories, pairs


def dataset(rows: int = 50, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    found = sorted({(int(u), int(i)) for u, i in rng.integers(0, (8, 20), (rows, 2))})
    frame = pl.DataFrame(found, schema=["user_id", "item_id"], orient="row").with_columns(
        rating=pl.col("user_id") * 100 + pl.col("item_id")
    )
    return Dataset.from_frame(frame)


def rows_of(batches: Iterator[Pairs]) -> list[tuple[int, int]]:
    return [row for batch in batches for row in zip(batch.user.tolist(), batch.item.tolist(), strict=True)]


@given(st.integers(1, 80), st.integers(1, 100), st.integers(0, 2**40))
def test_each_row_once(rows: int, size: int, seed: int) -> None:
    data = dataset(rows)
    batches = list(pairs(data, torch.Generator().manual_seed(seed), size))
    assert sorted(rows_of(iter(batches))) == list(zip(data.user.tolist(), data.item.tolist(), strict=True))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert 0 < len(batches[-1]) <= size


def test_ratings_stay_with_their_rows() -> None:
    data = dataset()
    for batch in pairs(data, torch.Generator().manual_seed(1), 7):
        assert batch.rating is not None
        assert batch.negative is None
        assert (batch.user.dtype, batch.item.dtype, batch.rating.dtype) == (torch.int64, torch.int64, torch.float32)
        users, items = data.users.ids[batch.user.numpy()], data.items.ids[batch.item.numpy()]
        assert batch.rating.tolist() == (users * 100 + items).to_list()
    bare = next(pairs(replace(data, rating=None), torch.Generator(), 7))
    assert bare.rating is None
    assert bare.weight is None


def weighted(data: Dataset) -> Dataset:
    """The same rows, each with a weight of its own."""
    return replace(data, weight=np.arange(1, len(data) + 1, dtype=np.float32))


def test_weights_stay_with_their_rows_and_have_mean_one() -> None:
    data = weighted(dataset())
    assert data.weight is not None
    wanted = {
        (int(u), int(i)): w / data.weight.mean() for u, i, w in zip(data.user, data.item, data.weight, strict=True)
    }
    total = 0.0
    for batch in pairs(data, torch.Generator().manual_seed(1), 7):
        assert batch.weight is not None
        assert batch.weight.dtype == torch.float32
        for user, item, weight in zip(batch.user.tolist(), batch.item.tolist(), batch.weight.tolist(), strict=True):
            assert weight == pytest.approx(wanted[user, item])
            total += weight
    assert total == pytest.approx(len(data))


def test_negatives_belong_to_their_users() -> None:
    data = dataset(120)
    seen = [set(data.histories[user].tolist()) for user in range(data.n_users)]
    negatives = Negatives(data, 3)
    for batch in pairs(data, torch.Generator().manual_seed(1), 16, negatives):
        assert batch.negative is not None
        assert batch.negative.shape == (len(batch), 3)
        for user, row in zip(batch.user.tolist(), batch.negative.tolist(), strict=True):
            assert not seen[user] & set(row)


def epoch(data: Dataset, rng: torch.Generator, kind: str) -> list[list[int]]:
    if kind == "histories":
        return [[*b.user.tolist(), *b.history.values.tolist()] for b in histories(data, rng, 3)]
    found = pairs(data, rng, 7, Negatives(data, 2))
    return [[*b.user.tolist(), *b.item.tolist(), *b.negative.ravel().tolist()] for b in found if b.negative is not None]


@pytest.mark.parametrize("kind", ["pairs", "histories"])
def test_the_state_of_the_generator_is_the_epoch(kind: str) -> None:
    data = dataset()
    rng = torch.Generator().manual_seed(5)
    first, state = epoch(data, rng, kind), rng.get_state()
    second = epoch(data, rng, kind)
    assert first != second
    assert epoch(data, torch.Generator().manual_seed(5), kind) == first
    resumed = torch.Generator()
    resumed.set_state(state)
    torch.rand(3)  # the global generator has no say
    assert epoch(data, resumed, kind) == second


def test_no_rows_no_batches() -> None:
    data = dataset().take(np.empty(0, dtype=np.int64))
    assert not list(pairs(data, torch.Generator(), 4))
    assert not list(histories(data, torch.Generator(), 4))


@given(st.integers(1, 80), st.integers(1, 12), st.integers(0, 99))
def test_each_history_once(rows: int, size: int, seed: int) -> None:
    data = dataset(rows)
    found: dict[int, Histories] = {}
    for batch in histories(data, torch.Generator().manual_seed(seed), size):
        assert len(batch) <= size
        assert batch.ratings is not None
        assert batch.weight is None
        assert batch.target is batch.history
        assert batch.target_ratings is batch.ratings
        for place, user in enumerate(batch.user.tolist()):
            assert user not in found
            found[user] = batch
            assert batch.history[place].tolist() == data.histories[user].tolist()
        items = data.items.ids[batch.history.values.numpy()]
        users = data.users.ids[batch.user[batch.history.row_of_value].numpy()]
        assert batch.ratings.tolist() == (users * 100 + items).to_list()
    assert sorted(found) == data.active_users.tolist()


def test_the_weights_of_a_history_stay_with_its_items() -> None:
    data = weighted(dataset())
    assert data.weight is not None
    for batch in histories(data, torch.Generator().manual_seed(1), 3):
        assert batch.weight is not None
        assert batch.target_weight is batch.weight
        wanted = [data.weight[data.offsets[user] : data.offsets[user + 1]] for user in batch.user.tolist()]
        assert batch.weight.tolist() == np.concatenate(wanted).tolist()


def test_a_validation_part_is_scored_on_its_rows_given_what_was_known_before() -> None:
    data = weighted(dataset(120))
    known = np.arange(len(data)) % 3 > 0
    known &= data.user != data.user[0]  # this user has rows in the part alone
    part = replace(data.take(~known), history=data.take(known))
    assert part.history is not None
    assert part.rating is not None
    assert part.weight is not None
    users = []
    for batch in histories(part, torch.Generator().manual_seed(1), 3):
        assert batch.target_ratings is not None
        assert batch.target_weight is not None
        for place, user in enumerate(batch.user.tolist()):
            assert batch.history[place].tolist() == part.history.histories[user].tolist()
            assert batch.target[place].tolist() == part.histories[user].tolist()
            rows = slice(batch.target.offsets[place], batch.target.offsets[place + 1])
            own = slice(part.offsets[user], part.offsets[user + 1])
            assert batch.target_ratings[rows].tolist() == part.rating[own].tolist()
            assert batch.target_weight[rows].tolist() == part.weight[own].tolist()
            users.append(user)
    wanted = set(part.active_users.tolist()) - {int(data.user[0])}
    assert sorted(users) == sorted(wanted)
