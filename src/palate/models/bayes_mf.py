"""Bayesian matrix factorization of ratings by Gibbs sampling, with implicit features.

prediction(u, i) = mean over samples of  b + b_u + b_i + <p_u, q_i>
r ~ N(b + b_u + b_i + <p_u, q_i>, 1 / tau)
(p_u, b_u) ~ N(m + B' f_u, inverse(L)),  L ~ Wishart, m, B, tau ~ their conjugate priors; the same for (q_i, b_i)

f_u are the first `features` principal components of which items a user has rated (each row of the 0/1 matrix divided by
the root of its length), f_i those of who has rated an item: what SVD++ calls implicit feedback, from training rows
alone (Salakhutdinov and Mnih 2008 for the sampler; Simm et al. 2015, "Macau", for features in the prior; Rendle, Zhang
and Koren 2019 for how strong this family is). Nothing is tuned but the width: the L2 is drawn with the rest.

The mean of many dot products is one dot product of vectors laid end to end, so scoring costs one matmul.

Legend: S samples kept, B queries, N items, D dim + 1 (the bias is the last entry), F features, M rows of one side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import svds
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.base import Model
from palate.models.ease import interactions
from palate.models.normal_equations import normal_equations, solve
from palate.training.loop import Epoch, Job


@dataclass(frozen=True, kw_only=True)
class BayesMFConfig:
    """Settings of `bayes-mf`."""

    dim: int = 32
    """Width of user and item vectors."""
    features: int = 64
    """Implicit features of each side; 0 for none."""
    warmup: int = 60
    """Rounds of sampling before any is kept."""
    samples: int = 60
    """Samples kept and averaged."""
    thin: int = 4
    """Rounds from one kept sample to the next."""

    def __post_init__(self) -> None:
        check(
            self, dim=self.dim >= 1, features=self.features >= 0, warmup=self.warmup >= 1,
            samples=self.samples >= 1, thin=self.thin >= 1,
        )  # fmt: skip


class BayesMF(Model):
    """Bayesian matrix factorization of ratings by Gibbs sampling; nothing to tune but the width."""

    Config = BayesMFConfig
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    monitor = "rmse"
    mean: Tensor
    user: Tensor
    item: Tensor
    noise: Tensor
    precision: Tensor
    center: Tensor
    link: Tensor
    loading: Tensor

    def __init__(self, config: BayesMFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: BayesMFConfig = config
        samples, width = config.samples, config.dim + 1
        features = min(config.features, spec.n_users - 1, spec.n_items - 1)
        self.features = max(features, 0)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("user", torch.zeros(samples, spec.n_users, width))
        self.register_buffer("item", torch.zeros(samples, spec.n_items, width))
        # The users' prior in each sample, for fold-in.
        self.register_buffer("noise", torch.ones(samples))
        self.register_buffer("precision", torch.eye(width).repeat(samples, 1, 1))
        self.register_buffer("center", torch.zeros(samples, width))
        self.register_buffer("link", torch.zeros(samples, self.features, width))
        self.register_buffer("loading", torch.zeros(spec.n_items, self.features))

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        # A sum in another order is rounded otherwise, and a chain of draws makes a different one of that.
        data = data.take(np.lexsort((data.item, data.user)))
        assert data.rating is not None  # `needs` holds rating
        config, rng = self.config, job.rng
        rating = torch.from_numpy(np.ascontiguousarray(data.rating))
        self.mean.fill_(float(rating.double().mean()))
        target = rating - self.mean
        order, offsets = data.by_item
        by_item = torch.from_numpy(order)
        histories = data.histories
        audiences = Ragged(torch.from_numpy(data.user[order].astype(np.int64)), torch.from_numpy(offsets))
        seen = interactions(data)
        self.loading, user_features = components(seen, self.features, rng)
        _, item_features = components(seen.T.tocsr(), self.features, rng)
        users, items = Side(user_features, config.dim + 1), Side(item_features, config.dim + 1)
        items.vector[:, :-1] = 0.1 * torch.randn(data.n_items, config.dim, generator=rng)
        user_of, item_of = histories.row_of_value, histories.values
        tau = 1.0
        for turn in range(config.warmup + config.samples * config.thin):
            users.draw(histories, target, items.vector, tau, rng)
            items.draw(audiences, target[by_item], users.vector, tau, rng)
            error = target - _dot(users.vector[user_of], items.vector[item_of])
            tau = _gamma(1 + len(target) / 2, 1 + float(error.square().sum()) / 2, rng)
            if turn >= config.warmup and (turn - config.warmup) % config.thin == 0:
                kept = (turn - config.warmup) // config.thin
                self.user[kept], self.item[kept], self.noise[kept] = users.vector, items.vector, tau
                self.precision[kept], self.center[kept], self.link[kept] = users.precision, users.center, users.link
        return []

    def _score(self, queries: Queries) -> Tensor:
        left_BS, right_NS, bias_B, bias_N = self._long(self._people(queries), self.item)
        return self.mean + bias_B.unsqueeze(1) + bias_N + left_BS @ right_NS.T

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        left_BS, right_NS, bias_B, bias_N = self._long(self._people(queries), self.item)
        pieces = zip(torch.split(row_P, 8192), torch.split(item_P, 8192), strict=True)
        product_P = torch.cat([(left_BS[row] * right_NS[item]).sum(1) for row, item in pieces])
        return self.mean + bias_B[row_P] + bias_N[item_P] + product_P

    def _long(self, people_SBD: Tensor, item_SND: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Samples laid end to end, `[B, S * dim]` and `[N, S * dim]`, and mean biases."""
        left, right = people_SBD[:, :, :-1] / len(people_SBD), item_SND[:, :, :-1]
        bias_B, bias_N = people_SBD[:, :, -1].mean(0), item_SND[:, :, -1].mean(0)
        return left.transpose(0, 1).flatten(1), right.transpose(0, 1).flatten(1), bias_B, bias_N

    def _people(self, queries: Queries) -> Tensor:
        """Each query's vector in every sample, `[S, B, D]`: a known user's own, the conditional mean for a history."""
        vector_SBD = self.user[:, queries.user.clamp(min=0)]
        new = (queries.user < 0).nonzero().squeeze(1)
        if len(new):
            asked = queries.take(new)
            top = (self.spec.rating_scale or (0.0, 0.0))[1]
            liked = torch.full((len(asked.history.values),), (float(self.mean) + top) / 2)
            rating_T = liked if asked.ratings is None else asked.ratings
            share = asked.history.lengths.clamp(min=1).rsqrt()[asked.history.row_of_value]
            feature_BF = torch.zeros(len(new), self.features).index_add_(
                0, asked.history.row_of_value, self.loading[asked.history.values] * share.unsqueeze(1)
            )
            for s in range(len(vector_SBD)):
                prior_BD = self.center[s] + feature_BF @ self.link[s]
                vector_SBD[s, new] = prior_BD  # what an empty history, which no block holds, is answered with
                noise, precision = float(self.noise[s]), self.precision[s]
                side = _posterior(asked.history, rating_T - self.mean, self.item[s], noise, precision)
                for block, gram_BDD, right_BD in side:
                    vector_SBD[s, new[block]] = solve(gram_BDD, right_BD + prior_BD[block] @ precision)
        return vector_SBD

    def item_vectors(self) -> Tensor:
        return self._long(self.item[:, :1], self.item)[1]


