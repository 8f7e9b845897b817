"""Samples of explanation sentences, each read back and checked against its own table and against the user's list."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from palate.errors import CannotAnswer
from palate.explanation.explanation import Contribution, Explanation
from palate.recommender.recommender import Recommender

LENGTH = 10
"""Length of the lists that sentences speak of."""
LEAST = 0.02
"""Share of the largest effect below which none may be told."""
VERBS = re.compile(
    r"\b(liked|had|adds?|subtracts?|speaks|scores|ranks|stands out|contains|changes|is popular|gives|consists|leave)\b",
    re.IGNORECASE,
)
_SIGNED = r" \(([+-]\d+(?:\.\d+)?)\)"
_ADDS = re.compile(r"\b(adds?|subtracts?) (\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Told:
    """A sentence as a user reads it.

    Attributes:
        kind: Which question it answers: listed, in the list, outside the list, already seen.
        method: The explainer.
        text: The sentence without the last full stop.
        table: The explanation whose numbers it must agree with.
        top: How many of the largest contributions the table shows.
        rank: The item's place in the user's whole list, found by `recommend`; None if it is not in there.
        length: Length of the list.
    """

    kind: str
    method: str
    text: str
    table: Explanation
    top: int
    rank: int | None
    length: int


def sample(recommender: Recommender, count: int, seed: int) -> Iterator[Told]:
    """Sentences about lists and about single items, for known users and new ones, by several methods.

    Args:
        recommender: Whose answers are explained.
        count: Number of sentences.
        seed: Seed of users, items and methods.
    """
    rng, made = random.Random(seed), 0
    while made < count:
        who = _someone(recommender, rng)
        ranking = recommender.recommend(k=recommender.data.n_items, **who)
        for told in (*_listed(recommender, who, ranking, rng), *_asked(recommender, who, ranking, rng)):
            if made < count:
                yield told
                made += 1


def _someone(recommender: Recommender, rng: random.Random) -> dict[str, Any]:
    """A known user, or a new one with a history."""
    data = recommender.data
    if rng.random() < 0.7:
        return {"users": [rng.choice(data.users.ids.to_list())]}
    users = [user for user in range(data.n_users) if data.offsets[user + 1] - data.offsets[user] > 1]
    return {"history": _history(recommender, rng.choice(users))[:20]}


def _history(recommender: Recommender, user: int) -> list[Any]:
    """The item ids of a user's history."""
    data = recommender.data
    items: list[Any] = data.items.ids[data.item[data.offsets[user] : data.offsets[user + 1]]].to_list()
    return items


def _listed(recommender: Recommender, who: dict[str, Any], ranking: pl.DataFrame, rng: random.Random) -> Iterator[Told]:
    """Two sentences of a list, beside the explanation of the same item by the same method."""
    found = recommender.recommend(k=LENGTH, explain=True, **who)
    for row in rng.sample(range(len(found)), min(2, len(found))):
        item, text = found["item_id"][row], found["reasons"][row]
        if found["route"][row] not in ("known_user", "history"):
            continue
        table = _explained(recommender, who, item)
        if table is not None:
            yield Told("listed", table.method, text, table, 3, found["rank"][row], len(found))


def _asked(recommender: Recommender, who: dict[str, Any], ranking: pl.DataFrame, rng: random.Random) -> Iterator[Told]:
    """Sentences about single items: from the list, outside it, already seen."""
    data, ranked = recommender.data, ranking["item_id"].to_list()
    user = who.get("users", [None])[0]
    seen = who.get("history") or _history(recommender, int(data.users.index([user])[0]))
    asked = [("in the list", rng.choice(ranked[:LENGTH])), ("already seen", rng.choice(seen))]
    asked += [("outside the list", item) for item in rng.sample(ranked[LENGTH:], min(2, len(ranked[LENGTH:])))]
    for kind, item in asked:
        method = rng.choice((None, None, "shap", "lime", "occlusion", "exact", "gradient"))
        table = _explained(recommender, who, item, method, samples=60)
        if table is not None:
            rank = ranked.index(item) + 1 if item in ranked else None
            yield Told(kind, table.method, table.sentence(5, LENGTH), table, 5, rank, LENGTH)


def _explained(recommender: Recommender, who: dict[str, Any], item: Any, *args: Any, **settings: Any) -> Any:
    """An explanation; None if the method is not available for the model, which is an answer too."""
    asked = {"user": who["users"][0]} if "users" in who else who
    try:
        return recommender.explain(item=item, method=args[0] if args else None, **asked, **settings)
    except CannotAnswer:
        return None


