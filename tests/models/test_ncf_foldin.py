"""The fold-in of histories: its gradient against that of the formula, pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.models import MODELS
from palate.models.ncf.fold_in import SAMPLED_ITEMS, HistoryLoss

SCALE = (1.0, 5.0)


def data() -> Dataset:
    rng = np.random.default_rng(0)
    rows = [(u, int(i), float(rng.integers(1, 6))) for u in range(20) for i in rng.choice(300, 15, replace=False)]
    rows += [(20, i, 3.0) for i in range(300)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    return Dataset.from_frame(frame, rating_scale=SCALE)


def head_output(net: Any, head: int, row_D: Tensor, item_N: Tensor) -> Tensor:
    """A head's output for one user and some items, from the formulas."""
    p, u = row_D[: net.gmf + net.mlp].expand(len(item_N), -1).split([net.gmf, net.mlp], 1)
    q, v = net.item.weight[item_N].split([net.gmf, net.mlp], 1)
    h = torch.cat([u, v], 1)
    for layer in net.layers:
        h = torch.relu(layer(h))
    return net.head(torch.cat([p * q, h], 1))[:, head]


def formula(model: Any, queries: Queries, rows_BD: Tensor) -> Tensor:
    """The first three terms of the module's formula."""
    net, total = model.net, torch.zeros(())
    sampled = torch.unique(
        torch.randint(model.spec.n_items, (SAMPLED_ITEMS,), generator=torch.Generator().manual_seed(0))
    )
    start = 0
    for row, length in enumerate(queries.history.lengths.tolist()):
        chosen, row_D = queries.history[row], rows_BD[row]
        others = sampled[~torch.isin(sampled, chosen)]
        if net.ranks:
            positive, negative = (head_output(net, 0, row_D, items) for items in (chosen, others))
            share = model.config.negatives * length / max(len(others), 1)
            total = total - F.logsigmoid(positive).sum() - share * F.logsigmoid(-negative).sum()
        if net.rates:
            rating = net.mean + row_D[-1] + net.item_bias.weight[chosen, 0]
            rating = rating + head_output(net, -1, row_D, chosen)
            total = total + (rating - queries.ratings[start : start + length]).square().sum() / 2  # a quarter of 1 to 5
        start += length
    return total


@pytest.mark.parametrize("loss", ["joint", "bce", "mse"])
@pytest.mark.parametrize("name", ["gmf", "mlp", "neumf"])
def test_the_gradient_is_that_of_the_formula(name: str, loss: Any) -> None:
    rated, kind = data(), MODELS[name]
    model = kind(kind.Config(loss=loss), rated.spec)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3, generator=rng)
    histories = [[3, 7, 250], [], list(range(300)), [9]]
    history = Ragged.of(histories)
    ratings = torch.randint(1, 6, (len(history.values),), generator=rng).float()
    queries = Queries(torch.full((4,), -1), history, ratings)
    rows = model.net.user_rows(torch.arange(4)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(formula(model.eval(), queries, rows), rows)
    with torch.no_grad():
        objective = HistoryLoss(model.net, queries, rows.mean(0), 1.0, model.config.negatives)
        found = objective.gradient(rows.detach())
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_event_without_a_rating_counts_as_a_rating_above_the_average_users() -> None:
    """A model of ratings alone, asked by a history without ratings."""
    rated, kind = data(), MODELS["neumf"]
    model = kind(kind.Config(loss="mse"), rated.spec)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    model.eval()
    average = model.net.user_rows(torch.arange(21)).mean(0).detach()
    chosen = torch.tensor([3, 7, 250])
    with torch.no_grad():
        rating = model.net.mean + average[-1] + model.net.item_bias.weight[chosen, 0]
        rating = rating + head_output(model.net, -1, average, chosen) + 1.0  # q for 1 to 5
    bare, told = (Queries(torch.tensor([-1]), Ragged.of([chosen.tolist()]), ratings) for ratings in (None, rating))
    torch.testing.assert_close(model.score(bare), model.score(told), rtol=1e-4, atol=1e-4)


def test_a_known_user_with_fresh_history_is_folded_in() -> None:
    rated, kind = data(), MODELS["neumf"]
    model = kind(kind.Config(), rated.spec)
    model.init_from_data(rated)
    model.eval()
    history = Ragged.of([[3, 7, 250], [1, 2]])
    fresh = Queries(torch.tensor([0, 1]), history, fresh=torch.tensor([True, False]))
    rows = model.represent(fresh)
    assert torch.equal(rows[1], model.net.user_rows(torch.tensor([1]))[0])
    torch.testing.assert_close(rows[0], model.represent(fresh.anonymous())[0])


@pytest.mark.parametrize("loss", ["joint", "bce", "mse"])
def test_the_steps_go_nine_tenths_of_the_way_to_the_minimum(loss: Any) -> None:
    """Of `gmf`, whose objective has one minimum."""
    rated, kind = data(), MODELS["gmf"]
    model = kind(kind.Config(loss=loss), rated.spec)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3, generator=rng)
    chosen = torch.randperm(300, generator=rng)[:15]
    queries = Queries(
        torch.tensor([-1]), Ragged.of([chosen.tolist()]), torch.randint(1, 6, (15,), generator=rng).float()
    )
    center, spread = model.eval().net.user_prior()

    def value(z_BD: Tensor) -> Tensor:
        return formula(model, queries, center + spread * z_BD) + z_BD.square().sum() / 2

    best = torch.zeros(1, len(center), requires_grad=True)
    optimizer = torch.optim.LBFGS([best], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        now = value(best)
        now.backward()
        return now.item()

    optimizer.step(closure)
    with torch.no_grad():
        start, least = float(value(torch.zeros_like(best))), float(value(best))
        found = float(value((model.represent(queries) - center) / spread))
    assert least - 1e-3 <= found <= least + 0.1 * (start - least)


def test_the_average_user_follows_the_weights() -> None:
    rated, kind = data(), MODELS["neumf"]
    model = kind(kind.Config(loss="bce"), rated.spec)
    model.fit(rated, Training(epochs=1))
    torch.testing.assert_close(model.prior, model.net.user_prior())
    queries = Queries(torch.tensor([-1]), Ragged.of([[3, 7, 250]]))
    before = model.represent(queries)
    other = kind(kind.Config(loss="bce"), rated.spec)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.represent(queries), before)  # without `refresh`, and after it
    other.refresh()
    torch.testing.assert_close(other.represent(queries), before)
    with torch.no_grad():
        other.net.user.weight.add_(1.0)
    other.refresh()
    torch.testing.assert_close(other.prior[0], model.prior[0] + 1.0)
