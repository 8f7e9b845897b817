"""Explanation: a score as a sum of base, contributions and residual, in numbers and in words.

score = average item + item baseline + sum of contributions + residual

The average item is what this user's scores are on average over the catalogue. The item baseline is by how much the item
is above it with everything explained switched off. A contribution is by how much something moves the item relative to
the average item, so what moves all items alike contributes nothing: it does not change the ranking.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from palate.extras import missing_extra

Kind = Literal["base", "history", "feature", "word", "region"]

AVERAGE_ITEM, ITEM_BASELINE = "average item", "item baseline"
"""Keys of the two base contributions."""
STANDARD_ERRORS = 2.0
"""Half-width of a contribution's interval, in standard errors. Intervals that contain zero are not shown as reasons."""
MIN_SHARE = 0.02
"""Share of the largest effect below which a contribution is not shown as a reason."""
ROUNDING = 1e-6
"""Share of the score below which a contribution counts as zero."""
LIST_LENGTH = 10
"""Length of the list that sentences speak of by default."""


@dataclass(frozen=True)
class Player:
    """Something that can be switched off; see `Contribution` for what its fields mean."""

    kind: Kind
    key: Any
    label: str
    liked: bool = True


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """The part of a score that is due to one thing.

    Attributes:
        kind: What it is. `base` is what the score is before any contribution.
        key: history: the item's id; feature: the column's name; word: (column, place, word); region: (column, box) with
            box = (top, left, bottom, right) in pixels; base: `AVERAGE_ITEM` or `ITEM_BASELINE`.
        label: The same as text for readers.
        value: In units of the score.
        error: Standard error of `value`; 0 if it is exact.
        liked: False for a history item that was rated below the middle of the scale.
    """

    kind: Kind
    key: Any
    label: str
    value: float
    error: float = 0.0
    liked: bool = True


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why one item got its score for one query: `score` = sum of all contributions + `residual`.

    Attributes:
        item: Its id.
        label: Its title.
        score: The score the ranker used.
        contributions: Sorted by |value|, largest first, including those of kind base.
        residual: The score minus the sum of all contributions. `notes` say what it consists of.
        method: The explainer's name in `EXPLAINERS`.
        rank: The item's rank among the items this user has not seen, from 1; None if the user already has the item.
        notes: What a reader must know beyond the numbers, as sentences.
        fit: Of `lime`, the weighted R2 of its linear surrogate.
    """

    item: Any
    label: str
    score: float
    contributions: tuple[Contribution, ...]
    residual: float
    method: str
    rank: int | None = None
    notes: tuple[str, ...] = ()
    fit: float | None = None

    @property
    def base(self) -> float:
        """The score before any contribution: average item plus item baseline."""
        return sum(one.value for one in self.contributions if one.kind == "base")

    def of(self, *kinds: Kind) -> tuple[Contribution, ...]:
        """The contributions of these kinds, largest first. Defaults to all but the base."""
        return tuple(c for c in self.contributions if (c.kind in kinds if kinds else c.kind != "base"))

    def shown(self, top: int) -> tuple[Contribution, ...]:
        """Of the `top` largest contributions, those that count as reasons.

        A reason is at least `MIN_SHARE` of the largest effect, and its interval of `STANDARD_ERRORS` does not contain
        zero. Reasons are taken from the `top` largest only, so that a table of these shows every reason.
        """
        return tuple(c for c in self.of()[:top] if abs(c.value) > max(STANDARD_ERRORS * c.error, self._least))

    def reasons(self, top: int = 5, k: int = LIST_LENGTH) -> list[str]:
        """The explanation in words: the reasons, how the score adds up, and the notes.

        Args:
            top: How many of the largest contributions may be named.
            k: Length of the list; an item that ranks below it is not called recommended.
        """
        return [f"{self.sentence(top, k)}.", f"{self.breakdown()}.", *self.notes]

    def breakdown(self) -> str:
        """How the score adds up, in one sentence."""
        parts = [(c.value, c.label) for c in self.of("base")]
        parts.append((sum(c.value for c in self.of()), "all contributions"))
        parts.append((self.residual, "residual"))
        return f"Score {_number(self.score)} = " + " + ".join(f"{_number(value)} ({name})" for value, name in parts)

    def sentence(self, top: int = 5, k: int = LIST_LENGTH) -> str:
        """The reasons in one or two sentences without the last full stop; arguments as of `reasons`."""
        shown = self.shown(top)
        pro, con = _clauses(shown)
        if not pro and (other := self._other_reason(shown)):
            pro = [other]
        text = _joined(pro, con) or self._no_reason()
        if self.rank is not None and self.rank > k:
            rank = f"Ranks {ordinal(self.rank)} for this user, outside the top {k}. "
            return rank + (f"In its favour: {text}" if pro else capitalised(text))
        return f"Recommended because {text}" if pro and self.rank is not None else capitalised(text)

    def _other_reason(self, shown: Sequence[Contribution]) -> str:
        """What speaks for an item that no single contribution speaks for; empty if nothing does."""
        history = self.of("history")
        together, least = sum(c.value for c in history), self._least
        if any(c.error for c in history) and not shown:
            if together > max(least, STANDARD_ERRORS * self._error_of_sum(history)):
                return f"your history as a whole adds {_number(together)}, although no single item stands out"
            return ""
        baseline = self._item_baseline
        if baseline > max(least, self.residual):
            return f"it scores {_number(baseline)} above the average item for users in general"
        if self.residual > least:
            return f"the model adds {_number(self.residual)} that no single contribution explains (residual)"
        return ""

    def _no_reason(self) -> str:
        """What to say if nothing speaks for or against the item."""
        if any(c.error for c in self.of()):
            return "no contribution stands out: every interval contains zero (more samples make them narrower)"
        if self._item_baseline < min(-self._least, self.residual):
            return f"it scores {_number(-self._item_baseline)} below the average item for users in general"
        if self.residual < -self._least:
            return f"the model subtracts {_number(-self.residual)} that no single contribution explains (residual)"
        return "nothing known about this user or item changes how it compares with the average item"

    @property
    def _item_baseline(self) -> float:
        """How much better than the average item this one is without a history."""
        return sum(c.value for c in self.of("base") if c.key == ITEM_BASELINE)

    @property
    def _least(self) -> float:
        """The size above which an effect may be told: a share of the largest one, that of the item alone included."""
        effects = [*(c.value for c in self.of()), self._item_baseline, self.residual]
        rounding = ROUNDING * max((abs(c.value) for c in self.contributions), default=0.0)
        return max(MIN_SHARE * max(map(abs, effects)), rounding)

    def _error_of_sum(self, some: Sequence[Contribution]) -> float:
        """Standard error of a sum of contributions; Shapley values of all players add up exactly."""
        exact_sum = self.method == "shap" and len(some) == len(self.of())
        return 0.0 if exact_sum else math.sqrt(sum(c.error**2 for c in some))

    def frame(self) -> pl.DataFrame:
        """Columns `kind`, `key` (as text), `label`, `value`, `error`; largest first."""
        rows = [(c.kind, "" if c.key is None else str(c.key), c.label, c.value, c.error) for c in self.contributions]
        schema = {"kind": pl.String, "key": pl.String, "label": pl.String, "value": pl.Float64, "error": pl.Float64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def to_shap(self) -> Any:
        """As a `shap.Explanation`, for the shap package's plots; `base_values` holds base and residual.

        Raises:
            MissingExtra: shap is not installed.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the package's own making
                import shap
        except ImportError as error:
            raise missing_extra("to_shap needs the shap package", "explain") from error
        explained = self.of()
        return shap.Explanation(
            values=np.array([c.value for c in explained]),
            base_values=self.base + self.residual,
            data=np.ones(len(explained)),
            feature_names=[c.label for c in explained],
            error_std=np.array([c.error for c in explained]),
        )


