"""fidelity(): every measure by hand on a sum of four numbers, against a plain twin, and what must hold of any model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from by_hand import adder, dataset, four, planted
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError, DataError
from palate.explanation.agreement import correlation
from palate.explanation.explained_users import find_users
from palate.explanation.explanation import Contribution, Explanation
from palate.explanation.fidelity import fidelity, measure
from palate.explanation.masked import MaskedHistoryScores
from palate.explanation.measures import MEASURES, percent_step_sizes
from palate.explanation.orders import ORDERS
from palate.models import MODELS
from palate.ranking.topk import rank


def told(game, values):
    """An explanation with these values for the history's items, by id."""
    found = tuple(Contribution(kind="history", key=p.key, label=p.label, value=values[p.key]) for p in game.players)
    return Explanation(item=game.id, label=game.label, score=0.0, contributions=found, residual=0.0, method="told")


def test_every_measure_by_hand():
    model, data = four()
    found = fidelity(model, data, ["exact"], users=np.array([0]), k=(1, 2), lengths=(1, 2, 9))
    assert found.items.to_list() == [4]
    assert found.confidence == "score"
    one = {name: value[0] for name, value in found.values["exact"].items()}
    # Without 0: 4 against 6. Without 0 and 1: 1 against 5. Alone: 4, 7. Nine are all four: 0 against 0, a tie.
    second, tie = 1 / math.log2(3), 1 / math.log2(2.5)
    steps = [1.0, *[second] * 3, *[tie] * 7]
    by_hand = {
        "cdcg@1": second, "cdcg@2": second, "cdcg@9": tie,
        "pos@1,1": 0, "pos@2,1": 1, "pos@1,2": 0, "pos@2,2": 1, "pos@1,9": 0, "pos@2,9": 1,
        "del@1": 4 / 8, "ins@1": 4 / 8, "del@2": 1 / 8, "ins@2": 7 / 8, "del@9": 0, "ins@9": 1,
        "del-p": (8 + 4 + 1 - 1) / 11, "ins-p": (0 + 4 + 7 + 9 + 7 * 8) / 11, "ndcg-p": sum(steps) / 11,
        # The least explaining first: 9 against 3, 7 against 2, 4 against 1, then the tie.
        "pos-p@1": 1 / 11, "neg-p@1": 4 / 11, "pos-p@2": 1, "neg-p@2": 1,
    }  # fmt: skip
    assert one == pytest.approx(by_hand)
    assert {name.partition("@")[0] for name in one} == set(MEASURES)
    curves = found.curves["exact"]
    np.testing.assert_allclose(curves.without, [8, 4, 1, -1, *[0] * 7])
    np.testing.assert_allclose(curves.alone, [0, 4, 7, 9, *[8] * 7])
    np.testing.assert_allclose(curves.rank, [1, 2, 2, 2, *[1.5] * 7])


def test_percent_steps_are_ten_parts_the_first_ones_larger():
    lengths = np.array([1, 4, 10, 23, 100])
    for length, sizes in zip(lengths, percent_step_sizes(lengths), strict=True):
        parts = [len(part) for part in np.array_split(np.arange(length), 10)]
        assert sizes.tolist() == [0, *np.cumsum(parts)]


def plain(model, data, user, values, item, k, length, n_items):
    """cdcg, pos, del, ins of one person, one mask at a time; values by item."""
    history = data.histories[user].tolist()
    order = sorted(set(history), key=lambda h: -values[h])
    first = set(order[:length])

    def score(keep):
        queries = data.queries(np.array([user]), model.spec)
        kept = Ragged.of([[h for h in history if h in keep]])
        return model._score(type(queries)(torch.tensor([-1]), kept))[0].numpy()

    whole, without, alone = score(set(order)), score(set(order) - first), score(first)
    others = [i for i in range(n_items) if i not in history]
    place = 1 + sum(without[i] > without[item] for i in others)
    place += sum(without[i] == without[item] for i in others if i != item) / 2
    return (
        1 / math.log2(1 + place), float(place <= k), without[item] / whole[item], alone[item] / whole[item],
    )  # fmt: skip


