"""Additivity for every model and method, what is done with bad input, and the words."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from causes import fitted, planted_causes, strangers

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError, MissingExtra, UnknownId
from palate.explanation import EXPLAINERS, Explanation
from palate.explanation.explain import explain, reasons
from palate.explanation.explanation import AVERAGE_ITEM, ITEM_BASELINE, Contribution, ordinal
from palate.explanation.players import compared_items, game
from palate.models import MODELS
from palate.models.base import Model
from palate.models.mf.bayes_mf import BayesMFConfig
from palate.models.mf.mf import MFConfig
from palate.ranking.topk import rank
from palate.recommender.recommender import Recommender
from palate.testing import Case, planted

SMALL = Training(epochs=2, batch_size=256, lr=0.02)
CASES = {n: Case(m, training=SMALL) for n, m in MODELS.items() if m.needs <= planted().train.provides} | {
    "mf-mse": Case(MODELS["mf"], MFConfig(loss="mse", dim=8, reg=0.4, bias_reg=0.5), SMALL),
    "bayes-mf": Case(MODELS["bayes-mf"], BayesMFConfig(dim=4, features=4, warmup=4, samples=3, thin=1)),
}
SUMS = {
    "ease",
    "edlae",
    "sparse-ease",
    "itemknn",
    "rp3beta",
    "puresvd",
    "ials",
    "mf-mse",
    "bias",
    "popularity",
    "content-knn",
    "content-ials",
    "dropoutnet",
}
_MODELS: dict[str, Model] = {}


def model_of(name: str) -> Model:
    if name not in _MODELS:
        case = CASES[name]
        config = case.model.Config() if case.config is None else case.config
        _MODELS[name] = case.model(config, case.model.spec_of(case.train))
        _MODELS[name].fit(case.train, SMALL)
    return _MODELS[name]


def a_query(known: bool, length: int | None = None) -> Queries:
    query = planted().train.queries(np.array([3]), planted().train.spec)
    if length is not None:
        keep = torch.arange(len(query.history.values)) < length
        assert query.ratings is not None
        query = Queries(query.user, query.history.keep(keep), query.ratings[keep])
    return query if known else Queries(torch.tensor([-1]), query.history, query.ratings)


def unseen(query: Queries) -> int:
    return next(i for i in range(80) if i not in query.history.values.tolist())


@pytest.mark.parametrize("name", CASES)
def test_contributions_and_residual_make_the_score(name: str) -> None:
    if "history" not in CASES[name].model.answers:
        pytest.skip("reads no history")
    model = model_of(name)
    for known in (False, True):
        query = a_query(known, 5)
        item = unseen(query)
        score = float(model.score(query)[0, item])
        scale = max(1.0, abs(score))
        fits: list[str] = []
        refused: list[str] = []
        for method in EXPLAINERS:
            try:
                told = explain(model, planted().train, query, item, method, samples=60)
            except CannotAnswer as error:
                refused.append(str(error))
                continue
            fits.append(method)
            assert told.score == pytest.approx(score, abs=1e-5 * scale)
            total = sum(c.value for c in told.contributions) + told.residual
            assert total == pytest.approx(score, abs=1e-5 * scale)
            if method in ("exact", "shap") and not known:
                assert abs(told.residual) <= 1e-5 * scale
            sizes = [abs(c.value) for c in told.contributions]
            assert sizes == sorted(sizes, reverse=True)
        assert {"shap", "lime", "occlusion"} <= set(fits)
        assert all("; use one of " in text and "occlusion" in text for text in refused)
        assert ("exact" in fits) == model.additive
        assert model.additive or name not in SUMS


@pytest.mark.parametrize("name", sorted(SUMS))
def test_exact_sums_are_the_models_own(name: str) -> None:
    model = model_of(name)
    query = a_query(False)
    for item in (unseen(query), 79, 40):
        told = explain(model, planted().train, query, item, "exact")
        assert abs(told.residual) <= 1e-5 * max(1.0, abs(told.score))
        linear = {"ease", "edlae", "sparse-ease", "itemknn", "rp3beta", "puresvd"}
        if name in linear:  # then leaving one out says the same
            other = explain(model, planted().train, query, item, "occlusion")
            left, right = ({c.key: c.value for c in e.contributions} for e in (told, other))
            assert left == pytest.approx(right, abs=1e-5)


@pytest.mark.parametrize("name", ["mf-mse", "cdae", "mf", "neumf"])
def test_a_known_users_own_part_is_the_residual_and_is_named(name: str) -> None:
    model, query = model_of(name), a_query(True, 5)
    item = unseen(query)
    told = explain(model, planted().train, query, item, "shap", samples=60)
    average = compared_items(80, query.history.values)
    trained_N, folded_N = model.score(query)[0], model.score(a_query(False, 5))[0]
    lead, folded_lead = (float(scores[item] - scores[average].mean()) for scores in (trained_N, folded_N))
    assert told.residual == pytest.approx(lead - folded_lead, abs=1e-5 * max(1, abs(told.score)))
    assert f"by a trained vector, which scores {told.label} {told.score:.4g}." in told.notes[0]
    assert f"which scores it {float(folded_N[item]):.4g}; the residual holds the difference." in told.notes[0]
    if abs(told.residual) > 0.02 * max(abs(c.value) for c in told.of()):
        assert told.notes[1].startswith(f"The residual of {told.residual:+.3g} consists of ")
        assert "by which the trained user vector differs from the fold-in of the history" in told.notes[1]


def test_nothing_known_is_the_models_own_score_of_nothing() -> None:
    query = a_query(False)
    item = unseen(query)
    mf = model_of("mf")
    told = explain(mf, planted().train, query, item, "shap", samples=60)
    average = compared_items(80, query.history.values)
    bias_N = mf.item_bias.weight.detach()[:, 0]
    base = {c.key: c.value for c in told.of("base")}
    assert base[ITEM_BASELINE] == pytest.approx(float(bias_N[item] - bias_N[average].mean()), abs=1e-6)
    assert base[AVERAGE_ITEM] == pytest.approx(float(mf.score(query)[0, average].mean()), abs=1e-6)
    assert told.base == pytest.approx(sum(base.values()))
    of_ease = {c.key: c.value for c in explain(model_of("ease"), planted().train, query, item).of("base")}
    assert of_ease[ITEM_BASELINE] == 0
    told = explain(model_of("popularity"), planted().train, query, item)
    assert told.base == pytest.approx(float(planted().train.item_counts[item]))
    assert all(c.value == 0 for c in told.of())


class Blind(MODELS["popularity"]):  # type: ignore[misc]
    """Knows users by their index alone."""

    answers = frozenset({"known_user"})


def test_bad_input() -> None:
    train, query = planted().train, a_query(False)
    ease, vae = model_of("ease"), model_of("multvae")
    with pytest.raises(ConfigError, match="samples = 0 is out of range"):
        explain(vae, train, query, unseen(query), "shap", samples=0)
    with pytest.raises(ConfigError, match=r"no method 'shapp'; .*did you mean 'shap'"):
        explain(vae, train, query, unseen(query), "shapp")
    with pytest.raises(ConfigError, match="'base' cannot be switched off; choose from history, feature, word, region"):
        explain(vae, train, query, unseen(query), kinds=["base"])
    with pytest.raises(
        CannotAnswer,
        match="exact is not available for MultVAE: its score is not a sum over the history; use one of gradient, shap",
    ):
        explain(vae, train, query, unseen(query), "exact")
    with pytest.raises(CannotAnswer, match=r"gradient is not available for NeuMF: .*; use one of shap, lime"):
        explain(model_of("neumf"), train, a_query(False, 3), unseen(query), "gradient")
    with pytest.raises(CannotAnswer, match="Blind reads neither histories nor features"):
        explain(Blind(Blind.Config(), train.spec), train, a_query(True), unseen(query))
    with pytest.raises(CannotAnswer, match=r"give a history"):
        explain(ease, train, Queries(torch.tensor([-1]), Ragged.empty(1)), 3)
    with pytest.raises(ConfigError, match="of one query; 2 were given"):
        game(ease, train, query.take(torch.tensor([0, 0])), 3)


def test_an_item_already_seen_is_explained_and_noted() -> None:
    query = a_query(False)
    seen = int(query.history.values[0])
    told = explain(model_of("ease"), planted().train, query, seen)
    assert told.notes == (f"This user already has {told.label}, so lists leave it out.",)
    assert told.rank is None
    assert told.item not in [c.key for c in told.of()], "an item is no reason for itself"
    assert abs(told.residual) < 1e-5
    alone = query.keep(query.history.values == seen)
    with pytest.raises(CannotAnswer, match=r"holds only item .* itself, which cannot be a reason for itself"):
        explain(model_of("ease"), planted().train, alone, seen)


@pytest.mark.parametrize("method", ["shap", "lime", "occlusion", "gradient"])
def test_a_history_of_one(method: str) -> None:
    query = a_query(False, 1)
    item = unseen(query)
    model = model_of("multvae")
    told = explain(model, planted().train, query, item, method)
    [only] = told.of()
    if method != "lime":  # whose ridge holds its one coefficient back
        assert only.value == pytest.approx(told.score - told.base, rel=1e-3, abs=1e-4)


def test_an_item_that_stands_twice_in_a_history_is_one_player() -> None:
    train = planted().train
    query = Queries(torch.tensor([-1]), Ragged.of([[5, 7, 5]]))
    told = explain(model_of("puresvd"), train, query, 9)
    assert len(told.of("history")) == 2
    assert abs(told.residual) < 1e-5
    other = explain(model_of("puresvd"), train, query, 9, "occlusion")
    assert {c.key: c.value for c in told.of()} == pytest.approx({c.key: c.value for c in other.of()}, abs=1e-5)


def test_a_history_of_five_thousand() -> None:
    items = 5200
    frame = pl.DataFrame(
        {"user_id": [str(u) for u in range(40) for _ in range(130)], "item_id": [str(i) for i in range(items)]}
    )
    data = Dataset.from_frame(frame)
    kind = MODELS["multvae"]
    model = kind(kind.Config(hidden=8, dim=4), data.spec)
    model.fit(data, Training(epochs=1))
    query = Queries(torch.tensor([-1]), Ragged.of([list(range(5000))]))
    start = time.perf_counter()
    for method in ("shap", "lime", "occlusion", "gradient"):
        told = explain(model, data, query, 5100, method, samples=200)
        assert len(told.of("history")) == 5000
        assert sum(c.value for c in told.contributions) + told.residual == pytest.approx(told.score, abs=1e-4)
        if method in ("shap", "lime"):
            assert any("5,000 players" in note or "(5000)" in note for note in told.notes)
    assert time.perf_counter() - start < 60


def test_page_of_reasons() -> None:
    train = planted().train
    queries = train.queries(np.arange(4), train.spec)
    queries = Queries(torch.tensor([0, 1, -1, -1]), queries.history.keep(queries.history.row_of_value < 3), None)
    items = torch.tensor([[1, 2, 3], [4, 5, -1], [6, 7, 8], [1, 2, 3]])
    for name in ("ease", "multvae"):
        found = reasons(model_of(name), train, queries, items)
        assert [len(row) for row in found] == [3, 3, 3, 3]
        assert found[1][2] == ""
        assert all(
            text.startswith("Recommended because it is popular; nothing is known about this user") for text in found[3]
        )
        assert any(text.startswith("Recommended because you liked ") for text in found[0])
    for name in ("ease", "multvae", "neumf"):  # A list and the explanation of one of its items tell the same.
        of_list = reasons(model_of(name), train, queries, items)[2][1]
        alone = explain(model_of(name), train, queries.take(torch.tensor([2])), 7)
        assert alone.rank is not None
        assert of_list == replace(alone, rank=2).sentence(3)


def example(*values: tuple[str, str, float, float], **rest: object) -> Explanation:
    told = [Contribution(kind=k, key=n, label=n, value=v, error=e) for k, n, v, e in values]  # type: ignore[arg-type]
    base = Contribution(kind="base", key=ITEM_BASELINE, label="this item without a history", value=0.5)
    found = tuple(sorted([base, *told], key=lambda c: -abs(c.value)))
    total = sum(c.value for c in found)
    fields: dict[str, Any] = {"item": "50", "label": "Star Wars", "score": total + 0.01, "residual": 0.01} | rest
    return Explanation(contributions=found, **{"method": "shap", "rank": 1, **fields})


def test_reasons_in_words() -> None:
    told = example(
        ("history", "A", 0.31, 0.01), ("history", "B", 0.12, 0.01), ("history", "C", -0.05, 0.01),
        ("feature", "its genre comedy", 0.04, 0.0), ("word", "heist", 0.03, 0.0), ("word", "casino", 0.02, 0.0),
        ("history", "D", 0.3, 0.2), notes=("a note",),
    )  # fmt: skip
    assert told.reasons(10) == [
        "Recommended because you liked A (+0.31) and B (+0.12), despite C (-0.050); its genre comedy adds 0.040; "
        "its words 'heist' and 'casino' add 0.050.",
        "Score 1.28 = 0.50 (this item without a history) + 0.77 (all contributions) + 0.010 (residual).",
        "a note",
    ]
    assert "B" in told.reasons(3)[0]
    assert "B" not in told.reasons(2)[0], "a sentence names only what a table of as many rows shows"
    assert "D" not in told.sentence(10), "its interval contains zero"


def test_what_is_below_a_fiftieth_of_the_largest_effect_is_no_reason() -> None:
    assert "B" not in example(("history", "A", 1.0, 0.0), ("history", "B", 0.019, 0.0)).sentence(5)
    assert "B" in example(("history", "A", 1.0, 0.0), ("history", "B", 0.021, 0.0)).sentence(5)
    # Where the large effects are uncertain, a small one that is certain is not named in their place.
    few = [("history", name, 1.55, 1.55) for name in "ABCD"]
    told = example(*few, ("history", "E", 0.00049, 0.00001))
    assert told.sentence(5) == (
        "Recommended because your history as a whole adds 6.20, although no single item stands out"
    )


def test_what_is_below_a_fiftieth_of_the_item_alone_is_no_reason() -> None:
    popular = "it scores 0.50 above the average item for users in general"
    for value, sentence in (
        (0.00018, f"Recommended because {popular}"),
        (-0.009, f"Recommended because {popular}"),
        (0.011, "Recommended because you liked A (+0.011)"),
        (-0.011, f"Recommended because {popular}, although your history speaks against it: A (-0.011)"),
    ):
        assert example(("history", "A", value, 0.0)).sentence() == sentence
    together = example(*(("history", name, 0.001, 0.0004) for name in "ABCD"))
    assert "as a whole" not in together.sentence()
    joint = example(("history", "A", -0.01, 0.0), residual=-0.9)
    assert joint.sentence() == f"Recommended because {popular}"
    against = replace(joint, contributions=tuple(c for c in joint.contributions if c.kind != "base"))
    assert against.sentence() == "The model subtracts 0.90 that no single contribution explains (residual)"


def test_what_is_said_if_no_contribution_speaks_for_the_item() -> None:
    unsure = example(("history", "A", -0.3, 0.2))
    assert unsure.sentence() == (
        "No contribution stands out: every interval contains zero (more samples make them narrower)"
    )
    alike = example(("history", "A", 0.0, 0.0))
    assert alike.sentence() == "Recommended because it scores 0.50 above the average item for users in general"
    against = example(("history", "A", -0.3, 0.0))
    assert against.sentence() == (
        "Recommended because it scores 0.50 above the average item for users in general, although "
        "your history speaks against it: A (-0.30)"
    )
    trained = example(("history", "A", -0.3, 0.0), residual=0.7)
    assert trained.sentence().startswith("Recommended because the model adds 0.70 that no single contribution explains")


def test_an_item_outside_the_list_is_not_called_recommended() -> None:
    told = example(("history", "A", 0.31, 0.0), ("history", "C", -0.05, 0.0), rank=21)
    assert told.sentence() == (
        "Ranks 21st for this user, outside the top 10. In its favour: you liked A (+0.31), despite C (-0.050)"
    )
    assert told.sentence(k=21).startswith("Recommended because you liked A")
    seen = example(("history", "A", 0.31, 0.0), rank=None)
    assert seen.sentence() == "You liked A (+0.31)"
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["ease", "neumf"])
def test_the_rank_is_that_of_the_list(name: str) -> None:
    train, query, model = planted().train, a_query(True), model_of(name)
    listed = rank(model, query, 80).items[0].tolist()
    for place in (0, 1, 20):
        assert explain(model, train, query, listed[place]).rank == place + 1


def test_not_all_items_of_a_list_are_spoken_against() -> None:
    """Contributions are relative to the average item: what lowers all scores alike speaks against none."""
    train, model = planted().train, model_of("neumf")
    for user in range(10):
        query = train.queries(np.array([user]), train.spec)
        items = rank(model, query, 5).items
        assert not all("your history speaks against it" in text for text in reasons(model, train, query, items)[0])


def test_what_was_not_liked_is_not_called_liked() -> None:
    train = planted().train
    query = Queries(torch.tensor([-1]), Ragged.of([[1, 2, 3]]), torch.tensor([5.0, 1.0, 4.0]))
    told = game(model_of("ease"), train, query, 9).players
    assert [p.liked for p in told] == [True, False, True]


def test_frame_and_shap() -> None:
    told = example(("history", "A", 0.31, 0.01), ("history", "B", 0.12, 0.01))
    frame = told.frame()
    assert frame.columns == ["kind", "key", "label", "value", "error"]
    assert frame["value"].sum() + told.residual == pytest.approx(told.score)
    if find_spec("shap") is None:
        with pytest.raises(MissingExtra, match=r"needs the shap package: .* install "):
            told.to_shap()
        return
    other = told.to_shap()
    assert other.feature_names == ["A", "B"]
    assert other.base_values + other.values.sum() == pytest.approx(told.score)


def test_recommender_explains() -> None:
    data = planted_causes()
    rec = Recommender(name="ease", model=fitted("ease"), data=data, training=Training(), records=[])
    query, item, cause = strangers()[0]
    history = data.items.ids[query.history.values.numpy()].to_list()
    told = rec.explain(history=history, item=data.items.ids[item])
    assert told.method == "exact"
    assert told.of()[0].key == cause
    assert told.item == data.items.ids[item]
    assert rec.explain(user="u003", item="noise 1", method="shap", samples=100, seed=1).method == "shap"
    with pytest.raises(UnknownId, match=r"nobody.*give their items instead"):
        rec.explain(user="nobody", item="noise 1")
    with pytest.raises(UnknownId, match="no such thing"):
        rec.explain(user="u003", item="no such thing")
    with pytest.raises(ConfigError, match=r"users?="):
        rec.explain(item="noise 1")
    page = rec.recommend(history=history, k=5, explain=True)
    assert page.columns[-1] == "reasons"
    assert page["reasons"][0].startswith("Recommended because you liked ")
    assert "reasons" not in rec.recommend(history=history, k=5).columns
