"""SparseFC: kernel, loss and prediction by hand; the kernel makes the layers sparse; strangers; it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import CompleteTraining, Training
from palate.data.dataset import Dataset, Queries
from palate.evaluation.evaluate import evaluate
from palate.models.autoencoders import sparsefc
from palate.models.autoencoders.sparsefc import KernelLayer, SparseFC, SparseFCConfig
from palate.models.baselines.bias import Bias, BiasConfig

CONFIG = SparseFCConfig(dim=12, reg=0.5, dropout=0.0, center=False)
TRAINING = Training(epochs=60, batch_size=64, lr=0.01)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Ratings by two tastes."""
    rng = np.random.default_rng(7)
    taste, kind = rng.normal(size=(60, 2)), rng.normal(size=(50, 2))
    pairs = np.unique(rng.integers(0, (60, 50), (1800, 2)), axis=0)
    rating = 3 + (taste[pairs[:, 0]] * kind[pairs[:, 1]]).sum(1) + 0.2 * rng.normal(size=len(pairs))
    frame = pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1], "rating": np.clip(rating, 1, 5)})
    return Dataset.from_frame(frame, rating_scale=(1.0, 5.0))


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> SparseFC:
    """With kernels that differ from the start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparsefc, "POSITION_STD", 0.3)
        model = SparseFC(CONFIG, data.spec)
        model.fit(data, TRAINING)
    return model


def everyone(data: Dataset) -> Queries:
    return data.queries(np.arange(data.n_users), data.spec)


def dense(data: Dataset, mean: float) -> torch.Tensor:
    """Items by users, ratings less the mean, 0 where there is none."""
    assert data.rating is not None
    table = torch.zeros(data.n_items, data.n_users)
    table[torch.from_numpy(data.item).long(), torch.from_numpy(data.user).long()] = torch.from_numpy(data.rating) - mean
    return table


@torch.no_grad()
def kernel(layer: KernelLayer) -> torch.Tensor:
    """One pair of units at a time."""
    rows = [[max(0.0, 1 - float((s - t).square().sum())) for t in layer.target] for s in layer.source]
    return torch.tensor(rows)


@torch.no_grad()
def rebuilt(model: SparseFC, data: Dataset) -> torch.Tensor:
    """The formula, on dense matrices; items by users, the mean left out."""
    first, second, output = ((layer.weight * kernel(layer), layer.bias) for layer in layers(model))
    hidden = torch.sigmoid(dense(data, float(model.center.mean)) @ first[0] + first[1])
    return torch.sigmoid(hidden @ second[0] + second[1]) @ output[0] + output[1]


def layers(model: SparseFC) -> list[KernelLayer]:
    return [model.first, model.second, model.output]


def test_scores_are_the_formula(data: Dataset, fitted: SparseFC) -> None:
    assert 0.01 < float((kernel(fitted.first) == 0).float().mean()) < 0.9
    scores = fitted.score(everyone(data))
    torch.testing.assert_close(scores, fitted.center.mean + rebuilt(fitted, data).T, atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_formula(data: Dataset, fitted: SparseFC) -> None:
    context = fitted.fit_context(data, CompleteTraining())
    [batch] = fitted.batches(context, torch.Generator().manual_seed(0), 1000)
    seen = dense(data, float(fitted.center.mean))
    error = float(((rebuilt(fitted, data) - seen)[seen != 0]).square().mean())
    sizes = [(layer.weight.detach().square().sum(), kernel(layer).square().sum()) for layer in layers(fitted)]
    penalty = sum(CONFIG.reg * float(w) + CONFIG.kernel_reg * float(k) for w, k in sizes) / len(data)
    loss = fitted.loss(batch, context)
    assert loss.objective.item() == pytest.approx(error + penalty, rel=1e-3)
    assert loss.shown.item() == pytest.approx(error, rel=1e-3)


def test_the_kernel_cuts_what_is_far_apart() -> None:
    layer = KernelLayer(2, 2)
    with torch.no_grad():
        layer.source.copy_(torch.tensor([[0.0] * 5, [0.6] + [0.0] * 4]))
        layer.target.copy_(torch.tensor([[0.0, 0.5, 0, 0, 0], [0.0, 0, 2.0, 0, 0]]))
        layer.weight.copy_(torch.tensor([[2.0, 3.0], [4.0, 5.0]]))
        weight, cut = layer()
    torch.testing.assert_close(cut, torch.tensor([[0.75, 0.0], [1 - 0.25 - 0.36, 0.0]]))
    torch.testing.assert_close(weight, torch.tensor([[1.5, 0.0], [4 * 0.39, 0.0]]))


def test_it_learns_tastes(data: Dataset) -> None:
    parts = data.split("random", valid=0, test=0.2)
    bias = Bias(BiasConfig(), parts.train.spec)
    bias.fit(parts.train)
    least = evaluate(bias, parts.test, ["rmse"])["rmse"].value
    for center in (False, True):
        model = SparseFC(replace(CONFIG, center=center), parts.train.spec)
        model.fit(parts.train, TRAINING)
        assert evaluate(model, parts.test, ["rmse"])["rmse"].value < 0.8 * least


def test_strangers_are_answered_from_their_history_about_as_well_as_known_users(data: Dataset) -> None:
    parts = data.split("random", valid=0, test=0.2)
    model = SparseFC(CONFIG, parts.train.spec)
    model.fit(parts.train, TRAINING)
    known = everyone(parts.train)
    strangers = known.anonymous()
    row, item = torch.from_numpy(parts.test.user).long(), torch.from_numpy(parts.test.item).long()
    assert parts.test.rating is not None
    rating = torch.from_numpy(parts.test.rating)
    owner, stranger = (float((model.predict(q, item, row) - rating).square().mean()) for q in (known, strangers))
    assert stranger < 1.1 * owner < 0.7 * float(rating.var())


def test_dropout_is_of_the_input_and_of_training_alone(data: Dataset) -> None:
    model = SparseFC(replace(CONFIG, dropout=0.5), data.spec)
    model.fit(data, replace(TRAINING, epochs=1))
    queries = everyone(data)
    assert torch.equal(model.score(queries), model.score(queries))
    model.train()
    context = model.fit_context(data, CompleteTraining())
    [batch] = model.batches(context, torch.Generator().manual_seed(0), 1000)
    assert model.loss(batch, context).shown.item() != model.loss(batch, context).shown.item()
