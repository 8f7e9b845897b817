"""Bayesian matrix factorization of ratings by Gibbs sampling, with implicit features.

prediction(u, i) = mean over samples of  b + s (b_u + b_i + <p_u, q_i>)
(r - b) / s ~ N(b_u + b_i + <p_u, q_i>, 1 / (c tau))
(p_u, b_u) ~ N(m + B' f_u, inverse(L)),  L ~ Wishart, m, B, tau ~ their conjugate priors; the same for (q_i, b_i)

c is the sample weight of the rating, 1 without weights. s fits the priors to any rating scale: the power of two nearest
to the standard deviation of the ratings, 1 for the usual scales. f_u are the first `features` principal components of
the items that a user has rated (each row of the matrix of weights divided by the root of its sum), f_i those of the
users who have rated an item. SVD++ calls this implicit feedback; it comes from training rows alone. Only the width
needs tuning, because the L2 is sampled, too. Sources: Salakhutdinov and Mnih 2008 for the sampler; Simm et al. 2015,
"Macau", for features in the prior; Rendle, Zhang and Koren 2019 for how strong this family is.

The mean of many dot products is one dot product of concatenated vectors, so scoring costs one matmul.

A user whom the model has never seen has, in each sample, the conditional mean given the history and its ratings. An
item that stands twice in a history counts twice.

Legend: S samples kept, B queries, N items, D dim + 1 (the bias is the last entry), F features, M rows of one side, T
ratings, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import TrainingError
from palate.models.base import Model
from palate.models.mf.fold_in import history_ratings, mean_rating
from palate.models.mf.normal_equations import normal_equations, solve
from palate.training.loop import Epoch, TrainRun

PAIRS_PER_BLOCK = 8192
"""Predictions computed at once: each needs two vectors of S * dim numbers."""


@dataclass(frozen=True, kw_only=True)
class BayesMFConfig:
    """Settings of `bayes-mf`."""

    dim: int = 32
    """Width of user and item vectors."""
    features: int = 64
    """Implicit features of each side; 0 for none."""
    warmup: int = 60
    """Rounds of sampling before the first sample is kept."""
    samples: int = 60
    """Samples kept and averaged."""
    thin: int = 4
    """Rounds between kept samples."""

    def __post_init__(self) -> None:
        check(
            self, dim=self.dim >= 1, features=self.features >= 0, warmup=self.warmup >= 1,
            samples=self.samples >= 1, thin=self.thin >= 1,
        )  # fmt: skip


class BayesMF(Model):
    """Bayesian matrix factorization of ratings by Gibbs sampling; only the width needs tuning."""

    Config = BayesMFConfig
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    uses_weights = True
    mean: Tensor
    unit: Tensor
    user: Tensor
    item: Tensor
    rating_precision: Tensor
    prior_precision: Tensor
    prior_mean: Tensor
    prior_map: Tensor
    loading: Tensor

    def __init__(self, config: BayesMFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: BayesMFConfig = config
        samples, width = config.samples, config.dim + 1
        self.features = max(0, min(config.features, spec.n_users - 1, spec.n_items - 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("user", torch.zeros(samples, spec.n_users, width))
        self.register_buffer("item", torch.zeros(samples, spec.n_items, width))
        # tau and the users' prior (L, m, B) in each sample, for fold-in.
        self.register_buffer("rating_precision", torch.ones(samples))
        self.register_buffer("prior_precision", torch.eye(width).repeat(samples, 1, 1))
        self.register_buffer("prior_mean", torch.zeros(samples, width))
        self.register_buffer("prior_map", torch.zeros(samples, self.features, width))
        self.register_buffer("loading", torch.zeros(spec.n_items, self.features))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        # Sums in another order are rounded differently, and a chain of samples amplifies that: fix the order of rows.
        data = data.take(np.lexsort((data.item, data.user)))
        self.mean.fill_(mean_rating(data))
        self.unit.fill_(_rating_unit(data))
        config, rng = self.config, job.rng
        users, items = self._sides(data, rng)
        user_T, item_T, target_T, weight_T = users.rows.row_of_value, users.rows.values, users.target_T, users.weight_T
        total = len(target_T) if weight_T is None else float(weight_T.double().sum())
        tau = 1.0
        for turn in range(config.warmup + config.samples * config.thin):
            users.sample(items.vector, tau, rng)
            items.sample(users.vector, tau, rng)
            square_T = (target_T - _products(users.vector[user_T], items.vector[item_T])).square()
            error = float((square_T if weight_T is None else weight_T * square_T).sum())
            tau = _gamma(1 + total / 2, 1 + error / 2, rng)
            if turn >= config.warmup and (turn - config.warmup) % config.thin == 0:
                kept = (turn - config.warmup) // config.thin
                self.user[kept], self.item[kept], self.rating_precision[kept] = users.vector, items.vector, tau
                self.prior_precision[kept], self.prior_mean[kept] = users.precision, users.mean
                self.prior_map[kept] = users.map
        return []

    def _sides(self, data: Dataset, rng: torch.Generator) -> tuple[SideFactors, SideFactors]:
        """Users and items before the first round: users are zero, items random."""
        order, offsets = data.by_item
        by_item, width = torch.from_numpy(order), self.config.dim + 1
        users_of_items = Ragged(torch.from_numpy(data.user[order].astype(np.int64)), torch.from_numpy(offsets))
        target_T = (torch.from_numpy(np.ascontiguousarray(data.rating)) - self.mean) / self.unit
        weight = np.ones(len(data), dtype=np.float32) if data.weight is None else data.weight
        weight_T = None if data.weight is None else torch.from_numpy(np.ascontiguousarray(weight))
        seen = scipy.sparse.csr_matrix((weight, data.item, data.offsets), shape=(data.n_users, data.n_items))
        self.loading, user_features = principal_components(seen, self.features, rng)
        _, item_features = principal_components(seen.T.tocsr(), self.features, rng)
        users = SideFactors(user_features, width, data.histories, target_T, weight_T)
        item_weight_T = None if weight_T is None else weight_T[by_item]
        items = SideFactors(item_features, width, users_of_items, target_T[by_item], item_weight_T)
        items.vector[:, :-1] = 0.1 * torch.randn(data.n_items, self.config.dim, generator=rng)
        return users, items

    def _score(self, queries: Queries) -> Tensor:
        user_BV, bias_B = _concatenated(self.represent(queries))
        item_NV, bias_N = _concatenated(self.item.transpose(0, 1))
        return self.mean + self.unit * (bias_B.unsqueeze(1) + bias_N + (user_BV / self.config.samples) @ item_NV.T)

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        user_BV, bias_B = _concatenated(self.represent(queries))
        item_NV, bias_N = _concatenated(self.item.transpose(0, 1))
        user_BV = user_BV / self.config.samples
        blocks = zip(torch.split(row_P, PAIRS_PER_BLOCK), torch.split(item_P, PAIRS_PER_BLOCK), strict=True)
        product_P = torch.cat([(user_BV[row] * item_NV[item]).sum(1) for row, item in blocks])
        return self.mean + self.unit * (bias_B[row_P] + bias_N[item_P] + product_P)

    def _known_users(self, user_B: Tensor) -> Tensor:
        """The vectors of all samples, `[B, S, D]`."""
        return self.user[:, user_B].transpose(0, 1)

    def _fold_in(self, queries: Queries) -> Tensor:
        """The conditional mean in each sample, `[B, S, D]`."""
        history = queries.history
        rating_T = history_ratings(queries, float(self.mean), self.spec.rating_scale)
        target_T = (rating_T - self.mean) / self.unit
        root_T1 = history.lengths.clamp(min=1).rsqrt()[history.row_of_value].unsqueeze(1)
        feature_BF = self.loading.new_zeros(len(history), self.features)
        feature_BF.index_add_(0, history.row_of_value, self.loading[history.values] * root_T1)
        samples = []
        for s in range(self.config.samples):
            precision_DD = self.prior_precision[s]
            prior_BD = self.prior_mean[s] + feature_BF @ self.prior_map[s]
            vector_BD = prior_BD.clone()  # of an empty history, which is in no block
            for block, gram_BDD, right_BD in _posterior(
                history, target_T, None, self.item[s], float(self.rating_precision[s]), precision_DD
            ):
                vector_BD[block] = solve(gram_BDD, right_BD + prior_BD[block] @ precision_DD)
            samples.append(vector_BD)
        return torch.stack(samples, dim=1)

    def item_vectors(self) -> Tensor:
        return _concatenated(self.item.transpose(0, 1))[0]


class SideFactors:
    """Users or items: their vectors (the bias is the last entry), their ratings, and their prior.

    Args:
        feature_MF: Implicit features of each row.
        width: D.
        rows: The members on the other side that each row has ratings with.
        target_T: Ratings less the mean, aligned with `rows.values`.
        weight_T: Sample weights, aligned with `rows.values`; None for 1.

    Attributes:
        vector: The current sample, `[M, D]`.
        precision, mean, map: L, m and B of the prior.
    """

    def __init__(self, feature_MF: Tensor, width: int, rows: Ragged, target_T: Tensor, weight_T: Tensor | None) -> None:
        self.rows, self.target_T, self.weight_T = rows, target_T, weight_T
        self.feature = feature_MF
        self.vector = torch.zeros(len(feature_MF), width)
        self.precision = torch.eye(width)
        self.mean = torch.zeros(width)
        self.map = torch.zeros(feature_MF.shape[1], width)
        self.map_precision = 1.0

    def sample(self, other_ND: Tensor, tau: float, rng: torch.Generator) -> None:
        """Sample prior and vectors, given the other side's vectors.

        Args:
            other_ND: The other side's vectors.
            tau: Precision of the ratings.
            rng: Decides the sample.
        """
        self._sample_prior(rng)
        prior_MD = self.mean + self.feature @ self.map
        noise_MD = torch.randn(self.vector.shape, generator=rng)
        # Rows without ratings are samples of the prior; the others are overwritten below.
        root = _cholesky(self.precision)
        self.vector = prior_MD + torch.linalg.solve_triangular(root.mT, noise_MD.mT, upper=True).mT
        for block, gram_BDD, right_BD in _posterior(
            self.rows, self.target_T, self.weight_T, other_ND, tau, self.precision
        ):
            root_BDD = _cholesky(gram_BDD)
            right_BD1 = (right_BD + prior_MD[block] @ self.precision).unsqueeze(2)
            middle = torch.linalg.solve_triangular(root_BDD, right_BD1, upper=False) + noise_MD[block].unsqueeze(2)
            self.vector[block] = torch.linalg.solve_triangular(root_BDD.mT, middle, upper=True).squeeze(2)

    def _sample_prior(self, rng: torch.Generator) -> None:
        """m and L from a Normal-Wishart, B from its matrix normal, the precision of B from a gamma distribution."""
        rows, width = self.vector.shape
        rest_MD = self.vector - self.feature @ self.map
        average_D = rest_MD.mean(0)
        spread_MD = rest_MD - average_D
        scale = torch.eye(width) + spread_MD.T @ spread_MD + rows * 2 / (rows + 2) * torch.outer(average_D, average_D)
        scale += self.map_precision * self.map.T @ self.map
        freedom = width + rows + len(self.map)
        self.precision = _wishart(torch.linalg.inv(scale), freedom, rng)
        root = _cholesky(torch.linalg.inv(self.precision))
        self.mean = rows * average_D / (rows + 2) + root @ torch.randn(width, generator=rng) / (rows + 2) ** 0.5
        if not len(self.map):
            return
        size_F = (
            self.feature.square().sum(0) + self.map_precision
        )  # The components are orthogonal: the rows of B are independent.
        center_FD = (self.feature.T @ (self.vector - self.mean)) / size_F.unsqueeze(1)
        noise_FD = torch.randn(self.map.shape, generator=rng) @ root.T
        self.map = center_FD + noise_FD / size_F.sqrt().unsqueeze(1)
        energy = float(((self.map @ self.precision) * self.map).sum())
        self.map_precision = _gamma(1e-3 + self.map.numel() / 2, 1e-3 + energy / 2, rng)


def _rating_unit(data: Dataset) -> float:
    """The power of two nearest to the standard deviation of the ratings, so that the prior fits any rating scale.

    Ratings of the usual scales have the unit 1, and division by a power of two does not round.
    """
    spread = 0.0 if data.rating is None else float(np.std(data.rating, dtype=np.float64))
    return 2.0 ** round(np.log2(spread)) if spread > 0 else 1.0


def _cholesky(matrix: Tensor) -> Tensor:
    """The Cholesky factor; in double precision with a little on the diagonal if single precision fails.

    Raises:
        TrainingError: The matrix is not positive definite.
    """
    root: Tensor
    root, info = torch.linalg.cholesky_ex(matrix)
    if not bool((info > 0).any()):
        return root
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).double()
    jitter = 1e-6 * diagonal.mean(-1, keepdim=True).expand_as(diagonal)
    root, info = torch.linalg.cholesky_ex(matrix.double() + torch.diag_embed(jitter))
    if bool((info > 0).any()) or not bool(root.isfinite().all()):
        raise TrainingError(
            "bayes-mf: a posterior is not positive definite; look for extreme ratings, or declare a rating scale"
        )
    return root.to(matrix.dtype)


def _posterior(
    rows: Ragged, target_T: Tensor, weight_T: Tensor | None, other_ND: Tensor, tau: float, precision_DD: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Precision and right side of each row's vector, without the prior's mean: design (q, 1), target t - b_i."""
    design_ND = torch.cat([other_ND[:, :-1], torch.ones_like(other_ND[:, -1:])], dim=1)
    target_T = target_T - other_ND[rows.values, -1]
    return [
        (block, tau * gram_BDD + precision_DD, tau * right_BD)
        for block, gram_BDD, right_BD in normal_equations(rows, design_ND, target_T, weight_T)
    ]


