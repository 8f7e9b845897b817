"""Shared candidate batches: what a step holds, how likely items are candidates, and the loss by its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.models.content.candidates import CandidateBatch, CandidateSampler, candidate_loss, mean_rows
from palate.testing import planted


def has(data: Dataset) -> torch.Tensor:
    table = torch.zeros(data.n_users, data.n_items, dtype=torch.bool)
    table[torch.from_numpy(data.user).long(), torch.from_numpy(data.item).long()] = True
    return table


def of(rows: list[tuple[int, int]], **columns: list[float]) -> Dataset:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    return Dataset.from_frame(frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()}))


@pytest.mark.parametrize(("most", "least"), [(100, 0), (100, 1), (30, 0), (30, 1)])
def test_a_step_holds_its_users_items_in_two_parts(most: int, least: int) -> None:
    data = planted().train
    table, users = has(data), []
    for batch in CandidateSampler(data, most, least).batches(torch.Generator().manual_seed(0), 50):
        users += batch.user.tolist()
        assert len(batch.item) <= most
        assert torch.equal(batch.item.unique(), batch.item)
        assert batch.weight is None
        for row, user in enumerate(batch.user.tolist()):
            history, target = batch.item[batch.history[row]], batch.item[batch.target[row]]
            inside = batch.item[table[user, batch.item]]
            assert torch.equal(torch.cat([history, target]).sort().values, inside)
            assert len(history) >= least
            assert len(target) >= 1
        if most == 100:
            assert len(batch.item) == 80
            assert not batch.log_q.any()
    assert len(users) == len(set(users))
    if most == 100:
        assert len(users) == 160


def test_histories_are_of_all_lengths() -> None:
    (batch,) = CandidateSampler(planted().train, 100).batches(torch.Generator().manual_seed(0), 160)
    share = batch.history.lengths / (batch.history.lengths + batch.target.lengths)
    assert 0.35 < float(share.mean()) < 0.55
    assert share.min() == 0
    assert share.max() > 0.8


def test_an_epoch_follows_the_generator() -> None:
    sampler = CandidateSampler(planted().train, 20)
    one, same, other = (
        [batch.item.tolist() for batch in sampler.batches(torch.Generator().manual_seed(seed), 40)]
        for seed in (0, 0, 1)
    )
    assert one == same != other


def simulated(sampler: CandidateSampler, size: int, epochs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each item is a candidate, and the probability that the sampler states."""
    generator, seen, steps = torch.Generator().manual_seed(0), torch.zeros(sampler.n_items), 0
    half = sampler.max_items // 2  # these batches have more possible seeds than that
    stated = sampler.log_inclusion(torch.arange(sampler.n_items), half, sampler.max_items - half).exp()
    for _ in range(epochs):
        for batch in sampler.batches(generator, size):
            seen[batch.item] += 1
            steps += 1
            torch.testing.assert_close(batch.log_q.exp(), stated[batch.item])
    return seen / steps, stated


def test_inclusion_probabilities_equal_their_simulated_frequencies() -> None:
    rng = np.random.default_rng(0)
    rows = {(u, min(int(i), 1999)) for u in range(800) for i in rng.exponential(200, int(rng.integers(8, 40)))}
    frequency, stated = simulated(CandidateSampler(of(sorted(rows)), 256), 50, 50)
    order = stated.argsort(descending=True)
    for some in order.split(200):
        ratio = float(frequency[some].mean() / stated[some].mean())
        assert 0.96 < ratio < 1.04, (float(stated[some].mean()), ratio)


def test_inclusion_probabilities_know_that_seeds_per_user_are_limited() -> None:
    """Users with 100 items contribute 8 seeds as users with 8 do, so that their items are not seeded more often."""
    rng = np.random.default_rng(0)
    rows = [(u, int(i)) for u in range(400) for i in rng.choice(400, 100, replace=False)]
    rows += [(400 + u, 400 + int(i)) for u in range(400) for i in rng.choice(400, 8, replace=False)]
    frequency, stated = simulated(CandidateSampler(of(rows), 256), 64, 50)
    for some in (slice(0, 400), slice(400, 800)):
        assert float(frequency[some].mean() / stated[some].mean()) == pytest.approx(1, abs=0.03)
    # By number of interactions, items of the first kind would be twelve times as likely to be seeds.
    assert float(stated[:400].mean() / stated[400:].mean()) == pytest.approx(1, abs=0.05)


