"""`palate scale plan`: sizes are those of the models' own code, formulas are those of what is sent and stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from palate.cli import main
from palate.config import Training
from palate.data.store import save_dataset
from palate.errors import ConfigError, DataError
from palate.models import MODELS
from palate.scale.plan import Machine, Size, plan, sized
from palate.testing import planted

SIZE = Size(users=300, items=80, rows=4_000)
PLANNED = sorted(set(MODELS) - {"text-cnn", "image-cnn"})


@pytest.mark.parametrize("name", PLANNED)
def test_every_model_is_planned_without_memory(name: str) -> None:
    found = plan(SIZE, name)
    assert found["memory of a training process"] > found["weights"] > 0
    assert all(line.value >= 0 and line.how for line in found.lines)
    assert all(tensor.is_meta for tensor in sized(SIZE, name).state_dict().values())


@pytest.mark.parametrize("name", ["mf", "neumf", "multvae", "sasrec", "ials"])
def test_weights_are_those_of_the_model(name: str) -> None:
    spec = planted().train.spec
    real = MODELS[name](MODELS[name].Config(), spec)
    size = Size(users=spec.n_users, items=spec.n_items, rows=1000)
    assert plan(size, name)["weights"] == sum(t.numel() * t.element_size() for t in real.state_dict().values())


def test_what_is_too_large_for_any_machine_is_planned() -> None:
    found = plan(Size(users=10**9, items=10**8, rows=10**11), "two-tower", {"dim": 64})
    assert found["weights"] == pytest.approx(312e9, rel=0.01)
    assert found["optimizer"] == pytest.approx(2 * 1.1e9 * 64 * 4, rel=0.01)
    assert "does not fit" in found.advice[0]
    assert "256.0 GB of the weights are a table of users" in found.advice[1]


def test_only_rows_of_the_batch_are_sent() -> None:
    """Four processes; the distinct rows of random draws, against draws."""
    size, world, batch = Size(users=200_000, items=100_000, rows=10**7), 4, 2048
    found = plan(size, "mf", {"dim": 16, "negatives": 4}, Training(batch_size=batch), Machine(hosts=2, processes=2))
    rng = np.random.default_rng(0)
    draws = ((200_000, batch // 4), (100_000, 5 * batch // 4))
    rows = [len(np.unique(rng.integers(0, n, count))) for n, count in draws]
    sent = (world - 1) * sum(rows) * 4 * (17 + 2)  # vectors of 16 and biases of 1, each row with its index
    assert found["sent by a process in a step"] == pytest.approx(sent, rel=0.01)
    dense = plan(size, "mf", {"dim": 16}, Training(batch_size=batch, embeddings="dense"), Machine(hosts=2))
    assert dense["sent by a process in a step"] == pytest.approx(2 * 0.5 * 300_000 * 17 * 4)


def test_a_row_by_adagrad_has_one_number() -> None:
    size = Size(users=10**6, items=10**5, rows=10**7)
    by_rows = Training(optimizer="adagrad", embeddings="rowwise")
    assert plan(size, "mf", training=by_rows)["optimizer"] == pytest.approx(2 * 4 * 1.1e6)
    assert plan(size, "mf")["optimizer"] == pytest.approx(2 * 4 * 1.1e6 * 65)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)users = 0, expected 1 or more.*items = -2"):
        Size(users=0, items=-2, rows=9)
    with pytest.raises(ConfigError, match="more than users x items = 4"):
        Size(users=2, items=2, rows=9)
    with pytest.raises(ConfigError, match="32 bits"):
        Size(users=2**31, items=2, rows=9)
    with pytest.raises(ConfigError, match="hosts must be above 0"):
        Machine(hosts=0)
    with pytest.raises(ConfigError, match="there is no model 'nosuch'"):
        plan(SIZE, "nosuch")
    with pytest.raises(ConfigError, match=r"mf: .*'width'"):
        plan(SIZE, "mf", {"width": 3})
    with pytest.raises(DataError, match="needs item_text"):
        plan(SIZE, "text-cnn")


def test_settings_that_change_no_figure_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the plan of mf does not depend on training\.lr, training\.patience"):
        plan(SIZE, "mf", training=Training(lr=0.1, patience=3, epochs=2))
    with pytest.raises(ConfigError, match=r"the plan of ease does not depend on training\.epochs; leave it out"):
        plan(SIZE, "ease", training=Training(epochs=2))


def test_a_model_that_one_process_trains_sends_nothing() -> None:
    for name, says in (("xsimgcl", "its contrastive loss"), ("ease", "it takes no gradient steps")):
        found = plan(SIZE, name, machine=Machine(hosts=2))
        assert "sent by a process in a step" not in {line.what for line in found.lines}
        assert any(f"One process trains {name}, because {says}" in one for one in found.advice)
    one, two = (plan(SIZE, "xsimgcl", machine=Machine(hosts=hosts))["training"] for hosts in (1, 2))
    assert one == two
    assert any("ials send each other" in one for one in plan(SIZE, "ials", machine=Machine(hosts=2)).advice)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["scale", "plan", *words])
    return int(end.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_dataset(planted().train, tmp_path / "data")
    assert run(str(tmp_path / "data"), "--model", "mf", "--dim", "8", "--hosts", "2") == 0
    said = capsys.readouterr().out
    for word in ("memory of a training process", "sent by a process in a step", "2 processes", "fits in its 16.0 GB"):
        assert word in said
    assert run("--users", "1M", "--items", "10,000", "--rows", "1e8", "--model", "ease") == 0
    assert "4 items^2" in capsys.readouterr().out
    assert run("--model", "mf", "--rows", "x", "--users", "0") == 2
    said = capsys.readouterr().err
    assert "--items is missing" in said
    assert "--rows x: expected a number such as 1e9" in said
    assert "--users 0: expected" in said
    assert run(str(tmp_path), "--model", "mf") == 2
    assert "is no data set on disk" in capsys.readouterr().err
    assert run(str(tmp_path / "data"), "--model", "ease", "--dim", "4") == 2
    assert "ease has no --dim" in capsys.readouterr().err
    assert torch.get_default_device().type == "cpu"
