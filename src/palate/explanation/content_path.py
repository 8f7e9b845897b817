"""Integrated gradients over what is known of item and user: their columns, and the words of texts.

value_p = integral over a from 0 to 1 of  d score / d a_p  at  a_1 = ... = a_P = a      (Sundararajan, Taly, Yan 2017)

Players come in where an encoder (`palate.models.encoders.Part`) has made vectors of them. A column goes from the vector
that stands for "unknown" to its own; a text whose words are players is read with each word vector times its weight:

column  part(a) = unknown + a (part - unknown)
words   part(a) = text(a) + (1 - mean a) (off - text(0))        off: what is read once all of them are dropped

The second term of a text is what it makes that there is a text at all, and is shared by its words alike; so is, by what
is known of a user, what a model gives to anything being known of them. With that the ends are those of the masks, and
values add up to the difference of the ends but for the error of the integral.

Slopes are taken forwards, each row of a batch along one player, so that they go through whatever a model makes of the
encoder's vectors.

Legend: P players, N variants of the query, S steps, W width of a part.
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

from palate.explanation.players import Game, own_scores
from palate.explanation.sides import Side
from palate.models.base import Model
from palate.models.encoders import Part
from palate.models.encoders_image import ImageCNN
from palate.models.encoders_text import Bag, TextCNN

STEPS = (32, 128, 512)
"""Nodes of the integral (Gauss and Legendre): the first number that brings it within `CLOSE`, else the last."""
CLOSE = 2e-3
"""How far the values' sum may be from what it should be, in units of the values' size."""
BLOCK = 128
"""Variants that are encoded at once; no more than `palate.models.encoders.encode_all` takes."""
NEAR = 1e-3
"""How far the ends of the way may be from those of the masks, in units of their difference."""


def integrated(game: Game) -> Tensor | None:
    """The players' values, float64 `[P]`; None where the model does not read them by encoders."""
    ends = _ends(game)
    if ends is None:
        return None
    start, rise = ends
    value_P, moved = torch.zeros(len(game.players), dtype=torch.float64), torch.arange(len(game.players))
    for steps in STEPS:
        value_P[moved] = _integral(game, steps, moved)
        if abs(float(value_P.sum()) - rise) <= CLOSE * float(value_P.abs().sum()):
            break
        moved = value_P.nonzero().squeeze(1)  # what the model does not read has no slope anywhere
    who = game.user if game.user.stop > game.user.start else game.thing
    value_P[who] += start / (who.stop - who.start)
    return value_P


def _integral(game: Game, steps: int, moved: Tensor) -> Tensor:
    """The integrals of some players' slopes along the way, float64 `[moved]`."""
    node_S, share_S = (torch.from_numpy(x).float() for x in np.polynomial.legendre.leggauss(steps))
    weight_NP = ((node_S + 1) / 2).repeat_interleave(len(moved)).unsqueeze(1).expand(-1, len(game.players))
    along_NP = torch.eye(len(game.players))[moved].repeat(steps, 1)
    rows = range(0, len(weight_NP), BLOCK)
    slope_N = torch.cat([_slope(game, weight_NP[row : row + BLOCK], along_NP[row : row + BLOCK]) for row in rows])
    return (share_S / 2).double() @ slope_N.view(steps, len(moved)).double()


def reads(game: Game) -> bool:
    """Whether `integrated` has an answer."""
    return _ends(game) is not None


def _ends(game: Game) -> tuple[float, float] | None:
    """How far the way starts above the score with nothing known, and rises; None where it does not fit the masks."""
    kinds = {player.kind for player in game.players}
    if not kinds or kinds - {"feature", "word"} or not any(isinstance(part, Part) for part in game.model.modules()):
        return None
    both = torch.tensor([[0.0], [1.0]]).expand(-1, len(game.players))
    start, end = _scores(game, both).tolist()
    off, on = game(both > 0.5).tolist()
    near = NEAR * max(abs(on - off), 1e-6) + 1e-6 * abs(on)
    # What is known of a user may count at once, as soon as anything is.
    at_start = game.user.stop > game.user.start or abs(start - off) <= near
    return (start - off, end - start) if at_start and abs(end - on) <= near and end != start else None


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
    """The item's score with each player weighted, `[N]`."""
    count, model, items = len(weight_NP), game.model, torch.tensor([game.item])
    if game.variants is not None:
        with _weighted(game.model, game.variants.side, weight_NP[:, game.thing]):
            model = game.variants(torch.ones(count, game.thing.stop - game.thing.start, dtype=torch.bool))
        items = torch.arange(game.model.spec.n_items, game.model.spec.n_items + count)
    people = count if game.user.stop > game.user.start else 1
    queries = game.masked(torch.ones(people, len(game.players), dtype=torch.bool))
    with _weighted(game.model, game.person, weight_NP[:, game.user]):
        scores = own_scores(model, queries, items)
    return scores.diagonal() if people == len(items) == count else scores.flatten()


