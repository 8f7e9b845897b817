"""Dropout's mask and the sums over histories that it acts on."""

from __future__ import annotations

import pytest
import torch

from palate.data.ragged import Ragged
from palate.models.layers import kept, sum_rows


@pytest.fixture(autouse=True)
def chance():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("dropout", [0.0, 0.05, 0.5, 0.9])
def test_each_entry_is_kept_with_its_probability(dropout: float) -> None:
    drawn = torch.stack([kept((3, 5), dropout) for _ in range(8000)]).float()
    least = 4 * (dropout * (1 - dropout) / len(drawn)) ** 0.5  # four standard errors; 15 entries
    torch.testing.assert_close(drawn.mean(0), torch.full((3, 5), 1 - dropout), atol=least, rtol=1e-4)


def test_entries_are_independent_and_drawn_anew() -> None:
    drawn = torch.stack([kept((16,), 0.5) for _ in range(8000)]).float()
    others = torch.corrcoef(drawn.T).fill_diagonal_(0)
    assert float(others.abs().max()) < 5 / 8000**0.5
    assert torch.equal(kept((0, 4), 0.5), torch.ones(0, 4, dtype=torch.bool))
    assert int(kept((1000,), 1 - 1e-9).sum()) <= 1
    torch.manual_seed(0)
    assert torch.equal(drawn[0].bool(), kept((16,), 0.5))


def test_dropped_values_are_left_out_and_the_rest_scaled_up() -> None:
    table, history = torch.randn(6, 3), Ragged.of([[0, 2, 5], [], [1]])
    weight = torch.tensor([1.0, 2.0, -1.0, 0.5])
    for factors in (weight, None):
        torch.manual_seed(3)
        found = sum_rows(table, history, factors, 0.5)
        torch.manual_seed(3)
        value = torch.ones(4) if factors is None else factors
        torch.testing.assert_close(found, sum_rows(table, history, value * kept((4,), 0.5) * 2))
