"""An epoch of SASRec beside RecTools and RecBole, and one more event beside the whole history.

    python benchmarks/sequence_speed.py [--repeats 3 --threads 1 --users 6040]

Epoch: MovieLens-1M, length 200, d 64, 2 layers, 1 head, dropout 0.1, softmax over all items, 128 users (RecBole: 128
prefixes) a step, Adam. Preparation does not count. One side after the other, in turns, each run in a process of its
own; medians. RecBole trains once for each prefix of a sequence; only its first batches are measured, and scaled. Each
peer needs an environment of its own, made on first use (see benchmarks/peers_speed.py).

One more event: a history of 199 items grows by one and its list of 10 is made, by `GrowingHistory` and by `score` with
the whole history, in turns; medians of the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
from common import ROOT, real_data, write_result
from peers_speed import python_of

SIDES = ("palate", "palate, bfloat16", "RecTools", "RecBole")


def export(folder: Path, users: int) -> int:
    """The rows of the first users for all sides; counts events that something follows."""
    rows = pl.read_parquet(real_data("ml-1m") / "ratings.parquet").filter(pl.col("seq").is_not_null())
    rows = rows.filter(pl.col("user_id") <= users).sort("user_id", "seq").select("user_id", "item_id", "timestamp")
    (folder / "own").mkdir(parents=True)
    rows.write_csv(folder / "train.csv")
    types = {"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
    rows.rename(types).write_csv(folder / "own" / "own.inter", separator="\t")
    return int((rows.group_by("user_id").len()["len"] - 1).clip(0, 200).sum())


def measure(side: str, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """One run in a process of its own."""
    side, _, matmul = side.partition(", ")
    job = {**job, "matmul": matmul or "float32"}
    script = [Path(__file__).resolve(), "--measure"]
    if side != "palate":
        script = [ROOT / "benchmarks" / "peers" / "sequences.py", side]
    python = sys.executable if side == "palate" else python_of(side)
    environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "MKL_NUM_THREADS": str(job["threads"])}
    command = list(map(str, [python, *script, folder, json.dumps(job)]))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode:
        sys.exit(f"{side}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure_palate(folder: Path, job: dict[str, Any]) -> None:
    """palate's side; prints what `peers/sequences.py` prints."""
    import torch

    import palate
    from palate.config import CompleteTraining
    from palate.data.dataset import Dataset
    from palate.models.sequence.sasrec import SASRec, SASRecConfig
    from palate.training.loop import TrainRun, run

    torch.set_num_threads(job["threads"])
    data = Dataset.from_frame(pl.read_csv(folder / "train.csv"))
    model = SASRec(SASRecConfig(length=200, dim=64, layers=2, heads=1, dropout=0.1), data.spec)
    training = CompleteTraining(epochs=1, batch_size=128, lr=1e-3, matmul=job["matmul"], patience=0)
    model.init_from_data(data)
    context, job_ = model.fit_context(data, training), TrainRun(training=training, rng=torch.Generator())
    cpu, wall = time.process_time(), time.perf_counter()
    run(model, context, job_)
    told = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "scale": 1.0}
    print(json.dumps({**told, "version": palate.__version__}))


def one_more(name: str, rounds: int) -> tuple[float, float, float]:
    """Milliseconds of one more event and of the whole history, and the median of their ratios."""
    import numpy as np
    import torch

    from palate.data.queries import Queries, Spec
    from palate.data.ragged import Ragged
    from palate.models import MODELS
    from palate.models.sequence.growing import GrowingHistory

    torch.manual_seed(0)
    model = MODELS[name](MODELS[name].Config(length=200), Spec(n_users=1, n_items=3416)).eval()
    history = np.random.default_rng(0).integers(0, 3416, 200).tolist()
    steps, wholes = [], []
    with torch.inference_mode():
        for _ in range(rounds):
            growing = GrowingHistory(model, history[:160])
            clock = time.thread_time()
            for item in history[160:]:
                growing.append(item)
                growing.scores().topk(10)
            steps.append((time.thread_time() - clock) / 40)
            clock = time.thread_time()
            for _ in range(5):
                model.score(Queries(torch.tensor([-1]), Ragged.of([history])))[0].topk(10)
            wholes.append((time.thread_time() - clock) / 5)
    ratio = statistics.median(whole / step for whole, step in zip(wholes, steps, strict=True))
    return 1e3 * statistics.median(steps), 1e3 * statistics.median(wholes), ratio


def main() -> None:
    """Print both tables and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--users", type=int, default=6040, help="the first users of the data only")
    parser.add_argument("--batches", type=int, default=5, help="of RecBole")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure_palate(Path(given.measure[0]), json.loads(given.measure[1]))
        return
    import torch

    torch.set_num_threads(given.threads)
    more = {name: one_more(name, 30) for name in ("sasrec", "gru4rec", "nextitnet")}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in given.sides}
    with tempfile.TemporaryDirectory() as place:
        events = export(Path(place) / "data", given.users)
        for _ in range(given.repeats):
            for side, found in runs.items():
                found.append(measure(side, Path(place) / "data", {"threads": given.threads, "batches": given.batches}))
                print(side, found[-1], flush=True)
    middle = {side: statistics.median(one["cpu"] for one in found) for side, found in runs.items()}
    rows = []
    for side, found in runs.items():
        cpu = [one["cpu"] for one in found]
        scaled = "" if found[0]["scale"] == 1 else f"{given.batches} batches, times {found[0]['scale']:.0f}"
        cells = [f"{middle[side]:.1f}", f"{min(cpu):.1f} to {max(cpu):.1f}", f"{middle[side] / middle['palate']:.1f}"]
        rows.append([f"{side} {found[0]['version']}", *cells, scaled])
    for name, (step, whole, ratio) in more.items():
        rows.append(
            [f"{name}: one more event / whole history", f"{step:.2f} ms / {whole:.2f} ms", "", f"{ratio:.1f}", ""]
        )
    about = [
        f"Data: MovieLens-1M, the first {given.users:,} users, {events:,} events with a target. "
        f"{given.threads} thread, beside other work, so CPU seconds; medians of {given.repeats} runs in turns.",
        "Epoch: length 200, d 64, 2 layers, softmax over all items, 128 sequences a step. RecBole reads each prefix "
        "as a sequence of its own.",
        "One more event: 3,416 items, default settings, list of 10 included; the ratio is the median over 30 turns.",
        "Bars: not slower than the fastest peer, aim 2x; one more event at most a tenth of the whole history.",
    ]
    header = ["side", "CPU s of an epoch", "range", "times palate", "measured"]
    write_result("sequence_speed", "SASRec: an epoch, and one more event", about, header, rows)


if __name__ == "__main__":
    main()
