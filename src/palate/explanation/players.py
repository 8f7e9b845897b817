"""Players: what can be switched off in one query for one item, and Game: the item's score with some of them on.

- A history item that is off has left the history; its rating goes with it. A known user is explained on the fold-in of
  their history (user -1): what the trained user scores differently is the explanation's residual, and noted.
- A feature that is off is unknown, a word is dropped, a region of an image blurred (`palate.explanation.sides`). An
  item with other features is scored as a new one that keeps what its id is worth (`palate.explanation.variants`); a
  model that scores this item without its features (a router to a model of ids) has no players of it.
- With everything off the score is the model's own for no evidence (no history in the sum, the fold-in of nothing, which
  is the average person), not popularity, which `Model.score` gives such queries and which is on another scale.

Legend: M masks, P players, I items asked about, L history length, U distinct masks of the item.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError
from palate.explanation.explanation import Kind
from palate.explanation.explanation import Player as Player
from palate.explanation.sides import NOBODY, Side
from palate.explanation.variants import Variants
from palate.models.base import Model

KINDS: tuple[Kind, ...] = ("history", "feature", "word")
"""What is a player by default; `region` takes images apart, at the price of an encoding for each mask."""
VALUES = 2**22
"""History items and scores in a block of masks: 16 MB each."""
VARIANTS = 64
"""Masked variants of an item that are encoded at once."""


class Game:
    """The score of one item for one query as a function of which players are on.

    Attributes:
        model: Fitted.
        players: In the order of a mask's columns.
        item: Its index.
        queries: What is really explained, one row; its user is -1 where history items are players.
        given: The score the ranker used, for the query as it was asked.
        full: The model's own score for what is explained: with everything on.
        id, label: The item's id and title.
        history, user, thing: Which columns of a mask are history items, user features, item features.
        person: What is known of the user.
        variants: The item under masks of its players; None where nothing of it is one.
        place_L: The player that each value of the history belongs to: an item may stand there twice.
        notes: What sets the explained query apart from the one that was asked, in words.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset,
        asked: Queries,
        item: int,
        history: tuple[Player, ...],
        user: Side,
        thing: Variants | None,
        given: float,
        full: float,
    ) -> None:
        self.model, self.item, self._item_I = model, item, torch.tensor([item])
        self.id, self.label = data.items.ids[item], data.titles(np.array([item]))[0]
        self.players = (*history, *user.players, *(() if thing is None else thing.side.players))
        ends = np.cumsum([len(history), len(user.players)]).tolist()
        self.history, self.user, self.thing = slice(0, ends[0]), slice(*ends), slice(ends[1], len(self.players))
        self.queries = asked.anonymous() if history else asked
        self.place_L = torch.unique(asked.history.values, return_inverse=True)[1]
        self.person, self.variants = user, thing
        self.given, self.full = given, full
        self.notes: tuple[str, ...] = tuple(self._told(asked))

    def __call__(self, masks_MP: Tensor) -> Tensor:
        """The item's score with the players on that each mask (bool) holds, float32 `[M]`."""
        return self.scores(masks_MP, self._item_I).squeeze(1)

    @torch.no_grad()
    def scores(self, masks_MP: Tensor, items_I: Tensor | None = None) -> Tensor:
        """The scores of some items, `[M, I]`, or of all, `[M, N]`; what is known of the item itself is masked too."""
        width = self.model.spec.n_items if items_I is None else len(items_I)
        step = max(1, VALUES // max(width, len(self.place_L), 1))
        step = step if self.variants is None else min(step, VARIANTS)
        blocks = [self._block(masks_MP[start : start + step], items_I) for start in range(0, len(masks_MP), step)]
        return torch.cat(blocks) if blocks else torch.zeros(0, width)

    def _block(self, masks_MP: Tensor, items_I: Tensor | None) -> Tensor:
        queries = self.masked(masks_MP)
        if self.variants is None:
            return own_scores(self.model, queries, items_I)
        mask_UP, which_M = torch.unique(masks_MP[:, self.thing], dim=0, return_inverse=True)
        first = self.model.spec.n_items
        own_MU = own_scores(self.variants(mask_UP), queries, torch.arange(first, first + len(mask_UP)))
        own_M1 = own_MU.gather(1, which_M.unsqueeze(1))
        if items_I is not None and torch.equal(items_I, self._item_I):
            return own_M1
        scores_MI = own_scores(self.model, queries, items_I).clone()
        column = self._item_I if items_I is None else (items_I == self.item).nonzero().squeeze(1)
        scores_MI[:, column] = own_M1
        return scores_MI

    def masked(self, masks_MP: Tensor) -> Queries:
        """The query with some players off, once for each mask."""
        count, asked = len(masks_MP), self.queries
        if self.history.stop:
            keep_ML = masks_MP[:, self.history][:, self.place_L]
        else:
            keep_ML = torch.ones(count, len(self.place_L), dtype=torch.bool)
        ratings = None if asked.ratings is None else asked.ratings.expand(count, -1)[keep_ML]
        features = self.person.variants(masks_MP[:, self.user])
        return Queries(asked.user.expand(count), Ragged.parts_of(asked.history.values, keep_ML), ratings, features)

    def _told(self, asked: Queries) -> Iterator[str]:
        if self.history.stop and int(asked.user[0]) >= 0 and not same(self.full, self.given):
            told = f"explained on the fold-in of the user's history, which scores {self.full:.4g}"
            yield f"{told} where the trained user vector scores {self.given:.4g}"
        if bool((asked.history.values == self.item).any()):
            yield f"this person already has {self.label}: a list leaves it out"


def game(model: Model, data: Dataset, queries: Queries, item: int, kinds: Collection[Kind] = KINDS) -> Game:
    """What can be switched off in a query for an item, ready to be played.

    Args:
        model: Fitted.
        data: What it was fitted to, or a part of it: ids, titles, side tables.
        queries: One row.
        item: An index.
        kinds: Which kinds may be players; see `Side`.

    Raises:
        CannotAnswer: Nothing can be switched off: the model reads neither history nor features, or this query has none.
        ConfigError: Several queries.
    """
    [one] = games(model, data, queries, [item], kinds)
    return one


def games(
    model: Model, data: Dataset, queries: Queries, items: Sequence[int], kinds: Collection[Kind] = KINDS
) -> list[Game]:
    """The same for several items, whose scores are asked for together; arguments and errors as of `game`."""
    if len(queries) != 1:
        raise ConfigError(f"an explanation is of one query, not of {len(queries)}")
    history = _history(model, data, queries) if "history" in model.answers and "history" in kinds else ()
    user, features, items_I = NOBODY, model.spec.user_features, torch.tensor(items)
    if features is not None and queries.features is not None and reads_user(model):
        user = Side("your", features, queries.features, _told(data, "user", int(queries.user[0])), kinds)
    given = model.score(queries, items_I)[0].tolist()
    full = own_scores(model, queries.anonymous() if history else queries, items_I)[0].tolist()
    found = []
    for item, *scores in zip(items, given, full, strict=True):
        thing = _thing(model, data, queries, item, kinds)
        variants = _variants(model, queries.anonymous() if history else queries, item, thing, scores[1])
        if not (variants or history or user.players):
            raise _nothing(model, data, item, kinds, bool(thing.players))
        found.append(Game(model, data, queries, item, history, user, variants, *scores))
    return found


@torch.no_grad()
def _variants(model: Model, explained: Queries, item: int, thing: Side, full: float) -> Variants | None:
    """The item under masks, if the model scores it by its features: with all of them known it is what it was."""
    everything, asked = torch.ones(1, len(thing.players), dtype=torch.bool), torch.tensor([model.spec.n_items])
    for own in (False, True) if thing.players else ():
        found = Variants(model, item, thing, own)
        if same(float(own_scores(found(everything), explained, asked)[0, 0]), full):
            return found
    return None


def reads_user(model: Model) -> bool:
    """Whether its scores go by what people said of themselves."""
    return "new_user" in model.answers or model.reads_user


def same(score: float, other: float) -> bool:
    """Whether two scores are equal but for rounding."""
    return abs(score - other) <= 1e-4 * max(1.0, abs(other))


def _thing(model: Model, data: Dataset, queries: Queries, item: int, kinds: Collection[Kind]) -> Side:
    """What is known of the item, where the model reads it and can be asked about it anew."""
    features = model.spec.item_features
    if features is None or "new_item" not in model.answers or not {"feature", "word", "region"} & set(kinds):
        return NOBODY
    row = data.encoded_items(features).take(torch.tensor([item]))
    return Side("its", features, row, _told(data, "item", item), kinds)


def _nothing(model: Model, data: Dataset, item: int, kinds: Collection[Kind], known: bool) -> CannotAnswer:
    """Why there are no players."""
    name, spec = type(model).__name__, model.spec
    reads_item = spec.item_features is not None and "new_item" in model.answers
    if known:
        return CannotAnswer(
            f"{name} does not score item {data.items.ids[item]!r} by its features, and nothing else is known"
        )
    if "region" in kinds and reads_item:
        return CannotAnswer(
            f"item {data.items.ids[item]!r} has no image that {name} reads, so no region can be explained"
        )
    if not (reads_item or "history" in model.answers or reads_user(model)):
        return CannotAnswer(
            f"{name} reads neither a history nor features, so nothing of a query can be switched off; explain a model "
            "that answers `history` or `new_item`"
        )
    return CannotAnswer(
        f"nothing is known of this person and item that {name} could leave out (asked for: {', '.join(kinds)}); give a "
        "history, history=[...] or --history"
    )


@torch.no_grad()
def own_scores(model: Model, queries: Queries, items_I: Tensor | None) -> Tensor:
    """The model's own scores, for a query without evidence too, where `Model.score` would give popularity."""
    return model._score(queries) if items_I is None else model._score_items(queries, items_I)


def _history(model: Model, data: Dataset, queries: Queries) -> tuple[Player, ...]:
    """One player for each distinct item of the history, by ascending index."""
    index, place = torch.unique(queries.history.values, return_inverse=True)
    scale = model.spec.rating_scale or data.rating_scale
    low = torch.zeros(len(index), dtype=torch.bool)
    if queries.ratings is not None and scale is not None:
        low[place[queries.ratings < sum(scale) / 2]] = True
    ids, titles = data.items.ids[index.numpy()].to_list(), data.titles(index.numpy())
    return tuple(
        Player("history", key, title, liked) for key, title, liked in zip(ids, titles, (~low).tolist(), strict=True)
    )


def _told(data: Dataset, who: str, index: int) -> dict[str, Any]:
    """The row of a side table, by column."""
    table = data.item_table if who == "item" else data.user_table
    return {} if table is None or not 0 <= index < table.height else table.row(index, named=True)
