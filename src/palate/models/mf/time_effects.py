"""How the time of a rating changes it: three learned effects, each 0 where training had no rows.

e(u, i, t) = c_(i, bin(t)) + c_(u, session(t)) + a_u dev_u(t),  dev_u(t) = sign(t - t_u) |t - t_u|^0.4

- Bins are periods with equally many training ratings: items come into and go out of fashion.
- Sessions of a user are a day or more apart: they capture moods, and who else used the account.
- t_u is the mean time of the user's ratings, in days: a user's standards drift (Koren 2009, section 4).

At a time outside a user's sessions, the session effect and dev_u have their means over the user's training rows: moods
do not last, and a drift extrapolated over months predicts worse than no drift. Unknown users have item effects only.

Legend: P ratings, B queries, N items, S sessions of a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from palate.data.dataset import Dataset, Spec
from palate.models.buffers import check_ascending, check_range

DAY = 86_400
"""Seconds."""
NEVER = 2**62
"""Start of a session that does not exist, in seconds."""
DRIFT_POWER = 0.4
"""Exponent of the distance in days (Koren 2009)."""


@dataclass(frozen=True, eq=False)
class TimeCells:
    """Which effects apply to ratings.

    Attributes:
        user: int64 `[P]`; -1 for an unknown user.
        session: Row of the session table, int64 `[P]`; -1 outside the user's sessions.
        item: Row of the table of item bins, int64 `[P]`.
        drift: dev, float32 `[P]`.
    """

    user: Tensor
    session: Tensor
    item: Tensor
    drift: Tensor

    def take(self, rows: Tensor) -> TimeCells:
        """Those of some of the ratings."""
        return TimeCells(self.user[rows], self.session[rows], self.item[rows], self.drift[rows])


@dataclass(frozen=True, eq=False)
class TimeShares:
    """Weight of the L2 of each effect in one rating: 1 / number of ratings that share it, float32.

    Attributes:
        session, item, drift: One number for each row of the table of that name.
    """

    session: Tensor
    item: Tensor
    drift: Tensor


class TimeEffects(nn.Module):
    """The effects. `init_from_data` finds bins and sessions; training learns the rest.

    Args:
        spec: Numbers of users and items.
        bins: Periods of the training time.
        sessions: S; later sessions of a user are merged into the last one.
    """

    bin_edges: Tensor
    session_start: Tensor
    session_end: Tensor
    mean_time: Tensor
    session_share: Tensor
    mean_drift: Tensor
    end: Tensor

    def __init__(self, spec: Spec, bins: int, sessions: int) -> None:
        super().__init__()
        self.bins, self.sessions = bins, sessions
        self.session = nn.Embedding(spec.n_users * sessions, 1)
        self.item = nn.Embedding(spec.n_items * bins, 1)
        self.drift = nn.Embedding(spec.n_users, 1)
        self.register_buffer("bin_edges", torch.zeros(bins - 1, dtype=torch.int64))
        self.register_buffer("session_start", torch.full((spec.n_users, sessions), NEVER))
        self.register_buffer("session_end", torch.full((spec.n_users, sessions), -NEVER))
        self.register_buffer("mean_time", torch.zeros(spec.n_users, dtype=torch.int64))
        # Over the user's training rows: the share of each session, and the mean of dev.
        self.register_buffer("session_share", torch.zeros(spec.n_users, sessions))
        self.register_buffer("mean_drift", torch.zeros(spec.n_users))
        self.register_buffer("end", torch.zeros((), dtype=torch.int64))

    def check_buffers(self) -> None:
        """Check times and their order; see `palate.models.buffers`."""
        for name in ("bin_edges", "session_start", "session_end", "mean_time", "end"):
            check_range(name, getattr(self, name), -NEVER, NEVER)
        check_ascending("bin_edges", self.bin_edges)
        check_ascending("session_start", self.session_start)

    def init_from_data(self, data: Dataset) -> None:
        """Find bins, sessions and mean times of training rows, and set all effects to 0."""
        assert data.timestamp is not None  # `needs` holds time
        time, user = data.timestamp, data.user.astype(np.int64)
        for table in (self.session, self.item, self.drift):
            nn.init.zeros_(table.weight)
        shares = np.arange(1, self.bins) / self.bins
        self.bin_edges.copy_(torch.from_numpy(np.quantile(time, shares, method="lower").astype(np.int64)))
        self.end.fill_(int(time.max()))
        ratings = np.maximum(np.bincount(user, minlength=data.n_users), 1)
        earliest = time.min()
        mean_time = np.bincount(user, weights=time - earliest, minlength=data.n_users) / ratings
        self.mean_time.copy_(torch.from_numpy(mean_time.astype(np.int64) + earliest))
        number = _session_numbers(user, time, self.sessions)
        start, end = (np.full((data.n_users, self.sessions), value) for value in (NEVER, -NEVER))
        np.minimum.at(start, (user, number), time)
        np.maximum.at(end, (user, number), time)
        self.session_start.copy_(torch.from_numpy(start))
        self.session_end.copy_(torch.from_numpy(end))
        cells, rows = self._cells_of(data), torch.from_numpy(ratings)
        counts = torch.bincount(cells.session, minlength=self.session_share.numel()).view_as(self.session_share)
        self.session_share.copy_(counts / rows.unsqueeze(1))
        self.mean_drift.copy_(torch.bincount(cells.user, weights=cells.drift, minlength=data.n_users) / rows)

    def l2_shares(self, data: Dataset) -> TimeShares:
        """The weight of each effect's L2 in one rating of the data."""
        cells = self._cells_of(data)

        def share(cell_P: Tensor, table: nn.Embedding) -> Tensor:
            return 1 / torch.bincount(cell_P[cell_P >= 0], minlength=table.num_embeddings).clamp(min=1)

        return TimeShares(
            share(cells.session, self.session), share(cells.item, self.item), share(cells.user, self.drift)
        )

    def _cells_of(self, data: Dataset) -> TimeCells:
        assert data.timestamp is not None  # `needs` holds time
        return self.cells(*(torch.from_numpy(c.astype(np.int64)) for c in (data.user, data.item, data.timestamp)))

    def cells(self, user_P: Tensor, item_P: Tensor, time_P: Tensor) -> TimeCells:
        """Which effects apply to ratings of these users, -1 for unknown ones, and items at these times."""
        known_P, row_P = user_P >= 0, user_P.clamp(min=0)
        session_P = (self.session_start[row_P] <= time_P.unsqueeze(1)).sum(1) - 1
        end_P = self.session_end[row_P].gather(1, session_P.clamp(min=0).unsqueeze(1)).squeeze(1)
        inside_P = known_P & (session_P >= 0) & (time_P < end_P + DAY)
        days_P = (time_P - self.mean_time[row_P]).float() / DAY
        drift_P = torch.where(inside_P, days_P.sign() * days_P.abs().pow(DRIFT_POWER), self.mean_drift[row_P])
        return TimeCells(
            user=user_P,
            session=torch.where(inside_P, row_P * self.sessions + session_P, -1),
            item=item_P * self.bins + self._bin(time_P),
            drift=torch.where(known_P, drift_P, 0.0),
        )

    def forward(self, cells: TimeCells) -> Tensor:
        """e of each rating, `[P]`."""
        item_P, session_P, slope_P = self._effects(cells)
        return item_P + session_P + slope_P * cells.drift

    def with_squares(self, cells: TimeCells, shares: TimeShares) -> tuple[Tensor, Tensor]:
        """e of each rating, `[P]`, and the squares of its effects, each times its share, `[P]`."""
        item_P, session_P, slope_P = self._effects(cells)
        square_P = shares.session[cells.session.clamp(min=0)] * session_P.square()
        square_P = square_P + shares.item[cells.item] * item_P.square()
        square_P = square_P + shares.drift[cells.user.clamp(min=0)] * slope_P.square()
        return item_P + session_P + slope_P * cells.drift, square_P

    def of_all_items(self, user_B: Tensor, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """e of all items for each user and time, in two parts: of the user, `[B, 1]`, and of the items, `[B, N]`."""
        cells = self.cells(user_B, torch.zeros_like(user_B), time_B)
        _, session_B, slope_B = self._effects(cells)
        item_BN = self.item.weight.view(-1, self.bins).T[self._bin(time_B)]
        return (session_B + slope_B * cells.drift).unsqueeze(1), item_BN

    def _effects(self, cells: TimeCells) -> tuple[Tensor, Tensor, Tensor]:
        """Item effect, session effect and slope of the drift of each rating, `[P]` each."""
        inside_P, user_P = cells.session >= 0, cells.user.clamp(min=0)
        session_P = self.session(cells.session.clamp(min=0)).squeeze(1)
        if not bool(inside_P.all()):  # never in training, whose rows make the sessions
            mean_P = (self.session.weight.view_as(self.session_share)[user_P] * self.session_share[user_P]).sum(1)
            session_P = torch.where(inside_P, session_P, torch.where(cells.user >= 0, mean_P, 0.0))
        return self.item(cells.item).squeeze(1), session_P, self.drift(user_P).squeeze(1)

    def _bin(self, time_P: Tensor) -> Tensor:
        return torch.bucketize(time_P.contiguous(), self.bin_edges)


def _session_numbers(user: np.ndarray, time: np.ndarray, most: int) -> np.ndarray:
    """The session of each row, counted from 0 for each user, below `most`; rows are ordered by user, then time."""
    first_row = np.diff(user, prepend=-1) > 0
    new_session = first_row | (np.diff(time, prepend=time[0]) >= DAY)
    number = np.cumsum(new_session)
    within: np.ndarray = number - np.repeat(number[first_row], np.bincount(user)[user[first_row]])
    return within.clip(max=most - 1)
