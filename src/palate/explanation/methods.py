"""The methods that sample no masks: exact sums, leaving one out, gradients; and how values become an Explanation.

Legend: P players, L history length, S nodes of an integral, K items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from palate.data.queries import Queries
from palate.device import asked_from_anywhere
from palate.errors import CannotAnswer
from palate.explanation.content_path import integrated_content, reads_content
from palate.explanation.explanation import (
    AVERAGE_ITEM,
    ITEM_BASELINE,
    MIN_SHARE,
    ROUNDING,
    Contribution,
    Explanation,
    Player,
)
from palate.explanation.players import Game, relative_scores
from palate.models.base import Model

INTEGRATION_NODES = 32
"""Nodes of the integral over a history's weights (Gauss and Legendre)."""


def explanation_of(
    game: Game,
    method: str,
    baseline: float,
    values: Tensor | np.ndarray,
    errors: Tensor | np.ndarray | None = None,
    notes: Sequence[str] = (),
    fit: float | None = None,
    players: Sequence[Player] | None = None,
) -> Explanation:
    """The explanation that a method's values make.

    Args:
        game: What was explained.
        method: The method's name.
        baseline: The item's score relative to the average item with all players off.
        values: Contribution of each player, `[P]`.
        errors: Their standard errors. Defaults to 0, exact.
        notes: Notes of the method, placed after those of the game.
        fit: R2 of a surrogate.
        players: The players that `values` belong to. Defaults to the game's.
    """
    errors, asked = np.zeros(len(values)) if errors is None else errors, game.asked
    contributions = [
        Contribution(**vars(player), value=float(value), error=float(error))
        for player, value, error in zip(players or game.players, values.tolist(), errors.tolist(), strict=True)
    ]
    base = [Contribution(kind="base", key=ITEM_BASELINE, label=_baseline_label(game), value=float(baseline))]
    if len(game.compared_C):
        base.append(Contribution(kind="base", key=AVERAGE_ITEM, label="average item", value=asked.average))
    found = [*base, *contributions]
    residual = asked.score - sum(c.value for c in found)
    return Explanation(
        item=game.id,
        label=game.label,
        score=asked.score,
        contributions=tuple(sorted(found, key=lambda c: -abs(c.value))),
        residual=residual,
        method=method,
        rank=asked.rank,
        notes=(*game.notes, *_residual_notes(game, residual, contributions), *notes),
        fit=fit,
    )


def _baseline_label(game: Game) -> str:
    kinds = {player.kind for player in game.players}
    if kinds == {"history"}:
        return "this item without a history"
    return "this item with no features or history known" if "history" in kinds else "this item without these features"


def _residual_notes(game: Game, residual: float, contributions: Sequence[Contribution]) -> list[str]:
    """What a residual worth speaking of consists of."""
    asked = game.asked
    largest = max((abs(c.value) for c in contributions), default=0.0)
    if abs(residual) <= max(MIN_SHARE * largest, ROUNDING * max(abs(asked.score), abs(asked.average))):
        return []
    trained = (asked.score - asked.average) - (asked.explained_score - asked.explained_average)
    joint = residual - trained
    parts = [f"{trained:+.3g} by which the trained user vector differs from the fold-in of the history"]
    parts = parts if abs(trained) > MIN_SHARE * abs(residual) else []
    if abs(joint) > MIN_SHARE * abs(residual):
        parts.append(f"{joint:+.3g} that contributions make only together and this method does not divide")
    return [f"The residual of {residual:+.3g} consists of {' and '.join(parts)}."]


def off_and_on(game: Game) -> tuple[float, float]:
    """The item's score relative to the average item, with all players off and with all on."""
    off, on = game(torch.tensor([[False], [True]]).expand(-1, len(game.players))).tolist()
    return off, on


def is_additive(game: Game) -> bool:
    """Whether the model adds up the score over the players.

    `Model.additive` speaks of users who are answered from their history. A game about history items asks for no known
    user, so it applies to every game whose players are all history items.
    """
    return game.model.additive and 0 < len(game.players) == game.history.stop


def exact(game: Game, samples: int = 0, seed: int = 0) -> Explanation:
    """The terms of a score that is a sum over the history, as the model itself adds it up.

    For models that solve a system for each user (iALS, MF with loss mse), these are the terms of the solution, given
    the user's system.

    Args:
        game: What is explained; its players must be history items.
        samples, seed: Not used.

    Raises:
        CannotAnswer: The score is no such sum.
    """
    [found] = exact_of([game])
    return found


@asked_from_anywhere
def _history_contributions(model: Model, queries: Queries, item: int) -> tuple[Tensor, float]:
    return model.history_contributions(queries, item)


