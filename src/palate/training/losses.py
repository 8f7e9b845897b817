"""Losses as functions of scores; each returns one number, the mean over the batch.

Legend: P positives, K negatives of each positive, B rows, N items.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mse(prediction_P: Tensor, rating_P: Tensor) -> Tensor:
    """Mean squared error, `(r - r_hat)^2`, in squared rating units."""
    return F.mse_loss(prediction_P, rating_P)


def bce(positive_P: Tensor, negative_PK: Tensor) -> Tensor:
    """Logistic loss of positives (label 1) and negatives (label 0), the mean over all `P * (1 + K)` scores.

    He et al. 2017 (NCF), equation 7: `-sum log sigma(s+) - sum log(1 - sigma(s-))`.
    """
    total = F.softplus(-positive_P).sum() + F.softplus(negative_PK).sum()
    return total / (positive_P.numel() + negative_PK.numel())


def bpr(positive_P: Tensor, negative_PK: Tensor) -> Tensor:
    """Bayesian personalised ranking, `-log sigma(s+ - s-)`, the mean over all pairs (Rendle et al. 2009)."""
    return F.softplus(negative_PK - positive_P.unsqueeze(1)).mean()


def softmax(scores_BN: Tensor, item_B: Tensor) -> Tensor:
    """Cross-entropy of the positive against every item, `-s+ + logsumexp(s)`."""
    return F.cross_entropy(scores_BN, item_B)


def sampled_softmax(positive_P: Tensor, negative_PK: Tensor, log_q_PK: Tensor | None = None) -> Tensor:
    """Cross-entropy of the positive against its K sampled negatives.

    Args:
        positive_P: Scores of positives.
        negative_PK: Scores of negatives.
        log_q_PK: Log of the expected count of each negative under its sampler; subtracted so that the loss approaches
            the full softmax (Bengio and Senecal 2008). None corrects nothing: the K negatives count as they are.
    """
    corrected = negative_PK if log_q_PK is None else negative_PK - log_q_PK
    logits = torch.cat([positive_P.unsqueeze(1), corrected], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
