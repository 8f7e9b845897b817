"""The methods that need no sampling of players: exact sums, leaving one out, gradients. And how values become a result.

Legend: P players, T history values, L history length, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from palate.data.ragged import Ragged
from palate.errors import CannotAnswer
from palate.explanation.content_path import integrated, reads
from palate.explanation.explanation import Contribution, Explanation, Player
from palate.explanation.players import Game

STEPS = 32
"""Nodes of the integral over a gradient's way (Gauss and Legendre)."""
NEAR = 1e-3
"""How far a smoothly weighted history may be from the masked one at its ends, in units of their difference."""


def result(
    game: Game,
    method: str,
    base: float,
    values: Tensor | np.ndarray,
    errors: Tensor | np.ndarray | None = None,
    notes: Sequence[str] = (),
    fit: float | None = None,
    players: Sequence[Player] | None = None,
) -> Explanation:
    """The explanation that a method's numbers make.

    Args:
        game: What was explained.
        method: Its name.
        base: The score with nothing known.
        values: Of each player, `[P]`.
        errors: Their standard errors; default: exact.
        notes: Of the method, after those of the game.
        fit: Of a surrogate.
        players: Those that `values` are of; default: the game's.
    """
    errors = np.zeros(len(values)) if errors is None else errors
    found = [Contribution(kind="base", key=None, label="nothing known", value=float(base))]
    for player, value, error in zip(players or game.players, values.tolist(), errors.tolist(), strict=True):
        found.append(Contribution(**vars(player), value=float(value), error=float(error)))
    return Explanation(
        item=game.id,
        label=game.label,
        score=game.given,
        contributions=tuple(sorted(found, key=lambda c: -abs(c.value))),
        residual=game.given - sum(c.value for c in found),
        method=method,
        notes=(*game.notes, *notes),
        fit=fit,
    )


def ends(game: Game) -> tuple[float, float]:
    """The score with all players off, and with all on."""
    off, on = game(torch.tensor([[False], [True]]).expand(-1, len(game.players))).tolist()
    return off, on


@torch.no_grad()
def parts(game: Game) -> tuple[float, Tensor] | None:
    """Base and players' shares, `[P]`, as the model itself adds them up; None where it does not."""
    if len(game.players) != game.history.stop:
        return None
    found = game.model._parts(game.queries, game.item)
    if found is None:
        return None
    share_T, base = found
    return base, torch.zeros(len(game.players)).index_add_(0, game.place_L, share_T)


def exact(game: Game, samples: int = 0, seed: int = 0) -> Explanation:
    """The terms of a score that is a sum over the history, from the model itself.

    Of models that solve a system for the person (iALS, MF by least squares) it is the solution's sum, given the system.

    Args:
        game: What is explained; its players must be history items.
        samples, seed: Not used.

    Raises:
        CannotAnswer: The score is no such sum.
    """
    found = parts(game)
    if found is None:
        raise misfit(game, "exact")
    return result(game, "exact", found[0], found[1])


def occlusion(game: Game, samples: int = 0, seed: int = 0) -> Explanation:
    """What the score loses when one player is switched off and all others stay on.

    Args:
        game: What is explained.
        samples, seed: Not used: there is one mask for each player.
    """
    count = len(game.players)
    masks = torch.ones(count + 2, count, dtype=torch.bool)
    masks[:count].fill_diagonal_(False)
    masks[count] = False
    scores = game(masks).double()
    return result(game, "occlusion", float(scores[count]), scores[count + 1] - scores[:count])


