"""sanity(): who looks at the model passes, who looks at the history alone or is led astray does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from by_hand import planted
from test_fidelity import told

from palate.config import Training
from palate.explanation.checks import IgnoringModel, sanity, shuffled
from palate.explanation.methods import occlusion
from palate.models import MODELS


def by_key(one, seed):
    """The larger the id the better, whatever the model says."""
    return told(one, {player.key: float(player.key) for player in one.players})


def upside_down_when_longer(one, seed):
    """Right, until the history is longer than it was."""
    sign = 1 if len(one.players) <= 14 else -1
    return told(one, {c.key: sign * c.value + (sign < 0) for c in occlusion(one).of("history")})


def test_who_looks_at_the_model_passes():
    model, data = planted(np.random.default_rng(0))
    found = sanity(model, data, ["exact", "shap", "occlusion", "gradient"], users=15, samples=60)
    for name, check in found.items():
        assert not check.faults, name
        assert abs(check.shuffled.value) < 0.4
    assert found["exact"].irrelevant is None or found["exact"].irrelevant.value == pytest.approx(0, abs=1e-5)
    for name in ("shap", "occlusion"):
        check = found[name]
        assert check.irrelevant is not None
        assert check.irrelevant.value == pytest.approx(0, abs=1e-5)
        assert check.kept is not None
        assert check.kept.value == pytest.approx(1.0)


def test_who_does_not_is_found_out():
    model, data = planted(np.random.default_rng(1))
    found = sanity(model, data, {"by key": by_key, "astray": upside_down_when_longer}, users=10)
    [same, given] = found["by key"].faults
    assert same.startswith("gives the same explanations for a model with shuffled weights (rank correlation 1.00)")
    assert given.startswith("gives items the model ignores")
    assert any(fault.startswith("changes the order of the history") for fault in found["astray"].faults)


def test_shuffled_keeps_the_numbers_and_leaves_the_model_alone():
    _, data = planted(np.random.default_rng(2))
    for name in ("neumf", "multvae", "itemknn", "mf"):
        model = MODELS[name](MODELS[name].Config(), data.spec)
        model.fit(data, Training(epochs=1))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        other = shuffled(model, 0)
        moved = 0
        for key, value in other.state_dict().items():
            assert torch.equal(value.flatten().sort().values, before[key].flatten().sort().values)
            moved += int((value != before[key]).sum())
        assert moved > 0
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert all(torch.equal(before[key], other.state_dict()[key]) for key in before if "fallback" in key)


def test_a_deaf_model_does_not_hear():
    model, data = planted(np.random.default_rng(3))
    queries = data.queries(np.arange(5), model.spec)
    unheard = data.histories[0][:3]
    deaf = IgnoringModel(model, unheard)
    kept = queries.history.keep(~torch.isin(queries.history.values, unheard))
    expected = model.score(type(queries)(queries.user, kept))
    torch.testing.assert_close(deaf.score(queries), expected)
    torch.testing.assert_close(deaf.score(queries, torch.tensor([4, 2])), expected[:, [4, 2]])
