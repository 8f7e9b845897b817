"""Fold-in: the vector of a user the model has never seen, from a history, with the item vectors as they were trained.

Both functions minimise the objective of one user as a function of that user's vector p alone:

ridge:     sum_h (t_h - <p, q_h>)^2 + L sum_d l_d p_d^2
logistic:  sum_h log(1 + exp(-s_h)) + (K L / N) sum_i log(1 + exp(s_i)) + L sum_d l_d p_d^2,  s_i = o_i + <p, q_i>

with h over the L items of the history and i over the N items outside it. They are the training objectives of squared
error and of binary cross-entropy with K negatives, so a training user's history gives the vector that training was
heading for (Rendle et al. 2020; Hu, Koren, Volinsky 2008 for the same step within ALS).

An item that stands twice in a history counts twice, as two rows of training data do.

Legend: B queries, N items, T history items of all queries, D dim.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.data.ragged import MaskedHistories, Ragged
from palate.models.mf.normal_equations import cholesky, normal_equations, solve

MAX_NEGATIVES = 2048
"""Items, evenly spaced, that represent the catalogue in `logistic`: a fold-in costs the same for any catalogue."""
NEWTON_STEPS = 8
"""Most Newton steps; from zero, five reach float32 precision on nearly all data tried."""
MAX_CONJUGATE_STEPS, PRECONDITIONERS = 40, 4
"""Most steps by conjugate gradients, and how many of them renew the preconditioner."""
NEWTON_TOLERANCE, CONJUGATE_TOLERANCE = 1e-4, 1e-6
"""Relative size of a step at which the solution is found; after a Newton step the error is about its square."""
MAX_VALUES_PER_BLOCK = 2**22
"""Size of the item vectors times the queries of a block of Newton steps: 16 MB."""
MAX_SCORES_PER_BLOCK = 2**19
"""Items times the queries of a block of conjugate gradients: 2 MB, which stay in a processor's cache."""


def ridge(history: Ragged, vector_ND: Tensor, target_T: Tensor, penalty: Tensor) -> Tensor:
    """The ridge solution for each query, `[B, D]`; zeros for an empty history.

    Args:
        history: Item indices.
        vector_ND: All item vectors.
        target_T: The value that `<p, q>` should have for each history item.
        penalty: l, above 0, for each history item, `[D]` or `[B, D]`.
    """
    strength_BD = _lengths(history) * penalty
    out_BD = torch.zeros_like(strength_BD)
    for block, gram, right in normal_equations(history, vector_ND, target_T):
        out_BD[block] = solve(gram + torch.diag_embed(strength_BD[block]), right)
    return out_BD


