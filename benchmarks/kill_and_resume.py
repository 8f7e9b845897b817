"""Kill -9 a training process at random moments, resume until it is done, compare with an undisturbed run, bit for bit.

    python benchmarks/kill_and_resume.py [--kills 10] [--epochs 12] [--seed 0]

The run is NeuMF with dropout, sampled negatives, tables by rows and a valid part, on made-up interactions; it writes a
checkpoint twenty times a second, so that kills fall into steps, into validation and into the writing itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, write_result

EVERY = 0.05


def worker(folder: Path, epochs: int, checkpoint: bool) -> None:
    """Train once, or go on, and write the weights; `started` appears with the first step."""
    import torch
    from safetensors.torch import save_file

    from palate.config import Training
    from palate.data.dataset import Dataset
    from palate.data.sources.synthetic import synthetic
    from palate.evaluation.validate import Validator
    from palate.models import MODELS

    torch.set_num_threads(1)
    tables = synthetic(6_000, 200, 150)
    parts = Dataset.from_frame(tables.interactions).split("random", valid=0.2, test=0.1)
    neumf = MODELS["neumf"]
    model = neumf(neumf.Config(dropout=0.2, loss="bce"), parts.train.spec)
    training = Training(epochs=epochs, batch_size=32, lr=3e-3, weight_decay=1e-3, embeddings="rowwise", patience=0)
    started = folder / "started"
    records = model.fit(
        parts.train,
        training,
        Validator(parts.valid, model),
        checkpoint=folder / "checkpoint" if checkpoint else None,
        every=EVERY,
        on_step=lambda *step: None if started.exists() else started.touch(),
    )
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "weights.part")
    losses = "\n".join(f"{r.epoch} {r.loss.hex()} {r.valid} {r.best}" for r in records)
    (folder / "records").write_text(losses)
    os.replace(folder / "weights.part", folder / "weights.safetensors")


def start(folder: Path, epochs: int, checkpoint: bool) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "started").unlink(missing_ok=True)
    command = [sys.executable, __file__, "--worker", str(folder), "--epochs", str(epochs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(command + ["--checkpoint"] * checkpoint, env=environment)


def train_steadily(folder: Path, epochs: int) -> float:
    """The undisturbed run; returns the seconds from its first step to its end."""
    process = start(folder, epochs, checkpoint=False)
    begun = until_started(process, folder)
    if process.wait():
        sys.exit("the undisturbed run failed")
    return time.perf_counter() - begun


def until_started(process: subprocess.Popen[bytes], folder: Path) -> float:
    while not (folder / "started").exists() and process.poll() is None:
        time.sleep(0.005)
    return time.perf_counter()


def train_disturbed(folder: Path, epochs: int, kills: int, seconds: float, rng: random.Random) -> list[str]:
    """Kill so many times, each a random while after the process took its first step, then let it finish."""
    moments = []
    while True:
        process = start(folder, epochs, checkpoint=True)
        until_started(process, folder)
        if len(moments) == kills:
            if process.wait():
                sys.exit("the resumed run failed")
            return moments
        time.sleep(rng.uniform(0, seconds / (kills + 1)))
        if process.poll() is not None:
            sys.exit(f"the run ended after {len(moments)} of {kills} kills: give it more --epochs")
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.append(stand(folder / "checkpoint"))


def stand(checkpoint: Path) -> str:
    """Where the checkpoint of a killed run stands."""
    if not (checkpoint / "latest").exists():
        return "before the first checkpoint"
    state = json.loads((checkpoint / (checkpoint / "latest").read_text() / "state.json").read_text())
    half = len(list(checkpoint.glob("state-*"))) - 1
    return f"epoch {state['epoch'] + 1}, step {state['step']}" + (", while writing the next" if half else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, given.epochs, given.checkpoint)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = train_steadily(folder / "steady", given.epochs)
        moments = train_disturbed(folder / "killed", given.epochs, given.kills, seconds, random.Random(given.seed))
        steady, killed = ((folder / run / "weights.safetensors").read_bytes() for run in ("steady", "killed"))
        histories = [(folder / run / "records").read_text() for run in ("steady", "killed")]
    equal = steady == killed and histories[0] == histories[1]
    if given.kills == parser.get_default("kills"):
        write_result(
            "kill_and_resume",
            "Kill -9 and resume",
            [
                "NeuMF with dropout on 6,000 made-up interactions, a checkpoint every 0.05 s; "
                f"{given.epochs} epochs, {seconds:.1f} s undisturbed, seed {given.seed}.",
                "Compared: all weights and buffers as saved, and loss, metrics and choice of each epoch.",
                f"Equal bit for bit: {'yes' if equal else 'NO'}.",
            ],
            ["kill", "the checkpoint then stood at"],
            [[str(number), moment] for number, moment in enumerate(moments, 1)],
        )
    print(f"{len(moments)} kills; equal bit for bit: {'yes' if equal else 'NO'}")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
