"""rank(): masks, ties, blocks, places of targets; each against a full stable sort."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import TrainingError
from palate.models.mf.ials import IALS, IALSConfig
from palate.ranking.ranked import NEVER, top
from palate.ranking.topk import block_rows, rank
from palate.testing import planted
from tiny import Table, queries


@st.composite
def cases(draw):
    """Scores with many ties, histories, targets, allowed items."""
    n_users, n_items = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    row = st.lists(st.integers(0, n_items - 1), max_size=n_items, unique=True)
    rows = st.lists(row, min_size=n_users, max_size=n_users)
    levels = draw(st.integers(1, 4))
    scores = draw(st.lists(st.integers(-levels, levels), min_size=n_users * n_items, max_size=n_users * n_items))
    table = np.array(scores, dtype=np.float32).reshape(n_users, n_items)
    allowed = draw(st.one_of(st.none(), row, rows))
    seen, targets, k, exclude_seen = draw(rows), draw(rows), draw(st.integers(1, 12)), draw(st.booleans())
    # Tensors are made by the tests: making one here would draw random numbers behind hypothesis' back.
    return table, seen, targets, (allowed, n_users), k, exclude_seen


def as_candidates(allowed):
    """None, a tensor for all, or a row for each user."""
    rows, n_users = allowed
    if rows is None:
        return None
    if len(rows) == n_users and all(isinstance(row, list) for row in rows):
        return Ragged.of(rows)
    return torch.tensor(rows, dtype=torch.int64)


def allowed_items(table, seen, allowed, exclude_seen, row):
    """The items that may stand in a row's list, the plain way."""
    n_items = table.shape[1]
    if allowed is None:
        items = set(range(n_items))
    else:
        items = set((allowed[row] if isinstance(allowed, Ragged) else allowed).tolist())
    return items - set(seen[row] if exclude_seen else [])


@given(cases())
def test_equals_a_full_stable_sort(case):
    table, seen, _, allowed, k, exclude_seen = case
    allowed = as_candidates(allowed)
    ranked = rank(Table(table), queries(len(table), seen), k, candidates=allowed, exclude_seen=exclude_seen)
    for row in range(len(table)):
        items = sorted(allowed_items(table, seen, allowed, exclude_seen, row), key=lambda i: (-table[row, i], i))[:k]
        pad = k - len(items)
        assert ranked.items[row].tolist() == items + [-1] * pad
        assert ranked.scores[row].tolist() == [table[row, i] for i in items] + [-float("inf")] * pad
    assert ranked.items.dtype == torch.int64
    assert ranked.scores.dtype == torch.float32


@given(cases(), st.booleans())
def test_targets_stand_where_counting_puts_them(case, full):
    table, seen, targets, allowed, k, exclude_seen = case
    allowed = as_candidates(allowed)
    ranked = rank(
        Table(table),
        queries(len(table), seen),
        k,
        candidates=allowed,
        exclude_seen=exclude_seen,
        targets=Ragged.of(targets),
        full=full,
        count=True,
    )
    place = 0
    for row in range(len(table)):
        items = allowed_items(table, seen, allowed, exclude_seen, row)
        assert ranked.n_candidates[row] == len(items)
        for target in targets[row]:
            greater, ties = int(ranked.greater[place]), int(ranked.ties[place])
            place += 1
            if target not in items:
                assert (greater, ties) == (NEVER, 0)
                continue
            above = sum(table[row, i] > table[row, target] for i in items)
            same = sum(table[row, i] == table[row, target] for i in items) - 1
            if full or above < k:
                assert (greater, ties) == (above, same)
            else:
                assert k <= greater <= above


@given(cases(), st.integers(1, 6))
def test_block_size_changes_nothing(case, block):
    table, seen, targets, allowed, k, exclude_seen = case
    options = {
        "candidates": as_candidates(allowed),
        "exclude_seen": exclude_seen,
        "targets": Ragged.of(targets),
        "count": True,
    }
    once = rank(Table(table), queries(len(table), seen), k, **options)
    again = rank(Table(table), queries(len(table), seen), k, block=block, **options)
    for name in ("items", "scores", "n_candidates", "greater", "ties"):
        assert torch.equal(getattr(once, name), getattr(again, name)), name


@given(cases(), st.randoms(use_true_random=False))
def test_order_of_queries_and_of_histories_changes_nothing(case, random):
    table, seen, _, _, k, exclude_seen = case
    order = list(range(len(table)))
    random.shuffle(order)
    once = rank(Table(table), queries(len(table), seen), k, exclude_seen=exclude_seen)
    turned = queries(len(table), [row[::-1] for row in seen]).take(torch.tensor(order))
    again = rank(Table(table), turned, k, exclude_seen=exclude_seen)
    assert torch.equal(once.items[order], again.items)


def test_a_constant_scorer_lists_the_lowest_items():
    ranked = rank(Table(np.zeros((2, 50))), queries(2, [[0, 1], [48]]), 3)
    assert ranked.items.tolist() == [[2, 3, 4], [0, 1, 2]]


def test_many_equal_scores_across_the_end_of_a_long_list():
    # torch.topk alone would return any 10 of the 1,000 equal items.
    table = np.zeros((3, 1005), dtype=np.float32)
    table[:, 700] = 1
    ranked = rank(Table(table), queries(3), 10)
    assert ranked.items.tolist() == [[700, 0, 1, 2, 3, 4, 5, 6, 7, 8]] * 3


