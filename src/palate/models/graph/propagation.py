"""Propagation of node embeddings on the user-item graph: for `lightgcn` and `xsimgcl`.

E_0 = embeddings of the nodes,  E_l = A E_(l-1),  A = S^-1/2 [0 X; X' 0] S^-1/2

The nodes are the users, then the items. X_ui is the sum of the sample weights of the interactions of user u with item
i, 1 each for data without weights. S is diagonal: the degree of each node, its sum in X.

Fold-in. A user who was not in training has no embedding and no edges, but a history h. The layers of such a user are
those of a node with edges to the items of h:

e_l(h) = |h|^-1/2 sum_{j in h} s_j^-1/2 e_(l-1)(j)

with the item layers as they were trained. So a mean of layers 1 to L of the user is a sum over the history of one
vector for each item, times |h|^-1/2: see `neighbour_vectors` and `fold_in`. A history counts each distinct item once.

Legend: V nodes, R distinct nodes of a batch, N items, D width, E directed edges, B queries, T history values, P
positives, K negatives of each positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.models.layers import distinct_history, first_occurrences, sum_rows
from palate.models.linear.ease import interactions
from palate.training.batches import Pairs
from palate.training.loop import FitContext


@dataclass(frozen=True, eq=False)
class Graph:
    """A, the normalised adjacency matrix: symmetric and sparse, kept by rows.

    Attributes:
        offsets: int32 `[V + 1]`; the neighbours of node v are `neighbour[offsets[v]:offsets[v + 1]]`.
        neighbour: int32 `[E]`.
        weight: float32 `[E]`.
        item_scale: s^-1/2 of each item, float32 `[N]`; 0 for an item without interactions.
    """

    offsets: Tensor
    neighbour: Tensor
    weight: Tensor
    item_scale: Tensor

    @classmethod
    def of(cls, data: Dataset, device: torch.device) -> Graph:
        """The graph of a data set's interactions.

        Args:
            data: Its rows are the edges.
            device: Where the tensors are made.
        """
        known = interactions(data)
        edges = scipy.sparse.bmat([[None, known], [known.T, None]], format="csr")
        degree = np.asarray(edges.sum(axis=1, dtype=np.float64)).reshape(-1)
        scale = np.where(degree > 0, np.maximum(degree, np.finfo(np.float32).tiny) ** -0.5, 0.0)
        normalised = (scipy.sparse.diags(scale) @ edges @ scipy.sparse.diags(scale)).tocsr().astype(np.float32)
        columns = (
            normalised.indptr.astype(np.int32), normalised.indices.astype(np.int32), normalised.data,
            scale[data.n_users :].astype(np.float32),
        )  # fmt: skip
        return cls(*(torch.from_numpy(column).to(device) for column in columns))

    def take(self, row_R: Tensor) -> Graph:
        """Some rows of A, for products with the embeddings of all nodes."""
        rows = Ragged(self.neighbour, self.offsets)
        place_E = rows.positions(row_R)
        offsets = Ragged.from_lengths(place_E, rows.lengths[row_R]).offsets.int()
        return Graph(offsets, self.neighbour[place_E], self.weight[place_E], self.item_scale)

    def propagate(self, node_VD: Tensor, row_R: Tensor | None = None) -> Tensor:
        """A times the embeddings; gradients flow through.

        Args:
            node_VD: An embedding of each node.
            row_R: Distinct nodes whose rows of the product are wanted. Defaults to all nodes, in order.

        Returns:
            float32 `[R, D]` or `[V, D]`.
        """
        product_RD: Tensor = _SymmetricProduct.apply(node_VD, self, row_R)  # type: ignore[no-untyped-call]
        return product_RD


@dataclass(frozen=True, eq=False, kw_only=True)
class GraphContext(FitContext):
    """What training needs of the data: also its graph."""

    graph: Graph


class _SymmetricProduct(torch.autograd.Function):
    """A x. A is symmetric, so the gradient of x is A times the gradient of the product: the same sums of rows.

    `F.embedding_bag` with 32-bit indices is more than twice as fast as PyTorch's sparse matrices on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, node_VD: Tensor, graph: Graph, row_R: Tensor | None) -> Tensor:
        ctx.graph, ctx.row_R, ctx.shape = graph, row_R, node_VD.shape
        return _weighted_sums(graph if row_R is None else graph.take(row_R), node_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_RD: Tensor) -> tuple[Tensor, None, None]:
        if ctx.row_R is not None:
            gradient_RD = gradient_RD.new_zeros(ctx.shape).index_copy_(0, ctx.row_R, gradient_RD)
        return _weighted_sums(ctx.graph, gradient_RD.contiguous()), None, None


def _weighted_sums(graph: Graph, node_VD: Tensor) -> Tensor:
    return F.embedding_bag(graph.neighbour, node_VD, graph.offsets[:-1], mode="sum", per_sample_weights=graph.weight)


class Nodes(NamedTuple):
    """The nodes of a batch of pairs.

    Attributes:
        row: Its distinct nodes, ascending (users first), int64 `[R]`.
        place: Where user, positive and negatives of each pair are among them, int64 `[P, 2 + K]`.
    """

    row: Tensor
    place: Tensor

    @classmethod
    def of(cls, batch: Pairs, n_users: int) -> Nodes:
        """The nodes of a batch."""
        assert batch.negative is not None  # the fit context draws negatives
        item_PC = torch.cat([batch.item.unsqueeze(1), batch.negative], dim=1)
        node_PC = torch.cat([batch.user.unsqueeze(1), item_PC + n_users], dim=1)
        return cls(*torch.unique(node_PC, return_inverse=True))

    def scores(self, row_RD: Tensor) -> Tensor:
        """Scores of the positive and of the negatives of each pair, `[P, 1 + K]`, by the vectors of the nodes."""
        vector_PCD = F.embedding(self.place, row_RD)
        return (vector_PCD[:, 1:] * vector_PCD[:, :1]).sum(2)

    def l2(self, row_RD: Tensor, weight_P: Tensor | None) -> Tensor:
        """Half the squared lengths of the vectors of a pair; the mean over the pairs, weighted as their losses are."""
        square_P = F.embedding(self.place, row_RD.square().sum(1, keepdim=True)).sum((1, 2)) / 2
        return (square_P if weight_P is None else square_P * weight_P).mean()


def neighbour_vectors(item_layers: Sequence[Tensor], layers: int, graph: Graph) -> Tensor:
    """What an item adds to the mean of a user's layers, times |h|^1/2, float32 `[N, D]`.

    Args:
        item_layers: Item layers 0 to L - 1, each `[N, D]`.
        layers: Number of layers that the mean is taken over.
        graph: The graph of the training data.
    """
    total_ND = torch.stack(list(item_layers)).sum(0)
    return total_ND * graph.item_scale.unsqueeze(1) / layers


def fold_in(history: Ragged, vector_ND: Tensor) -> Tensor:
    """The user vectors of histories, `[B, D]`; zeros for an empty history.

    Args:
        history: Item indices, B rows.
        vector_ND: See `neighbour_vectors`.
    """
    history = distinct_history(history)
    return sum_rows(vector_ND, history) * history.lengths.clamp(min=1).rsqrt().unsqueeze(1)


def fold_in_contributions(queries: Queries, vector_ND: Tensor, target_D: Tensor) -> Tensor:
    """What each history value adds to the score of one item under `fold_in`, `[T]`, given the history's length."""
    first_T = first_occurrences(queries.history)
    size = first_T.sum().clamp(min=1)
    return (vector_ND[queries.history.values] @ target_D) * first_T * size.rsqrt()