@contextmanager
def _weighted(model: Model, side: Side, weight_NP: Tensor) -> Iterator[None]:
    """While it lasts, encoders read N rows of a side with its players weighted."""
    soft = _Soft(side, weight_NP)
    with ExitStack() as hooks:
        for part in model.modules() if side.players else ():
            if isinstance(part, Part):
                hooks.callback(part.register_forward_hook(soft.part).remove)
                if isinstance(part.encoder, Bag | TextCNN):
                    hooks.callback(part.encoder.table.register_forward_hook(soft.words(part)).remove)
                if isinstance(part.encoder, ImageCNN):  # all rows show one image
                    hooks.callback(part.encoder.register_forward_pre_hook(lambda _, images: (images[0][:1],)).remove)
                    hooks.callback(part.encoder.register_forward_hook(soft.copies).remove)
        yield


class _Soft:
    """The hooks: what encoders make of columns and words that are there by halves.

    Args:
        side: Whose they are.
        weight_NP: Of each of its players, a row for each of those that are encoded.
    """

    def __init__(self, side: Side, weight_NP: Tensor) -> None:
        self.side, self.weight_NP = side, weight_NP
        self.asleep = False
        self.place = {player.key: at for at, player in enumerate(side.players) if player.kind == "feature"}
        self.words_of: dict[str, dict[str, int]] = {}
        for at, player in enumerate(side.players):
            if player.kind == "word":
                self.words_of.setdefault(player.key[0], {})[player.key[2]] = at

    def part(self, part: Any, inputs: Any, vector_NW: Tensor) -> Tensor | None:
        """A column's part of the encoding."""
        name = part.column.name
        if self.asleep or name not in self.place.keys() | self.words_of.keys():
            return None
        if name in self.place:
            unknown_W: Tensor = part.unknown
            return unknown_W + self.weight_NP[:, [self.place[name]]] * (vector_NW - unknown_W)
        mean_N1 = self.weight_NP[:, list(self.words_of[name].values())].mean(1, keepdim=True)
        return vector_NW + (1 - mean_N1) * self._apart(part)

    def copies(self, encoder: Any, inputs: Any, vector_1W: Tensor) -> Tensor:
        """The one image's vector for all rows."""
        return vector_1W.expand(len(self.weight_NP), -1)

    def _apart(self, part: Part) -> Tensor:
        """What is read without the words, less what is read of words that weigh nothing, `[1, W]`."""
        on, off = (self.side.variants(torch.full((1, len(self.side.players)), each)) for each in (True, False))
        kept, self.weight_NP = self.weight_NP, torch.zeros(1, len(self.side.players))
        nothing_1W = part.forward(on)  # type: ignore[arg-type]  # a side with players has a row
        self.asleep = True
        off_1W = part.forward(off)  # type: ignore[arg-type]
        self.asleep, self.weight_NP = False, kept
        return off_1W - nothing_1W

    def words(self, part: Part) -> Any:
        """A hook of the table of a text's word vectors."""
        places, most = self.words_of.get(part.column.name, {}), len(self.side.players)
        first = 2 if isinstance(part.encoder, TextCNN) else 1
        told = [most] * first + [places.get(value, most) for value in part.column.values]
        player_of, done = torch.tensor(told), 0

        def hook(table: Any, inputs: tuple[Tensor], vector: Tensor) -> Tensor | None:
            nonlocal done
            if self.asleep or not places:
                return None
            count = len(self.weight_NP)
            # TextCNN comes block by block, Bag with all distinct words of equal rows one after the other.
            player_NL = player_of[inputs[0] if inputs[0].ndim == 2 else inputs[0].view(count, -1)]
            weight_NP = torch.cat([self.weight_NP, torch.ones(count, 1)], 1)[done : done + len(player_NL)]
            done = (done + len(player_NL)) % count
            return vector * weight_NP.gather(1, player_NL).view(*vector.shape[:-1], 1)

        return hook
