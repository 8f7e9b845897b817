"""GMF, MLP and NeuMF: the formulas, the losses, fold-in, pre-training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import CompleteTraining, Training, from_dict, to_dict
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError
from palate.models.base import GradientModel
from palate.models.ncf import layers as ncf_layers
from palate.models.ncf import ncf
from palate.models.ncf.ncf import GMF, MLP, GMFConfig, MLPConfig, NCFContext, NeuMF, NeuMFConfig, _join
from palate.training.batches import Pairs
from palate.training.optimizers import Optimizer

SPEC = Spec(n_users=7, n_items=11, rating_scale=(1.0, 5.0))
ROWS = Dataset.from_frame(
    pl.DataFrame(
        {"user_id": [i % 7 for i in range(11)], "item_id": range(11), "rating": [1.0 + i % 5 for i in range(11)]}
    )
)


def context(model: GradientModel, **settings: Any) -> NCFContext:
    """The fit context on data of the size of `SPEC`."""
    found = model.fit_context(ROWS, CompleteTraining(**settings))
    assert isinstance(found, NCFContext)
    return found


def drawn(model: GradientModel, seed: int = 0) -> GradientModel:
    """Large random weights everywhere, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model.eval()


def known(users: list[int]) -> Queries:
    return Queries(torch.tensor(users), Ragged.empty(len(users)))