def test_a_repeated_row_is_one_item_with_its_weights_added() -> None:
    once = of([(1, 1), (1, 2), (1, 3), (2, 1)], weight=[2.0, 1.0, 0.5, 3.0])
    twice = of([(1, 1), (1, 1), (1, 2), (1, 3), (2, 1)], weight=[1.0, 1.0, 1.0, 0.5, 3.0])
    left, right = (
        next(CandidateSampler(data, 10).batches(torch.Generator().manual_seed(0), 2)) for data in (once, twice)
    )
    assert torch.equal(left.target.values, right.target.values)
    assert left.weight is not None
    assert right.weight is not None
    assert torch.equal(left.weight, right.weight)
    expected = {(1, 0): 2.0, (1, 1): 1.0, (1, 2): 0.5, (2, 0): 3.0}
    users = (left.user + 1)[left.target.row_of_value].tolist()
    found = dict(zip(zip(users, left.target.values.tolist(), strict=True), left.weight.tolist(), strict=True))
    assert found == {pair: expected[pair] for pair in found}
    counted = CandidateSampler(of([(1, 1), (1, 1), (1, 2)]), 10)
    assert counted.weight is not None
    assert counted.weight.tolist() == [2.0, 1.0]
    unweighted = CandidateSampler(of([(1, 1), (1, 2), (2, 1)], weight=[1.0, 0.0, 1.0]), 10)
    assert unweighted.items.values.tolist() == [0, 0]


def test_a_validation_part_is_read_from_its_history_against_all_items() -> None:
    data = planted().train
    part = replace(data.take(np.arange(len(data)) % 5 == 0), history=data.take(np.arange(len(data)) % 5 != 0))
    again = replace(part, history=data)  # all of its rows are in the history: nothing is left to recommend
    assert not list(CandidateSampler(again, 30).batches(torch.Generator(), 50))
    users = []
    for batch in CandidateSampler(part, 30).batches(torch.Generator(), 50):
        users += batch.user.tolist()
        assert batch.item.tolist() == list(range(80))
        assert not batch.log_q.any()
        for row, user in enumerate(batch.user.tolist()):
            assert part.history is not None
            assert batch.history[row].tolist() == part.history.histories[user].tolist()
            assert batch.target[row].tolist() == sorted(part.histories[user].tolist())
    assert users == part.active_users.tolist()


def test_users_without_enough_items_are_left_out() -> None:
    data = of([(1, 1), (2, 2)])
    assert not list(CandidateSampler(data, 10, min_history=1).batches(torch.Generator(), 10))
    assert len(next(CandidateSampler(data, 10).batches(torch.Generator(), 10))) == 2


@pytest.mark.parametrize("weight", [None, [2.0, 0.5, 7.0]])
def test_the_loss_is_its_formula(weight: list[float] | None) -> None:
    log_q = torch.tensor([0.5, 0.1, 0.9, 0.3]).log()
    batch = CandidateBatch(
        item=torch.arange(4), log_q=log_q, user=torch.arange(2), history=Ragged.of([[0], []]),
        target=Ragged.of([[1, 2], [3]]), weight=None if weight is None else torch.tensor(weight),
    )  # fmt: skip
    score = torch.tensor([[9.0, 1.0, 2.0, 3.0], [0.5, 1.5, -1.0, 0.0]])
    first = score[0, 1:] - (score[0] - log_q)[1:].logsumexp(0)
    second = score[1] - (score[1] - log_q).logsumexp(0)
    a, b, _ = weight or [1.0, 1.0, 1.0]
    weights = 1 / log_q.exp() * torch.tensor([0, a, b, 0])
    expected = -(first[0] * weights[1] + first[1] * weights[2]) / (weights[1] + weights[2]) - second[3]
    torch.testing.assert_close(candidate_loss(score, batch), expected / 2)


def test_mean_rows() -> None:
    table, weight = torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([1.0, 3.0])
    history = Ragged.of([[0, 1], [], [1]])
    torch.testing.assert_close(mean_rows(table, history), torch.tensor([[2.0, 1.0], [0.0, 0.0], [3.0, 2.0]]))
    torch.testing.assert_close(mean_rows(table, history, weight)[0], torch.tensor([2.5, 1.5]))
    torch.testing.assert_close(mean_rows(table, Ragged.empty(2)), torch.zeros(2, 2))
    torch.testing.assert_close(mean_rows(table, Ragged.of([[0, 1, 1]])), torch.tensor([[2.0, 1.0]]))


def test_the_loss_of_sampled_candidates_estimates_that_of_all() -> None:
    data = planted().train
    rng = torch.Generator().manual_seed(0)
    user, item = torch.randn(160, 4, generator=rng), torch.randn(80, 4, generator=rng)
    found = []
    for most in (100, 40):
        values = [
            float(candidate_loss(user[batch.user] @ item[batch.item].T, batch))
            for _ in range(30)
            for batch in CandidateSampler(data, most).batches(rng, 160)
        ]
        found.append(np.mean(values))
    assert found[1] == pytest.approx(found[0], rel=0.05)
