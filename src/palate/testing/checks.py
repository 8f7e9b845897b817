"""The promises of every model, one function each.

Legend: B queries, N items, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import torch
from torch import Tensor

from palate.config import from_dict, to_dict
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import ArtifactError, CannotAnswer, DataError
from palate.evaluation.validate import Validator
from palate.models.base import GradientModel, Model
from palate.models.buffers import check_tensors
from palate.testing.case import BRIEF, Case, planted, planted_with_new, unknown

NEEDS = frozenset({"interactions", "rating", "time", "item_features", "user_features", "item_text", "item_image"})
ANSWERS = frozenset({"known_user", "history", "new_item", "new_user", "similar_items", "rating"})


@cache
def _fitted(case: Case) -> Model:
    return case.fit(epochs=case.training.epochs)


def _demand(promise: bool, broken: str) -> None:
    if not promise:
        raise AssertionError(broken)


def _close(left: Tensor, right: Tensor, broken: str) -> None:
    """Assert equality up to rounding: sums may be taken in another order."""
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3, msg=lambda how: f"{broken}\n{how}")


def shape_and_type(case: Case) -> None:
    """Scores are float32 `[B, N]` and finite, for unknown users too; predictions are finite and within the scale."""
    model = _fitted(case)
    for queries in (case.known(model), case.mixed(model)):
        scores = model.score(queries)
        _demand(scores.shape == (len(queries), case.train.n_items), f"scores have shape {tuple(scores.shape)}")
        _demand(scores.dtype == torch.float32, f"scores are {scores.dtype}, not float32")
        _demand(bool(scores.isfinite().all()), "a score is not finite")
        if "rating" in model.answers:
            predictions = model.predict(queries, torch.zeros(len(queries), dtype=torch.int64))
            _demand(predictions.dtype == torch.float32, f"predictions are {predictions.dtype}, not float32")
            _in_scale(model, predictions)


def _in_scale(model: Model, predictions: Tensor) -> None:
    _demand(bool(predictions.isfinite().all()), "a prediction is not finite")
    if model.spec.rating_scale is not None:
        low, high = model.spec.rating_scale
        _demand(bool(((predictions >= low) & (predictions <= high)).all()), "a prediction is outside the rating scale")


def deterministic(case: Case) -> None:
    """The same query gets the same scores, and changing the returned tensor does not change the model."""
    model = _fitted(case)
    for queries in (case.known(model), case.mixed(model), unknown(case.mixed(model))):
        first = model.score(queries)
        kept = first.clone()
        first.fill_(-torch.inf)
        _demand(torch.equal(model.score(queries), kept), "two calls of score differ")


def batch_size(case: Case) -> None:
    """Scores do not depend on the other queries in the batch."""
    model = _fitted(case)
    queries = case.mixed(model)
    alone = torch.cat([model.score(queries.take(torch.tensor([row]))) for row in range(len(queries))])
    _close(model.score(queries), alone, "scores depend on the batch")
    if "rating" in model.answers:
        item = torch.arange(len(queries))
        singly = [model.predict(queries.take(item[[row]]), item[[row]]) for row in range(len(queries))]
        _close(model.predict(queries, item), torch.cat(singly), "predictions depend on the batch")
        order = item.flip(0)
        _close(model.predict(queries, item[order], order), torch.cat(singly).flip(0), "`row` is not honoured")


def row_order(case: Case) -> None:
    """The order of the input rows does not change the model; without times, this holds for closed-form models of sets.

    Without times, models that read order (`reads_repeats`) take that of the input.
    """
    of_sets = not issubclass(case.model, GradientModel) and not case.new().reads_repeats
    for timed in (True, False) if of_sets else (True,):
        frame = case.train.frame() if timed or "time" in case.new().needs else case.train.frame().drop("timestamp")
        frame = frame.unique(["user_id", "timestamp"], maintain_order=True) if timed else frame  # no ties
        models = []
        for rows in (frame, frame.sample(fraction=1.0, shuffle=True, seed=1)):
            tables = (case.train.item_table, case.train.user_table)
            data = Dataset.from_frame(rows, *tables, rating_scale=case.train.rating_scale)
            models.append(case.fit(data))
        left, right = (model.score(data.queries(np.arange(data.n_users), model.spec)) for model in models)
        _close(left, right, "the order of the input rows changes the model")


def one_seed(case: Case) -> None:
    """Equal seeds give bit-equal weights; different seeds give different weights of gradient models."""
    first, again, other = (case.fit(seed=seed) for seed in (1, 1, 2))
    state = again.state_dict()
    for name, tensor in first.state_dict().items():
        _demand(torch.equal(tensor, state[name]), f"{name} differs between two fits with one seed")
    if issubclass(case.model, GradientModel):
        same = [torch.equal(tensor, other.state_dict()[name]) for name, tensor in first.state_dict().items()]
        _demand(not all(same), "the seed has no effect")


def round_trip(case: Case) -> None:
    """Config, spec and `state_dict` restore the whole model."""
    model = _fitted(case)
    config = from_dict(type(model.config), to_dict(model.config))
    _demand(config == model.config, f"the config comes back as {config}")
    copy = case.model(config, model.spec)
    copy.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    copy.eval()
    copy.refresh()
    queries = case.mixed(model)
    _demand(bool((copy.score(queries) == model.score(queries)).all()), "a reloaded model scores differently")
    if "rating" in model.answers:
        item = torch.arange(len(queries))
        same = copy.predict(queries, item) == model.predict(queries, item)
        _demand(bool(same.all()), "a reloaded model predicts differently")


def needs_honoured(case: Case) -> None:
    """A model fits on data with exactly what it needs, and names what is missing otherwise."""
    needs = case.new().needs
    _demand(needs <= NEEDS and "interactions" in needs, f"needs = {sorted(needs)}; known are {sorted(NEEDS)}")
    case.fit(_only(case.train, needs))
    for need in needs - {"interactions"}:
        model, poor = case.new(), _only(case.train, needs - {need})
        try:
            model.fit(poor, replace(case.training, epochs=1))
        except DataError as error:
            _demand(need in str(error), f"the error does not name {need}: {error}")
        else:
            raise AssertionError(f"fitted without {need}, which it needs")


def _only(data: Dataset, needs: frozenset[str]) -> Dataset:
    items = data.item_table if needs & {"item_features", "item_text", "item_image"} else None
    return replace(
        data,
        rating=data.rating if "rating" in needs else None,
        timestamp=data.timestamp if "time" in needs else None,
        item_table=items,
        user_table=data.user_table if "user_features" in needs else None,
    )


def answers_honoured(case: Case) -> None:
    """Questions in `answers` are answered by the model; others are refused or answered by popularity."""
    model = _fitted(case)
    _demand(model.answers <= ANSWERS, f"answers = {sorted(model.answers)}; known are {sorted(ANSWERS)}")
    item = torch.zeros(1, dtype=torch.int64)
    if "rating" not in model.answers:
        try:
            model.predict(case.known(model).take(item), item)
        except CannotAnswer:
            pass
        else:
            raise AssertionError("predict answered although rating is not in answers")
    strangers = unknown(case.known(model))
    scores = model.score(strangers)
    if "history" not in model.answers:
        _demand(torch.equal(scores, model.fallback.score(strangers)), "histories are not answered by popularity")
    elif not case.popular:
        _demand(bool((scores[:1] != scores).any()), "all histories get the same scores")
    vectors = model.item_vectors()
    if vectors is not None:
        _demand("similar_items" in model.answers, "has item_vectors, but similar_items is not in answers")
        _demand(vectors.ndim == 2 and len(vectors) == case.train.n_items, f"item_vectors: {tuple(vectors.shape)}")
        _demand(bool(vectors.isfinite().all()), "an item vector is not finite")


def strangers(case: Case) -> None:
    """Unknown users without a history get popularity."""
    model = _fitted(case)
    queries = Queries(torch.tensor([-1, -1]), Ragged.empty(2))
    scores = model.score(queries)
    counts = torch.from_numpy(case.train.item_counts).float().expand_as(scores)
    _demand(torch.equal(scores, counts), "an unknown user without a history does not get popularity")


def new_items(case: Case) -> None:
    """New items and users get predictions too; for a new item of a new user, the mean is predicted."""
    model = _fitted(case)
    if "rating" not in model.answers:
        return
    queries = Queries(torch.tensor([0, 0, -1, -1]), Ragged.empty(4))
    predictions = model.predict(queries, torch.tensor([-1, 3, -1, 3]))
    _in_scale(model, predictions)
    _demand(bool((predictions[2] - model.fallback.mean).abs() < 1e-4), "a new item of a new user does not get the mean")


def beats_popularity(case: Case) -> None:
    """Held-out choices rank above equally popular items, for users and histories; ratings beat the mean rating."""
    model, test = _fitted(case), case.parts.test
    queries = case.known(model)
    if not case.popular:
        popular = _found(case, model.fallback.score(queries))
        for name, asked in (("known_user", queries), ("history", unknown(queries))):
            found = _found(case, model.score(asked)) if name in model.answers else 1.0
            _demand(found > popular + 0.05, f"{name}: {found:.3f}, popularity {popular:.3f}")
    if "rating" in model.answers and test.rating is not None:
        user, item = (torch.from_numpy(column.astype(np.int64)) for column in (test.user, test.item))
        error = model.predict(queries, item, user) - torch.from_numpy(test.rating)
        of_mean = torch.from_numpy(test.rating) - model.fallback.mean
        found, mean = (float(e.square().mean().sqrt()) for e in (error, of_mean))
        _demand(found < 0.95 * mean, f"rmse {found:.3f}; the mean rating has {mean:.3f}")


def _found(case: Case, scores: Tensor) -> float:
    """Probability that a held-out choice of a user ranks above one of another user that this user never chose.

    Both are equally popular on average, so popularity gets about 0.5, and only personal scores get more.
    """
    test = case.parts.test
    chosen = torch.zeros_like(scores)
    for part in (case.train, test):
        chosen[torch.from_numpy(part.user).long(), torch.from_numpy(part.item).long()] = 1
    user, item = torch.from_numpy(test.user).long(), torch.from_numpy(test.item).long()
    mine_P1, all_PN = scores[user, item].unsqueeze(1), scores[user]
    below_PN = (all_PN < mine_P1).float() + (all_PN == mine_P1).float() / 2
    weight_PN = (1 - chosen[user]) * torch.from_numpy(test.item_counts).float()
    return float(((below_PN * weight_PN).sum(1) / weight_PN.sum(1)).nanmean())


def second_fit(case: Case) -> None:
    """A second fit starts from scratch."""
    rows = np.arange(len(case.train))
    one, other = (case.train.take(rows[rows % 2 == half]) for half in (0, 1))
    twice = case.fit(one)
    twice.fit(other, replace(case.training, epochs=BRIEF))
    fresh = case.fit(other).state_dict()
    for name, tensor in twice.state_dict().items():
        _demand(torch.equal(tensor, fresh[name]), f"{name} keeps something of the first fit")


def random_state(case: Case) -> None:
    """Fitting and scoring leave the global generators of torch and numpy unchanged."""
    model = case.new()
    before = torch.get_rng_state(), _numpy_state()
    model.fit(case.train, replace(case.training, epochs=1))
    model.score(case.mixed(model))
    _demand(torch.equal(before[0], torch.get_rng_state()), "torch's global generator was used")
    _demand(bool((before[1] == _numpy_state()).all()), "numpy's global generator was used")


def _numpy_state() -> np.ndarray:
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return np.append(state["key"], state["pos"])  # a draw moves the position; the key changes after 624 draws


def small_data(case: Case) -> None:
    """One user, one item, one row, and ratings that are all equal: finite scores, predictions in scale."""
    train = case.train
    first = train.user == 0
    alone = train.take(first).frame()
    same_item = train.take(train.item == train.item[0]).frame()
    equal = train.frame().head(200).with_columns(rating=pl.lit(4.0))
    for frame in (alone, same_item, alone.head(1), equal):
        data = Dataset.from_frame(frame, train.item_table, train.user_table)
        model = case.fit(data, epochs=1)
        queries = data.queries(np.arange(data.n_users), model.spec)
        for asked in (queries, unknown(queries)):
            _demand(bool(model.score(asked).isfinite().all()), f"{len(data)} rows: a score is not finite")
            if "rating" in model.answers:
                _in_scale(model, model.predict(asked, torch.zeros(len(asked), dtype=torch.int64)))


def validated(case: Case) -> None:
    """Training with a validation part that holds new users and new items chooses an epoch and ends normally."""
    parts = planted_with_new() if case.parts is planted() else case.parts
    valid = parts.valid if len(parts.valid) else parts.test
    model = case.new(parts.train)
    validator = Validator(valid, model)
    records = model.fit(parts.train, replace(case.training, epochs=BRIEF), validator)
    for record in records:
        _demand(bool(np.isfinite(record.loss)), "the training loss is not finite")
        _demand(all(np.isfinite(value) for value in record.valid.values()), f"a validation value: {record.valid}")
    _demand(bool(np.isfinite(validator(model)[validator.metric])), "the validator fails after training")
    if isinstance(model, GradientModel):
        _demand(any(record.best for record in records), "no epoch was chosen")
        _demand(model.loss_name != "loss", "loss_name does not say what the loss curves show")


def more_items(case: Case) -> None:
    """A model that scores new items takes them, leaves known items' scores alone and lists the new ones."""
    parts = planted_with_new() if case.parts is planted() else case.parts
    model = case.new(parts.train)
    features = model.spec.item_features
    if "new_item" not in model.answers or features is None or case.parts is not planted():
        return
    model.fit(parts.train, replace(case.training, epochs=BRIEF))
    queries = parts.train.queries(np.arange(12), model.spec)
    before = model.score(queries)
    new = parts.valid.encoded_items(features).take(torch.arange(parts.train.n_items, parts.valid.n_items))
    larger = model.with_items(new)
    scores = larger.score(queries)
    _demand(scores.shape == (12, parts.valid.n_items), f"scores have shape {tuple(scores.shape)} with new items")
    _demand(bool(scores.isfinite().all()), "a new item's score is not finite")
    _close(scores[:, : parts.train.n_items], before, "new items change the scores of known ones")
    alone = torch.cat([larger.score(queries.take(torch.tensor([row]))) for row in range(12)])
    _close(scores, alone, "scores with new items depend on the batch")
    _demand(torch.equal(model.score(queries), before), "with_items changed the model it was called on")


