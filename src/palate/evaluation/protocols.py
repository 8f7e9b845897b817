"""PROTOCOLS: name -> NamedProtocol, the protocols that published results use; `prepare` filters and splits data by one.

The valid part is always taken out of train, or from users who are in no other part; never out of test. Models are
therefore fitted on a tenth less data than in papers that train again on train and valid together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.data.reading.interactions import filter_interactions
from palate.data.sources import folds
from palate.data.splits.build import Split
from palate.data.splits.predefined import convert_ids, held_out_split, read_candidates
from palate.data.splits.sessions import given_sessions, read_prefixes
from palate.errors import ConfigError, DataError
from palate.evaluation.protocol import METRICS_BY_DEFAULT, Protocol, fingerprint, given_candidates

LAST_METRICS = ("ndcg@10", "hit@10", "mrr@10", "coverage@10", "gini@10")
LIST_METRICS = ("ndcg@10", "recall@10", "precision@10", "hit@10", "mrr@10", "coverage@10", "gini@10")
COLD_METRICS = ("recall@20", "ndcg@20", "hit@20", "coverage@20", "gini@20")
RATING_METRICS = ("rmse", "mae", "coverage@10", "gini@10")
MAX_HISTORY = 10
"""Longest history of a new user; the rows after that are the targets."""
MAX_HELD_OUT_USERS = 10_000
"""Users of valid, and of test, under strong-generalisation; or a tenth of all users if that is fewer."""
ML100K_SIZE = (100_000, 943, 1_682)
"""Rows, users and items of MovieLens-100K."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """Data prepared by a protocol: `evaluate(model, parts.test, protocol=protocol, candidates=candidates)`.

    Attributes:
        parts: Train, valid and test; the notes begin with the protocol and what its filters removed.
        protocol: The protocol of the evaluation, with its final hash.
        candidates: Predefined candidate lists, one row for each user of `parts.test`; None for other protocols.
    """

    parts: Split
    protocol: Protocol
    candidates: Ragged | None = None


_Parts = tuple[Split, dict[str, Any], Ragged | None]


def by_rule(named: NamedProtocol, data: Dataset, seed: int, fold: int, given: Any) -> _Parts:
    """Parts by a rule of `SPLITS` with the options of the protocol; each fold is another random draw.

    Args:
        named: The protocol.
        data: The filtered data.
        seed: Seed of the split.
        fold: Number of the fold, from 1.
        given: Not used.

    Returns:
        The parts, the options of the split that made them, and no candidates.
    """
    options = dict(named.options) | ({"seed": seed * named.folds + fold - 1} if named.seeded else {})
    return data.split(named.split, **options), options, None


def by_held_out_users(named: NamedProtocol, data: Dataset, seed: int, fold: int, given: Any) -> _Parts:
    """As `by_rule`; valid and test have as many users as in the paper, or a tenth of the users each."""
    share = min(0.1, MAX_HELD_OUT_USERS / data.n_users)
    named = replace(named, options=(*named.options, ("valid", share), ("test", share)))
    return by_rule(named, data, seed, fold, given)


def by_published_folds(named: NamedProtocol, data: Dataset, seed: int, fold: int, given: Any) -> _Parts:
    """As `by_rule`, by the published folds of MovieLens-100K or by a frame like that of `sources.folds()` (`given`)."""
    if not isinstance(given, pl.DataFrame):
        size = (len(data), data.n_users, data.n_items)
        if size != ML100K_SIZE:
            published, found = ("{:,} rows of {:,} users and {:,} items".format(*s) for s in (ML100K_SIZE, size))
            raise DataError(f"the published folds are of MovieLens-100K ({published}), and this data has {found}")
        given = folds(path=given)
    frame = convert_ids(data, given)
    if len(frame) != len(data):
        raise DataError(
            f"the folds have {len(frame):,} rows, and this data has {len(data):,}; pass a fold for each row"
        )
    options = {"column": "fold", "fold": fold, "valid": 0.1, "seed": seed}
    return data.split("predefined", parts=frame, **options), options, None


def by_held_out_file(named: NamedProtocol, data: Dataset, seed: int, fold: int, given: Any) -> _Parts:
    """Test is the rows of the file `given`, which also lists their candidates; valid is each user's last other row."""
    frame = read_candidates(given, data)
    parts = held_out_split(data, frame)
    lists = given_candidates(parts.test, frame)
    total = int(frame["negatives"].list.len().sum())
    note = f"given: {total - len(lists.values):,} of {total:,} candidates are not in this data and were dropped"
    return replace(parts, notes=(*parts.notes, note)), dict(named.options), lists