def gradient(game: Game, samples: int = 0, seed: int = 0) -> Explanation:
    """Integrated gradients, from nothing known to all (Sundararajan, Taly, Yan 2017): of a history, or of content.

    Of a history by its weights: the way is a x for a from 0 to 1, x the model's input for the whole history, its scale
    left as it is. Of columns and words see `palate.explanation.content_path`; the history stays as it is.

    Args:
        game: What is explained; its players must be history items, or columns and words.
        samples, seed: Not used: the integral takes 32 points, of content up to 512.

    Raises:
        CannotAnswer: The model does not read these players so that their weights can be differentiated.
    """
    values = integrated(game)
    if values is not None:
        return result(game, "gradient", ends(game)[0], values)
    if not weighs(game):
        raise misfit(game, "gradient")
    node_S, weight_S = (torch.from_numpy(x).float() for x in np.polynomial.legendre.leggauss(STEPS))
    soft_SL = ((node_S + 1) / 2).unsqueeze(1).expand(-1, len(game.place_L)).clone().requires_grad_()
    with torch.enable_grad():
        total = soft(game, soft_SL).sum()
        (slope_SL,) = torch.autograd.grad(total, soft_SL)
    value_L = (weight_S / 2) @ slope_SL
    values = torch.zeros(len(game.players)).index_add_(0, game.place_L, value_L)
    return result(game, "gradient", ends(game)[0], values)


def fits_gradient(game: Game) -> bool:
    """Whether `gradient` has an answer."""
    return weighs(game) or reads(game)


def soft(game: Game, weight_SL: Tensor) -> Tensor:
    """The item's score with each value of the history weighted, `[S]`, for models that read it as a weighted sum."""
    asked, steps = game.queries, len(weight_SL)
    whole_L = asked.history.values
    history = Ragged.from_lengths(whole_L.repeat(steps), torch.full((steps,), len(whole_L)))
    ratings = None if asked.ratings is None else asked.ratings.repeat(steps)
    features = None if asked.features is None else asked.features.take(torch.zeros(steps, dtype=torch.int64))
    history = replace(history, whole=(whole_L, weight_SL))
    queries = replace(asked, user=asked.user.expand(steps), history=history, ratings=ratings, features=features)
    score_S: Tensor = game.model._score_items(queries, torch.tensor([game.item]))[:, 0]
    return score_S


def weighs(game: Game) -> bool:
    """Whether the model answers weights of 0 and 1 as it answers masks, and can be differentiated by them."""
    if not game.players or len(game.players) != game.history.stop:
        return False
    weight_2L = torch.tensor([[0.0], [1.0]]).expand(-1, len(game.place_L)).clone().requires_grad_()
    try:
        with torch.enable_grad():
            at_ends = soft(game, weight_2L)
    except RuntimeError:  # numpy cannot take what is being differentiated
        return False
    off, on = ends(game)
    near = (at_ends.detach() - torch.tensor([off, on])).abs() <= NEAR * max(abs(on - off), 1e-6)
    return at_ends.requires_grad and _depends(at_ends, weight_2L) and bool(near.all())


def _depends(scores: Tensor, weights: Tensor) -> bool:
    (slope,) = torch.autograd.grad(scores.sum(), weights, allow_unused=True)
    return slope is not None


def misfit(game: Game, method: str) -> CannotAnswer:
    """The error for a method that does not fit the model and players, with those that do."""
    fitting = [name for name, fits in (("exact", parts(game) is not None), ("gradient", fits_gradient(game))) if fits]
    names = ", ".join([*fitting, "shap", "lime", "occlusion"])
    kinds = {p.kind for p in game.players}
    content = "it does not read what is known by encoders that can be differentiated"
    why = {
        "exact": "its score is no plain sum over the history",
        "gradient": content
        if "history" not in kinds
        else "it does not read a history as a weighted sum that can be differentiated",
        "grad-cam": "no image of the item goes through a convolutional encoder of its own",
    }[method]
    others = ", ".join(sorted(kinds - {"history"}))
    if others and method == "exact":
        why += f", or players other than history items were asked for ({others})"
    if others and "history" in kinds and method == "gradient":
        why = f"it takes a history, or what is known of user and item, and both were asked for (history, {others})"
    return CannotAnswer(f"{method} does not fit {type(game.model).__name__}: {why}; these do: {names}")
