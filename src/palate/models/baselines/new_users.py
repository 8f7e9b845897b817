"""Fold-in of new users with a short history, by a Gaussian process: popularity, shifted by what the history tells.

score(u, i) = z(popularity)_i + <w_u, z_i> / d
w_u         = argmin_w sum_j (a - <w, z_j>)^2 + v |w|^2            over the items j of u's history
z_i         = L' y_i,  L L' = C, the covariance of the training users' vectors x about their mean m

The vector of a new user is a draw from N(m, C), and each history item j is an observation of <x - m, y_j> with the
value a and noise of variance v (Rasmussen and Williams 2006, equation 2.25). v is NOISE times the mean of |z_j|^2 over
the training rows. a is LIKE times the mean amount by which the scores of these rows exceed the scores of the mean user.
d, the standard deviation of <m, y_i> over the items, brings both terms to the same unit; popularity (given the user's
attributes, if known) stands for <m, y_i>.

The fold-in of a factor model does not know C, and it treats all items outside the history as negatives: for users with
one item it ranks worse than popularity. This fold-in ranks better from the first item on
(benchmarks/results/cold_users.md). NOISE and LIKE were chosen on the validation users of three splits of MovieLens-1M,
from 0.3 to 3 and from 1 to 8. A repeated item is a repeated observation.

Legend: B queries, N items, M users of a block, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.models.base import Model
from palate.models.layers import sum_rows
from palate.models.mf.normal_equations import normal_equations, solve

NOISE = 1.0
"""Factor of v."""
LIKE = 4.0
"""Factor of a."""
USERS_PER_BLOCK = 2**15
"""Users whose vectors are in memory at once."""


class GaussianProcessFoldIn(nn.Module):
    """The distribution of the training users' vectors in a factor model, and the fold-in of new users under it.

    Attributes:
        root: L, float32 `[D, D]`; empty before `learn`.
        noise: v.
        shift: a / d; 0 before `learn`, when histories shift nothing.
    """

    root: Tensor
    noise: Tensor
    shift: Tensor

    dynamic_buffers = ("root",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("root", torch.zeros(0, 0))
        self.register_buffer("noise", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    @torch.no_grad()
    def learn(self, model: Model, data: Dataset) -> None:
        """Estimate the distribution from the training users.

        Args:
            model: Fitted to `data`; has `item_factors`.
            data: The training rows. Sample weights count where the formula takes means over rows.
        """
        item_ND = _item_factors(model).double()
        users, histories = torch.from_numpy(data.active_users), data.histories
        weight = None if data.weight is None else torch.from_numpy(data.weight).double()
        count, total, dim = max(len(users), 1), float(data.item_weights.sum()) or 1.0, item_ND.shape[1]
        sum_D = torch.zeros(dim, dtype=torch.float64)
        outer_DD = torch.zeros(dim, dim, dtype=torch.float64)
        score_sum = 0.0
        for block in users.split(USERS_PER_BLOCK):  # type: ignore[no-untyped-call]
            user_MD = model.query_factors(data.queries(block.numpy(), model.spec)).double()
            sum_D += user_MD.sum(0)
            outer_DD += user_MD.T @ user_MD
            factor = None if weight is None else weight[histories.positions(block)]
            score_sum += float((user_MD * sum_rows(item_ND, histories.take(block), factor)).sum())
        mean_D = sum_D / count
        covariance_DD = outer_DD / count - mean_D.outer(mean_D)
        # The users may span fewer than D directions: a small ridge keeps the Cholesky factorisation from failing.
        ridge = 1e-9 * float(outer_DD.diagonal().mean()) / count + 1e-12
        root_DD = torch.linalg.cholesky(covariance_DD + ridge * torch.eye(dim, dtype=torch.float64))
        share_N = torch.from_numpy(data.item_weights) / total
        score_of_mean_N = item_ND @ mean_D
        surplus = score_sum / total - float(share_N @ score_of_mean_N)
        deviation = float(score_of_mean_N.std(correction=0))
        self.root = root_DD.to(self.root).contiguous()
        self.noise.fill_(NOISE * float(share_N @ (item_ND @ root_DD).square().sum(1)))
        self.shift.fill_(LIKE * surplus / deviation if surplus > 0 and deviation > 0 else 0.0)

    @torch.no_grad()
    def score_shift(self, model: Model, history: Ragged) -> Tensor:
        """What histories add to standardised popularity, float32 `[B, N]`; zeros for an empty history.

        Args:
            model: The model given to `learn`, or the same model with new items.
            history: Item indices of `model`.
        """
        item_ND = _item_factors(model)
        if not len(self.root):
            return item_ND.new_zeros(len(history), len(item_ND))
        noise_DD = self.noise * torch.eye(len(self.root), device=self.root.device)
        user_BD = self.root.new_zeros(len(history), len(self.root))
        for block, gram_BDD, right_BD in normal_equations(history, item_ND):
            w_BD = solve(self.root.T @ gram_BDD @ self.root + noise_DD, right_BD @ self.root)
            user_BD[block] = w_BD @ self.root.T
        return self.shift * (user_BD @ item_ND.T)


def _item_factors(model: Model) -> Tensor:
    factors_ND = model.item_factors()
    assert factors_ND is not None  # The caller has checked.
    return factors_ND
