"""Players: what can be switched off in a query for one item. Game: the item's score with some players on.

- A history item that is off is removed from the history with its rating and time; the order of the rest stays. A known
  user is explained on the fold-in of their history (user -1): what the trained user vector scores differently is part
  of the residual, and a note says so. The explained item itself is never a player, even if the user already has it.
- A feature that is off is unknown, a word is removed, an image region is blurred
  (`palate.explanation.maskable_features`). An item with other features is scored as a new item that keeps what its id
  contributes (`palate.explanation.variants`). A model that scores this item without its features (a router to a model
  of ids) has no feature players.
- With everything off, the score is the model's own for no evidence (an empty sum, the fold-in of an empty history,
  which is the average user). It is not popularity, which `Model.score` returns for such queries on another scale.

What a game returns is relative to the average item: the item's score minus the user's mean score over
`COMPARED_ITEMS` items, evenly spaced over the catalogue, that the user has not seen. What moves all items alike (a
user's bias, the size of a user's vector) does not change a ranking and so explains nothing.

Legend: M masks, P players, I items asked about, C compared items, L history length, U distinct masks of the item.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.data.ragged import MaskedHistories, Ragged
from palate.device import asked_from_anywhere
from palate.errors import CannotAnswer, ConfigError
from palate.explanation.explanation import Kind
from palate.explanation.explanation import Player as Player
from palate.explanation.maskable_features import NO_FEATURES, MaskableFeatures
from palate.explanation.variants import ItemVariants
from palate.models.base import Model
from palate.ranking.ranked import INF, best

DEFAULT_KINDS: tuple[Kind, ...] = ("history", "feature", "word")
"""What is a player by default. `region` splits images, which takes an encoding for each mask."""
COMPARED_ITEMS = 30
"""Most items whose mean score stands for the average item."""
MAX_VALUES_PER_BLOCK = 2**22
"""History values and scores in a block of masks: 16 MB each."""
MAX_VARIANTS_PER_BLOCK = 64
"""Masked variants of an item that are encoded at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """What the ranker says of the item for the query as it was asked.

    Attributes:
        score: The item's score.
        average: The mean score of the compared items.
        rank: The item's rank among the items the user has not seen, from 1; None if the user has the item.
        explained_score, explained_average: The same for the query that is explained, with every player on.
    """

    score: float
    average: float
    rank: int | None
    explained_score: float
    explained_average: float


