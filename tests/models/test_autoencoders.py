"""Autoencoders of interactions and AutoRec: losses against dense arithmetic, loss curves, sample weights, stages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from palate.config import CompleteTraining, Training
from palate.data.dataset import Dataset, Queries
from palate.data.splits.build import Split
from palate.evaluation.validate import Validator
from palate.models.autoencoders.autorec import AutoRecConfig, IAutoRec, RatingAutoencoder, UAutoRec
from palate.models.autoencoders.cdae import CDAE, CDAEConfig
from palate.models.autoencoders.layers import HistoryLayer, multinomial_loss, multinomial_nll
from palate.models.autoencoders.multvae import MultDAE, MultDAEConfig, MultVAE, MultVAEConfig
from palate.models.autoencoders.ratings import RatingRows
from palate.models.autoencoders.recvae import RecVAE, RecVAEConfig
from palate.models.autoencoders.sparsefc import SparseFC, SparseFCConfig
from palate.models.base import GradientModel
from palate.testing import planted
from palate.training.batches import Histories, histories
from palate.training.loop import FitContext

SETTINGS = CompleteTraining()
SMALL: dict[str, tuple[type[GradientModel], object, Training]] = {
    "cdae": (CDAE, CDAEConfig(dim=16), Training(epochs=8, batch_size=32, lr=0.01)),
    "multdae": (MultDAE, MultDAEConfig(dim=16), Training(epochs=8, batch_size=64, lr=0.005)),
    "multvae": (MultVAE, MultVAEConfig(hidden=32, dim=8), Training(epochs=8, batch_size=64, lr=0.005)),
    "recvae": (RecVAE, RecVAEConfig(hidden=32, dim=8), Training(epochs=8, batch_size=64, lr=0.005)),
    "u-autorec": (UAutoRec, AutoRecConfig(dim=16, reg=5.0), Training(epochs=8, batch_size=32, lr=0.01)),
    "i-autorec": (IAutoRec, AutoRecConfig(dim=16, reg=5.0), Training(epochs=8, batch_size=32, lr=0.01)),
    "sparsefc": (SparseFC, SparseFCConfig(dim=16, dropout=0.2), Training(epochs=8, batch_size=32, lr=0.01)),
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(5)
    pairs = np.unique(rng.integers(0, (30, 20), (260, 2)), axis=0)
    rating = rng.integers(1, 6, len(pairs)).astype(np.float32)
    return Dataset.from_frame(pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1], "rating": rating}))


@pytest.fixture(scope="module")
def parts() -> Split:
    return planted().train.split("random", valid=0.2, test=0.01)


def everyone(data: Dataset) -> Queries:
    return data.queries(np.arange(data.n_users), data.spec)


def multi_hot(data: Dataset) -> torch.Tensor:
    hot = torch.zeros(data.n_users, data.n_items)
    hot[torch.from_numpy(data.user).long(), torch.from_numpy(data.item).long()] = 1
    return hot


def one_batch(data: Dataset) -> Histories:
    (batch,) = histories(data, torch.Generator().manual_seed(0), 10_000)
    return batch


def weighted(data: Dataset, seed: int = 1) -> Dataset:
    """The data with weights of 1, 2 and 3."""
    return replace(data, weight=np.random.default_rng(seed).integers(1, 4, len(data)).astype(np.float32))


def repeated(data: Dataset) -> Dataset:
    """The same data with each row repeated as often as its weight says."""
    assert data.weight is not None
    return replace(data.take(np.repeat(np.arange(len(data)), data.weight.astype(int))), weight=None)


@pytest.mark.parametrize("with_weights", [False, True])
def test_multinomial_nll_is_the_weighted_log_likelihood(data: Dataset, with_weights: bool) -> None:
    scores = torch.randn(data.n_users, data.n_items, generator=torch.Generator().manual_seed(1))
    scores.requires_grad_()
    data = weighted(data) if with_weights else data
    weight = None if data.weight is None else torch.from_numpy(data.weight)
    hot = multi_hot(data)
    hot[torch.from_numpy(data.user).long(), torch.from_numpy(data.item).long()] = 1.0 if weight is None else weight
    factor = torch.linspace(-1, 2, data.n_users)  # a different gradient for each row
    expected = -(hot * torch.log_softmax(scores, dim=1)).sum(1)
    (wanted,) = torch.autograd.grad((expected * factor).sum(), scores)
    found = multinomial_nll(scores, data.histories, weight)
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad((found * factor).sum(), scores)
    torch.testing.assert_close(slope, wanted)


def test_multinomial_loss_minimises_a_sum_for_each_user_and_shows_a_mean_over_items(data: Dataset) -> None:
    batch = one_batch(weighted(data))
    scores = torch.randn(len(batch), data.n_items, generator=torch.Generator().manual_seed(1))
    nll = multinomial_nll(scores, batch.target, batch.target_weight)
    loss = multinomial_loss(scores, batch, torch.full((len(batch),), 3.0))
    assert batch.target_weight is not None
    torch.testing.assert_close(loss.objective, nll.mean() + 3)
    torch.testing.assert_close(loss.shown, nll.sum() / batch.target_weight.sum())


def test_the_history_layer_is_a_dense_layer_on_normalised_rows(data: Dataset) -> None:
    layer = HistoryLayer(data.n_items, 7)
    rows = torch.nn.functional.normalize(multi_hot(data), dim=1)
    torch.testing.assert_close(layer(data.histories), rows @ layer.weight + layer.bias)


def test_dropout_leaves_out_items_and_scales_up_the_rest(data: Dataset) -> None:
    layer = HistoryLayer(data.n_items, 7)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        drawn = torch.stack([layer(data.histories, 0.5) for _ in range(3000)])
    assert float(drawn.std(0).mean()) > 0.01
    torch.testing.assert_close(drawn.mean(0), layer(data.histories).detach(), atol=0.05, rtol=0.1)


def test_noise_is_small_at_first(data: Dataset) -> None:
    torch.manual_seed(0)  # else what other tests left
    model = MultVAE(MultVAEConfig(dim=200), data.spec)
    model.init_from_data(data)
    hidden = torch.tanh(model.encoder(data.histories))
    mean, log_var = model.latent(hidden).detach().chunk(2, dim=1)
    assert float((log_var + 4).abs().max()) < 1.0
    assert float(mean.abs().max()) < 1.0
    widths = [(len(layer.weight), layer.weight.shape[1]) for layer in (model.latent, model.hidden, model.decoder)]
    assert widths == [(400, 600), (600, 200), (data.n_items, 600)]
    for layer, (out, into) in zip((model.latent, model.hidden, model.decoder), widths, strict=True):
        bound = math.sqrt(6 / (out + into))
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound


def test_the_kl_weight_rises_over_its_share_of_the_updates(data: Dataset) -> None:
    model = MultVAE(MultVAEConfig(hidden=8, dim=4, beta=0.6, anneal=0.5, dropout=0.0), data.spec)
    model.fit(data, Training(epochs=6, batch_size=10))
    assert int(model.updates) == 18  # 3 batches, 6 epochs
    context = model.fit_context(data, replace(SETTINGS, epochs=6, batch_size=10))
    assert context.anneal_steps == pytest.approx(9.0)
    batch, penalties = one_batch(data), []
    model.train()
    for updates in (0, 3, 8, 17):
        model.updates.fill_(updates)
        loss = model.loss(batch, context)
        penalties.append(loss.objective.item() - loss.shown.item() * len(batch.target.values) / len(batch))
    with torch.no_grad():
        mean, log_var = model._encode(batch.history)
    normal = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    full = 0.6 * float(torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1).mean())
    assert penalties == pytest.approx([full / 9, full * 4 / 9, full, full], rel=1e-2)


def test_multvae_answers_with_the_mean_and_shows_the_loss_of_its_scores(data: Dataset) -> None:
    model = MultVAE(MultVAEConfig(hidden=8, dim=4, beta=0.7, anneal=0.0), data.spec).eval()
    batch = one_batch(data)
    with torch.no_grad():
        rows = torch.nn.functional.normalize(multi_hot(data)[batch.user], dim=1)
        hidden = torch.tanh(rows @ model.encoder.weight + model.encoder.bias)
        mean, _ = model.latent(hidden).chunk(2, dim=1)
        scores = model.decoder(torch.tanh(model.hidden(mean)))
        expected = multinomial_nll(scores, batch.history).sum() / len(batch.history.values)
        torch.testing.assert_close(model.loss(batch, model.fit_context(data, SETTINGS)).shown, expected)
    torch.testing.assert_close(model.score(everyone(data))[batch.user], scores)


def test_multdae_and_cdae_score_and_loss(data: Dataset) -> None:
    batch = one_batch(data)
    hot = multi_hot(data)[batch.user]
    model = CDAE(CDAEConfig(dim=6, negatives=1000), data.spec).eval()
    with torch.no_grad():
        scores = model.score(everyone(data))[batch.user]
        # With more negatives than there are items, all items outside a history count in full.
        expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, hot)
        torch.testing.assert_close(model.loss(batch, FitContext(data)).objective, expected)
        dae = MultDAE(MultDAEConfig(dim=6), data.spec).eval()
        nll = multinomial_nll(dae.score(everyone(data))[batch.user], batch.history)
        torch.testing.assert_close(dae.loss(batch, FitContext(data)).objective, nll.mean())


def test_cdae_counts_the_expected_negatives_and_no_known_item_of_a_validation_part(parts: Split) -> None:
    model = CDAE(CDAEConfig(dim=6, negatives=2), parts.train.spec).eval()
    batch = one_batch(parts.valid)
    assert parts.valid.history is not None
    total = weights = 0.0
    scores = model.score(parts.train.queries(batch.user.numpy(), model.spec))
    for row, user in enumerate(batch.user.tolist()):
        known, targets = (set(d.item[d.user == user].tolist()) for d in (parts.train, parts.valid))
        outside = set(range(parts.train.n_items)) - known - targets
        share = min(1.0, 2 * len(targets) / len(outside))
        total += float(torch.nn.functional.softplus(-scores[row, list(targets)]).sum())
        total += share * float(torch.nn.functional.softplus(scores[row, list(outside)]).sum())
        weights += len(targets) + share * len(outside)
    assert model.loss(batch, FitContext(parts.valid)).shown.item() == pytest.approx(total / weights, rel=1e-4)


def test_cdae_reads_the_user_too_and_a_stranger_by_history_alone(data: Dataset) -> None:
    model = CDAE(CDAEConfig(dim=6), data.spec)
    model.fit(data, Training(epochs=3, batch_size=10, lr=0.05))
    known = everyone(data)
    assert not torch.allclose(model.score(known), model.score(known.anonymous()))
    fresh = replace(known, fresh=torch.arange(data.n_users) % 2 == 0)
    expected = torch.where(
        (torch.arange(data.n_users) % 2 == 0)[:, None], *map(model.score, (known.anonymous(), known))
    )
    torch.testing.assert_close(model.score(fresh), expected)


def test_recvae_steps_encoder_and_decoder_in_turns(data: Dataset) -> None:
    model = RecVAE(RecVAEConfig(hidden=8, dim=4), data.spec).train()
    stages = []
    context = FitContext(data)
    for batch in model.batches(context, torch.Generator().manual_seed(0), 100):
        model.zero_grad()
        model.loss(batch, context).objective.backward()
        moved = {
            name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
        }
        stages.append((batch.stage, moved))
    assert stages == [("encoder", {"encoder"})] * 3 + [("decoder", {"decoder"})]


def test_recvae_prior_mixes_each_coordinate(data: Dataset) -> None:
    """As the authors' code does, and unlike one mixture of the densities of whole vectors."""
    model = RecVAE(RecVAEConfig(hidden=8, dim=3), data.spec)
    rows = data.histories.take(torch.tensor([3, 4]))
    z = torch.tensor([[0.3, -2.0, 5.0], [0.0, 1.0, -1.0]])
    mean, log_var = model.old(rows)
    expected = torch.zeros_like(z)
    for weight, m, s in ((3 / 20, torch.zeros(2, 3), torch.zeros(2, 3)), (3 / 4, mean, log_var), (1 / 10, 0, 10.0)):
        normal = torch.distributions.Normal(torch.zeros(2, 3) + m, (0.5 * (torch.zeros(2, 3) + s)).exp())
        expected += weight * normal.log_prob(z).exp()
    torch.testing.assert_close(model._log_prior(z, rows), expected.log())


