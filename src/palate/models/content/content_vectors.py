"""Content vectors: what is known of an item as one fixed vector, a concatenation of blocks whose cosines add up.

<x_i, x_j> = sum over blocks b of  weight_b cos(x_ib, x_jb),  up to the shrinkage

There is one block for each text, tags, category and vector column, and one for each number or part of a date:

text      rare(w) (k1 + 1) tf / (tf + k1 (1 - b + b |d| / mean |d|)) for each word (bm25: k1 = 1.2, b = 0.75; Robertson
          and Zaragoza 2009), or rare(w) (1 + log tf) (tfidf), rare(w) = log((1 + rows) / (1 + rows with w))
tags      rare(t) for each tag
category  1 for its value
number    exp(-(x - c)^2 / 2) for standardised centres c = -2.5, -2, ... 2.5, so that close numbers are similar
vector    unchanged

Each block x is scaled to the length sqrt(weight) |x| / (|x| + shrink mean|x|). The block of an unknown value is zero.
Images are not read.

Legend: N rows, V sparse width, D dense width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy
import torch
from torch import Tensor

from palate.data.features.schema import Column, FeatureBatch, FeatureSchema
from palate.data.ragged import Ragged

K1, B = 1.2, 0.75
"""Parameters of BM25."""
CENTRES = torch.arange(-2.5, 2.6, 0.5)
"""Centres of a number's block, in standard deviations from the mean."""
MIN_DIVISOR = 1e-6
"""Smallest number that lengths are divided by."""
MAX_SPARSE_WIDTH = 512
"""Widest sparse part that `dense_vectors` keeps as it is; wider ones are projected to as many random signs."""


@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """How the blocks are weighted.

    Attributes:
        weighting: How the count of a word becomes its weight.
        shrink: Reduces blocks about which little is known: added to each norm, in mean norms.
        text, tags, category, number, vector: Weight of each column of this kind; number: of each part of a date too.
    """

    weighting: Literal["tfidf", "bm25"] = "bm25"
    shrink: float = 1.0
    text: float = 3.0
    tags: float = 1.0
    category: float = 1.0
    number: float = 0.2
    vector: float = 1.0


@dataclass(frozen=True, eq=False)
class ContentVectors:
    """Content vectors of N rows, in a sparse and a dense part.

    Attributes:
        sparse: Words, tags and categories, float32 `[N, V]`.
        dense: Numbers and vectors, float32 `[N, D]`.
        statistics: Mean text length and mean norm of each block, float32 `[blocks, 2]`.
    """

    sparse: scipy.sparse.csr_matrix
    dense: Tensor
    statistics: Tensor


def block_sizes(features: FeatureSchema) -> tuple[int, int, int]:
    """Sparse width, dense width and number of blocks of a table's content vectors."""
    sparse = features.of("text", "tags", "category")
    numbers = sum(len(column.mean) for column in features.of("number", "date"))
    vectors = features.of("vector")
    dense = numbers * len(CENTRES) + sum(column.size[0] for column in vectors)
    return sum(len(column.values) for column in sparse), dense, len(sparse) + numbers + len(vectors)


def content_vectors(
    encoded: FeatureBatch, features: FeatureSchema, weights: BlockWeights, statistics: Tensor | None = None
) -> ContentVectors:
    """The content vectors of some rows.

    Args:
        encoded: The rows.
        features: How they are encoded.
        weights: How the blocks are weighted.
        statistics: Those of the training rows. Defaults to computing them from `encoded`.
    """
    found = torch.zeros(block_sizes(features)[2], 2) if statistics is None else statistics.clone()
    if statistics is None:
        for place, column in enumerate(features.of("text")):
            found[place, 0] = _positive_mean(encoded.text[column.name].lengths.float())
    scaled: list[Any] = []
    for place, (kind, block) in enumerate(_blocks(encoded, features, weights.weighting, found[:, 0])):
        norm_N = _norms(block)
        if statistics is None:
            found[place, 1] = _positive_mean(norm_N)
        factor_N = getattr(weights, kind) ** 0.5 / (norm_N + weights.shrink * found[place, 1]).clamp(min=MIN_DIVISOR)
        is_dense = isinstance(block, Tensor)
        scaled.append(block * factor_N.unsqueeze(1) if is_dense else scipy.sparse.diags(factor_N.numpy()) @ block)
    sparse = [block for block in scaled if not isinstance(block, Tensor)]
    dense = [block for block in scaled if isinstance(block, Tensor)]
    return ContentVectors(
        sparse=scipy.sparse.csr_matrix(
            scipy.sparse.hstack(sparse, "csr") if sparse else (len(encoded), 0), dtype=np.float32
        ),
        dense=torch.cat(dense, 1) if dense else torch.zeros(len(encoded), 0),
        statistics=found,
    )


