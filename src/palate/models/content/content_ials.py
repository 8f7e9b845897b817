"""content-ials: iALS for known items; a ridge regression predicts the iALS vectors of new items from their content.

score(u, i) = <w_u, h_i>
h_i         = iALS's vector, for an item of the training data
h_i         = m + x_i W, for a new item;  m the mean of all h, x_i the content vector

W minimises sum_i |h_i - m - x_i W|^2 + map_reg |W|^2

This is a linear map from attributes to the vectors of a factorization (Gantner et al. 2010, "Learning
attribute-to-feature mappings for cold-start recommendations"). The content vectors hold words, tags, categories,
numbers and vectors with the default weights of `content-knn`, see `palate.models.content.content_vectors`; images are
not read. With the Gram matrix K = X X', W = X' A and (K + map_reg I) A = H - m. Conjugate gradients solve this without
building K, at a cost proportional to the non-zero entries of X.

benchmarks/results/cold_items_*.md compares it with content neighbours and with encoders trained by gradient steps.

Legend: B queries, N items, I items asked about, E dim, P width of the content vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import scipy
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch
from palate.device import on_cpu
from palate.errors import DataError
from palate.models.base import Model
from palate.models.content.content_vectors import BlockWeights, ContentVectors, block_sizes, content_vectors
from palate.models.mf.ials import IALS, IALSConfig
from palate.training.loop import Epoch, TrainRun

CG_TOLERANCE, MAX_CG_STEPS = 1e-4, 300
"""Conjugate gradients stop at this share of the first residual, or after this number of steps."""


@dataclass(frozen=True, kw_only=True)
class ContentIALSConfig:
    """Settings of `content-ials`."""

    dim: int = 128
    """Width of the vectors."""
    alpha: float | None = None
    """iALS: weight of all pairs relative to the observed ones. Defaults to what `ials` takes without a valid part."""
    reg: float | None = None
    """iALS: L2 on the vectors. Defaults to what `ials` takes without a valid part."""
    map_reg: float = 1.0
    """L2 on the map from content to vectors, in squared lengths of content vectors."""
    shrink: float = 1.0
    """Reduces items about which little is known: added to the norms, in mean norms."""

    def __post_init__(self) -> None:
        check(self, map_reg=self.map_reg > 0, shrink=self.shrink >= 0)
        self.ials()  # raises what iALS would refuse

    def ials(self) -> IALSConfig:
        """The settings of iALS."""
        return IALSConfig(dim=self.dim, alpha=self.alpha, reg=self.reg)

    def block_weights(self) -> BlockWeights:
        """The settings of the content vectors."""
        return BlockWeights(shrink=self.shrink)


class ContentIALS(Model):
    """iALS, with a linear map that predicts the vectors of new items from their content."""

    Config = ContentIALSConfig
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "similar_items"})
    uses_weights = IALS.uses_weights
    additive = True
    item: Tensor
    mean: Tensor
    map: Tensor
    statistics: Tensor

    def __init__(self, config: ContentIALSConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: ContentIALSConfig = config
        if spec.item_features is None or not any(block_sizes(spec.item_features)[:2]):
            raise DataError(
                "content-ials needs item_features, which this data lacks; give a table of items with words, tags, "
                "categories, numbers or vectors"
            )
        self.features = spec.item_features
        sparse, dense, blocks = block_sizes(self.features)
        self.ials = IALS(config.ials(), replace(spec, n_items=spec.n_items - spec.new_items, new_items=0))
        self.register_buffer("item", torch.zeros(spec.n_items, config.dim))
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("map", torch.zeros(sparse + dense, config.dim))
        self.register_buffer("statistics", torch.zeros(blocks, 2))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        self.ials.fit(data, job.training, start=None if job.start is None else job.start.member("ials", ""))
        self.item.copy_(self.ials.item)
        self.mean.copy_(self.item.mean(0))
        found = content_vectors(data.encoded_items(self.features), self.features, self.config.block_weights())
        self.statistics.copy_(found.statistics)
        self.map.copy_(ridge_map(_joined(found), self.item - self.mean, self.config.map_reg))
        return []

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        features, statistics, matrix, mean = on_cpu((features, self.statistics, self.map, self.mean))  # for SciPy
        found = content_vectors(features, self.features, self.config.block_weights(), statistics)
        return {"item": (mean + torch.from_numpy(_joined(found) @ matrix.numpy())).to(self.item.device)}

    def _score(self, queries: Queries) -> Tensor:
        return self.represent(queries) @ self.item.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.represent(queries) @ self.item[item_I].T

    def _known_users(self, user_B: Tensor) -> Tensor:
        return self.ials.user[user_B]

    def _fold_in(self, queries: Queries) -> Tensor:
        return self.ials.fold_in(queries.history, self.item)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return self.ials.contributions(queries.history, self.item, item), 0.0

    def item_vectors(self) -> Tensor:
        return self.item

    def item_factors(self) -> Tensor:
        return self.item

    def query_factors(self, queries: Queries) -> Tensor:
        return self.represent(queries)


def ridge_map(content_NP: scipy.sparse.csr_matrix, target_NE: Tensor, reg: float) -> Tensor:
    """W that minimises |target - content W|^2 + reg |W|^2, float32 `[P, E]`, by conjugate gradients.

    Args:
        content_NP: Content vectors of N items.
        target_NE: What they predict.
        reg: L2.
    """
    across_PN = content_NP.T.tocsr()

    def times(flat: np.ndarray) -> np.ndarray:
        a_NE = flat.reshape(target_NE.shape).astype(np.float32)
        return cast("np.ndarray", (content_NP @ (across_PN @ a_NE) + reg * a_NE).ravel())

    size = target_NE.numel()
    # The columns of the target share the matrix, so that all are solved as one system.
    system: Any = scipy.sparse.linalg.LinearOperator((size, size), matvec=times, dtype=np.float32)
    answer, _ = scipy.sparse.linalg.cg(system, target_NE.numpy().ravel(), rtol=CG_TOLERANCE, maxiter=MAX_CG_STEPS)
    return torch.from_numpy(across_PN @ answer.reshape(target_NE.shape).astype(np.float32))


def _joined(found: ContentVectors) -> scipy.sparse.csr_matrix:
    """The sparse and the dense part as one sparse matrix."""
    return scipy.sparse.csr_matrix(
        scipy.sparse.hstack([found.sparse, scipy.sparse.csr_matrix(found.dense.numpy())], "csr"), dtype=np.float32
    )