def test_recvae_prior_is_a_mixture_whose_density_integrates_to_one(data: Dataset) -> None:
    model = RecVAE(RecVAEConfig(hidden=8, dim=1), data.spec)
    one = data.histories.take(torch.tensor([3]))
    grid = torch.linspace(-400, 400, 400_001).unsqueeze(1)
    rows = one.take(torch.zeros(1, dtype=torch.int64))
    density = torch.cat([model._log_prior(part.T, rows).exp().flatten() for part in grid.split(1000)])
    # Weights 3/20 + 3/4 + 1/10; the widest part's tail beyond the grid (e^5 = 148 wide) is about 0.7 %.
    assert math.isclose(float(density.sum() * 0.002), 1.0, abs_tol=2e-3)


@pytest.mark.parametrize("model", [UAutoRec, IAutoRec])
def test_autorec_beats_its_own_biases_on_what_it_was_shown(data: Dataset, model) -> None:
    fitted = model(AutoRecConfig(dim=32, reg=0.01), data.spec)
    fitted.fit(data, Training(epochs=150, batch_size=10, lr=0.01))
    queries = everyone(data)
    row, item = torch.from_numpy(data.user).long(), torch.from_numpy(data.item).long()
    rating = torch.from_numpy(np.array(data.rating))
    error = float((fitted.predict(queries, item, row) - rating).square().mean())
    bias = float((fitted.center.predict(queries, item, row) - rating).square().mean())
    assert error < 0.5 * bias


