"""Splits that hold out users or items entirely do what they say; the contract of all splits is in test_split.py."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from test_split import dataset, parts_of, tags, uneven

from palate.data.splits import SPLITS
from palate.errors import ConfigError


@pytest.mark.parametrize("given", [0, 1, 3])
def test_new_users_bring_their_first_rows(given: int) -> None:
    data = uneven()
    split = SPLITS["new-users"](data, valid=0.1, test=0.2, given=given)
    assert len(split.test.active_users) == round(0.2 * data.n_users)
    assert (split.test.user >= split.train.n_users).all()
    assert split.test.history is not None
    first = data.frame().group_by("user_id", maintain_order=True).head(given)["weight"]
    people = split.test.frame()["user_id"].unique()
    expected = data.frame().filter(pl.col("weight").is_in(first.implode()) & pl.col("user_id").is_in(people.implode()))
    assert sorted(tags(split.test.history)) == sorted(expected["weight"].cast(int).to_list())
    assert set(Counter(split.test.history.frame()["user_id"]).values()) <= {given}


def test_new_users_may_be_shown_less_and_asked_for_the_same() -> None:
    data = uneven()
    splits = [SPLITS["new-users"](data, valid=0.1, test=0.2, given=n, skip=5) for n in (0, 1, 5)]
    assert len({split.test.fingerprint for split in splits}) == len({split.train.fingerprint for split in splits}) == 1
    for number, split in zip((0, 1, 5), splits, strict=True):
        people = len(split.test.active_users) + len(split.valid.active_users)
        shown = len(split.test.history) + len(split.valid.history)
        assert shown == number * people
        left_out = len(data) - shown - len(split.train) - len(split.valid) - len(split.test)
        assert left_out == (5 - number) * people
        assert any(f"{left_out} rows of held-out users are neither history" in note for note in split.notes) == (
            number < 5
        )
    with pytest.raises(ConfigError, match="skip = -1"):
        SPLITS["new-users"](data, skip=-1)


def test_new_people_are_shown_known_items_and_asked_for_new_ones_too() -> None:
    data = uneven()
    split = SPLITS["new-users-and-items"](data, valid=0.1, test=0.2, given=2, skip=4)
    train, test = split.train, split.test
    assert test.history is not None
    assert (test.user >= train.n_users).all()
    assert (test.history.item < train.n_items).all()
    lengths = np.diff(test.history.offsets)[test.active_users]
    assert (lengths == 2).all()
    new, valid_items = test.item >= train.n_items, split.valid.item[split.valid.item >= train.n_items]
    assert 0 < new.mean() < 1
    assert not set(test.item[new].tolist()) & set(valid_items.tolist())
    # To be found is all that these people have of their part's new items, and of known ones what follows the fourth.
    frame = data.frame().filter(pl.col("user_id").is_in(test.frame()["user_id"].unique().implode()))
    known = pl.col("item_id").is_in(train.items.ids.implode())
    later = (
        frame.filter(known).group_by("user_id", maintain_order=True).agg(pl.col("weight").slice(4)).explode("weight")
    )
    theirs = frame.filter(pl.col("item_id").is_in(test.items.ids[split.valid.n_items :].implode()))
    expected = later["weight"].drop_nulls().to_list() + theirs["weight"].to_list()
    assert sorted(tags(test)) == sorted(int(weight) for weight in expected)
    with pytest.raises(ConfigError, match="given = -1"):
        SPLITS["new-users-and-items"](data, given=-1)


def test_a_model_is_told_nothing_of_a_new_user_without_given_rows() -> None:
    split = SPLITS["new-users"](uneven(), given=0)
    queries = split.test.queries(split.test.active_users, split.train.spec)
    assert (queries.user == -1).all()
    assert (queries.history.lengths == 0).all()


def test_new_items_are_unknown_to_train_and_shared_out_by_item() -> None:
    data = uneven()
    split = SPLITS["new-items"](data, valid=0.1, test=0.2)
    found = {name: set(part.frame()["item_id"]) for name, part in parts_of(split).items()}
    assert (len(found["valid"]), len(found["test"])) == (round(0.1 * data.n_items), round(0.2 * data.n_items))
    assert not found["train"] & found["valid"]
    assert not found["train"] & found["test"]
    assert not found["valid"] & found["test"]


def test_beside_new_items_other_rows_may_be_held_out() -> None:
    data = uneven(rows=4000)
    split, bare = (SPLITS["new-items"](data, valid=0.1, test=0.2, others=others) for others in (0.1, 0.0))
    new = {name: set(part.frame()["item_id"]) for name, part in parts_of(bare).items()}
    for name, part in (("valid", split.valid), ("test", split.test)):
        items = part.frame()["item_id"]
        others = items.filter(~items.is_in(list(new["valid"] | new["test"])))
        assert len(others) == pytest.approx(0.1 * len(bare.train), rel=0.25)
        assert new[name] <= set(items)
    assert set(tags(split.train)) < set(tags(bare.train))
    assert len(SPLITS["new-items"](data, valid=0, test=0.2, others=0.1).valid) == 0
    with pytest.raises(ConfigError, match=r"others = 0\.5"):
        SPLITS["new-items"](data, others=0.5)


def test_strong_generalisation_folds_in_four_fifths() -> None:
    data = uneven()
    split = SPLITS["strong-generalisation"](data, valid=0.1, test=0.2)
    counts = Counter(data.frame()["user_id"])
    for part in (split.valid, split.test):
        assert part.history is not None
        for user, targets in Counter(part.frame()["user_id"]).items():
            assert targets == max(1, counts[user] // 5)
            assert Counter(part.history.frame()["user_id"])[user] == counts[user] - targets
    assert len(split.test.active_users) == round(0.2 * data.n_users)
    five = dataset([(user, item) for user in range(10) for item in range(5)], None)
    assert len(SPLITS["strong-generalisation"](five, valid=0, test=0.5).test) == 5


# Parts that are given.
