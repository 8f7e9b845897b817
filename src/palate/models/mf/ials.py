"""iALS: implicit alternating least squares in its frequency-scaled form.

score(u, i) = <w_u, h_i>
minimises  sum_observed c (1 - s)^2 + a * sum_all s^2
           + r * sqrt(N / M) * sum_u ((|I_u| + a * N) / (m + a * N))^nu |w_u|^2
           + r * sqrt(M / N) * sum_i ((|U_i| + a * M) / (n + a * M))^nu |h_i|^2
a          = alpha * sqrt(density),  r = reg * (sqrt(m) + sqrt(n))

c is the sample weight of an interaction, 1 without weights. |I_u| and |U_i| are sums of c, m and n their means over
users and over items; density is m / N (Hu, Koren, Volinsky 2008; Rendle et al. 2021, "Revisiting the performance of
iALS on item recommendation benchmarks").

This is the objective of Rendle et al., with two settings that mean the same on data of every shape. Theirs are a and
r / sqrt((m + a N) (n + a M)). The penalties of both sides together shrink the singular values of the interaction matrix
by about r, and drop the directions below it, so r is measured in the singular value of noise
(`palate.models.choose.noise_level`). The weight of all pairs grows with the square root of the density: tuned values on
sets whose densities differ by a factor of a thousand lie on that line (docs/decisions/23-defaults.md). Settings that
are left open (None) are chosen on the validation part, from a few rounds for each candidate.

With one side fixed the other is a ridge regression for each row. Each round takes a few steps of conjugate gradients
from the previous solution (`palate.models.mf.conjugate`); after the last round the users are solved exactly. A history
is folded in by the same exact regression, so a known user and the same history asked anonymously get equal scores.
Histories have no weights: each item counts c = 1, and an item that stands twice in a history counts c = 2.

Legend: B queries, R rows, T members of all rows, D dim, N items, M users.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import ArtifactError
from palate.models.base import Model
from palate.models.choose import Value, around, choose, noise_level
from palate.models.mf.conjugate import Regressions, total_weights
from palate.models.mf.normal_equations import normal_equations, solve
from palate.training.loop import Epoch, FitContext, TrainRun

RULE: dict[str, Value] = {"reg": 0.4, "alpha": 1.0}
"""Settings without a validation part."""
LADDERS = {"reg": around(0.4, 2**0.5, 6), "alpha": around(1.0, 2, 5)}
"""Settings that a search tries."""
SEARCH_ITERATIONS = 6
"""Rounds of each candidate."""


@dataclass(frozen=True, kw_only=True)
class IALSConfig:
    """Settings of `ials`."""

    dim: int = 64
    """Width of the vectors; more is better if there is enough data."""
    alpha: float | None = None
    """Weight of all pairs, relative to the observed ones, in units of the square root of the density. Defaults to the
    best on valid, or 1 without it."""
    reg: float | None = None
    """L2 of the vectors, in units of the singular value of noise. Defaults to the best on valid, or 0.4 without it."""
    nu: float = 1.0
    """How the L2 grows with a row's frequency: 0 not at all, 1 in proportion."""
    iterations: int = 16
    """Rounds, each of which solves users, then items."""
    init: float = 0.1
    """Standard deviation of the initial vectors' entries, before division by sqrt(dim)."""

    def __post_init__(self) -> None:
        check(
            self, dim=self.dim >= 1, alpha=self.alpha is None or self.alpha > 0, reg=self.reg is None or self.reg >= 0,
            nu=0 <= self.nu <= 1, iterations=self.iterations >= 1, init=self.init > 0,
        )  # fmt: skip


