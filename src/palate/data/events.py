"""How the rows of a data set are to be read: `Events`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Events:
    """How the rows of a data set are to be read.

    Attributes:
        repeats: Several rows of one user and item are events of their own and were kept (`duplicates="keep"`). Models
            that read order learn from all of them, the others from `Dataset.without_repeats`.
        sessions: The users are sessions: histories without a person behind them. Queries never name a known user
            (`Queries.user` is -1), so that every list comes from the history.
        successive: Of a held-out part: each row is a question of its own, asked of all rows of its user before it. By
            default, each user is one question, and all their rows in the part are its targets.
    """

    repeats: bool = False
    sessions: bool = False
    successive: bool = False