class Side:
    """Users or items: their vectors (the bias is the last entry) and the prior they are drawn from.

    Args:
        feature_MF: Implicit features of each row.
        width: D.
    """

    def __init__(self, feature_MF: Tensor, width: int) -> None:
        self.feature = feature_MF
        self.vector = torch.zeros(len(feature_MF), width)
        self.precision = torch.eye(width)
        self.center = torch.zeros(width)
        self.link = torch.zeros(feature_MF.shape[1], width)
        self.link_precision = 1.0

    def draw(self, rows: Ragged, target_T: Tensor, other_ND: Tensor, tau: float, rng: torch.Generator) -> None:
        """Draw prior and vectors anew, given the other side's vectors.

        Args:
            rows: Each row's members on the other side.
            target_T: Ratings less the mean, aligned with `rows.values`.
            other_ND: The other side's vectors.
            tau: Precision of the ratings.
            rng: All chance.
        """
        self._draw_prior(rng)
        prior_MD = self.center + self.feature @ self.link
        noise_MD = torch.randn(self.vector.shape, generator=rng)
        # A row without ratings is drawn from the prior; the others are overwritten below.
        root = torch.linalg.cholesky(self.precision)
        self.vector = prior_MD + torch.linalg.solve_triangular(root.mT, noise_MD.mT, upper=True).mT
        for block, gram_BDD, right_BD in _posterior(rows, target_T, other_ND, tau, self.precision):
            root_BDD = torch.linalg.cholesky(gram_BDD)
            right_BD1 = (right_BD + prior_MD[block] @ self.precision).unsqueeze(2)
            middle = torch.linalg.solve_triangular(root_BDD, right_BD1, upper=False) + noise_MD[block].unsqueeze(2)
            self.vector[block] = torch.linalg.solve_triangular(root_BDD.mT, middle, upper=True).squeeze(2)

    def _draw_prior(self, rng: torch.Generator) -> None:
        """Center and precision from a Normal-Wishart, link from its matrix normal, its precision from a gamma."""
        rows, width = self.vector.shape
        rest_MD = self.vector - self.feature @ self.link
        mean_D = rest_MD.mean(0)
        spread_MD = rest_MD - mean_D
        scale = torch.eye(width) + spread_MD.T @ spread_MD + rows * 2 / (rows + 2) * torch.outer(mean_D, mean_D)
        scale += self.link_precision * self.link.T @ self.link
        freedom = width + rows + len(self.link)
        self.precision = _wishart(torch.linalg.inv(scale), freedom, rng)
        root = torch.linalg.cholesky(torch.linalg.inv(self.precision))
        self.center = rows * mean_D / (rows + 2) + root @ torch.randn(width, generator=rng) / (rows + 2) ** 0.5
        if not len(self.link):
            return
        size_F = self.feature.square().sum(0) + self.link_precision  # Components are orthogonal: the rows of B part.
        mean_FD = (self.feature.T @ (self.vector - self.center)) / size_F.unsqueeze(1)
        noise_FD = torch.randn(self.link.shape, generator=rng) @ root.T
        self.link = mean_FD + noise_FD / size_F.sqrt().unsqueeze(1)
        energy = float(((self.link @ self.precision) * self.link).sum())
        self.link_precision = _gamma(1e-3 + self.link.numel() / 2, 1e-3 + energy / 2, rng)


