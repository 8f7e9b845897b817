"""PROTOCOLS: name -> NamedProtocol, the ways of judging that results are published under; `prepare` makes one ready.

A valid part is always taken out of train, or out of people who are in no other part; never out of test. Models are
fitted without it, on a tenth less than in papers that train again on train and valid together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from palate.data.dataset import Dataset
from palate.data.filters import filter_interactions
from palate.errors import ConfigError, DataError
from palate.evaluation.named import Asked, NamedProtocol, by_held_out_file, by_people, by_published_folds
from palate.evaluation.named import Prepared as Prepared
from palate.evaluation.protocol import METRICS_BY_DEFAULT, Protocol, fingerprint

LISTS = ("ndcg@10", "recall@10", "precision@10", "hit@10", "mrr@10", "coverage@10", "gini@10")
COLD = ("recall@20", "ndcg@20", "hit@20", "coverage@20", "gini@20")
SHOWN = 10
"""Most rows of a new user that are shown."""
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
        cut=by_people,
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
        cut=by_held_out_file,
    ),
    "u1": NamedProtocol(
        what="MovieLens-100K's own u1.base and u1.test",
        paper="Berg et al., 2017, GC-MC, and others",
        split="given",
        metrics=RATINGS,
        needs=frozenset({"rating"}),
        given="folds",
        cut=by_published_folds,
    ),
    "5fold": NamedProtocol(
        what="MovieLens-100K's own five folds, u1 to u5",
        paper="Harper and Konstan, TiiS 2015",
        split="given",
        metrics=RATINGS,
        needs=frozenset({"rating"}),
        folds=5,
        given="folds",
        cut=by_published_folds,
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
    "new-items": NamedProtocol(
        what="a fifth of the items entirely out of train, half of them for valid and half for test; they compete among "
        "themselves",
        paper="Huang et al., CIKM 2023, ALDI: its cold items",
        split="new-items",
        options=(("valid", 0.1), ("test", 0.1)),
        metrics=COLD,
        candidates="new",
    ),
    "new-items-among-all": NamedProtocol(
        what="as new-items, and of the other rows a tenth each for valid and test; every item competes",
        paper="Huang et al., CIKM 2023, ALDI: overall",
        split="new-items",
        options=(("valid", 0.1), ("test", 0.1), ("others", 0.1)),
        metrics=COLD,
    ),
} | {
    f"new-users-{given}": NamedProtocol(
        what=f"a fifth of the users entirely out of train; the first {given} of each one's rows are shown, those after "
        f"the first {SHOWN} are to be found",
        paper="palate: 0, 1, 3 and 10 rows shown, with the same people and the same rows to be found",
        split="new-users",
        options=(("valid", 0.1), ("test", 0.2), ("given", given), ("skip", SHOWN)),
        metrics=LISTS,
    )
    for given in (0, 1, 3, SHOWN)
}
PROTOCOLS |= {
    f"new-users-and-items-{given}": NamedProtocol(
        what=f"a fifth each of the users and of the items entirely out of train, half of them for valid and half for "
        f"test; the first {given} rows of each new user with known items are shown, those after the first {SHOWN} and "
        "all with new items are to be found",
        paper="palate: new people and new items at once, with the same rows to be found",
        split="new-users-and-items",
        options=(("valid", 0.1), ("test", 0.1), ("given", given), ("skip", SHOWN)),
        metrics=COLD,
    )
    for given in (0, 1, 3, SHOWN)
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
        candidates=how.candidates if candidates is None else "given",
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
        kept.frame,
        data.item_table,
        data.user_table,
        rating_scale=data.rating_scale,
        notes=data.notes + kept.notes,
        item_kinds=data.item_kinds,
        user_kinds=data.user_kinds,
    )
    return whole, words, kept.notes