def weights(case: Case) -> None:
    """Sample weights are used, or refused by name; weights that are all 1 change nothing."""
    train = case.train
    some = np.where(train.item % 2, 1.0, 5.0).astype(np.float32)
    weighted = replace(train, weight=some)
    if not case.new().uses_weights:
        try:
            case.fit(weighted)
        except DataError as error:
            _demand("weight" in str(error), f"the error does not name the weights: {error}")
        else:
            raise AssertionError("weights were ignored without a word")
        return
    queries = case.known(case.new())
    plain, ones, other = (case.fit(replace(train, weight=w)) for w in (None, np.ones_like(some), some))
    _close(ones.score(queries), plain.score(queries), "weights of 1 change the model")
    same = torch.allclose(other.score(queries), plain.score(queries), rtol=1e-4, atol=1e-5)
    _demand(not same, "weights change nothing, although uses_weights is set")


def fresh_history(case: Case) -> None:
    """A known user with a newer history is answered from it, if the model reads histories."""
    model = _fitted(case)
    queries = case.known(model).take(torch.arange(8))
    fresh = replace(queries, fresh=torch.ones(8, dtype=torch.bool))
    scores = model.score(fresh)
    _demand(bool(scores.isfinite().all()), "a score for a fresh history is not finite")
    if "history" not in model.answers:
        _close(scores, model.score(queries), "a model that reads no histories answers a fresh one differently")
    elif not case.popular:
        history = queries.history
        newest = torch.arange(1, len(history.values) + 1) == history.offsets[1:][history.row_of_value]
        _demand(not torch.equal(model.score(fresh.keep(~newest)), scores), "the fresh history decides nothing")