def test_all_people_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(1)
    model, data = planted(rng)
    people = find_users(model, data, np.arange(data.n_users), seed=0)
    assert len(people.users) == data.n_users - 1  # one has everything, so there is nothing to recommend
    value_D = rng.normal(size=len(people.masked.item_D))
    found, _ = measure(people.masked, value_D, (3,), (2, 4), percent=False, seed=0)
    row_D, item_D = people.masked.row_D.numpy(), people.masked.item_D.numpy()
    for place, user in enumerate(people.users):
        mine = row_D == place
        values = dict(zip(item_D[mine].tolist(), value_D[mine], strict=True))
        item = int(people.masked.item_U[place])
        for length in (2, 4):
            names = (f"cdcg@{length}", f"pos@3,{length}", f"del@{length}", f"ins@{length}")
            expected = plain(model, data, int(user), values, item, 3, length, data.n_items)
            assert [found[name][place] for name in names] == pytest.approx(expected, rel=1e-5)


def test_the_item_judged_is_the_top_of_the_list():
    model, data = planted(np.random.default_rng(2))
    found = fidelity(model, data, ["exact"], users=10, percent=False)
    users = data.users.index(found.users)
    listed = rank(model, data.queries(users, model.spec), 1).items[:, 0]
    assert found.items.to_list() == data.items.ids[listed.numpy()].to_list()


def test_the_true_causes_are_more_faithful_than_any_other_order():
    model, data = planted(np.random.default_rng(3), people=80)
    upside_down = {"reversed": lambda one, seed: told(one, {c.key: -c.value for c in exact(one)})}

    def exact(one):
        from palate.explanation.methods import exact

        return exact(one).of("history")

    methods = {"exact": lambda one, seed: told(one, {c.key: c.value for c in exact(one)}), **upside_down}
    found = fidelity(model, data, methods, users=80)
    means = {name: {m: e.value for m, e in found.estimates(name).items()} for name in found.values}
    for measure_name in found.measures:
        if measure_name in ("del@1", "ins@1") or not np.isfinite(means["exact"][measure_name]):
            continue
        sign = 1 if MEASURES[measure_name.partition("@")[0]].better == "lower" else -1
        for other in ("reversed", *ORDERS):
            assert sign * means["exact"][measure_name] <= sign * means[other][measure_name], (measure_name, other)
    assert found.ranked()[0] == "exact"
    assert found.ranked()[-1] == "reversed"
    assert all(each.high < 0 and each.holm < 0.05 for each in found.compare("cdcg@5") if each.first == "exact")
    lines = found.verdict()
    assert lines[0].startswith("The most faithful explainer of EASE is exact: cdcg@5 0.")
    assert any(line.startswith("reversed does not beat random and popularity order on cdcg@5") for line in lines)


def test_nobody_is_believed_where_nobody_beats_chance():
    model, data = planted(np.random.default_rng(4))
    found = fidelity(model, data, {"noise": lambda one, seed: told(one, noise(one, seed))}, users=30, percent=False)
    [line] = found.verdict()
    assert line.startswith("No explainer is reliable for EASE: on cdcg@5, the best one (noise) does not beat random")


def noise(one, seed):
    rng = np.random.default_rng(seed)
    return {player.key: rng.normal() for player in one.players}


def test_an_item_had_twice_is_one_thing_to_take_away():
    data = dataset([[0, 1, 0, 2]], 5)
    weight = np.zeros((5, 5))
    weight[:3, 3] = [1, 3, 0.5]
    found = fidelity(adder(data, weight), data, ["exact"], users=np.array([0]), lengths=(1,), k=(1,), percent=False)
    # To EASE a history is a set: 0 adds 1, however often it was chosen, and 1 adds most.
    assert found.values["exact"]["del@1"][0] == pytest.approx(1.5 / 4.5)
    assert found.values["exact"]["ins@1"][0] == pytest.approx(3 / 4.5)


def test_orders_by_hand():
    data = dataset([[0, 1, 3], [0, 3], [1, 2, 3], [2]], 5)
    weight = np.zeros((5, 5))
    weight[:, 4] = 1
    people = find_users(adder(data, weight), data, np.array([0, 2]), seed=0)
    assert people.masked.item_U.tolist() == [4, 4]
    assert people.masked.item_D.tolist() == [0, 1, 3, 1, 2, 3]
    assert ORDERS["popularity"](data, people.masked, 0).tolist() == [3, 3, 4, 3, 3, 4]
    # Only the last person, who has everything, has 4.
    expected = [1 / math.sqrt(n) for n in (3, 3, 4, 3, 3, 4)]
    np.testing.assert_allclose(ORDERS["cosine"](data, people.masked, 0), expected)
    chance = ORDERS["random"](data, people.masked, 5)
    np.testing.assert_array_equal(chance, ORDERS["random"](data, people.masked, 5))
    assert len(set(chance)) == len(chance)


