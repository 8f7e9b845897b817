"""Losses of the next event: closed forms against autograd over whole matrices of scores."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.models.sequence import losses
from palate.models.sequence.losses import LossName, next_event_loss

T, N, D = 23, 17, 5
NEGATIVE = torch.tensor([0, 3, 4, 9, 16])


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, item vectors, targets (some of them negatives too) and weights."""
    rng = torch.Generator().manual_seed(0)
    hidden, table = (torch.randn(rows, D, generator=rng, dtype=torch.float64) for rows in (T, N))
    return hidden, table, torch.randint(N, (T,), generator=rng), torch.rand(T, generator=rng).double()


def whole(kind: LossName, hidden: Tensor, table: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The same losses as the module's formulas, event by event."""
    found = []
    for h, t, w in zip(hidden, target, weight, strict=True):
        own = h @ table[t]
        if kind == "softmax":
            found.append(w * (torch.logsumexp(h @ table.T, 0) - own))
            continue
        other = (h @ table[NEGATIVE].T)[t != NEGATIVE]
        share = len(NEGATIVE) / (N - 1)
        if kind == "sampled-softmax":
            terms = torch.cat([own.unsqueeze(0), other - math.log(share)])
            found.append(w * (torch.logsumexp(terms, 0) - own))
        else:
            power = share * (0.75 * (1 - 1 / share) + 1 / share)
            found.append(w * (-power * F.logsigmoid(own) - F.logsigmoid(-other).sum()))
    return torch.stack(found).mean()


def in_blocks(kind: LossName, hidden: Tensor, table: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    if kind == "softmax":
        return next_event_loss(kind, hidden, table, target, weight)
    return next_event_loss(
        kind, hidden, table[NEGATIVE], target, weight,
        positive_TD=table[target], negative_C=NEGATIVE, n_items=N, calibration=0.75,
    )  # fmt: skip


@pytest.mark.parametrize("per_block", [2**20, 3 * N, 1])
@pytest.mark.parametrize("kind", ["softmax", "sampled-softmax", "gbce"])
def test_loss_and_gradients_are_those_of_the_whole_matrix(
    kind: LossName, per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "SCORES_PER_BLOCK", per_block)
    monkeypatch.setattr(losses, "LEAST_EVENTS", 1)
    hidden, table, target, weight = drawn()
    found = []
    for make in (whole, in_blocks):
        h, v = hidden.clone().requires_grad_(), table.clone().requires_grad_()
        loss = make(kind, h, v, target, weight)
        found.append((loss.detach(), *torch.autograd.grad(3 * loss, (h, v))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_extreme_scores_stay_finite() -> None:
    hidden, table, target, weight = drawn()
    for kind in ("softmax", "sampled-softmax", "gbce"):
        h = (1e4 * hidden).requires_grad_()
        loss = in_blocks(kind, h, table, target, weight)
        loss.backward()
        assert loss.isfinite()
        assert h.grad is not None
        assert h.grad.isfinite().all()


def test_all_other_items_as_negatives_are_the_full_softmax() -> None:
    hidden, table, target, weight = drawn()
    sampled = next_event_loss(
        "sampled-softmax", hidden, table, target, weight,
        positive_TD=table[target], negative_C=torch.arange(N), n_items=N,
    )  # fmt: skip
    torch.testing.assert_close(sampled, next_event_loss("softmax", hidden, table, target, weight))


def test_calibration_ends() -> None:
    """Without calibration gbce is binary cross-entropy; with all of it, the exponent is the sampling rate."""
    assert losses.beta(0.1, 0.0) == pytest.approx(1.0)
    assert losses.beta(0.1, 1.0) == pytest.approx(0.1)
