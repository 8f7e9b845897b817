"""Scorers for export: a model's formula as a plain module on padded histories, without what only training needs.

A scorer reads some of these inputs and returns the scores of all items, float32 `[B, N]`:

user      int64 `[B]`, the index of a user, or -1
history   int64 `[B, L]`, item indices, oldest first, padded with -1 at the end

The users' rows are made at export, from all that is known of each: a user who is not in the training data, or has newer
items than those of training, is folded in.

A query that the scorer cannot answer (an unknown user, an empty history) gets popularity, as in `Model.score`.

Legend: B queries, N items, L history length, U users, D width, H width of a hidden layer, E width of factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer
from palate.models.autoencoders.multvae import MultDAE, MultVAE
from palate.models.base import Model
from palate.models.content.two_tower import TwoTower
from palate.models.linear.ease import EASE, EDLAE
from palate.models.mf.ials import IALS
from palate.models.mf.mf import MF
from palate.models.ncf.ncf import NCF
from palate.models.sequence.sasrec import CausalAttention, SASRec, Transformer


class Scorer(nn.Module):
    """What all scorers share: popularity for queries that the formula cannot answer.

    Attributes:
        reads: The inputs of `forward`, in order.
        answers: Those of the model's questions that the scorer answers too.
    """

    reads: tuple[str, ...]
    answers: frozenset[str]
    popularity: Tensor
    known_U: Tensor

    def __init__(self, model: Model, users: Queries) -> None:
        super().__init__()
        self.register_buffer("popularity", model.fallback.popularity.float())
        self.register_buffer("known_U", model.answerable(users))

    def answered(self, scores_BN: Tensor, answerable_B: Tensor) -> Tensor:
        """The scores where the formula answers, popularity elsewhere."""
        return torch.where(answerable_B.unsqueeze(1), scores_BN, self.popularity)

    def known(self, user_B: Tensor) -> Tensor:
        """Which users have a row, bool `[B]`."""
        return (user_B >= 0) & self.known_U[user_B.clamp(min=0)]

    def multi_hot(self, history_BL: Tensor) -> Tensor:
        """1 for each item of a history, however often it occurs, `[B, N]`."""
        n_items = len(self.popularity)
        place_BL = torch.where(history_BL >= 0, history_BL, n_items)
        zero_BN = torch.zeros(history_BL.shape[0], n_items + 1, device=history_BL.device)
        return zero_BN.scatter(1, place_BL, 1.0)[:, :n_items]


class DotScorer(Scorer):
    """score(u, i) = a_u . c_i for known users: `mf` and `ials`."""

    reads = ("user",)
    answers = frozenset({"known_user"})
    user_UE: Tensor
    item_EN: Tensor

    def __init__(self, model: Model, users: Queries, user_UE: Tensor, item_NE: Tensor) -> None:
        super().__init__(model, users)
        self.register_buffer("user_UE", user_UE.detach().contiguous())
        self.register_buffer("item_EN", item_NE.detach().T.contiguous())

    def forward(self, user: Tensor) -> Tensor:
        """Scores of all items, `[B, N]`."""
        return self.answered(self.user_UE[user.clamp(min=0)] @ self.item_EN, self.known(user))


class NCFScorer(Scorer):
    """GMF, MLP and NeuMF for known users; see `palate.models.ncf.ncf`."""

    reads = ("user",)
    answers = frozenset({"known_user"})
    user_UG: Tensor
    user_UH: Tensor
    user_bias_U: Tensor
    factor_GN: Tensor
    item_NH: Tensor
    bias_N: Tensor
    head_H: Tensor

    def __init__(self, model: NCF, users: Queries) -> None:
        super().__init__(model, users)
        net = model.net
        item = net.inputs("item", net.item.weight)
        rows_UD = _rows(model, users)
        user = net.inputs("user", rows_UD)
        head_G, head_H = net.head.weight[0, : net.gmf], net.head.weight[0, net.gmf :]
        bias_N, bias_U = net.head.bias[0].expand(model.spec.n_items), torch.zeros(len(users))
        if not net.ranks and net.item_bias is not None:
            bias_N = bias_N + net.mean + net.item_bias.weight[:, 0]
            bias_U = rows_UD[:, -1]
        buffers = {
            "user_UG": user.factors * head_G, "user_UH": user.hidden, "user_bias_U": bias_U, "bias_N": bias_N,
            "factor_GN": item.factors.T, "item_NH": item.hidden, "head_H": head_H,
        }  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, value.detach().clone().contiguous())
        self.layers = nn.ModuleList(net.linears[1:])
        self.has_mlp = bool(net.mlp)

    def forward(self, user: Tensor) -> Tensor:
        """Scores of all items, `[B, N]`."""
        row_B = user.clamp(min=0)
        scores_BN = self.user_UG[row_B] @ self.factor_GN + self.bias_N + self.user_bias_U[row_B].unsqueeze(1)
        if self.has_mlp:
            hidden_BNH = F.relu(self.user_UH[row_B].unsqueeze(1) + self.item_NH)
            for layer in self.layers:
                hidden_BNH = F.relu(layer(hidden_BNH))
            scores_BN = scores_BN + hidden_BNH @ self.head_H
        return self.answered(scores_BN, self.known(user))


class AutoencoderScorer(Scorer):
    """Mult-DAE and Mult-VAE; see `palate.models.autoencoders.multvae`."""

    reads = ("history",)
    answers = frozenset({"known_user", "history"})

    def __init__(self, model: MultDAE | MultVAE, users: Queries) -> None:
        super().__init__(model, users)
        self.encoder_weight, self.encoder_bias = model.encoder.weight, model.encoder.bias
        self.middle = nn.ModuleList([model.latent, model.hidden] if isinstance(model, MultVAE) else [])
        self.dim, self.decoder = model.config.dim, model.decoder

    def forward(self, history: Tensor) -> Tensor:
        """Scores of all items, `[B, N]`."""
        x_BN = self.multi_hot(history)
        x_BN = x_BN * x_BN.sum(1, keepdim=True).clamp(min=1).rsqrt()
        hidden_BH = torch.tanh(x_BN @ self.encoder_weight + self.encoder_bias)
        if self.middle:
            latent, hidden = self.middle
            hidden_BH = torch.tanh(hidden(latent(hidden_BH)[:, : self.dim]))
        return self.answered(self.decoder(hidden_BH), (history >= 0).any(1))


class LinearScorer(Scorer):
    """EASE and EDLAE: the sum of the weights of a history's items."""

    reads = ("history",)
    answers = frozenset({"known_user", "history"})
    weight_NN: Tensor

    def __init__(self, model: EASE | EDLAE, users: Queries) -> None:
        super().__init__(model, users)
        self.register_buffer("weight_NN", model.weight.detach().contiguous())

    def forward(self, history: Tensor) -> Tensor:
        """Scores of all items, `[B, N]`."""
        return self.answered(self.multi_hot(history) @ self.weight_NN, (history >= 0).any(1))


