"""Losses against numbers worked out by hand from their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palate.training.losses import bce, bpr, mse, sampled_softmax, softmax

POSITIVE = torch.tensor([1.0, -2.0])
NEGATIVE = torch.tensor([[0.0, 0.5, -1.0], [3.0, -2.0, 0.25]])
SCORES = torch.cat([POSITIVE.unsqueeze(1), NEGATIVE], dim=1)
SCORE = st.floats(-8, 8, width=32)


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def test_mse() -> None:
    assert mse(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0])).item() == pytest.approx((1 + 4) / 2)


def test_bce_by_hand() -> None:
    # Scores 0 are chances of a half: log 2 each.
    assert bce(torch.zeros(3, 5)).item() == pytest.approx(math.log(2))
    terms = [-math.log(sigmoid(s)) for s in POSITIVE.tolist()]
    terms += [-math.log(1 - sigmoid(s)) for s in NEGATIVE.ravel().tolist()]
    assert bce(SCORES).item() == pytest.approx(sum(terms) / 8, rel=1e-6)
    assert bce(SCORES).item() == pytest.approx(1.0527663, rel=1e-6)


def test_bpr_by_hand() -> None:
    assert bpr(torch.ones(2, 4)).item() == pytest.approx(math.log(2))
    rows = zip(POSITIVE.tolist(), NEGATIVE.tolist(), strict=True)
    terms = [-math.log(sigmoid(positive - negative)) for positive, row in rows for negative in row]
    assert bpr(SCORES).item() == pytest.approx(sum(terms) / 6, rel=1e-6)
    assert bpr(SCORES).item() == pytest.approx(1.4940560, rel=1e-6)


def test_softmax_by_hand() -> None:
    assert softmax(torch.zeros(2, 8), torch.tensor([0, 7])).item() == pytest.approx(math.log(8))
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    expected = math.log(math.exp(1) + math.exp(2) + math.exp(3)) - 2
    assert softmax(scores, torch.tensor([1])).item() == pytest.approx(expected, rel=1e-6)


def test_sampled_softmax_by_hand() -> None:
    assert sampled_softmax(torch.zeros(2, 8)).item() == pytest.approx(math.log(8))
    first = math.log(math.exp(1) + 1 + math.exp(0.5) + math.exp(-1)) - 1
    second = math.log(math.exp(-2) + math.exp(3) + math.exp(-2) + math.exp(0.25)) + 2
    assert sampled_softmax(SCORES).item() == pytest.approx((first + second) / 2, rel=1e-6)


@given(st.lists(st.lists(SCORE, min_size=5, max_size=5), min_size=1, max_size=6), st.integers(0, 4))
def test_sampling_every_other_item_once_is_the_full_softmax(rows: list[list[float]], item: int) -> None:
    scores_BN = torch.tensor(rows)
    positive, others = scores_BN[:, [item]], scores_BN[:, [i for i in range(5) if i != item]]
    full = softmax(scores_BN, torch.full((len(rows),), item)).item()
    assert sampled_softmax(torch.cat([positive, others], dim=1)).item() == pytest.approx(full, rel=1e-5, abs=1e-6)
    # Each of the four drawn half as often as it should be, and corrected for it, weighs twice.
    twice = torch.cat([others, others], dim=1)
    corrected = sampled_softmax(torch.cat([positive, twice], dim=1), torch.full_like(twice, math.log(2))).item()
    assert corrected == pytest.approx(full, rel=1e-5, abs=1e-6)


def test_the_correction_makes_a_sample_stand_for_all() -> None:
    rng = torch.Generator().manual_seed(0)
    scores, positive, n = torch.randn(40, generator=rng), torch.tensor(0.3), 2000
    q = torch.softmax(torch.randn(40, generator=rng), 0)
    drawn = torch.multinomial(q, n, replacement=True, generator=rng)
    log_q = (q * n).log()[drawn]
    exact = torch.cat([positive.view(1), scores]).logsumexp(0) - positive
    sampled = sampled_softmax(torch.cat([positive.view(1, 1), scores[drawn].view(1, -1)], dim=1), log_q.view(1, -1))
    assert sampled.item() == pytest.approx(exact.item(), abs=0.05)


PAIRWISE: list[Callable[[Tensor], Tensor]] = [bce, bpr, sampled_softmax]


@pytest.mark.parametrize("loss", PAIRWISE)
def test_steps_lift_positives_and_lower_negatives(loss: Callable[[Tensor], Tensor]) -> None:
    scores = SCORES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scores), [scores])
    assert (gradient[:, 0] < 0).all()
    assert (gradient[:, 1:] > 0).all()


@pytest.mark.parametrize("loss", PAIRWISE)
def test_extreme_scores_stay_finite(loss: Callable[[Tensor], Tensor]) -> None:
    far = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    assert torch.isfinite(loss(far))
    assert loss(far[:1]).item() == 0.0


@pytest.mark.parametrize("loss", [*PAIRWISE, "mse", "softmax"])
def test_a_weight_of_two_is_the_row_given_twice(loss: Callable[..., Tensor] | str) -> None:
    """Weights 1, 2 and 3, divided by their mean as batches do it."""
    weight, twice = torch.tensor([1.0, 2.0, 3.0]) / 2, torch.tensor([0, 1, 1, 2, 2, 2])
    scores, item = torch.cat([SCORES, SCORES[:1] * 0.3]), torch.tensor([3, 0, 1])
    if loss == "mse":
        one, other = mse(scores[:, 0], scores[:, 1], weight), mse(scores[twice, 0], scores[twice, 1])
    elif loss == "softmax":
        one, other = softmax(scores, item, weight), softmax(scores[twice], item[twice])
    else:
        assert callable(loss)
        one, other = loss(scores, weight_P=weight), loss(scores[twice])
    torch.testing.assert_close(one, other)
