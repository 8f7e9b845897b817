"""PROTOCOLS: name -> NamedProtocol, the ways of judging that results are published under; `prepare` makes one ready.

A valid part is always taken out of train, or out of people who are in no other part; never out of test. Models are
fitted without it, on a tenth less than in papers that train again on train and valid together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import polars as pl

from palate.data.dataset import Dataset
from palate.data.filters import filter_interactions
from palate.data.given import held_out, in_ids_of, read_candidates
from palate.data.parts import Split
from palate.data.ragged import Ragged
from palate.data.sources import folds
from palate.errors import ConfigError, DataError
from palate.evaluation.protocol import METRICS_BY_DEFAULT, Protocol, fingerprint, given_candidates

HELD_OUT_USERS = 10_000
"""Users of valid, and of test, under strong-generalisation; a tenth of all where that is fewer."""
ML100K = (100_000, 943, 1_682)
"""Rows, users and items of MovieLens-100K."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """Data under a protocol: `evaluate(model, parts.test, protocol=protocol, candidates=candidates)`.

    Attributes:
        parts: Train, valid, test; its notes begin with the protocol and what its filters removed.
        protocol: What the evaluation's protocol will be, hash and all.
        candidates: For `evaluate`, where they are given; a row for each user of `parts.test`.
    """

    parts: Split
    protocol: Protocol
    candidates: Ragged | None = None


class Asked(NamedTuple):
    """What `prepare` was asked for beside the protocol."""

    seed: int
    fold: int
    given: Any


Made = tuple[Split, dict[str, Any], Ragged | None]
"""Parts, the options of the split that made them, candidates."""


def _by_rule(how: NamedProtocol, data: Dataset, asked: Asked) -> Made:
    """By a rule of `SPLITS` with the protocol's options; each fold is another draw."""
    options = dict(how.options) | ({"seed": asked.seed * how.folds + asked.fold - 1} if how.chance else {})
    return data.split(how.split, **options), options, None


def _by_people(how: NamedProtocol, data: Dataset, asked: Asked) -> Made:
    """As many people for valid and for test as the paper held out, or a tenth each."""
    share = min(0.1, HELD_OUT_USERS / data.n_users)
    return _by_rule(replace(how, options=(*how.options, ("valid", share), ("test", share))), data, asked)


def _by_published_folds(how: NamedProtocol, data: Dataset, asked: Asked) -> Made:
    """By MovieLens-100K's own files, or a frame like `sources.folds()`."""
    given = asked.given
    if not isinstance(given, pl.DataFrame):
        found = (len(data), data.n_users, data.n_items)
        if found != ML100K:
            told = ["{:,} rows of {:,} users and {:,} items".format(*counts) for counts in (ML100K, found)]
            raise DataError(f"these folds are MovieLens-100K's: {told[0]}; this data has {told[1]}")
        given = folds(path=given)
    frame = in_ids_of(data, given)
    if len(frame) != len(data):
        raise DataError(f"the folds are of {len(frame):,} rows, this data has {len(data):,}; bring all of them")
    options = {"column": "fold", "fold": asked.fold, "valid": 0.1, "seed": asked.seed}
    return data.split("given", parts=frame, **options), options, None


def _by_held_out_file(how: NamedProtocol, data: Dataset, asked: Asked) -> Made:
    """The file's rows are test; each user's last other row is valid."""
    frame = read_candidates(asked.given, data)
    parts = held_out(data, frame)
    lists = given_candidates(parts.test, frame)
    wanted = int(frame["negatives"].list.len().sum())
    note = f"given: {wanted - len(lists.values):,} of {wanted:,} candidates are no items of this data and left out"
    return replace(parts, notes=(*parts.notes, note)), dict(how.options), lists