def tastes(n_users: int = 300, n_items: int = 120, groups: int = 6, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Planted tastes: a person of group g takes mostly items of group g, rated higher. Train and held-out rows."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        own = np.flatnonzero(np.arange(n_items) % groups == user % groups)
        other = np.flatnonzero(np.arange(n_items) % groups != user % groups)
        for item in np.concatenate([rng.choice(own, 12, replace=False), rng.choice(other, 6, replace=False)]):
            rating = (4.2 if item % groups == user % groups else 2.2) + rng.normal(0, 0.4)
            rows.append((f"u{user:03}", f"i{item:03}", float(np.clip(rating, 1, 5))))
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    whole = Dataset.from_frame(frame, rating_scale=(1.0, 5.0))
    held = rng.random(len(whole)) < 0.25
    return whole.take(~held), whole.take(held)


def ndcg(scores_BN: Tensor, train: Dataset, test: Dataset, k: int = 10) -> float:
    """Mean ndcg@k over the users of test, written out by hand."""
    scores_BN = scores_BN.clone()
    scores_BN[torch.from_numpy(train.user).long(), torch.from_numpy(train.item).long()] = -torch.inf
    top_BK = scores_BN.topk(k).indices
    values = []
    for user in test.active_users:
        wanted = test.histories[int(user)]
        gains = torch.isin(top_BK[user], wanted).double() / torch.arange(2, k + 2).double().log2()
        best = (1 / torch.arange(2, min(k, len(wanted)) + 2).double().log2()).sum()
        values.append(float(gains.sum() / best))
    return float(np.mean(values))


# The formulas


def test_the_textbook_net_is_the_textbook_net() -> None:
    model = drawn(MLP(MLPConfig.textbook(), SPEC))
    net = model.net
    book = nn.Sequential(nn.Linear(100, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())
    book[0].load_state_dict(net.layers[0].state_dict())
    book[2].load_state_dict(net.layers[1].state_dict())
    book[4].load_state_dict(model.net.head.state_dict())
    users, items = torch.arange(7).repeat_interleave(11), torch.arange(11).repeat(7)
    wanted = book(torch.cat([net.user.weight[users], net.item.weight[items]], 1)).view(7, 11)
    torch.testing.assert_close(torch.sigmoid(model.score(known(list(range(7))))), wanted.detach())


def test_the_textbook_net_predicts_ratings_if_asked_to() -> None:
    model = MLP(MLPConfig.textbook(loss="mse"), SPEC)
    assert "rating" in model.answers
    assert model.config == MLPConfig(dim=50, layers=(128, 64), loss="mse")


def test_lists_are_the_default() -> None:
    for config in (GMFConfig(), MLPConfig(), NeuMFConfig(), MLPConfig.textbook()):
        assert config.loss == "bce"


def test_the_textbook_preset_is_made_of_plain_fields() -> None:
    fields = {"dim": 50, "layers": [128, 64], "loss": "bce"}
    assert from_dict(MLPConfig, fields) == MLPConfig.textbook()
    assert from_dict(MLPConfig, to_dict(MLPConfig.textbook())) == MLPConfig.textbook()


def by_hand(model: Any, user: int, item: int, head: int) -> float:
    """One score, from the formulas of the module's page."""
    net = model.net
    p, u = net.user.weight[user].split([net.gmf, net.mlp])
    q, v = net.item.weight[item].split([net.gmf, net.mlp])
    h = torch.cat([u, v])
    for layer in net.layers:
        h = torch.relu(layer.weight @ h + layer.bias)
    return (net.head.weight[head] @ torch.cat([p * q, h]) + net.head.bias[head]).item()


MODELS = [
    lambda loss: GMF(GMFConfig(dim=5, loss=loss), SPEC),
    lambda loss: MLP(MLPConfig(dim=4, layers=(6, 3), loss=loss), SPEC),
    lambda loss: NeuMF(NeuMFConfig(dim=5, mlp_dim=4, layers=(8, 6, 3), loss=loss), SPEC),
]


@pytest.mark.parametrize("make", MODELS, ids=["gmf", "mlp", "neumf"])
@pytest.mark.parametrize("block", [4, 11, 30, 8192])
def test_score_is_the_formula_whatever_the_block(make: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncf_layers, "SCORED_PAIRS_PER_BLOCK", block)
    model = drawn(make("joint"))
    wanted = [[by_hand(model, user, item, 0) for item in range(11)] for user in (6, 0, 3)]
    torch.testing.assert_close(model.score(known([6, 0, 3])), torch.tensor(wanted))


@pytest.mark.parametrize("make", MODELS, ids=["gmf", "mlp", "neumf"])
@pytest.mark.parametrize("loss", ["mse", "joint"])
def test_prediction_is_the_formula_held_to_the_scale(make: Any, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncf, "PREDICTED_PAIRS_PER_BLOCK", 5)
    model = drawn(make(loss))
    net = model.net
    net.mean.fill_(3.0)
    with torch.no_grad():
        net.user_bias.weight[:2] = torch.tensor([[3.0], [-3.0]])
    users, items = torch.arange(7).repeat_interleave(11), torch.arange(11).repeat(7)
    wanted = torch.tensor(
        [
            3.0
            + net.user_bias.weight[u, 0].item()
            + net.item_bias.weight[i, 0].item()
            + by_hand(model, int(u), int(i), -1)
            for u, i in zip(users, items, strict=True)
        ]
    )
    torch.testing.assert_close(model.predict(known(list(range(7))), items, users), wanted.clamp(1, 5))
    assert bool((wanted > 5).any() & (wanted < 1).any()), "the clamp was never needed"
    if loss == "mse":
        torch.testing.assert_close(model.score(known(list(range(7)))).flatten(), wanted)


def plain_scores(model: Any, users: Tensor, items: Tensor, head: int) -> Tensor:
    """The formulas for many pairs, `[P, N]`, as autograd differentiates them."""
    net = model.net
    p, u = net.user.weight[users].unsqueeze(1).expand(*items.shape, -1).split([net.gmf, net.mlp], -1)
    q, v = net.item.weight[items].split([net.gmf, net.mlp], -1)
    h = torch.cat([u, v], -1)
    for layer in net.layers:
        h = torch.relu(layer(h))
    return net.head(torch.cat([p * q, h], -1))[..., head]


@pytest.mark.parametrize("make", MODELS, ids=["gmf", "mlp", "neumf"])
@pytest.mark.parametrize("loss", ["bce", "mse", "joint"])
@pytest.mark.parametrize("embeddings", ["dense", "rowwise"])
@pytest.mark.parametrize("size", [7, 2])
def test_the_training_step_equals_plain_autograd(make: Any, loss: str, embeddings: Any, size: int) -> None:
    """Loss and gradients, with more and with fewer pairs than items; a second step uses the memory of the first."""
    model = drawn(make(loss)).train()
    net, fit = model.net, context(model, embeddings=embeddings)
    generator = torch.Generator().manual_seed(1)
    for step in range(2):
        users = torch.randint(0, 7, (size,), generator=generator)
        items = torch.randint(0, 11, (size, 4 if net.ranks else 1), generator=generator)
        ratings, weight = 1 + 4 * torch.rand(size, generator=generator), torch.rand(size, generator=generator)
        weight = weight if step else None
        each, wanted = (torch.ones(size) if weight is None else weight), torch.zeros(())
        if net.ranks:
            label = torch.zeros(items.shape)
            label[:, 0] = 1
            errors = F.binary_cross_entropy_with_logits(plain_scores(model, users, items, 0), label, reduction="none")
            wanted = wanted + (errors * each.unsqueeze(1)).mean()
        if net.rates:
            score = plain_scores(model, users, items[:, :1], -1).squeeze(1)
            bias = net.user_bias.weight[users, 0] + net.item_bias.weight[items[:, 0], 0]
            squared = ((net.mean + bias + score - ratings).square() * each).mean()
            wanted = wanted + (squared if not net.ranks else model.config.rating_weight * squared)
        found = model.loss(Pairs(users, items[:, 0], ratings, items[:, 1:], weight), fit)
        torch.testing.assert_close(found, wanted)
        parameters = [parameter for parameter in model.parameters() if parameter.numel()]
        for one, other in zip(
            torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters), strict=True
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("embeddings", ["dense", "rowwise"])
def test_tables_that_step_by_rows_get_sparse_gradients(embeddings: Any) -> None:
    """Also with more pairs than items, where dense gradients are computed from the whole catalogue."""
    model = drawn(NeuMF(NeuMFConfig(dim=5, mlp_dim=4, layers=(8, 3), loss="joint"), SPEC)).train()
    settings = CompleteTraining(embeddings=embeddings)
    optimizer = Optimizer(model, settings)
    try:
        model.loss(batch(), model.fit_context(ROWS, settings)).backward()
        tables = [model.net.user, model.net.item, model.net.user_bias, model.net.item_bias]
        assert [table.weight.grad.is_sparse for table in tables] == [embeddings == "rowwise"] * 4
    finally:
        optimizer.release()


def test_two_forward_passes_before_a_backward_do_not_share_memory() -> None:
    model = drawn(NeuMF(NeuMFConfig(dim=5, mlp_dim=4, layers=(8, 6, 3), loss="bce"), SPEC)).train()
    fit, table = context(model), model.net.item.weight
    once = torch.autograd.grad(model.loss(batch(), fit), table)[0]
    with torch.no_grad():
        model.loss(batch(), fit)
    both = torch.autograd.grad(model.loss(batch(), fit) + model.loss(batch(), fit), table)[0]
    torch.testing.assert_close(both, 2 * once)


# The losses


def batch() -> Pairs:
    return Pairs(
        torch.tensor([0, 3, 3]),
        torch.tensor([1, 10, 4]),
        torch.tensor([5.0, 1.0, 3.0]),
        torch.tensor([[2, 3], [0, 1], [7, 7]]),
    )


def test_bce_is_the_mean_logistic_loss_of_positives_and_negatives() -> None:
    model = drawn(NeuMF(NeuMFConfig(dim=5, mlp_dim=4, layers=(8, 3), loss="bce"), SPEC))
    b = batch()
    pairs = [(u, i, 1.0) for u, i in zip(b.user, b.item, strict=True)]
    pairs += [(u, i, 0.0) for u, row in zip(b.user, b.negative, strict=True) for i in row]
    logits = torch.tensor([by_hand(model, int(u), int(i), 0) for u, i, _ in pairs])
    wanted = F.binary_cross_entropy_with_logits(logits, torch.tensor([label for *_, label in pairs]))
    torch.testing.assert_close(model.loss(b, context(model)).detach(), wanted)


def test_joint_is_bce_plus_weighted_mse_on_the_positives() -> None:
    fields: dict[str, Any] = {"dim": 5, "mlp_dim": 4, "layers": (8, 3)}
    joint = drawn(NeuMF(NeuMFConfig(**fields, loss="joint", rating_weight=0.7), SPEC))
    bce, mse = NeuMF(NeuMFConfig(**fields, loss="bce"), SPEC), NeuMF(NeuMFConfig(**fields, loss="mse"), SPEC)
    for model, head in ((bce, slice(0, 1)), (mse, slice(1, 2))):
        state = {name: each for name, each in joint.state_dict().items() if name in model.state_dict()}
        model.load_state_dict({name: each[head] if ".head." in name else each for name, each in state.items()})
    b = batch()
    predictions = mse.score(known([0, 3, 3]))[torch.arange(3), b.item]
    of_joint, of_bce, of_mse = (model.loss(b, context(model)).detach() for model in (joint, bce, mse))
    torch.testing.assert_close(of_mse, ((predictions - b.rating) ** 2).mean())
    torch.testing.assert_close(of_joint, of_bce + 0.7 * of_mse)
    assert bce.loss_name == "binary cross-entropy per pair"
    assert mse.loss_name == "squared error per rating"
    assert joint.loss_name == "binary cross-entropy per pair + 0.7 * squared error per rating"


@pytest.mark.parametrize(
    ("loss", "scale", "needs", "rates", "monitor"),
    [
        ("joint", (1.0, 5.0), {"interactions", "rating"}, True, "ndcg@10"),
        ("joint", None, {"interactions"}, False, "ndcg@10"),
        ("bce", (1.0, 5.0), {"interactions"}, False, "ndcg@10"),
        ("mse", (1.0, 5.0), {"interactions", "rating"}, True, "rmse"),
    ],
)
def test_what_it_needs_and_answers_follows_the_loss(
    loss: Any, scale: Any, needs: set[str], rates: bool, monitor: str
) -> None:
    spec = Spec(n_users=7, n_items=11, rating_scale=scale)
    for model in (
        GMF(GMFConfig(loss=loss), spec),
        MLP(MLPConfig(loss=loss), spec),
        NeuMF(NeuMFConfig(loss=loss), spec),
    ):
        assert model.needs == needs
        assert model.answers == {"known_user", "history", "similar_items"} | ({"rating"} if rates else set())
        assert model.monitor == monitor
        if not rates:
            with pytest.raises(CannotAnswer):
                model.predict(known([0]), torch.tensor([0]))


@pytest.mark.parametrize(
    ("config", "fields", "named"),
    [
        (GMFConfig, {"dim": 0, "dropout": 1.0, "negatives": 0}, ["dim", "dropout", "negatives"]),
        (MLPConfig, {"layers": (), "dropout": -0.1}, ["layers", "dropout"]),
        (
            NeuMFConfig,
            {"mlp_dim": 0, "layers": (8, 0), "pretrain_epochs": -1, "rating_weight": -1.0},
            ["mlp_dim", "layers"],
        ),
    ],
)
def test_all_faults_of_a_config_are_told_at_once(config: Any, fields: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**fields)
    assert all(name in str(caught.value) for name in named)


# Learning

QUICK = Training(epochs=12, batch_size=256, lr=5e-3)
NEUMF = NeuMFConfig(dim=8, mlp_dim=8, layers=(16, 8), loss="joint")


@pytest.fixture(scope="module")
def learned() -> tuple[NeuMF, Dataset, Dataset]:
    train, test = tastes()
    model = NeuMF(NEUMF, train.spec)
    model.fit(train, QUICK)
    return model, train, test


def test_it_learns_planted_tastes_and_folds_new_people_in(learned: tuple[NeuMF, Dataset, Dataset]) -> None:
    model, train, test = learned
    queries = train.queries(np.arange(train.n_users), train.spec)
    strangers = Queries(torch.full((train.n_users,), -1), queries.history, queries.ratings)
    popularity = ndcg(model.fallback.score(queries), train, test)
    by_user, by_history = ndcg(model.score(queries), train, test), ndcg(model.score(strangers), train, test)
    without_ratings = ndcg(model.score(Queries(strangers.user, strangers.history)), train, test)
    assert by_user > 3 * popularity
    assert by_history > 0.9 * by_user
    assert without_ratings > 0.9 * by_user


def test_joint_predicts_ratings_too(learned: tuple[NeuMF, Dataset, Dataset]) -> None:
    model, train, test = learned
    item, row, rating = held_ratings(test)
    users = train.queries(np.arange(train.n_users), train.spec)
    strangers = Queries(torch.full_like(users.user, -1), users.history, users.ratings)
    mean_error = (rating - float(np.mean(train.rating))).square().mean().sqrt()
    for queries in (users, strangers):
        assert (model.predict(queries, item, row) - rating).square().mean().sqrt() < 0.75 * mean_error


def held_ratings(test: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Items, users and ratings of the held-out rows."""
    item, user = (torch.from_numpy(column.astype(np.int64)) for column in (test.item, test.user))
    return item, user, torch.from_numpy(np.asarray(test.rating))


@pytest.mark.parametrize("make", [GMF, MLP, NeuMF], ids=["gmf", "mlp", "neumf"])
def test_mse_recovers_planted_ratings_of_known_and_new_people(make: Any) -> None:
    train, test = tastes()
    model = make(make.Config(dim=8, loss="mse", dropout=0.1), train.spec)
    records = model.fit(train, Training(epochs=20, batch_size=64, lr=5e-3, seed=1))
    assert records[-1].loss < records[0].loss / 2
    item, row, rating = held_ratings(test)
    users = train.queries(np.arange(train.n_users), train.spec)
    new = torch.full_like(users.user, -1)

    def rmse(queries: Queries) -> float:
        return (model.predict(queries, item, row) - rating).square().mean().sqrt().item()

    average = rmse(Queries(new, Ragged.empty(len(new))))
    assert rmse(users) < 0.7 * average
    assert rmse(Queries(new, users.history, users.ratings)) < 0.8 * average
    events = model.score(Queries(new[:5], users.history.take(torch.arange(5))))
    assert bool(torch.isfinite(events).all())


def test_an_answer_by_history_depends_on_that_history_alone(learned: tuple[NeuMF, Dataset, Dataset]) -> None:
    model, train, _ = learned
    queries = train.queries(np.arange(40), train.spec)
    new = Queries(torch.full((40,), -1), queries.history, queries.ratings)
    before = torch.get_rng_state()
    together = model.score(new)
    assert torch.equal(model.score(new), together)
    assert torch.equal(torch.get_rng_state(), before)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.score(new.take(order)), together[order], rtol=1e-4, atol=1e-4)
    alone = torch.cat([model.score(new.take(torch.tensor([row]))) for row in range(40)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


def test_fold_in_in_blocks_gives_the_same(
    learned: tuple[NeuMF, Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, train, _ = learned
    queries = train.queries(np.arange(30), train.spec)
    new = Queries(torch.full((30,), -1), queries.history, queries.ratings)
    whole = model.score(new)
    monkeypatch.setattr("palate.models.ncf.fold_in.PAIRS_PER_BLOCK", 700)
    torch.testing.assert_close(model.score(new), whole, rtol=1e-4, atol=1e-4)


def test_a_history_of_the_whole_catalogue_is_answered(learned: tuple[NeuMF, Dataset, Dataset]) -> None:
    model, train, _ = learned
    everything = Ragged.of([list(range(train.n_items)), [0]])
    assert bool(torch.isfinite(model.score(Queries(torch.tensor([-1, -1]), everything))).all())


def test_fold_in_leaves_the_weights_alone(learned: tuple[NeuMF, Dataset, Dataset]) -> None:
    model, _, _ = learned
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.score(Queries(torch.tensor([-1]), Ragged.of([[1, 2, 3]])))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("embeddings", ["dense", "rowwise"])
def test_dropout_and_both_kinds_of_tables_train(embeddings: Any) -> None:
    train, test = tastes()
    config = NeuMFConfig(dim=8, mlp_dim=8, layers=(16, 8), dropout=0.2)
    model = NeuMF(config, train.spec)
    records = model.fit(train, Training(epochs=10, batch_size=256, lr=5e-3, embeddings=embeddings))
    assert records[-1].loss < records[0].loss
    queries = train.queries(np.arange(train.n_users), train.spec)
    assert ndcg(model.score(queries), train, test) > 2 * ndcg(model.fallback.score(queries), train, test)
    assert torch.equal(model.score(queries), model.score(queries)), "dropout is at work outside training"


def test_same_seed_same_weights_other_seed_others() -> None:
    train, _ = tastes(n_users=60)

    def fitted(seed: int) -> dict[str, Tensor]:
        model = NeuMF(NeuMFConfig(dim=4, mlp_dim=4, layers=(8,), dropout=0.1), train.spec)
        model.fit(train, Training(epochs=2, batch_size=128, seed=seed))
        return model.state_dict()

    one, again, other = fitted(3), fitted(3), fitted(4)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["net.item.weight"], other["net.item.weight"])


# Pre-training


@pytest.mark.parametrize("loss", ["bce", "mse", "joint"])
def test_joined_towers_score_the_mean_of_both(loss: Any) -> None:
    """He et al. 2017, section 3.4.1: the head of NeuMF is half of GMF's and half of the MLP's."""
    gmf = drawn(GMF(GMFConfig(dim=5, loss=loss), SPEC), 1)
    mlp = drawn(MLP(MLPConfig(dim=4, layers=(6, 3), loss=loss), SPEC), 2)
    neumf = NeuMF(NeuMFConfig(dim=5, mlp_dim=4, layers=(6, 3), loss=loss), SPEC).eval()
    _join(gmf.net, mlp.net, neumf.net)
    queries = known([0, 2, 6])
    torch.testing.assert_close(neumf.score(queries), (gmf.score(queries) + mlp.score(queries)) / 2)
    if loss == "joint":
        row, item = torch.arange(3), torch.tensor([4, 5, 6])
        left, right, joined = (model._predict(queries, row, item) for model in (gmf, mlp, neumf))
        torch.testing.assert_close(joined, (left + right) / 2)


def test_pretraining_starts_the_joined_net_ahead() -> None:
    train, _ = tastes()
    plain, ahead = (
        NeuMF(NEUMF, train.spec),
        NeuMF(NeuMFConfig(**(to_dict(NEUMF) | {"pretrain_epochs": 6, "layers": (16, 8)})), train.spec),
    )
    once = Training(epochs=1, batch_size=256, lr=5e-3)
    assert ahead.fit(train, once)[0].loss < plain.fit(train, once)[0].loss - 0.05


def test_a_weight_of_two_is_the_row_given_twice() -> None:
    """One step on all rows: the weighted row and its repetition give the same gradient for the same negatives."""
    model = drawn(NeuMF(NeuMFConfig(dim=5, mlp_dim=4, layers=(8, 3)), SPEC)).train()
    b, weight = batch(), torch.tensor([2.0, 1.0, 1.0])
    weighted = Pairs(b.user, b.item, b.rating, b.negative, weight / weight.mean())
    again = torch.tensor([0, 0, 1, 2])
    repeated = Pairs(b.user[again], b.item[again], b.rating[again], b.negative[again])
    table, fit = model.net.item.weight, context(model)
    one, other = (torch.autograd.grad(model.loss(each, fit), table)[0] for each in (weighted, repeated))
    torch.testing.assert_close(one, other)


def test_weights_reach_the_loss_and_the_mean_rating() -> None:
    train, _ = tastes(n_users=60)
    heavy = np.where(train.rating > 3, 5.0, 1.0).astype(np.float32)
    model = GMF(GMFConfig(dim=4, loss="mse"), train.spec)
    model.fit(replace(train, weight=heavy), Training(epochs=1))
    assert model.net.mean.item() == pytest.approx(np.average(train.rating, weights=heavy), rel=1e-5)


@pytest.mark.parametrize("stop", [3, 9, 14])
def test_pretraining_resumes_in_every_stage(stop: int, tmp_path: Path) -> None:
    """Stopped in the GMF, the MLP or the joined stage, a run goes on to the same weights."""
    train, _ = tastes(n_users=60)
    config = NeuMFConfig(dim=4, mlp_dim=4, layers=(8,), dropout=0.1, pretrain_epochs=2)
    training = Training(epochs=2, batch_size=400)
    undisturbed = NeuMF(config, train.spec)
    undisturbed.fit(train, training)
    done = 0

    def on_step(*_: object) -> None:
        nonlocal done
        done += 1
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        NeuMF(config, train.spec).fit(train, training, checkpoint=tmp_path, on_step=on_step)
    resumed = NeuMF(config, train.spec)
    resumed.fit(train, training, checkpoint=tmp_path)
    assert done == stop
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_similar_items_are_of_the_same_taste(learned: tuple[NeuMF, Dataset, Dataset]) -> None:
    model, train, _ = learned
    vectors = F.normalize(model.item_vectors(), dim=1)
    assert vectors.shape == (train.n_items, 16)
    near = (vectors @ vectors.T).fill_diagonal_(-1).topk(5).indices
    group = torch.tensor([int(i[1:]) % 6 for i in train.items.ids])
    assert float((group[near] == group.unsqueeze(1)).float().mean()) > 0.6
