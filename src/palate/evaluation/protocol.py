"""Protocol: everything that two results must share to be comparable; and the candidate sets it can name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from palate.config import check, from_dict, to_dict
from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError
from palate.evaluation.metrics import MetricLike, metric_names, parse

METRICS_BY_DEFAULT = (
    "ndcg@10",
    "recall@10",
    "precision@10",
    "hit@10",
    "map@10",
    "mrr@10",
    "coverage@10",
    "gini@10",
    "novelty@10",
    "rmse",
    "mae",
)
SAMPLED_PER_TARGET = 99
"""Sampled items for each target under `uni99`."""
MAX_KEYS_PER_BLOCK = 2**21
"""(user, item) keys of the sampler held at once."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How models are evaluated. Results can be compared only if the hashes of their protocols are equal.

    Rating metrics need a model that predicts ratings and a part with ratings; otherwise they are omitted.
    """

    data: str = ""
    """Fingerprint of the evaluated rows and of the histories before them; set by `evaluate`."""
    filters: tuple[str, ...] = ()
    """Filters that were applied before the split, in words."""
    split: str = ""
    """Name in `palate.data.splits.SPLITS`."""
    split_options: tuple[tuple[str, Any], ...] = ()
    """Options of the split, including its seed, as (name, value)."""
    candidates: Literal["full", "warm", "new", "uni99", "given"] = "full"
    """Items that compete with the targets: all (full); only items with, or only items without, training interactions
    (warm, new), which are then the only targets; 99 unseen items sampled for each target (uni99); predefined lists
    (given)."""
    given: str = ""
    """Fingerprint of the predefined candidate lists; set by `evaluate`."""
    vectors: str = ""
    """Fingerprint of the item vectors that diversity uses, if they are passed to `evaluate`; set by `evaluate`."""
    metrics: tuple[str, ...] = METRICS_BY_DEFAULT
    """Names such as ndcg@10; `palate.evaluation.metrics.metric_names` gives the names of functions."""
    exclude_seen: bool = True
    """Whether lists exclude the items of the user's history."""
    min_rating: float | None = None
    """Lowest rating of a target of the lists; RMSE and MAE use all rows."""
    seed: int = 0
    """Seed of sampled candidates and of the resamples behind intervals."""

    def __post_init__(self) -> None:
        check(self, metrics=len(self.metrics) > 0, seed=self.seed >= 0)
        parse(self.metrics)

    @cached_property
    def hash(self) -> str:
        """The first 12 hex digits of the SHA-256 of the protocol as canonical JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Protocol:
        """From the values of `to_dict`, strictly.

        Args:
            values: Field -> value; fields without a value have their defaults.

        Raises:
            ConfigError: A key or a metric is unknown, or a value has the wrong type.
        """
        return from_dict(cls, values)


def complete_protocol(
    protocol: Protocol,
    part: Dataset,
    metrics: Sequence[MetricLike] | None,
    candidates: Any,
    item_vectors: Tensor | None,
) -> tuple[Protocol, Ragged | None]:
    """The protocol with everything set that depends on the data, and the predefined candidate lists, if any.

    Args:
        protocol: The protocol as it was asked for.
        part: The part to evaluate on.
        metrics, candidates, item_vectors: As in `evaluate`; None keeps what the protocol says.

    Raises:
        DataError: The part has no rows or no history, or lacks ratings that the protocol needs.
        ConfigError: Candidate lists are missing.
    """
    if not len(part):
        raise DataError("the part has no rows; hold out a larger share in `split`")
    if part.history is None:
        raise DataError(
            "this data is not a part of a split, so the histories of its users are missing; evaluate on the valid or "
            "test part that `split` returns"
        )
    if protocol.min_rating is not None and part.rating is None:
        raise DataError(f"min_rating = {protocol.min_rating:g} needs ratings, and this part has none")
    lists = candidates if isinstance(candidates, Ragged) else None
    if lists is not None and len(lists) != part.n_users:
        raise DataError(f"got {len(lists)} candidate lists for a part of {part.n_users} users; pass one for each user")
    kind = protocol.candidates if candidates is None else "given" if lists is not None else candidates
    if kind == "given" and lists is None:
        raise ConfigError(
            "candidates = 'given' needs candidate lists; pass evaluate(..., candidates=given_candidates(part, frame))"
        )
    protocol = replace(
        protocol,
        data=fingerprint(part, part.history),
        metrics=protocol.metrics if metrics is None else metric_names(metrics),
        candidates=kind,
        given="" if lists is None else fingerprint(lists.values, lists.offsets),
        vectors="" if item_vectors is None else fingerprint(item_vectors),
    )
    return protocol, lists


def fingerprint(*parts: Dataset | Tensor | None) -> str:
    """A short hash of data sets or tensors."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Dataset):
            digest.update(part.fingerprint.encode())
        elif part is not None:
            digest.update(part.contiguous().numpy().data)
        digest.update(b"\x1f")
    return digest.hexdigest()[:16]


