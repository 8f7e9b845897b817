"""Search spaces of the models' settings, by model name in `SPACES`.

A key is a field of the model's config, or `training.` and a field of `Training`. Other settings keep their defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers if both bounds are whole.

    Attributes:
        low, high: Bounds.
        log: Whether to sample on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    def sample(self, rng: np.random.Generator) -> float | int:
        """A random number of the range."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        low, high = (self.low - 0.5, self.high + 0.5) if whole else (self.low, self.high)
        drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high)
        return int(min(max(round(drawn), self.low), self.high)) if whole else float(drawn)


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[str | int | float, ...]

    def sample(self, rng: np.random.Generator) -> str | int | float:
        """One of the values, at random."""
        return self.values[int(rng.integers(len(self.values)))]


Space = dict[str, Range | Choice]

_LR = Range(3e-4, 3e-2, log=True)
_KNN: Space = {
    "k": Range(20, 500, log=True),
    "shrink": Range(0.1, 500.0, log=True),
    "weighting": Choice(("cosine", "tfidf", "bm25")),
}
_NCF: Space = {
    "training.lr": _LR,
    "training.batch_size": Choice((512, 2048, 8192)),
    "training.weight_decay": Range(1e-2, 2.0, log=True),
    "negatives": Range(2, 10),
    "dropout": Range(0.0, 0.5),
}
_AUTOENCODER: Space = {
    "training.lr": Range(1e-4, 5e-3, log=True),
    "training.batch_size": Choice((64, 128, 256, 512)),
    "dropout": Range(0.2, 0.8),
}
_AUTOREC: Space = {
    "dim": Choice((100, 300, 500)),
    "reg": Range(1.0, 500.0, log=True),
    "dropout": Range(0.0, 0.5),
    "training.lr": Range(3e-4, 5e-3, log=True),
    "training.batch_size": Choice((64, 256)),
}

_SEQUENCE: Space = {
    "dim": Choice((32, 64, 128)),
    "dropout": Range(0.0, 0.5),
    "training.lr": Range(3e-4, 5e-3, log=True),
    "training.batch_size": Choice((32, 64, 128)),
}

_CONTENT: Space = {
    "training.lr": Range(3e-4, 1e-2, log=True),
    "training.batch_size": Choice((128, 256, 512)),
    "dropout": Range(0.0, 0.5),
    "temperature": Range(0.05, 0.3, log=True),
}

