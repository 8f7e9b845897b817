"""Integrated gradients over features of item and user: their columns, and the words of texts.

value_p = integral over a from 0 to 1 of  d score / d a_p  at  a_1 = ... = a_P = a      (Sundararajan, Taly, Yan 2017)

Players are weighted after an encoder (`palate.models.content.encoders.ColumnEncoder`) has turned them into vectors. The
weight of a column moves its vector from the vector for "unknown" to its own; the weights of words multiply their word
vectors:

column  part(a) = unknown + a (part - unknown)
words   part(a) = text(a) + (1 - mean a) (off - text(0))        off: the encoding once all words are removed

The second term of a text is the effect of there being a text at all; its words share it equally. User features share
the effect of there being any user features in the same way. So the path begins and ends where the masks do, and the
values add up to the difference of its ends up to the error of the integral.

Derivatives are taken in forward mode, each row of a batch along one player, so that they pass through whatever a model
computes from the encoder's vectors.

Legend: P players, N variants of the query, S nodes of the integral, W width of a part.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from palate.explanation.maskable_features import MaskableFeatures
from palate.explanation.players import Game, own_scores, relative_scores
from palate.models.base import Model
from palate.models.content.encoders import ColumnEncoder
from palate.models.content.encoders_image import ImageCNN
from palate.models.content.encoders_text import Bag, TextCNN

NODES = (32, 128, 512)
"""Nodes of the integral (Gauss and Legendre): the first number whose error is within `MAX_ERROR`, else the last."""
MAX_ERROR = 2e-3
"""How far the sum of values may be from the difference of the path's ends, in units of the values' size."""
MAX_VARIANTS_PER_BLOCK = 128
"""Variants that are encoded at once; no more than `palate.models.content.encoders.encode_all` takes."""


def reads_content(game: Game) -> bool:
    """Whether all players are columns or words that the model declares gradients for."""
    kinds = {player.kind for player in game.players}
    return bool(kinds) and kinds <= {"feature", "word"} and _needed_gradients(game) <= game.model.gradients


def _needed_gradients(game: Game) -> set[str]:
    """The gradients that the players ask for, in the terms of `Model.gradients`."""
    spec = game.model.spec
    sides = ((game.user, spec.user_features), (game.features, spec.item_features))
    needed: set[str] = set()
    for part, schema in sides:
        kind_of = {} if schema is None else {column.name: column.kind for column in schema.columns}
        for player in game.players[part]:
            kind = "text" if player.kind == "word" else kind_of[player.key]
            needed.add(kind if kind in ("text", "image") else "features")
    return needed


def integrated_content(game: Game) -> Tensor:
    """The players' values, float64 `[P]`, of a game that `reads_content`."""
    at_zero, at_one = _scores(game, torch.tensor([[0.0], [1.0]]).expand(-1, len(game.players))).tolist()
    off = float(game(torch.zeros(1, len(game.players), dtype=torch.bool)))
    value_P, moved = torch.zeros(len(game.players), dtype=torch.float64), torch.arange(len(game.players))
    for nodes in NODES if at_one != at_zero else ():
        value_P[moved] = _integral(game, nodes, moved)
        if abs(float(value_P.sum()) - (at_one - at_zero)) <= MAX_ERROR * float(value_P.abs().sum()):
            break
        moved = value_P.nonzero().squeeze(1)  # What the model does not read has no slope anywhere.
    if game.user.stop > game.user.start:  # The effect of there being any user features.
        value_P[game.user] += (at_zero - off) / (game.user.stop - game.user.start)
    return value_P


def _integral(game: Game, nodes: int, moved: Tensor) -> Tensor:
    """The integrals of some players' slopes along the path, float64 `[moved]`."""
    node_S, share_S = (torch.from_numpy(x).float() for x in np.polynomial.legendre.leggauss(nodes))
    weight_NP = ((node_S + 1) / 2).repeat_interleave(len(moved)).unsqueeze(1).expand(-1, len(game.players))
    along_NP = torch.eye(len(game.players))[moved].repeat(nodes, 1)
    rows = [slice(row, row + MAX_VARIANTS_PER_BLOCK) for row in range(0, len(weight_NP), MAX_VARIANTS_PER_BLOCK)]
    slope_N = torch.cat([_slope(game, weight_NP[block], along_NP[block]) for block in rows])
    return (share_S / 2).double() @ slope_N.view(nodes, len(moved)).double()


def _slope(game: Game, weight_NP: Tensor, along_NP: Tensor) -> Tensor:
    """The slope of each row's score along its direction, `[N]`."""
    with forward_ad.dual_level():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch, about torch, on the first call
            weight_NP = forward_ad.make_dual(weight_NP.clone(), along_NP)  # type: ignore[no-untyped-call]
        scores = _scores(game, weight_NP)
        tangent = forward_ad.unpack_dual(scores).tangent  # type: ignore[no-untyped-call]
    return torch.zeros(len(weight_NP)) if tangent is None else tangent