def logistic(
    history: Ragged, vector_ND: Tensor, offset_N: Tensor, penalty: Tensor, negatives: int, known: int | None = None
) -> Tensor:
    """The minimiser of the logistic objective for each query, `[B, D]`, by Newton steps.

    Args:
        history: Item indices.
        vector_ND: All item vectors.
        offset_N: o, the part of an item's score that does not depend on the user.
        penalty: l, above 0, for each history item, `[D]` or `[B, D]`.
        negatives: K, as in training.
        known: Number of items, the first ones, that training knew. Later items are never negatives, so that adding them
            changes no answer. Defaults to all items.
    """
    size, dim = vector_ND.shape
    known = size if known is None else known
    candidate_N = torch.zeros(size, device=vector_ND.device)
    candidate_N[: known : -(-known // MAX_NEGATIVES)] = 1
    strength_BD = _lengths(history) * penalty
    parts_of_one, out_BD = isinstance(history, MaskedHistories) and len(history) > 1, torch.empty_like(strength_BD)
    minimise, most = (
        (_conjugate_gradients, MAX_SCORES_PER_BLOCK) if parts_of_one else (_newton, MAX_VALUES_PER_BLOCK // dim)
    )
    step = max(1, most // min(size, MAX_NEGATIVES))
    for start in range(0, len(history), step):
        rows = slice(start, min(start + step, len(history)))
        seen = history.rows(rows.start, rows.stop)
        out_BD[rows] = minimise(seen, vector_ND, offset_N, candidate_N, strength_BD[rows], negatives)
    return out_BD


def history_ratings(queries: Queries, mean: float, scale: tuple[float, float] | None) -> Tensor:
    """The ratings of the histories, `[T]`; if there are none, each item counts as liked: halfway from mean to top."""
    if queries.ratings is not None:
        return queries.ratings
    liked = (mean + (scale[1] if scale else mean)) / 2
    return torch.full(queries.history.values.shape, liked, device=queries.history.values.device)


def l2_share(pairs_X: Tensor, power: float) -> Tensor:
    """The weight of a vector's L2 in each of its n pairs, `[X]`; over all of them the weight is n ** power."""
    return pairs_X.clamp(min=1).double().pow(power - 1).float()


def l2_shares(data: Dataset, power: float, negatives: int = 0) -> tuple[Tensor, Tensor]:
    """`l2_share` of all users and of all items; a sample weight of w counts as w interactions.

    Args:
        data: The training data.
        power: Exponent of the number of pairs.
        negatives: K, negatives of each positive, drawn from all items alike.
    """
    user_weights = np.bincount(data.user, weights=data.weight, minlength=data.n_users)
    drawn = negatives * user_weights.sum() / data.n_items
    users, items = torch.from_numpy(user_weights * (1 + negatives)), torch.from_numpy(data.item_weights + drawn)
    return l2_share(users, power), l2_share(items, power)


def mean_rating(data: Dataset) -> float:
    """The mean rating of the data, weighted by its sample weights."""
    assert data.rating is not None  # `needs` holds rating
    rating = data.rating.astype(np.float64)
    return float(np.average(rating, weights=None if data.weight is None else data.weight.astype(np.float64)))


def _lengths(history: Ragged) -> Tensor:
    """L as a column; 1 for an empty history, so that its solution, 0, is unique."""
    return history.lengths.clamp(min=1).unsqueeze(1)


def _newton(
    seen: Ragged, vector_ND: Tensor, offset_N: Tensor, candidate_N: Tensor, strength_BD: Tensor, negatives: int
) -> Tensor:
    """The minimisers of a block of queries."""
    item_M, weight_BM, label_BM = _weighted_items(seen, candidate_N, negatives)
    q_MD, offset_M, p_BD = vector_ND[item_M], offset_N[item_M], torch.zeros_like(strength_BD)
    left_B = torch.arange(len(p_BD), device=p_BD.device)  # Each query stops by itself: others change no answer.
    for _ in range(NEWTON_STEPS):
        p_LD, weight_LM, strength_LD = p_BD[left_B], weight_BM[left_B], strength_BD[left_B]
        chance_LM = torch.sigmoid(offset_M + p_LD @ q_MD.T)
        slope_LD = (weight_LM * (chance_LM - label_BM[left_B])) @ q_MD + 2 * strength_LD * p_LD
        curve_LMD = (weight_LM * chance_LM * (1 - chance_LM)).unsqueeze(2) * q_MD
        change_LD = solve(q_MD.T @ curve_LMD + torch.diag_embed(2 * strength_LD), slope_LD)
        p_BD[left_B] = p_LD - change_LD
        left_B = left_B[change_LD.abs().amax(1) > NEWTON_TOLERANCE * p_BD[left_B].abs().amax(1)]
        if not len(left_B):
            break
    return p_BD


@torch.no_grad()
def _conjugate_gradients(
    seen: Ragged, vector_ND: Tensor, offset_N: Tensor, candidate_N: Tensor, strength_BD: Tensor, negatives: int
) -> Tensor:
    """As `_newton`, for parts of one history, by conjugate gradients (Polak and Ribiere 1969).

    The preconditioner is the mean curvature of the objectives per item, which is much the same for all parts; a
    curvature of its own for each part costs far more than all else, and explanations ask about hundreds of parts.
    """
    item_M, weight_BM, label_BM = _weighted_items(seen, candidate_N, negatives)
    weight_BM, strength_BD = weight_BM / _lengths(seen), 2 * strength_BD / _lengths(seen)
    target_BM, q_MD = weight_BM * label_BM, vector_ND[item_M]
    p_BD, score_BM = torch.zeros_like(strength_BD), offset_N[item_M].repeat(len(seen), 1)
    before_BD, direction_BD, before_B = torch.zeros_like(p_BD), torch.zeros_like(p_BD), p_BD.new_ones(len(p_BD))
    found_BD, tiny = torch.empty_like(p_BD), torch.finfo().tiny
    # From here on B are the queries that are still on their way; `row_B` are their places in the block.
    row_B = torch.arange(len(p_BD), device=p_BD.device)
    for step in range(MAX_CONJUGATE_STEPS):
        chance_BM = score_BM.sigmoid()
        pull_BM = weight_BM * chance_BM
        slope_BD = (pull_BM - target_BM) @ q_MD + strength_BD * p_BD
        curve_BM = torch.addcmul(pull_BM, pull_BM, chance_BM, value=-1)
        if step < PRECONDITIONERS:
            shared_DD = q_MD.T @ (curve_BM.mean(0).unsqueeze(1) * q_MD) + torch.diag(strength_BD.mean(0))
            factor_DD = cholesky(shared_DD)
        newton_BD = torch.cholesky_solve(slope_BD.T, factor_DD).T
        here_B = (slope_BD * newton_BD).sum(1)
        beta_B = (((slope_BD - before_BD) * newton_BD).sum(1) / before_B).clamp(min=0.0)
        direction_BD = beta_B.unsqueeze(1) * direction_BD - newton_BD
        change_BM = direction_BD @ q_MD.T
        bend_B = torch.linalg.vecdot(curve_BM.mul_(change_BM), change_BM)
        bend_B += (strength_BD * direction_BD.square()).sum(1)
        size_B1 = (-(slope_BD * direction_BD).sum(1) / bend_B.clamp(min=tiny)).unsqueeze(1)
        step_BD = size_B1 * direction_BD
        p_BD, score_BM = p_BD + step_BD, score_BM.addcmul_(size_B1, change_BM)
        before_BD, before_B = slope_BD, here_B.clamp(min=tiny)
        moves_B = step_BD.abs().amax(1) > CONJUGATE_TOLERANCE * p_BD.abs().amax(1)
        if 2 * int(moves_B.sum()) <= len(row_B):
            found_BD[row_B] = p_BD
            if not bool(moves_B.any()):
                return found_BD
            row_B, before_B, p_BD, before_BD, direction_BD, strength_BD, score_BM, weight_BM, target_BM = (
                each[moves_B] for each in (row_B, before_B, p_BD, before_BD, direction_BD, strength_BD, score_BM,
                                           weight_BM, target_BM)
            )  # fmt: skip
    found_BD[row_B] = p_BD
    return found_BD


def _weighted_items(seen: Ragged, candidate_N: Tensor, negatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Items of any query or candidate `[M]`, their weights in each objective, and their labels, `[B, M]` each."""
    item_M = torch.unique(torch.cat([candidate_N.nonzero().squeeze(1), seen.values]))
    cell = seen.row_of_value, torch.searchsorted(item_M, seen.values)
    count_BM = torch.zeros(len(seen), len(item_M), device=item_M.device)
    count_BM.index_put_(cell, torch.ones_like(seen.values, dtype=count_BM.dtype), accumulate=True)
    label_BM = (count_BM > 0).float()
    free_BM = (1 - label_BM) * candidate_N[item_M]
    share_B = negatives * seen.lengths / free_BM.sum(1).clamp(min=1)
    return item_M, count_BM + share_B.unsqueeze(1) * free_BM, label_BM
