"""MaskableFeatures: the features of one user or one item, whose columns, words and image regions can be switched off.

A number, category, tag list, vector, whole text or whole image that is off is encoded as unknown. A word that is off is
removed everywhere in its text; words that do not occur in the training data are not players and always stay. A region
that is off is blurred.

Legend: M masks, P players, L tokens, C channels, H height, W width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.data.features.schema import Column, FeatureBatch, FeatureSchema, Images
from palate.data.ragged import MaskedHistories
from palate.explanation.explanation import Kind, Player

REGIONS_PER_SIDE = 6
"""Regions of an image, down and across."""

Switch = Callable[[FeatureBatch, Tensor], FeatureBatch]
"""Takes M equal rows and which of some players are on, bool `[M, players]`; returns the rows with the others off."""


class MaskableFeatures:
    """One row of features, as players.

    Args:
        owner: "its" for an item or "your" for a user; labels begin with it.
        schema: How the columns are encoded. None if the model reads no features.
        row: One encoded row. None if there is none.
        values: The values as they are in the table, by column; labels show them.
        kinds: Which kinds may be players. `word` splits texts into words and `region` splits images into regions;
            without them a text or an image is one feature.

    Attributes:
        row: The row.
        players: One for each column, word or region that has a value and can be switched off.
    """

    def __init__(
        self,
        owner: str,
        schema: FeatureSchema | None,
        row: FeatureBatch | None,
        values: Mapping[str, Any],
        kinds: Collection[Kind],
    ) -> None:
        self.row = row
        self.players: tuple[Player, ...] = ()
        self._switches: list[tuple[slice, Switch]] = []
        if schema is None or row is None:
            return
        for column in schema.columns:
            label = _label(owner, column, values.get(column.name))
            found, switch = _column_players(schema, column, row, label, kinds)
            if found:
                self._switches.append((slice(len(self.players), len(self.players) + len(found)), switch))
                self.players += tuple(found)
        self.players = tuple(unambiguous(self.players))

    def variants(self, masks_MP: Tensor) -> FeatureBatch | None:
        """The row with some players off, once for each mask; None if there is no row."""
        if self.row is None:
            return None
        rows = self.row.take(torch.zeros(len(masks_MP), dtype=torch.int64))
        for part, switch in self._switches:
            if not bool(masks_MP[:, part].all()):
                rows = switch(rows, masks_MP[:, part])
        return rows


NO_FEATURES = MaskableFeatures("", None, None, {}, ())
"""For models that read no features."""


def _column_players(
    schema: FeatureSchema, column: Column, row: FeatureBatch, label: str, kinds: Collection[Kind]
) -> tuple[list[Player], Switch]:
    """The players of a column, none if it has no value, and how they are switched off."""
    name, kind = column.name, column.kind
    if kind == "text" and "word" in kinds:
        return _words(column, row.text[name].values)
    if kind == "image" and "region" in kinds:
        return _regions(column, row.images[name])
    if "feature" not in kinds:
        return [], _unchanged
    player = [Player("feature", name, label)]
    if kind in ("number", "date"):
        sizes = [len(each.mean) for each in schema.of("number", "date")]
        ends = np.cumsum([0, *sizes]).tolist()
        place = [each.name for each in schema.of("number", "date")].index(name)
        within = slice(ends[place], ends[place + 1])
        return (player if bool(row.known[:, within].any()) else []), _numbers(within)
    if kind == "category":
        place = [each.name for each in schema.of("category")].index(name)
        return (player if int(row.categories[0, place]) > 0 else []), _category(place)
    if kind in ("tags", "text"):
        field = "tags" if kind == "tags" else "text"
        return (player if len(getattr(row, field)[name].values) else []), _ragged(field, name)
    if kind == "image":
        return (player if int(row.images[name].row[0]) >= 0 else []), _image(name)
    return ([] if bool(row.vectors[name].isnan().any()) else player), _vector(name)


def _unchanged(rows: FeatureBatch, on: Tensor) -> FeatureBatch:
    return rows


def _numbers(within: slice) -> Switch:
    def switch(rows: FeatureBatch, on: Tensor) -> FeatureBatch:
        numbers, known = rows.numbers.clone(), rows.known.clone()
        numbers[:, within] *= on
        known[:, within] &= on
        return replace(rows, numbers=numbers, known=known)

    return switch


def _category(place: int) -> Switch:
    def switch(rows: FeatureBatch, on: Tensor) -> FeatureBatch:
        categories = rows.categories.clone()
        categories[:, place] *= on[:, 0]
        return replace(rows, categories=categories)

    return switch


def _ragged(field: str, name: str) -> Switch:
    def switch(rows: FeatureBatch, on: Tensor) -> FeatureBatch:
        columns = getattr(rows, field)
        kept = columns[name].keep(on[columns[name].row_of_value, 0])
        return replace(rows, **{field: columns | {name: kept}})

    return switch


def _image(name: str) -> Switch:
    def switch(rows: FeatureBatch, on: Tensor) -> FeatureBatch:
        images = rows.images[name]
        row = torch.where(on[:, 0], images.row, -1)
        return replace(rows, images=rows.images | {name: Images(images.pixels, row)})

    return switch


def _vector(name: str) -> Switch:
    def switch(rows: FeatureBatch, on: Tensor) -> FeatureBatch:
        vector = torch.where(on, rows.vectors[name], torch.nan)
        return replace(rows, vectors=rows.vectors | {name: vector})

    return switch


def unambiguous(players: Sequence[Player]) -> Iterator[Player]:
    """The players; a word that occurs in several columns is named with its column."""
    count = Counter(player.label for player in players if player.kind == "word")
    for player in players:
        several = player.kind == "word" and count[player.label] > 1
        yield replace(player, label=f"{player.label} ({player.key[0]})") if several else player


def _words(column: Column, token_L: Tensor) -> tuple[list[Player], Switch]:
    """One player for each distinct known word, named by the place of its first occurrence."""
    place_of: dict[int, int] = {}
    for place, token in enumerate(token_L.tolist()):
        if token > 0:
            place_of.setdefault(token, place)
    players = [Player("word", (column.name, p, word(column, t)), word(column, t)) for t, p in place_of.items()]
    player_of = {token: number for number, token in enumerate(place_of)}
    # One more column than players: unknown words are always on.
    number_L = torch.tensor([player_of.get(t, len(players)) for t in token_L.tolist()], dtype=torch.int64)

    def switch(rows: FeatureBatch, on: Tensor) -> FeatureBatch:
        always = torch.ones(len(on), 1, dtype=torch.bool)
        kept = MaskedHistories.masked(token_L, torch.cat([on, always], dim=1)[:, number_L])
        return replace(rows, text=rows.text | {column.name: kept})

    return players, switch


def word(column: Column, token: int) -> str:
    """The word of a token; an ellipsis for a word that does not occur in the training data."""
    return column.values[token - 1] if token > 0 else "…"


def _regions(column: Column, images: Images) -> tuple[list[Player], Switch]:
    """A grid of boxes; boxes that are off show the image blurred."""
    row = int(images.row[0])
    if row < 0:
        return [], _unchanged
    sharp_CHW = torch.from_numpy(np.array(images.pixels[row])).float()
    blurred_CHW = blur(sharp_CHW)
    boxes = list(region_boxes(*sharp_CHW.shape[1:]))
    players = [Player("region", (column.name, b), f"{column.name} {b[0]}-{b[2]}, {b[1]}-{b[3]}") for b in boxes]
    number_HW = torch.zeros(sharp_CHW.shape[1:], dtype=torch.int64)
    for number, (top, left, bottom, right) in enumerate(boxes):
        number_HW[top:bottom, left:right] = number

    def switch(rows: FeatureBatch, on: Tensor) -> FeatureBatch:
        keep_M1HW = on[:, number_HW].unsqueeze(1)
        pixels = torch.where(keep_M1HW, sharp_CHW, blurred_CHW).round().to(torch.uint8)
        row_M = torch.where(rows.images[column.name].row < 0, -1, torch.arange(len(on)))
        return replace(rows, images=rows.images | {column.name: Images(pixels.numpy(), row_M)})

    return players, switch


def region_boxes(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (top, left, bottom, right) that cover an image, row by row."""
    down, across = (
        np.linspace(0, size, min(REGIONS_PER_SIDE, size) + 1).round().astype(int).tolist() for size in (height, width)
    )
    for top, bottom in pairwise(down):
        for left, right in pairwise(across):
            yield top, left, bottom, right


def blur(image_CHW: Tensor) -> Tensor:
    """Three box blurs as wide as a quarter of the shorter side: they keep colours and remove shapes."""
    reach = max(1, min(image_CHW.shape[1:]) // 8)
    smooth = image_CHW.unsqueeze(0)
    for _ in range(3):
        smooth = F.avg_pool2d(F.pad(smooth, [reach] * 4, mode="replicate"), 2 * reach + 1, stride=1)
    return smooth.squeeze(0)


def _label(owner: str, column: Column, value: Any) -> str:
    """A column as text for readers: its owner, its name and, if it is short, its value."""
    if value is None or column.kind in ("text", "image", "vector"):
        return f"{owner} {column.name}"
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f"{owner} {column.name} {text if len(text) <= 40 else text[:39].rstrip() + '…'}"
