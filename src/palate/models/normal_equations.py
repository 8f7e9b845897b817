"""Many small ridge regressions at once: what alternating least squares, Gibbs sampling and fold-in have in common.

Row r regresses its targets t on the vectors q of its members: gram = sum q q', right = sum t q.

Legend: B rows of a block, L members of the longest, D dim, T members in all.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from palate.data.ragged import Ragged

VALUES = 2**22
"""Numbers gathered at once: 16 MB of vectors."""


def normal_equations(
    rows: Ragged, vector_ND: Tensor, target_T: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The sums of each row, in blocks of rows of like length, so that padding wastes little; empty rows are left out.

    Args:
        rows: Each row's members, indices into `vector_ND`.
        vector_ND: A vector for each possible member.
        target_T: Aligned with `rows.values`; default 1.

    Yields:
        The block's rows, int64 `[B]`, gram `[B, D, D]` and right `[B, D]`.
    """
    size, dim = vector_ND.shape
    padded_ND = torch.cat([vector_ND, torch.zeros(1, dim)])
    for block in like_lengths(rows.lengths, VALUES // dim, max(1, VALUES // dim**2)):
        part = rows.take(block)
        longest = int(part.lengths.max())
        member_BLD = padded_ND[part.padded(longest, size)]
        gram_BDD = member_BLD.mT @ member_BLD
        if target_T is None:
            yield block, gram_BDD, member_BLD.sum(1)
            continue
        target_BL = torch.zeros(len(block), longest)
        row = part.row_of_value
        target_BL[row, torch.arange(len(row)) - part.offsets[row]] = target_T[rows.positions(block)]
        yield block, gram_BDD, (target_BL.unsqueeze(1) @ member_BLD).squeeze(1)


def solve(gram_BDD: Tensor, right_BD: Tensor) -> Tensor:
    """The solution of symmetric positive definite systems, `[B, D]`.

    By Cholesky: batched LU has failed under several threads on CPU.
    """
    return torch.cholesky_solve(right_BD.unsqueeze(-1), torch.linalg.cholesky(gram_BDD)).squeeze(-1)


def like_lengths(lengths: Tensor, most_values: int, most_rows: int) -> list[Tensor]:
    """Blocks of rows of like length; empty rows are left out.

    Args:
        lengths: Of each row, `[rows]`.
        most_values: Padded values in a block (a single longer row makes a block of its own).
        most_rows: Rows in a block.
    """
    order = torch.argsort(lengths, stable=True)
    order = order[lengths[order] > 0]
    sizes = lengths[order].tolist()
    blocks, start = [], 0
    while start < len(order):
        stop = start + 1
        # The last row is the longest: its length times the rows is what the block costs.
        while stop < len(order) and stop - start < most_rows and sizes[stop] * (stop - start + 1) <= most_values:
            stop += 1
        blocks.append(order[start:stop])
        start = stop
    return blocks
