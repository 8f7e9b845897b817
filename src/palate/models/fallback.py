"""Fallback: the answer to queries that a model cannot answer itself, by popularity and mean ratings.

    score(i)         = n_i, the weighted number of interactions of i, for users without known attributes
    score(u, i)      = n_i prod_a p(i | v_a) / p(i), for users with attributes a of value v_a
    prediction(u, i) = mean of all + shrunken deviation of i, or of u if i is unknown

with p(i) = n_i / n the share of an item among all interactions, and p(i | v) its share among the n_v interactions of
users with the attribute value v, of which n_iv are with i:

    p(i | v) = (n_iv + S p(i)) / (n_v + S)

This is naive Bayes with a Dirichlet prior: S interactions distributed as all users' are added to those counted, so that
rare values have little effect and correlated attributes add little noise. S was chosen from 10, 100, 1,000, 3,000,
10,000 and 30,000 on the validation parts of the protocol new-users-0, three splits each of MovieLens-1M and 100K;
results on the test parts: benchmarks/results/new_people_*.md.

Numbers and dates count by the decile they fall into. The tags of one user share the weight of one attribute equally.
Each interaction counts with its sample weight, 1 for data without weights; repeated interactions count each.

Legend: B queries, N items, M items with lifts of their own, V values of all attributes, P pairs.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch, FeatureSchema
from palate.data.ragged import Ragged
from palate.device import asked_from_anywhere
from palate.models.buffers import check_ascending, check_indices
from palate.models.layers import SHRINK, sum_rows

PRIOR_INTERACTIONS = 10_000.0
"""S."""
BINS = 10
"""Bins of each number."""
MAX_VALUES_PER_COLUMN = 64
"""Values of a category or tags column that are counted, the most frequent ones."""
MAX_LIFTS = 2**22
"""Entries of the table of lifts, 16 MB; a larger catalogue has lifts for its most popular items only."""
ROWS_PER_BLOCK = 2**20
"""Interactions counted at once."""
MAX_LOG_LIFT = 30.0
"""Bound of the logarithm of the product over attributes."""


class Fallback(nn.Module):
    """Popularity (of all users, or given a user's attributes) and mean ratings; see the module for the formulas.

    Attributes:
        popularity: n_i, float32 `[N]`.
        mean: Mean rating; 0 for data without ratings.
        user_deviation: Shrunken deviation of each user's mean rating from `mean`, float32 `[n_users]`.
        item_deviation: The same for each item, float32 `[N]`.
        by_attribute: Popularity given attributes; None if there are no user attributes.
    """

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
        schema, known_items = spec.user_features, spec.n_items - spec.new_items
        readable = schema is not None and bool(schema.of("number", "date", "category", "tags"))
        self.by_attribute = AttributePopularity(schema, known_items) if schema is not None and readable else None

    def learn(self, data: Dataset) -> None:
        """Compute all counts and means from the training rows."""
        choices = data.training_rows(repeats=True, ratings=False)
        self.popularity.copy_(torch.from_numpy(choices.item_weights))
        if self.by_attribute is not None:
            self.by_attribute.learn(choices)
        if data.rating is None:
            return
        weight = np.ones(len(data), dtype=np.float32) if data.weight is None else data.weight
        mean = float(
            np.mean(data.rating, dtype=np.float64)
            if data.weight is None
            else np.average(data.rating.astype(np.float64), weights=weight)
        )
        self.mean.fill_(mean)
        for deviation, index in ((self.user_deviation, data.user), (self.item_deviation, data.item)):
            total = np.bincount(index, weights=weight * (data.rating - mean), minlength=len(deviation))
            count = np.bincount(index, weights=weight, minlength=len(deviation))
            deviation.copy_(torch.from_numpy(total / (count + SHRINK)))

    def with_items(self, more: int) -> Fallback:
        """The same fallback for a catalogue with new items, which have no interactions.

        Args:
            more: Number of new items; they follow the known ones.
        """
        larger = copy.copy(self)
        larger._buffers = dict(self._buffers)
        for name in ("popularity", "item_deviation"):
            known = getattr(self, name)
            setattr(larger, name, torch.cat([known, known.new_zeros(more)]))
        return larger

    def score(self, queries: Queries) -> Tensor:
        """Popularity for each query, given the user's attributes if any are known, `[B, N]`."""
        if self.by_attribute is None or queries.features is None:
            return self.popularity.expand(len(queries), -1)
        return self.by_attribute.score(self.popularity, queries.features)

    @asked_from_anywhere
    def has_attributes(self, queries: Queries) -> Tensor:
        """For which queries `score` depends on an attribute of the user, bool `[B]`."""
        if self.by_attribute is None or queries.features is None:
            return torch.zeros(len(queries), dtype=torch.bool, device=queries.user.device)
        return self.by_attribute.attribute_values(queries.features)[0].lengths > 0

    def names(self, query: Queries) -> str:
        """The attribute values that `score` uses for one query, in words."""
        if self.by_attribute is None or query.features is None:
            return ""
        places = self.by_attribute.attribute_values(query.features)[0].values.tolist()
        return ", ".join(self.by_attribute.names[place] for place in places)

    def predict(self, user_P: Tensor, item_P: Tensor) -> Tensor:
        """Mean rating plus the deviation of the item, or of the user if the item is unknown, `[P]`; -1 is unknown."""
        zero = self.mean.new_zeros(())
        item = torch.where(item_P >= 0, self.item_deviation[item_P.clamp(min=0)], zero)
        user = torch.where(user_P >= 0, self.user_deviation[user_P.clamp(min=0)], zero)
        return self.mean + torch.where(item_P >= 0, item, user)


class AttributePopularity(nn.Module):
    """How much more popular each item is among users with a given attribute value than among all users.

    Args:
        features: How user attributes are encoded.
        n_items: Number of items with interactions.

    Attributes:
        edges: Boundaries between the bins of each number, float32 `[numbers, BINS - 1]`.
        item: The items with lifts, ascending, int64 `[M]`.
        lift: log p(i | v) / p(i), float32 `[V, M]`.
    """

    edges: Tensor
    item: Tensor
    lift: Tensor

    def __init__(self, features: FeatureSchema, n_items: int) -> None:
        super().__init__()
        self.features, self.n_items = features, n_items
        self.numbers: list[int] = []  # The place of each number; of a date, the place of its year.
        place = 0
        for column in features.of("number", "date"):
            self.numbers.append(place)
            place += len(column.mean)
        columns = (*features.of("category"), *features.of("tags"))
        sizes = [min(len(column.values), MAX_VALUES_PER_COLUMN) for column in columns]
        self.first = np.concatenate(([0], np.cumsum([BINS] * len(self.numbers) + sizes))).tolist()
        width = min(n_items, MAX_LIFTS // max(self.first[-1], 1))
        self.register_buffer("edges", torch.zeros(len(self.numbers), BINS - 1))
        self.register_buffer("item", torch.arange(width))
        self.register_buffer("lift", torch.zeros(self.first[-1], width))

    def check_buffers(self) -> None:
        """Check the items with lifts and the bins; see `palate.models.buffers`."""
        check_indices("item", self.item, self.n_items)
        check_ascending("item", self.item)
        check_ascending("edges", self.edges)

    def learn(self, data: Dataset) -> None:
        """Compute bins and lifts from the training rows."""
        users = data.encoded_users(self.features)
        for row, place in enumerate(self.numbers):
            known = users.numbers[:, place][users.known[:, place]].numpy()
            if len(known):
                self.edges[row] = torch.from_numpy(np.quantile(known, np.arange(1, BINS) / BINS))
        most_popular = np.argsort(-data.item_weights, kind="stable")[: len(self.item)]
        self.item.copy_(torch.from_numpy(np.sort(most_popular)))
        n_VM, n_V = self._counts(data, self.attribute_values(users)[0])
        share_M = torch.from_numpy(data.item_weights[self.item.numpy()] / (data.item_weights.sum() or 1.0))
        prior = PRIOR_INTERACTIONS
        lift_VM = torch.log((n_VM / share_M.clamp(min=1e-12) + prior) / (n_V[:, None] + prior))
        self.lift.copy_(torch.where(share_M > 0, lift_VM, 0.0))

    def _counts(self, data: Dataset, values: Ragged) -> tuple[Tensor, Tensor]:
        """Weighted interactions of users with each value, by item, float64 `[V, M]`, and in total, float64 `[V]`.

        Args:
            data: The training rows.
            values: Places in `lift` of each user's attribute values.
        """
        n_values, width = self.lift.shape
        place_N = torch.full((data.n_items,), -1)
        place_N[self.item] = torch.arange(width)
        n_VM = torch.zeros(n_values * width, dtype=torch.float64)
        n_V = torch.zeros(n_values, dtype=torch.float64)
        for start in range(0, len(data), ROWS_PER_BLOCK):
            part = slice(start, start + ROWS_PER_BLOCK)
            weight = np.ones(len(data.user[part])) if data.weight is None else data.weight[part].astype(np.float64)
            value = values.take(torch.from_numpy(data.user[part].astype(np.int64)))
            place = place_N[torch.from_numpy(data.item[part].astype(np.int64))][value.row_of_value]
            factor = torch.from_numpy(weight)[value.row_of_value]
            counted = place >= 0
            pair = (value.values * width + place)[counted]
            n_VM += torch.bincount(pair, factor[counted], minlength=len(n_VM))
            n_V += torch.bincount(value.values, factor, minlength=n_values)
        return n_VM.view(n_values, width), n_V

    @property
    def names(self) -> list[str]:
        """What each row of `lift` stands for, in words."""
        found = []
        for edges, column in zip(self.edges, self.features.of("number", "date"), strict=True):
            bounds = [f"{float(edge) * column.std[0] + column.mean[0]:.4g}" for edge in edges]
            between = [f"{low} to {high}" for low, high in pairwise(bounds)]
            found += [f"{column.name} {text}" for text in (f"below {bounds[0]}", *between, f"from {bounds[-1]}")]
        for column in (*self.features.of("category"), *self.features.of("tags")):
            found += [f"{column.name} {value}" for value in column.values[:MAX_VALUES_PER_COLUMN]]
        return found

    def attribute_values(self, users: FeatureBatch) -> tuple[Ragged, Tensor]:
        """The known attribute values of each user: rows of `lift`, ragged with B rows, and a weight for each value."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []

        def collect(row: Tensor, value: Tensor, first: int, last: int) -> None:
            """Values count from 1; 0 is unknown, and values beyond the counted ones are treated as unknown."""
            counted = (value > 0) & (value <= last - first)
            row = row[counted]
            found.append((row, first + value[counted] - 1, 1 / torch.bincount(row, minlength=len(users))[row]))

        bounds = pairwise(self.first)
        all_rows = torch.arange(len(users), device=users.known.device)
        for edges, place in zip(self.edges, self.numbers, strict=True):
            bin_B = torch.searchsorted(edges, users.numbers[:, place].contiguous(), right=True) + 1
            collect(all_rows, bin_B * users.known[:, place], *next(bounds))
        for column in range(users.categories.shape[1]):
            collect(all_rows, users.categories[:, column], *next(bounds))
        for tags in self.features.of("tags"):
            ragged = users.tags[tags.name]
            collect(ragged.row_of_value, ragged.values, *next(bounds))
        row, value, weight = (torch.cat(part) for part in zip(*found, strict=True))
        order = row.argsort(stable=True)
        return Ragged.from_lengths(value[order], torch.bincount(row, minlength=len(users))), weight[order]

    def score(self, popularity_N: Tensor, users: FeatureBatch) -> Tensor:
        """Popularity among users with the attributes of each of these users, `[B, N]`."""
        scores_BN = popularity_N.repeat(len(users), 1)
        log_BM = sum_rows(self.lift, *self.attribute_values(users)).clamp(-MAX_LOG_LIFT, MAX_LOG_LIFT)
        scores_BN[:, self.item] *= log_BM.exp()
        return scores_BN
