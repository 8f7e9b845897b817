"""explain(): one item of one query by one method; and reasons(): a few words for every item of a page of lists.

Legend: B queries, K items of each, P players, M masks.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.errors import CannotAnswer, ConfigError
from palate.explanation import EXPLAINERS
from palate.explanation.explanation import Explanation, Kind
from palate.explanation.gradcam import reads_images
from palate.explanation.methods import exact, fits_gradient, gradient, misfit, occlusion, parts, result
from palate.explanation.players import KINDS, Game, game, games
from palate.explanation.shapley import SAMPLES, check_samples, shap
from palate.models.base import Model

OF: dict[str | None, tuple[Kind, ...]] = {"exact": ("history",), "grad-cam": ("region",)}
"""Methods that have players of one kind."""
CONTENT: tuple[Kind, ...] = ("feature", "word")
"""What `gradient` explains where it cannot explain the history."""
POPULAR = "Recommended because many people chose it; nothing is known of this person"


def explain(
    model: Model,
    data: Dataset,
    queries: Queries,
    item: int,
    method: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    kinds: Collection[Kind] | None = None,
) -> Explanation:
    """Why a model scores an item as it does for one query.

    Args:
        model: Fitted.
        data: What it was fitted to: ids, titles, side tables.
        queries: One row.
        item: An index.
        method: A name in `EXPLAINERS`; default: exact where the score is a sum over the history, else shap.
        samples: Masks to score, for shap and lime.
        seed: Of what is sampled.
        kinds: What may be switched off: any of history, feature, word, region; default: all but regions, for exact the
            history alone, for gradient the history or else what is known of item and user, for grad-cam regions.

    Raises:
        ConfigError: There is no such method or kind, or `samples` is below 1.
        CannotAnswer: Nothing can be switched off, or the method does not fit the model; it lists those that do.
    """
    check_samples(samples)
    if method is not None and method not in EXPLAINERS:
        near = get_close_matches(method, EXPLAINERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no method {method!r}; choose one of {', '.join(EXPLAINERS)}{hint}")
    unknown = set(kinds or ()) - {"history", "feature", "word", "region"}
    if unknown:
        raise ConfigError(f"{sorted(unknown)} cannot be switched off; choose of history, feature, word, region")
    if method == "grad-cam" and not reads_images(model):
        raise misfit(game(model, data, queries, item), method)
    if method == "gradient" and kinds is None:
        return gradient(_smooth(model, data, queries, item))
    one = game(model, data, queries, item, kinds or OF.get(method, KINDS))
    if method is None:
        return exact(one) if parts(one) is not None else shap(one, samples, seed)
    return EXPLAINERS[method](one, samples=samples, seed=seed)


def _smooth(model: Model, data: Dataset, queries: Queries, item: int) -> Game:
    """The game that `gradient` fits: of the history, or else of what is known of item and user."""
    found, faults = [], []
    for kinds in (("history",), CONTENT):
        try:
            found.append(game(model, data, queries, item, kinds))
        except CannotAnswer as fault:
            faults.append(fault)
    if not found:
        raise faults[0]
    return next((one for one in found if fits_gradient(one)), found[0])


def reasons(model: Model, data: Dataset, queries: Queries, items_BK: Tensor, top: int = 3) -> list[list[str]]:
    """For each listed item a sentence: exact where the score is a sum over the history, else by leaving one out.

    All items of a person are explained from the same masked queries, so that a page costs little more than one item.

    Args:
        model: Fitted.
        data: What it was fitted to.
        queries: Whose lists these are.
        items_BK: Item indices; -1 where a list is shorter, which gets an empty text.
        top: Most contributions named.
    """
    answered = model.answerable(queries).tolist()
    found = []
    for row, listed in enumerate(items_BK.tolist()):
        items = [item for item in listed if item >= 0]
        query = queries.take(torch.tensor([row]))
        texts = _page(model, data, query, items, top) if answered[row] and items else [POPULAR] * len(items)
        found.append(texts + [""] * (len(listed) - len(items)))
    return found


def _page(model: Model, data: Dataset, query: Queries, items: list[int], top: int) -> list[str]:
    """The reasons for some items of one person."""
    try:
        asked = games(model, data, query, items)
    except CannotAnswer:
        return [f"{type(model).__name__} gives no reasons: nothing of this query can be switched off"] * len(items)
    if all(parts(one) is not None for one in asked):
        return [exact(one).sentence(top) for one in asked]
    if all(len(one.players) == one.history.stop for one in asked):
        return [one.sentence(top) for one in _together(asked)]
    return [occlusion(one).sentence(top) for one in asked]


def _together(asked: list[Game]) -> list[Explanation]:
    """`occlusion` of several items of one person by the same masks."""
    first, count = asked[0], len(asked[0].players)
    masks = torch.cat([~torch.eye(count, dtype=torch.bool), torch.tensor([[False], [True]]).expand(-1, count)])
    scores = first.scores(masks, torch.tensor([one.item for one in asked])).double()
    value_PK = scores[count + 1] - scores[:count]
    return [
        result(one, "occlusion", float(scores[count, place]), value_PK[:, place]) for place, one in enumerate(asked)
    ]
