"""Shapley values of a game's players: by enumeration if that is cheap, else by sampled orders.

value_i = mean over all orders of the players of  v(those before i, and i) - v(those before i)

(Shapley 1953; Strumbelj and Kononenko 2014; Lundberg and Lee 2017.) The values add up to v(all) - v(none). Orders are
sampled in pairs, one and its reverse (antithetic: Mitchell, Cooper, Frank, Holmes 2022, "Sampling permutations for
Shapley value estimation"). What a player adds as the first of an order is scored for every player and not sampled
(stratification by place: Castro, Gomez, Molina, Tejada 2017): for models that normalise a history, the first item adds
most of the score, and sampled it would be credited to whichever players happen to come first.

An estimate is the mean over pairs, its standard error that of this mean. While the interval of the largest estimate
contains zero, more pairs are sampled, up to `MAX_EXTENSION` times the masks that were asked for.

Legend: M masks, P players, R pairs of orders.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from palate.errors import ConfigError
from palate.explanation.explanation import STANDARD_ERRORS, Explanation
from palate.explanation.methods import explanation_of, off_and_on
from palate.explanation.players import Game

MAX_ENUMERATED = 12
"""Most players for which every subset is scored."""
SAMPLES = 1000
"""Masks scored by default."""
MAX_EXTENSION = 2
"""How many times the masks asked for are scored at most, while the largest value's interval contains zero."""
MASK_BYTES_PER_BLOCK = 2**25
"""Bytes of masks at once."""


def shap(game: Game, samples: int = SAMPLES, seed: int = 0) -> Explanation:
    """Shapley values: exact up to 12 players, else estimates from sampled orders, with standard errors.

    Args:
        game: What is explained.
        samples: How many masks to score. One mask for each player and one pair of orders, 3 P - 2 masks, are always
            scored; up to `MAX_EXTENSION` times as many masks if the largest value is uncertain.
        seed: Seed of the orders.

    Raises:
        ConfigError: `samples` is below 1.
    """
    check_samples(samples)
    count = len(game.players)
    if count <= MAX_ENUMERATED:
        baseline, values = enumerated(game)
        return explanation_of(game, "shap", baseline, values)
    baseline, values, errors, used = sampled(game, samples, torch.Generator().manual_seed(seed))
    notes = [f"{used:,} masks were scored for {count:,} players, because {samples:,} are too few."]
    return explanation_of(game, "shap", baseline, values, errors, notes if used > samples else ())


def check_samples(samples: int) -> None:
    """Raise a ConfigError if no masks are asked for."""
    if samples < 1:
        raise ConfigError(f"samples = {samples} is out of range; an estimate needs at least 1 mask (default {SAMPLES})")


def enumerated(game: Game) -> tuple[float, np.ndarray]:
    """The score with everything off, and every player's exact value, from all 2^P masks."""
    count = len(game.players)
    code = np.arange(2**count)
    on = (code[:, None] >> np.arange(count)) & 1 == 1
    scores = game(torch.from_numpy(on)).double().numpy()
    size, values = on.sum(1), np.zeros(count)
    # The weight of a subset of s other players: s! (P - 1 - s)! / P!, by a product that does not overflow.
    weight = np.array([1 / (count * _binomial(count - 1, s)) for s in range(count)])
    for player in range(count):
        without = code[~on[:, player]]
        values[player] = np.sum(weight[size[without]] * (scores[without | 1 << player] - scores[without]))
    return float(scores[0]), values


def _binomial(n: int, k: int) -> float:
    return float(np.prod([(n - i) / (i + 1) for i in range(k)]))


