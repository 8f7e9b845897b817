"""SVD++ and the effects of time: the formulas by hand, nothing of a judged row in what is learned from, fold-in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import CompleteTraining, Training
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import DataError
from palate.evaluation.evaluate import Validator, evaluate
from palate.models.mf.mf import MF, MFConfig
from palate.models.mf.svdpp import RatingBatch, SVDpp, SVDppConfig
from palate.models.mf.time_effects import DAY, TimeEffects
from palate.testing import planted

TRAINING = Training(epochs=30, batch_size=256, lr=0.05, optimizer="adagrad", embeddings="rowwise")
CONFIG = SVDppConfig(dim=4, init=0.1, reg=0.4)
START = 1_000_000_000


def small(**columns: object) -> Dataset:
    table = {
        "user_id": [0, 0, 0, 1, 1, 2],
        "item_id": [0, 1, 2, 1, 3, 0],
        "rating": [5.0, 3.0, 1.0, 4.0, 2.0, 3.0],
        "timestamp": [START + hour * 3600 for hour in (0, 1, 100, 5, 6, 50)],
    }
    return Dataset.from_frame(pl.DataFrame(table | columns), rating_scale=(1.0, 5.0))


def fitted(data: Dataset, config: SVDppConfig = CONFIG, epochs: int = 3) -> SVDpp:
    model = SVDpp(config, data.spec)
    model.fit(data, replace(TRAINING, epochs=epochs))
    return model


def everyone(data: Dataset) -> Queries:
    return data.queries(np.arange(data.n_users), data.spec)


@torch.no_grad()
def by_hand(model: SVDpp, user: int, history: list[int], item: int) -> float:
    taste = model.user.weight[user].clone()
    for j in history:
        taste += model.implicit.weight[j] / len(history) ** 0.5
    biases = model.bias + model.user_bias.weight[user, 0] + model.item_bias.weight[item, 0]
    return float(biases + model.item.weight[item] @ taste)


def test_score_and_prediction_are_the_formula() -> None:
    data = small()
    model = fitted(data)
    scores = model.score(everyone(data))
    histories = [[0, 1, 2], [1, 3], [0]]
    expected = [[by_hand(model, u, history, i) for i in range(4)] for u, history in enumerate(histories)]
    torch.testing.assert_close(scores, torch.tensor(expected))
    row, item = torch.tensor([2, 0, 1]), torch.tensor([3, 0, 2])
    wanted = torch.tensor(expected)[row, item].clamp(1, 5)
    torch.testing.assert_close(model.predict(everyone(data), item, row), wanted)


def test_the_loss_is_the_formula() -> None:
    data, config = small(), replace(CONFIG, bias_reg=0.3, reg_power=0.5)
    model = fitted(data, config)
    with torch.no_grad():
        for table in (model.user_bias, model.item_bias):
            table.weight.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    context = model.fit_context(data, CompleteTraining())
    [batch] = model.batches(context, torch.Generator().manual_seed(1), 100)
    assert data.rating is not None
    histories, counts, popular = [[0, 1, 2], [1, 3], [0]], [3, 2, 1], [2, 2, 1, 1]
    total = error = 0.0
    with torch.no_grad():
        for u, i, r in zip(data.user.tolist(), data.item.tolist(), data.rating.tolist(), strict=True):
            error += (r - by_hand(model, u, histories[u], i)) ** 2
            p, q, y = model.user.weight, model.item.weight, model.implicit.weight
            b_u, b_i = float(model.user_bias.weight[u]), float(model.item_bias.weight[i])
            total += (0.4 * float(p[u].square().sum()) + 0.3 * b_u**2) * counts[u] ** -0.5
            total += (0.4 * float(q[i].square().sum()) + 0.3 * b_i**2) * popular[i] ** -0.5
            for j in histories[u]:
                total += 0.4 * float(y[j].square().sum()) * popular[j] ** -0.5 / len(histories[u])
    found = model.loss(batch, context)
    assert found.shown.item() == pytest.approx(error / 6, rel=1e-4)
    assert found.objective.item() == pytest.approx((error + total) / 6, rel=1e-4)


def test_what_is_judged_is_in_no_history() -> None:
    parts = planted().train.split("random", valid=0.2, test=0.2, seed=1)
    model = fitted(parts.train)
    validator = Validator(parts.valid, model)
    context = model.fit_context(validator._known, CompleteTraining())
    batches = list(model.batches(context, torch.Generator().manual_seed(0), 64))
    assert sum(map(len, batches)) == len(validator._known)
    trained = {(u, i) for u, i in zip(parts.train.user.tolist(), parts.train.item.tolist(), strict=True)}
    for batch in batches:
        assert isinstance(batch, RatingBatch)
        own = {int(p): int(u) for p, u in zip(batch.user_row, batch.user, strict=True)}
        for row, user in own.items():
            assert {(user, int(i)) for i in batch.histories[row]} <= trained


def test_a_rating_that_is_judged_decides_nothing_but_its_error() -> None:
    """Other ratings and times in the test part leave the predictions of the rest as they were."""
    parts = planted().train.split("random", valid=0.2, test=0.2, seed=1)
    model = fitted(parts.train, replace(CONFIG, time=True))
    assert parts.test.rating is not None
    one = evaluate(model, parts.test, ["rmse"])["rmse"].value
    other = parts.test.rating.copy()
    other[0] = 6 - other[0] if other[0] != 3 else 1.0
    moved = evaluate(model, replace(parts.test, rating=other), ["rmse"])["rmse"].value
    queries = parts.test.queries(parts.test.active_users, model.spec)
    asked_at = torch.full((len(queries),), int(parts.test.timestamp[0]))  # type: ignore[index]
    item = torch.from_numpy(parts.test.item[:1]).long()
    prediction = model.predict(replace(queries, asked_at=asked_at), item, torch.tensor([0]))
    change = (float(prediction) - other[0]) ** 2 - (float(prediction) - parts.test.rating[0]) ** 2
    assert moved**2 - one**2 == pytest.approx(float(change) / len(parts.test), rel=1e-3)


def test_it_beats_plain_factorization_where_the_choice_tells_the_taste() -> None:
    """What people rate, and not how, says of which of two kinds they are; a third group of items divides the kinds."""
    rng = np.random.default_rng(3)
    kind, side = rng.integers(0, 2, 150), rng.choice([-1.2, 1.2], 20)
    rows = []
    for user, mine in enumerate(kind):
        rows += [(user, 20 + 30 * mine + i, 3 + rng.normal()) for i in rng.choice(30, 8, replace=False)]
        rows += [(user, i, 3 + (2 * mine - 1) * side[i] + 0.5 * rng.normal()) for i in rng.choice(20, 3, replace=False)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    frame = frame.with_columns(pl.col("rating").clip(1, 5))
    parts = Dataset.from_frame(frame, rating_scale=(1.0, 5.0)).split("random", valid=0.1, test=0.2)

    def error(model: MF | SVDpp) -> float:
        model.fit(parts.train, replace(TRAINING, epochs=40), Validator(parts.valid, model, "rmse"))
        return evaluate(model, parts.test, ["rmse"])["rmse"].value

    plain = error(MF(MFConfig(loss="mse", dim=4, init=0.1, reg=0.4, bias_reg=0.5, reg_power=0.5), parts.train.spec))
    assert error(SVDpp(CONFIG, parts.train.spec)) < 0.95 * plain


def test_a_stranger_with_a_known_history_is_answered_like_its_owner() -> None:
    data = planted().train
    model = fitted(data, epochs=30)
    known = everyone(data)
    strangers = Queries(torch.full_like(known.user, -1), known.history, known.ratings)
    apart = model.score(known) - model.score(strangers)
    assert float(apart.square().mean().sqrt()) < 0.35 * float(model.score(known).std())
    unrated = Queries(strangers.user, strangers.history)
    assert bool(model.score(unrated).isfinite().all())


def test_without_times_only_the_time_part_is_refused() -> None:
    data = replace(planted().train, timestamp=None)
    with pytest.raises(DataError, match=r"needs time, which this data lacks.*without times leave `time` off"):
        fitted(data, replace(CONFIG, time=True))
    fitted(data)


def test_sessions_bins_and_drift_by_hand() -> None:
    day = [0, 0.2, 3, 9, 9.5, 1, 1.1]
    data = Dataset.from_frame(
        pl.DataFrame(
            {
                "user_id": [0] * 5 + [1] * 2,
                "item_id": [0, 1, 2, 3, 0, 1, 2],
                "rating": [3.0] * 7,
                "timestamp": [START + int(d * DAY) for d in day],
            }
        )
    )
    effects = TimeEffects(data.spec, bins=2, sessions=2)
    effects.init_from_data(data)
    # User 0 has sittings on days 0, 3 and 9; the third is part of the second, as there is room for two.
    when = torch.tensor([START + int(d * DAY) for d in (-1, 0.1, 1.1, 5, 10, 11, 1.05, 0.5)])
    user = torch.tensor([0, 0, 0, 0, 0, 0, 1, -1])
    cells = effects.cells(user, torch.zeros_like(user), when)
    assert cells.session.tolist() == [-1, 0, 0, 1, 1, -1, 2, -1]
    assert cells.item.tolist() == [0, 0, 0, 1, 1, 1, 0, 0]  # day 1 and what comes before is the first half
    middle = sum(day[:5]) / 5

    def drift(days: list[float]) -> np.ndarray:
        apart = np.array(days) - middle
        return np.sign(apart) * np.abs(apart) ** 0.4

    usual = drift(day[:5]).mean()
    np.testing.assert_allclose(cells.drift[:6], [usual, *drift([0.1, 1.1, 5, 10]), usual], atol=1e-3)
    assert float(cells.drift[7]) == 0
    # Where there is no session, the mean over the user's rows.
    with torch.no_grad():
        effects.session.weight.copy_(torch.tensor([[1.0], [2.0], [4.0], [0.0]]))
        found = effects(cells)
    assert found.tolist() == pytest.approx([2 / 5 * 1 + 3 / 5 * 2, 1, 1, 2, 2, 2 / 5 * 1 + 3 / 5 * 2, 4, 0])


def test_the_effects_of_time_are_part_of_the_prediction() -> None:
    data = small()
    model = fitted(data, replace(CONFIG, time=True, item_bins=2, sessions=3))
    assert model.time is not None
    with torch.no_grad():
        for table in (model.time.session, model.time.item, model.time.drift):
            table.weight.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(2))
    queries, item = everyone(data), torch.tensor([1])
    for row, history in enumerate([[0, 1, 2], [1, 3], [0]]):
        for hour in (0, 5, 50, 100, 1000):
            time = torch.tensor([START + hour * 3600])
            cells = model.time.cells(torch.tensor([row]), item, time)
            effect = model.time.item.weight[cells.item] + model.time.drift.weight[row] * cells.drift
            if int(cells.session) >= 0:
                effect = effect + model.time.session.weight[cells.session]
            else:
                effect = effect + model.time.session_share[row] @ model.time.session.weight.view(3, 3)[row]
            expected = by_hand(model, row, history, 1) + effect.item()
            found = model.predict(replace(queries, asked_at=time.expand(3)), item, torch.tensor([row]))
            assert float(found) == pytest.approx(min(max(expected, 1), 5), abs=1e-5)
    row = torch.zeros(4, dtype=torch.int64)
    at_end = replace(queries, asked_at=torch.full((3,), int(data.timestamp.max())))  # type: ignore[union-attr]
    early = replace(queries, asked_at=torch.full((3,), START))
    for asked in (queries, at_end, early):
        scores = model.score(asked)[0].clamp(1, 5)
        torch.testing.assert_close(scores, model.predict(asked, torch.arange(4), row), atol=1e-5, rtol=0)
    assert torch.equal(model.score(queries), model.score(at_end))
    assert not torch.equal(model.score(queries), model.score(early))


def test_the_times_of_a_history_are_part_of_its_fold_in() -> None:
    """An item that was better in its time than it is now: a high rating of then says less about the user."""
    data = small()
    model = fitted(data, replace(CONFIG, time=True, item_bins=2, sessions=3))
    assert model.time is not None
    with torch.no_grad():
        model.time.item.weight.zero_()
        model.time.item.weight[0] = 1.0  # item 0, first half
    history, ratings = Ragged.of([[0, 1]]), torch.tensor([5.0, 3.0])
    queries = Queries(torch.tensor([-1]), history, ratings)
    then, now = (torch.tensor([START + hours * 3600] * 2) for hours in (0, 100))
    folded = [model._fold_in(replace(queries, times=times)) for times in (then, now, None)]
    torch.testing.assert_close(folded[0], model._fold_in(replace(queries, times=now, ratings=torch.tensor([4.0, 3.0]))))
    assert not torch.allclose(folded[0], folded[1])
    torch.testing.assert_close(folded[1], folded[2])  # without times: the history is as new as the question


def test_a_fresh_history_is_folded_in() -> None:
    data = small()
    model = fitted(data, replace(CONFIG, time=True, item_bins=2, sessions=3))
    queries = replace(everyone(data), fresh=torch.tensor([True, False, False]))
    strangers = replace(queries, user=torch.tensor([-1, 1, 2]), fresh=None)
    torch.testing.assert_close(model.score(queries), model.score(strangers))
    assert not torch.allclose(model.score(queries)[0], model.score(everyone(data))[0])


def test_one_seed_gives_the_same_weights_with_two_threads() -> None:
    """In batches this large torch uses all threads, and then the gradient of an index adds up in no fixed order."""
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, (300, 200), (12_000, 2)), axis=0)
    frame = pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1], "rating": rng.normal(3, 1, len(pairs))})
    data, threads = Dataset.from_frame(frame), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        states = []
        for _ in range(3):
            model = SVDpp(SVDppConfig(dim=64), data.spec)
            model.fit(data, Training(epochs=1, batch_size=4096, lr=0.05))
            states.append(model.state_dict())
    finally:
        torch.set_num_threads(threads)
    for again in states[1:]:
        assert [name for name, tensor in again.items() if not torch.equal(tensor, states[0][name])] == []


def test_it_learns_what_time_does() -> None:
    """Items that are better in the second half of the time, and people who are kinder on some days."""
    rng = np.random.default_rng(4)
    user, item = np.divmod(rng.choice(80 * 30, 1400, replace=False), 30)
    sitting = rng.integers(0, 4, len(user))
    time = START + (sitting * 30 + user % 7) * DAY + rng.integers(0, 3600, len(user))
    mood, turn = rng.normal(size=(80, 4)), rng.choice([-1.0, 1.0], 30)
    rating = 3 + 0.7 * mood[user, sitting] + 0.5 * turn[item] * (sitting >= 2) + 0.2 * rng.normal(size=len(user))
    frame = pl.DataFrame({"user_id": user, "item_id": item, "rating": np.clip(rating, 1, 5), "timestamp": time})
    parts = Dataset.from_frame(frame, rating_scale=(1.0, 5.0)).split("random", valid=0, test=0.2)
    errors = {}
    for timed in (False, True):
        model = fitted(parts.train, replace(CONFIG, time=timed, item_bins=4, time_reg=1.0), epochs=30)
        errors[timed] = evaluate(model, parts.test, ["rmse"])["rmse"].value
    assert errors[True] < 0.75 * errors[False]


def test_an_empty_history_and_an_unknown_person() -> None:
    model = fitted(small())
    queries = Queries(torch.tensor([0, -1]), Ragged.empty(2))
    assert float(model.score(queries)[0, 2]) == pytest.approx(by_hand(model, 0, [], 2), abs=1e-6)
    assert torch.equal(model.score(queries)[1], model.fallback.popularity)
