"""mf: formula, losses, regularisation, fold-in against plain versions; trained users against their own histories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.config import CompleteTraining, Training
from palate.data.dataset import Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import ConfigError
from palate.models.mf import fold_in
from palate.models.mf.dots import dots
from palate.models.mf.mf import MF, MFConfig, MFContext
from palate.testing import planted
from palate.training.batches import Pairs

SPEC = Spec(n_users=5, n_items=7, rating_scale=(1.0, 5.0))
LOSSES = ["mse", "bce", "bpr", "softmax", "sampled-softmax"]


def drawn(spec: Spec = SPEC, **settings: object) -> MF:
    """Large random weights."""
    model = MF(MFConfig(dim=3, **settings), spec)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7, generator=generator)
        model.bias.fill_(0.3)
    return model.eval()


def context() -> MFContext:
    """Shares of the L2 at random; the loss reads nothing else."""
    generator = torch.Generator().manual_seed(1)
    users, items = (torch.rand(n, generator=generator) + 0.5 for n in (SPEC.n_users, SPEC.n_items))
    return MFContext(planted().train, user_share=users, item_share=items)


def by_hand(model: MF, user: int, item: int) -> Tensor:
    biases = model.bias + model.user_bias.weight[user, 0] + model.item_bias.weight[item, 0]
    return biases + (model.user.weight[user] * model.item.weight[item]).sum()


def test_a_score_is_what_the_formula_says() -> None:
    model = drawn(loss="mse")
    queries = Queries(torch.tensor([4, 1]), Ragged.empty(2))
    scores = model.score(queries)
    for row, user in enumerate((4, 1)):
        for item in range(SPEC.n_items):
            torch.testing.assert_close(scores[row, item], by_hand(model, user, item).detach())
    item, row = torch.tensor([6, 0, 3]), torch.tensor([1, 0, 1])
    torch.testing.assert_close(model.predict(queries, item, row), scores[row, item].clamp(1, 5))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weight", [None, [0.4, 1.6]])
def test_a_loss_is_what_its_paper_says(loss: str, weight: list[float] | None) -> None:
    model, shares = drawn(loss=loss, negatives=2, reg=0.1, bias_reg=0.03), context()
    user, item, negative = torch.tensor([0, 3]), torch.tensor([2, 5]), torch.tensor([[1, 6], [0, 0]])
    rating = torch.tensor([4.0, 2.0])
    sampled = loss in ("bce", "bpr", "sampled-softmax")
    w = torch.ones(2) if weight is None else torch.tensor(weight)
    batch = Pairs(user, item, rating, negative if sampled else None, None if weight is None else w)
    positive = torch.stack([by_hand(model, int(u), int(i)) for u, i in zip(user, item, strict=True)])
    other = torch.stack(
        [torch.stack([by_hand(model, int(u), int(j)) for j in js]) for u, js in zip(user, negative, strict=True)]
    )
    every = torch.stack([torch.stack([by_hand(model, int(u), j) for j in range(SPEC.n_items)]) for u in user])
    of_pair = -torch.cat([torch.sigmoid(positive).log().unsqueeze(1), (1 - torch.sigmoid(other)).log()], dim=1)
    candidates = torch.cat([positive.unsqueeze(1), other], dim=1)
    data_term = {
        "mse": w * (positive - rating).square(),
        "bce": w.unsqueeze(1) * of_pair,
        "bpr": w.unsqueeze(1) * -torch.sigmoid(positive.unsqueeze(1) - other).log(),
        "softmax": w * -F.log_softmax(every, dim=1)[[0, 1], item],
        "sampled-softmax": w * -F.log_softmax(candidates, dim=1)[:, 0],
    }[loss].mean()
    wanted = data_term
    scored = torch.cat([item.unsqueeze(1), negative], dim=1) if sampled else item.unsqueeze(1)
    pairs = [(float(w_), int(u), int(i)) for w_, u, row in zip(w, user, scored, strict=True) for i in row]
    for weights, strength in ((("user", "item"), 0.1), (("user_bias", "item_bias"), 0.03)):
        of_user, of_item = (getattr(model, name).weight for name in weights)
        penalty = [
            w_ * shares.user_share[u] * of_user[u].square().sum()
            + w_ * shares.item_share[i] * of_item[i].square().sum()
            for w_, u, i in pairs
        ]
        wanted = wanted + strength * torch.stack(penalty).mean()
    found = model.loss(batch, shares)
    torch.testing.assert_close(found.objective, wanted)
    torch.testing.assert_close(found.shown, data_term)


@pytest.mark.parametrize("loss", ["mse", "softmax"])
def test_a_weight_of_two_is_the_row_given_twice(loss: str) -> None:
    """The losses without negatives, in one batch for all rows: here both ways of saying it are the same steps."""
    data = planted().train
    twice = np.random.default_rng(0).random(len(data)) < 0.3
    rows = np.repeat(np.arange(len(data)), 1 + twice)
    weighted, repeated = replace(data, weight=(1 + twice).astype(np.float32)), data.take(rows)
    models = []
    for given in (weighted, repeated, data):
        model = MF(MFConfig(loss=loss, dim=4, reg_power=0.5), given.spec)  # type: ignore[arg-type]
        model.fit(given, Training(epochs=12, batch_size=4 * len(data), lr=0.05))
        models.append(model.state_dict())
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=1e-3, atol=2e-4)
    assert not torch.allclose(models[0]["item.weight"], models[2]["item.weight"], rtol=1e-3, atol=2e-4)


def test_weights_count_where_pairs_are_counted() -> None:
    data = planted().train
    twice = np.random.default_rng(0).random(len(data)) < 0.3
    rows = np.repeat(np.arange(len(data)), 1 + twice)
    model = MF(MFConfig(reg_power=0.3, negatives=2), data.spec)
    weighted, repeated = (
        model.fit_context(given, CompleteTraining())
        for given in (replace(data, weight=(1 + twice).astype(np.float32)), data.take(rows))
    )
    torch.testing.assert_close(weighted.user_share, repeated.user_share)
    torch.testing.assert_close(weighted.item_share, repeated.item_share)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_weight_of_the_l2_grows_as_a_power_of_the_ratings(power: float) -> None:
    data = planted().train
    model = MF(MFConfig(loss="mse", dim=2, reg=0.3, bias_reg=0.0, reg_power=power), data.spec)
    model.init_from_data(data)
    context = model.fit_context(data, CompleteTraining())
    with torch.no_grad():
        model.bias.zero_()
        model.item.weight.zero_()
        model.user.weight.copy_(torch.linspace(-1, 1, data.n_users).unsqueeze(1).expand(-1, 2))
        squares = torch.from_numpy(data.rating).square().mean()
        rng = torch.Generator().manual_seed(0)
        epoch = sum(
            float(model.loss(batch, context).objective) * len(batch) for batch in model.batches(context, rng, 100)
        )
        counts = torch.from_numpy(np.diff(data.offsets)).float()
        wanted = 0.3 * (counts**power * model.user.weight.square().sum(1)).sum()
    assert epoch - float(squares) * len(data) == pytest.approx(float(wanted), rel=1e-3)


def test_the_first_scores_are_the_mean_rating_or_the_share_of_positives() -> None:
    data = planted().train
    for config, wanted in (
        (MFConfig(loss="mse", init=1e-9), float(np.mean(data.rating))),
        (MFConfig(loss="bce", init=1e-9, negatives=4), np.log(0.2 / 0.8)),
        (MFConfig(loss="bpr", init=1e-9), 0.0),
    ):
        model = MF(config, data.spec)
        model.init_from_data(data)
        scores = model.score(data.queries(np.arange(3), data.spec))
        torch.testing.assert_close(scores, torch.full_like(scores, wanted))


@pytest.mark.parametrize("loss", LOSSES)
def test_tables_can_be_stepped_by_rows(loss: str) -> None:
    data = planted().train
    model = MF(MFConfig(loss=loss, dim=8), data.spec)  # type: ignore[arg-type]
    records = model.fit(data, Training(epochs=6, batch_size=256, lr=0.02, embeddings="rowwise"))
    assert records[-1].loss < 0.97 * records[0].loss


def people(model: MF) -> tuple[Queries, Queries]:
    """All training users: as known, and by their histories alone."""
    data = planted().train
    known = data.queries(np.arange(data.n_users), model.spec)
    return known, Queries(torch.full_like(known.user, -1), known.history, known.ratings)


@pytest.fixture(scope="module")
def rating_model() -> MF:
    """Trained until nothing moves."""
    data = planted().train
    model = MF(MFConfig(loss="mse", dim=6, reg=0.08, bias_reg=0.04), data.spec)
    model.fit(data, Training(epochs=200, batch_size=len(data), lr=0.05))
    return model


def test_a_history_with_ratings_gives_the_trained_vector(rating_model: MF) -> None:
    """Tolerance: cosine 0.999 on average, predictions within 0.01 stars on average, 0.1 at most."""
    known, strangers = people(rating_model)
    trained, folded = (rating_model.represent(queries)[:, :-1].detach() for queries in (known, strangers))
    assert float(trained.norm(dim=1).mean()) > 0.3
    assert float(F.cosine_similarity(trained, folded).mean()) > 0.999
    gap = (rating_model.score(known) - rating_model.score(strangers)).abs()
    assert float(gap.mean()) < 0.01
    assert float(gap.max()) < 0.1


def test_unrated_items_count_as_liked(rating_model: MF) -> None:
    known, strangers = people(rating_model)
    liked = (float(rating_model.bias) + 5.0) / 2
    unrated = replace(strangers, ratings=None)
    rated = replace(strangers, ratings=torch.full((len(known.history.values),), liked))
    torch.testing.assert_close(rating_model.score(unrated), rating_model.score(rated))


def test_a_history_gives_the_trained_taste_where_the_loss_ranks() -> None:
    """Tolerance: rank correlation of the scores 0.9 on average over users."""
    data = planted().train
    model = MF(MFConfig(dim=6, reg=0.004, bias_reg=0.004), data.spec)
    model.fit(data, Training(epochs=40, batch_size=480, lr=0.05))
    known, strangers = people(model)
    ranks = [model.score(queries).argsort(1).argsort(1).float() for queries in (known, strangers)]
    assert float(F.cosine_similarity(*(r - r.mean() for r in ranks)).mean()) > 0.9


def test_ridge_is_the_ridge_solution() -> None:
    rng = np.random.default_rng(0)
    history = Ragged.of([[3, 1, 2], [], [0]])
    vectors, target = rng.normal(size=(5, 4)), rng.normal(size=4)
    penalty = np.array([0.1, 0.2, 0.3, 0.4])
    found = fold_in.ridge(
        history,
        torch.from_numpy(vectors).float(),
        torch.from_numpy(target).float(),
        torch.from_numpy(penalty).float(),
    )
    assert not found[1].any()
    for row, part in ((0, slice(0, 3)), (2, slice(3, 4))):
        q, length = vectors[history[row].numpy()], len(history[row])
        wanted = np.linalg.solve(q.T @ q + length * np.diag(penalty), q.T @ target[part])
        np.testing.assert_allclose(found[row].numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_items", [40, 5000])
def test_logistic_minimises_its_objective(n_items: int) -> None:
    rng = torch.Generator().manual_seed(0)
    vector_ND = torch.randn(n_items, 5, generator=rng) * 0.7
    offset_N = torch.randn(n_items, generator=rng) - 1
    history, penalty, k = Ragged.of([[1, 4, 30, 7], [2]]), torch.tensor([0.1, 0.1, 0.1, 0.1, 0.02]), 4
    found = fold_in.logistic(history, vector_ND, offset_N, penalty, k)
    stand_ins = set(range(0, n_items, -(-n_items // fold_in.MAX_NEGATIVES)))
    for row in range(2):
        seen = history[row]
        others = torch.tensor(sorted(stand_ins - set(seen.tolist())))
        person = found[row].clone().requires_grad_()
        score = offset_N + vector_ND @ person
        share = k * len(seen) / len(others)
        loss = F.softplus(-score[seen]).sum() + share * F.softplus(score[others]).sum()
        loss = loss + len(seen) * (penalty * person.square()).sum()
        (slope,) = torch.autograd.grad(loss, person)
        assert float(slope.abs().max()) < 1e-3
        assert float(person.detach().norm()) > 0.1


def test_item_vectors_are_the_items() -> None:
    model = drawn()
    assert torch.equal(model.item_vectors(), model.item.weight)
    assert not model.item_vectors().requires_grad


def test_all_faults_of_a_config_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"3 faults\n.*dim = 0.*\n.*reg_power = 2.0.*\n.*loss = 'hinge' is not one of"
    ):
        MFConfig(dim=0, reg_power=2.0, loss="hinge")  # type: ignore[arg-type]


@pytest.mark.parametrize("cached", [1, 40, 2**19])
def test_dots_and_their_gradients_are_those_of_autograd(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.models.mf.dots.MAX_VALUES_IN_CACHE", cached)
    rng = torch.Generator().manual_seed(0)
    user, item = (torch.randn(n, 4, generator=rng, dtype=torch.float32).requires_grad_() for n in (7, 5))
    place = torch.randint(4, (7, 3), generator=rng)  # the fifth item is never asked for
    weight = torch.randn(7, 3, generator=rng)
    by_hand, plain = dots(user, item, place), (item[place] * user.unsqueeze(1)).sum(-1)
    torch.testing.assert_close(by_hand, plain)
    found, expected = (torch.autograd.grad((s * weight).sum(), [user, item]) for s in (by_hand, plain))
    torch.testing.assert_close(found, expected)
