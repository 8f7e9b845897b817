"""counterfactual(): the smallest set of history items without which an item would not be in the top k.

Removed items stay out of the list, because the user has seen them: ranks are those among the items that are not in the
whole history. An item leaves the top k as the ranker has it: k others score higher, or score the same and come before
it in the catalogue.

The search goes from small to large:

1. Remove every single item. If that is enough, the answer is proven smallest.
2. Greedy search: remove the item whose removal lowers the lead over the k-th best other item most, and repeat. Each
   step tries the `GREEDY_TRIES` items that lowered the lead most when they were last tried. The larger the set, the
   more items a step removes at once.
3. Put back every item that the set does not need.
4. If three or more are left, try pairs, first those whose items lower the lead most alone. Models that fold a history
   in take milliseconds for each pair: they are asked about fewer, and not about hopeless ones. If all pairs were tried,
   a set of three is proven smallest.

Every set is verified by scoring without it.

Legend: M masks, P players, H history players, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palate.errors import CannotAnswer, ConfigError
from palate.explanation.explanation import and_list
from palate.explanation.players import Game
from palate.ranking.ranked import INF

GREEDY_TRIES = 8
"""Items that each greedy step tries."""
ITEMS_PER_REMOVAL = 4
"""A greedy step removes one item for every so many that are removed already, at least one."""
MAX_PAIRS, MAX_PAIRS_OF_FOLD_IN = 5_000, 500
"""Most pairs that are tried: of models that read a history in one pass, and of those that fold it in by iterations."""
MAX_SYNERGY = 2.0
"""Pairs of models that fold in are tried if this many times what their items lower the lead by alone is enough."""
MAX_SCORES_PER_BLOCK = 2**22
"""Scores computed at once."""
ROUNDING = 1e-6
"""Relative difference within which two scores count as equal: sums differ by rounding from block to block."""


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """What must be removed from a history for an item to leave the list.

    Attributes:
        item, label: Its id and title.
        k: Length of the list.
        removed: Ids of the history items to remove, the most decisive first; None if no set was found.
        labels: Their titles.
        before, after: The item's rank, from 1, with the whole history and without the set. If no set was found, `after`
            is the rank without any history.
        smallest: Whether it is proven that no smaller set is enough.
        greedy: How many items the greedy search alone would remove; 0 if it was not needed.
        reason: Why there is no set, in words; empty if there is one.
    """

    item: Any
    label: str
    k: int
    removed: tuple[Any, ...] | None
    labels: tuple[str, ...]
    before: int
    after: int
    smallest: bool
    greedy: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.removed is None:
            return f"{self.label}: {self.reason}."
        proof = "No smaller set is enough." if self.smallest else "A smaller set may be enough."
        return (
            f"Without {and_list(self.labels)}, {self.label} would fall from rank {self.before} to rank {self.after}, "
            f"out of the top {self.k}. {proof}"
        )


def counterfactual(game: Game, k: int = 10, on_step: Callable[[str], None] | None = None) -> Counterfactual:
    """Find the smallest set of history items whose removal drops the game's item out of the top k.

    Args:
        game: From `palate.explanation.players.game`; its features, if any are players, stay on.
        k: Length of the list.
        on_step: Called with a line of progress after each step of the search.

    Raises:
        ConfigError: k is below 1.
        CannotAnswer: No history item is a player, or the user already has the item, so that no list holds it.
    """
    if k < 1:
        raise ConfigError(f"k = {k} is out of range; a list has at least one place")
    report = on_step or (lambda text: None)
    search = _Search(game, k)
    before = search.rank([])
    if before > k:
        return search.no_set(before, before, f"it ranks {before}, outside the top {k}, so there is nothing to remove")
    if search.others < k:
        return search.no_set(before, before, f"a list of {k} holds every item, whatever is removed")
    lead_H = search.leads([[place] for place in range(search.size)])
    report(f"Removed each of {search.size:,} history items alone")
    if float(lead_H.min()) < 0:
        return search.found([int(lead_H.argmin())], before, smallest=True)
    greedy = search.greedily(lead_H, report)
    if greedy is None:
        after = search.rank(list(range(search.size)))
        reason = f"it does not depend on single history items: even without any history it ranks {after}"
        return search.no_set(before, after, reason)
    chosen = search.pruned(greedy)
    report(f"Put back {len(greedy) - len(chosen):,} of {len(greedy):,} removed items")
    if len(chosen) <= 2:
        return search.found(chosen, before, smallest=True, greedy=len(greedy))
    pair, all_tried = search.best_pair(lead_H, report)
    proven = pair is not None or (all_tried and len(chosen) == 3)
    return search.found(pair or chosen, before, smallest=proven, greedy=len(greedy))


class _Search:
    """Leads and ranks of a game's item in the top k, without sets of history items."""

    def __init__(self, game: Game, k: int) -> None:
        self.game, self.k = game, k
        self.players = [place for place, player in enumerate(game.players) if player.kind == "history"]
        self.size = len(self.players)
        if not self.size:
            raise CannotAnswer(
                f"the explanation of {game.label} has no history items to remove; a counterfactual needs a history"
            )
        self.seen = torch.unique(game.queries.history.values)
        if bool((self.seen == game.item).any()):
            raise CannotAnswer(
                f"this user already has {game.label}, so no list holds it; choose an item that the user has not seen"
            )
        self.others = game.model.spec.n_items - len(self.seen) - 1

    def leads(self, sets: Sequence[Sequence[int]]) -> Tensor:
        """By how much the item leads the k-th best other one without each set, `[M]`; negative if it is not listed."""
        step = max(1, MAX_SCORES_PER_BLOCK // self.game.model.spec.n_items)
        blocks = [self._scores(sets[start : start + step]) for start in range(0, len(sets), step)]
        return torch.cat([self._leads(scores_MN) for scores_MN in blocks])

    def _leads(self, scores_MN: Tensor) -> Tensor:
        score_M = scores_MN[:, self.game.item].clone()
        scores_MN[:, self.game.item] = -INF
        lead_M = score_M - scores_MN.topk(self.k).values[:, -1]
        equal_M = lead_M == 0
        # Of equal scores, the item that comes first in the catalogue ranks first.
        above_M = (scores_MN[:, : self.game.item] == score_M[:, None]).sum(1) + (scores_MN > score_M[:, None]).sum(1)
        tolerance_M = ROUNDING * score_M.abs().clamp(min=1.0)
        lead_M = torch.where((lead_M < 0) & (lead_M > -tolerance_M), 0.0, lead_M)
        return torch.where((lead_M == 0) & (above_M >= self.k) & equal_M, -tolerance_M, lead_M)

    def rank(self, removed: Sequence[int]) -> int:
        """The item's rank without a set."""
        scores_N = self._scores([removed])[0]
        score = scores_N[self.game.item]
        return 1 + int((scores_N > score).sum()) + int((scores_N[: self.game.item] == score).sum())

    def _scores(self, sets: Sequence[Sequence[int]]) -> Tensor:
        """All scores without each set, `[M, N]`, -inf for the items of the whole history."""
        masks_MP = torch.ones(len(sets), len(self.game.players), dtype=torch.bool)
        row = torch.tensor([row for row, one in enumerate(sets) for _ in one], dtype=torch.int64)
        masks_MP[row, torch.tensor([self.players[p] for one in sets for p in one], dtype=torch.int64)] = False
        scores_MN = self.game.scores(masks_MP).clone()
        scores_MN[:, self.seen] = -INF
        return scores_MN

    def greedily(self, lead_H: Tensor, report: Callable[[str], None]) -> list[int] | None:
        """Remove items until the item leaves the list, those that lower its lead most first; None if it never does."""
        removed, latest_H = [int(lead_H.argmin())], lead_H.clone()
        while len(removed) < self.size:
            latest_H[removed] = INF
            tried = latest_H.argsort(stable=True)[: min(GREEDY_TRIES, self.size - len(removed))]
            lead_T = self.leads([[*removed, place] for place in tried.tolist()])
            latest_H[tried] = lead_T
            best = tried[lead_T.argsort(stable=True)[: max(1, len(removed) // ITEMS_PER_REMOVAL)]].tolist()
            removed += best
            report(f"Greedy search: {len(removed):,} history items removed")
            lead = float(lead_T.min()) if len(best) == 1 else float(self.leads([removed])[0])
            if lead < 0:
                return removed
        return None

    def pruned(self, removed: list[int]) -> list[int]:
        """The set without the items that it does not need; those removed last are put back first."""
        for place in reversed(removed[:]):
            rest = [other for other in removed if other != place]
            if rest and float(self.leads([rest])[0]) < 0:
                removed = rest
        return removed

    def best_pair(self, lead_H: Tensor, report: Callable[[str], None]) -> tuple[list[int] | None, bool]:
        """The pair that lowers the lead most, if it drops the item; and whether all pairs were tried."""
        model, lead = self.game.model, float(self.leads([[]])[0])
        pair_Z2 = torch.combinations(torch.arange(self.size))
        lowered_Z = (lead - lead_H[pair_Z2]).sum(1)
        best_first = lowered_Z.argsort(descending=True, stable=True)
        if model.additive or "history" in model.gradients:
            tried_Z2 = pair_Z2[best_first[:MAX_PAIRS]]
        else:
            promising = best_first[MAX_SYNERGY * lowered_Z[best_first] >= lead]
            tried_Z2 = pair_Z2[promising[:MAX_PAIRS_OF_FOLD_IN]]
        best, least, tried = None, 0.0, 0
        step = max(1, min(MAX_PAIRS_OF_FOLD_IN // 4, MAX_SCORES_PER_BLOCK // model.spec.n_items))
        for block_Z2 in tried_Z2.split(step) if len(tried_Z2) else ():  # type: ignore[no-untyped-call]
            lead_Z = self.leads(block_Z2.tolist())
            if float(lead_Z.min()) < least:
                best, least = block_Z2[int(lead_Z.argmin())].tolist(), float(lead_Z.min())
            tried += len(block_Z2)
            report(f"Tried {tried:,} of {len(tried_Z2):,} pairs")
        return best, len(tried_Z2) == len(pair_Z2)

    def found(self, chosen: list[int], before: int, *, smallest: bool, greedy: int = 0) -> Counterfactual:
        """The answer; its rank is computed without the set."""
        players = [self.game.players[self.players[place]] for place in chosen]
        return Counterfactual(
            item=self.game.id, label=self.game.label, k=self.k, removed=tuple(player.key for player in players),
            labels=tuple(player.label for player in players), before=before, after=self.rank(chosen),
            smallest=smallest, greedy=greedy or len(chosen),
        )  # fmt: skip

    def no_set(self, before: int, after: int, reason: str) -> Counterfactual:
        """The answer if there is no set."""
        return Counterfactual(
            item=self.game.id, label=self.game.label, k=self.k, removed=None, labels=(), before=before, after=after,
            smallest=False, reason=reason,
        )  # fmt: skip