def sampled(game: Game, samples: int, rng: torch.Generator) -> tuple[float, np.ndarray, np.ndarray, int]:
    """Estimates from pairs of orders.

    Args:
        game: At least two players.
        samples: How many masks to score; see `shap`.
        rng: Source of all randomness.

    Returns:
        The score with everything off, the values, their standard errors, and how many masks were scored.
    """
    count = len(game.players)
    inner = 2 * (count - 1)
    off, on = off_and_on(game)
    first_P = game(torch.eye(count, dtype=torch.bool)).double() - off
    used, wanted = count + 2, max(1, (samples - count - 2) // inner)
    marginal_R2P, is_first_R2P = torch.zeros(0, 2, count, dtype=torch.float64), torch.zeros(0, 2, count).bool()
    while wanted > 0:
        per_block = max(1, MASK_BYTES_PER_BLOCK // (inner * count))
        for start in range(0, wanted, per_block):
            orders_RP = torch.rand(min(per_block, wanted - start), count, generator=rng).argsort(1)
            marginal, is_first = _marginals(game, orders_RP, off, on)
            marginal_R2P, is_first_R2P = torch.cat([marginal_R2P, marginal]), torch.cat([is_first_R2P, is_first])
        used += wanted * inner
        value_P, error_P = _estimate(marginal_R2P, is_first_R2P, first_P, on - off)
        largest = int(value_P.abs().argmax())
        is_sure = float(value_P[largest].abs()) >= STANDARD_ERRORS * float(error_P[largest])
        wanted = 0 if is_sure else min(len(marginal_R2P), (MAX_EXTENSION * samples - used) // inner)
    return off, value_P.numpy(), error_P.numpy(), used


def _estimate(marginal_R2P: Tensor, is_first_R2P: Tensor, first_P: Tensor, total: float) -> tuple[Tensor, Tensor]:
    """Values and their standard errors, float64 `[P]` each.

    Args:
        marginal_R2P: What each player adds in each order and in its reverse.
        is_first_R2P: Where it is the first of the order.
        first_P: What each player adds as the first.
        total: What the values add up to.
    """
    pairs, count = len(marginal_R2P), len(first_P)
    later_R2P = torch.where(is_first_R2P, 0.0, marginal_R2P)
    later_P = later_R2P.sum((0, 1)) / (~is_first_R2P).sum((0, 1))
    # Every player is first in one of P orders; elsewhere it adds what it adds later in an order.
    marginal_R2P = torch.where(is_first_R2P, later_P, marginal_R2P) + (first_P - later_P) / count
    mean_RP = marginal_R2P.mean(1)
    if pairs > 1:
        value_P, error_P = mean_RP.mean(0), mean_RP.std(0) / pairs**0.5
    else:  # The halves of one pair say how far orders lie apart.
        value_P, error_P = mean_RP[0], (marginal_R2P[0, 0] - marginal_R2P[0, 1]).abs() / 2
    # The values add up to the total: what is missing goes to the uncertain ones.
    spread = float(error_P.sum())
    share_P = error_P / spread if spread else torch.zeros(count, dtype=torch.float64)
    return value_P + share_P * (total - float(value_P.sum())), error_P


def _marginals(game: Game, orders_RP: Tensor, off: float, on: float) -> tuple[Tensor, Tensor]:
    """What each player adds in each order and in its reverse, and where it is the first, `[R, 2, P]` each."""
    pairs, count = orders_RP.shape
    place_RP = orders_RP.argsort(1)
    # [R, P - 1, P]: the first 1, 2, ... players of each order; those left out are the first of its reverse.
    first = place_RP.unsqueeze(1) < torch.arange(1, count).view(1, -1, 1)
    scores = game(torch.cat([first, ~first]).view(-1, count)).double().view(2, pairs, count - 1)
    edge_off, edge_on = (torch.full((pairs, 1), v, dtype=torch.float64) for v in (off, on))
    forth = torch.cat([edge_off, scores[0], edge_on], 1).diff(dim=1).gather(1, place_RP)
    # The mask without the first k of the order is reached in the reverse after P - k steps.
    back = torch.cat([edge_on, scores[1], edge_off], 1).diff(dim=1).neg().gather(1, place_RP)
    is_first_R2P = torch.stack([place_RP == 0, place_RP == count - 1], 1)
    return torch.stack([forth, back], 1), is_first_R2P
