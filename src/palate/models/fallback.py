"""What every model falls back on where it has no answer of its own: popularity, and mean ratings.

    score(i)         = n_i, the number of interactions of i, where nothing is known of a person
    score(u, i)      = n_i prod_a p(i | v_a) / p(i), where their attributes are
    prediction(u, i) = mean of all + shrunken deviation of i, else of u

with p(i) = n_i / n an item's share of all interactions, v_a the person's value of attribute a (age, occupation, ...)
and p(i | v) the share among the n_v interactions of people with that value, n_iv of them with i:

    p(i | v) = (n_iv + S p(i)) / (n_v + S)

That is naive Bayes with a Dirichlet prior: S interactions such as everybody's stand beside those that were counted, so
that a value few people share says little, and attributes that go together do not make noise. S was chosen on the valid
parts of the protocol new-users-0, three draws of MovieLens-1M and of 100K, among 10, 100, 1,000, 3,000, 10,000 and
30,000; what it gives on the test parts: benchmarks/results/new_people_*.md.

Numbers and dates count by the tenth of the people that they fall into; of somebody's tags each counts by its share.

Legend: B queries, N items, M items counted, V values of all attributes.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.encoded import Encoded, Features
from palate.data.ragged import Ragged
from palate.models.layers import SHRINK, sum_rows

SMOOTH = 10_000.0
"""S, in interactions."""
BINS = 10
"""Parts that a number is told apart by."""
MOST = 64
"""Values of a category or tags that are told apart, the most frequent ones."""
CELLS = 2**22
"""Most numbers to keep, 16 MB: where there are more items than that allows, the most popular are told apart."""
ROWS = 2**20
"""Interactions counted at once."""
FAR = 30.0
"""Bound of the product's logarithm."""


class Fallback(nn.Module):
    """Popularity, of all or within the attributes of a person, and mean ratings; see above."""

    popularity: Tensor
    mean: Tensor
    user_deviation: Tensor
    item_deviation: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.register_buffer("popularity", torch.zeros(spec.n_items))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("user_deviation", torch.zeros(spec.n_users))
        self.register_buffer("item_deviation", torch.zeros(spec.n_items))
        about, known = spec.user_features, spec.n_items - spec.new_items
        told = about is not None and bool(about.of("number", "date", "category", "tags"))
        self.within = Within(about, known) if about is not None and told else None

    def learn(self, data: Dataset) -> None:
        """Count and average the training rows."""
        self.popularity.copy_(torch.from_numpy(data.item_counts))
        if self.within is not None:
            self.within.learn(data)
        if data.rating is None:
            return
        mean = float(np.mean(data.rating, dtype=np.float64))
        self.mean.fill_(mean)
        for deviation, index in ((self.user_deviation, data.user), (self.item_deviation, data.item)):
            total = np.bincount(index, weights=data.rating - mean, minlength=len(deviation))
            count = np.bincount(index, minlength=len(deviation))
            deviation.copy_(torch.from_numpy(total / (count + SHRINK)))

    def with_items(self, more: int) -> Fallback:
        """The same with items after the known ones that nobody has had yet."""
        grown = copy.copy(self)
        grown._buffers = dict(self._buffers)
        for name in ("popularity", "item_deviation"):
            setattr(grown, name, torch.cat([getattr(self, name), torch.zeros(more)]))
        return grown

    def score(self, queries: Queries) -> Tensor:
        """Popularity for every query, `[B, N]`."""
        if self.within is None or queries.features is None:
            return self.popularity.expand(len(queries), -1)
        return self.within.raised(self.popularity, queries.features)

    def told(self, queries: Queries) -> Tensor:
        """Of whom an attribute is known that popularity can go by, bool `[B]`."""
        if self.within is None or queries.features is None:
            return torch.zeros(len(queries), dtype=torch.bool)
        return self.within.values(queries.features)[0].lengths > 0

    def names(self, query: Queries) -> str:
        """The attributes of one person that popularity goes by, in words."""
        if self.within is None or query.features is None:
            return ""
        return ", ".join(self.within.names[place] for place in self.within.values(query.features)[0].values.tolist())

    def predict(self, user_P: Tensor, item_P: Tensor) -> Tensor:
        """Mean rating, corrected by the item or else by the user; -1 is unknown. `[P]`."""
        zero = torch.zeros(())
        item = torch.where(item_P >= 0, self.item_deviation[item_P.clamp(min=0)], zero)
        user = torch.where(user_P >= 0, self.user_deviation[user_P.clamp(min=0)], zero)
        return self.mean + torch.where(item_P >= 0, item, user)


