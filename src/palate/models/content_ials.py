"""content-ials: iALS for what is known, and for a new item a ridge regression from its content to iALS's vectors.

score(u, i) = <w_u, h_i>
h_i         = iALS's vector, for an item of the training data
h_i         = m + x_i W, for a new one;  x_i its content vector (`palate.models.content`), m the mean of all h

W minimises sum_i |h_i - m - x_i W|^2 + map_reg |W|^2

A linear map from attributes to the vectors of a factorization (Gantner et al. 2010, "Learning attribute-to-feature
mappings for cold-start recommendations"), over words, tags, categories, numbers and vectors weighted as `content-knn`
weights them by default. With X X' = K, the likeness of all items, W = X' A and (K + map_reg I) A = H - m: solved by
conjugate gradients, so that K is never built and the cost goes by what is known of the items. Pixels are not read.

How it does beside content neighbours and towers learned by gradients: benchmarks/results/cold_items_*.md.

Legend: B queries, N items, I items asked about, E dim, P width of the content vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import csr_matrix, hstack
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.encoded import Encoded
from palate.errors import DataError
from palate.models.base import Model
from palate.models.content import Blocks, Content, content, sizes
from palate.models.ials import IALS, IALSConfig
from palate.training.loop import Epoch, Job

TOLERANCE, STEPS = 1e-4, 300
"""Conjugate gradients end at this share of the first residual, or after so many steps."""


@dataclass(frozen=True, kw_only=True)
class ContentIALSConfig:
    """Settings of `content-ials`."""

    dim: int = 128
    """Width of the vectors."""
    alpha: float = 0.2
    """iALS: weight of all pairs against the observed ones."""
    reg: float = 0.01
    """iALS: L2 on the vectors."""
    map_reg: float = 1.0
    """L2 on the map from content to vectors, in squared content vectors' lengths."""
    shrink: float = 1.0
    """Lets what little is known of count less: added to the norms, in mean norms."""

    def __post_init__(self) -> None:
        check(self, map_reg=self.map_reg > 0, shrink=self.shrink >= 0)
        self.warm()  # what iALS refuses is told now

    def warm(self) -> IALSConfig:
        """Settings of iALS."""
        return IALSConfig(dim=self.dim, alpha=self.alpha, reg=self.reg)

    def blocks(self) -> Blocks:
        """How content is weighted."""
        return Blocks(shrink=self.shrink)


class ContentIALS(Model):
    """iALS for known items, and for new ones its vectors foretold from their content by a linear map."""

    Config = ContentIALSConfig
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "similar_items"})
    item: Tensor
    middle: Tensor
    map: Tensor
    learned: Tensor

    def __init__(self, config: ContentIALSConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: ContentIALSConfig = config
        if spec.item_features is None or not any(sizes(spec.item_features)[:2]):
            raise DataError(
                "content-ials needs item_features, which this data lacks; give a table of items with words, tags, "
                "categories, numbers or vectors"
            )
        self.features = spec.item_features
        sparse, dense, blocks = sizes(self.features)
        self.warm = IALS(config.warm(), replace(spec, n_items=spec.n_items - spec.new_items, new_items=0))
        self.register_buffer("item", torch.zeros(spec.n_items, config.dim))
        self.register_buffer("middle", torch.zeros(config.dim))
        self.register_buffer("map", torch.zeros(sparse + dense, config.dim))
        self.register_buffer("learned", torch.zeros(blocks, 2))

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        self.warm.fit(data, job.training)
        self.item.copy_(self.warm.item)
        self.middle.copy_(self.item.mean(0))
        found = content(data.encoded_items(self.features), self.features, self.config.blocks())
        self.learned.copy_(found.learned)
        self.map.copy_(ridge(_matrix(found), self.item - self.middle, self.config.map_reg))
        return []

    def _new_items(self, features: Encoded) -> dict[str, Tensor]:
        found = content(features, self.features, self.config.blocks(), self.learned)
        return {"item": self.middle + torch.from_numpy(_matrix(found) @ self.map.numpy())}

    def _score(self, queries: Queries) -> Tensor:
        return self.query_factors(queries) @ self.item.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.query_factors(queries) @ self.item[item_I].T

    def _parts(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return self.warm.parts(queries, self.item, item), 0.0

    def item_vectors(self) -> Tensor:
        return self.item

    def item_factors(self) -> Tensor:
        return self.item

    def query_factors(self, queries: Queries) -> Tensor:
        return self.warm.people(queries, self.item)


def ridge(content_NP: csr_matrix, target_NE: Tensor, reg: float) -> Tensor:
    """W that minimises |target - content W|^2 + reg |W|^2, float32 `[P, E]`; see the module's text.

    Args:
        content_NP: A row for each item.
        target_NE: What to foretell.
        reg: L2.
    """
    across_PN = content_NP.T.tocsr()

    def times(flat: np.ndarray) -> np.ndarray:
        a_NE = flat.reshape(target_NE.shape).astype(np.float32)
        return cast("np.ndarray", (content_NP @ (across_PN @ a_NE) + reg * a_NE).ravel())

    size = target_NE.numel()
    # All columns are one system: they share its matrix, and so one product serves them all.
    system: Any = LinearOperator((size, size), matvec=times, dtype=np.float32)
    answer, _ = cg(system, target_NE.numpy().ravel(), rtol=TOLERANCE, maxiter=STEPS)
    return torch.from_numpy(across_PN @ answer.reshape(target_NE.shape).astype(np.float32))


def _matrix(found: Content) -> csr_matrix:
    """Both parts of the content vectors side by side."""
    return csr_matrix(hstack([found.sparse, csr_matrix(found.dense.numpy())], "csr"), dtype=np.float32)