def _posterior(
    rows: Ragged, target_T: Tensor, other_ND: Tensor, tau: float, precision_DD: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Precision and right side of each row's vector, the prior's mean left out: design (q, 1), target t - b_i."""
    design_ND = torch.cat([other_ND[:, :-1], torch.ones(len(other_ND), 1)], dim=1)
    target_T = target_T - other_ND[rows.values, -1]
    return [
        (block, tau * gram_BDD + precision_DD, tau * right_BD)
        for block, gram_BDD, right_BD in normal_equations(rows, design_ND, target_T)
    ]


def components(seen: csr_matrix, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Loadings `[columns, F]` and features `[rows, F]`: principal components of rows divided by root length."""
    if not count:
        return torch.zeros(seen.shape[1], 0), torch.zeros(seen.shape[0], 0)
    rows = (diags(np.maximum(np.diff(seen.indptr), 1) ** -0.5) @ seen).astype(np.float64)
    start = torch.randn(min(seen.shape), generator=rng, dtype=torch.float64).numpy()
    _, _, right = svds(rows, k=count, v0=start)
    loading = np.ascontiguousarray(right.T)
    return torch.from_numpy(loading).float(), torch.from_numpy(rows @ loading).float()


def _dot(user_TD: Tensor, item_TD: Tensor) -> Tensor:
    return (user_TD[:, :-1] * item_TD[:, :-1]).sum(1) + user_TD[:, -1] + item_TD[:, -1]


def _gamma(shape: float, rate: float, rng: torch.Generator) -> float:
    """A draw of the gamma distribution, for shapes of at least 1/2, by Marsaglia and Tsang (2000)."""
    d = max(shape, 0.5) - 1 / 3
    c = 1 / (9 * d) ** 0.5
    while True:
        x = float(torch.randn((), generator=rng, dtype=torch.float64))
        v = (1 + c * x) ** 3
        u = float(torch.rand((), generator=rng, dtype=torch.float64))
        if v > 0 and np.log(max(u, 1e-300)) < 0.5 * x * x + d - d * v + d * np.log(v):
            return float(d * v / rate)


def _wishart(scale_DD: Tensor, freedom: int, rng: torch.Generator) -> Tensor:
    """A draw of the Wishart distribution by Bartlett's decomposition."""
    width = len(scale_DD)
    lower = torch.tril(torch.randn(width, width, generator=rng), -1)
    squares = [2 * _gamma((freedom - i) / 2, 1.0, rng) for i in range(width)]
    half = torch.linalg.cholesky((scale_DD + scale_DD.T) / 2)
    root: Tensor = half @ (lower + torch.diag(torch.tensor(squares).float().sqrt()))
    return root @ root.T
