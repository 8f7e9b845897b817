"""ContentNet: people and items by content alone, what is everybody's taken off; the formula stands in `content_cnn`.

Legend: B queries, N items, P items of a step, U its users, D dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.ragged import Ragged
from palate.models.encoders import ContentEncoder
from palate.models.pools import Pool, mean_rows, pool_loss

LEAST = 1e-6
"""Least variance of an item's cosines over people: where they do not differ, nothing is told apart."""


class ContentNet(nn.Module):
    """Items by an encoder, people by the items of their history.

    Args:
        encoder: Content to vectors.
        dim: Their width.
        temperature: Divides cosines.

    Attributes:
        mean, covariance: Of people's vectors of length 1, float32 `[D]` and `[D, D]`.
        spread: The mean of s_j over the items of the training data.
    """

    mean: Tensor
    covariance: Tensor
    spread: Tensor

    def __init__(self, encoder: ContentEncoder, dim: int, temperature: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.attention = nn.Linear(dim, 1, bias=False)
        self.person = nn.Linear(dim, dim)
        self.temperature = temperature
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("covariance", torch.eye(dim))
        self.register_buffer("spread", torch.ones(()))

    def loss(self, pool: Pool, bias_N: Tensor) -> Tensor:
        """Of one step.

        Args:
            pool: Its items, with their content, and people.
            bias_N: Added to the scores of all items.
        """
        assert pool.content is not None
        vector_PD = self.encoder(pool.content)
        person_UD = self.people(vector_PD, pool.history)
        cosine_UP = (person_UD - person_UD.mean(0)) @ F.normalize(vector_PD, dim=1).T
        return pool_loss(cosine_UP / self.temperature + bias_N[pool.item], pool)

    def people(self, vector_ND: Tensor, history: Ragged) -> Tensor:
        """Vectors of length 1 for histories of items of these vectors, `[B, D]`."""
        weight_N = self.attention(torch.tanh(vector_ND)).squeeze(1).exp()
        mean_BD = mean_rows(vector_ND, history, weight_N)
        return F.normalize(mean_BD + self.person(mean_BD), dim=1)

    def score(self, vector_ND: Tensor, scale_N: Tensor, history: Ragged) -> Tensor:
        """Scores of all items for each history of them, but for their bias, `[B, N]`.

        Args:
            vector_ND: Of the items.
            scale_N: Of the items; see `scale`.
            history: Of each person.
        """
        scores_BN: Tensor = (self.people(vector_ND, history) - self.mean) @ F.normalize(vector_ND, dim=1).T
        return scores_BN * scale_N

    @torch.no_grad()
    def observe(self, vector_ND: Tensor, histories: Ragged) -> Tensor:
        """Set `mean`, `covariance` and `spread`.

        Args:
            vector_ND: Of the items of the training data.
            histories: Of people of the training data.

        Returns:
            `scale` of the items, `[N]`.
        """
        person_BD = self.people(vector_ND, histories)
        self.mean.copy_(person_BD.mean(0))
        self.covariance.copy_((person_BD - self.mean).T @ (person_BD - self.mean) / len(person_BD))
        self.spread.copy_(self._deviation(vector_ND).mean())
        return self.scale(vector_ND)

    def scale(self, vector_ND: Tensor) -> Tensor:
        """r / temperature of items of these vectors, `[N]`."""
        return (self.spread / self._deviation(vector_ND)).clamp(max=1) / self.temperature

    def _deviation(self, vector_ND: Tensor) -> Tensor:
        """s of each item, `[N]`; never 0."""
        unit_ND = F.normalize(vector_ND, dim=1)
        return ((unit_ND @ self.covariance) * unit_ND).sum(1).clamp(min=LEAST).sqrt()
