"""A round of alternating least squares for all rows at once, by conjugate gradients: no row's matrix is ever built.

Row r, with members n, their vectors q_n and their weights w_n, has the ridge regression

x_r = argmin  sum_n w_n (1 - <x, q_n>)^2 + <x, S x> + s_r |x|^2,  S the same for all rows

Its system A_r = sum_n w_n q_n q_n' + S + s_r I is only ever multiplied with a vector: S by one dense product for all
rows, the rest by one dot product for each interaction and one weighted sum for each row (Takacs, Pilaszy, Tikk 2011).
That costs a D-th of building the matrices. The start is the solution of the previous round. The basis is rotated to the
eigenvectors of the mean row's matrix, in which every A_r is close to its diagonal. With the diagonal as preconditioner,
two steps come as close as eight steps without it: about 1 % on MovieLens-1M. More steps do not rank better.

Legend: R rows of a block, N possible members, D dim, T members of a block's rows.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from palate.data.ragged import Ragged

STEPS_PER_ROUND = 2
MAX_VALUES_PER_BLOCK = 2**22
"""Size of each table of a block of rows: 16 MB."""


class Regressions:
    """Rows and their members, prepared for any number of rounds.

    Args:
        rows: Each row's members, indices below `size`.
        size: N.
        dim: D.
        weight_T: w, above 0, aligned with `rows.values`. Defaults to 1.
        own: The rows that `improve` computes. Defaults to all.

    Attributes:
        totals: Sum of each row's weights, `[rows]`.
    """

    def __init__(
        self, rows: Ragged, size: int, dim: int, weight_T: Tensor | None = None, own: slice | None = None
    ) -> None:
        self.totals = total_weights(rows, weight_T)
        self._lengths = rows.lengths
        self._member_weight_N = torch.bincount(rows.values, weight_T, minlength=size).float()
        self._blocks = []
        step = max(1, MAX_VALUES_PER_BLOCK // dim)
        first, last, _ = (own or slice(None)).indices(len(rows))
        for start in range(first, last, step):
            stop = min(start + step, last)
            weight = None if weight_T is None else weight_T[rows.offsets[start] : rows.offsets[stop]]
            self._blocks.append((slice(start, stop), _pattern(rows.rows(start, stop), size), weight))

    def improve(self, start_RD: Tensor, vector_ND: Tensor, shared_DD: Tensor, strength_R: Tensor) -> Tensor:
        """A few steps from the given solutions towards the exact ones, `[rows, D]`.

        Args:
            start_RD: For all rows; those without members, and those that are not computed, get 0.
            vector_ND: q.
            shared_DD: S, symmetric, positive semi-definite.
            strength_R: s, above 0.
        """
        mean_N1 = (self._member_weight_N / max(len(self._lengths), 1)).unsqueeze(1)
        basis_DD = torch.linalg.eigh(shared_DD + vector_ND.T @ (vector_ND * mean_N1)).eigenvectors
        start_RD = start_RD * (self._lengths > 0).unsqueeze(1)
        rotated_ND, rotated_DD = vector_ND @ basis_DD, basis_DD.T @ shared_DD @ basis_DD
        out_RD = torch.zeros_like(start_RD)
        for rows, pattern, weight_T in self._blocks:
            strength_R1 = strength_R[rows].unsqueeze(1)
            found_RD = _steps(pattern, weight_T, start_RD[rows] @ basis_DD, rotated_ND, rotated_DD, strength_R1)
            out_RD[rows] = found_RD @ basis_DD.T
        return out_RD


def _steps(
    pattern: Tensor, weight_T: Tensor | None, x_RD: Tensor, vector_ND: Tensor, shared_DD: Tensor, strength_R1: Tensor
) -> Tensor:
    """Preconditioned conjugate gradients, each row on its own."""
    member, offset = pattern.col_indices(), pattern.crow_indices()[:-1]
    tiny = torch.finfo(torch.float32).tiny

    def gather(table_ND: Tensor, factor_T: Tensor | None) -> Tensor:
        return F.embedding_bag(member, table_ND, offset, mode="sum", per_sample_weights=factor_T)

    def times(p_RD: Tensor) -> Tensor:
        # Into the pattern itself, whose values do not matter: otherwise its indices are copied each time.
        dot_T = torch.sparse.sampled_addmm(pattern, p_RD, vector_ND.T, beta=0, out=pattern).values()
        factor_T = dot_T if weight_T is None else dot_T * weight_T
        return torch.addcmul(p_RD @ shared_DD, strength_R1, p_RD).add_(gather(vector_ND, factor_T))

    diagonal_RD = gather(vector_ND.square(), weight_T).add_(shared_DD.diagonal()).add_(strength_R1)
    residual_RD = gather(vector_ND, weight_T).sub_(times(x_RD))
    z_RD = residual_RD / diagonal_RD
    direction_RD, size_R1 = z_RD, (residual_RD * z_RD).sum(1, keepdim=True)
    for step in range(STEPS_PER_ROUND):
        image_RD = times(direction_RD)
        length_R1 = size_R1 / (direction_RD * image_RD).sum(1, keepdim=True).clamp(min=tiny)
        x_RD = torch.addcmul(x_RD, length_R1, direction_RD)
        if step == STEPS_PER_ROUND - 1:
            break
        residual_RD.addcmul_(length_R1, image_RD, value=-1)
        z_RD = residual_RD / diagonal_RD
        before_R1, size_R1 = size_R1, (residual_RD * z_RD).sum(1, keepdim=True)
        direction_RD = torch.addcmul(z_RD, size_R1 / before_R1.clamp(min=tiny), direction_RD)
    return x_RD


def total_weights(rows: Ragged, weight_T: Tensor | None) -> Tensor:
    """Sum of each row's weights, `[rows]`; its length if there are none."""
    return rows.lengths if weight_T is None else torch.bincount(rows.row_of_value, weight_T, len(rows)).float()


def _pattern(rows: Ragged, size: int) -> Tensor:
    """The members of a block's rows as a sparse matrix of ones `[R, N]`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # "beta"; the tests pin what is used of it here
        return torch.sparse_csr_tensor(
            rows.offsets.int(), rows.values.int(), torch.ones(len(rows.values), device=rows.values.device),
            size=(len(rows), size), check_invariants=False,
        )  # fmt: skip