class IALS(Model):
    """Implicit alternating least squares, frequency-scaled; ranks well once alpha and reg are tuned."""

    Config = IALSConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    divided = True
    config: IALSConfig
    user: Tensor
    item: Tensor
    strength: Tensor

    def __init__(self, config: IALSConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        self.register_buffer("user", torch.zeros(spec.n_users, config.dim))
        self.register_buffer("item", torch.zeros(spec.n_items, config.dim))
        # a, and the factor of (|I_u| + a N)^nu in the penalty of users, and of items.
        self.register_buffer("strength", torch.ones(3))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        job = job.together(self, FitContext(data))
        own = job.share(data.n_users)
        order, offsets = data.by_item
        # 32-bit indices, which `Regressions` needs: those of the users are the column of the data itself.
        users_of_items = Ragged(torch.from_numpy(data.user[order]), torch.from_numpy(offsets))
        items_of_users = Ragged(torch.from_numpy(data.item), torch.from_numpy(data.offsets))
        weight_T = None if data.weight is None else torch.from_numpy(np.ascontiguousarray(data.weight))
        by_item_T = None if weight_T is None else weight_T[torch.from_numpy(order)]
        users = Regressions(items_of_users, data.n_items, self.config.dim, weight_T, own)
        items = Regressions(users_of_items, data.n_users, self.config.dim, by_item_T, job.share(data.n_items))

        def fit(iterations: int) -> None:
            self.strength = self._strength(data, float(users.totals.sum()))
            self.user.zero_()
            self.item.normal_(0, self.config.init / self.config.dim**0.5)
            if job.start is not None and job.start.weights:
                iterations = job.start.rounds(iterations)
                self.user[: len(job.start.model.user)] = job.start.model.user
                self.item[: len(job.start.model.item)] = job.start.model.item
            for _ in range(iterations):
                penalty = self._penalty(users.totals, self.item, 1)
                self.user = job.total(partial(users.improve, self.user, self.item, *penalty))
                penalty = self._penalty(items.totals, self.user, 2)
                self.item = job.total(partial(items.improve, self.item, self.user, *penalty))
            self.user = job.total(partial(self._solve_own, data, own, weight_T))

        choose(self, job, RULE, LADDERS, partial(fit, min(SEARCH_ITERATIONS, self.config.iterations)))
        fit(self.config.iterations)
        return []

    def _strength(self, data: Dataset, total: float) -> Tensor:
        """See the buffer `strength`; float32 `[3]`."""
        config, users, items = self.config, data.n_users, data.n_items
        assert config.alpha is not None
        assert config.reg is not None
        alpha = config.alpha * (max(total, 1.0) / (users * items)) ** 0.5
        penalty, balance = config.reg * noise_level(data), (items / users) ** 0.5
        by_user, by_item = total / users + alpha * items, total / items + alpha * users
        return torch.tensor([alpha, penalty * balance / by_user**config.nu, penalty / balance / by_item**config.nu])

    def check_buffers(self) -> None:
        if not bool((self.strength >= 0).all()):
            raise ArtifactError("strength holds negative numbers")

    def _penalty(self, totals_R: Tensor, fixed_ND: Tensor, side: Literal[1, 2]) -> tuple[Tensor, Tensor]:
        """What all pairs and the L2 add to the systems: `[D, D]` for every row, and a multiple of I for each, `[R]`.

        Args:
            totals_R: Sum of the weights of each row.
            fixed_ND: Vectors of the other side.
            side: 1 for users, 2 for items.
        """
        alpha = self.strength[0]
        strength_R = self.strength[side] * (totals_R + alpha * len(fixed_ND)).pow(self.config.nu)
        return alpha * (fixed_ND.T @ fixed_ND), strength_R + 1e-8

    def _solve(self, rows: Ragged, fixed_ND: Tensor, weight_T: Tensor | None = None) -> Tensor:
        """The exact vector of each row, `[R, D]`. Of `fixed_ND`, later items count only for rows that have them."""
        shared_DD, strength_R = self._penalty(total_weights(rows, weight_T), fixed_ND[: self.spec.n_items], 1)
        out_RD = fixed_ND.new_zeros(len(rows), self.config.dim)
        for block, gram_BDD, right_BD in normal_equations(rows, fixed_ND, weight_T=weight_T):
            gram_BDD += shared_DD
            gram_BDD.diagonal(dim1=1, dim2=2).add_(strength_R[block].unsqueeze(1))
            out_RD[block] = solve(gram_BDD, right_BD)
        return out_RD

    def _solve_own(self, data: Dataset, own: slice, weight_T: Tensor | None) -> Tensor:
        """The exact vectors of some users, zeros for all others, `[M, D]`."""
        rows, place = data.histories.rows(own.start, own.stop), data.histories.offsets
        weight_T = None if weight_T is None else weight_T[place[own.start] : place[own.stop]]
        found_RD = self._solve(rows, self.item, weight_T)
        if len(found_RD) == data.n_users:
            return found_RD
        out_MD = found_RD.new_zeros(data.n_users, self.config.dim)
        out_MD[own] = found_RD
        return out_MD

    def _known_users(self, user_B: Tensor) -> Tensor:
        return self.user[user_B]

    def _fold_in(self, queries: Queries) -> Tensor:
        return self.fold_in(queries.history, self.item)

    def fold_in(self, history: Ragged, item_ND: Tensor) -> Tensor:
        """The vectors of users known only by their histories, `[B, D]`.

        Args:
            history: Item indices.
            item_ND: Vectors of the items: this model's, and after them those of any later items. A later item counts
                only in the histories that hold it, so that adding items changes no other answer.
        """
        return self._solve(history, item_ND)

    def contributions(self, history: Ragged, item_ND: Tensor, item: int) -> Tensor:
        """What each item of one history adds to the score of an item, `[T]`.

        Args:
            history: One row.
            item_ND: As in `fold_in`.
            item: The item that is scored.
        """
        # The solution is linear in the history's vectors, given their system.
        member_TD = item_ND[history.values]
        shared_DD, strength_1 = self._penalty(history.lengths, item_ND[: self.spec.n_items], 1)
        system_DD = member_TD.T @ member_TD + shared_DD
        system_DD.diagonal().add_(strength_1)
        return member_TD @ solve(system_DD.unsqueeze(0), item_ND[item].unsqueeze(0))[0]

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return self.contributions(queries.history, self.item, item), 0.0

    def _score(self, queries: Queries) -> Tensor:
        return self.represent(queries) @ self.item.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.represent(queries) @ self.item[item_I].T

    def item_vectors(self) -> Tensor:
        return self.item

    def item_factors(self) -> Tensor:
        return self.item

    def query_factors(self, queries: Queries) -> Tensor:
        return self.represent(queries)
