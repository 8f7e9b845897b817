"""Several processes: equal to one, bit-equal after a kill, refused or stopped with words; most in one world of two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from world import COMMAND, SMALL, fit, ials, message, model_of, without_noise

from palate.cli import main
from palate.config import Training
from palate.device import resolve_device
from palate.errors import ConfigError
from palate.models import MODELS
from palate.models.base import GradientModel
from palate.recommender import Recommender
from palate.testing.case import planted
from palate.training import train_run
from palate.training.loop import Loss

TIMEOUT = 3.0
"""Seconds after which a process of the tests gives another one up."""


def port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


class Two:
    """What a world of two found, and what one process finds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        planted().train.frame().select("user_id", "item_id", "rating").write_csv(folder / "rows.csv")
        with without_noise():
            message(lambda: fit(model_of("neumf"), steps=20, checkpoint=folder / "one"))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), "WORLD_SIZE": "2"}
            place |= {"PALATE_TIMEOUT": str(TIMEOUT), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, str(Path(__file__).with_name("world.py")), str(folder)]
            running = [subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank)}) for rank in range(2)]
            try:
                self.equal = {name: fit(model_of(name)) for name in SMALL}
                self.by_rows = fit(model_of("mf"), embeddings="rowwise", optimizer="adam")
                assert not running[0].wait(timeout=120)
            finally:
                for process in running:
                    process.kill()
                    process.wait()
            self.found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
            self.last, self.seconds = json.loads((folder / "last.json").read_text())
            self.of_two_by_one = fit(model_of("neumf"), checkpoint=folder / "two")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    return Two(tmp_path_factory.mktemp("world"))