def by_given_sessions(named: NamedProtocol, data: Dataset, seed: int, fold: int, given: Any) -> _Parts:
    """Test is the sessions whose prefixes the file `given` lists, or else by the rule; valid is the latest sessions."""
    if not data.events.sessions:
        raise DataError(
            "this protocol needs sessions, and this data holds users; read it with session=... or session_gap=..."
        )
    if given is None:
        return by_rule(named, data, seed, fold, given)
    options = {name: value for name, value in named.options if name != "test"}
    return given_sessions(data, read_prefixes(given, data), **options), options, None


@dataclass(frozen=True, kw_only=True)
class NamedProtocol:
    """One entry of `PROTOCOLS`.

    Attributes:
        description: In words.
        paper: Where it was published.
        split: Name in `SPLITS`.
        options: Options of the split, without the seed.
        metrics: Names of metrics; the headline metric is the first.
        needs: What the data must provide.
        min_rating: Rows with a lower rating are removed, if the data has ratings.
        min_user, min_item: After that, users and items with fewer rows are removed, until none is left (a core).
        folds: Number of folds, or of random draws; published results are means over all.
        given: What the caller passes as `given`: candidates; or folds, which are downloaded otherwise; or held-out
            sessions, which are the latest ones otherwise.
        candidates, exclude_seen: As in `Protocol`.
        seeded: Whether the split depends on the seed.
        make_parts: Makes the parts.
    """

    description: str
    paper: str
    split: str
    options: tuple[tuple[str, Any], ...] = ()
    metrics: tuple[str, ...]
    needs: frozenset[str] = frozenset()
    min_rating: float | None = None
    min_user: int = 0
    min_item: int = 0
    folds: int = 1
    given: Literal["", "folds", "candidates", "sessions"] = ""
    candidates: Literal["full", "warm", "new"] = "full"
    exclude_seen: bool = True
    seeded: bool = True
    make_parts: Callable[[NamedProtocol, Dataset, int, int, Any], _Parts] = by_rule


