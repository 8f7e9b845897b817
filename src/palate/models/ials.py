"""iALS: implicit alternating least squares in its frequency-scaled form.

score(u, i) = <w_u, h_i>
minimises  sum_observed (1 - s)^2 + alpha * sum_all s^2
           + reg * sum_u (|I_u| + alpha * N)^nu |w_u|^2 + reg * sum_i (|U_i| + alpha * M)^nu |h_i|^2

(Hu, Koren, Volinsky 2008; Rendle et al. 2021, "Revisiting the performance of iALS on item recommendation benchmarks").
With one side fixed the other is a ridge regression for each row: in the rounds a few steps of conjugate gradients from
the answer before (see `palate.models.conjugate`), in the end, for the users, the exact solution. A history is folded in
by the same exact regression, so a known user and the same history asked anonymously get equal scores.

Legend: B rows, L history length, D dim, N items, M users.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.base import Model
from palate.models.conjugate import Regressions
from palate.models.normal_equations import normal_equations, solve
from palate.training.loop import Epoch, Job


@dataclass(frozen=True, kw_only=True)
class IALSConfig:
    """Settings of `ials`."""

    dim: int = 64
    """Width of the vectors; larger is better where there is data for it."""
    alpha: float = 0.1
    """Weight of all pairs against the observed ones."""
    reg: float = 0.01
    """L2 on the vectors; interacts with alpha, so tune both."""
    nu: float = 1.0
    """How L2 grows with a row's frequency: 0 not at all, 1 in proportion."""
    iterations: int = 16
    """Rounds of solving users, then items."""
    init: float = 0.1
    """Standard deviation of the first vectors, before division by sqrt(dim)."""

    def __post_init__(self) -> None:
        check(
            self, dim=self.dim >= 1, alpha=self.alpha > 0, reg=self.reg >= 0, nu=0 <= self.nu <= 1,
            iterations=self.iterations >= 1, init=self.init > 0,
        )  # fmt: skip


class IALS(Model):
    """Implicit alternating least squares, frequency-scaled; strong once alpha and reg are tuned."""

    Config = IALSConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    user: Tensor
    item: Tensor

    def __init__(self, config: IALSConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: IALSConfig = config
        self.register_buffer("user", torch.zeros(spec.n_users, config.dim))
        self.register_buffer("item", torch.zeros(spec.n_items, config.dim))

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        order, offsets = data.by_item
        audiences = Ragged(torch.from_numpy(data.user[order].astype("int64")), torch.from_numpy(offsets))
        self.user.zero_()
        self.item.normal_(0, self.config.init / self.config.dim**0.5, generator=job.rng)
        users = Regressions(data.histories, data.n_items, self.config.dim)
        items = Regressions(audiences, data.n_users, self.config.dim)
        for _ in range(self.config.iterations):
            self.user = users.improve(self.user, self.item, *self._penalty(users.lengths, self.item))
            self.item = items.improve(self.item, self.user, *self._penalty(items.lengths, self.user))
        self.user = self.solved(data.histories, self.item)
        return []

    def _penalty(self, lengths: Tensor, fixed_ND: Tensor) -> tuple[Tensor, Tensor]:
        """What all pairs and L2 add to the systems: `[D, D]` for every row, and a multiple of I for each, `[rows]`."""
        config = self.config
        strength = config.reg * (lengths + config.alpha * len(fixed_ND)).pow(config.nu)
        return config.alpha * (fixed_ND.T @ fixed_ND), strength + 1e-8

    def solved(self, rows: Ragged, fixed_ND: Tensor) -> Tensor:
        """The best vector of each row, given the vectors of its members, `[rows, D]`."""
        shared_DD, strength = self._penalty(rows.lengths, fixed_ND)
        out = torch.zeros(len(rows), self.config.dim)
        for block, gram_BDD, right_BD in normal_equations(rows, fixed_ND):
            gram_BDD += shared_DD
            gram_BDD.diagonal(dim1=1, dim2=2).add_(strength[block].unsqueeze(1))
            out[block] = solve(gram_BDD, right_BD)
        return out

    def _score(self, queries: Queries) -> Tensor:
        return self.query_factors(queries) @ self.item.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.query_factors(queries) @ self.item[item_I].T

    def _parts(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return self.parts(queries, self.item, item), 0.0

    def parts(self, queries: Queries, item_ND: Tensor, item: int) -> Tensor:
        """What each item of one history adds to an item's score, `[T]`.

        Args:
            queries: One, folded in.
            item_ND: Vectors of the items, those that came later after this model's own.
            item: The item.
        """
        # The solution is linear in the history's vectors, given their system.
        member_TD = item_ND[queries.history.values]
        shared_DD, strength_1 = self._penalty(queries.history.lengths, item_ND)
        system_DD = member_TD.T @ member_TD + shared_DD + strength_1 * torch.eye(self.config.dim)
        return member_TD @ solve(system_DD.unsqueeze(0), item_ND[item].unsqueeze(0))[0]

    def people(self, queries: Queries, item_ND: Tensor) -> Tensor:
        """w_u, `[B, D]`: as trained for a known user, else folded in.

        Args:
            queries: Who asks.
            item_ND: Vectors of the items, those that came later after this model's own.
        """
        vectors_BD = self.user[queries.user.clamp(min=0)]
        unknown = (queries.user < 0).nonzero().squeeze(1)
        if len(unknown):
            history = queries.history.take(unknown)
            # All of what came later counts in the fold-in only where somebody has it.
            strange = bool((history.values >= self.spec.n_items).any())
            vectors_BD[unknown] = self.solved(history, item_ND if strange else self.item)
        return vectors_BD

    def item_vectors(self) -> Tensor:
        return self.item

    def item_factors(self) -> Tensor:
        return self.item

    def query_factors(self, queries: Queries) -> Tensor:
        return self.people(queries, self.item)