def near(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    """Losses and metrics to rounding. A loss of the first process only: the others make no calls."""
    assert one["losses"] == pytest.approx(other["losses"], abs=tolerance)
    for here, there in zip(one["valid"], other["valid"], strict=True):
        assert here == pytest.approx(there, abs=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_two_processes_train_as_one(two: Two, name: str) -> None:
    one, first, second = two.equal[name], *(found["equal"][name] for found in two.found)
    assert len(one["losses"]) >= 6
    near(first, one)
    assert first["weights"] == second["weights"]
    assert first["valid"] == second["valid"]
    assert second["losses"] == []


def test_tables_updated_by_rows_too(two: Two) -> None:
    near(two.found[0]["by rows"], two.by_rows)
    assert two.found[0]["by rows"]["weights"] == two.found[1]["by rows"]["weights"]


def test_ials_solves_rows_by_shares(two: Two) -> None:
    wanted = ials()
    assert two.found[0]["ials"] == two.found[1]["ials"]
    for found, row in zip(two.found[0]["ials"], wanted, strict=True):
        assert found == pytest.approx(row, abs=1e-5)


def test_noise_is_the_same_again_and_after_a_resume(two: Two) -> None:
    for found in two.found:
        assert found["noise, resumed"]["weights"] == found["noise"]["weights"]
        assert found["noise, resumed"]["valid"] == found["noise"]["valid"]
    assert two.found[0]["noise"]["weights"] == two.found[1]["noise"]["weights"]


def test_a_checkpoint_goes_on_in_another_number_of_processes(two: Two) -> None:
    whole = two.equal["neumf"]
    assert two.found[0]["began"].startswith("KeyboardInterrupt")
    for resumed in (two.found[0]["of one, by two"], two.of_two_by_one):
        assert 0 < len(resumed["losses"]) < len(whole["losses"])
        assert resumed["losses"] == pytest.approx(whole["losses"][-len(resumed["losses"]) :], abs=1e-5)


def test_processes_that_differ_are_refused_on_all(two: Two) -> None:
    for refused in (found["refused"] for found in two.found):
        assert refused["data"].startswith("ConfigError: all processes of a run need the same data, settings and versio")
        assert "data: " in refused["data"]
        assert "in process 1" in refused["data"]
        assert "settings: " in refused["settings"]
        assert "2 processes are more than the 1 rows of a batch: start at most 1" in refused["rows"]
        assert "XSimGCL cannot be trained by 2 processes, because its contrastive loss compares" in refused["model"]


def test_an_error_of_one_process_ends_the_others(two: Two) -> None:
    first, second = (found["refused"]["lost"] for found in two.found)
    assert first.startswith("ArtifactError: the checkpoint in ")
    assert second.startswith("TrainingError: process 1 of 2 no longer reaches the others (another process has failed)")


def test_a_process_may_work_longer_than_the_timeout_but_not_hang(two: Two) -> None:
    assert [found["rank"] for found in two.found] == [0, 0]
    assert two.last.startswith("TrainingError: process 0 of 2 no longer reaches the others (")
    assert two.seconds < 4 * TIMEOUT


DIVIDED = [name for name, kind in MODELS.items() if issubclass(kind, GradientModel)]


@pytest.mark.parametrize("name", [name for name in DIVIDED if name != "image-cnn"])
def test_losses_of_shares_add_up(name: str) -> None:
    """Three shares of each model's batch: their weighted mean is the loss of the batch, or the model says why not."""
    data, kind = planted().train, MODELS[name]
    settings: dict[str, Any] = {"text": "bag"} if "text" in {f.name for f in fields(kind.Config)} else {}
    with without_noise(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_of(name, **settings)
        training = Training(epochs=1, batch_size=100).filled(kind.default_training)
        if getattr(model, "undivided", ""):
            return
        if name == "dropoutnet":  # its tower is trained on the vectors of another model
            model.fit(data, training)
        model.init_from_data(data)
        context = model.fit_context(data, training.complete())
        for part in model.modules():  # its statistics are those of all shares, see `Division`
            part.train(not isinstance(part, torch.nn.BatchNorm1d))
        batch = next(iter(model.batches(context, torch.Generator().manual_seed(0), 100)))
        whole = as_loss(model.loss(batch, context))
        rows = getattr(batch, "n_rows", len(batch))
        shares = [batch.take(torch.arange(rank, rows, 3)) for rank in range(3)]
        assert sum(map(len, shares)) == len(batch)
        parts = [as_loss(model.loss(share, context)) for share in shares]
    for value, over in (("objective", "over"), ("shown", "shown_over")):
        weights = [float(len(s) if getattr(p, over) is None else getattr(p, over)) for s, p in zip(shares, parts)]  # noqa: B905
        mean = np.average([getattr(part, value).item() for part in parts], weights=weights)
        assert mean == pytest.approx(getattr(whole, value).item(), rel=1e-5)


def as_loss(loss: Any) -> Loss:
    return loss if isinstance(loss, Loss) else Loss(loss, loss)


def test_the_command_line(two: Two) -> None:
    """One of both processes prints and writes, and the model is that of one process."""
    (out, errors), silent = (found["command"] for found in two.found)
    assert out.count("saved mf in") == 1
    assert errors.count("epoch   1") == 1
    assert silent == ["", ""]
    assert not (two.folder / "run.checkpoint").exists()
    with pytest.raises(SystemExit, match="0"):
        main([*COMMAND, str(two.folder / "rows.csv"), "--out", str(two.folder / "alone")])
    one, both = (Recommender.load(two.folder / name) for name in ("alone", "run"))
    for name, weight in both.model.state_dict().items():
        torch.testing.assert_close(weight, one.model.state_dict()[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "ease"], "2 processes were started, and ease is trained by one"),
        (["compare"], "palate compare runs in one process, and 2 were started"),
    ],
)
def test_what_only_one_process_can_do_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="2"):
        main([*words, str(tmp_path / "rows.csv"), "--out", str(tmp_path / "run")])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PALATE_TIMEOUT": "soon"}, "PALATE_TIMEOUT = 'soon' is no number of seconds above 0"),
        ({"PALATE_TIMEOUT": "-1"}, "PALATE_TIMEOUT = '-1' is no number"),
        ({}, "WORLD_SIZE = '2' asks for several processes, but they cannot meet .*start them by torchrun"),
    ],
)
def test_an_environment_that_torchrun_does_not_make(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        model_of("mf").fit(planted().train)


def test_a_script_that_has_not_prepared_its_processes_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(train_run, "divide", None)
    for name in ("mf", "ials"):
        with pytest.raises(ConfigError, match=r"torchrun started 2 processes: `import palate.training.processes`"):
            MODELS[name](MODELS[name].Config(), planted().train.spec).fit(planted().train)


def test_each_process_of_a_machine_has_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    found = []
    for world, rank in (("1", "1"), ("2", "0"), ("2", "1")):
        monkeypatch.setenv("WORLD_SIZE", world)
        monkeypatch.setenv("LOCAL_RANK", rank)
        found += [str(resolve_device(name)) for name in ("auto", "meta", "cpu")]
    assert found == ["meta", "meta", "cpu", "meta:0", "meta:0", "cpu", "meta:1", "meta:1", "cpu"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="more processes than the 2 devices of this machine; start at most 2"):
        resolve_device("auto")
