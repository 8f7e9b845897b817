"""Sanity checks of explainers: they must follow the model's weights and ignore what the model never sees.

- Shuffled weights (Adebayo et al. 2018, "Sanity checks for saliency maps"): the entries of every weight tensor are
  permuted. An explainer whose explanations stay the same does not depend on the model.
- Irrelevant items (the null player of Shapley 1953): items are added to the history that the model is made to ignore.
  They must get no contribution, and the other items must keep their order.

Legend: U users, D distinct (user, history item) pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.data.ragged import MaskedHistories, Ragged
from palate.errors import CannotAnswer
from palate.evaluation.result import Estimate
from palate.explanation.agreement import correlation
from palate.explanation.explained_users import HISTORY, ExplainedUsers, find_users
from palate.explanation.fidelity import (
    HISTORY_EXPLAINERS,
    SAMPLING_EXPLAINERS,
    SECOND_SEED,
    Explain,
    contributions,
    estimate,
    explainers,
)
from palate.explanation.players import game
from palate.explanation.shapley import SAMPLES
from palate.models.base import Model
from palate.ranking.ranked import join
from palate.training.loop import Epoch, TrainRun

IRRELEVANT_ITEMS = 3
"""Irrelevant items added to each history."""
MAX_SHUFFLED_CORRELATION = 0.9
"""Rank correlation with the shuffled model's explanations above which an explainer does not depend on the model."""
MAX_ORDER_LOSS = 0.1
"""Rank correlation that irrelevant items may cost, beyond what a second seed alone costs."""
MAX_IRRELEVANT_SHARE = 0.1
"""Share of the largest contribution that irrelevant items may get."""


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """The results of one explainer's checks.

    Attributes:
        shuffled: Spearman's correlation of explanations of the model and of the model with shuffled weights; near 0.
        irrelevant: Mean |contribution| of an item the model ignores, as a share of the largest; near 0. None for
            an explainer that works inside the model and so is not available for a wrapped one.
        kept: Spearman's correlation of the real items' contributions with and without irrelevant ones. None likewise.
        repeated: The same with nothing added, under a second seed: the best that `kept` can be.
    """

    shuffled: Estimate
    irrelevant: Estimate | None
    kept: Estimate | None
    repeated: Estimate

    @property
    def faults(self) -> list[str]:
        """Which checks the explainer failed, as the rest of a sentence that begins with its name."""
        found = []
        if self.shuffled.value > MAX_SHUFFLED_CORRELATION:
            value = f"rank correlation {self.shuffled.value:.2f}"
            found.append(f"gives the same explanations for a model with shuffled weights ({value})")
        if self.irrelevant is not None and self.irrelevant.value > MAX_IRRELEVANT_SHARE:
            found.append(f"gives items the model ignores {self.irrelevant.value:.0%} of the largest contribution")
        if self.kept is not None and self.kept.value < self.repeated.value - MAX_ORDER_LOSS:
            values = f"rank correlation {self.kept.value:.2f}, {self.repeated.value:.2f} without them"
            found.append(f"changes the order of the history if irrelevant items are added ({values})")
        return found


def sanity(
    model: Any,
    data: Dataset,
    methods: Sequence[str] | Mapping[str, Explain] | None = None,
    *,
    users: int | np.ndarray = 50,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Sanity]:
    """Run both checks of each explainer on some users.

    Args:
        model, data, methods, users, samples: As in `palate.explanation.fidelity.fidelity`.
        seed: Seed of users, masks, the shuffle and the irrelevant items.
    """
    explained = find_users(model, data, users, seed)
    of_shuffled = _with_model(explained, shuffled(model, seed))
    padded = _with_irrelevant_items(explained, seed)
    row_D = explained.masked.row_D.numpy()
    inside = explainers(padded.games[0], None)
    found = {}
    for method, explain in explainers(explained.games[0], methods, samples).items():
        value_D = contributions(explained, explain, seed)
        deterministic = method in HISTORY_EXPLAINERS and method not in SAMPLING_EXPLAINERS
        again_D = value_D if deterministic else contributions(explained, explain, seed + SECOND_SEED)
        irrelevant = kept = None
        if method not in HISTORY_EXPLAINERS or method in inside:
            irrelevant, kept = _irrelevant(explained, padded, explain, value_D, seed)
        changed = correlation(value_D, contributions(of_shuffled, explain, seed), row_D)
        found[method] = Sanity(
            shuffled=estimate(changed, seed),
            irrelevant=irrelevant,
            kept=kept,
            repeated=estimate(correlation(value_D, again_D, row_D), seed),
        )
    return found