def loaded(case: Case) -> None:
    """A loaded model needs no data to be refreshed, and then scores as before."""
    model = _fitted(case)
    queries = case.mixed(model)
    before = model.score(queries)
    copy = case.model(model.config, model.spec)
    copy.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    copy.eval()
    copy.refresh()
    _demand(torch.equal(copy.score(queries), before), "a loaded model scores differently after refresh")


def checked_tensors(case: Case) -> None:
    """Numbers that no fit gives are refused after loading: NaN, infinity, and whole numbers out of range."""
    model = _fitted(case)
    copy = case.model(model.config, model.spec)
    copy.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    check_tensors(copy)
    for name, tensor in copy.state_dict().items():
        if tensor.dtype == torch.bool or not tensor.numel():
            continue
        bounds = torch.iinfo(tensor.dtype) if not tensor.is_floating_point() else None
        flat = tensor.view(-1)
        for place in (0, len(flat) - 1):
            before = flat[place].clone()
            for value in (torch.nan, torch.inf) if bounds is None else (bounds.min, bounds.max):
                flat[place] = value
                try:
                    check_tensors(copy)
                except ArtifactError:
                    pass
                else:
                    raise AssertionError(f"{name} may hold {value}: write `check_buffers` (palate.models.buffers)")
            flat[place] = before


CHECKS: dict[str, Callable[[Case], None]] = {
    check.__name__: check
    for check in (
        shape_and_type,
        deterministic,
        batch_size,
        row_order,
        one_seed,
        round_trip,
        needs_honoured,
        answers_honoured,
        strangers,
        new_items,
        beats_popularity,
        second_fit,
        random_state,
        small_data,
        validated,
        more_items,
        weights,
        fresh_history,
        loaded,
        checked_tensors,
    )
}


def golden(case: Case) -> tuple[float, float]:
    """Training loss of the first two epochs of a gradient model; if it changes, what is learned has changed."""
    records = case.new().fit(case.train, replace(case.training, epochs=2))
    first, second = (record for record in records if record.member == records[-1].member)
    return first.loss, second.loss