PROTOCOLS: dict[str, NamedProtocol] = {
    "temporal": NamedProtocol(
        description="one point in time for all users: test is the latest tenth of the rows, valid the tenth before it",
        paper="Ji et al., TOIS 2023; Gusak et al., RecSys 2025",
        split="temporal",
        options=(("valid", 0.1), ("test", 0.1)),
        metrics=METRICS_BY_DEFAULT,
        needs=frozenset({"time"}),
        seeded=False,
    ),
    "leave-last-out": NamedProtocol(
        description="test is each user's last row, valid the row before it; all items are candidates",
        paper="Kang and McAuley, ICDM 2018, with full ranking",
        split="leave-last-out",
        options=(("valid", 1), ("test", 1)),
        metrics=LAST_METRICS,
        seeded=False,
    ),
    "temporal-last": NamedProtocol(
        description="users and items with 5 or more rows; one point in time for all users: test is each user's last "
        "row after it, asked of all rows before; valid is made in the same way of the tenth before that point",
        paper="Gusak et al., RecSys 2025: global split at the quantile 0.9, last target",
        split="temporal",
        options=(("valid", 0.09), ("test", 0.1), ("targets", "last"), ("drop_repeats", True)),
        metrics=LAST_METRICS,
        needs=frozenset({"time"}),
        min_user=5,
        min_item=5,
        seeded=False,
    ),
    "temporal-successive": NamedProtocol(
        description="as temporal-last, and each row after the point in time is a question of its own",
        paper="Gusak et al., RecSys 2025: global split at the quantile 0.9, successive targets",
        split="temporal",
        options=(("valid", 0.09), ("test", 0.1), ("targets", "successive"), ("drop_repeats", True)),
        metrics=LAST_METRICS,
        needs=frozenset({"time"}),
        min_user=5,
        min_item=5,
        seeded=False,
    ),
    "session-prefixes": NamedProtocol(
        description="each prefix of a held-out session predicts the item after it, which may be one of the session; "
        "test is a file of prefixes, or the latest tenth of the sessions, valid the latest tenth of the others",
        paper="Li et al., CIKM 2017; Wu et al., AAAI 2019, SR-GNN: their P@20 is hit@20",
        split="sessions",
        options=(("valid", 0.1), ("test", 0.1), ("drop_new_items", True)),
        metrics=("hit@20", "mrr@20", "ndcg@20", "coverage@20", "gini@20"),
        given="sessions",
        exclude_seen=False,
        seeded=False,
        make_parts=by_given_sessions,
    ),
    "strong-generalisation": NamedProtocol(
        description="ratings of 4 or more, users with 5 or more of them; valid and test are up to 10,000 users each "
        "who are not in train: 4/5 of their rows are the history, 1/5 the targets",
        paper="Liang et al., WWW 2018",
        split="strong-generalisation",
        options=(("fold_in", 0.8), ("drop_new_items", True)),
        metrics=("ndcg@100", "capped_recall@20", "capped_recall@50", "coverage@20", "gini@20"),
        min_rating=4,
        min_user=5,
        make_parts=by_held_out_users,
    ),
    "anelli": NamedProtocol(
        description="ratings of 4 or more, then the 10-core; test is a random fifth of each user's rows, rounded up, "
        "in five independent draws",
        paper="Anelli et al., UMAP 2022",
        split="per-user",
        options=(("valid", 0.08), ("test", 0.2), ("rounding", "up")),
        metrics=LIST_METRICS,
        needs=frozenset({"rating"}),
        min_rating=4,
        min_user=10,
        min_item=10,
        folds=5,
    ),
    "ncf": NamedProtocol(
        description="test is one row of each user, ranked among the 99 items of a published file; valid is each user's "
        "last other row",
        paper="He et al., WWW 2017",
        split="predefined",
        options=(("valid", "each user's last row of train"),),
        metrics=("hit@10", "ndcg@10"),
        given="candidates",
        exclude_seen=False,
        seeded=False,
        make_parts=by_held_out_file,
    ),
    "u1": NamedProtocol(
        description="the published split u1.base and u1.test of MovieLens-100K",
        paper="Berg et al., 2017, GC-MC, and others",
        split="predefined",
        metrics=RATING_METRICS,
        needs=frozenset({"rating"}),
        given="folds",
        make_parts=by_published_folds,
    ),
    "5fold": NamedProtocol(
        description="the five published folds of MovieLens-100K, u1 to u5",
        paper="Harper and Konstan, TiiS 2015",
        split="predefined",
        metrics=RATING_METRICS,
        needs=frozenset({"rating"}),
        folds=5,
        given="folds",
        make_parts=by_published_folds,
    ),
    "90-10": NamedProtocol(
        description="test is a random tenth of the ratings, valid a tenth of the others",
        paper="Sedhain et al., WWW 2015, AutoRec",
        split="random",
        options=(("valid", 0.09), ("test", 0.1)),
        metrics=RATING_METRICS,
        needs=frozenset({"rating"}),
    ),
    "80-20": NamedProtocol(
        description="test is a random fifth of the ratings, valid a tenth of the others",
        paper="Gantner et al., RecSys 2011, MyMediaLite",
        split="random",
        options=(("valid", 0.08), ("test", 0.2)),
        metrics=RATING_METRICS,
        needs=frozenset({"rating"}),
    ),
    "80-10-10": NamedProtocol(
        description="test and valid are a random tenth each of each user's rows; rows of any rating are targets",
        paper="Zhao et al., CIKM 2021, RecBole",
        split="per-user",
        options=(("valid", 0.1), ("test", 0.1)),
        metrics=LIST_METRICS,
    ),
    "new-items": NamedProtocol(
        description="a fifth of the items is not in train, half of it for valid and half for test; only new items are "
        "candidates",
        paper="Huang et al., CIKM 2023, ALDI: its cold items",
        split="new-items",
        options=(("valid", 0.1), ("test", 0.1)),
        metrics=COLD_METRICS,
        candidates="new",
    ),
    "new-items-among-all": NamedProtocol(
        description="as new-items, with a tenth of the other rows each for valid and test; all items are candidates",
        paper="Huang et al., CIKM 2023, ALDI: overall",
        split="new-items",
        options=(("valid", 0.1), ("test", 0.1), ("others", 0.1)),
        metrics=COLD_METRICS,
    ),
} | {
    f"new-users-{given}": NamedProtocol(
        description=f"a fifth of the users is not in train; the first {given} rows of each are the history, those "
        f"after the first {MAX_HISTORY} the targets",
        paper="palate: histories of 0, 1, 3 and 10 rows, with the same users and the same targets",
        split="new-users",
        options=(("valid", 0.1), ("test", 0.2), ("given", given), ("skip", MAX_HISTORY)),
        metrics=LIST_METRICS,
    )
    for given in (0, 1, 3, MAX_HISTORY)
}
PROTOCOLS |= {
    f"new-users-and-items-{given}": NamedProtocol(
        description=f"a fifth of the users and a fifth of the items are not in train, half of them for valid and half "
        f"for test; the first {given} rows of each new user with known items are the history, those after the first "
        f"{MAX_HISTORY} and all with new items the targets",
        paper="palate: new users and new items at once, with the same targets",
        split="new-users-and-items",
        options=(("valid", 0.1), ("test", 0.1), ("given", given), ("skip", MAX_HISTORY)),
        metrics=COLD_METRICS,
    )
    for given in (0, 1, 3, MAX_HISTORY)
}
"""All named protocols."""


