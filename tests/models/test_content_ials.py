"""content-ials: known items are iALS's, new ones what a ridge regression makes of their content."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix, random
from sklearn.linear_model import Ridge

from palate.config import Training
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError
from palate.models.content.content_ials import ContentIALS, ContentIALSConfig, ridge_map
from palate.models.mf.ials import IALS
from palate.testing import planted

CONFIG = ContentIALSConfig(dim=8, map_reg=0.5)


def fitted(data: Dataset) -> ContentIALS:
    model = ContentIALS(CONFIG, ContentIALS.spec_of(data))
    model.fit(data, Training(seed=3))
    return model


@pytest.mark.parametrize("reg", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_the_map_is_the_ridge_regression(reg: float, shape: tuple[int, int]) -> None:
    content = csr_matrix(random(*shape, density=0.3, rng=np.random.default_rng(0), dtype=np.float32))
    target = torch.randn(shape[0], 3, generator=torch.Generator().manual_seed(0))
    expected = Ridge(alpha=reg, fit_intercept=False).fit(content.toarray(), target.numpy()).coef_.T
    found = ridge_map(content, target, reg)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=0.01, atol=2e-3)


def test_known_items_are_those_of_ials_and_a_new_one_is_told_by_its_content() -> None:
    data = planted().train
    model = fitted(data)
    warm = IALS(CONFIG.ials(), data.spec)
    warm.fit(data, Training(seed=3))
    asked = data.queries(np.arange(12), model.spec)
    torch.testing.assert_close(model.score(asked), warm.score(asked))
    # The second copy of a known item gets what the map says of it, which nothing but content decides.
    assert model.spec.item_features is not None
    content = data.encoded_items(model.spec.item_features)
    larger = model.with_items(content.take(torch.tensor([5, 9, 5])))
    vectors = larger.item_vectors()
    torch.testing.assert_close(vectors[-1], vectors[-3])
    assert not torch.equal(vectors[-2], vectors[-3])
    near = torch.cosine_similarity(vectors[-3:] - model.mean, model.item[[5, 9, 5]] - model.mean)
    assert bool((near > 0.3).all())


def test_a_new_item_in_a_history_counts_as_its_vector_says() -> None:
    data = planted().train
    model = fitted(data)
    assert model.spec.item_features is not None
    larger = model.with_items(data.encoded_items(model.spec.item_features).take(torch.tensor([5])))
    history = Ragged.of([[3, data.n_items]])
    found = larger.score(Queries(torch.tensor([-1]), history))
    expected = model.ials.fold_in(history, larger.item_vectors()) @ larger.item_vectors().T
    torch.testing.assert_close(found, expected)
    parts, rest = larger.history_contributions(Queries(torch.tensor([-1]), history), 7)
    assert rest == 0
    torch.testing.assert_close(parts.sum(), found[0, 7])


def test_faults_are_told() -> None:
    bare = Dataset.from_frame(pl.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 1]}))
    with pytest.raises(DataError, match="content-ials needs item_features"):
        ContentIALS(CONFIG, bare.spec)
    with pytest.raises(ConfigError, match="map_reg"):
        ContentIALSConfig(map_reg=0.0)
    with pytest.raises(ConfigError, match="alpha"):
        ContentIALSConfig(alpha=-1.0)