def test_autorec_without_center_takes_out_the_mean_alone(data: Dataset) -> None:
    fitted = UAutoRec(AutoRecConfig(dim=4, center=False), data.spec)
    fitted.fit(data, Training(epochs=1))
    assert float(fitted.center.user_bias.abs().max()) == 0
    assert float(fitted.center.mean) == pytest.approx(float(np.mean(data.rating)), abs=1e-6)


def test_i_autorec_folds_a_stranger_in_near_the_known_user(data: Dataset) -> None:
    fitted = IAutoRec(AutoRecConfig(dim=8, reg=0.5), data.spec)
    fitted.fit(data, Training(epochs=60, batch_size=10, lr=0.02))
    known = everyone(data)
    strangers = known.anonymous()
    row, item = torch.from_numpy(data.user).long(), torch.from_numpy(data.item).long()
    apart = (fitted.predict(known, item, row) - fitted.predict(strangers, item, row)).square().mean().sqrt()
    assert float(apart) < 0.6


def test_without_center_a_history_has_no_bias_either(data: Dataset) -> None:
    fitted = UAutoRec(AutoRecConfig(dim=4, center=False), data.spec)
    fitted.fit(data, Training(epochs=1))
    known = everyone(data)
    torch.testing.assert_close(fitted.score(known.anonymous()), fitted.score(known))


