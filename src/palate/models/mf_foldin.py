"""The fold-in of `mf`: a person's vector and bias from a history, with the items as they were trained.

They minimise the loss that training minimises (mse: ridge; all others: logistic); see `palate.models.fold_in`.

Legend: B queries, N items, D dim, T history items.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palate.data.queries import Queries
from palate.models.fold_in import l2_share, logistic, ridge, told_ratings
from palate.models.normal_equations import solve


def fold_in(model: Any, queries: Queries) -> Tensor:
    """Vectors with the bias as last entry, `[B, D + 1]`: an item's is (q, 1), so both come from one solution.

    Args:
        model: A fitted `palate.models.mf.MF`.
        queries: Whose histories are asked about.
    """
    config, history, vector_ND = model.config, queries.history, _vectors(model)
    penalty_BD = _penalty(model, history.lengths)
    if config.loss != "mse":
        offset_N = model.bias + model.item_bias.weight.squeeze(1)
        return logistic(history, vector_ND, offset_N, penalty_BD, config.negatives)
    return ridge(history, vector_ND, _targets(model, queries), penalty_BD)


def parts(model: Any, queries: Queries, item: int) -> tuple[Tensor, float]:
    """With loss mse, what each rating of one history adds to an item's score, `[T]`, and the score without any.

    The ridge solution is a sum over the ratings, given the system of the history's items: rating j, less what the
    biases say, adds `<(q_i, 1), system^-1 (q_j, 1)>` times itself.
    """
    vector_ND, lengths = _vectors(model), queries.history.lengths
    member_TD = vector_ND[queries.history.values]
    system_DD = member_TD.T @ member_TD + torch.diag_embed(lengths * _penalty(model, lengths)[0])
    weight_T = member_TD @ solve(system_DD.unsqueeze(0), vector_ND[item].unsqueeze(0))[0]
    return weight_T * _targets(model, queries), float(model.bias + model.item_bias.weight[item, 0])


def _vectors(model: Any) -> Tensor:
    return torch.cat([model.item.weight, torch.ones_like(model.item_bias.weight)], dim=1)


def _penalty(model: Any, lengths_B: Tensor) -> Tensor:
    """L2 for each pair of a history, `[B, D + 1]`."""
    pairs, config = 1 + model.sampled, model.config
    reg_D = torch.tensor([config.vector_reg] * config.dim + [config.bias_reg]).clamp(min=1e-6)
    penalty_BD: Tensor = pairs * l2_share((lengths_B * pairs).unsqueeze(1), config.reg_power) * reg_D
    return penalty_BD


def _targets(model: Any, queries: Queries) -> Tensor:
    """The ratings less what mean and item bias say, `[T]`."""
    rating_T = told_ratings(queries, float(model.bias), model.spec.rating_scale)
    target_T: Tensor = rating_T - model.bias - model.item_bias.weight[queries.history.values, 0]
    return target_T
