"""Graph models against plain, dense arithmetic on small random data, and the promises of their pruning and fold-in."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import CompleteTraining, Training
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import MaskedHistories, Ragged
from palate.errors import ArtifactError, ConfigError
from palate.models.base import Model
from palate.models.buffers import check_tensors
from palate.models.graph.filters import GFCF, GFCFConfig, TurboCF, TurboCFConfig
from palate.models.graph.graph_net import LightGCN, LightGCNConfig, XSimGCL, XSimGCLConfig, same_orthant_noise
from palate.models.graph.propagation import Graph, fold_in
from palate.models.linear.ease import interactions
from palate.models.neighbours import nearest

CPU = torch.device("cpu")
SHORT = Training(epochs=3, batch_size=64, lr=0.02)


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(3)
    pairs = np.unique(rng.integers(0, (40, 25), (400, 2)), axis=0)
    return Dataset.from_frame(pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1]}))


@pytest.fixture(scope="module")
def dense(data: Dataset) -> np.ndarray:
    return interactions(data).toarray().astype(np.float64)


def everyone(data: Dataset) -> Queries:
    return data.queries(np.arange(data.n_users), data.spec)


def fitted(model: Model, data: Dataset, training: Training | None = None) -> Model:
    model.fit(data, training)
    return model


def normalised(dense: np.ndarray, user: float, item: float) -> np.ndarray:
    return dense * dense.sum(1, keepdims=True) ** -user * dense.sum(0) ** -item


def test_gf_cf_is_the_papers_formula(data: Dataset, dense: np.ndarray) -> None:
    model = fitted(GFCF(GFCFConfig(dim=6, alpha=0.3), data.spec), data)
    rows, root = normalised(dense, 0.5, 0.5), np.sqrt(dense.sum(0))
    right = np.linalg.svd(rows)[2][:6]
    expected = dense @ (rows.T @ rows + 0.3 * (right.T / root[:, None]) @ (right * root))
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_turbo_cf_is_the_papers_formula(data: Dataset, dense: np.ndarray, order: int) -> None:
    model = fitted(TurboCF(TurboCFConfig(alpha=0.6, power=0.7, order=order), data.spec), data)
    rows = normalised(dense, 0.6, 0.4)
    p = (rows.T @ rows) ** 0.7
    filters = {1: p, 2: 2 * p - p @ p, 3: p + 0.01 * (-p @ p @ p + 10 * p @ p - 29 * p)}
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), dense @ filters[order], rtol=1e-4, atol=1e-4)


def test_each_history_item_keeps_its_strongest_connections(data: Dataset, dense: np.ndarray) -> None:
    model = fitted(TurboCF(TurboCFConfig(alpha=0.5, power=1.0, k=4), data.spec), data)
    rows = normalised(dense, 0.5, 0.5)
    graph = (rows.T @ rows).astype(np.float32)
    kept = np.zeros_like(graph)
    for item in range(data.n_items):
        best = np.argsort(-graph[item], kind="stable")[:4]
        kept[item, best] = graph[item, best]
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), dense @ kept, rtol=1e-4, atol=1e-6)


FILTERS = [
    (GFCF, GFCFConfig(dim=5, k=10)),
    (TurboCF, TurboCFConfig(k=10)),
    (TurboCF, TurboCFConfig(k=10, order=2)),
    (TurboCF, TurboCFConfig(order=3)),
]
NETS = [(LightGCN, LightGCNConfig(dim=8)), (XSimGCL, XSimGCLConfig(dim=8))]


@pytest.mark.parametrize(("model", "config"), FILTERS)
@pytest.mark.parametrize("entries", [1, 60])
def test_the_size_of_blocks_changes_nothing(data: Dataset, model, config, entries: int, monkeypatch) -> None:
    whole = fitted(model(config, data.spec), data).score(everyone(data))
    monkeypatch.setattr(nearest, "MAX_ENTRIES_PER_BLOCK", entries)
    assert torch.equal(fitted(model(config, data.spec), data).score(everyone(data)), whole)


def test_memory_is_that_of_what_is_kept_and_not_of_the_square_of_the_catalogue() -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 500, 20_000)  # 40 items each: 1,600 connections of a user, 800,000 in all
    data = Dataset.from_frame(pl.DataFrame({"user_id": users, "item_id": np.arange(20_000)}))
    for model in (TurboCF(TurboCFConfig(k=10), data.spec), GFCF(GFCFConfig(dim=4, k=10), data.spec)):
        tracemalloc.start()
        model.fit(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60e6  # The whole graph as a dense matrix takes 1.6 GB.
        assert len(model.item) <= 10 * data.n_items


@pytest.mark.parametrize(("model", "config"), FILTERS + NETS)
def test_contributions_of_the_history_sum_to_the_score(data: Dataset, model, config) -> None:
    net = fitted(model(config, data.spec), data, SHORT)
    query = Queries(torch.tensor([-1]), Ragged.of([[3, 7, 1, 7, 20]]))
    scores = net.score(query)[0]
    for item in (0, 7, 12):
        share, base = net.history_contributions(query, item)
        assert share.shape == (5,)
        assert share[3] == 0  # the second 7 adds nothing
        assert float(share.sum()) + base == pytest.approx(float(scores[item]), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("model", "config"), FILTERS + NETS)
def test_a_weight_of_two_is_the_row_given_twice(data: Dataset, model, config) -> None:
    twice_T = np.arange(len(data)) % 3 == 0
    weighted = replace(data, weight=(1 + twice_T).astype(np.float32))
    twice = data.take(np.repeat(np.arange(len(data)), 1 + twice_T))
    if model in (LightGCN, XSimGCL):  # The order of rows differs, and so does the training.
        left, right = (Graph.of(part, CPU) for part in (weighted, twice))
        torch.testing.assert_close(left.weight, right.weight)
        assert torch.equal(left.neighbour, right.neighbour)
        return
    left, right = (fitted(model(config, part.spec), part) for part in (weighted, twice))
    torch.testing.assert_close(left.score(everyone(data)), right.score(everyone(data)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("broken", ["offsets", "item", "weight"])
def test_a_forged_matrix_is_refused(data: Dataset, broken: str) -> None:
    model = fitted(GFCF(GFCFConfig(dim=4), data.spec), data)
    forged = {"offsets": model.offsets.flip(0), "item": model.item + 100, "weight": model.weight * torch.nan}
    setattr(model, broken, forged[broken])
    with pytest.raises(ArtifactError, match=r"sparse matrix|weight holds NaN"):
        check_tensors(model)


def adjacency(dense: np.ndarray) -> np.ndarray:
    rows = normalised(dense, 0.5, 0.5)
    users, items = dense.shape
    return np.block([[np.zeros((users, users)), rows], [rows.T, np.zeros((items, items))]])


def test_the_graph_is_the_normalised_adjacency_matrix(data: Dataset, dense: np.ndarray) -> None:
    graph = Graph.of(data, CPU)
    product = graph.propagate(torch.eye(data.n_users + data.n_items))
    np.testing.assert_allclose(product.numpy(), adjacency(dense), atol=1e-6)


def test_gradients_flow_through_propagation(data: Dataset) -> None:
    graph = Graph.of(data, CPU)
    graph = replace(graph, weight=graph.weight.double())
    node = torch.randn(data.n_users + data.n_items, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: graph.propagate(graph.propagate(x)).square(), node)
    rows = torch.tensor([3, 0, data.n_users + 5])
    torch.testing.assert_close(graph.propagate(node, rows), graph.propagate(node)[rows])
    assert torch.autograd.gradcheck(lambda x: graph.propagate(graph.propagate(x), rows).square(), node)


def test_lightgcn_scores_by_the_mean_of_its_layers(data: Dataset, dense: np.ndarray) -> None:
    model = fitted(LightGCN(LightGCNConfig(dim=8, layers=3), data.spec), data, SHORT)
    step, layer = adjacency(dense), model.node.detach().double().numpy()
    mean = layer / 4
    for _ in range(3):
        layer = step @ layer
        mean = mean + layer / 4
    expected = mean[: data.n_users] @ mean[data.n_users :].T
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_xsimgcl_scores_by_the_mean_of_its_layers_without_the_first(data: Dataset, dense: np.ndarray) -> None:
    model = fitted(XSimGCL(XSimGCLConfig(dim=8, layers=2), data.spec), data, SHORT)
    step, layer = adjacency(dense), model.node.detach().double().numpy()
    mean = (step @ layer + step @ step @ layer) / 2
    expected = mean[: data.n_users] @ mean[data.n_users :].T
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_xsimgcls_fold_in_of_a_training_history_is_the_trained_row(data: Dataset) -> None:
    model = fitted(XSimGCL(XSimGCLConfig(dim=8), data.spec), data, SHORT)
    known = everyone(data)
    torch.testing.assert_close(model.represent(known.anonymous()), model.represent(known), rtol=1e-4, atol=1e-6)


def test_lightgcns_fold_in_of_a_training_history_lacks_the_initial_embedding_alone(data: Dataset) -> None:
    model = fitted(LightGCN(LightGCNConfig(dim=8, layers=3), data.spec), data, SHORT)
    known = everyone(data)
    initial = model.node.detach()[: data.n_users] / 4
    torch.testing.assert_close(
        model.represent(known.anonymous()) + initial, model.represent(known), rtol=1e-4, atol=1e-6
    )


def test_weights_of_zero_and_of_one_fold_in_as_masks_do() -> None:
    table, whole = torch.randn(9, 4), torch.tensor([2, 5, 5, 8])
    mask = torch.tensor([[True] * 4, [False] * 4])
    weight = mask.float().requires_grad_()
    by_weight = fold_in(MaskedHistories.weighted(whole, weight), table)
    torch.testing.assert_close(by_weight, fold_in(MaskedHistories.masked(whole, mask), table))
    torch.testing.assert_close(by_weight[0], table[[2, 5, 8]].sum(0) / 3**0.5)
    assert torch.autograd.grad(by_weight.sum(), weight)[0].isfinite().all()


def test_noise_has_its_length_and_the_signs_of_the_row() -> None:
    layer = torch.randn(50, 8)
    noise = same_orthant_noise(layer, 0.2)
    torch.testing.assert_close(torch.linalg.vector_norm(noise, dim=1), torch.full((50,), 0.2))
    assert (noise.sign() == layer.sign()).all()
    assert not torch.equal(noise, same_orthant_noise(layer, 0.2))


def first_batch(model: Model, data: Dataset):
    torch.manual_seed(0)
    model.init_from_data(data)
    context = model.fit_context(data, CompleteTraining())
    return next(model.batches(context, torch.Generator().manual_seed(0), 64)), context


def test_the_loss_is_bpr_plus_l2_of_the_initial_embeddings(data: Dataset) -> None:
    model = LightGCN(LightGCNConfig(dim=8, layers=2, reg=0.5), data.spec)
    batch, context = first_batch(model, data)
    found = model.train().loss(batch, context)
    model.refresh(context)
    z_user, z_item = model.user[batch.user], model.item
    margin = (z_user * (z_item[batch.item] - z_item[batch.negative[:, 0]])).sum(1)
    bpr = -torch.nn.functional.logsigmoid(margin).mean()
    nodes = [batch.user, batch.item + data.n_users, batch.negative[:, 0] + data.n_users]
    square = sum(model.node[rows].square().sum(1).mean() for rows in nodes) / 2
    torch.testing.assert_close(found.shown, bpr)
    torch.testing.assert_close(found.objective, bpr + 0.5 * square)


def test_the_contrastive_loss_tells_nodes_apart(data: Dataset) -> None:
    model = XSimGCL(XSimGCLConfig(dim=8, noise=0.0, contrast=2.0, reg=0.0, temperature=0.5), data.spec)
    batch, context = first_batch(model, data)
    found = model.train().loss(batch, context)
    first = context.graph.propagate(model.node)
    final = (first + context.graph.propagate(first)) / 2
    expected = 0.0
    for rows in (batch.user.unique(), batch.item.unique() + data.n_users):
        cosine = torch.nn.functional.cosine_similarity(final[rows].unsqueeze(1), first[rows].unsqueeze(0), dim=2)
        expected = expected - torch.log_softmax(cosine / 0.5, 1).diagonal().mean()
    torch.testing.assert_close(found.objective - found.shown, 2.0 * expected)
    model.refresh(context)
    # Without noise the curve on training rows is that of the refreshed tables.
    torch.testing.assert_close(model.eval().loss(batch, context).shown, found.shown)


@pytest.mark.parametrize(("model", "config"), NETS)
def test_a_run_that_is_interrupted_goes_on_to_the_same_weights(data: Dataset, model, config, tmp_path) -> None:
    whole = fitted(model(config, data.spec), data, SHORT)

    class Stop(Exception):
        """Ends the run after the first epoch."""

    def stop(record) -> None:
        raise Stop

    with pytest.raises(Stop):
        model(config, data.spec).fit(data, SHORT, checkpoint=tmp_path, on_epoch=stop)
    resumed = model(config, data.spec)
    resumed.fit(data, SHORT, checkpoint=tmp_path)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (GFCFConfig, {"dim": 0}),
        (GFCFConfig, {"alpha": -1.0}),
        (TurboCFConfig, {"alpha": 1.5}),
        (TurboCFConfig, {"power": 0.0}),
        (TurboCFConfig, {"order": 4}),
        (LightGCNConfig, {"layers": 0}),
        (XSimGCLConfig, {"contrast_layer": 3}),
        (XSimGCLConfig, {"temperature": 0.0}),
    ],
)
def test_settings_out_of_range_are_refused(config, given: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        config(**given)
