"""The loop: early stopping, best weights, what it tells, what it refuses, and what it leaves alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import ROWS, Data, Given, Rows, Toy, job, same

from palate.errors import TrainingError
from palate.training.loop import Epoch, run


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("embeddings", ["dense", "rowwise"])
@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
def test_it_learns(optimizer: str, embeddings: str) -> None:
    lr = {"adam": 0.05, "adagrad": 0.5, "sgd": 3.0}[optimizer]
    records = run(Toy(), Data(), job(epochs=15, optimizer=optimizer, embeddings=embeddings, lr=lr))
    assert records[-1].loss < 0.8 * records[0].loss


def test_records_say_what_happened() -> None:
    records = run(Toy(), Data(), job(Given(1.0, 3.0, 2.0), epochs=3))
    assert [r.epoch for r in records] == [1, 2, 3]
    assert [r.samples for r in records] == [ROWS] * 3
    assert [r.best for r in records] == [True, True, False]
    assert [r.valid for r in records] == [{"score": 1.0}, {"score": 3.0}, {"score": 2.0}]
    assert all(r.seconds > 0 for r in records)


def test_the_mean_loss_weighs_each_row_once() -> None:
    """The last batch is shorter: 600 rows in batches of 400 and 200."""
    seen: list[tuple[int, float]] = []
    told = replace(job(epochs=1, batch_size=400), on_step=lambda epoch, done, total, loss: seen.append((done, loss)))
    (record,) = run(Toy(), Data(), told)
    assert [done for done, _ in seen] == [400, 600]
    assert record.loss == pytest.approx((400 * seen[0][1] + 200 * seen[1][1]) / 600)


@pytest.mark.parametrize("higher", [True, False])
def test_it_stops_when_patience_is_over_and_ends_with_the_best_weights(higher: bool) -> None:
    sign = 1 if higher else -1
    judge = Given(*(sign * v for v in (1.0, 5.0, 4.0, 5.0, 3.0, 9.0)), higher_is_better=higher)
    model = Toy()
    records = run(model, Data(), job(judge, epochs=6, patience=3))
    assert len(records) == 5
    assert [r.epoch for r in records if r.best] == [1, 2]  # equal is not better
    assert same(model.state_dict(), judge.weights[1])
    assert not same(model.state_dict(), judge.weights[4])
    assert not model.training


def test_without_patience_all_epochs_run_and_the_best_still_wins() -> None:
    judge = Given(2.0, 1.0, 1.0, 1.0)
    model = Toy()
    assert len(run(model, Data(), job(judge, epochs=4, patience=0))) == 4
    assert same(model.state_dict(), judge.weights[0])


def test_without_valid_all_epochs_run_and_the_last_weights_stay() -> None:
    one, four = Toy(), Toy()
    assert len(run(four, Data(), job(epochs=4, patience=1))) == 4
    run(one, Data(), job(epochs=1))
    assert not same(one.state_dict(), four.state_dict())


def test_a_metric_that_is_no_number_is_never_best() -> None:
    judge = Given(float("nan"), 1.0, float("nan"), 0.5)
    model = Toy()
    records = run(model, Data(), job(judge, epochs=4, patience=0))
    assert [r.best for r in records] == [False, True, False, False]
    assert same(model.state_dict(), judge.weights[1])


def test_same_seed_same_weights_and_another_seed_others() -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        model = Toy()
        run(model, Data(), job(seed=seed))
        weights.append(model.state_dict())
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


class Diverging(Toy):
    def loss(self, batch: Rows, context: Any) -> Tensor:
        loss = super().loss(batch, context)
        self.steps = getattr(self, "steps", 0) + 1
        return loss * float("nan") if self.steps == 14 else loss


def test_a_loss_that_is_no_number_ends_training_and_says_where() -> None:
    model = Diverging()
    with pytest.raises(TrainingError, match=r"nan in epoch 2, step 2, with lr 0\.05"):
        run(model, Data(), job())
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("fails", [False, True])
def test_tables_are_put_back(fails: bool) -> None:
    model = Diverging() if fails else Toy()
    try:
        run(model, Data(), job(epochs=2))
    except TrainingError:
        assert fails
    assert not model.user.sparse
    assert not model.item.sparse
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("asked", "steps"), [("bfloat16", "bf16"), ("float32", "tf32")])
@pytest.mark.parametrize("fails", [False, True])
def test_matmul_is_a_matter_of_steps_alone(asked: str, steps: str, fails: bool) -> None:
    products = torch.backends.mkldnn.matmul
    heard: set[tuple[str, str]] = set()

    class Listening(Diverging if fails else Toy):  # type: ignore[misc]
        def loss(self, batch: Rows, context: Any) -> Tensor:
            heard.add(("step", products.fp32_precision))
            return super().loss(batch, context)

    class Judge(Given):
        def __call__(self, model: Any) -> dict[str, float]:
            heard.add(("valid", products.fp32_precision))
            return super().__call__(model)

    before = products.fp32_precision
    products.fp32_precision = "tf32"  # What the caller has set is his, whatever is asked for here.
    try:
        run(Listening(), Data(), job(Judge(1.0, 2.0), epochs=2, matmul=asked))
    except TrainingError:
        assert fails
    finally:
        after, products.fp32_precision = products.fp32_precision, before
    assert heard == {("step", steps), ("valid", "tf32")}
    assert after == "tf32"


def test_callbacks_hear_each_epoch_and_step() -> None:
    heard: list[Any] = []
    told = replace(job(epochs=2), on_epoch=heard.append, on_step=lambda *step: heard.append(step[:3]))
    records = run(Toy(), Data(), told)
    steps = [(epoch, done, ROWS) for epoch in (1, 2) for done in range(50, ROWS + 1, 50)]
    assert [h for h in heard if isinstance(h, Epoch)] == records
    assert [h for h in heard if not isinstance(h, Epoch)] == steps


def test_it_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    run(Toy(), Data(), job(Given(1.0, 2.0, 3.0, 4.0)))
    assert capfd.readouterr() == ("", "")


class Empty(Toy):
    """Steps that cost nothing themselves."""

    def loss(self, batch: Rows, context: Any) -> Tensor:
        return self.out[1].bias.sum()


@pytest.mark.bench
def test_the_loop_itself_costs_little() -> None:
    start = time.process_time()
    run(Empty(), Data(), job(epochs=50, batch_size=1))
    assert (time.process_time() - start) / (50 * ROWS) < 150e-6