@dataclass(frozen=True, kw_only=True)
class NamedProtocol:
    """One entry of `PROTOCOLS`.

    Attributes:
        what: In words.
        paper: Where it was used.
        split: Name in `SPLITS`.
        options: Of the split, without the seed.
        metrics: The headline first.
        needs: What the data must provide.
        min_rating: Rows with a lower rating are removed, where there are ratings.
        min_user, min_item: Then users and items with fewer rows, until none is left (a core).
        folds: How many there are, or how many random draws; published numbers are means over all.
        given: What comes from outside: candidates, or folds where they are not fetched.
        exclude_seen: As in `Protocol`.
        chance: Whether the seed decides anything.
        cut: Makes the parts.
    """

    what: str
    paper: str
    split: str
    options: tuple[tuple[str, Any], ...] = ()
    metrics: tuple[str, ...]
    needs: frozenset[str] = frozenset()
    min_rating: float | None = None
    min_user: int = 0
    min_item: int = 0
    folds: int = 1
    given: Literal["", "folds", "candidates"] = ""
    exclude_seen: bool = True
    chance: bool = True
    cut: Callable[[NamedProtocol, Dataset, Asked], Made] = _by_rule


LISTS = ("ndcg@10", "recall@10", "precision@10", "hit@10", "mrr@10", "coverage@10", "gini@10")
RATINGS = ("rmse", "mae", "coverage@10", "gini@10")

PROTOCOLS: dict[str, NamedProtocol] = {
    "temporal": NamedProtocol(
        what="one moment for everybody: the latest tenth of the rows is test, the tenth before it valid",
        paper="Ji et al., TOIS 2023; Gusak et al., RecSys 2025",
        split="temporal",
        options=(("valid", 0.1), ("test", 0.1)),
        metrics=METRICS_BY_DEFAULT,
        needs=frozenset({"time"}),
        chance=False,
    ),
    "leave-last-out": NamedProtocol(
        what="each user's last row is test, the one before it valid; every item competes",
        paper="Kang and McAuley, ICDM 2018, with full ranking",
        split="leave-last-out",
        options=(("valid", 1), ("test", 1)),
        metrics=("ndcg@10", "hit@10", "mrr@10", "coverage@10", "gini@10"),
        needs=frozenset({"time"}),
        chance=False,
    ),
    "strong-generalisation": NamedProtocol(
        what="ratings of 4 or more, users with 5 or more; up to 10,000 people each for valid and test, none of them in "
        "train: 4/5 of their rows are shown, 1/5 are to be found",
        paper="Liang et al., WWW 2018",
        split="strong-generalisation",
        options=(("fold_in", 0.8), ("drop_new_items", True)),
        metrics=("ndcg@100", "capped_recall@20", "capped_recall@50", "coverage@20", "gini@20"),
        min_rating=4,
        min_user=5,
        cut=_by_people,
    ),
    "anelli": NamedProtocol(
        what="ratings of 4 or more, then the 10-core; of each user's rows a fifth at random, rounded up, is test, in "
        "five independent draws",
        paper="Anelli et al., UMAP 2022",
        split="per-user",
        options=(("valid", 0.08), ("test", 0.2), ("rounding", "up")),
        metrics=LISTS,
        needs=frozenset({"rating"}),
        min_rating=4,
        min_user=10,
        min_item=10,
        folds=5,
    ),
    "ncf": NamedProtocol(
        what="one held-out row of each user against the 99 items of a published file; each user's last other row is "
        "valid",
        paper="He et al., WWW 2017",
        split="given",
        options=(("valid", "each user's last row of train"),),
        metrics=("hit@10", "ndcg@10"),
        given="candidates",
        exclude_seen=False,
        chance=False,
        cut=_by_held_out_file,
    ),
    "u1": NamedProtocol(
        what="MovieLens-100K's own u1.base and u1.test",
        paper="Berg et al., 2017, GC-MC, and others",
        split="given",
        metrics=RATINGS,
        needs=frozenset({"rating"}),
        given="folds",
        cut=_by_published_folds,
    ),
    "5fold": NamedProtocol(
        what="MovieLens-100K's own five folds, u1 to u5",
        paper="Harper and Konstan, TiiS 2015",
        split="given",
        metrics=RATINGS,
        needs=frozenset({"rating"}),
        folds=5,
        given="folds",
        cut=_by_published_folds,
    ),
    "90-10": NamedProtocol(
        what="a tenth of the ratings at random is test, a tenth of the others valid",
        paper="Sedhain et al., WWW 2015, AutoRec",
        split="random",
        options=(("valid", 0.09), ("test", 0.1)),
        metrics=RATINGS,
        needs=frozenset({"rating"}),
    ),
    "80-20": NamedProtocol(
        what="a fifth of the ratings at random is test, a tenth of the others valid",
        paper="Gantner et al., RecSys 2011, MyMediaLite",
        split="random",
        options=(("valid", 0.08), ("test", 0.2)),
        metrics=RATINGS,
        needs=frozenset({"rating"}),
    ),
    "80-10-10": NamedProtocol(
        what="of each user's rows at random a tenth is test and a tenth valid; every row counts, whatever its rating",
        paper="Zhao et al., CIKM 2021, RecBole",
        split="per-user",
        options=(("valid", 0.1), ("test", 0.1)),
        metrics=LISTS,
    ),
}
"""Every named protocol."""


