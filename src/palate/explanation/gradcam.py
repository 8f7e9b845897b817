"""Grad-CAM: which places of an item's image its score comes from, by the image CNN's last map (Selvaraju et al. 2017).

value of a place = <g, A_place> / places,  g = gradient of the score with respect to the mean of A over all places

The paper shows max(value, 0). Here values keep their sign, so that a place may speak against the item. g is computed by
central differences on the input of the encoder's head: two encodings for each channel, whatever model is around it.

Legend: C channels, H and W places of the map down and across.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.explanation.explanation import Explanation, Player
from palate.explanation.methods import explanation_of, off_and_on, unsupported_error
from palate.explanation.players import Game, own_scores
from palate.models.base import Model
from palate.models.content.encoders_image import ImageCNN

STEP = 1e-2
"""Step of the differences, in units of the mean map's root mean square."""


def reads_images(model: Model) -> bool:
    """Whether a model has an image CNN."""
    return any(isinstance(part, ImageCNN) for part in model.modules())


@torch.no_grad()
def grad_cam(game: Game, samples: int = 0, seed: int = 0) -> Explanation:
    """What each place of the item's image adds to the score, to first order. Regions are the places of the CNN's map.

    Args:
        game: What is explained; its players must be regions of one image.
        samples, seed: Not used.

    Raises:
        CannotAnswer: The model has no image CNN, or no region is a player.
    """
    columns = {player.key[0] for player in game.players if player.kind == "region"}
    if game.variants is None or len(columns) != 1 or not reads_images(game.model):
        raise unsupported_error(game, "grad-cam")
    [column] = columns
    row = game.variants.features.row
    assert row is not None  # There are regions.
    images = row.images[column]
    pixels = torch.from_numpy(np.array(images.pixels[int(images.row[0])]))
    encoder = next(part for part in game.model.modules() if isinstance(part, ImageCNN))
    map_CHW = encoder.feature_map(pixels.unsqueeze(0))[0]
    value_HW = torch.einsum("c,chw->hw", _slope(game, encoder, map_CHW.mean((1, 2))), map_CHW) / map_CHW[0].numel()
    down, across = (_edges(size, places) for size, places in zip(pixels.shape[1:], value_HW.shape, strict=True))
    boxes = [(top, left, bottom, right) for top, bottom in pairwise(down) for left, right in pairwise(across)]
    players = [Player("region", (column, box), f"{column} {box[0]}-{box[2]}, {box[1]}-{box[3]}") for box in boxes]
    return explanation_of(game, "grad-cam", off_and_on(game)[0], value_HW.flatten(), players=players)


def _slope(game: Game, encoder: ImageCNN, mean_C: Tensor) -> Tensor:
    """The gradient of the score with respect to the mean map, `[C]`."""
    assert game.variants is not None
    count = len(mean_C)
    step = STEP * float(mean_C.square().mean().sqrt()) + 1e-6
    moved = step * torch.cat([torch.eye(count), -torch.eye(count)])

    def add_step(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0] + moved,)

    handle = encoder.head.register_forward_pre_hook(add_step)
    try:
        larger = game.variants(torch.ones(2 * count, len(game.variants.features.players), dtype=torch.bool))
    finally:
        handle.remove()
    first = game.model.spec.n_items
    score = own_scores(larger, game.queries, torch.arange(first, first + 2 * count))[0]
    return (score[:count] - score[count:]) / (2 * step)


def _edges(size: int, places: int) -> list[int]:
    return [int(edge) for edge in np.linspace(0, size, places + 1).round()]
