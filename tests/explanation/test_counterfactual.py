"""counterfactual(): by hand, against every smaller set and a plain greedy search, and by asking the ranker again."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from by_hand import adder, dataset, four, planted

from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError
from palate.explanation import counterfactual as module
from palate.explanation.counterfactual import counterfactual
from palate.explanation.players import game
from palate.ranking.topk import rank


def play(model, data, user, item):
    return game(model, data, data.queries(np.array([user]), model.spec), item)


def place(model, history, removed, item, n_items):
    """The item's place in the ranker's own list of what was not in the whole history."""
    kept = Ragged.of([[h for h in history if h not in removed]])
    allowed = torch.tensor([i for i in range(n_items) if i not in history])
    asked = Queries(torch.tensor([-1]), kept)
    listed = rank(model, asked, n_items, candidates=allowed, exclude_seen=False).items[0].tolist()
    return listed.index(item) + 1


def test_one_item_is_enough_and_it_is_said():
    model, data = four()
    found = counterfactual(play(model, data, 0, 4), k=1)
    # Without 0 film 5 leads by 6 to 4, without 1 by 6 to 5; without 2 it is a draw, which the lower index wins.
    assert found.removed == (0,)
    assert (found.before, found.after) == (1, 2)
    assert found.smallest
    assert str(found) == (
        "Without Film 0, Film 4 would fall from rank 1 to rank 2, out of the top 1. No smaller set is enough."
    )


def test_what_was_taken_away_stays_out_of_the_list():
    # Film 0 would itself come first once it is no longer seen: it must not push film 3 out.
    data = dataset([[0, 1, 2]], 5)
    weight = np.zeros((5, 5))
    weight[1, 0] = weight[2, 0] = 100
    weight[:3, 3] = [1, 2, 3]
    weight[:3, 4] = [0, 0, 4]
    found = counterfactual(play(adder(data, weight), data, 0, 3), k=1)
    assert found.removed is not None
    assert len(found.removed) == 2
    history = [0, 1, 2]
    assert place(adder(data, weight), history, found.removed, 3, 5) == found.after == 2


def test_every_set_is_verified_and_none_that_is_proven_has_a_smaller_one():
    rng = np.random.default_rng(0)
    model, data = planted(rng, people=12, had=9)
    sizes, proven = [], 0
    for user in range(12):
        history = data.histories[user].tolist()
        item = int(rank(model, data.queries(np.array([user]), model.spec), 1).items[0, 0])
        for k in (1, 8):
            found = counterfactual(play(model, data, user, item), k=k)
            assert found.removed is not None
            assert found.before == 1
            assert place(model, history, found.removed, item, data.n_items) == found.after > k
            sizes.append((len(found.removed), found.greedy, plain_greedy(model, history, item, k, data.n_items)))
            proven += found.smallest
            smaller = range(1, len(found.removed)) if found.smallest else range(1, min(len(found.removed), 3))
            for size in smaller:
                for some in combinations(history, size):
                    assert place(model, history, some, item, data.n_items) <= k
    ours, before_pruning, plain = np.array(sizes).T
    assert (ours <= before_pruning).all()
    assert ours.mean() <= plain.mean()
    assert len(set(ours.tolist())) > 2, "the cases are of several sizes"
    assert proven > 10


def plain_greedy(model, history, item, k, n_items):
    """How many items a greedy search by the item's own score takes away."""
    removed = []
    while place(model, history, removed, item, n_items) <= k:
        rest = [h for h in history if h not in removed]

        def score(h):
            kept = Ragged.of([[other for other in rest if other != h]])  # noqa: B023
            return float(model._score(Queries(torch.tensor([-1]), kept))[0, item])

        removed.append(min(rest, key=score))
    return len(removed)


def test_pairs_find_what_greed_misses():
    # Taking 0 away helps most at first, but only 1 and 2 together do it with two.
    data = dataset([[0, 1, 2, 3]], 7)
    weight = np.zeros((7, 7))
    weight[:4, 4] = [5, 4, 4, 1]
    weight[:4, 5] = [0, -2, -2, 10.5]
    found = counterfactual(play(adder(data, weight), data, 0, 4), k=1)
    assert found.removed is not None
    assert len(found.removed) <= 2
    assert found.smallest


def test_a_large_history_is_searched_in_part(monkeypatch):
    monkeypatch.setattr(module, "GREEDY_TRIES", 4)
    monkeypatch.setattr(module, "MAX_PAIRS", 6)
    monkeypatch.setattr(module, "MAX_SCORES_PER_BLOCK", 100)
    model, data = planted(np.random.default_rng(1), people=12, had=12)
    larger = 0
    for user in range(12):
        item = int(rank(model, data.queries(np.array([user]), model.spec), 1).items[0, 0])
        found = counterfactual(play(model, data, user, item), k=5)
        assert found.removed is not None
        assert place(model, data.histories[user].tolist(), found.removed, item, data.n_items) == found.after > 5
        if len(found.removed) > 2:
            larger += 1
            assert not found.smallest
    assert larger


def test_an_item_that_nothing_carries():
    data = dataset([[0, 1]], 4)
    weight = np.zeros((4, 4))
    found = counterfactual(play(adder(data, weight), data, 0, 2), k=1)
    # All scores are 0 with and without a history: 2 stands first by its index.
    assert found.removed is None
    assert (found.before, found.after) == (1, 1)
    assert found.reason == "it does not depend on single history items: even without any history it ranks 1"
    assert str(found) == ("Film 2: it does not depend on single history items: even without any history it ranks 1.")


def test_an_item_that_is_not_listed_has_nothing_to_undo():
    model, data = four()
    found = counterfactual(play(model, data, 0, 5), k=1)
    assert found.removed is None
    assert found.reason == "it ranks 2, outside the top 1, so there is nothing to remove"


def test_a_list_as_long_as_the_catalogue_holds_everything():
    model, data = four()
    assert counterfactual(play(model, data, 0, 4), k=2).reason.startswith("a list of 2 holds every item")


def test_a_history_of_one():
    data = dataset([[0]], 4)
    weight = np.zeros((4, 4))
    weight[0, 3] = 1
    found = counterfactual(play(adder(data, weight), data, 0, 3), k=1)
    assert found.removed == (0,)
    assert found.smallest
    assert found.after == 3  # all are equal then, and 1 and 2 stand before it


def test_bad_questions():
    model, data = four()
    with pytest.raises(ConfigError, match="k = 0"):
        counterfactual(play(model, data, 0, 4), k=0)
    with pytest.raises(CannotAnswer, match="this user already has Film 2, so no list holds it"):
        counterfactual(play(model, data, 0, 2))
