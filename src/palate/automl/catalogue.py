"""What a search knows of the models before it runs them: how simple each is, and about how long it takes.

Seconds are those of one thread of a recent CPU, measured on data sets of 100,000 to a million rows; a run corrects them
by what it measures. Of models with epochs they stand for half of the most epochs, where training typically ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from palate.data.dataset import Dataset

TIERS = ("baseline", "closed form", "factorization", "neural network", "several models")
"""Kinds of models, the simplest first."""
BASELINE, CLOSED, FACTORS, NEURAL, SEVERAL = range(len(TIERS))
EPOCH = 0.03
"""Seconds of an epoch however few the rows are, its checkpoint included."""
JUDGED = 2000
"""Users on whom models judge their own settings (`palate.models.choose`)."""


@dataclass(frozen=True)
class Size:
    """What the cost of a model depends on.

    Attributes:
        rows, users, items: Of the training part.
        pairs: Pairs of items that some user has together, counted once for each user; likewise `item_pairs` of users.
    """

    rows: int
    users: int
    items: int
    pairs: float
    item_pairs: float

    @classmethod
    def of(cls, data: Dataset) -> Size:
        """The size of a training part."""
        lengths = np.diff(data.offsets).astype(np.float64)
        return cls(
            rows=len(data),
            users=data.n_users,
            items=data.n_items,
            pairs=float((lengths**2).sum()),
            item_pairs=float((data.item_counts.astype(np.float64) ** 2).sum()),
        )

    @property
    def cells(self) -> float:
        """Cells of the user-item matrix."""
        return float(self.users) * self.items

    @property
    def judging(self) -> float:
        """Seconds that a model takes to judge ten settings of its own."""
        return 1e-7 * min(self.users, JUDGED) * self.items


def _small(size: Size) -> float:
    """Bytes of a few copies of the rows, and of a vector for each user and item."""
    return 32.0 * size.rows + 2048.0 * (size.users + size.items)


@dataclass(frozen=True)
class Kind:
    """One model of the catalogue.

    Attributes:
        tier: Place in `TIERS`.
        seconds: Estimated time of the model as it comes.
        bytes: Estimated peak of memory beside the data.
    """

    tier: int
    seconds: Callable[[Size], float]
    bytes: Callable[[Size], float] = _small


def _closed(seconds: Callable[[Size], float]) -> Kind:
    return Kind(CLOSED, lambda s: 0.05 + seconds(s) + s.judging)


def _cubic(fits: float) -> Kind:
    """A dense inverse of items x items for each setting that is tried."""
    return Kind(
        CLOSED, lambda s: 0.05 + 2.1e-11 * fits * s.items**3 + 2e-9 * s.pairs + s.judging, lambda s: 20.0 * s.items**2
    )


def _rows(tier: int, epochs: float, each: float) -> Kind:
    """So many epochs at so many seconds a row."""
    return Kind(tier, lambda s: epochs * (EPOCH + each * s.rows + 0.1 * s.judging))


def _cells(epochs: float, each: float) -> Kind:
    """So many epochs at so many seconds a cell of the user-item matrix."""
    return Kind(NEURAL, lambda s: epochs * (EPOCH + each * s.cells + 0.1 * s.judging), lambda s: 2.5e4 * s.items)


def _sequence(factor: float) -> Kind:
    return Kind(NEURAL, lambda s: factor * 50 * (EPOCH + s.rows * (3e-5 + 1.3e-8 * s.items) + 0.1 * s.judging))


def _graph(each: float) -> Kind:
    """Each step propagates over the whole graph."""
    return Kind(NEURAL, lambda s: 50 * EPOCH + each * float(s.rows) ** 2 / 2048)


def _ials(factor: float) -> Kind:
    return _closed(lambda s: factor * (5.2e-6 * s.rows + 1.7e-4 * (s.users + s.items)))


LISTS: dict[str, Kind] = {
    "popularity": Kind(BASELINE, lambda s: 0.05 + 1e-6 * s.rows),
    "recent-popularity": Kind(BASELINE, lambda s: 0.05 + 2e-6 * s.rows),
    "itemknn": _closed(lambda s: 2.2e-7 * s.pairs),
    "userknn": _closed(lambda s: 1.1e-7 * s.item_pairs),
    "rp3beta": _closed(lambda s: 2e-7 * s.pairs),
    "puresvd": _closed(lambda s: 5e-6 * s.rows),
    "ease": _cubic(5),
    "edlae": _cubic(8),
    "sparse-ease": _closed(lambda s: 1e-8 * s.pairs + 2.5e-3 * s.items),
    "ials": _ials(1.8),
    "gf-cf": _closed(lambda s: 2.4e-7 * s.pairs + 5e-6 * s.rows),
    "turbo-cf": _closed(lambda s: 1.9e-7 * s.pairs),
    "mf": _rows(FACTORS, 25, 7e-6),
    "gmf": _rows(FACTORS, 25, 3e-6),
    "mlp": _rows(NEURAL, 25, 1.2e-5),
    "neumf": _rows(NEURAL, 25, 1.4e-5),
    "cdae": _cells(50, 1.4e-7),
    "multdae": _cells(50, 1e-7),
    "multvae": _cells(50, 2e-7),
    "recvae": _cells(25, 9e-7),
    "lightgcn": _graph(6e-5),
    "xsimgcl": _graph(1.3e-5),
}
"""Models that make lists from interactions alone."""

SEQUENCES: dict[str, Kind] = {
    "markov": _closed(lambda s: 3e-6 * s.rows),
    "vmis-knn": _closed(lambda s: 3e-6 * s.rows + 2e-4 * s.users),
    "sasrec": _sequence(1),
    "gru4rec": _sequence(1.2),
    "nextitnet": _sequence(1.2),
}
"""Models that read the order of a history."""

CONTENT: dict[str, Kind] = {
    "content-knn": _closed(lambda s: 1e-3 * s.items + 1e-6 * s.rows),
    "content-ials": _ials(2.5),
    "two-tower": _rows(NEURAL, 15, 3e-5),
    "vbpr": _rows(FACTORS, 25, 1.5e-5),
    "deepfm": _rows(NEURAL, 25, 4e-5),
    "dropoutnet": Kind(NEURAL, lambda s: 0.05 + 20e-3 * s.items + 5.2e-6 * s.rows + 1.7e-4 * (s.users + s.items)),
    "text-cnn": Kind(NEURAL, lambda s: 0.05 + 15 * (s.users / 256 + 1) * 2.0),
    "image-cnn": Kind(NEURAL, lambda s: 0.05 + 15 * (s.users / 256 + 1) * 20.0),
    "hybrid": Kind(SEVERAL, lambda s: 0.5 + 3 * (5.2e-6 * s.rows + 1.7e-4 * (s.users + s.items)) + 3 * s.judging),
}
"""Models that read item features; each says itself which kinds it needs."""

RATINGS: dict[str, Kind] = {
    "bias": Kind(BASELINE, lambda s: 0.05 + 5e-6 * s.rows),
    "mf": _rows(FACTORS, 25, 6e-6),
    "svdpp": _rows(FACTORS, 16, 2.5e-5),
    "bayes-mf": Kind(FACTORS, lambda s: 3.0 + 3.4e-4 * s.rows),
    "gmf": _rows(FACTORS, 20, 3e-6),
    "mlp": _rows(NEURAL, 20, 4e-6),
    "neumf": _rows(NEURAL, 20, 5e-6),
    "u-autorec": _cells(50, 1.4e-7),
    "i-autorec": _cells(50, 1.4e-7),
    "sparsefc": _cells(50, 2.2e-7),
    "convmf": Kind(NEURAL, lambda s: 0.05 + 25 * 1e-5 * s.rows + 30 * 2e-3 * s.items),
    "deepfm": _rows(NEURAL, 25, 1e-5),
}
"""Models that predict ratings."""

BY_SQUARED_ERROR = ("mf", "gmf", "mlp", "neumf", "deepfm")
"""Models that predict ratings with `loss="mse"`."""
