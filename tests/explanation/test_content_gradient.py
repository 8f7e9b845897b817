"""Gradients over what is known: columns and words, of models with encoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_maskable_features import WORDS, films, of_films, small_pictures, trained

from palate.errors import CannotAnswer
from palate.explanation.explain import explain

__all__ = ["small_pictures"]  # a fixture


GRADIENT = {
    "text-cnn": {"dim": 16},
    "two-tower": {"dim": 16, "text": "bag", "columns": ("genre", "plot", "year", "cast")},
    "dropoutnet": {"dim": 8, "columns": ("genre", "plot", "year", "cast")},
    "deepfm": {},
    "image-cnn": {"dim": 16},
}


@pytest.mark.parametrize("name", GRADIENT)
def test_gradients_over_content_add_up_and_agree_with_shap(name: str) -> None:
    model = trained(name, 3, **GRADIENT[name])
    kinds: Any = ["feature"] if name == "image-cnn" else ["feature", "word"]
    alike = []
    for _, told in of_films(model, kinds, "gradient", 2):
        assert sum(c.value for c in told.contributions) + told.residual == pytest.approx(told.score, abs=1e-5)
        size = sum(abs(c.value) for c in told.of())
        assert abs(told.residual) <= 0.05 * size, "the integral's error"
        assert {c.kind for c in told.of()} == set(kinds)
        alike.append({c.key: c.value for c in told.of()})
    for values, (_, told) in zip(alike, of_films(model, kinds, "shap", 2), strict=True):
        other = {c.key: c.value for c in told.of()}
        assert np.corrcoef([values[key] for key in other], list(other.values()))[0, 1] > 0.6 or len(other) == 1
        if name in ("two-tower", "deepfm"):
            assert values["age"] != 0, "what is known of the user counts too"


def test_planted_words_have_the_largest_gradients() -> None:
    hits = []
    for film, told in of_films(trained("text-cnn", dim=16), ["word"], "gradient", 8):
        words = [c.label for c in told.of("word")]
        hits += [w in WORDS[film % 2].split() for w in words[:2]]
    assert np.mean(hits) >= 0.85


def test_gradients_of_a_linear_encoder_are_its_terms() -> None:
    """A wide deepfm of one number and tags is a sum over columns, so that the way does not matter."""
    model = trained("deepfm", 2, cross="wide", layers=(1,))
    with torch.no_grad():
        model.net.head.weight.zero_()  # type: ignore[union-attr, operator]
    queries, item = films().queries(np.array([2]), model.spec), 9
    by = [
        {c.key: c.value for c in explain(model, films(), queries, item, m, kinds=["feature"]).of()}
        for m in ("gradient", "occlusion")
    ]
    assert sum(map(abs, by[1].values())) > 0.01
    assert by[0] == pytest.approx(by[1], abs=1e-4)


def test_gradient_takes_a_history_or_content() -> None:
    model = trained("two-tower", 3, **GRADIENT["two-tower"])
    queries = films().queries(np.array([0]), model.spec)
    with pytest.raises(CannotAnswer, match=r"both were asked for \(history, feature\); use one of shap"):
        explain(model, films(), queries, 3, "gradient", kinds=["history", "feature"])
    with pytest.raises(CannotAnswer, match=r"its scores have no gradient with respect to these features \(feature\)"):
        explain(trained("content-knn"), films(), queries, 3, "gradient", kinds=["feature"])
    both = trained("deepfm", 3)
    asked = films().queries(np.array([0]), both.spec)
    assert {c.kind for c in explain(both, films(), asked, 3, "gradient").of()} == {"feature", "word"}
