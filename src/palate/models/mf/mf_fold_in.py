"""The fold-in of `mf`: a user's vector and bias from a history, with the items as they were trained.

With loss mse they minimise, by ridge regression, what training minimises for this user, and with bce likewise, by
logistic regression. The other losses (bpr, softmax, sampled-softmax) compare items with each other: there the logistic
objective of bce stands in for the training objective, and a training user's history gives a ranking close to the
trained one, not the trained vector. See `palate.models.mf.fold_in`, also on items that stand twice in a history.

Legend: B queries, N items, D dim, E = D + 1, T history items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palate.data.queries import Queries, Spec
from palate.models.mf.fold_in import history_ratings, l2_share, logistic, ridge
from palate.models.mf.normal_equations import solve


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldIn:
    """The regression that answers histories: on vectors (q, 1), so that vector and bias come from one solution.

    Attributes:
        item_ND: Item vectors.
        item_bias_N: Item biases.
        mean: b of the model's formula.
        spec: The model's: items after the first `n_items` are later ones and never negatives.
        ratings: Whether the model was trained on ratings (mse); else the regression is logistic.
        negatives: K of the logistic objective.
        pairs: Pairs that an interaction is scored in during training: 1, and its negatives.
        reg, bias_reg, reg_power: As in training.
    """

    item_ND: Tensor
    item_bias_N: Tensor
    mean: float
    spec: Spec
    ratings: bool
    negatives: int
    pairs: int
    reg: float
    bias_reg: float
    reg_power: float

    def rows(self, queries: Queries) -> Tensor:
        """Vectors with the bias as last entry, `[B, E]`."""
        penalty_BE = self._penalty(queries.history.lengths)
        if self.ratings:
            return ridge(queries.history, self._design(), self._targets(queries), penalty_BE)
        offset_N = self.mean + self.item_bias_N
        return logistic(queries.history, self._design(), offset_N, penalty_BE, self.negatives, self.spec.n_items)

    def contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        """With ratings: the share of each rating of one history in an item's score, `[T]`, and the score without them.

        The ridge solution is a sum over the ratings, given the system of the history's items: rating j, less what the
        biases predict, adds `<(q_i, 1), system^-1 (q_j, 1)>` times itself.
        """
        design_NE, lengths = self._design(), queries.history.lengths
        member_TE = design_NE[queries.history.values]
        system_EE = member_TE.T @ member_TE + torch.diag_embed(lengths * self._penalty(lengths)[0])
        weight_T = member_TE @ solve(system_EE.unsqueeze(0), design_NE[item].unsqueeze(0))[0]
        return weight_T * self._targets(queries), self.mean + float(self.item_bias_N[item])

    def _design(self) -> Tensor:
        """(q, 1) of all items, `[N, E]`."""
        return torch.cat([self.item_ND, torch.ones_like(self.item_bias_N).unsqueeze(1)], dim=1)

    def _penalty(self, lengths_B: Tensor) -> Tensor:
        """L2 for each item of a history, `[B, E]`."""
        dim = self.item_ND.shape[1]
        reg_E = torch.tensor([self.reg] * dim + [self.bias_reg]).clamp(min=1e-6).to(lengths_B.device)
        return self.pairs * l2_share((lengths_B * self.pairs).unsqueeze(1), self.reg_power) * reg_E

    def _targets(self, queries: Queries) -> Tensor:
        """The ratings less what mean and item bias predict, `[T]`."""
        return (
            history_ratings(queries, self.mean, self.spec.rating_scale)
            - self.mean
            - self.item_bias_N[queries.history.values]
        )