@pytest.mark.parametrize("name", SMALL)
def test_training_and_validation_loss_are_the_same_quantity(name: str, parts: Split) -> None:
    """They start close to each other, and the one that is monitored chooses an epoch by fit, not by its scale."""
    kind, config, training = SMALL[name]
    model = kind(config, parts.train.spec)
    records = model.fit(parts.train, training, Validator(parts.valid, model, "loss"))
    assert max(records[0].loss / records[0].valid["loss"], records[0].valid["loss"] / records[0].loss) < 1.5
    assert records[0].loss_name == kind.loss_name != "loss"
    best = min(records, key=lambda record: record.valid["loss"])
    assert [record.epoch for record in records if record.best][-1] == best.epoch
    assert best.epoch > 1


def test_the_loss_chooses_a_sensible_epoch_of_multvae(parts: Split) -> None:
    """A KL weight that still rises at the end does not hide in the validation loss that the fit improves."""
    config = MultVAEConfig(hidden=32, dim=8, beta=1.0, anneal=1.0)
    chosen, last = MultVAE(config, parts.train.spec), MultVAE(config, parts.train.spec)
    training = Training(epochs=40, batch_size=64, lr=0.005, patience=0)
    records = chosen.fit(parts.train, training, Validator(parts.valid, chosen, "loss"))
    epoch = [record.epoch for record in records if record.best][-1]
    assert epoch > 5
    assert records[epoch - 1].valid["loss"] < records[0].valid["loss"] - 0.1
    last.fit(parts.train, training)
    ndcg = [Validator(parts.valid, model, "ndcg@10")(model)["ndcg@10"] for model in (chosen, last)]
    assert ndcg[0] > ndcg[1] - 0.02


@pytest.mark.parametrize("name", ["multdae", "multvae", "recvae"])
def test_the_validation_loss_is_of_the_parts_rows_given_the_history(name: str, parts: Split) -> None:
    kind, config, training = SMALL[name]
    model = kind(config, parts.train.spec)
    records = model.fit(parts.train, replace(training, epochs=1), Validator(parts.valid, model, "loss"))
    scores = model.score(parts.train.queries(np.arange(parts.train.n_users), model.spec)).clone()
    # Items of the history would not be recommended, so they take no probability.
    scores[torch.from_numpy(parts.train.user).long(), torch.from_numpy(parts.train.item).long()] = -torch.inf
    log_softmax = torch.log_softmax(scores, dim=1)
    row, item = torch.from_numpy(parts.valid.user).long(), torch.from_numpy(parts.valid.item).long()
    assert records[0].valid["loss"] == pytest.approx(-float(log_softmax[row, item].mean()), rel=1e-4)