class Game:
    """The score of one item for one query, relative to the average item, as a function of which players are on.

    Attributes:
        model: Fitted.
        players: In the order of a mask's columns.
        item: Its index.
        queries: The query that is explained, one row; its user is -1 if history items are players.
        asked: What the ranker says.
        id, label: The item's id and title.
        history, user, features: Which columns of a mask are history items, user features, item features.
        user_features: Features of the user.
        variants: The item under masks of its features; None if none of them is a player.
        compared_C: Indices of the compared items; empty if there are fewer than two.
        player_L: The player that each history value belongs to (an item may occur twice), or the number of history
            players for the explained item itself, which always stays.
        notes: How the explained query differs from the one that was asked, as sentences.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset,
        query: Queries,
        explained: Queries,
        item: int,
        history: tuple[Player, ...],
        user_features: MaskableFeatures,
        variants: ItemVariants | None,
        compared_C: Tensor,
        asked: Asked,
    ) -> None:
        self.model, self.item, self._item_I = model, item, torch.tensor([item])
        self.id, self.label = data.items.ids[item], data.titles(np.array([item]))[0]
        self.players = (*history, *user_features.players, *(() if variants is None else variants.features.players))
        stop = np.cumsum([len(history), len(user_features.players)]).tolist()
        self.history, self.user, self.features = slice(0, stop[0]), slice(*stop), slice(stop[1], len(self.players))
        self.queries = explained
        self.user_features, self.variants, self.compared_C, self.asked = user_features, variants, compared_C, asked
        self.player_L = _player_of_value(query.history.values, item)
        self.notes: tuple[str, ...] = tuple(self._notes(query))

    def __call__(self, masks_MP: Tensor) -> Tensor:
        """The item's score minus the average item's, with the players on that each mask (bool) holds, float32 `[M]`."""
        if self.history.stop == self.user.stop == 0:  # No player moves the other items' scores.
            return self.scores(masks_MP, self._item_I)[:, 0] - self.asked.explained_average
        return self.relative(masks_MP, self._item_I)[:, 0]

    def relative(self, masks_MP: Tensor, items_I: Tensor) -> Tensor:
        """The scores of some items minus the average item's, `[M, I]`."""
        scores_MX = self.scores(masks_MP, torch.cat([items_I, self.compared_C]))
        return relative_scores(scores_MX, len(items_I))

    @torch.no_grad()
    def scores(self, masks_MP: Tensor, items_I: Tensor | None = None) -> Tensor:
        """The scores of some items, `[M, I]`, or of all, `[M, N]`; the item's own features are masked too."""
        width = self.model.spec.n_items if items_I is None else len(items_I)
        step = max(1, MAX_VALUES_PER_BLOCK // max(width, len(self.player_L), 1))
        step = step if self.variants is None else min(step, MAX_VARIANTS_PER_BLOCK)
        blocks = [self._block(masks_MP[start : start + step], items_I) for start in range(0, len(masks_MP), step)]
        return torch.cat(blocks) if blocks else torch.zeros(0, width)

    def _block(self, masks_MP: Tensor, items_I: Tensor | None) -> Tensor:
        queries = self.masked(masks_MP)
        if self.variants is None:
            return own_scores(self.model, queries, items_I)
        mask_UP, variant_M = torch.unique(masks_MP[:, self.features], dim=0, return_inverse=True)
        first = self.model.spec.n_items
        variant_MU = own_scores(self.variants(mask_UP), queries, torch.arange(first, first + len(mask_UP)))
        item_M1 = variant_MU.gather(1, variant_M.unsqueeze(1))
        if items_I is not None and torch.equal(items_I, self._item_I):
            return item_M1
        scores_MI = own_scores(self.model, queries, items_I).clone()
        column = self._item_I if items_I is None else (items_I == self.item).nonzero().squeeze(1)[:1]
        scores_MI[:, column] = item_M1
        return scores_MI

    def masked(self, masks_MP: Tensor) -> Queries:
        """The query with some players off, once for each mask."""
        count, query = len(masks_MP), self.queries
        always_M1 = torch.ones(count, 1, dtype=torch.bool)
        if self.history.stop:
            keep_ML = torch.cat([masks_MP[:, self.history], always_M1], 1)[:, self.player_L]
        else:
            keep_ML = always_M1.expand(-1, len(self.player_L))
        ratings, times = (
            None if column is None else column.expand(count, -1)[keep_ML] for column in (query.ratings, query.times)
        )
        asked_at, fresh = (None if column is None else column.expand(count) for column in (query.asked_at, query.fresh))
        return Queries(
            query.user.expand(count),
            MaskedHistories.masked(query.history.values, keep_ML),
            ratings=ratings,
            features=self.user_features.variants(masks_MP[:, self.user]),
            times=times,
            asked_at=asked_at,
            fresh=fresh,
        )

    def weighted(self, weight_SL: Tensor) -> Queries:
        """The query with each history value weighted, once for each row, float32 `[S, L]`."""
        everything = torch.ones(len(weight_SL), len(self.players), dtype=torch.bool)
        return replace(
            self.masked(everything), history=MaskedHistories.weighted(self.queries.history.values, weight_SL)
        )

    @property
    def differs_from_ranker(self) -> bool:
        """Whether the ranker scores the item otherwise than the query that is explained: by a trained user vector."""
        return not same_score(self.asked.explained_score, self.asked.score)

    def _notes(self, query: Queries) -> Iterator[str]:
        asked = self.asked
        if self.differs_from_ranker:
            yield (
                f"The list ranks this user by a trained vector, which scores {self.label} {asked.score:.4g}. "
                f"Contributions explain the fold-in of the user's history, which scores it "
                f"{asked.explained_score:.4g}; the residual holds the difference."
            )
        if bool((query.history.values == self.item).any()):
            yield f"This user already has {self.label}, so lists leave it out."


def relative_scores(scores_MX: Tensor, items: int) -> Tensor:
    """The first `items` columns minus the mean of the others, those of the compared items; unchanged without any."""
    if scores_MX.shape[1] == items:
        return scores_MX
    return scores_MX[:, :items] - scores_MX[:, items:].mean(1, keepdim=True)


def game(
    model: Model,
    data: Dataset,
    queries: Queries,
    item: int,
    kinds: Collection[Kind] = DEFAULT_KINDS,
    compared_C: Tensor | None = None,
) -> Game:
    """What can be switched off in a query for an item.

    Args:
        model: Fitted.
        data: What it was fitted to, or a part of it: ids, titles, side tables.
        queries: One row.
        item: An index.
        kinds: Which kinds may be players; see `MaskableFeatures`.
        compared_C: Indices of the items whose mean score stands for the average item. Defaults to `compared_items`.

    Raises:
        CannotAnswer: Nothing can be switched off: the model reads neither history nor features, or this query has none.
        ConfigError: Several queries.
    """
    [one] = games(model, data, queries, [item], kinds, compared_C)
    return one


def games(
    model: Model,
    data: Dataset,
    queries: Queries,
    items: Sequence[int],
    kinds: Collection[Kind] = DEFAULT_KINDS,
    compared_C: Tensor | None = None,
) -> list[Game]:
    """The same for several items, whose scores are computed together; arguments and errors as of `game`."""
    if len(queries) != 1:
        raise ConfigError(f"an explanation is of one query; {len(queries)} were given")
    user = NO_FEATURES
    if model.spec.user_features is not None and queries.features is not None and reads_user(model):
        values = _table_row(data, "user", int(queries.user[0]))
        user = MaskableFeatures("your", model.spec.user_features, queries.features, values, kinds)
    if compared_C is None:
        compared_C = compared_items(model.spec.n_items, queries.history.values)
    masks_history = "history" in model.answers and "history" in kinds and bool(len(queries.history.values))
    explained, found = queries.anonymous() if masks_history else queries, []
    scores_N, explained_N = model.score(queries)[0], own_scores(model, explained, None)[0]
    rank_N = _ranks(scores_N, queries.history.values)
    for item in items:
        history = _history_players(model, data, queries, item) if masks_history else ()
        features = _item_features(model, data, item, kinds)
        variants = _variants(model, explained, item, features, float(explained_N[item]))
        if not (variants or history or user.players):
            raise _nothing_to_mask(model, data, queries, item, kinds, has_features=bool(features.players))
        asked = Asked(
            score=float(scores_N[item]),
            average=_mean(scores_N[compared_C]),
            rank=int(rank_N[item]) or None,
            explained_score=float(explained_N[item]),
            explained_average=_mean(explained_N[compared_C]),
        )
        found.append(Game(model, data, queries, explained, item, history, user, variants, compared_C, asked))
    return found


def compared_items(n_items: int, seen: Tensor) -> Tensor:
    """Items whose mean score stands for the average item: evenly spaced over the catalogue, and not seen.

    Args:
        n_items: Size of the catalogue.
        seen: Item indices of the history.

    Returns:
        At most `COMPARED_ITEMS` indices, ascending; none if fewer than two are left.
    """
    spaced = torch.linspace(0, n_items - 1, min(COMPARED_ITEMS, n_items), dtype=torch.float64).round().long()
    unseen = spaced[~torch.isin(spaced, seen)]
    return unseen if len(unseen) > 1 else unseen[:0]


def _mean(scores: Tensor) -> float:
    return float(scores.mean()) if len(scores) else 0.0


def _ranks(scores_N: Tensor, seen: Tensor) -> Tensor:
    """The rank of each item in the user's whole list, ties as the ranker breaks them; 0 for an item that was seen."""
    scores_1N = scores_N.clone()[None]
    scores_1N[0, seen] = -INF
    listed = best(scores_1N, len(scores_N), Ragged.empty(1), full=False, count=False)[0][0]
    listed = listed[listed >= 0]
    rank_N = torch.zeros(len(scores_N), dtype=torch.int64)
    rank_N[listed] = torch.arange(1, len(listed) + 1)
    return rank_N


@torch.no_grad()
def _variants(
    model: Model, explained: Queries, item: int, features: MaskableFeatures, score: float
) -> ItemVariants | None:
    """The item under masks, if the model scores it by its features: unmasked, it scores as the item itself."""
    if not features.players:
        return None
    found, everything = ItemVariants(model, item, features), torch.ones(1, len(features.players), dtype=torch.bool)
    unmasked = own_scores(found(everything), explained, torch.tensor([model.spec.n_items]))
    return found if same_score(float(unmasked[0, 0]), score) else None


def reads_user(model: Model) -> bool:
    """Whether scores depend on user attributes."""
    return "new_user" in model.answers or model.reads_user


def same_score(score: float, other: float) -> bool:
    """Whether two scores are equal up to rounding."""
    return abs(score - other) <= 1e-4 * max(1.0, abs(other))


def _item_features(model: Model, data: Dataset, item: int, kinds: Collection[Kind]) -> MaskableFeatures:
    """The features of the item, if the model reads them and scores new items by them."""
    schema = model.spec.item_features
    if schema is None or "new_item" not in model.answers or not {"feature", "word", "region"} & set(kinds):
        return NO_FEATURES
    row = data.encoded_items(schema).take(torch.tensor([item]))
    return MaskableFeatures("its", schema, row, _table_row(data, "item", item), kinds)


def _nothing_to_mask(
    model: Model, data: Dataset, queries: Queries, item: int, kinds: Collection[Kind], has_features: bool
) -> CannotAnswer:
    """Why there are no players."""
    name, spec, id_ = type(model).__name__, model.spec, data.items.ids[item]
    reads_item = spec.item_features is not None and "new_item" in model.answers
    if has_features:
        return CannotAnswer(f"{name} does not score item {id_!r} by its features, and the query holds nothing else")
    if "region" in kinds and reads_item:
        return CannotAnswer(f"item {id_!r} has no image that {name} reads, so its regions cannot be explained")
    if not (reads_item or "history" in model.answers or reads_user(model)):
        return CannotAnswer(
            f"{name} reads neither histories nor features, so no part of a query can be switched off; explain a model "
            "that answers `history` or `new_item`"
        )
    if "history" in kinds and len(queries.history.values):
        return CannotAnswer(
            f"the history holds only item {id_!r} itself, which cannot be a reason for itself; give other history items"
        )
    return CannotAnswer(
        f"this query and item hold nothing that {name} could do without (asked for: {', '.join(kinds)}); give a "
        "history: history=[...] or --history"
    )


@torch.no_grad()
@asked_from_anywhere
def own_scores(model: Model, queries: Queries, items_I: Tensor | None) -> Tensor:
    """The model's own scores, also for queries without evidence, for which `Model.score` returns popularity."""
    return model._score(queries) if items_I is None else model._score_items(queries, items_I)


def _player_of_value(values_L: Tensor, item: int) -> Tensor:
    """The place of each history value among the distinct others, by ascending index; the last place for the item."""
    place_L: Tensor
    distinct, place_L = torch.unique(values_L, return_inverse=True)
    if not bool((distinct == item).any()):
        return place_L
    own = int(torch.searchsorted(distinct, item))
    moved_L = place_L - (place_L > own).long()
    return torch.where(place_L == own, len(distinct) - 1, moved_L)


def _history_players(model: Model, data: Dataset, queries: Queries, item: int) -> tuple[Player, ...]:
    """One player for each distinct item of the history but the explained one, by ascending index."""
    values = queries.history.values
    index = torch.unique(values[values != item])
    scale = model.spec.rating_scale or data.rating_scale
    disliked = torch.zeros(0, dtype=torch.int64)
    if queries.ratings is not None and scale is not None:
        disliked = values[queries.ratings < sum(scale) / 2]
    ids, titles = data.items.ids[index.numpy()].to_list(), data.titles(index.numpy())
    liked = (~torch.isin(index, disliked)).tolist()
    return tuple(Player("history", *fields) for fields in zip(ids, titles, liked, strict=True))


def _table_row(data: Dataset, whose: str, index: int) -> dict[str, Any]:
    """The row of a side table, by column."""
    table = data.item_table if whose == "item" else data.user_table
    return {} if table is None or not 0 <= index < table.height else table.row(index, named=True)