def test_everything_seen_gives_an_empty_list():
    ranked = rank(
        Table([[1.0, 2.0], [1.0, 2.0]]), queries(2, [[0, 1], [1]]), 2, targets=Ragged.of([[0], [0]]), count=True
    )
    assert ranked.items.tolist() == [[-1, -1], [0, -1]]
    assert ranked.greater.tolist() == [NEVER, 0]
    assert ranked.n_candidates.tolist() == [0, 1]


def test_k_above_the_catalogue_pads():
    ranked = rank(Table([[1.0, 2.0]]), queries(1), 5)
    assert ranked.items.tolist() == [[1, 0, -1, -1, -1]]
    assert ranked.scores.tolist() == [[2.0, 1.0] + [-float("inf")] * 3]


def test_one_user_one_item():
    assert rank(Table([[3.0]]), queries(1), 1).items.tolist() == [[0]]


def test_no_queries():
    ranked = rank(Table([[3.0, 1.0]]), queries(1).take(torch.tensor([], dtype=torch.int64)), 4, targets=Ragged.empty(0))
    assert ranked.items.shape == (0, 4)
    assert ranked.greater.shape == (0,)


def test_items_the_model_does_not_know_are_no_candidates_and_never_found():
    for candidates in (torch.tensor([-1, 0, 7]), Ragged.of([[-1, 0, 7]])):
        ranked = rank(Table([[1.0, 2.0]]), queries(1), 2, candidates=candidates, targets=Ragged.of([[0, 7]]))
        assert ranked.items.tolist() == [[0, -1]]
        assert ranked.greater.tolist() == [0, NEVER]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_an_error(bad):
    table = np.ones((4, 3), dtype=np.float32)
    table[2, 1] = bad
    with pytest.raises(TrainingError, match="NaN or infinite scores for 1 of 4 queries"):
        rank(Table(table), queries(4), 2)


def test_huge_finite_scores_are_none():
    # Their sum overflows float32, which must not be taken for an infinite score.
    ranked = rank(Table(np.full((1, 8), 3e38)), queries(1), 2)
    assert ranked.items.tolist() == [[0, 1]]


def test_the_models_own_weights_stay_as_they_are():
    class View(Table):
        def _score(self, queries):
            return self.table  # the buffer itself, not a copy

    model = View([[1.0, 2.0], [3.0, 4.0]])
    rank(model, queries(2, [[0], [1]]), 1)
    assert model.table.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_scores_in_any_memory_layout():
    class Turned(Table):
        def _score(self, queries):
            return self.table[queries.user].T.contiguous().T

    table = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    seen = [[i % 5] for i in range(7)]
    assert torch.equal(rank(Turned(table), queries(7, seen), 3).items, rank(Table(table), queries(7, seen), 3).items)


def test_a_block_is_bounded():
    assert block_rows(3706) * 3706 <= 2**21
    assert all(block_rows(n) >= 1 and block_rows(n) * n <= max(2**25, n) for n in (1, 100, 27_000, 10**6, 10**8))


class Rounded(Table):
    """A table of scores, with other rounding errors for each batch."""

    def score(self, queries: Queries, items: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        scores = self.table[queries.user]
        ulp = torch.finfo(torch.float32).eps * scores.abs()
        noise = torch.randint(-2, 3, scores.shape, generator=torch.Generator().manual_seed(len(queries)))
        return scores + noise * ulp


@pytest.mark.parametrize("k", [3, 10, 40])
def test_scores_that_differ_by_rounding_alone_are_ties(k: int) -> None:
    """Groups of four items with equal scores: lower items first, whoever else is asked, also across the list's end."""
    rng = np.random.default_rng(0)
    table = np.repeat(rng.standard_normal((30, 12)), 4, axis=1)[:, rng.permutation(48)].astype(np.float32)
    asked = queries(30, [[] for _ in range(30)])
    together = rank(Rounded(table), asked, k)
    expected = rank(Table(table), asked, k)
    assert torch.equal(together.items, expected.items)
    alone = [rank(Rounded(table), asked.take(torch.tensor([row])), k).items for row in range(30)]
    assert torch.equal(torch.cat(alone), expected.items)


def test_equal_items_of_ials_keep_their_order_when_asked_alone() -> None:
    """Every item is there twice, with the same users, so that its two vectors are equal."""
    data = planted().train
    twice = pl.concat([data.frame(), data.frame().with_columns(pl.col("item_id") + "x")])
    model = IALS(IALSConfig(dim=16), (whole := Dataset.from_frame(twice)).spec)
    model.fit(whole)
    model.item[:] = model.item.view(80, 2, 16)[:, :1].expand(80, 2, 16).reshape(160, 16)
    asked = whole.queries(np.arange(150), whole.spec)
    together = rank(model, asked, 10).items
    alone = [rank(model, asked.take(torch.tensor([row])), 10).items for row in range(150)]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("n_items", [1000, 64 * 9, 64 * 40 + 5, 27_001])
def test_the_best_of_groups_are_the_best(n_items: int) -> None:
    """Exactly as `torch.topk`: with ties, with few allowed items, with the best at the end or side by side."""
    generator = torch.Generator().manual_seed(n_items)
    plain = torch.randn(9, n_items, generator=generator)
    few = plain.masked_fill(torch.rand(9, n_items, generator=generator) < 0.999, -torch.inf)
    end = plain.sort(1).values
    for scores in (plain, plain.round(), few, end, end.flip(1), torch.zeros(9, n_items)):
        for k in (1, 4, 11):
            values, items = top(scores, k)
            assert torch.equal(values, scores.topk(k).values)
            assert torch.equal(scores.gather(1, items), values)
            assert all(len(set(row)) == k for row in items.tolist())
