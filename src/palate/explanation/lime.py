"""LIME: a linear surrogate of the score around the whole query (Ribeiro, Singh, Guestrin 2016).

minimise  sum_m w_m (v(z_m) - b - <beta, z_m>)^2 + |beta|^2,  w = exp(-d(z)^2 / (2 KERNEL_WIDTH^2))

over masks z. The number of players that are off is drawn uniformly for each mask, then which ones. d = 1 - sqrt(share
of players that are on) is the cosine distance from the whole query. The distance, the kernel width of 0.25 and the
ridge of 1 are those of the authors' code for texts.

Legend: M masks, P players.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palate.explanation.explanation import Explanation
from palate.explanation.methods import explanation_of
from palate.explanation.players import Game
from palate.explanation.shapley import SAMPLES, check_samples

KERNEL_WIDTH = 0.25
RIDGE = 1.0


def lime(game: Game, samples: int = SAMPLES, seed: int = 0) -> Explanation:
    """Coefficients of a weighted linear surrogate. `fit` is its weighted R2; errors are robust (sandwich) errors.

    Args:
        game: What is explained.
        samples: How many masks to score, beside the whole query.
        seed: Seed of the masks.

    Raises:
        ConfigError: `samples` is below 1.
    """
    check_samples(samples)
    mask_MP = draw_masks(samples, len(game.players), torch.Generator().manual_seed(seed))
    score_M, weight_M = game(mask_MP).double(), kernel(mask_MP)
    share_M = weight_M / weight_M.sum()
    x_MP = mask_MP.double()
    middle_P, middle = share_M @ x_MP, share_M @ score_M
    x_MP, y_M = x_MP - middle_P, score_M - middle
    hat_PM = _hat_matrix(x_MP, weight_M)
    beta_P = hat_PM @ y_M
    residual_M = y_M - x_MP @ beta_P
    error_P = (hat_PM.square() @ residual_M.square()).sqrt()
    spread = float(weight_M @ y_M.square())
    fit = 1.0 if spread == 0 else 1 - float(weight_M @ residual_M.square()) / spread
    few = [f"There are fewer masks ({samples}) than players ({len(game.players)}); increase samples."]
    notes = few if samples < len(game.players) else ()
    return explanation_of(game, "lime", float(middle - middle_P @ beta_P), beta_P, error_P, notes, fit)


def draw_masks(samples: int, players: int, rng: torch.Generator) -> Tensor:
    """Random masks, bool `[samples + 1, P]`; in the first, everything is on."""
    off_M1 = torch.randint(1, players + 1, (samples, 1), generator=rng)
    place_MP = torch.rand(samples, players, generator=rng).argsort(1).argsort(1)
    return torch.cat([torch.ones(1, players, dtype=torch.bool), place_MP >= off_M1])


def kernel(mask_MP: Tensor) -> Tensor:
    """The weight of each mask, by its distance from the whole query, `[M]`."""
    distance_M = 1 - mask_MP.double().mean(1).sqrt()
    return torch.exp(-(distance_M**2) / (2 * KERNEL_WIDTH**2))


def _hat_matrix(x_MP: Tensor, weight_M: Tensor) -> Tensor:
    """The matrix that maps targets to ridge coefficients, `[P, M]`; solves the smaller of two equivalent systems."""
    count, players = x_MP.shape
    weighted_PM = x_MP.T * weight_M
    if players <= count:
        system_PP = weighted_PM @ x_MP + RIDGE * torch.eye(players, dtype=torch.float64)
        hat_PM: Tensor = torch.linalg.solve(system_PP, weighted_PM)
        return hat_PM
    system_MM = x_MP @ weighted_PM + RIDGE * torch.eye(count, dtype=torch.float64)
    hat_MP: Tensor = torch.linalg.solve(system_MM.T, weighted_PM.T)
    return hat_MP.T