def given_candidates(part: Dataset, frame: pl.DataFrame, column: str = "negatives") -> Ragged:
    """Predefined candidate lists from a table, for `evaluate(..., candidates=...)`.

    Args:
        part: The part to evaluate on.
        frame: `user_id` and a column of item ids, either one id or a list of ids in each row. Rows of users who have no
            rows in `part` are ignored.
        column: Name of the column of item ids.

    Returns:
        One row of item indices for each user of `part`; items that `part` does not know are dropped.

    Raises:
        DataError: A column is missing.
    """
    missing = [name for name in ("user_id", column) if name not in frame.columns]
    if missing:
        raise DataError(
            f"candidate lists need the columns {' and '.join(map(repr, missing))}; this table has "
            f"{', '.join(frame.columns)}"
        )
    long = frame.select("user_id", column)
    if isinstance(long.schema[column], (pl.List, pl.Array)):
        long = long.explode(column)
    user, item = part.users.index(long["user_id"]), part.items.index(long[column].rename("item_id"))
    known = (user >= 0) & (item >= 0)
    user, item = user[known], item[known]
    order = np.argsort(user, kind="stable")
    lengths = np.bincount(user, minlength=part.n_users)
    return Ragged.from_lengths(torch.from_numpy(item[order]), torch.from_numpy(lengths))


def sampled_candidates(users: Tensor, excluded: Ragged, count: Tensor, n_items: int, seed: int) -> Ragged:
    """Distinct items, uniform among those that are not excluded; the sample of a user does not depend on other users.

    Each (user, item) has a fixed pseudo-random key. A user's sample is the allowed items with the highest keys.

    Args:
        users: User indices, int64 `[B]`.
        excluded: Items that must not be drawn, B rows of indices below `n_items`.
        count: Number of items to draw for each user, int64 `[B]`; all allowed items if there are fewer.
        n_items: Items to draw from are 0 .. n_items - 1.
        seed: Seed of the keys.
    """
    picked, lengths = [], []
    step = max(1, MAX_KEYS_PER_BLOCK // n_items)
    for start in range(0, len(users), step):
        rows = torch.arange(start, min(start + step, len(users)))
        pair = users[rows].numpy()[:, None] * n_items + np.arange(n_items)
        keys = torch.from_numpy((_mix(pair, seed) >> np.uint64(1)).astype(np.int64))
        part = excluded.take(rows)
        keys.view(-1)[part.row_of_value * n_items + part.values] = -1
        best = keys.topk(min(int(count[rows].max()), n_items))
        wanted = (best.values >= 0) & (torch.arange(best.values.shape[1]) < count[rows, None])
        picked.append(best.indices[wanted])
        lengths.append(wanted.sum(1))
    if not picked:
        return Ragged.empty(0)
    return Ragged.from_lengths(torch.cat(picked), torch.cat(lengths))


def _mix(numbers: np.ndarray, seed: int) -> np.ndarray:
    """The finaliser of SplitMix64: pseudo-random uint64 (Steele, Lea, Flood, OOPSLA 2014)."""
    x = numbers.astype(np.uint64) + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
