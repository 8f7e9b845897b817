"""Fold-in: the vector of a person the model has never seen, from a history, with the items as they were trained.

Both functions minimise what training minimises for one user, as a function of that user's vector p alone:

ridge:     sum_h (t_h - <p, q_h>)^2 + L sum_d l_d p_d^2
logistic:  sum_h log(1 + exp(-s_h)) + (K L / N) sum_i log(1 + exp(s_i)) + L sum_d l_d p_d^2,  s_i = o_i + <p, q_i>

with h over the L items of the history and i over the N items outside it. So they give a training user the vector that
training was heading for (Rendle et al. 2020, and Hu, Koren, Volinsky 2008 for the same step within ALS).

Legend: B queries, N items, T history items of all queries, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palate.data.ragged import Ragged
from palate.models.normal_equations import solve

NEGATIVES = 2048
"""Most items that stand for the catalogue in `logistic`, evenly spaced: a fold-in costs the same for any catalogue."""
STEPS = 8
"""Newton steps of `logistic`; from zero, five reach float32 precision on all data tried."""


def ridge(history: Ragged, vector_TD: Tensor, target_T: Tensor, penalty: Tensor) -> Tensor:
    """The ridge solution for each query, `[B, D]`.

    Args:
        history: Only its row lengths are read.
        vector_TD: Item vectors of all history items.
        target_T: What `<p, q>` should be for each.
        penalty: l, above 0, for each history item, `[D]` or `[B, D]`.
    """
    rows = _rows(vector_TD, history)
    gram_BDD = torch.stack([q.T @ q for q in rows])
    right_BD = torch.stack([q.T @ t for q, t in zip(rows, _rows(target_T, history), strict=True)])
    return solve(gram_BDD + torch.diag_embed(_lengths(history) * penalty), right_BD)


def logistic(history: Ragged, vector_ND: Tensor, offset_N: Tensor, penalty: Tensor, negatives: int) -> Tensor:
    """The minimiser of the logistic objective for each query, `[B, D]`, by Newton steps.

    Args:
        history: Item indices.
        vector_ND: All item vectors.
        offset_N: What an item's score is before the person's part.
        penalty: l, above 0, for each history item, `[D]` or `[B, D]`.
        negatives: K, as in training.
    """
    stand_in = torch.arange(0, len(vector_ND), max(1, -(-len(vector_ND) // NEGATIVES)))
    people = zip(_rows(history.values, history), _lengths(history) * penalty, strict=True)
    return torch.stack([_newton(seen, stand_in, vector_ND, offset_N, l_D, negatives) for seen, l_D in people])


def _lengths(history: Ragged) -> Tensor:
    """L as a column; 1 for an empty history, so that its solution, 0, is unique."""
    return history.lengths.clamp(min=1).unsqueeze(1)


def _rows(values: Tensor, history: Ragged) -> tuple[Tensor, ...]:
    """The values of each history."""
    return torch.split(values, history.lengths.tolist())  # type: ignore[no-untyped-call, no-any-return]


def _newton(seen: Tensor, others: Tensor, vector_ND: Tensor, offset_N: Tensor, penalty_D: Tensor, k: int) -> Tensor:
    others = others[~torch.isin(others, seen)]
    items = torch.cat([seen, others])
    label = torch.cat([torch.ones(len(seen)), torch.zeros(len(others))])
    weight = torch.where(label > 0, 1.0, k * len(seen) / max(len(others), 1))
    q, offset, person = vector_ND[items], offset_N[items], torch.zeros_like(penalty_D)
    for _ in range(STEPS):
        chance = torch.sigmoid(offset + q @ person)
        slope = q.T @ (weight * (chance - label)) + 2 * penalty_D * person
        curve = q.T @ ((weight * chance * (1 - chance)).unsqueeze(1) * q) + torch.diag(2 * penalty_D)
        person = person - solve(curve.unsqueeze(0), slope.unsqueeze(0)).squeeze(0)
    return person
