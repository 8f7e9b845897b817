"""GMF, MLP and NeuMF: the formulas, the losses, fold-in, pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import Training, from_dict, to_dict
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError
from palate.models import ncf_layers
from palate.models.base import GradientModel
from palate.models.ncf import GMF, MLP, GMFConfig, MLPConfig, NeuMF, NeuMFConfig, _fuse
from palate.models.ncf_layers import weigh
from palate.training.batches import Pairs

SPEC = Spec(n_users=7, n_items=11, rating_scale=(1.0, 5.0))


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
    towers = model.net.towers
    book = nn.Sequential(nn.Linear(100, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())
    book[0].load_state_dict(towers.layers[0].state_dict())
    book[2].load_state_dict(towers.layers[1].state_dict())
    book[4].load_state_dict(model.net.rank.state_dict())
    users, items = torch.arange(7).repeat_interleave(11), torch.arange(11).repeat(7)
    wanted = book(torch.cat([towers.user.weight[users], towers.item.weight[items]], 1)).view(7, 11)
    torch.testing.assert_close(torch.sigmoid(model.score(known(list(range(7))))), wanted.detach())


def test_the_textbook_preset_is_made_of_plain_fields() -> None:
    fields = {"dim": 50, "layers": [128, 64], "loss": "bce"}
    assert from_dict(MLPConfig, fields) == MLPConfig.textbook()
    assert from_dict(MLPConfig, to_dict(MLPConfig.textbook())) == MLPConfig.textbook()


def by_hand(model: Any, user: int, item: int, head: nn.Linear) -> float:
    """One score, from the formulas of the module's page."""
    towers = model.net.towers
    p, u = towers.user.weight[user].split([towers.gmf, towers.mlp])
    q, v = towers.item.weight[item].split([towers.gmf, towers.mlp])
    h = torch.cat([u, v])
    for layer in towers.layers:
        h = torch.relu(layer.weight @ h + layer.bias)
    return (head.weight[0] @ torch.cat([p * q, h]) + head.bias).item()


MODELS = [
    lambda loss: GMF(GMFConfig(dim=5, loss=loss), SPEC),
    lambda loss: MLP(MLPConfig(dim=4, layers=(6, 3), loss=loss), SPEC),
    lambda loss: NeuMF(NeuMFConfig(dim=5, mlp_dim=4, layers=(8, 6, 3), loss=loss), SPEC),
]


@pytest.mark.parametrize("make", MODELS, ids=["gmf", "mlp", "neumf"])
@pytest.mark.parametrize("block", [4, 11, 30, 8192])
def test_score_is_the_formula_whatever_the_block(make: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncf_layers, "BLOCK", block)
    model = drawn(make("joint"))
    wanted = [[by_hand(model, user, item, model.net.rank) for item in range(11)] for user in (6, 0, 3)]
    torch.testing.assert_close(model.score(known([6, 0, 3])), torch.tensor(wanted))


@pytest.mark.parametrize("make", MODELS, ids=["gmf", "mlp", "neumf"])
@pytest.mark.parametrize("loss", ["mse", "joint"])
def test_prediction_is_the_formula_held_to_the_scale(make: Any, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncf_layers, "PREDICTED", 5)
    model = drawn(make(loss))
    rating = model.net.rating
    rating.mean.fill_(3.0)
    with torch.no_grad():
        rating.user_bias.weight[:2] = torch.tensor([[3.0], [-3.0]])
    users, items = torch.arange(7).repeat_interleave(11), torch.arange(11).repeat(7)
    wanted = torch.tensor(
        [
            3.0
            + rating.user_bias.weight[u, 0].item()
            + rating.item_bias.weight[i, 0].item()
            + by_hand(model, int(u), int(i), rating.linear)
            for u, i in zip(users, items, strict=True)
        ]
    )
    torch.testing.assert_close(model.predict(known(list(range(7))), items, users), wanted.clamp(1, 5))
    assert bool((wanted > 5).any() & (wanted < 1).any()), "the clamp was never needed"
    if loss == "mse":
        torch.testing.assert_close(model.score(known(list(range(7)))).flatten(), wanted)


