"""What is to be expected of new users with few likes: what is popular, moved by what their likes say.

score(u, i) = z(popularity)_i + <w_u, z_i> / d
w_u         = argmin_w sum_j (a - <w, z_j>)^2 + v |w|^2            over the likes j of u
z_i         = L' y_i,  L L' = C, the covariance of the vectors x of training's people about their mean m

That is a Gaussian process: the vector of somebody new is taken for a draw from N(m, C), each like for a look at
<x - m, y_j>, which is a with noise of variance v (Rasmussen and Williams 2006, equation 2.25). v is the mean of |z_j|^2
over training's rows, times NOISE, and a is LIKE times what these rows' scores exceed the mean person's by on average.
d, the deviation of <m, y_i> over the items, brings both parts to one unit, in which popularity, within what somebody
said of themselves, stands for <m, y_i>.

Training's own fold-in knows nothing of C, and takes what a person has not had yet for dislike: with one like it ranks
worse than popularity. This ranks better from the first like on (benchmarks/results/cold_users.md). NOISE and
LIKE were chosen on three draws of valid people of MovieLens-1M, among 0.3 to 3 and 1 to 8.

Legend: B queries, N items, M people of a block, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.models.base import Model
from palate.models.layers import sum_rows
from palate.models.normal_equations import normal_equations, solve

NOISE, LIKE = 1.0, 4.0
"""Factors of v and a."""
PEOPLE = 2**15
"""Vectors in memory at once."""


class NewUsers(nn.Module):
    """How training's people differ, as a model of factors sees it.

    Args:
        dim: Width of its vectors.

    Attributes:
        root: L, float32 `[D, D]`.
        noise: v.
        shift: a / d; 0 before anything was learned, when likes say nothing.
    """

    root: Tensor
    noise: Tensor
    shift: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("root", torch.zeros(dim, dim))
        self.register_buffer("noise", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    @torch.no_grad()
    def learn(self, model: Model, data: Dataset) -> None:
        """Set all of it from the people of the training data.

        Args:
            model: Fitted to `data`; has `item_factors`.
            data: The training rows.
        """
        item_ND = _items(model).double()
        people, histories = torch.from_numpy(data.active_users), data.histories
        count, size, dim = max(len(people), 1), max(len(data), 1), item_ND.shape[1]
        sum_D = torch.zeros(dim, dtype=torch.float64)
        outer_DD = torch.zeros(dim, dim, dtype=torch.float64)
        given = 0.0
        for block in people.split(PEOPLE):  # type: ignore[no-untyped-call]
            person_MD = model.query_factors(data.queries(block.numpy(), model.spec)).double()
            sum_D += person_MD.sum(0)
            outer_DD += person_MD.T @ person_MD
            given += float((person_MD * sum_rows(item_ND, histories.take(block))).sum())
        mean_D = sum_D / count
        covariance_DD = outer_DD / count - mean_D.outer(mean_D)
        # Where people differ in fewer directions than D, a little on the diagonal keeps the root from failing.
        least = 1e-9 * float(outer_DD.diagonal().mean()) / count + 1e-12
        root_DD = torch.linalg.cholesky(covariance_DD + least * torch.eye(dim, dtype=torch.float64))
        share_N = torch.from_numpy(data.item_counts).double() / size
        usual_N = item_ND @ mean_D
        surplus, deviation = given / size - float(share_N @ usual_N), float(usual_N.std(correction=0))
        self.root.copy_(root_DD)
        self.noise.fill_(NOISE * float(share_N @ (item_ND @ root_DD).square().sum(1)))
        self.shift.fill_(LIKE * surplus / deviation if surplus > 0 and deviation > 0 else 0.0)

    @torch.no_grad()
    def moved(self, model: Model, history: Ragged) -> Tensor:
        """What likes add to standardised popularity, float32 `[B, N]`; zeros for an empty history.

        Args:
            model: That given to `learn`, or the same with new items.
            history: The likes, indices of its items.
        """
        item_ND = _items(model)
        noise_DD = self.noise * torch.eye(len(self.root))
        person_BD = torch.zeros(len(history), len(self.root))
        for block, gram_BDD, right_BD in normal_equations(history, item_ND):
            w_BD = solve(self.root.T @ gram_BDD @ self.root + noise_DD, right_BD @ self.root)
            person_BD[block] = w_BD @ self.root.T
        return self.shift * (person_BD @ item_ND.T)


def _items(model: Model) -> Tensor:
    """Vectors of the items."""
    vectors_ND = model.item_factors()
    assert vectors_ND is not None  # the caller has looked
    return vectors_ND
