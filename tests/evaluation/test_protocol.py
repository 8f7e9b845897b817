"""Protocol: its hash, strict reading, sampled and given candidates."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError
from palate.evaluation.protocol import Protocol, fingerprint, given_candidates, sampled_candidates
from tiny import dataset, part


def test_equal_protocols_have_equal_hashes_through_json():
    one = Protocol(split="temporal", split_options=(("valid", 0.1), ("seed", 3)), metrics=("ndcg@10", "rmse"), seed=2)
    again = Protocol.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert again.hash == one.hash
    assert len(one.hash) == 12


@pytest.mark.parametrize(
    "change",
    [
        {"data": "x"},
        {"filters": ("min 5",)},
        {"split": "random"},
        {"split_options": (("valid", 0.2),)},
        {"candidates": "uni99"},
        {"given": "x"},
        {"vectors": "x"},
        {"metrics": ("ndcg@20",)},
        {"exclude_seen": False},
        {"min_rating": 4.0},
        {"seed": 1},
    ],
)
def test_every_field_is_in_the_hash(change):
    assert Protocol(**change).hash != Protocol().hash


def test_the_hash_does_not_change_between_versions():
    # A changed value makes old results incomparable: change it only with the meaning of a protocol.
    assert Protocol(metrics=("ndcg@10",)).hash == "2e409c323893"


def test_faults():
    with pytest.raises(ConfigError, match="unknown metric 'ndgc@10'"):
        Protocol(metrics=("ndgc@10",))
    with pytest.raises(ConfigError, match="candidates = 'half'"):
        Protocol.from_dict({"candidates": "half", "sed": 1})
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        Protocol.from_dict({"candidates": "half", "sed": 1})
    with pytest.raises(ConfigError, match="metrics"):
        Protocol(metrics=())


def test_fingerprints_tell_data_apart():
    one, other = dataset([(1, 1), (1, 2)]), dataset([(1, 1), (1, 3)])
    assert fingerprint(one) == fingerprint(dataset([(1, 1), (1, 2)]))
    assert len({fingerprint(one), fingerprint(other), fingerprint(one, other), fingerprint(other, one)}) == 4
    assert fingerprint(torch.tensor([1, 2])) != fingerprint(torch.tensor([1]), torch.tensor([2]))


@given(st.integers(1, 30), st.integers(0, 5), st.data())
def test_samples_are_distinct_untaken_and_as_many_as_asked(n_items, seed, data):
    rows = data.draw(st.lists(st.lists(st.integers(0, n_items - 1)), min_size=1, max_size=4))
    count = torch.tensor([data.draw(st.integers(0, 40)) for _ in rows])
    users = torch.arange(len(rows))
    sampled = sampled_candidates(users, Ragged.of(rows), count, n_items, seed)
    for row, taken in enumerate(rows):
        items = sampled[row].tolist()
        assert len(set(items)) == len(items) == min(int(count[row]), n_items - len(set(taken)))
        assert not set(items) & set(taken)
        assert all(0 <= i < n_items for i in items)


def test_a_users_sample_does_not_depend_on_the_others():
    users, count = torch.tensor([4, 900, 7]), torch.tensor([9, 9, 9])
    taken = Ragged.of([[1, 2], [3], []])
    all_three = sampled_candidates(users, taken, count, 50, seed=1)
    alone = sampled_candidates(users[1:2], taken.take(torch.tensor([1])), count[1:2], 50, seed=1)
    assert all_three[1].tolist() == alone[0].tolist()
    other_seed = sampled_candidates(users, taken, count, 50, seed=2)
    assert all_three[1].tolist() != other_seed[1].tolist()


def test_samples_are_uniform():
    n_users, n_items = 4000, 20
    taken = Ragged.of([[0, 1]] * n_users)
    sampled = sampled_candidates(torch.arange(n_users), taken, torch.full((n_users,), 5), n_items, seed=0)
    counts = np.bincount(sampled.values.numpy(), minlength=n_items)
    assert counts[:2].tolist() == [0, 0]
    # Each of 18 items is expected 4000 * 5 / 18 = 1,111 times, with a standard deviation of about 28.
    assert np.abs(counts[2:] - 4000 * 5 / 18).max() < 5 * 28
    # Neighbouring users and items are unrelated: together as often as chance has it, 5 * 4 / (18 * 17) of the users.
    has = np.zeros((n_users, n_items))
    has[sampled.row_of_value, sampled.values] = 1
    together = (has.T @ has)[2:, 2:][~np.eye(18, dtype=bool)] / n_users
    assert np.abs(together - 20 / 306).max() < 0.02


def test_given_candidates_as_lists_and_as_rows():
    test = part(dataset([("a", 1), ("b", 2), ("b", 3)]), [("b", 1), ("a", 9)])
    lists = pl.DataFrame({"user_id": ["b", "a", "zoe"], "negatives": [[3, 77, 1], [2], [1]]})
    rows = pl.DataFrame({"user_id": ["b", "a", "b"], "item": [3, 2, 1]})
    for found in (given_candidates(test, lists), given_candidates(test, rows, column="item")):
        assert [found[u].tolist() for u in range(len(found))] == [[1], [2, 0]]  # 77 is unknown, and so is zoe
    with pytest.raises(DataError, match="'negatives'"):
        given_candidates(test, rows)
