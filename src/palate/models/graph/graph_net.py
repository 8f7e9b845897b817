"""LightGCN and XSimGCL: matrix factorization with embeddings that are smoothed over the user-item graph.

score(u, i) = <z_u, z_i>,  E_l = A E_(l-1)
LightGCN:     z = (e_0 + e_1 + ... + e_L) / (L + 1)
XSimGCL:      z = (e_1 + ... + e_L) / L

loss        = mean of -log sigma(score(u, i) - score(u, j)) + reg / 2 (|e_0u|^2 + |e_0i|^2 + |e_0j|^2)
XSimGCL adds  contrast * (C(users of the batch) + C(positive items of the batch))
C(nodes)    = mean over v of -log softmax_w(cos(z_v, c_w) / temperature)_v,  c = e_l for l = `contrast_layer`

A is the normalised adjacency matrix of `palate.models.graph.propagation`; E_0, the embeddings of users and items, are
the only weights. i is an item of user u, j a uniform item that u does not have. The L2 is that of the initial
embeddings. Each step propagates all embeddings, forward and backward, so a step costs the same for a small batch and
for a large one. A sample weight of w multiplies the edge, the loss and the L2 of its interaction.

XSimGCL (Yu et al. 2023) learns to recognise each node through noise. In training each layer moves by noise of length
`noise`, in the direction of a random vector in the same orthant: E_l = A E_(l-1) + noise * sign(A E_(l-1)) * r / |r|, r
uniform in [0, 1). The contrastive loss C tells each node's final embedding from those of the other nodes by its
embedding of an earlier layer, which spreads the embeddings over the sphere; it counts each distinct node of a batch
once. Scores and the loss curves have neither noise nor C. XSimGCL converges in a fraction of LightGCN's epochs; in the
first few hundred steps, its lists get worse before they get better, so early stopping needs patience.

A history of a new user is folded in without training: z without its term e_0, which only training knows, and with the
items as they were trained. For a training user's own history, if the data has no weights and no repeats, that is the
user's trained row for XSimGCL, and the trained row less e_0 / (L + 1) for LightGCN.

Sources: He et al. 2020 (LightGCN), Yu et al. 2023 (XSimGCL).

Legend: V nodes, R distinct nodes of a batch, Q its users or its positive items, D dim, B queries, I items asked about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import MAX_LAYERS, CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import GradientModel
from palate.models.graph.propagation import (
    Graph,
    GraphContext,
    Nodes,
    fold_in,
    fold_in_contributions,
    neighbour_vectors,
)
from palate.training import losses
from palate.training.batches import Negatives, Pairs, pairs
from palate.training.loop import Loss


@dataclass(frozen=True, kw_only=True)
class LightGCNConfig:
    """Settings of `lightgcn`."""

    dim: int = 64
    """Width of the embeddings."""
    layers: int = 3
    """Number of propagations over the graph, L."""
    negatives: int = 1
    """Sampled negatives of each positive."""
    reg: float = 1e-4
    """L2 of the initial embeddings of each pair."""
    init: float = 0.1
    """Standard deviation of the initial embeddings' entries."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, layers=1 <= self.layers <= MAX_LAYERS, negatives=self.negatives >= 1,
              reg=self.reg >= 0, init=self.init >= 0)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class XSimGCLConfig:
    """Settings of `xsimgcl`."""

    dim: int = 64
    """Width of the embeddings."""
    layers: int = 2
    """Number of propagations over the graph, L."""
    contrast_layer: int = 1
    """Layer that the final embeddings are contrasted with, at most `layers`."""
    contrast: float = 0.2
    """Weight of the contrastive loss."""
    temperature: float = 0.15
    """Temperature of the contrastive loss."""
    noise: float = 0.2
    """Length of the noise added to each layer in training."""
    negatives: int = 1
    """Sampled negatives of each positive."""
    reg: float = 1e-4
    """L2 of the initial embeddings of each pair."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, layers=1 <= self.layers <= MAX_LAYERS, negatives=self.negatives >= 1,
              reg=self.reg >= 0, contrast_layer=1 <= self.contrast_layer <= self.layers,
              contrast=self.contrast >= 0, temperature=self.temperature > 0, noise=self.noise >= 0)  # fmt: skip


class GraphNet(GradientModel):
    """LightGCN and XSimGCL; the type of the config decides which."""

    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    gradients = frozenset({"history"})
    confidence = losses.LINKS["bpr"]
    loss_name = losses.UNITS["bpr"]
    user: Tensor
    item: Tensor
    neighbour_vector: Tensor

    def __init__(self, config: LightGCNConfig | XSimGCLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: LightGCNConfig | XSimGCLConfig = config
        if isinstance(config, XSimGCLConfig):
            self.undivided = "its contrastive loss compares all rows of a batch"
        # The first layer of the mean z.
        self.first = 0 if isinstance(config, LightGCNConfig) else 1
        # A parameter and not an `nn.Embedding`: each step moves all rows.
        self.node = nn.Parameter(torch.zeros(spec.n_users + spec.n_items, config.dim))
        # Computed by `_refresh`: z of users and items, and what items add to the fold-in of a history.
        self.register_buffer("user", torch.zeros(spec.n_users, config.dim))
        self.register_buffer("item", torch.zeros(spec.n_items, config.dim))
        self.register_buffer("neighbour_vector", torch.zeros(spec.n_items, config.dim))

    def init_from_data(self, data: Dataset) -> None:
        if isinstance(self.config, LightGCNConfig):
            nn.init.normal_(self.node, std=self.config.init)
        else:
            nn.init.xavier_uniform_(self.node)

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> GraphContext:
        negatives = Negatives(data, self.config.negatives)
        return GraphContext(data, negatives, graph=Graph.of(data, self.node.device))

    def batches(self, context: GraphContext, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(context.data, rng, size, context.negatives)

    def loss(self, batch: Pairs, context: GraphContext) -> Loss:
        config, nodes = self.config, Nodes.of(batch, self.spec.n_users)
        if not self.training:
            shown = losses.bpr(nodes.scores(torch.cat([self.user, self.item])[nodes.row]), batch.weight)
            return Loss(shown, shown)
        z_RD, early_RD = self._smoothed(context.graph, nodes.row)
        bpr = losses.bpr(nodes.scores(z_RD), batch.weight)
        objective = bpr + config.reg * nodes.l2(F.embedding(nodes.row, self.node), batch.weight)
        if isinstance(config, XSimGCLConfig):
            for node_Q in (torch.unique(nodes.place[:, 0]), torch.unique(nodes.place[:, 1])):
                found = contrastive(F.embedding(node_Q, z_RD), F.embedding(node_Q, early_RD), config.temperature)
                objective = objective + config.contrast * found
        return Loss(objective, bpr)

    def _smoothed(self, graph: Graph, row_R: Tensor) -> tuple[Tensor, Tensor]:
        """z and the contrasted layer of some nodes in training, `[R, D]` each.

        The last layer of these nodes needs the layer before of their neighbours, and no other node's last layer.
        """
        noise, early = 0.0, 0
        if isinstance(self.config, XSimGCLConfig):
            noise, early = self.config.noise, self.config.contrast_layer
        layer_VD: Tensor = self.node
        layers = [F.embedding(row_R, layer_VD)]
        for depth in range(1, self.config.layers + 1):
            last = depth == self.config.layers
            layer_VD = graph.propagate(layer_VD, row_R if last else None)
            if noise:
                layer_VD = layer_VD + same_orthant_noise(layer_VD.detach(), noise)
            layers.append(layer_VD if last else F.embedding(row_R, layer_VD))
        return torch.stack(layers[self.first :]).mean(0), layers[early]

    def _refresh(self, context: GraphContext | None) -> None:
        if context is None:
            return
        layers, users = [self.node.detach()], self.spec.n_users
        for _ in range(self.config.layers):
            layers.append(context.graph.propagate(layers[-1]))
        z_VD = torch.stack(layers[self.first :]).mean(0)
        self.user, self.item = z_VD[:users].clone(), z_VD[users:].clone()
        self.neighbour_vector = neighbour_vectors(
            [layer[users:] for layer in layers[:-1]], len(layers) - self.first, context.graph
        )  # fmt: skip

    def _score(self, queries: Queries) -> Tensor:
        return self.represent(queries) @ self.item.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.represent(queries) @ self.item[item_I].T

    def _known_users(self, user_B: Tensor) -> Tensor:
        return self.user[user_B]

    def _fold_in(self, queries: Queries) -> Tensor:
        return fold_in(queries.history, self.neighbour_vector)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return fold_in_contributions(queries, self.neighbour_vector, self.item[item]), 0.0

    def item_vectors(self) -> Tensor:
        return self.item

    def item_factors(self) -> Tensor:
        return self.item

    def query_factors(self, queries: Queries) -> Tensor:
        return self.represent(queries)


class LightGCN(GraphNet):
    """Embeddings smoothed over the user-item graph by linear propagation, trained with BPR."""

    Config = LightGCNConfig
    default_training = CompleteTraining(epochs=300, batch_size=2048, lr=5e-3, patience=10)


class XSimGCL(GraphNet):
    """Embeddings smoothed over the user-item graph, trained with BPR and a contrastive loss between noisy layers."""

    Config = XSimGCLConfig
    default_training = CompleteTraining(epochs=50, batch_size=2048, lr=3e-3, patience=10)


def same_orthant_noise(layer_VD: Tensor, length: float) -> Tensor:
    """Random vectors of the given length, each with the signs of a row; from torch's global generator."""
    noise_VD = torch.rand_like(layer_VD)
    noise_VD *= length / torch.linalg.vector_norm(noise_VD, dim=1, keepdim=True).clamp(min=1e-12)
    return noise_VD.copysign_(layer_VD)


def contrastive(z_QD: Tensor, early_QD: Tensor, temperature: float) -> Tensor:
    """The contrastive loss C of distinct nodes, a scalar.

    Args:
        z_QD: Their final embeddings.
        early_QD: Their embeddings of the contrasted layer.
        temperature: Divides the cosines.
    """
    similarity_QQ = F.normalize(z_QD, dim=1) / temperature @ F.normalize(early_QD, dim=1).T
    return F.cross_entropy(similarity_QQ, torch.arange(len(z_QD), device=z_QD.device))