class TwoTowerScorer(Scorer):
    """`two-tower`: a known user's row holds the user's vector and features; a history is read with or without one."""

    reads = ("user", "history")
    answers = frozenset({"known_user", "history"})
    row_UD: Tensor
    vector_ND: Tensor
    unit_DN: Tensor

    def __init__(self, model: TwoTower, users: Queries) -> None:
        super().__init__(model, users)
        # What `_users` adds to the history: without one it gives the bias of `_from_history` and the user's own row.
        alone = replace(users, history=Ragged.empty(len(users)))
        self.register_buffer("row_UD", model._users(alone) - model.history.bias)
        self.register_buffer("vector_ND", model.vector.detach())
        self.register_buffer("unit_DN", F.normalize(model.vector.detach(), dim=1).T.contiguous())
        self.history, self.temperature = model.history, model.config.temperature

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        """Scores of all items, `[B, N]`."""
        x_BN = self.multi_hot(history)
        mean_BD = (x_BN @ self.vector_ND) / x_BN.sum(1, keepdim=True).clamp(min=1)
        user_BD = mean_BD + self.history(mean_BD) + self.row_UD[user.clamp(min=0)] * (user >= 0).unsqueeze(1)
        scores_BN = F.normalize(user_BD, dim=1) @ self.unit_DN / self.temperature
        return self.answered(scores_BN, self.known(user) | (history >= 0).any(1))