def prepare(name: str, data: Dataset, *, seed: int = 0, fold: int | None = None, given: Any = None) -> Prepared:
    """Filter and split data by a protocol.

    Args:
        name: A key of `PROTOCOLS`.
        data: The whole data set.
        seed: Seed of the split.
        fold: Number of the fold, from 1, for protocols with folds. Defaults to the first.
        given: For `ncf`: file or frame of held-out rows and candidates
            (`palate.data.splits.predefined.read_candidates`). For `u1` and `5fold`: zip file or folder of
            MovieLens-100K, or a frame of `user_id`, `item_id` and `fold`; defaults to a download. For
            `session-prefixes`: file or frame of prefixes and targets (`palate.data.splits.sessions.read_prefixes`);
            defaults to the latest sessions.

    Raises:
        ConfigError: There is no such protocol or fold, or `given` is missing or not used.
        DataError: The data does not suit the protocol: it lacks times or ratings, is not the data the folds are of, or
            has too few rows.
    """
    named = _checked(name, data, fold, given)
    data, filters, removed = _filtered(named, data)
    parts, options, candidates = named.make_parts(named, data, seed, fold or 1, given)
    protocol = Protocol(
        data=fingerprint(parts.test, parts.test.history),
        filters=filters,
        split=named.split,
        split_options=tuple(sorted(options.items())),
        candidates=named.candidates if candidates is None else "given",
        given="" if candidates is None else fingerprint(candidates.values, candidates.offsets),
        metrics=named.metrics,
        exclude_seen=named.exclude_seen,
    )
    which = f", fold {fold or 1} of {named.folds} (published results are means over all)" if named.folds > 1 else ""
    notes = (f"protocol {name}{which}: {named.description}; as in {named.paper}", *removed, *parts.notes)
    return Prepared(parts=replace(parts, notes=notes), protocol=protocol, candidates=candidates)


def _checked(name: str, data: Dataset, fold: int | None, given: Any) -> NamedProtocol:
    """The protocol of that name, after checks of what `prepare` was asked for."""
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
    named = PROTOCOLS[name]
    faults = []
    if fold is not None and not 1 <= fold <= named.folds:
        has = f"it has folds 1 to {named.folds}" if named.folds > 1 else "it has no folds; leave fold out"
        faults.append(f"fold = {fold}: {has}")
    if named.given == "candidates" and given is None:
        faults.append("the file of held-out rows and candidates is missing; pass given=...")
    if given is not None and not named.given:
        faults.append("it needs no file; leave out given=...")
    if faults:
        raise ConfigError.faults(f"protocol {name}", faults)
    if data.history is not None:
        raise DataError(f"protocol {name} needs the whole data set, and this data is the valid or test part of a split")
    data.require(named.needs, f"protocol {name}")
    return named


def _filtered(named: NamedProtocol, data: Dataset) -> tuple[Dataset, tuple[str, ...], tuple[str, ...]]:
    """The filtered data, the filters in words, and notes on what they removed."""
    min_rating = named.min_rating if data.rating is not None else None
    words: tuple[str, ...] = () if min_rating is None else (f"min_rating {min_rating:g}",)
    if named.min_user or named.min_item:
        words += (f"min_user {named.min_user}, min_item {named.min_item}",)
    if not words:
        return data, (), ()
    kept = filter_interactions(data.frame(), min_rating=min_rating, min_user=named.min_user, min_item=named.min_item)
    whole = Dataset.from_frame(
        kept.frame,
        data.item_table,
        data.user_table,
        rating_scale=data.rating_scale,
        notes=data.notes + kept.notes,
        item_kinds=data.item_kinds,
        user_kinds=data.user_kinds,
        events=data.events,
    )
    return whole, words, kept.notes