def _scores(game: Game, weight_NP: Tensor) -> Tensor:
    """The item's score relative to the average item, with each player weighted, `[N]`."""
    count, model, items_N = len(weight_NP), game.model, torch.tensor([game.item])
    if game.variants is not None:
        with _weighted(game.model, game.variants.features, weight_NP[:, game.features]):
            model = game.variants(torch.ones(count, game.features.stop - game.features.start, dtype=torch.bool))
        items_N = torch.arange(game.model.spec.n_items, game.model.spec.n_items + count)
    users = count if game.user.stop > game.user.start else 1
    queries = game.masked(torch.ones(users, len(game.players), dtype=torch.bool))
    with _weighted(game.model, game.user_features, weight_NP[:, game.user]):
        scores = relative_scores(own_scores(model, queries, torch.cat([items_N, game.compared_C])), len(items_N))
    return scores.diagonal() if users == len(items_N) == count else scores.flatten()


@contextmanager
def _weighted(model: Model, features: MaskableFeatures, weight_NP: Tensor) -> Iterator[None]:
    """A context in which encoders read N rows of features with their players weighted."""
    hooks = _WeightingHooks(features, weight_NP)
    with ExitStack() as handles:
        for part in model.modules() if features.players else ():
            if isinstance(part, ColumnEncoder):
                handles.callback(part.register_forward_hook(hooks.weight_part).remove)
                if isinstance(part.encoder, Bag | TextCNN):
                    handles.callback(part.encoder.table.register_forward_hook(hooks.weight_words(part)).remove)
                if isinstance(part.encoder, ImageCNN):  # All rows show one image.
                    handles.callback(part.encoder.register_forward_pre_hook(lambda _, images: (images[0][:1],)).remove)
                    handles.callback(part.encoder.register_forward_hook(hooks.repeat_image).remove)
        yield


class _WeightingHooks:
    """Forward hooks that weight columns and words between off and on.

    Args:
        features: The features whose players are weighted.
        weight_NP: The weight of each player in each of the N encoded rows.
    """

    def __init__(self, features: MaskableFeatures, weight_NP: Tensor) -> None:
        self.features, self.weight_NP = features, weight_NP
        self.disabled = False
        self.place = {player.key: at for at, player in enumerate(features.players) if player.kind == "feature"}
        self.words_of: dict[str, dict[str, int]] = {}
        for at, player in enumerate(features.players):
            if player.kind == "word":
                self.words_of.setdefault(player.key[0], {})[player.key[2]] = at

    def weight_part(self, part: Any, inputs: Any, vector_NW: Tensor) -> Tensor | None:
        """Weight a column's part of the encoding."""
        name = part.column.name
        if self.disabled or name not in self.place.keys() | self.words_of.keys():
            return None
        if name in self.place:
            unknown_W: Tensor = part.unknown
            return unknown_W + self.weight_NP[:, [self.place[name]]] * (vector_NW - unknown_W)
        mean_N1 = self.weight_NP[:, list(self.words_of[name].values())].mean(1, keepdim=True)
        return vector_NW + (1 - mean_N1) * self._effect_of_text(part)

    def repeat_image(self, encoder: Any, inputs: Any, vector_1W: Tensor) -> Tensor:
        """Repeat the one image's vector for all rows."""
        return vector_1W.expand(len(self.weight_NP), -1)

    def _effect_of_text(self, part: ColumnEncoder) -> Tensor:
        """The encoding without the words, minus the encoding of words of weight 0, `[1, W]`."""
        on, off = (self.features.variants(torch.full((1, len(self.features.players)), each)) for each in (True, False))
        kept, self.weight_NP = self.weight_NP, torch.zeros(1, len(self.features.players))
        nothing_1W = part.forward(on)  # type: ignore[arg-type]  # features with players have a row
        self.disabled = True
        off_1W = part.forward(off)  # type: ignore[arg-type]
        self.disabled, self.weight_NP = False, kept
        return off_1W - nothing_1W

    def weight_words(self, part: ColumnEncoder) -> Any:
        """A hook for the embedding table of a text's word vectors."""
        places, always = self.words_of.get(part.column.name, {}), len(self.features.players)
        first = 2 if isinstance(part.encoder, TextCNN) else 1
        players = [always] * first + [places.get(value, always) for value in part.column.values]
        player_of, done = torch.tensor(players), 0

        def hook(table: Any, inputs: tuple[Tensor], vector: Tensor) -> Tensor | None:
            nonlocal done
            if self.disabled or not places:
                return None
            count = len(self.weight_NP)
            # TextCNN reads block by block; Bag reads all distinct words of equal rows one after the other.
            player_NL = player_of[inputs[0] if inputs[0].ndim == 2 else inputs[0].view(count, -1)]
            weight_NP = torch.cat([self.weight_NP, torch.ones(count, 1)], 1)[done : done + len(player_NL)]
            done = (done + len(player_NL)) % count
            return vector * weight_NP.gather(1, player_NL).view(*vector.shape[:-1], 1)

        return hook