def prepare(name: str, data: Dataset, *, seed: int = 0, fold: int | None = None, given: Any = None) -> Prepared:
    """Filter and split data as a protocol says.

    Args:
        name: A key of `PROTOCOLS`.
        data: The whole data set.
        seed: Of what is left to chance.
        fold: Which one, from 1, where the protocol has several; default the first.
        given: `ncf`: the file or frame of held-out rows and candidates (`palate.data.given.read_candidates`). `u1`,
            `5fold`: a copy of MovieLens-100K's zip or folder, or a frame of `user_id`, `item_id`, `fold`; default:
            fetched.

    Raises:
        ConfigError: There is no such protocol, it has no such fold, or takes or lacks `given`.
        DataError: The data cannot serve it: no times or ratings, other rows than those given, too few rows.
    """
    how = _checked(name, data, fold, given)
    data, filters, removed = _filtered(how, data)
    parts, options, candidates = how.cut(how, data, Asked(seed, fold or 1, given))
    protocol = Protocol(
        data=fingerprint(parts.test, parts.test.history),
        filters=filters,
        split=how.split,
        split_options=tuple(sorted(options.items())),
        candidates="full" if candidates is None else "given",
        given="" if candidates is None else fingerprint(candidates.values, candidates.offsets),
        metrics=how.metrics,
        exclude_seen=how.exclude_seen,
    )
    which = f", fold {fold or 1} of {how.folds} (published numbers are means over all)" if how.folds > 1 else ""
    notes = (f"protocol {name}{which}: {how.what}; as in {how.paper}", *removed, *parts.notes)
    return Prepared(parts=replace(parts, notes=notes), protocol=protocol, candidates=candidates)


def _checked(name: str, data: Dataset, fold: int | None, given: Any) -> NamedProtocol:
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    how = PROTOCOLS[name]
    faults = []
    if fold is not None and not 1 <= fold <= how.folds:
        faults.append(f"fold = {fold}: it has " + (f"folds 1 to {how.folds}" if how.folds > 1 else "no folds"))
    if how.given == "candidates" and given is None:
        faults.append("give the file of held-out rows and candidates (given=, --given)")
    if given is not None and not how.given:
        faults.append("it takes nothing from outside; leave out what is given")
    if faults:
        raise ConfigError.faults(f"protocol {name}", faults)
    if data.history is not None:
        raise DataError(f"protocol {name} needs the whole data set; this data is a valid or test part already")
    data.require(how.needs, f"protocol {name}")
    return how


def _filtered(how: NamedProtocol, data: Dataset) -> tuple[Dataset, tuple[str, ...], tuple[str, ...]]:
    """The rows that stay, the filters in words, and what they removed."""
    least = how.min_rating if data.rating is not None else None
    core = (how.min_user, how.min_item)
    words: tuple[str, ...] = () if least is None else (f"min_rating {least:g}",)
    words += (f"min_user {core[0]}, min_item {core[1]}",) if any(core) else ()
    if not words:
        return data, (), ()
    kept = filter_interactions(data.frame(), min_rating=least, min_user=core[0], min_item=core[1])
    whole = Dataset.from_frame(
        kept.frame, data.item_table, data.user_table, rating_scale=data.rating_scale, notes=data.notes + kept.notes
    )
    return whole, words, kept.notes
