"""compare(): differences, verdicts, the family's p values, and what cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest

from palate.errors import ConfigError
from palate.evaluation.compare import _verdict, better_of, compare
from palate.evaluation.evaluate import evaluate
from palate.evaluation.metrics import METRICS
from palate.evaluation.protocol import Protocol
from palate.evaluation.statistics import holm
from tiny import Table, dataset, part

N_USERS, N_ITEMS = 120, 30


@pytest.fixture(scope="module")
def evaluations():
    """good finds most targets, bad ranks at random, twin is good with a little noise; on one new item all fail."""
    rng = np.random.default_rng(0)
    train = dataset([(u, i, 3.0) for u in range(N_USERS) for i in (u % N_ITEMS, (u + 1) % N_ITEMS)])
    target = [(u + 5) % N_ITEMS for u in range(N_USERS)]
    test = part(train, [(u, i, float(1 + u % 5)) for u, i in enumerate(target)] + [(0, 999, 3.0)])
    bad = rng.normal(size=(N_USERS, N_ITEMS))
    good = bad.copy()
    good[np.arange(N_USERS), target] += 3
    tables = {"good": good, "bad": bad, "twin": good + rng.normal(scale=0.05, size=bad.shape)}
    found = {}
    for name, table in tables.items():
        model = Table(table, rates=name != "twin")
        model.fit(train)
        found[name] = evaluate(model, test, ["ndcg@5", "hit@1", "coverage@5", "novelty@5", "rmse"])
    return found


def test_every_pair_by_default(evaluations):
    found = compare(evaluations, "ndcg@5")
    assert [(d.first, d.second) for d in found.differences] == [("good", "bad"), ("good", "twin"), ("bad", "twin")]
    assert found.n == N_USERS
    assert holm([d.p for d in found.differences]) == pytest.approx([d.holm for d in found.differences])
    first = found.differences[0]
    means = {name: e["ndcg@5"].value for name, e in evaluations.items()}
    assert first.value == pytest.approx(means["good"] - means["bad"])
    assert first.low < first.value < first.high
    assert first.verdict == (
        f"good is better than bad on ndcg@5 by {first.value:.4f} "
        f"(95 % interval {first.low:.4f} to {first.high:.4f}, adjusted p < 0.001)"
    )
    assert found.differences[1].verdict.startswith("no significant difference between good and twin on ndcg@5: ")
    # The other way round the same winner, and the same positive numbers.
    assert found.differences[2].verdict.startswith("twin is better than bad on ndcg@5 by ")
    assert found.differences[2].value < 0
    assert "interval -" not in found.differences[2].verdict
    assert [better_of(d, "ndcg@5") for d in found.differences] == ["good", None, "twin"]


def test_against_a_baseline(evaluations):
    found = compare(evaluations, "hit@1", baseline="bad")
    assert [(d.first, d.second) for d in found.differences] == [("good", "bad"), ("twin", "bad")]
    assert all(
        d.verdict.split(" on ")[0] in ("good is better than bad", "twin is better than bad") for d in found.differences
    )
    assert found.frame().columns == ["first", "second", "value", "low", "high", "p", "holm", "verdict"]


def test_lower_is_better_for_pooled_errors(evaluations):
    two = {name: evaluations[name] for name in ("bad", "good")}
    (found,) = compare(two, "rmse").differences
    assert found.value == pytest.approx(two["bad"]["rmse"].value - two["good"]["rmse"].value)
    winner = "good" if found.value > 0 else "bad"
    assert found.verdict.startswith((f"{winner} is better than", "no significant difference"))
    assert better_of(found, "rmse") == (winner if found.significant else None)
    assert found.holm == found.p


def test_pairing_is_sharper_than_two_intervals(evaluations):
    (found,) = compare({name: evaluations[name] for name in ("good", "twin")}, "ndcg@5").differences
    alone = evaluations["good"]["ndcg@5"]
    assert found.high - found.low < 0.5 * (alone.high - alone.low)


def test_one_slice(evaluations):
    found = compare(evaluations, "ndcg@5", part="warm")
    assert found.part == "warm"
    nobody = compare(evaluations, "ndcg@5", part="new_item")
    assert nobody.n == 1
    assert all(d.value == 0 and d.p == 1 for d in nobody.differences)


def test_a_metric_without_a_good_side_is_only_above(evaluations):
    for d in compare(evaluations, "novelty@5").differences:
        assert "better" not in d.verdict
        assert better_of(d, "novelty@5") is None


@pytest.mark.parametrize(
    ("interval", "p", "said"),
    [
        (
            (0.01, 0.11),
            0.2,
            "+0.0600 (95 % interval +0.0100 to +0.1100, adjusted p = 0.200; the interval excludes 0, but",
        ),
        ((-0.01, 0.11), 0.2, "+0.0600 (95 % interval -0.0100 to +0.1100, adjusted p = 0.200)"),
        ((-0.01, 0.11), 0.04, "(95 % interval -0.0100 to 0.1100, adjusted p = 0.040; the interval includes 0, but"),
        ((0.01, 0.11), 0.04, "(95 % interval 0.0100 to 0.1100, adjusted p = 0.040)"),
    ],
)
def test_a_verdict_says_which_decides_if_interval_and_test_disagree(interval, p, said):
    verdict = _verdict("a", "b", "ndcg@5", METRICS["ndcg"], (0.06, *interval), p)
    assert said in verdict
    assert verdict.startswith("no significant difference between a and b" if p > 0.05 else "a is better than b")


def test_the_same_each_time_and_printed(evaluations):
    one, again = compare(evaluations, "ndcg@5"), compare(evaluations, "ndcg@5")
    assert one == again
    text = str(one)
    assert text.splitlines()[0] == "ndcg@5, all rows, 120 users"
    assert "good - bad" in text
    assert one.differences[0].verdict in text


def test_a_small_real_difference_needs_many_users():
    """Two models that differ by chance alone are told apart no more often than 5 times in 100."""
    train = dataset([(u, u % 20) for u in range(40)])
    test = part(train, [(u, (u + 3) % 20) for u in range(40)])
    told = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pair = {}
        for name in ("a", "b"):
            model = Table(rng.normal(size=(40, 20)))
            model.fit(train)
            pair[name] = evaluate(model, test, ["ndcg@5"])
        told += compare(pair, "ndcg@5").differences[0].significant
    assert told <= 6


def test_what_cannot_be_compared(evaluations):
    model = Table(np.zeros((N_USERS, N_ITEMS)))
    train = dataset([(u, i, 3.0) for u in range(N_USERS) for i in (u % N_ITEMS, (u + 1) % N_ITEMS)])
    model.fit(train)
    other = evaluate(model, part(train, [(0, 9, 3.0)]), protocol=Protocol(metrics=("ndcg@5",)))
    with pytest.raises(ConfigError, match="different protocols") as error:
        compare({**evaluations, "other": other}, "ndcg@5")
    assert other.protocol.hash in str(error.value)
    with pytest.raises(ConfigError, match="at least two evaluations, and got 1"):
        compare({"good": evaluations["good"]}, "ndcg@5")
    with pytest.raises(ConfigError, match="there is no paired test"):
        compare(evaluations, "coverage@5")
    with pytest.raises(ConfigError, match=r"'rmse' was not measured for twin"):
        compare(evaluations, "rmse")
    with pytest.raises(ConfigError, match="'xyz' was not measured for good, bad, twin"):
        compare(evaluations, "xyz")
    with pytest.raises(ConfigError, match="no evaluation of the baseline 'best'; choose from good"):
        compare(evaluations, "ndcg@5", baseline="best")
    with pytest.raises(ConfigError, match="no slice 'cold'"):
        compare(evaluations, "ndcg@5", part="cold")