def _clauses(shown: Sequence[Contribution]) -> tuple[list[str], list[str]]:
    """The clauses that speak for the item and those that speak against it: one for the history, one for each kind."""
    pro, con = _feature_clauses(shown, 1), _feature_clauses(shown, -1)
    history = [c for c in shown if c.kind == "history"]
    positive, negative = [c for c in history if c.value > 0], [c for c in history if c.value < 0]
    against = and_list([_signed(c) for c in negative]) if negative else ""
    if positive:
        verb = "liked" if all(c.liked for c in positive) else "had"
        pro.insert(0, f"you {verb} {and_list([_signed(c) for c in positive])}" + (against and f", despite {against}"))
    elif negative:
        con.append(f"your history speaks against it: {against}")
    return pro, con


def _feature_clauses(shown: Sequence[Contribution], sign: int) -> list[str]:
    """What features, words and image regions add (sign 1) or subtract (-1), a clause for each kind."""
    clauses, verbs = [], ("adds", "add") if sign > 0 else ("subtracts", "subtract")
    for kind, name in (("feature", ""), ("word", "its word"), ("region", "parts of its image")):
        some = [c for c in shown if c.kind == kind and c.value * sign > 0]
        if some:
            verb = verbs[len(some) > 1 or kind == "region"]
            clauses.append(f"{_named(name, some)} {verb} {_number(abs(sum(c.value for c in some)))}")
    return clauses


def _joined(pro: Sequence[str], con: Sequence[str]) -> str:
    """Clauses as one sentence, what speaks for the item first."""
    if not pro:
        return "; ".join(con)
    return "; ".join(pro) + (f", although {and_list(con)}" if con else "")


def _signed(one: Contribution) -> str:
    return f"{one.label} ({_signed_number(one.value)})"


def _named(name: str, some: Sequence[Contribution]) -> str:
    """Features by their labels, words in quotes, regions as a whole."""
    if some[0].kind == "region":
        return name
    labels = [f"'{c.label}'" if c.kind == "word" else c.label for c in some]
    return f"{name}{'s' if name and len(some) > 1 else ''} {and_list(labels)}".lstrip()


def and_list(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def capitalised(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number:,}{ending}"


def _decimals(value: float) -> int:
    """Decimals that show two digits of a small number."""
    return 2 if value == 0 or abs(value) >= 0.1 else min(6, 1 - int(np.floor(np.log10(abs(value)))))


def _number(value: float) -> str:
    return f"{value:.{_decimals(value)}f}" if abs(value) >= 5e-7 else "0.00"


def _signed_number(value: float) -> str:
    return f"{value:+.{_decimals(value)}f}"