def principal_components(seen: scipy.sparse.csr_matrix, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Loadings `[columns, F]` and features `[rows, F]`: components of the rows, each divided by the root of its sum."""
    if not count:
        return torch.zeros(seen.shape[1], 0), torch.zeros(seen.shape[0], 0)
    total = np.asarray(seen.sum(1), dtype=np.float64).ravel()
    total[total == 0] = 1.0
    rows = (scipy.sparse.diags(total**-0.5) @ seen).astype(np.float64)
    start = torch.randn(min(seen.shape), generator=rng, dtype=torch.float64).numpy()
    _, _, right = scipy.sparse.linalg.svds(rows, k=count, v0=start)
    loading = right.T.copy()  # a single column keeps the negative strides of `svds` otherwise
    return torch.from_numpy(loading).float(), torch.from_numpy(rows @ loading).float()


def _concatenated(vector_XSD: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors of all samples side by side, `[X, S * dim]`, and mean biases, `[X]`."""
    return vector_XSD[:, :, :-1].flatten(1), vector_XSD[:, :, -1].mean(1)


def _products(user_TD: Tensor, item_TD: Tensor) -> Tensor:
    """<p, q> + b_u + b_i of each pair, `[T]`."""
    return (user_TD[:, :-1] * item_TD[:, :-1]).sum(1) + user_TD[:, -1] + item_TD[:, -1]


def _gamma(shape: float, rate: float, rng: torch.Generator) -> float:
    """A sample of the gamma distribution, for shapes of at least 1/2 (Marsaglia and Tsang 2000)."""
    d = max(shape, 0.5) - 1 / 3
    c = 1 / (9 * d) ** 0.5
    while True:
        x = float(torch.randn((), generator=rng, dtype=torch.float64))
        v = (1 + c * x) ** 3
        u = float(torch.rand((), generator=rng, dtype=torch.float64))
        if v > 0 and np.log(max(u, 1e-300)) < 0.5 * x * x + d - d * v + d * np.log(v):
            return float(d * v / rate)


def _wishart(scale_DD: Tensor, freedom: int, rng: torch.Generator) -> Tensor:
    """A sample of the Wishart distribution, by Bartlett's decomposition."""
    width = len(scale_DD)
    lower = torch.tril(torch.randn(width, width, generator=rng), -1)
    squares = [2 * _gamma((freedom - i) / 2, 1.0, rng) for i in range(width)]
    half = _cholesky((scale_DD + scale_DD.T) / 2)
    root: Tensor = half @ (lower + torch.diag(torch.tensor(squares).float().sqrt()))
    return root @ root.T
