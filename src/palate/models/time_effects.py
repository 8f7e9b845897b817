"""What the time of a rating does to it: three effects, all learned, all 0 where nothing is known.

e(u, i, t) = c_(i, bin(t)) + c_(u, session(t)) + a_u dev_u(t),  dev_u(t) = sign(t - t_u) |t - t_u|^0.4

bin(t) is one of the parts that hold equally many training ratings: an item comes into and goes out of fashion.
session(t) is a sitting of the user, apart from others by a day or more: moods, and who else held the remote control.
t_u is the mean time of the user's ratings, the difference in days: standards drift (Koren 2009, section 4). At a time
in none of a user's sessions both are what they are in the mean over the user's training rows: moods do not last, and
a drift that is drawn on for months is worse than none. An unknown user has neither.

Legend: P ratings, B queries, N items, S sessions of a user, M user-session cells, K item-bin cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from palate.data.dataset import Dataset, Spec

DAY = 86_400
NEVER = 2**62
"""Start of a session that is not there."""
POWER = 0.4
"""Of the distance in days (Koren 2009)."""


@dataclass(frozen=True, eq=False)
class When:
    """Where in time ratings stand.

    Attributes:
        user: int64 `[P]`; -1 for an unknown one.
        session: User-session cells, int64 `[P]`; -1 for none.
        item: Item-bin cells, int64 `[P]`.
        drift: dev, float32 `[P]`.
    """

    user: Tensor
    session: Tensor
    item: Tensor
    drift: Tensor


class TimeEffects(nn.Module):
    """The effects; `learn` finds bins and sessions, training the rest.

    Args:
        spec: Numbers of users and items.
        bins: Parts of the training time.
        sessions: S; what a user has more is part of the last.
    """

    edge: Tensor
    first: Tensor
    last: Tensor
    middle: Tensor
    share: Tensor
    usual: Tensor
    end: Tensor
    session_weight: Tensor
    item_weight: Tensor
    drift_weight: Tensor

    def __init__(self, spec: Spec, bins: int, sessions: int) -> None:
        super().__init__()
        self.bins, self.sessions = bins, sessions
        self.session = nn.Embedding(spec.n_users * sessions, 1)
        self.item = nn.Embedding(spec.n_items * bins, 1)
        self.drift = nn.Embedding(spec.n_users, 1)
        self.register_buffer("edge", torch.zeros(bins - 1, dtype=torch.int64))
        self.register_buffer("first", torch.full((spec.n_users, sessions), NEVER))
        self.register_buffer("last", torch.full((spec.n_users, sessions), -NEVER))
        self.register_buffer("middle", torch.zeros(spec.n_users, dtype=torch.int64))
        # Of the user's rows: the share in each session, and the mean of dev.
        self.register_buffer("share", torch.zeros(spec.n_users, sessions))
        self.register_buffer("usual", torch.zeros(spec.n_users))
        self.register_buffer("end", torch.zeros((), dtype=torch.int64))
        # 1 / ratings of each cell, for the L2; only training reads it, so it is not saved.
        for name, size in (
            ("session", spec.n_users * sessions),
            ("item", spec.n_items * bins),
            ("drift", spec.n_users),
        ):
            self.register_buffer(f"{name}_weight", torch.ones(size), persistent=False)

    def learn(self, data: Dataset) -> None:
        """Find bins, sessions and mean times of training rows, and set all effects to 0."""
        assert data.timestamp is not None  # `needs` holds time
        time, user = data.timestamp, data.user.astype(np.int64)
        for table in (self.session, self.item, self.drift):
            nn.init.zeros_(table.weight)
        shares = np.arange(1, self.bins) / self.bins
        self.edge.copy_(torch.from_numpy(np.quantile(time, shares, method="lower").astype(np.int64)))
        self.end.fill_(int(time.max()))
        ratings = np.maximum(np.bincount(user, minlength=data.n_users), 1)
        start = time.min()
        middle = np.bincount(user, weights=time - start, minlength=data.n_users) / ratings
        self.middle.copy_(torch.from_numpy(middle.astype(np.int64) + start))
        # Rows are ordered by user, then time: a session begins with its user, or a day after the row before.
        begins = np.diff(user, prepend=-1) > 0
        apart = begins | (np.diff(time, prepend=time[0]) >= DAY)
        number = np.cumsum(apart)
        number = np.minimum(number - np.repeat(number[begins], np.bincount(user)[user[begins]]), self.sessions - 1)
        first, last = (np.full((data.n_users, self.sessions), value) for value in (NEVER, -NEVER))
        np.minimum.at(first, (user, number), time)
        np.maximum.at(last, (user, number), time)
        self.first.copy_(torch.from_numpy(first))
        self.last.copy_(torch.from_numpy(last))
        cells = self.cells(*(torch.from_numpy(column.astype(np.int64)) for column in (user, data.item, time)))
        for index, weight in (
            (cells.session, self.session_weight),
            (cells.item, self.item_weight),
            (cells.user, self.drift_weight),
        ):
            weight.copy_(1 / torch.bincount(index, minlength=len(weight)).clamp(min=1))
        rows = torch.from_numpy(ratings)
        inside = torch.bincount(cells.session, minlength=self.share.numel()).view_as(self.share)
        self.share.copy_(inside / rows.unsqueeze(1))
        self.usual.copy_(torch.bincount(cells.user, weights=cells.drift, minlength=data.n_users) / rows)

    def cells(self, user_P: Tensor, item_P: Tensor, time_P: Tensor) -> When:
        """Where ratings stand; -1 is an unknown user."""
        known_P, row_P = user_P >= 0, user_P.clamp(min=0)
        first_PS, last_PS = self.first[row_P], self.last[row_P]
        session_P = (first_PS <= time_P.unsqueeze(1)).sum(1) - 1
        latest_P = last_PS.gather(1, session_P.clamp(min=0).unsqueeze(1)).squeeze(1)
        within_P = known_P & (session_P >= 0) & (time_P < latest_P + DAY)
        days_P = (time_P - self.middle[row_P]).float() / DAY
        drift_P = days_P.sign() * days_P.abs().pow(POWER)
        return When(
            user=user_P,
            session=torch.where(within_P, row_P * self.sessions + session_P, -1),
            item=item_P * self.bins + torch.bucketize(time_P.contiguous(), self.edge),
            drift=torch.where(within_P, drift_P, torch.where(known_P, self.usual[row_P], torch.zeros(()))),
        )

    def forward(self, when: When) -> tuple[Tensor, Tensor]:
        """e of each rating, `[P]`, and the squares of what it is made of, each by the ratings that share it, `[P]`."""
        there_P, session_P, user_P = when.session >= 0, when.session.clamp(min=0), when.user.clamp(min=0)
        session_b = self.session(session_P).squeeze(1)
        if not bool(there_P.all()):  # never in training, whose rows make the sessions
            each_PS = self.session.weight.view_as(self.share)[user_P]
            usual_P = torch.where(when.user >= 0, (each_PS * self.share[user_P]).sum(1), torch.zeros(()))
            session_b = torch.where(there_P, session_b, usual_P)
        item_b, slope = self.item(when.item).squeeze(1), self.drift(user_P).squeeze(1)
        square_P = self.session_weight[session_P] * session_b.square() + self.item_weight[when.item] * item_b.square()
        square_P = square_P + self.drift_weight[user_P] * slope.square()
        return item_b + session_b + slope * when.drift, square_P

    def at_end(self, user_B: Tensor) -> tuple[Tensor, Tensor]:
        """e at the end of the training data in two parts, of users `[B]` and of items `[N]`."""
        items_N = torch.arange(self.item.num_embeddings // self.bins)
        of_items = self.cells(torch.full_like(items_N, -1), items_N, self.end.expand(len(items_N)))
        item_N = self.item.weight[of_items.item, 0]
        of_users = self.cells(user_B, torch.zeros_like(user_B), self.end.expand(len(user_B)))
        return self(of_users)[0] - self.item.weight[of_users.item, 0], item_N