@torch.no_grad()
def exact_of(games: Sequence[Game]) -> list[Explanation]:
    """`exact` for several items of one query; the average item's terms are computed once."""
    if not all(is_additive(game) for game in games):
        raise unsupported_error(games[0], "exact")
    first = games[0]
    terms = [_history_contributions(first.model, first.queries, item) for item in first.compared_C.tolist()]
    average_L, rest = torch.zeros(len(first.player_L)), 0.0
    if terms:
        average_L, rest = torch.stack([share_L for share_L, _ in terms]).mean(0), float(np.mean([b for _, b in terms]))
    found = []
    for game in games:
        share_L, base = _history_contributions(game.model, game.queries, game.item)
        value_X = torch.zeros(len(game.players) + 1).index_add_(0, game.player_L, (share_L - average_L).float())
        baseline = base - rest + float(value_X[-1])  # What the item in its own history adds is no reason for it.
        found.append(explanation_of(game, "exact", baseline, value_X[:-1]))
    return found


def occlusion(game: Game, samples: int = 0, seed: int = 0) -> Explanation:
    """What the score loses if one player is switched off and all others stay on.

    Args:
        game: What is explained.
        samples, seed: Not used: there is one mask for each player.
    """
    masks_MP = _leave_one_out(len(game.players))
    return _occluded(game, game(masks_MP))


def occlusion_of(games: Sequence[Game]) -> list[Explanation]:
    """`occlusion` for several items of one query; items with the same players share their masked queries."""
    first = games[0]
    if any(game.variants is not None or game.players != first.players for game in games):
        return [occlusion(game) for game in games]
    items_K = torch.tensor([game.item for game in games])
    score_MK = first.relative(_leave_one_out(len(first.players)), items_K)
    return [_occluded(game, score_MK[:, place]) for place, game in enumerate(games)]


def _leave_one_out(count: int) -> Tensor:
    """Masks without one player each, then all off, then all on, bool `[P + 2, P]`."""
    ends = torch.tensor([[False], [True]]).expand(-1, count)
    return torch.cat([~torch.eye(count, dtype=torch.bool), ends])


def _occluded(game: Game, score_M: Tensor) -> Explanation:
    score_M = score_M.double()
    return explanation_of(game, "occlusion", float(score_M[-2]), score_M[-1] - score_M[:-2])


def gradient(game: Game, samples: int = 0, seed: int = 0) -> Explanation:
    """Integrated gradients from everything off to everything on (Sundararajan, Taly, Yan 2017).

    Over a history, the path is a x for a from 0 to 1, where x are the weights of the history values. Over columns and
    words, see `palate.explanation.content_path`; the history stays as it is.

    Args:
        game: What is explained; its players must be history items, or columns and words.
        samples, seed: Not used: the integral takes 32 nodes, over content up to 512.

    Raises:
        CannotAnswer: The model does not declare gradients with respect to these players.
    """
    if reads_content(game):
        return explanation_of(game, "gradient", off_and_on(game)[0], integrated_content(game))
    if not weights_history(game):
        raise unsupported_error(game, "gradient")
    node_S, share_S = (torch.from_numpy(x).float() for x in np.polynomial.legendre.leggauss(INTEGRATION_NODES))
    own_L = game.player_L == len(game.players)  # The explained item itself always stays.
    weight_SL = ((node_S + 1) / 2).unsqueeze(1).expand(-1, len(game.player_L)).masked_fill(own_L, 1.0)
    weight_SL = weight_SL.clone().requires_grad_()
    with torch.enable_grad():
        (slope_SL,) = torch.autograd.grad(weighted_scores(game, weight_SL).sum(), weight_SL)
    value_L = (share_S / 2) @ slope_SL
    values = torch.zeros(len(game.players) + 1).index_add_(0, game.player_L, value_L)[:-1]
    return explanation_of(game, "gradient", off_and_on(game)[0], values)


def fits_gradient(game: Game) -> bool:
    """Whether `gradient` has an answer."""
    return weights_history(game) or reads_content(game)


def weights_history(game: Game) -> bool:
    """Whether all players are history items whose weights the model can be differentiated by."""
    return "history" in game.model.gradients and 0 < len(game.players) == game.history.stop


def weighted_scores(game: Game, weight_SL: Tensor) -> Tensor:
    """The item's score relative to the average item, with each history value weighted, `[S]`."""
    items_X = torch.cat([torch.tensor([game.item]), game.compared_C])
    score_SX: Tensor = game.model._score_items(game.weighted(weight_SL), items_X)
    return relative_scores(score_SX, 1)[:, 0]


def unsupported_error(game: Game, method: str) -> CannotAnswer:
    """The error for a method that does not fit the model and players; it names those that do."""
    fitting = [name for name, fits in (("exact", is_additive(game)), ("gradient", fits_gradient(game))) if fits]
    kinds = {player.kind for player in game.players}
    features = sorted(kinds - {"history"})
    if method == "exact" and features:
        why = f"it explains history items only, and {', '.join(features)} was asked for too"
    elif method == "exact":
        why = "its score is not a sum over the history"
    elif method == "grad-cam":
        why = "no image of the item goes through a convolutional encoder of the model"
    elif features and "history" in kinds:
        why = f"it explains either the history or features, and both were asked for (history, {', '.join(features)})"
    elif features:
        why = f"its scores have no gradient with respect to these features ({', '.join(features)})"
    else:
        why = "its scores have no gradient with respect to the history"
    names = ", ".join([*fitting, "shap", "lime", "occlusion"])
    return CannotAnswer(f"{method} is not available for {type(game.model).__name__}: {why}; use one of {names}")