def dense_width(features: FeatureSchema) -> int:
    """Width of what `dense_vectors` returns."""
    sparse, dense, _ = block_sizes(features)
    return min(sparse, MAX_SPARSE_WIDTH) + dense


def dense_vectors(vectors: ContentVectors) -> Tensor:
    """Dense vectors with the cosines of the content vectors, `[N, D]`; to about 0.04 if the sparse part is wide."""
    narrow = vectors.sparse
    if narrow.shape[1] > MAX_SPARSE_WIDTH:
        signs = torch.randint(0, 2, (narrow.shape[1], MAX_SPARSE_WIDTH), generator=torch.Generator().manual_seed(0))
        narrow = narrow @ ((2.0 * signs - 1) / MAX_SPARSE_WIDTH**0.5).numpy()
    else:
        narrow = narrow.toarray()
    return torch.cat([torch.from_numpy(narrow), vectors.dense], 1)


def _blocks(
    encoded: FeatureBatch, features: FeatureSchema, weighting: str, text_lengths: Tensor
) -> Iterator[tuple[str, scipy.sparse.csr_matrix | Tensor]]:
    """Kind and rows of each block, not yet scaled."""
    for place, column in enumerate(features.of("text")):
        mean_length = max(float(text_lengths[place]), MIN_DIVISOR)
        yield "text", _word_weights(encoded.text[column.name], column, weighting, mean_length)
    for column in features.of("tags"):
        yield "tags", _counts(encoded.tags[column.name], column) @ scipy.sparse.diags(_rarity(column))
    for place, column in enumerate(features.of("category")):
        value = encoded.categories[:, place]
        yield "category", _counts(Ragged(value, torch.arange(len(value) + 1)), column)
    for place in range(encoded.numbers.shape[1]):
        bumps = torch.exp(-0.5 * (encoded.numbers[:, place : place + 1] - CENTRES).square())
        yield "number", bumps * encoded.known[:, place : place + 1]
    for column in features.of("vector"):
        yield "vector", encoded.vectors[column.name].float().nan_to_num(0.0)


def _word_weights(text: Ragged, column: Column, weighting: str, mean_length: float) -> scipy.sparse.csr_matrix:
    """BM25 or TF-IDF weights, `[N, words]`."""
    counts = _counts(text, column)
    if weighting == "tfidf":
        counts.data = 1 + np.log(counts.data)
    else:
        length = K1 * (1 - B + B * text.lengths.numpy() / mean_length)
        counts.data = (K1 + 1) * counts.data / (counts.data + np.repeat(length, np.diff(counts.indptr)))
    return counts @ scipy.sparse.diags(_rarity(column))


def _rarity(column: Column) -> np.ndarray:
    """ln((1 + rows) / (1 + rows with the value)) of each value, so that a value of all rows has weight 0."""
    # `Column.idf` is one more than this, which would give the commonest words half the weight of rare ones.
    return np.maximum(np.array(column.idf, dtype=np.float32) - 1, 0)


def _counts(values: Ragged, column: Column) -> scipy.sparse.csr_matrix:
    """How often each known value of a column occurs in each row, float32 `[N, values]`."""
    ones = np.ones(len(values.values), dtype=np.float32)
    shape = (len(values), len(column.values) + 1)
    counts = scipy.sparse.csr_matrix(
        (ones, values.values.numpy().astype(np.int32), values.offsets.numpy()), shape=shape
    )
    counts.sum_duplicates()
    return counts[:, 1:]


def _norms(block: scipy.sparse.csr_matrix | Tensor) -> Tensor:
    """The length of each row, float32 `[N]`."""
    if isinstance(block, Tensor):
        return block.square().sum(1).sqrt()
    return torch.from_numpy(np.sqrt(np.asarray(block.multiply(block).sum(1))).ravel().astype(np.float32))


def _positive_mean(values: Tensor) -> float:
    """The mean of the positive values; 1 if there are none."""
    some = values[values > 0]
    return float(some.mean()) if len(some) else 1.0
