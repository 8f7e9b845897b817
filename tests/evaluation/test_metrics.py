"""Metrics: a table worked by hand, expected values under ties by enumeration, two independent libraries, bounds."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise, permutations
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.data.ragged import Ragged
from palate.errors import ConfigError
from palate.evaluation.metrics import METRICS, coverage, gini, parse
from palate.ranking.ranked import Catalogue, sketch, tag_vectors
from palate.ranking.topk import rank
from tiny import Table, dataset, queries

L3 = 1 / log2(3)  # 0.63093, the discount of place 2; place 3 has 1 / log2(4) = 0.5

# Scores of items 0..5; targets; k; what comes out, worked by hand.
HAND = {
    # Places of the targets: 1, 4, 6; one of them within 3.
    "one of three found": (
        [9, 8, 7, 6, 5, 4],
        [0, 3, 5],
        3,
        {
            "recall": 1 / 3,
            "capped_recall": 1 / 3,
            "precision": 1 / 3,
            "hit": 1.0,
            "mrr": 1.0,
            "ndcg": 1 / (1 + L3 + 0.5),  # 1 / 2.13093 = 0.46928
            "map": 1 / 3,  # precision 1/1 at place 1, over min(3, 3)
            # Targets 0, 3, 5 against items 1, 2, 4: 3 + 1 + 0 of 9 pairs are right.
            "auc": 4 / 9,
        },
    ),
    # Places 2 and 3.
    "second and third": (
        [9, 8, 7, 6, 5, 4],
        [1, 2],
        3,
        {
            "recall": 1.0,
            "capped_recall": 1.0,
            "precision": 2 / 3,
            "hit": 1.0,
            "mrr": 1 / 2,
            "ndcg": (L3 + 0.5) / (1 + L3),  # 1.13093 / 1.63093 = 0.69343
            "map": (1 / 2 + 2 / 3) / 2,  # 0.58333
            "auc": 6 / 8,  # each target is above 3 of the 4 others
        },
    ),
    "none found": (
        [9, 8, 7, 6, 5, 4],
        [5],
        3,
        {"recall": 0, "capped_recall": 0, "precision": 0, "hit": 0, "mrr": 0, "ndcg": 0, "map": 0, "auc": 0},
    ),
    # More targets than places: the list is perfect, yet recall counts all four.
    "a full list of targets": (
        [9, 8, 7, 6, 5, 4],
        [0, 1, 2, 3],
        2,
        {"recall": 2 / 4, "capped_recall": 1, "precision": 1, "hit": 1, "mrr": 1, "ndcg": 1, "map": 1, "auc": 1},
    ),
    # Item 0 shares the top with three others: places 1..4 alike, within 2 with probability 2/4.
    "one target among four tied": (
        [1, 1, 1, 1, 0, 0],
        [0],
        2,
        {
            "recall": 1 / 2,
            "capped_recall": 1 / 2,
            "precision": 1 / 4,
            "hit": 1 / 2,
            "mrr": (1 + 1 / 2) / 4,
            "ndcg": (1 + L3) / 4,
            "map": (1 + 1 / 2) / 4,
            "auc": (3 * 0.5 + 2) / 5,  # ties are half right
        },
    ),
    # Both targets among four tied. No target in two places: C(2,2) / C(4,2) = 1/6.
    "two targets among four tied": (
        [1, 1, 1, 1, 0, 0],
        [0, 1],
        2,
        {
            "recall": 1 / 2,
            "precision": 1 / 2,
            "hit": 5 / 6,
            "mrr": 1 / 2 + (1 / 2) * (2 / 3) * (1 / 2),  # first place 1/2; else second place 2/3
            "ndcg": 2 * (1 + L3) / 4 / (1 + L3),
            # TT 1/6: (1 + 1) / 2. T- 1/3: 1 / 2. -T 1/3: (1/2) / 2. -- 1/6: 0.
            "map": 1 / 6 + (1 / 3) * (1 / 2) + (1 / 3) * (1 / 4),
        },
    ),
}


def judged(scores, targets, k, full=True, seen=None, **catalogue):
    """The lists of one user for each row of scores."""
    table = np.atleast_2d(np.asarray(scores, dtype=np.float32))
    rows = targets if targets and isinstance(targets[0], list) else [targets]
    ranked = rank(Table(table), queries(len(table), seen), k, targets=Ragged.of(rows), full=full, count=True)
    return replace(ranked, catalogue=Catalogue(**catalogue)) if catalogue else ranked


@pytest.mark.parametrize("name", HAND)
@pytest.mark.parametrize("full", [True, False])
def test_hand_worked(name, full):
    scores, targets, k, expected = HAND[name]
    ranked = judged(scores, targets, k, full)
    for metric, value in expected.items():
        if metric == "auc" and not full:
            continue
        cut = None if metric == "auc" else k
        assert METRICS[metric](ranked, cut).item() == pytest.approx(value, abs=1e-12), metric


def strict(order, targets, k):
    """Every accuracy metric of one strict order, the plain way."""
    hits = [item in targets for item in order[:k]]
    n = len(targets)
    places = [p for p, is_hit in enumerate(hits, start=1) if is_hit]
    ideal = sum(1 / log2(p + 1) for p in range(1, min(k, n) + 1))
    others = [i for i in order if i not in targets]
    right = sum(order.index(t) < order.index(o) for t in targets for o in others)
    return {
        "recall": len(places) / n,
        "capped_recall": len(places) / min(k, n),
        "precision": len(places) / k,
        "hit": float(bool(places)),
        "mrr": 1 / places[0] if places else 0.0,
        "ndcg": sum(1 / log2(p + 1) for p in places) / ideal,
        "map": sum(sum(hits[:p]) / p for p in places) / min(k, n),
        "auc": right / (n * len(others)) if others else 0.5,
    }


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.data())
def test_ties_get_the_mean_over_all_orders(scores, data):
    targets = data.draw(st.lists(st.integers(0, len(scores) - 1), min_size=1, unique=True))
    k = data.draw(st.integers(1, 8))
    # Every permutation breaks the ties once; a stable sort of each by score gives all orders, each equally often.
    orders = [sorted(order, key=lambda i: -scores[i]) for order in permutations(range(len(scores)))]
    found = [strict(order, targets, k) for order in orders]
    full, short = judged(scores, targets, k, True), judged(scores, targets, k, False)
    for name in found[0]:
        mean = float(np.mean([f[name] for f in found]))
        assert METRICS[name](full, None if name == "auc" else k).item() == pytest.approx(mean, abs=1e-9), name
        if name != "auc":
            assert METRICS[name](short, k).item() == pytest.approx(mean, abs=1e-9), name


@given(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.data())
def test_auc_with_a_cut_off_is_the_mean_over_orders_beyond_it(scores, data):
    targets = data.draw(st.lists(st.integers(0, len(scores) - 1), min_size=1, unique=True))
    k = data.draw(st.integers(1, 5))
    values = []
    for order in permutations(range(len(scores))):
        listed = sorted(order, key=lambda i: -scores[i])
        values += [strict([*listed[:k], *tail], targets, 1)["auc"] for tail in permutations(listed[k:])]
    assert METRICS["auc"](judged(scores, targets, k, False), k).item() == pytest.approx(np.mean(values), abs=1e-9)


def test_a_constant_scorer_gets_its_expectation():
    # 100 candidates, one target, wherever it stands: 10 of 100.
    for target in (0, 57, 99):
        ranked = judged(np.zeros(100), [target], 10, full=False)
        assert METRICS["hit"](ranked, 10).item() == pytest.approx(0.1)
        assert METRICS["recall"](ranked, 10).item() == pytest.approx(0.1)
        assert METRICS["mrr"](ranked, 10).item() == pytest.approx(sum(1 / p for p in range(1, 11)) / 100)
        discount = sum(1 / log2(p + 1) for p in range(1, 11))
        assert METRICS["ndcg"](ranked, 10).item() == pytest.approx(discount / 100)
    assert METRICS["auc"](judged(np.zeros(100), [3], 10), None).item() == 0.5


def test_a_big_tied_group_stays_exact():
    # 3 targets among 20,000 tied items: P(none in 50) = C(19997, 50) / C(20000, 50).
    ranked = judged(np.zeros(20_000), [0, 5000, 19_999], 50, full=False)
    none = np.prod([(20_000 - 50 - i) / (20_000 - i) for i in range(3)])
    assert METRICS["hit"](ranked, 50).item() == pytest.approx(1 - none, rel=1e-6)


@pytest.fixture(scope="module")
def random_lists():
    """40 users, 30 items, 1 to 8 targets each, no ties."""
    rng = np.random.default_rng(3)
    scores = rng.permuted(np.tile(np.arange(30.0), (40, 1)), axis=1)
    targets = [sorted(rng.choice(30, rng.integers(1, 9), replace=False).tolist()) for _ in range(40)]
    return scores, targets


def test_agrees_with_ranx(random_lists):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numba = pytest.importorskip("numba")
        numba.config.DISABLE_JIT = True  # compiling takes a minute, running plain a tenth of a second
        ranx = pytest.importorskip("ranx")
        scores, targets = random_lists
        qrels = ranx.Qrels({f"q{u:02}": {f"i{t}": 1 for t in row} for u, row in enumerate(targets)})
        run = ranx.Run({f"q{u:02}": {f"i{i}": float(s) for i, s in enumerate(row)} for u, row in enumerate(scores)})
        theirs = {
            name: ranx.evaluate(qrels, run, f"{name}@7", return_mean=False)
            for name in ("ndcg", "recall", "precision", "hit_rate", "mrr", "map")
        }
    n = np.array([len(row) for row in targets])
    theirs["hit"] = theirs.pop("hit_rate")
    theirs["map"] = theirs["map"] * n / np.minimum(n, 7)  # ranx divides by n
    ranked = judged(scores, targets, 7, full=False)
    for name, values in theirs.items():
        np.testing.assert_allclose(METRICS[name](ranked, 7).numpy(), values, atol=1e-9, err_msg=name)


def test_agrees_with_scikit_learn(random_lists):
    sk = pytest.importorskip("sklearn.metrics")
    scores, targets = random_lists
    scores = scores // 4  # ties, which both of these average over
    truth = np.zeros_like(scores)
    for u, row in enumerate(targets):
        truth[u, row] = 1
    ranked = judged(scores, targets, 6)
    ndcg = [sk.ndcg_score(truth[u : u + 1], scores[u : u + 1], k=6) for u in range(40)]
    np.testing.assert_allclose(METRICS["ndcg"](ranked, 6).numpy(), ndcg, atol=1e-9)
    auc = [sk.roc_auc_score(truth[u], scores[u]) for u in range(40)]
    np.testing.assert_allclose(METRICS["auc"](ranked, None).numpy(), auc, atol=1e-9)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.data())
def test_bounds_and_growth_in_k(scores, data):
    targets = data.draw(st.lists(st.integers(0, len(scores) + 2), min_size=1, unique=True))  # some unknown
    seen = data.draw(st.lists(st.integers(0, len(scores) - 1), unique=True))
    ranked = judged(scores, targets, 12, True, [seen])
    for name in ("recall", "capped_recall", "precision", "hit", "mrr", "ndcg", "map", "auc"):
        values = [METRICS[name](ranked, k).item() for k in range(1, 13)]
        assert all(0 <= v <= 1 + 1e-12 for v in values), name
        if name in ("recall", "hit", "mrr"):
            assert all(a <= b + 1e-9 for a, b in pairwise(values)), name


@given(st.permutations(range(8)))
def test_renaming_items_changes_nothing(order):
    scores, targets = np.array([3, 1, 2, 2, 0, 1, 3, 0]), [1, 2, 6]
    renamed = np.empty(8)
    renamed[list(order)] = scores
    one, other = judged(scores, targets, 4), judged(renamed, [order[t] for t in targets], 4)
    for name in ("recall", "precision", "hit", "mrr", "ndcg", "map"):
        assert METRICS[name](one, 4).item() == pytest.approx(METRICS[name](other, 4).item()), name


def test_targets_no_list_can_hold_stay_in_the_count():
    # Item 9 is unknown and item 1 was seen: 1 of 3 targets can be found, and is.
    ranked = judged([3.0, 2.0, 1.0], [0, 1, 9], 10, True, [[1]])
    assert METRICS["recall"](ranked, 10).item() == pytest.approx(1 / 3)
    assert METRICS["hit"](judged([3.0], [9], 10), 10).item() == 0  # though the list has room for all
    # Candidates: 0 and 2. Pairs with item 2: right for 0, wrong for 1 and 9.
    assert METRICS["auc"](ranked, None).item() == pytest.approx(1 / 3)
    assert METRICS["auc"](ranked, 10).item() == pytest.approx(1 / 3)


def test_no_targets_gives_zero_not_nan():
    ranked = judged([3.0, 2.0], [[]], 2)
    for name in ("recall", "precision", "hit", "mrr", "ndcg", "map"):
        assert METRICS[name](ranked, 2).tolist() == [0.0]


def test_only_judges_by_some_targets():
    ranked = judged([[3, 2, 1], [3, 2, 1]], [[0, 1], [2]], 1)
    some = ranked.only(torch.tensor([False, True, True]))
    assert METRICS["recall"](ranked, 1).tolist() == [0.5, 0.0]
    assert METRICS["recall"](some, 1).tolist() == [0.0, 0.0]
    assert some.targets.lengths.tolist() == [1, 1]


def test_list_metrics_by_hand():
    # 8 people; items had by 8, 4, 2, 1, 0 of them: 0, 1, 2, 3 bits, and 3 for the one nobody has.
    popularity = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    ranked = judged([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5]], [[0], [0]], 2, popularity=popularity, n_users=8)
    assert ranked.items.tolist() == [[0, 1], [4, 3]]
    assert METRICS["novelty"](ranked, 2).tolist() == [0.5, 3.0]
    assert METRICS["popularity"](ranked, 2).tolist() == [6.0, 0.5]
    # 80 % of 15 is 12, which items 0 and 1 hold: the others are the tail.
    assert ranked.catalogue.tail.tolist() == [False, False, True, True, True]
    assert METRICS["tail_share"](ranked, 2).tolist() == [0.0, 1.0]


def test_list_metrics_of_short_and_empty_lists():
    popularity = torch.tensor([4.0, 2.0], dtype=torch.float64)
    vectors = torch.eye(2)
    ranked = judged([[2, 1]] * 2, [[0], [0]], 5, True, [[0], [0, 1]], popularity=popularity, n_users=4, vectors=vectors)
    assert ranked.items[:, 0].tolist() == [1, -1]
    assert METRICS["novelty"](ranked, 5).tolist() == [1.0, 0.0]
    assert METRICS["popularity"](ranked, 5).tolist() == [2.0, 0.0]
    assert METRICS["diversity"](ranked, 5).tolist() == [0.0, 0.0]


def test_diversity_by_hand():
    # Likeness: 0-1 is 1, 0-2 and 1-2 are 0. All three: 1 - (1 + 0 + 0) / 3.
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    one = torch.ones(3, dtype=torch.float64)
    ranked = judged([[3, 2, 1]], [[0]], 3, popularity=one, n_users=1, vectors=vectors)
    assert METRICS["diversity"](ranked, 3).item() == pytest.approx(2 / 3)
    assert METRICS["diversity"](ranked, 2).item() == pytest.approx(0.0)


def test_list_metrics_say_what_they_lack():
    ranked = judged([[3, 2, 1]], [[0]], 3)
    with pytest.raises(ValueError, match="catalogue"):
        METRICS["novelty"](ranked, 3)
    with pytest.raises(ValueError, match="vectors"):
        METRICS["diversity"](replace(ranked, catalogue=Catalogue(torch.ones(3, dtype=torch.float64), 1)), 3)
    with pytest.raises(ValueError, match="full=True"):
        METRICS["auc"](judged([[3, 2, 1]], [[0]], 3, full=False), None)
    with pytest.raises(ValueError, match="count=True"):
        METRICS["auc"](rank(Table([[3.0, 2.0]]), queries(1), 2, targets=Ragged.of([[0]])), 2)
    with pytest.raises(ValueError, match="k = 4 is larger than the lists, which hold 3"):
        METRICS["ndcg"](ranked, 4)


def test_coverage_and_gini_by_hand():
    assert coverage(np.array([3, 0, 1, 0])) == 0.5
    assert gini(np.array([2, 2, 2])) == 0.0
    # One of n has it all: (n - 1) / n.
    assert gini(np.array([0, 0, 0, 5])) == pytest.approx(3 / 4)
    # 1, 3: half the mean absolute difference over the mean: (|1-3| * 2 / 4) / (2 * 2).
    assert gini(np.array([3, 1])) == pytest.approx(1 / 4)
    assert gini(np.array([0, 0])) == 0.0


def test_a_sketch_tells_likeness_of_items_from_their_users():
    # Items 0 and 1 have the same 40 users, item 2 has 40 others, item 3 shares half of item 0's.
    rows = (
        [(u, i) for u in range(40) for i in (0, 1)] + [(u, 2) for u in range(40, 80)] + [(u, 3) for u in range(20, 60)]
    )
    vectors = torch.nn.functional.normalize(sketch(dataset(rows), 4, seed=0), dim=1)
    likeness = (vectors @ vectors.T).numpy()
    assert likeness[0, 1] == pytest.approx(1.0, abs=1e-5)
    assert likeness[0, 2] == pytest.approx(0.0, abs=0.2)
    assert likeness[0, 3] == pytest.approx(0.5, abs=0.2)
    assert sketch(dataset(rows), 2, seed=0).shape[0] == 2


def test_tag_vectors():
    import polars as pl

    text = tag_vectors(pl.Series(["Comedy|Drama", None, "Drama"]))
    lists = tag_vectors(pl.Series([["Comedy", "Drama"], None, ["Drama"]]))
    assert text.tolist() == lists.tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]


def test_parse():
    found = parse(["ndcg@10", "rmse", "auc", "auc@5"])
    assert {name: k for name, (_, k) in found.items()} == {"ndcg@10": 10, "rmse": None, "auc": None, "auc@5": 5}
    assert found["ndcg@10"][0] is METRICS["ndcg"]


def test_parse_reports_all_faults():
    with pytest.raises(ConfigError) as error:
        parse(["ndgc@10", "recall", "rmse@5", "hit@0", "hit@ten", "xyzzy", "ndcg@5"])
    message = str(error.value)
    for said in ("6 faults", "did you mean 'ndcg'", "'recall' needs a cut-off", "'rmse' takes no cut-off", "'hit@0'"):
        assert said in message
    assert "'hit@ten'" in message
    assert "known: ndcg, recall" in message
