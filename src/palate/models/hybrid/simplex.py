"""Weights on the simplex (at least 0, sum 1) that minimise a loss: how a blend chooses its weights.

Legend: M weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
"""Shares of the weight moved in one step of the search."""
MAX_MOVES = 20
"""Most moves of one share."""

Loss = Callable[[np.ndarray], float]
"""A function of the weights, float64 `[M]`; lower is better."""


def least_squares(loss: Loss, count: int) -> np.ndarray:
    """The weights on the simplex of least squared error, float64 `[M]`.

    The error of a blend is the blend of the errors, so its square is w' G w, where G[m, n] is the mean product of the
    errors of m and n. G follows from the loss of each member and of each pair at equal weights. The minimum of w' G w
    on the simplex lies along the nonnegative solution of L' w = 0, sum(w) = 1 in the least-squares sense, G = L L'
    (Lawson and Hanson 1974, chapter 23).

    Args:
        loss: Root mean square error.
        count: M.
    """
    corners = np.eye(count)
    squares = np.array([loss(corner) ** 2 for corner in corners])
    gram = np.diag(squares)
    for m in range(count):
        for n in range(m):
            half = loss((corners[m] + corners[n]) / 2) ** 2
            gram[m, n] = gram[n, m] = 2 * half - (squares[m] + squares[n]) / 2
    from scipy.optimize import nnls  # here, since importing it takes each command a quarter of a second

    values, vectors = np.linalg.eigh(gram)
    design = np.vstack([(vectors * np.sqrt(values.clip(min=0))).T, np.ones(count)])
    weight, _ = nnls(design, np.append(np.zeros(count), 1.0))
    best = corners[int(squares.argmin())]
    found = weight / weight.sum()
    chosen: np.ndarray = found if loss(found) < loss(best) else best
    return chosen


def search(loss: Loss, count: int) -> np.ndarray:
    """Weights on the simplex, float64 `[M]`, whose loss no single move of a share lowers.

    Args:
        loss: Any function of the weights.
        count: M.
    """
    starts = [*np.eye(count), np.full(count, 1 / count)]
    values = [loss(start) for start in starts]
    best = int(np.argmin(values))
    weight: np.ndarray = starts[best]
    value = values[best]
    for share in SHARES:
        for _ in range(MAX_MOVES):
            tried = [(loss(moved), moved) for moved in moves(weight, share)]
            least, moved = min(tried, key=lambda each: each[0])
            if not least < value:
                break
            weight, value = moved, least
    return weight


def moves(weight: np.ndarray, share: float) -> Iterator[np.ndarray]:
    """The weights after moving a share to one member, or from one member to the others in proportion."""
    for place, corner in enumerate(np.eye(len(weight))):
        if weight[place] < 1:
            yield (1 - share) * weight + share * corner
        if 0 < weight[place] < 1:
            left = weight - min(share, weight[place]) * corner
            yield left / left.sum()