def faults(told: Told) -> list[str]:
    """What is wrong with a sentence; empty if it is true."""
    table, found = told.table, []
    shown, baseline = table.of()[: told.top], sum(c.value for c in table.of("base") if c.key == "item baseline")
    largest = max(abs(value) for value in (baseline, table.residual, *(c.value for c in table.of())))
    if any(c.kind == "history" and c.key == table.item for c in table.contributions):
        found.append("the item is a reason for itself")
    named, rest = _named(told.text, [c for c in shown if c.kind == "history"])
    clauses, rest = _clauses(rest, shown)
    found += clauses
    if re.search(_SIGNED, rest):
        found.append(f"names what its table does not show: {re.search('.{0,40}' + _SIGNED, rest)[0]}")  # type: ignore[index]
    for one, number in named:
        found += _against(f"{one.label} ({number})", float(number), one.value, number)
        if abs(one.value) < LEAST * largest:
            found.append(f"tells {one.value:.3g}, less than {LEAST:.0%} of {largest:.3g}")
    found += _rank_faults(told) + _sum_faults(told)
    if not told.text[:1].isupper():
        found.append("does not begin with a capital")
    if not VERBS.search(told.text):
        found.append("has no verb")
    if re.search(r"[Bb]ecause your history speaks against|favour: your history speaks against", told.text):
        found.append("gives as a reason what speaks against the item")
    total = sum(c.value for c in table.contributions) + table.residual
    if abs(total - table.score) > 1e-5 * max(1.0, abs(table.score)):
        found.append(f"the table adds up to {total}, not {table.score}")
    return found


def _named(text: str, rows: list[Contribution]) -> tuple[list[tuple[Contribution, str]], str]:
    """History items with their numbers in a sentence, and the sentence without them; long names first."""
    named = []
    for one in sorted(rows, key=lambda c: -len(c.label)):
        found = re.search(r"(?<![^ ])" + re.escape(one.label) + _SIGNED, text)
        if found:
            named.append((one, found[1]))
            text = text[: found.start()] + "#" + text[found.end() :]
    return named, text


def _clauses(text: str, shown: tuple[Contribution, ...]) -> tuple[list[str], str]:
    """Faults of the clauses about features, words and regions."""
    faults_found, others = [], [c for c in shown if c.kind != "history"]
    largest = max((abs(c.value) for c in shown), default=0.0)
    start = 0
    for match in _ADDS.finditer(text):
        clause, sign = text[start : match.start()].lower(), 1 if match[1].startswith("add") else -1
        start = match.end()
        if clause.endswith(("as a whole ", "the model ")):  # no contribution: `_sum_faults`
            continue
        kind = "word" if re.search(r"its words? '", clause) else "feature"
        kind = "region" if "parts of its image" in clause else kind
        some = [c for c in others if c.value * sign > 0 and c.kind == kind]
        quote = "'" if kind == "word" else ""
        some = [c for c in some if kind == "region" or f"{quote}{c.label}{quote}".lower() in clause]
        if not some:
            faults_found.append(f"names what its table does not show: {clause[-60:]!r}")
            continue
        faults_found += _against(clause[-60:], float(match[2]), abs(sum(c.value for c in some)), match[2])
        if max(abs(c.value) for c in some) < LEAST * largest:
            faults_found.append(f"tells an effect below {LEAST:.0%} of {largest:.3g}: {clause[-60:]!r}")
    return faults_found, text


def _sum_faults(told: Told) -> list[str]:
    """Faults of the clauses that speak of sums: the item baseline, the residual, the history as a whole."""
    table, found = told.table, []
    baseline = sum(c.value for c in table.of("base") if c.key == "item baseline")
    history = sum(c.value for c in table.of("history"))
    for words, value in (
        (r"scores ([\d.]+) above the average item", baseline),
        (r"scores ([\d.]+) below the average item", -baseline),
        (r"the model adds ([\d.]+) that no single contribution", table.residual),
        (r"your history as a whole adds ([\d.]+),", history),
    ):
        for number in re.findall(words, told.text):
            found += _against(words, float(number), value, number)
    return found


def _against(what: str, said: float, value: float, number: str) -> list[str]:
    """A fault if a printed number is not that of the table, rounded."""
    decimals = len(number.split(".")[1]) if "." in number else 0
    if abs(said - value) <= 0.51 * 10.0**-decimals:
        return []
    return [f"says {number} where the table has {value:.6g}: {what}"]


def _rank_faults(told: Told) -> list[str]:
    """Whether the sentence says where the item stands."""
    said = re.match(r"Ranks ([\d,]+)(?:st|nd|rd|th) for this user, outside the top (\d+)\. ", told.text)
    if told.rank is None:
        calls = told.text.startswith(("Recommended", "Ranks"))
        has = any("already has" in note for note in told.table.notes)
        return ["speaks of a rank of an item that the user has"] if calls else [] if has else ["not said: already seen"]
    if told.rank > told.length:
        if said is None:
            return [f"does not say that the item ranks {told.rank}, outside the list"]
        right = int(said[1].replace(",", "")) == told.rank and int(said[2]) == told.length
        return [] if right else [f"says rank {said[1]} of {said[2]}, not {told.rank} of {told.length}"]
    return ["calls an item of the list outside it"] if said else []