@pytest.mark.parametrize("make", MODELS, ids=["gmf", "mlp", "neumf"])
@pytest.mark.parametrize("catalogue", [True, False], ids=["catalogue", "rows"])
def test_the_fast_training_path_equals_plain_autograd(make: Any, catalogue: bool) -> None:
    """Values and gradients; twice, for the second step works in the first one's buffers."""
    model = drawn(make("bce"))
    towers, head = model.net.towers, model.net.rank
    generator = torch.Generator().manual_seed(1)
    for size in (7, 5):
        users = torch.arange(size)
        items = torch.randint(0, 11, (size, 4 if catalogue else 1), generator=generator)
        assert (items.numel() >= 11) == catalogue
        user = towers.user_side(towers.user(users).unsqueeze(1))
        plain = weigh(head, towers.features(user, towers.item_side(towers.item(items))))
        fast = towers(head, users, items)
        torch.testing.assert_close(fast, plain)
        outer = torch.randn(plain.shape, generator=generator)
        parameters = [p for p in [*towers.parameters(), *head.parameters()] if p.numel()]
        for one, other in zip(
            torch.autograd.grad(fast, parameters, outer), torch.autograd.grad(plain, parameters, outer), strict=True
        ):
            torch.testing.assert_close(one, other)


def test_two_forward_passes_before_a_backward_do_not_share_buffers() -> None:
    model = drawn(NeuMF(NeuMFConfig(dim=5, mlp_dim=4, layers=(8, 6, 3), loss="bce"), SPEC)).train()
    once = torch.autograd.grad(model.loss(batch()), model.net.towers.item.weight)[0]
    with torch.no_grad():
        model.loss(batch())
    both = torch.autograd.grad(model.loss(batch()) + model.loss(batch()), model.net.towers.item.weight)[0]
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
    logits = torch.tensor([by_hand(model, int(u), int(i), model.net.rank) for u, i, _ in pairs])
    wanted = F.binary_cross_entropy_with_logits(logits, torch.tensor([label for *_, label in pairs]))
    torch.testing.assert_close(model.loss(b).detach(), wanted)


def test_joint_is_bce_plus_weighted_mse_on_the_positives() -> None:
    fields: dict[str, Any] = {"dim": 5, "mlp_dim": 4, "layers": (8, 3)}
    joint = drawn(NeuMF(NeuMFConfig(**fields, rating_weight=0.7), SPEC))
    bce, mse = NeuMF(NeuMFConfig(**fields, loss="bce"), SPEC), NeuMF(NeuMFConfig(**fields, loss="mse"), SPEC)
    for model in (bce, mse):
        model.load_state_dict({n: t for n, t in joint.state_dict().items() if n in model.state_dict()})
    b = batch()
    predictions = mse.score(known([0, 3, 3]))[torch.arange(3), b.item]
    torch.testing.assert_close(mse.loss(b).detach(), ((predictions - b.rating) ** 2).mean())
    torch.testing.assert_close(joint.loss(b).detach(), (bce.loss(b) + 0.7 * mse.loss(b)).detach())


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
NEUMF = NeuMFConfig(dim=8, mlp_dim=8, layers=(16, 8))


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
    records = model.fit(train, Training(epochs=20, batch_size=64, lr=5e-3))
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
    monkeypatch.setattr("palate.models.ncf_foldin.BLOCK", 700)
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
    assert not torch.equal(one["net.towers.item.weight"], other["net.towers.item.weight"])


# Pre-training


@pytest.mark.parametrize("loss", ["bce", "mse", "joint"])
def test_joined_towers_score_the_mean_of_both(loss: Any) -> None:
    """He et al. 2017, section 3.4.1: the head of NeuMF is half of GMF's and half of the MLP's."""
    gmf = drawn(GMF(GMFConfig(dim=5, loss=loss), SPEC), 1)
    mlp = drawn(MLP(MLPConfig(dim=4, layers=(6, 3), loss=loss), SPEC), 2)
    neumf = NeuMF(NeuMFConfig(dim=5, mlp_dim=4, layers=(6, 3), loss=loss), SPEC).eval()
    _fuse(gmf.net, mlp.net, neumf.net)
    queries = known([0, 2, 6])
    torch.testing.assert_close(neumf.score(queries), (gmf.score(queries) + mlp.score(queries)) / 2)
    if loss == "joint":
        people = [model.net.people(queries.user) for model in (gmf, mlp, neumf)]
        row, item = torch.arange(3), torch.tensor([4, 5, 6])
        left, right, joined = (
            model.net.predict(who, row, item) for model, who in zip((gmf, mlp, neumf), people, strict=True)
        )
        torch.testing.assert_close(joined, (left + right) / 2)


def test_pretraining_starts_the_joined_net_ahead() -> None:
    train, _ = tastes()
    plain, ahead = (
        NeuMF(NEUMF, train.spec),
        NeuMF(NeuMFConfig(**(to_dict(NEUMF) | {"pretrain_epochs": 6, "layers": (16, 8)})), train.spec),
    )
    once = Training(epochs=1, batch_size=256, lr=5e-3)
    assert ahead.fit(train, once)[0].loss < plain.fit(train, once)[0].loss - 0.05


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