class Within(nn.Module):
    """How much more popular items are with people who have a value of an attribute.

    Attributes:
        edges: Between the tenths of each number, float32 `[numbers, BINS - 1]`.
        item: The items that are told apart, ascending, int64 `[M]`.
        lift: log p(i | v) / p(i), float32 `[V, M]`.
    """

    edges: Tensor
    item: Tensor
    lift: Tensor

    def __init__(self, features: Features, n_items: int) -> None:
        super().__init__()
        self.features = features
        self.numbers: list[int] = []  # the place of each number, of a date its year's
        place = 0
        for column in features.of("number", "date"):
            self.numbers.append(place)
            place += len(column.mean)
        sizes = [min(len(column.values), MOST) for column in (*features.of("category"), *features.of("tags"))]
        self.first = np.concatenate(([0], np.cumsum([BINS] * len(self.numbers) + sizes))).tolist()
        width = min(n_items, CELLS // max(self.first[-1], 1))
        self.register_buffer("edges", torch.zeros(len(self.numbers), BINS - 1))
        self.register_buffer("item", torch.arange(width))
        self.register_buffer("lift", torch.zeros(self.first[-1], width))

    def learn(self, data: Dataset) -> None:
        """Count the training rows."""
        known = data.encoded_users(self.features)
        for row, place in enumerate(self.numbers):
            some = known.numbers[:, place][known.known[:, place]].numpy()
            if len(some):
                self.edges[row] = torch.from_numpy(np.quantile(some, np.arange(1, BINS) / BINS))
        best = np.argsort(-data.item_counts, kind="stable")[: len(self.item)]
        self.item.copy_(torch.from_numpy(np.sort(best)))
        n_VM, n_V = self._counts(data, self.values(known)[0])
        share_M = torch.from_numpy(data.item_counts[self.item.numpy()] / max(len(data), 1))
        lift_VM = torch.log((n_VM / share_M.clamp(min=1e-12) + SMOOTH) / (n_V[:, None] + SMOOTH))
        self.lift.copy_(torch.where(share_M > 0, lift_VM, 0.0))

    def _counts(self, data: Dataset, people: Ragged) -> tuple[Tensor, Tensor]:
        """Interactions of people with each value, with each of the items, float64 `[V, M]`, and with any, `[V]`."""
        n_values, width = self.lift.shape
        place_N = torch.full((data.n_items,), -1)
        place_N[self.item] = torch.arange(width)
        n_VM = torch.zeros(n_values * width, dtype=torch.float64)
        n_V = torch.zeros(n_values, dtype=torch.float64)
        for start in range(0, len(data), ROWS):
            part = slice(start, start + ROWS)
            theirs = people.take(torch.from_numpy(data.user[part].astype(np.int64)))
            place = place_N[torch.from_numpy(data.item[part].astype(np.int64))][theirs.row_of_value]
            pair = (theirs.values * width + place)[place >= 0]
            n_VM += torch.bincount(pair, minlength=len(n_VM))
            n_V += torch.bincount(theirs.values, minlength=n_values)
        return n_VM.view(n_values, width), n_V

    @property
    def names(self) -> list[str]:
        """What each place of `lift` stands for, in words."""
        found = []
        for edges, column in zip(self.edges, self.features.of("number", "date"), strict=True):
            bounds = [f"{float(edge) * column.std[0] + column.mean[0]:.4g}" for edge in edges]
            between = [f"{low} to {high}" for low, high in pairwise(bounds)]
            found += [f"{column.name} {text}" for text in (f"below {bounds[0]}", *between, f"from {bounds[-1]}")]
        for column in (*self.features.of("category"), *self.features.of("tags")):
            found += [f"{column.name} {value}" for value in column.values[:MOST]]
        return found

    def values(self, known: Encoded) -> tuple[Ragged, Tensor]:
        """What is known of each person, B rows of places in `lift`, and the weight of each."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []

        def take(row: Tensor, value: Tensor, first: int, last: int) -> None:
            """Values from 1; 0 is unknown, and so are those that are not told apart."""
            there = (value > 0) & (value <= last - first)
            row = row[there]
            found.append((row, first + value[there] - 1, 1 / torch.bincount(row, minlength=len(known))[row]))

        bounds = pairwise(self.first)
        everybody = torch.arange(len(known))
        for edges, place in zip(self.edges, self.numbers, strict=True):
            bin_B = torch.searchsorted(edges, known.numbers[:, place].contiguous(), right=True) + 1
            take(everybody, bin_B * known.known[:, place], *next(bounds))
        for column in range(known.categories.shape[1]):
            take(everybody, known.categories[:, column], *next(bounds))
        for of_tags in self.features.of("tags"):
            ragged = known.tags[of_tags.name]
            take(ragged.row_of_value, ragged.values, *next(bounds))
        row, value, weight = (torch.cat(part) for part in zip(*found, strict=True))
        order = row.argsort(stable=True)
        return Ragged.from_lengths(value[order], torch.bincount(row, minlength=len(known))), weight[order]

    def raised(self, popularity_N: Tensor, known: Encoded) -> Tensor:
        """Popularity with people like each of these, `[B, N]`."""
        scores_BN = popularity_N.repeat(len(known), 1)
        log_BM = sum_rows(self.lift, *self.values(known)).clamp(-FAR, FAR)
        scores_BN[:, self.item] *= log_BM.exp()
        return scores_BN