@pytest.mark.parametrize("name", ["u-autorec", "i-autorec", "sparsefc"])
def test_the_validation_loss_is_the_squared_error_of_the_parts_ratings(name: str, parts: Split) -> None:
    kind, config, training = SMALL[name]
    model = kind(config, replace(parts.train.spec, rating_scale=None))
    records = model.fit(parts.train, replace(training, epochs=2), Validator(parts.valid, model, "loss"))
    queries = parts.train.queries(np.arange(parts.train.n_users), model.spec)
    row, item = torch.from_numpy(parts.valid.user).long(), torch.from_numpy(parts.valid.item).long()
    assert parts.valid.rating is not None
    error = (model.predict(queries, item, row) - torch.from_numpy(parts.valid.rating)).square().mean()
    best = min(record.valid["loss"] for record in records)
    assert best == pytest.approx(float(error), rel=1e-4)


@pytest.mark.parametrize("name", ["multdae", "multvae", "recvae", "cdae"])
def test_a_weight_of_w_acts_as_the_row_repeated_w_times(name: str, data: Dataset) -> None:
    kind, config, training = SMALL[name]
    given = replace(weighted(data), rating=None)
    models = [kind(config, given.spec) for _ in range(2)]
    for model, rows in zip(models, (given, repeated(given)), strict=True):
        model.fit(rows, replace(training, epochs=3, batch_size=10))
    for (name, tensor), other in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        if not name.startswith("fallback"):
            torch.testing.assert_close(tensor, other, rtol=1e-3, atol=1e-4, msg=name)
    plain = kind(config, given.spec)
    plain.fit(given.without_weights(), replace(training, epochs=3, batch_size=10))
    assert not torch.allclose(plain.score(everyone(data)), models[0].score(everyone(data)), atol=1e-3)


@pytest.mark.parametrize("kind", [UAutoRec, IAutoRec, SparseFC])
def test_weights_multiply_squared_errors(kind: type[GradientModel], data: Dataset) -> None:
    given = weighted(data)
    config = SparseFCConfig(dim=4) if kind is SparseFC else AutoRecConfig(dim=4)
    model = kind(config, given.spec)
    model.init_from_data(given)
    model.eval()
    context = model.fit_context(given, SETTINGS)
    [batch] = model.batches(context, torch.Generator().manual_seed(0), 1000)
    [plain] = model.batches(
        model.fit_context(given.without_weights(), SETTINGS), torch.Generator().manual_seed(0), 1000
    )
    assert torch.equal(batch.inputs.value, plain.inputs.value)
    error = predicted(model, batch.inputs)[batch.targets.columns.row_of_value, batch.targets.columns.values]
    square, weight = (error - batch.targets.value).square(), batch.targets.weight
    torch.testing.assert_close(model.loss(batch, context).shown, (square * weight).sum() / weight.sum())
    torch.testing.assert_close(model.loss(plain, context).shown, square.mean())


@torch.no_grad()
def predicted(model: GradientModel, inputs: RatingRows) -> Tensor:
    """Centred ratings of all columns."""
    if isinstance(model, SparseFC):
        hidden = model._encode(inputs, model.first()[0], model.second()[0])
        return hidden @ model.output()[0] + model.output.bias
    assert isinstance(model, UAutoRec | IAutoRec)
    return model.net.decoder(model.net.encode(inputs))


@pytest.mark.parametrize("name", ["i-autorec", "sparsefc"])
def test_the_catalogue_is_encoded_once_an_epoch_and_once_at_the_end(
    name: str, parts: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, config, training = SMALL[name]
    encodings = 0
    place, hook = (RatingAutoencoder, "encode") if kind is IAutoRec else (SparseFC, "_encode")
    encode = getattr(place, hook)

    def counted(self: object, inputs: RatingRows, *rest: Tensor) -> Tensor:
        nonlocal encodings
        encodings += len(inputs) == parts.train.n_items and not torch.is_grad_enabled()
        return encode(self, inputs, *rest)

    monkeypatch.setattr(place, hook, counted)
    model = kind(config, parts.train.spec)
    valid = parts.valid.take(parts.valid.item < 40)  # so that the validation loss encodes fewer items
    records = model.fit(parts.train, replace(training, epochs=3), Validator(valid, model))
    assert len(records) == 3
    assert encodings == 4
    model.score(everyone(parts.train))
    assert encodings == 4


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", SMALL)
def test_two_threads_give_the_same_weights_each_time(name: str) -> None:
    kind, _, _ = SMALL[name]
    data = Dataset.load("synthetic-100000")
    first, again = (kind(kind.Config(), data.spec) for _ in range(2))
    for model in (first, again):
        model.fit(data, Training(epochs=1))
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())
