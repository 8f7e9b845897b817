"""Row-sparse rules against plain torch, against the formulas, and against FBGEMM's kernel."""

from __future__ import annotations

import builtins
import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from palate.config import CompleteTraining
from palate.errors import ConfigError, MissingExtra
from palate.training import optimizers
from palate.training.optimizers import Optimizer

ROWS, WIDTH = 40, 6
RULES = ["adam", "adagrad", "sgd"]
FBGEMM = pytest.mark.skipif(importlib.util.find_spec("fbgemm_gpu") is None, reason="FBGEMM is not installed")


class Net(nn.Module):
    """One table looked up twice, one that shares its indices with it, and a dense layer."""

    def __init__(self, rows: int = ROWS) -> None:
        super().__init__()
        self.item = nn.Embedding(rows, WIDTH)
        self.bias = nn.Embedding(rows, 1)
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        both = self.item(left) * self.item(right)
        return (self.out(both).sigmoid() + self.bias(left)).square().sum()


def training(**changes: Any) -> CompleteTraining:
    return CompleteTraining(
        **({"optimizer": "adam", "embeddings": "rowwise", "lr": 0.05, "batch_size": 2048} | changes)
    )


def train(config: CompleteTraining, steps: int = 12, everything: bool = True, net: Net | None = None) -> Net:
    """A few steps on made-up batches, with all rows in each or only some of the first half."""
    torch.manual_seed(0)
    net = net or Net()
    optimizer = Optimizer(net, config)
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        left = torch.randint(ROWS // 2, (64,), generator=rng)
        right = torch.randint(ROWS // 2, (64,), generator=rng)
        if everything:
            left = torch.cat([torch.arange(ROWS), left])
            right = torch.cat([torch.arange(ROWS), right])
        optimizer.zero_grad()
        net(left, right).backward()
        optimizer.step()
    optimizer.release()
    return net


def assert_same(left: nn.Module, right: nn.Module, tolerance: float = 2e-6) -> None:
    for (name, a), b in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("grad_clip", [0.0, 0.01])
@pytest.mark.parametrize("rule", RULES)
def test_rows_and_dense_are_one_rule_when_all_rows_are_in_each_batch(
    rule: str, grad_clip: float, weight_decay: float
) -> None:
    options = {"optimizer": rule, "grad_clip": grad_clip, "weight_decay": weight_decay}
    by_rows = train(training(**options))
    dense = train(training(embeddings="dense", **options))
    assert_same(by_rows, dense)
    assert not torch.allclose(by_rows.item.weight, train(training(optimizer=rule), steps=0).item.weight)


@pytest.mark.parametrize("rule", RULES)
def test_rows_outside_the_batch_do_not_move(rule: str) -> None:
    before = train(training(optimizer=rule), steps=0)
    after = train(training(optimizer=rule, weight_decay=0.1), everything=False)
    half = ROWS // 2
    assert torch.equal(after.item.weight[half:], before.item.weight[half:])
    assert (after.item.weight[:half] != before.item.weight[:half]).any(1).all()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_without_torchs_fused_function_is_the_same_rule(
    weight_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = training(embeddings="dense", weight_decay=weight_decay)
    fused = train(config)
    assert optimizers.fused_adamw is not None
    monkeypatch.setattr(optimizers, "fused_adamw", None)
    assert_same(train(config), fused)


def test_adam_on_rows_is_torch_sparse_adam() -> None:
    ours = train(training(), everything=False)
    torch.manual_seed(0)
    net = Net()
    net.item.sparse = net.bias.sparse = True
    sparse = torch.optim.SparseAdam([net.item.weight, net.bias.weight], lr=0.05)
    dense = torch.optim.Adam(net.out.parameters(), lr=0.05)
    rng = torch.Generator().manual_seed(1)
    for _ in range(12):
        left = torch.randint(ROWS // 2, (64,), generator=rng)
        right = torch.randint(ROWS // 2, (64,), generator=rng)
        net.zero_grad()
        net(left, right).backward()
        sparse.step()
        dense.step()
    # SparseAdam folds the corrections into the step size, which changes what eps weighs where a gradient is tiny.
    assert_same(ours, net, 1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_dense_parameters_move_as_torchs_classes_move_them(rule: str) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)
    theirs.load_state_dict(ours.state_dict())
    ours.register_parameter("unused", nn.Parameter(torch.ones(2)))
    optimizer = Optimizer(ours, training(optimizer=rule))
    torchs = {
        "adam": torch.optim.AdamW(theirs.parameters(), lr=0.05, weight_decay=0, fused=True),
        "adagrad": torch.optim.Adagrad(theirs.parameters(), lr=0.05),
        "sgd": torch.optim.SGD(theirs.parameters(), lr=0.05),
    }[rule]
    x = torch.randn(8, WIDTH)
    for _ in range(5):
        for net, mover in ((ours, optimizer), (theirs, torchs)):
            mover.zero_grad()
            net(x).square().sum().backward()
            mover.step()
    assert torch.equal(ours.unused, torch.ones(2))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_adagrad_moves_a_row_as_the_formula_says() -> None:
    table = nn.Embedding.from_pretrained(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), freeze=False)
    optimizer = Optimizer(table, training(optimizer="adagrad", lr=0.1, weight_decay=0.5))
    for _ in range(2):
        optimizer.zero_grad()
        (table(torch.tensor([0, 0, 0])).sum(0) * torch.tensor([1.0, 2.0])).sum().backward()  # g = (3, 6)
        optimizer.step()
    once = torch.tensor([1.0, 2.0]) * 0.95 - 0.1 * torch.tensor([3.0, 6.0]) / 22.5**0.5
    twice = once * 0.95 - 0.1 * torch.tensor([3.0, 6.0]) / 45**0.5
    torch.testing.assert_close(table.weight.detach(), torch.stack([twice, torch.tensor([3.0, 4.0])]))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("embeddings", ["dense", "rowwise"])
def test_weight_decay_is_decoupled_for_all_parameters(rule: str, embeddings: str) -> None:
    """A parameter whose gradient is zero shrinks by lr * weight_decay of itself and nothing else."""
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = Optimizer(net, training(optimizer=rule, embeddings=embeddings, weight_decay=0.2, lr=0.5))
    (0 * net(torch.arange(ROWS), torch.arange(ROWS))).backward()
    optimizer.step()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name] * 0.9)


def test_clipping_counts_tables_and_dense_parameters_together() -> None:
    moves = []
    for clip in (0.0, 1e-3):
        torch.manual_seed(0)
        net = Net()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        optimizer = Optimizer(net, training(optimizer="sgd", lr=1.0, grad_clip=clip))
        net(torch.tensor([1, 1, 2]), torch.tensor([2, 1, 2])).backward()
        optimizer.step()
        moves.append(torch.cat([(value - before[name]).flatten() for name, value in net.state_dict().items()]))
    free, clipped = moves
    torch.testing.assert_close(clipped.norm(), torch.tensor(1e-3), rtol=0.01, atol=0)
    torch.testing.assert_close(clipped, free * (clipped.norm() / free.norm()), rtol=0.02, atol=1e-6)


def test_a_table_used_as_a_matrix_steps_all_rows() -> None:
    weights = []
    for embeddings in ("dense", "rowwise"):
        torch.manual_seed(0)
        net = Net()
        optimizer = Optimizer(net, training(embeddings=embeddings))
        for _ in range(3):
            optimizer.zero_grad()
            (net(torch.tensor([1, 3]), torch.tensor([2, 2])) + net.item.weight.square().mean()).backward()
            optimizer.step()
        weights.append(net.item.weight.detach())
    torch.testing.assert_close(*weights)


def test_tables_may_share_a_weight_and_may_be_frozen_or_padded() -> None:
    net = nn.ModuleDict({"a": nn.Embedding(9, 2, padding_idx=0), "b": nn.Embedding(9, 2), "c": nn.Embedding(9, 2)})
    net["b"].weight = net["a"].weight
    net["c"].requires_grad_(False)
    before = net["c"].weight.clone()
    optimizer = Optimizer(net, training(optimizer="sgd", lr=1.0))
    sum(net[name](torch.tensor([0, 4])).sum() for name in "abc").backward()
    start = net["a"].weight.detach().clone()
    optimizer.step()
    moved = start - net["a"].weight.detach()
    assert moved[4].tolist() == pytest.approx([2.0, 2.0])
    assert moved[0].tolist() == pytest.approx([1.0, 1.0])  # by b alone: a leaves its padding row
    assert torch.equal(net["c"].weight, before)


def test_auto_goes_by_rows_and_batch() -> None:
    least, many = optimizers.DENSE_LEAST, optimizers.DENSE_ROWS * 1000
    for size, rows, sparse in (
        (100, least, False),
        (100, least + 1, True),
        (1000, many, False),
        (1000, many + 1, True),
    ):
        net = Net(rows)
        optimizer = Optimizer(net, training(embeddings="auto", batch_size=size))
        assert net.item.sparse is sparse
        optimizer.release()
        assert net.item.sparse is False


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("embeddings", ["dense", "rowwise"])
def test_state_goes_over_to_another_optimizer(rule: str, embeddings: str) -> None:
    config = training(optimizer=rule, embeddings=embeddings)
    net, copy = Net(), Net()
    first, second = Optimizer(net, config), Optimizer(copy, config)
    index = torch.tensor([1, 2, 2])
    net(index, index).backward()
    first.step()
    copy.load_state_dict(net.state_dict())
    second.load_state({name: value.clone() for name, value in first.state().items()})
    for model, optimizer in ((net, first), (copy, second)):
        optimizer.zero_grad()
        model(index, index).backward()
        optimizer.step()
    for a, b in zip(net.state_dict().values(), copy.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_distinct_rows_are_those_of_torch(count: int) -> None:
    index = torch.randint(300, (count,), generator=torch.Generator().manual_seed(count))
    rows, place = torch.unique(index, return_inverse=True)
    ours = optimizers._unique(index)
    assert torch.equal(ours[0], rows)
    assert torch.equal(ours[1], place)


def test_an_empty_lookup_moves_nothing() -> None:
    net = Net()
    before = net.item.weight.detach().clone()
    optimizer = Optimizer(net, training())
    net.item(torch.empty(0, dtype=torch.int64)).sum().backward()
    optimizer.step()
    assert torch.equal(net.item.weight, before)


@FBGEMM
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("grad_clip", [0.0, 0.01])
@pytest.mark.parametrize("everything", [False, True])
def test_fbgemm_agrees_with_the_portable_path(everything: bool, grad_clip: float, weight_decay: float) -> None:
    options = {"optimizer": "adagrad", "grad_clip": grad_clip, "weight_decay": weight_decay}
    fused = train(training(embeddings="fbgemm", **options), everything=everything)
    assert_same(fused, train(training(**options), everything=everything), 1e-5)


@FBGEMM
def test_fbgemm_does_not_do_adam() -> None:
    with pytest.raises(ConfigError, match="adagrad"):
        Optimizer(Net(), training(embeddings="fbgemm"))


def test_without_fbgemm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "fbgemm_gpu":
            raise ImportError("No module named 'fbgemm_gpu'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra, match=r"needs FBGEMM .* install .*, or choose"):
        Optimizer(Net(), training(embeddings="fbgemm", optimizer="adagrad"))
