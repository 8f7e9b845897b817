"""Losses as functions of scores; each returns the mean over the batch, a scalar.

Losses with sampled negatives take the scores of each positive's candidates: the positive first, then its negatives.

`weight_P`, always optional, is a factor for the loss of each positive: `palate.training.batches.Pairs.weight`, whose
mean over the data is 1. The mean is taken over the number of positives, not over the sum of the weights.

Legend: P positives, K negatives of each positive, C = 1 + K candidates, N items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Link = Literal["score", "sigmoid", "softmax"]
LINKS: dict[str, Link] = {
    "mse": "score", "bce": "sigmoid", "bpr": "sigmoid", "softmax": "softmax", "sampled-softmax": "softmax",
}  # fmt: skip
"""How a score becomes a confidence, by the loss that the model was trained with."""
UNITS = {
    "mse": "squared error per rating",
    "bce": "binary cross-entropy per pair",
    "bpr": "BPR loss per pair",
    "softmax": "cross-entropy per interaction",
    "sampled-softmax": "cross-entropy per interaction",
}
"""What each loss measures, per what: the `loss_name` of a model trained with it."""


def mse(prediction_P: Tensor, rating_P: Tensor, weight_P: Tensor | None = None) -> Tensor:
    """Mean squared error, `(r - r_hat)^2`, in squared rating units."""
    if weight_P is None:
        return F.mse_loss(prediction_P, rating_P)
    return (weight_P * (prediction_P - rating_P).square()).mean()


def bce(scores_PC: Tensor, weight_P: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of positives (label 1, column 0) and negatives (label 0), the mean over all `P * C` scores.

    He et al. 2017 (NCF), equation 7: `-sum log sigma(s+) - sum log(1 - sigma(s-))`. The weight of a positive applies to
    its negatives too.
    """
    label_PC = torch.zeros_like(scores_PC)
    label_PC[:, 0] = 1.0
    return F.binary_cross_entropy_with_logits(scores_PC, label_PC, None if weight_P is None else weight_P.unsqueeze(1))


def bpr(scores_PC: Tensor, weight_P: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking, `-log sigma(s+ - s-)`, the mean over all `P * K` pairs (Rendle et al. 2009)."""
    loss_PK = F.softplus(scores_PC[:, 1:] - scores_PC[:, :1])
    return (loss_PK if weight_P is None else loss_PK * weight_P.unsqueeze(1)).mean()


def softmax(scores_PN: Tensor, item_P: Tensor, weight_P: Tensor | None = None) -> Tensor:
    """Cross-entropy of the positive against all items, `-s+ + logsumexp(s)`."""
    if weight_P is None:
        return F.cross_entropy(scores_PN, item_P)
    return (weight_P * F.cross_entropy(scores_PN, item_P, reduction="none")).mean()


def sampled_softmax(scores_PC: Tensor, log_q_PK: Tensor | None = None, weight_P: Tensor | None = None) -> Tensor:
    """Cross-entropy of the positive against its K sampled negatives.

    Args:
        scores_PC: The positive's score, then its negatives'.
        log_q_PK: Log of the expected count of each negative under its sampler; subtracted so that the loss approaches
            the full softmax (Bengio and Senecal 2008). Defaults to no correction: the K negatives count as they are.
        weight_P: See above.
    """
    if log_q_PK is not None:
        scores_PC = torch.cat([scores_PC[:, :1], scores_PC[:, 1:] - log_q_PK], dim=1)
    return softmax(scores_PC, torch.zeros(len(scores_PC), dtype=torch.int64, device=scores_PC.device), weight_P)


SAMPLED: dict[str, Callable[..., Tensor]] = {"bce": bce, "bpr": bpr, "sampled-softmax": sampled_softmax}
"""Losses of a positive against its K negatives; each takes `scores_PC` and, by name, `weight_P`."""