def test_equal_values_stand_in_an_order_of_chance():
    model, data = planted(np.random.default_rng(5), people=200)
    masked = find_users(model, data, np.arange(200), seed=0).masked
    place = masked.order(np.zeros(len(masked.item_D)), seed=1).view(200, -1)
    assert (place.sort(1).values == torch.arange(place.shape[1])).all()
    assert abs(float(place[:, 0].double().mean()) - (place.shape[1] - 1) / 2) < 1.0


@pytest.mark.parametrize("name", ["multvae", "mlp", "mf", "ease", "cdae"])
def test_confidence_is_what_training_makes_of_a_score(name):
    data = dataset([[0, 1, 2], [1, 2, 3]], 7)
    model = MODELS[name](MODELS[name].Config(), data.spec).eval()
    expected = {"multvae": "softmax", "mlp": "sigmoid", "mf": "sigmoid", "ease": "score", "cdae": "sigmoid"}[name]
    assert model.confidence == expected
    queries = data.queries(np.array([0]), model.spec)
    masked = MaskedHistoryScores(model, queries, torch.tensor([5]))
    with torch.no_grad():
        scores = model._score(type(queries)(torch.tensor([-1]), queries.history))[0].double()
    made = {"softmax": scores.softmax(0), "sigmoid": scores.sigmoid(), "score": scores}[expected]
    assert masked.whole[0][0] == pytest.approx(float(made[5]), rel=1e-5)


@given(st.data())
def test_correlation_is_spearmans(drawn):
    lengths = drawn.draw(st.lists(st.integers(2, 6), min_size=1, max_size=4))
    values = st.lists(st.integers(0, 3), min_size=sum(lengths), max_size=sum(lengths))
    one, other = (np.array(drawn.draw(values), dtype=np.float64) for _ in range(2))
    row = np.repeat(np.arange(len(lengths)), lengths)
    found = correlation(one, other, row)
    for person in range(len(lengths)):
        a, b = one[row == person], other[row == person]
        if len(set(a)) == 1 or len(set(b)) == 1:
            assert np.isnan(found[person])
        else:
            assert found[person] == pytest.approx(spearmanr(a, b).statistic)


def test_stability_agreement_and_seconds():
    model, data = planted(np.random.default_rng(6))
    found = fidelity(model, data, users=20, samples=30, stable=20, percent=False)
    assert found.explainers == ["exact", "shap", "lime", "occlusion", "gradient"]
    assert set(found.stability) == {"shap", "lime"}
    # A sum is a sum: every order of the players gives the same.
    assert found.stability["shap"].value == pytest.approx(1.0)
    assert found.stability["lime"].value < 1.0
    assert found.agreement["exact", "shap"] == pytest.approx(1.0)
    assert found.agreement["exact", "occlusion"] == pytest.approx(1.0)
    assert abs(found.agreement["exact", "random"]) < 0.3
    assert set(found.seconds) == set(found.explainers)
    assert "The most faithful explainer of EASE is " in str(found)
    frame = found.frame()
    assert frame.height == len(found.values) * len(found.measures)
    assert frame.filter(method="exact", measure="cdcg@5")["n"].item() == 20


def test_the_same_seed_gives_the_same():
    model, data = planted(np.random.default_rng(7))
    one, again = (fidelity(model, data, ["lime"], users=12, samples=20, seed=3, stable=0) for _ in range(2))
    assert one.frame().equals(again.frame())
    assert one.users.equals(again.users)


def test_what_cannot_be_measured_is_said():
    model, data = planted(np.random.default_rng(8), people=4)
    with pytest.raises(ConfigError, match="there is no explainer 'magic' of histories; choose from exact, shap"):
        fidelity(model, data, ["magic"])
    with pytest.raises(ConfigError, match="no explainer 'grad-cam' of histories"):
        fidelity(model, data, ["grad-cam"])
    with pytest.raises(ConfigError, match="users = 0"):
        fidelity(model, data, users=0)
    with pytest.raises(ConfigError, match="must each hold at least one number"):
        fidelity(model, data, lengths=())
    with pytest.raises(ConfigError, match="must each hold at least one number"):
        fidelity(model, data, k=(0,))
    with pytest.raises(DataError, match="no user has a history"):
        fidelity(model, data, users=np.array([data.n_users - 1]))
    with pytest.raises(ConfigError, match="'map' was not measured; choose from cdcg@5"):
        fidelity(model, data, ["exact"], lengths=(5,), percent=False).compare("map")
    model.answers = frozenset({"known_user"})
    with pytest.raises(CannotAnswer, match="EASE knows users by their index alone"):
        fidelity(model, data)
