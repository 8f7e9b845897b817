"""Autoencoders: their losses against dense arithmetic, and what their stages and schedules promise."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import Training
from palate.data.dataset import Dataset, Queries
from palate.models.autorec import AutoRecConfig, IAutoRec, UAutoRec
from palate.models.cdae import CDAE, CDAEConfig
from palate.models.multvae import HistoryLayer, MultDAE, MultDAEConfig, MultVAE, MultVAEConfig, misfit
from palate.models.recvae import RecVAE, RecVAEConfig
from palate.training.batches import histories


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(5)
    pairs = np.unique(rng.integers(0, (30, 20), (260, 2)), axis=0)
    rating = rng.integers(1, 6, len(pairs)).astype(np.float32)
    return Dataset.from_frame(pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1], "rating": rating}))


def everyone(data: Dataset) -> Queries:
    return data.queries(np.arange(data.n_users), data.spec)


def multi_hot(data: Dataset) -> torch.Tensor:
    hot = torch.zeros(data.n_users, data.n_items)
    hot[torch.from_numpy(data.user).long(), torch.from_numpy(data.item).long()] = 1
    return hot


def test_misfit_is_the_multinomial_log_likelihood(data: Dataset) -> None:
    scores = torch.randn(data.n_users, data.n_items, generator=torch.Generator().manual_seed(1))
    scores.requires_grad_()
    weight = torch.linspace(-1, 2, data.n_users)  # what comes after it, different for each row
    expected = -(multi_hot(data) * torch.log_softmax(scores, dim=1)).sum(1)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), scores)
    found = misfit(scores, data.histories)
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad((found * weight).sum(), scores)
    torch.testing.assert_close(slope, wanted)


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
    model = MultVAE(MultVAEConfig(dim=200), data.spec)
    model.start(data)
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
    model = MultVAE(MultVAEConfig(hidden=8, dim=4, anneal=0.5), data.spec)
    model.fit(data, Training(epochs=6, batch_size=10))
    assert int(model.updates) == 18  # 3 batches, 6 epochs
    assert model.rise == pytest.approx(9.0)


def test_multvae_answers_with_the_mean_and_its_loss_is_misfit_plus_kl(data: Dataset) -> None:
    model = MultVAE(MultVAEConfig(hidden=8, dim=4, beta=0.7, anneal=0.0), data.spec).eval()
    model.updates.fill_(5)
    (batch,) = histories(data, torch.Generator().manual_seed(0), 100)
    with torch.no_grad():
        rows = torch.nn.functional.normalize(multi_hot(data)[batch.user], dim=1)
        hidden = torch.tanh(rows @ model.encoder.weight + model.encoder.bias)
        mean, log_var = model.latent(hidden).chunk(2, dim=1)
        scores = model.decoder(torch.tanh(model.hidden(mean)))
        normal = torch.distributions.Normal(mean, (0.5 * log_var).exp())
        divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
        expected = (misfit(scores, batch.history) + 0.7 * divergence).mean()
        torch.testing.assert_close(model.loss(batch), expected)
    torch.testing.assert_close(model.score(everyone(data))[batch.user], scores)


def test_multdae_and_cdae_score_and_loss(data: Dataset) -> None:
    (batch,) = histories(data, torch.Generator().manual_seed(0), 100)
    hot = multi_hot(data)[batch.user]
    model = CDAE(CDAEConfig(dim=6, negatives=1000), data.spec).eval()
    with torch.no_grad():
        scores = model.score(everyone(data))[batch.user]
        # With more negatives than there are items, all items outside a history count in full.
        expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, hot)
        torch.testing.assert_close(model.loss(batch), expected)
        dae = MultDAE(MultDAEConfig(dim=6), data.spec).eval()
        torch.testing.assert_close(dae.loss(batch), misfit(dae.score(everyone(data))[batch.user], batch.history).mean())


def test_cdae_reads_the_user_too_and_a_stranger_by_history_alone(data: Dataset) -> None:
    model = CDAE(CDAEConfig(dim=6), data.spec)
    model.fit(data, Training(epochs=3, batch_size=10, lr=0.05))
    known = everyone(data)
    strangers = Queries(torch.full_like(known.user, -1), known.history, known.ratings)
    assert not torch.allclose(model.score(known), model.score(strangers))


def test_recvae_steps_encoder_and_decoder_in_turns(data: Dataset) -> None:
    model = RecVAE(RecVAEConfig(hidden=8, dim=4), data.spec).train()
    stages = []
    for batch in model.batches(data, torch.Generator().manual_seed(0), 100):
        model.zero_grad()
        model.loss(batch).backward()
        moved = {
            name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
        }
        stages.append((batch.stage, moved))
    assert stages == [("encoder", {"encoder"})] * 3 + [("decoder", {"decoder"})]


def test_recvae_prior_is_a_mixture_whose_density_integrates_to_one(data: Dataset) -> None:
    model = RecVAE(RecVAEConfig(hidden=8, dim=1), data.spec)
    one = data.histories.take(torch.tensor([3]))
    grid = torch.linspace(-400, 400, 400_001).unsqueeze(1)
    rows = one.take(torch.zeros(1, dtype=torch.int64))
    density = torch.cat(
        [model._log_prior(part.T.unsqueeze(0).squeeze(0), rows).exp().flatten() for part in grid.split(1000)]
    )
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
    strangers = Queries(torch.full_like(known.user, -1), known.history, known.ratings)
    row, item = torch.from_numpy(data.user).long(), torch.from_numpy(data.item).long()
    apart = (fitted.predict(known, item, row) - fitted.predict(strangers, item, row)).square().mean().sqrt()
    assert float(apart) < 0.6
