"""Many small ridge regressions at once: the common part of alternating least squares, Gibbs sampling and fold-in.

Row r regresses its targets t on the vectors q of its members, with weights w:

gram = sum w q q',  right = sum w t q

Legend: B rows of a block, L members of the longest, N possible members, D dim, T members of all rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from palate.data.ragged import Ragged
from palate.errors import TrainingError

MAX_VALUES_PER_BLOCK = 2**22
"""Size of the member vectors of a block, and of its grams: 16 MB each."""


def normal_equations(
    rows: Ragged, vector_ND: Tensor, target_T: Tensor | None = None, weight_T: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The sums of each row, in blocks of rows of similar length, so that padding wastes little. Skips empty rows.

    Args:
        rows: Each row's members, indices into `vector_ND`. A repeated member counts as often as it stands there.
        vector_ND: A vector for each possible member.
        target_T: Aligned with `rows.values`. Defaults to 1.
        weight_T: Aligned with `rows.values`. Defaults to 1.

    Yields:
        The block's rows, int64 `[B]`, gram `[B, D, D]` and right `[B, D]`.
    """
    size, dim = vector_ND.shape
    padded_ND = torch.cat([vector_ND, vector_ND.new_zeros(1, dim)])
    limit = MAX_VALUES_PER_BLOCK // dim
    for block in blocks_of_similar_length(rows.lengths, limit, max(1, limit // dim)):
        part = rows.take(block)
        member_BLD = padded_ND[part.padded(int(part.lengths.max()), size)]
        target_BL, weight_BL = (
            None if column is None else _padded(column[rows.positions(block)], part) for column in (target_T, weight_T)
        )
        weighted_BLD = member_BLD if weight_BL is None else member_BLD * weight_BL.unsqueeze(2)
        gram_BDD = weighted_BLD.mT @ member_BLD
        if target_BL is None:
            yield block, gram_BDD, weighted_BLD.sum(1)
        else:
            yield block, gram_BDD, (target_BL.unsqueeze(1) @ weighted_BLD).squeeze(1)


def _padded(column_T: Tensor, rows: Ragged) -> Tensor:
    """A column aligned with `rows.values` as a matrix, zeros after the end of each row, `[B, L]`."""
    return Ragged(column_T, rows.offsets).padded(int(rows.lengths.max()), 0)


def solve(gram_BDD: Tensor, right_BD: Tensor) -> Tensor:
    """The solution of symmetric positive definite systems, `[B, D]`.

    By Cholesky: batched LU has failed under several threads on CPU.

    Raises:
        TrainingError: See `cholesky`.
    """
    return torch.cholesky_solve(right_BD.unsqueeze(-1), cholesky(gram_BDD)).squeeze(-1)


def cholesky(gram_BDD: Tensor) -> Tensor:
    """The lower Cholesky factors of symmetric positive definite matrices, `[..., D, D]`.

    Raises:
        TrainingError: A matrix is not positive definite in its precision.
    """
    factor_BDD: Tensor
    factor_BDD, fault_B = torch.linalg.cholesky_ex(gram_BDD)
    if bool(fault_B.any()):
        raise TrainingError(
            "the normal equations of least squares are not positive definite in float32; use a larger reg, or ratings "
            "and weights on a smaller scale"
        )
    return factor_BDD


def blocks_of_similar_length(lengths: Tensor, most_values: int, most_rows: int) -> list[Tensor]:
    """Blocks of rows of similar length, each int64 `[rows of the block]`. Skips empty rows.

    Args:
        lengths: Of each row, `[rows]`.
        most_values: Padded values in a block; a single longer row is a block of its own.
        most_rows: Rows in a block.
    """
    order = torch.argsort(lengths, stable=True)
    order = order[lengths[order] > 0]
    sizes = lengths[order].tolist()
    blocks, start = [], 0
    while start < len(order):
        stop = start + 1
        # The last row is the longest: its length times the number of rows is the size of the block.
        while stop < len(order) and stop - start < most_rows and sizes[stop] * (stop - start + 1) <= most_values:
            stop += 1
        blocks.append(order[start:stop])
        start = stop
    return blocks