def shuffled(model: Any, seed: int) -> Any:
    """A copy of a model with the entries of every floating tensor permuted; its fallback stays as it is."""
    other, rng = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for name, tensor in other.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() > 1 and not name.startswith("fallback."):
            permuted = tensor.reshape(-1)[torch.randperm(tensor.numel(), generator=rng)]
            tensor.copy_(permuted.view(tensor.shape))
    return other.eval()


class IgnoringModel(Model):
    """A model that ignores some items of a history; everything else is the wrapped model.

    Args:
        wrapped: Fitted.
        ignored: Indices of the items.
    """

    def __init__(self, wrapped: Model, ignored: Tensor) -> None:
        super().__init__(wrapped.config, wrapped.spec)
        self.wrapped, self.ignored, self.answers = wrapped, ignored, wrapped.answers
        self.fallback, self.confidence = wrapped.fallback, wrapped.confidence
        self.eval()

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        raise CannotAnswer("the wrapped model is already fitted")

    def _score(self, queries: Queries) -> Tensor:
        return self.wrapped._score(self._without_ignored(queries))

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.wrapped._score_items(self._without_ignored(queries), item_I)

    def _without_ignored(self, queries: Queries) -> Queries:
        history, kept = queries.history, queries.keep(~torch.isin(queries.history.values, self.ignored))
        if not isinstance(history, MaskedHistories):
            return kept
        mask_ML = history.mask & ~torch.isin(history.whole, self.ignored)
        return replace(kept, history=MaskedHistories.masked(history.whole, mask_ML))


def _with_model(explained: ExplainedUsers, model: Any) -> ExplainedUsers:
    """The same users, histories and items with another model."""
    queries, items = explained.masked.queries, explained.masked.item_U
    games = [
        game(model, explained.data, queries.take(torch.tensor([row])), int(item), HISTORY)
        for row, item in enumerate(items)
    ]
    return replace(explained, games=games)


def _with_irrelevant_items(explained: ExplainedUsers, seed: int) -> ExplainedUsers:
    """The same users with `IRRELEVANT_ITEMS` more items each, and models that ignore these."""
    masked, rng, games = explained.masked, np.random.default_rng(seed), []
    for row, item in enumerate(masked.item_U.tolist()):
        seen = [*masked.queries.history[row].tolist(), item]
        free = np.setdiff1d(np.arange(masked.model.spec.n_items), seen)
        added = torch.from_numpy(rng.choice(free, min(IRRELEVANT_ITEMS, len(free)), replace=False))
        query = masked.queries.take(torch.tensor([row]))
        ratings = None if query.ratings is None else torch.cat([query.ratings, query.ratings.mean().expand(len(added))])
        times = None if query.times is None else torch.cat([query.times, query.times[-1:].expand(len(added))])
        more = Ragged.from_lengths(added, torch.tensor([len(added)]))
        longer = replace(query, history=join(query.history, more), ratings=ratings, times=times)
        model, compared_C = IgnoringModel(masked.model, added), explained.games[row].compared_C
        games.append(game(model, explained.data, longer, item, HISTORY, compared_C))
    return replace(explained, games=games)


def _irrelevant(
    explained: ExplainedUsers, padded: ExplainedUsers, explain: Explain, value_D: np.ndarray, seed: int
) -> tuple[Estimate, Estimate]:
    """The share that irrelevant items get, and how far the real ones keep their order."""
    padded_values = contributions(padded, explain, seed + SECOND_SEED)
    keys = [[player.key for player in one.players] for one in padded.games]
    real = [{player.key for player in one.players} for one in explained.games]
    is_real = np.array([key in mine for row, mine in zip(keys, real, strict=True) for key in row])
    row = np.repeat(np.arange(len(keys)), [len(each) for each in keys])
    largest = np.zeros(len(keys))
    np.maximum.at(largest, row, np.abs(padded_values))
    share = np.abs(padded_values[~is_real]) / np.maximum(largest[row[~is_real]], np.finfo(float).tiny)
    per_user = np.bincount(row[~is_real], weights=share, minlength=len(keys)) / np.maximum(
        np.bincount(row[~is_real], minlength=len(keys)), 1
    )
    kept = correlation(value_D, padded_values[is_real], explained.masked.row_D.numpy())
    return estimate(per_user, seed), estimate(kept, seed)
