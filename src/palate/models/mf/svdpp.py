"""SVD++: matrix factorization of ratings that also learns from which items a user rated and, optionally, from when.

prediction(u, i, t) = b + b_u + b_i + <q_i, p_u + |N(u)|^(-1/2) sum_(j in N(u)) y_j> + e(u, i, t)

N(u) are the items of u's history, whatever the ratings (Koren 2008, "Factorization meets the neighborhood"). e is 0
without `time`, and with it `palate.models.mf.time_effects` (Koren 2009, "Collaborative filtering with temporal
dynamics").

loss = mean over ratings of (r - prediction)^2 + sum over vectors v of reg * n^reg_power * |v|^2 / ratings

n is the number of ratings that v is in; y_j counts 1 / |N(u)| in each rating of a user who has j. Rendle, Zhang, Koren
2019, "On the difficulty of evaluating baselines", show how strong this family is when it is set up with care.

N(u) are training rows and, when a question is asked, the history of the query; it never holds a row that is judged. A
user whom the model has never seen is folded in: the sum over y comes from the history, p_u and b_u from a ridge
regression on its ratings (`palate.models.mf.fold_in`). An item that stands twice in a history counts twice in both.

Legend: B queries, N items, P ratings, R distinct users, J distinct items, D dim, T history items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.base import GradientModel
from palate.models.layers import sum_rows
from palate.models.mf.fold_in import history_ratings, l2_share, l2_shares, mean_rating, ridge
from palate.models.mf.time_effects import TimeCells, TimeEffects, TimeShares
from palate.training import losses
from palate.training.loop import FitContext, Loss


@dataclass(frozen=True, kw_only=True)
class SVDppConfig:
    """Settings of `svdpp`."""

    dim: int = 64
    """Width of user and item vectors."""
    init: float = 0.02
    """Standard deviation of the initial vectors' entries."""
    reg: float = 1.2
    """L2 of vectors; its weight grows with the number n of ratings that a vector is in."""
    bias_reg: float = 0.5
    """L2 of biases; its weight grows with n, too."""
    reg_power: float = 0.5
    """The weight of the L2 is n ** reg_power: 1 is the same for every rating, 0 the same for every vector."""
    time: bool = False
    """Whether to learn effects of the time of a rating; needs times."""
    time_reg: float = 25.0
    """L2 of each effect of time."""
    item_bins: int = 30
    """Periods of the training time in each of which an item has its own bias."""
    sessions: int = 16
    """Sessions, a day or more apart, in each of which a user has their own bias."""

    def __post_init__(self) -> None:
        check(
            self,
            **{name: getattr(self, name) >= 1 for name in ("dim", "item_bins", "sessions")},
            **{name: getattr(self, name) >= 0 for name in ("init", "reg", "bias_reg", "time_reg")},
            reg_power=0 <= self.reg_power <= 1,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class SVDppContext(FitContext):
    """What training needs of the data.

    Attributes:
        user_share, item_share: Weight of each user's and each item's L2 in one rating.
        time_shares: Likewise for the effects of time, if the model has them.
    """

    user_share: Tensor
    item_share: Tensor
    time_shares: TimeShares | None


@dataclass(frozen=True, eq=False)
class RatingBatch:
    """A batch of ratings, and the histories of the users who gave them.

    Attributes:
        user, item: int64 `[P]`.
        rating: float32 `[P]`.
        user_row: The row of `histories` that is the user's, int64 `[P]`.
        histories: Item indices of the batch's distinct users, R rows.
        time_cells: Cells of the effects of time, if the model has them.
    """

    user: Tensor
    item: Tensor
    rating: Tensor
    user_row: Tensor
    histories: Ragged
    time_cells: TimeCells | None = None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Tensor) -> RatingBatch:
        """Some of the ratings."""
        user_R, row_P = torch.unique(self.user_row[rows], return_inverse=True)
        cells = None if self.time_cells is None else self.time_cells.take(rows)
        histories = self.histories.take(user_R)
        return RatingBatch(self.user[rows], self.item[rows], self.rating[rows], row_P, histories, cells)