class SASRecScorer(Scorer):
    """SASRec: causal self-attention over the newest events; see `palate.models.sequence.sasrec`."""

    reads = ("history",)
    answers = frozenset({"known_user", "history"})
    item_ND: Tensor

    def __init__(self, model: SASRec, users: Queries) -> None:
        super().__init__(model, users)
        if model.gap is not None:
            raise CannotAnswer("a sequence model with time_gaps reads times, which an ONNX scorer does not get")
        self.register_buffer("item_ND", model.item_vectors().detach())
        self.encoder, self.length = model.encoder, model.config.length

    def forward(self, history: Tensor) -> Tensor:
        """Scores of all items, `[B, N]`."""
        lengths_B1 = (history >= 0).sum(1, keepdim=True)
        first_B1 = (lengths_B1 - self.length).clamp(min=0)
        place_BL = first_B1 + torch.arange(self.length, device=history.device)
        event_BL = history.gather(1, torch.minimum(place_BL, (lengths_B1 - 1).clamp(min=0))).clamp(min=0)
        x_BLD = self.item_ND[event_BL] * self.encoder.scale + self.encoder.place.weight
        for layer in self.encoder.layers:
            read_BLD = layer.first(x_BLD)
            if isinstance(layer, Transformer):
                x_BLD = layer._feed(read_BLD, self._mixed(layer.attention, read_BLD, x_BLD))
            else:
                x_BLD = layer._feed(x_BLD, self._mixed(layer.attention, read_BLD, read_BLD))
        last_B1 = (lengths_B1 - first_B1 - 1).clamp(min=0)
        last_B1D = last_B1.unsqueeze(2).expand(-1, -1, x_BLD.shape[2])
        hidden_BD = self.encoder.norm(x_BLD.gather(1, last_B1D).squeeze(1))
        return self.answered(hidden_BD @ self.item_ND.T, lengths_B1.squeeze(1) > 0)

    def _mixed(self, attention: CausalAttention, asking_BLD: Tensor, read_BLD: Tensor) -> Tensor:
        """`CausalAttention` on histories that are padded at the end, which no event reads."""
        keys, values = (attention._split(part) for part in attention.key_value(read_BLD).chunk(2, dim=2))
        queries = attention._split(attention.query(asking_BLD))
        read_BALd = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        mixed_BLD: Tensor = attention.output(read_BALd.transpose(1, 2).flatten(2))
        return mixed_BLD


def _rows(model: Model, users: Queries) -> Tensor:
    """What represents each user, `[U, D]`; zeros for users that the model cannot answer."""
    some = model.answerable(users).nonzero().squeeze(1)
    found_D = model.represent(users.take(some))
    return found_D.new_zeros(len(users), *found_D.shape[1:]).index_copy(0, some, found_D)


def _mf(model: MF, users: Queries) -> Scorer:
    row_UE, one_N1 = _rows(model, users), torch.ones(model.spec.n_items, 1)
    user_UE = torch.cat([row_UE[:, :-1], row_UE[:, -1:] + model.bias, torch.ones(len(users), 1)], 1)
    return DotScorer(model, users, user_UE, torch.cat([model.item.weight, one_N1, model.item_bias.weight], 1))


BUILDERS: dict[type[Model], Callable[[Any, Queries], Scorer]] = {
    MF: _mf,
    IALS: lambda model, users: DotScorer(model, users, _rows(model, users), model.item),
    NCF: NCFScorer,
    MultDAE: AutoencoderScorer,
    MultVAE: AutoencoderScorer,
    EASE: LinearScorer,
    EDLAE: LinearScorer,
    TwoTower: TwoTowerScorer,
    SASRec: SASRecScorer,
}
"""Class of a model -> how its scorer is made from the fitted model and the queries of all users."""


def scorer_of(model: Model, users: Queries) -> Scorer:
    """The scorer of a fitted model, in eval mode.

    Args:
        model: A fitted model.
        users: What is known of each user.

    Raises:
        CannotAnswer: There is no scorer for models of this class.
    """
    for kind, build in BUILDERS.items():
        if isinstance(model, kind):
            with torch.no_grad():
                return build(model, users).eval()
    names = "mf, ials, gmf, mlp, neumf, ease, edlae, multdae, multvae, two-tower and sasrec"
    raise CannotAnswer(
        f"{type(model).__name__} cannot be exported to ONNX; palate exports {names}. "
        "For other models, write lists for all users to a file with recommend_all, or export vectors"
    )