SPACES: dict[str, Space] = {
    "popularity": {},
    "recent-popularity": {"days": Choice((1, 3, 7, 14, 30, 90))},
    "bias": {"user_shrink": Range(0.5, 50.0, log=True), "item_shrink": Range(0.5, 50.0, log=True)},
    "mf": {
        "loss": Choice(("bce", "bpr", "sampled-softmax")),
        "dim": Choice((32, 64, 128)),
        "negatives": Range(2, 10),
        "reg": Range(1e-4, 1e-1, log=True),
        "training.lr": Range(1e-3, 1e-1, log=True),
        "training.batch_size": Choice((512, 2048)),
    },
    "gmf": _NCF,
    "mlp": _NCF,
    "neumf": _NCF,
    "itemknn": _KNN,
    "userknn": _KNN,
    "rp3beta": {"k": Range(20, 500, log=True), "alpha": Range(0.3, 2.0), "beta": Range(0.0, 1.0)},
    "puresvd": {"dim": Range(8, 200, log=True)},
    "ials": {
        "dim": Choice((32, 64, 128)),
        "alpha": Range(0.1, 10.0, log=True),
        "reg": Range(0.1, 1.5, log=True),
    },
    "ease": {"reg": Range(1.0, 1e5, log=True)},
    "edlae": {"reg": Range(1.0, 1e5, log=True), "dropout": Range(0.05, 0.8)},
    "sparse-ease": {"reg": Range(1.0, 1e5, log=True), "dropout": Range(0.05, 0.8), "k": Choice((50, 100, 200))},
    "sasrec": {**_SEQUENCE, "layers": Range(1, 3), "layer": Choice(("transformer", "ligr"))},
    "gru4rec": {**_SEQUENCE, "layers": Range(1, 2)},
    "nextitnet": _SEQUENCE,
    "gf-cf": {"dim": Choice((32, 64, 128, 256)), "alpha": Range(0.0, 1.0)},
    "turbo-cf": {"alpha": Range(0.3, 0.8), "power": Range(0.4, 1.2)},
    "lightgcn": {
        "layers": Range(1, 4),
        "reg": Range(1e-5, 1e-2, log=True),
        "training.lr": Range(5e-4, 1e-2, log=True),
        "training.batch_size": Choice((2048, 8192)),
    },
    "xsimgcl": {
        "contrast": Range(1e-2, 1.0, log=True),
        "temperature": Range(0.05, 0.3, log=True),
        "noise": Range(0.02, 0.5, log=True),
        "training.lr": Range(5e-4, 1e-2, log=True),
        "training.batch_size": Choice((2048, 8192)),
    },
    "markov": {"gaps": Range(1, 10), "last": Range(1, 10), "decay": Range(0.2, 1.0)},
    "vmis-knn": {
        "m": Choice((250, 500, 1000, 2500)),
        "k": Choice((50, 100, 200, 500)),
        "decay": Range(0.0, 3.0),
        "window": Choice((3, 5, 10, 20)),
    },
    "cdae": {**_AUTOENCODER, "negatives": Range(2, 50, log=True)},
    "multdae": {**_AUTOENCODER, "training.weight_decay": Range(1e-5, 1e-1, log=True)},
    "multvae": {**_AUTOENCODER, "beta": Range(0.05, 1.0, log=True)},
    "recvae": {**_AUTOENCODER, "gamma": Range(1e-3, 2e-2, log=True)},
    "u-autorec": _AUTOREC,
    "i-autorec": _AUTOREC,
    "bayes-mf": {"dim": Choice((16, 32, 48)), "features": Choice((0, 64, 200))},
    "sparsefc": {
        "reg": Range(1.0, 60.0, log=True),
        "dropout": Range(0.0, 0.8),
        "training.lr": Range(2e-4, 2e-3, log=True),
        "training.batch_size": Choice((128, 512)),
    },
    "svdpp": {
        "dim": Choice((32, 64, 128)),
        "reg": Range(0.5, 3.0, log=True),
        "training.lr": Range(1e-3, 1e-1, log=True),
        "training.batch_size": Choice((512, 2048)),
    },
    "text-cnn": _CONTENT,
    "image-cnn": _CONTENT,
    "two-tower": {**_CONTENT, "id_dropout": Range(0.1, 0.6)},
    "dropoutnet": {
        "alpha": Range(0.1, 10.0, log=True),
        "reg": Range(0.1, 1.5, log=True),
        "dropout": Range(0.0, 0.6),
        "training.lr": Range(3e-4, 1e-2, log=True),
    },
    "content-ials": {
        "dim": Choice((64, 128, 256)),
        "alpha": Range(0.1, 10.0, log=True),
        "reg": Range(0.1, 1.5, log=True),
        "map_reg": Range(0.1, 10.0, log=True),
        "shrink": Range(0.1, 5.0, log=True),
    },
    "content-knn": {
        "profile": Choice(("mean", "neighbours")),
        "weighting": Choice(("tfidf", "bm25")),
        "shrink": Range(0.1, 5.0, log=True),
        "text": Range(0.5, 8.0, log=True),
        "tags": Range(0.3, 3.0, log=True),
        "category": Range(0.1, 3.0, log=True),
    },
    "convmf": {
        "dim": Choice((32, 64, 128)),
        "reg": Range(0.5, 3.0, log=True),
        "dropout": Range(0.1, 0.6),
        "training.lr": Range(1e-3, 1e-1, log=True),
        "training.batch_size": Choice((512, 2048)),
    },
    "vbpr": {
        "dim": Choice((32, 64, 128)),
        "reg": Range(1e-4, 1e-1, log=True),
        "id_dropout": Range(0.0, 0.6),
        "training.lr": Range(1e-3, 3e-2, log=True),
        "training.batch_size": Choice((1024, 4096)),
    },
    "deepfm": {
        "cross": Choice(("fm", "cross", "wide")),
        "dim": Choice((8, 16, 32)),
        "dropout": Range(0.0, 0.5),
        "id_dropout": Range(0.05, 0.5),
        "training.lr": _LR,
        "training.weight_decay": Range(1e-6, 1e-1, log=True),
    },
    "hybrid": {"keep": Range(0.9, 1.0)},
    "blend": {},
}
"""Model -> its search space; other models have nothing to tune."""