class SVDpp(GradientModel):
    """Matrix factorization that also learns from which items were rated and, with `time`, from when."""

    Config = SVDppConfig
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    remedy = "without times leave `time` off; without ratings use mf with a ranking loss"
    loss_name = losses.UNITS["mse"]
    bias: Tensor

    def __init__(self, config: SVDppConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: SVDppConfig = config
        self.user = nn.Embedding(spec.n_users, config.dim)
        self.item = nn.Embedding(spec.n_items, config.dim)
        self.implicit = nn.Embedding(spec.n_items, config.dim)
        self.user_bias = nn.Embedding(spec.n_users, 1)
        self.item_bias = nn.Embedding(spec.n_items, 1)
        self.time = TimeEffects(spec, config.item_bins, config.sessions) if config.time else None
        if config.time:
            self.needs = self.needs | {"time"}
        self.register_buffer("bias", torch.zeros(()))

    def init_from_data(self, data: Dataset) -> None:
        for table in (self.user, self.item, self.implicit):
            nn.init.normal_(table.weight, std=self.config.init)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)
        self.bias.fill_(mean_rating(data))
        if self.time is not None:
            self.time.init_from_data(data)

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> SVDppContext:
        users, items = l2_shares(data, self.config.reg_power)
        times = None if self.time is None else self.time.l2_shares(data)
        return SVDppContext(data, user_share=users, item_share=items, time_shares=times)

    def batches(self, context: SVDppContext, rng: torch.Generator, size: int) -> Iterator[RatingBatch]:
        data = context.data
        assert data.rating is not None  # `needs` holds rating
        if not len(data):
            return
        # For a validation part: what was known before. What is judged is never in a history.
        histories = (data if data.history is None else data.history).histories
        user, item, rating = (torch.from_numpy(column) for column in (data.user, data.item, data.rating))
        time = None if data.timestamp is None else torch.from_numpy(data.timestamp)
        for rows in torch.split(torch.randperm(len(data), generator=rng), size):
            user_P, item_P = user[rows].long(), item[rows].long()
            user_R, row_P = torch.unique(user_P, return_inverse=True)
            cells = None if self.time is None or time is None else self.time.cells(user_P, item_P, time[rows])
            yield RatingBatch(user_P, item_P, rating[rows], row_P, histories.take(user_R), cells)

    def loss(self, batch: RatingBatch, context: SVDppContext) -> Loss:
        config = self.config
        p_PD, q_PD = self.user(batch.user), self.item(batch.item)
        b_u, b_i = self.user_bias(batch.user).squeeze(1), self.item_bias(batch.item).squeeze(1)
        y_RD, penalty = self._implicit(batch, context.item_share)
        # Not `y_RD[batch.user_row]`: with several threads its gradient adds up in an order that changes between runs.
        score_P = self.bias + b_u + b_i + (q_PD * (p_PD + y_RD.index_select(0, batch.user_row))).sum(1)
        for vector_PD, bias_P, share_P in (
            (p_PD, b_u, context.user_share[batch.user]),
            (q_PD, b_i, context.item_share[batch.item]),
        ):
            square_P = config.reg * vector_PD.square().sum(1) + config.bias_reg * bias_P.square()
            penalty = penalty + (share_P * square_P).mean()
        if self.time is not None and batch.time_cells is not None and context.time_shares is not None:
            effect_P, square_P = self.time.with_squares(batch.time_cells, context.time_shares)
            score_P, penalty = score_P + effect_P, penalty + config.time_reg * square_P.mean()
        shown = losses.mse(score_P, batch.rating)
        return Loss(shown + penalty, shown)

    def _implicit(self, batch: RatingBatch, item_share: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over y of each user of a batch, `[R, D]`, and the L2 of y; each row of y is fetched once."""
        history = batch.histories
        seen_N = torch.zeros(self.spec.n_items, dtype=torch.bool, device=history.values.device)
        seen_N[history.values] = True
        item_J = seen_N.nonzero().squeeze(1)
        place_T = (seen_N.cumsum(0) - 1)[history.values]
        y_JD = self.implicit(item_J)
        length_R = history.lengths.clamp(min=1).float()
        sum_RD = sum_rows(y_JD, Ragged(place_T, history.offsets)) * length_R.rsqrt().unsqueeze(1)
        share_R = torch.bincount(batch.user_row, minlength=len(history)) / length_R
        count_J = torch.bincount(place_T, weights=share_R[history.row_of_value], minlength=len(item_J))
        square_J = self.config.reg * item_share[item_J] * y_JD.square().sum(1)
        return sum_RD, (count_J * square_J).sum() / len(batch)

    def _score(self, queries: Queries) -> Tensor:
        vector_BD, b_B1 = self._users(queries)
        scores_BN = self.bias + b_B1 + self.item_bias.weight.T + vector_BD @ self.item.weight.T
        if self.time is None:
            return scores_BN
        effect_B1, effect_BN = self.time.of_all_items(self._known(queries), self._asked_at(queries))
        return scores_BN + effect_B1 + effect_BN

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        vector_BD, b_B1 = self._users(queries)
        b_P = b_B1[row_P, 0] + self.item_bias.weight[item_P, 0]
        score_P = self.bias + b_P + (vector_BD[row_P] * self.item.weight[item_P]).sum(1)
        if self.time is None:
            return score_P
        cells = self.time.cells(self._known(queries)[row_P], item_P, self._asked_at(queries)[row_P])
        effect_P: Tensor = self.time(cells)
        return score_P + effect_P

    def _known(self, queries: Queries) -> Tensor:
        """Users whose effects of time were trained, `[B]`; -1 for all others."""
        return queries.user.masked_fill(~queries.trained, -1)

    def _asked_at(self, queries: Queries) -> Tensor:
        """The time of each question, `[B]`; defaults to the end of training."""
        assert self.time is not None
        return self.time.end.expand(len(queries)) if queries.asked_at is None else queries.asked_at

    def _users(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """The vector of each query, `[B, D]`, the sum over y included, and its bias, `[B, 1]`."""
        row_BE = self.represent(queries)
        return row_BE[:, :-1] + self._implicit_sum(queries.history), row_BE[:, -1:]

    def _implicit_sum(self, history: Ragged) -> Tensor:
        """|N|^(-1/2) times the sum over y, `[B, D]`."""
        return sum_rows(self.implicit.weight, history) * history.lengths.clamp(min=1).float().rsqrt().unsqueeze(1)

    def _known_users(self, user_B: Tensor) -> Tensor:
        return torch.cat([self.user.weight[user_B], self.user_bias.weight[user_B]], dim=1)

    def _fold_in(self, queries: Queries) -> Tensor:
        """p with the bias as last entry, `[B, D + 1]`: a regression on what the other terms leave of the ratings."""
        history, item_T, row_T = queries.history, queries.history.values, queries.history.row_of_value
        vector_NE = torch.cat([self.item.weight, torch.ones_like(self.item_bias.weight)], dim=1)
        implicit_T = (self._implicit_sum(history)[row_T] * self.item.weight[item_T]).sum(1)
        rating_T = history_ratings(queries, float(self.bias), self.spec.rating_scale)
        target_T = rating_T - self.bias - self.item_bias.weight[item_T, 0] - implicit_T
        if self.time is not None:
            time_T = self._asked_at(queries)[row_T] if queries.times is None else queries.times
            effect_T: Tensor = self.time(self.time.cells(torch.full_like(item_T, -1), item_T, time_T))
            target_T = target_T - effect_T
        reg_E = torch.tensor([self.config.reg] * self.config.dim + [self.config.bias_reg]).to(item_T.device)
        penalty_BE = l2_share(history.lengths.unsqueeze(1), self.config.reg_power) * reg_E.clamp(min=1e-6)
        return ridge(history, vector_NE, target_T, penalty_BE)

    def item_vectors(self) -> Tensor:
        return self.item.weight.detach()
