"""Dropout masks, sums over histories, histories as sets, standardised scores."""

from __future__ import annotations

import pytest
import torch

from palate.data.ragged import MaskedHistories, Ragged
from palate.models.layers import distinct_history, dropout_mask, first_occurrences, standardised, sum_rows


@pytest.fixture(autouse=True)
def chance():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("dropout", [0.0, 0.05, 0.5, 0.9])
def test_each_entry_is_kept_with_its_probability(dropout: float) -> None:
    drawn = torch.stack([dropout_mask((3, 5), dropout) for _ in range(8000)]).float()
    least = 4 * (dropout * (1 - dropout) / len(drawn)) ** 0.5  # four standard errors; 15 entries
    torch.testing.assert_close(drawn.mean(0), torch.full((3, 5), 1 - dropout), atol=least, rtol=1e-4)


def test_entries_are_independent_and_drawn_anew() -> None:
    drawn = torch.stack([dropout_mask((16,), 0.5) for _ in range(8000)]).float()
    others = torch.corrcoef(drawn.T).fill_diagonal_(0)
    assert float(others.abs().max()) < 5 / 8000**0.5
    assert torch.equal(dropout_mask((0, 4), 0.5), torch.ones(0, 4, dtype=torch.bool))
    assert int(dropout_mask((1000,), 1 - 1e-9).sum()) <= 1
    torch.manual_seed(0)
    assert torch.equal(drawn[0].bool(), dropout_mask((16,), 0.5))


def test_dropped_values_are_left_out_and_the_rest_scaled_up() -> None:
    table, history = torch.randn(6, 3), Ragged.of([[0, 2, 5], [], [1]])
    weight = torch.tensor([1.0, 2.0, -1.0, 0.5])
    for factors in (weight, None):
        torch.manual_seed(3)
        found = sum_rows(table, history, factors, 0.5)
        torch.manual_seed(3)
        value = torch.ones(4) if factors is None else factors
        torch.testing.assert_close(found, sum_rows(table, history, value * dropout_mask((4,), 0.5) * 2))


def test_a_distinct_history_has_each_item_where_it_first_occurs() -> None:
    history = Ragged.of([[4, 2, 4, 2, 0], [], [2, 2], [1, 3]])
    assert first_occurrences(history).int().tolist() == [1, 1, 0, 0, 1, 1, 0, 1, 1]
    found = distinct_history(history)
    assert [found[row].tolist() for row in range(4)] == [[4, 2, 0], [], [2], [1, 3]]
    without = Ragged.of([[4, 2], [2]])
    assert distinct_history(without) is without
    assert len(distinct_history(Ragged.empty(2))) == 2


def test_a_distinct_masked_history_has_an_item_if_any_of_its_occurrences_is_kept() -> None:
    whole, table = torch.tensor([4, 2, 4]), torch.randn(6, 3)
    masked = distinct_history(MaskedHistories.masked(whole, torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 0]]).bool()))
    assert [sorted(masked[row].tolist()) for row in range(3)] == [[2, 4], [2, 4], []]
    weight = torch.tensor([[0.5, 0.25, 0.5]], requires_grad=True)
    weighted = distinct_history(MaskedHistories.weighted(whole, weight))
    found = sum_rows(table, weighted)
    torch.testing.assert_close(found[0], 0.5 * table[4] + 0.25 * table[2])
    (slope,) = torch.autograd.grad(found.sum(), weight)
    torch.testing.assert_close(slope[0, 0] + slope[0, 2], table[4].sum())
    torch.testing.assert_close(slope[0, 1], table[2].sum())


def test_a_masked_history_sums_to_the_same_as_its_rows() -> None:
    table, weight = torch.randn(6, 3), torch.tensor([0.5, 2.0, -1.0])
    masked = MaskedHistories.masked(torch.tensor([4, 2, 0]), torch.tensor([[1, 0, 1], [0, 1, 0]]).bool())
    rows = Ragged(masked.values, masked.offsets)
    torch.testing.assert_close(sum_rows(table, masked), sum_rows(table, rows))
    torch.testing.assert_close(sum_rows(table, masked, weight), sum_rows(table, rows, weight))


def test_standardised_scores_have_mean_0_and_deviation_1_and_equal_scores_are_zeros() -> None:
    scores = torch.tensor([[1.0, 2.0, 6.0], [0.1, 0.1, 0.1]])
    found = standardised(scores)
    torch.testing.assert_close(found[0].mean(), torch.tensor(0.0))
    torch.testing.assert_close(found[0].std(correction=0), torch.tensor(1.0))
    assert found[1].tolist() == [0, 0, 0]
    torch.testing.assert_close(standardised(scores, torch.tensor([[0.0, 2.0], [0.0, 2.0]])), scores - 1)


def test_the_device_of_a_mask_is_the_one_asked_for() -> None:
    assert dropout_mask((3,), 0.5, torch.device("meta")).device.type == "meta"
