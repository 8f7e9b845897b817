"""The fold-in of histories: its hand-made gradient against autograd's."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.models import MODELS
from palate.models.ncf_foldin import SAMPLED, _Pairs
from palate.models.ncf_layers import Net, weigh

SCALE = (1.0, 5.0)


def data() -> Dataset:
    rng = np.random.default_rng(0)
    rows = [(u, int(i), float(rng.integers(1, 6))) for u in range(20) for i in rng.choice(300, 15, replace=False)]
    rows += [(20, i, 3.0) for i in range(300)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    return Dataset.from_frame(frame, rating_scale=SCALE)


def wanted(net: Net, queries: Queries, people_BD: Tensor) -> Tensor:
    """The sum over the data as the module's formula has it, pair by pair."""
    n_items, towers, total = net.towers.item.num_embeddings, net.towers, torch.zeros(())
    sampled = torch.unique(torch.randint(n_items, (SAMPLED,), generator=torch.Generator().manual_seed(0)))
    start = 0
    for row, length in enumerate(queries.history.lengths.tolist()):
        chosen, person = queries.history[row], people_BD[row : row + 1]
        others = sampled[~torch.isin(sampled, chosen)]
        both = torch.cat([chosen, others])
        features = towers.features(net.sides(person), towers.item_side(towers.item(both)))
        if net.rank is not None:
            score = weigh(net.rank, features)
            share = net.negatives * length / max(len(others), 1)
            total = total - F.logsigmoid(score[:length]).sum() - share * F.logsigmoid(-score[length:]).sum()
        if net.rating is not None and queries.ratings is not None:
            told = net.rating([each[:length] for each in features], person[0, -1], chosen)
            total = total + (told - queries.ratings[start : start + length]).square().sum() / 2  # a quarter of 1 to 5
        start += length
    return total


@pytest.mark.parametrize("loss", ["joint", "bce", "mse"])
@pytest.mark.parametrize("name", ["gmf", "mlp", "neumf"])
def test_the_slope_is_that_of_the_formula(name: str, loss: Any) -> None:
    rated, kind = data(), MODELS[name]
    model = kind(kind.Config(loss=loss), rated.spec)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3, generator=rng)
    net = model.net
    assert isinstance(net, Net)
    histories = [[3, 7, 250], [], list(range(300)), [9]]
    history = Ragged.of(histories)
    ratings = torch.randint(1, 6, (len(history.values),), generator=rng).float()
    queries = Queries(torch.full((4,), -1), history, ratings)
    people = net.people(torch.arange(4)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(wanted(net, queries, people), people)
    with torch.no_grad():
        found = _Pairs(net, queries, people.mean(0), quarter=1.0).slope(people.detach())
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
