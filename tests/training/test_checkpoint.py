"""Checkpoints: resume is bit-equal from any step, a kill or a full disk harms nothing, strangers are refused."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Data, Given, Toy, job, same

from palate.errors import ArtifactError
from palate.training.loop import Epoch, run

ROOT = Path(__file__).resolve().parents[2]
VALUES = (1.0, 3.0, 2.0, 2.5)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Killed(Exception):
    """Stands for the end of the process."""


class Mortal(Toy):
    """Dies after a number of steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def loss(self, batch: Any, context: Any) -> Any:
        if not self.left:
            raise Killed
        self.left -= 1
        return super().loss(batch, context)


def facts(records: list[Epoch]) -> list[tuple[Any, ...]]:
    return [(r.epoch, r.loss, r.valid, r.samples, r.best) for r in records]


def whole(**options: Any) -> tuple[Toy, list[Epoch]]:
    torch.manual_seed(7)
    model = Toy()
    return model, run(model, Data(), job(Given(*VALUES), **options))


Mortal.__name__ = Toy.__name__  # a checkpoint names its model's class


@pytest.mark.parametrize(
    ("optimizer", "embeddings"),
    [("adam", "dense"), ("adam", "rowwise"), ("adagrad", "dense"), ("adagrad", "rowwise"), ("sgd", "rowwise")],
)
@pytest.mark.parametrize("steps", [0, 2, 4, 11])
def test_resume_is_bit_equal(tmp_path: Path, steps: int, optimizer: str, embeddings: str) -> None:
    options = {"optimizer": optimizer, "embeddings": embeddings, "batch_size": 150}  # four steps an epoch
    undisturbed, records = whole(**options)
    torch.manual_seed(7)
    with pytest.raises(Killed):
        run(Mortal(steps), Data(), job(Given(*VALUES), checkpoint=tmp_path / "run", every=0.0, **options))
    torch.manual_seed(99)  # the new process has another state of everything
    rest = Given(*VALUES[steps // 4 :])
    model = Toy(seed=5) if steps else Toy()
    torch.manual_seed(7 if not steps else 99)
    resumed = run(model, Data(), job(rest, checkpoint=tmp_path / "run", every=0.0, seed=0, **options))
    assert same(model.state_dict(), undisturbed.state_dict())
    assert facts(resumed) == facts(records)


def test_a_checkpoint_does_not_change_the_run(tmp_path: Path) -> None:
    plain, _ = whole(batch_size=150)
    saved, _ = whole(checkpoint=tmp_path / "run", every=0.0, batch_size=150)
    assert same(plain.state_dict(), saved.state_dict())


def test_only_the_newest_state_is_kept(tmp_path: Path) -> None:
    whole(checkpoint=tmp_path / "run", every=0.0, batch_size=150)
    states = [path.name for path in (tmp_path / "run").glob("state-*")]
    assert states == [(tmp_path / "run" / "latest").read_text()]


def test_a_finished_run_does_nothing_more_and_gives_the_same(tmp_path: Path) -> None:
    first, records = whole(checkpoint=tmp_path / "run")
    again = Toy(seed=3)
    assert facts(run(again, Data(), job(Given(), checkpoint=tmp_path / "run"))) == facts(records)
    assert same(first.state_dict(), again.state_dict())


def test_epochs_may_grow(tmp_path: Path) -> None:
    long, records = whole(patience=0)
    torch.manual_seed(7)
    run(Toy(), Data(), job(Given(*VALUES[:2]), checkpoint=tmp_path / "run", epochs=2, patience=0))
    model = Toy(seed=3)
    more = job(Given(*VALUES[2:]), checkpoint=tmp_path / "run", epochs=4, patience=0)
    assert facts(run(model, Data(), more)) == facts(records)
    assert same(model.state_dict(), long.state_dict())


class Other(Toy):
    pass


class Shorter(Data):
    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("model", "data", "options", "named"),
    [
        (Other(), Data(), {}, "model"),
        (Toy(), Shorter(), {}, "rows"),
        (Toy(), Data(), {"lr": 0.01}, "training settings"),
        (Toy(), Data(), {"embeddings": "dense"}, "training settings"),
    ],
)
def test_another_runs_checkpoint_is_refused(
    tmp_path: Path, model: Toy, data: Data, options: dict[str, Any], named: str
) -> None:
    whole(checkpoint=tmp_path / "run")
    with pytest.raises(ArtifactError, match=f"another run \\(its {named} differ\\)"):
        run(model, data, job(Given(*VALUES), checkpoint=tmp_path / "run", **options))


def damage(state: Path, how: str) -> None:
    if how == "cut":
        (state / "state.safetensors").write_bytes((state / "state.safetensors").read_bytes()[:-100])
    elif how == "no weights":
        (state / "state.safetensors").unlink()
    elif how == "no json":
        (state / "state.json").write_text("{")
    else:
        info = json.loads((state / "state.json").read_text())
        del info["records"]
        (state / "state.json").write_text(json.dumps(info))


@pytest.mark.parametrize("how", ["cut", "no weights", "no json", "no records"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, how: str) -> None:
    whole(checkpoint=tmp_path / "run")
    damage(next((tmp_path / "run").glob("state-*")), how)
    with pytest.raises(ArtifactError, match="cannot be read"):
        run(Toy(), Data(), job(Given(*VALUES), checkpoint=tmp_path / "run"))


def test_what_a_kill_left_while_writing_is_ignored_and_cleared(tmp_path: Path) -> None:
    whole(checkpoint=tmp_path / "run", epochs=2)
    half = tmp_path / "run" / "state-half"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"cut short")
    (tmp_path / "run" / "latest.tmp").write_text("state-h")
    model, reference = Toy(seed=3), whole()[0]
    run(model, Data(), job(Given(*VALUES[2:]), checkpoint=tmp_path / "run"))
    assert same(model.state_dict(), reference.state_dict())
    assert not half.exists()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """Files may not grow beyond half a checkpoint, which is how a disk runs full in the middle of one."""
    folder = tmp_path / "run"
    whole(checkpoint=folder, epochs=2)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    size = max(len(content) for content in before.values())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(ArtifactError, match=r"cannot write the checkpoint .* free space"):
            run(Toy(), Data(), job(Given(*VALUES[2:]), checkpoint=folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    after = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {p: c for p, c in after.items() if p.name != "latest.tmp"} == before
    model, reference = Toy(), whole()[0]
    run(model, Data(), job(Given(*VALUES[2:]), checkpoint=folder))
    assert same(model.state_dict(), reference.state_dict())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ArtifactError, match="cannot write the checkpoint"):
        run(Toy(), Data(), job(checkpoint=tmp_path / "run" / "here"))


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    class Tied(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.item

    model = Tied()
    run(model, Data(), job(checkpoint=tmp_path / "run"))
    copy = Tied()
    run(copy, Data(), job(checkpoint=tmp_path / "run"))
    assert same(model.state_dict(), copy.state_dict())


@pytest.mark.timeout(300)
def test_kill_minus_nine_and_resume() -> None:
    """The benchmark, with two kills: real processes, real signals, equal bits."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_and_resume.py"), "--kills", "2", "--epochs", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills; equal bit for bit: yes" in done.stdout
