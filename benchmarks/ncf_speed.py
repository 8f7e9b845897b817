"""Speed of NeuMF: training and full ranking beside RecBole 1.2.1's, or training beside another commit's.

    python benchmarks/ncf_speed.py [--repeats 3 --threads 2] [--only train|rank] [--data ml-100k ...]
    python benchmarks/ncf_speed.py --against COMMIT [--repeats 15]

**Against RecBole.** One net on both sides: embeddings 32 + 32, MLP 64-32-16, 4 uniform unseen negatives per positive,
BCE, Adam, no dropout, the same rows, the same number of steps. RecBole counts negatives into its batch, so its 2,048
are 409 positives. A training sample is one (user, item, label). Ranking: full, without seen items, recall@10 and
ndcg@10; for the synthetic set, the first 1,000 users. Every measurement is a process of its own; the two sides take
turns; medians.

RecBole needs an environment of its own: it is made on first use (about 1 GB) in `palate-peers` in the folder for
temporary files, or where the environment variable PALATE_PEERS says. Let nothing else run: with a stray process on a
core RecBole becomes several times slower, palate too.

Bars: training >= 2x RecBole's samples/s at both batch sizes, ranking >= 10x its users/s.

**Against a commit.** One process for this tree and one for the commit's, which is checked out as a temporary worktree
of git. In turns, each trains one epoch of MovieLens-100K and folds in 100 histories at once and 20 one by one, on one
thread; the processor's time is measured. The ratio is the median over the rounds of the commit's time by this tree's:
above 1 this tree is faster. Bar: training >= 0.97 for gmf, mlp and neumf.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from common import ROOT, real_data, write_result

PEER = Path(os.environ.get("PALATE_PEERS", Path(tempfile.gettempdir()) / "palate-peers")) / "recbole-1.2.1"
NEEDS = ("torch==2.13.0", "setuptools<81", "numpy==1.26.4", "pandas==2.3.3", "scipy==1.11.4", "recbole==1.2.1")
BATCHES = (2048, 16384)
RANKINGS = ("ml-100k", "synthetic")
EVAL_BATCHES = (4096, 400_000)
"""RecBole's pairs per evaluation batch: its default, which was its fastest of 4,096 to 4,000,000 with a core to itself,
and one at which it takes gigabytes, as in the comparison that set the bar."""
RANKED = 1000


def peer_python() -> Path:
    """RecBole's interpreter; its environment is made if there is none."""
    python = PEER / "bin" / "python"
    if subprocess.run([python, "-c", "import recbole"], capture_output=True).returncode if python.exists() else True:
        print(f"making RecBole's environment in {PEER}", flush=True)
        subprocess.run(["python3.11", "-m", "venv", PEER], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *NEEDS], check=True)
    return python


def export(name: str, folder: Path) -> None:
    """Write a data set's split for both sides: RecBole's atomic files, and the same rows as Parquet."""
    from palate.data.dataset import Dataset

    source = synthetic() if name == "synthetic" else real_data(name) / "ratings.parquet"
    data = Dataset.read(source)
    parts = data.split("random", valid=0.1, test=0.1, seed=0)
    # RecBole looks for the bare name "ml-100k" in its own package.
    (folder / f"own-{name}").mkdir()
    for part in ("train", "valid", "test"):
        frame = getattr(parts, part).frame().select("user_id", "item_id")
        if name == "synthetic" and part == "test":
            frame = frame.filter(pl.col("user_id").is_in(frame["user_id"].unique().sort()[:RANKED].implode()))
        frame.write_parquet(folder / f"own-{name}" / f"{part}.parquet")
        frame.rename({"user_id": "user_id:token", "item_id": "item_id:token"}).write_csv(
            folder / f"own-{name}" / f"own-{name}.{part}.inter", separator="\t"
        )


def synthetic() -> pl.DataFrame:
    """20,000 users, 10,000 items, 2,000,000 events, long-tailed; speed needs no tastes."""
    import numpy as np

    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, 10_001) ** 0.7
    item = rng.choice(10_000, 2_400_000, p=chance / chance.sum())
    frame = pl.DataFrame({"user_id": rng.integers(0, 20_000, len(item)), "item_id": item}).unique(maintain_order=True)
    return frame.head(2_000_000)


def measure(side: str, folder: Path, name: str, job: dict[str, Any]) -> tuple[float, int]:
    """Samples or users a second of one process, and steps in an epoch."""
    script = (
        [peer_python(), ROOT / "benchmarks" / "peers" / "recbole_ncf.py"]
        if side == "RecBole"
        else [sys.executable, __file__]
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*map(str, script), *([] if side == "RecBole" else ["--measure"]), str(folder), f"own-{name}", json.dumps(job)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,  # RecBole leaves a log behind where it runs
    )
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found["count"] / statistics.median(found["seconds"]), found["steps"]


def measure_palate(folder: Path, name: str, job: dict[str, Any]) -> None:
    """palate's side of one measurement; prints what `recbole_ncf.py` prints."""
    import time
    from dataclasses import replace

    import torch

    from palate.config import Training
    from palate.data.dataset import Dataset
    from palate.evaluation.evaluate import evaluate
    from palate.models.ncf.ncf import NeuMF, NeuMFConfig
    from palate.training.loop import Epoch

    torch.set_num_threads(job["threads"])
    train, test = (pl.read_parquet(folder / name / f"{part}.parquet") for part in ("train", "test"))
    data = Dataset.from_frame(train)
    config = NeuMFConfig(dim=32, mlp_dim=32, layers=(64, 32, 16), negatives=4, dropout=0.0, loss="bce")
    model = NeuMF(config, data.spec)
    if job["job"] == "train":
        training = Training(epochs=job["warm"] + job["epochs"], batch_size=job["batch"] // 5, lr=1e-3, weight_decay=0.0)
        records: list[Epoch] = model.fit(data, training)
        seconds = [record.seconds for record in records[job["warm"] :]]
        print(json.dumps({"seconds": seconds, "count": len(data) * 5, "steps": -(-len(data) // training.batch_size)}))
        return
    model.init_from_data(data)
    model.fallback.learn(data)
    model.eval()
    test = test.join(train, on="item_id", how="semi").join(train, on="user_id", how="semi")
    part = replace(
        data,
        history=data,
        user=data.users.index(test["user_id"]),
        item=data.items.index(test["item_id"]),
    )
    order = part.user.argsort(kind="stable")
    part = replace(part, user=part.user[order].astype("int32"), item=part.item[order].astype("int32"))
    start = time.perf_counter()
    evaluate(model, part, ["recall@10", "ndcg@10"])
    print(json.dumps({"seconds": [time.perf_counter() - start], "count": len(part.active_users), "steps": 0}))


TRAININGS = [
    (name, loss, size) for name in ("gmf", "mlp", "neumf") for loss in ("bce", "joint") for size in (409, 3276)
]
"""Model, loss and positives in a batch: RecBole's batches of 2,048 and 16,384 samples."""
FOLDED_IN, ALONE = 100, 20
"""Histories folded in at once, and one by one."""


def against(commit: str, rounds: int) -> None:
    """Compare this tree with a commit, or with a checkout in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(commit)
        if not tree.is_dir():
            tree = Path(folder) / "before"
            subprocess.run(["git", "worktree", "add", "--detach", tree, commit], check=True, cwd=ROOT)
        try:
            pairs = alternate([ROOT, tree], rounds)
        finally:
            if tree.parent == Path(folder):
                subprocess.run(["git", "worktree", "remove", "--force", tree], check=True, cwd=ROOT)
    rows = []
    for (name, loss, size), times in pairs.items():
        ratios = sorted(before / now for now, before in times)
        what = f"training, batch {size:,}" if size > 0 else f"fold-in of {-size} histories at once"
        what = "fold-in of one history" if size == -1 else what
        quarters = statistics.quantiles(ratios, n=4)
        now, before = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        spread = f"{quarters[0]:.2f} to {quarters[2]:.2f}"
        rows.append([name, loss, what, f"{before:.3g}", f"{now:.3g}", f"{statistics.median(ratios):.2f}", spread])
    about = [
        "MovieLens-100K, 80 % of the rows; one epoch a round, one thread; processor time in ms, medians.",
        f"{rounds} rounds, the two sides in turns. Ratio: the commit's time by this tree's, median and quartiles.",
        "Bar: training >= 0.97.",
    ]
    header = ["model", "loss", "what", f"{commit[:7]}, ms", "this tree, ms", "ratio", "quartiles"]
    write_result("ncf_speed_house", "Speed of gmf, mlp and neumf beside the commit before", about, header, rows)


def alternate(trees: list[Path], rounds: int) -> dict[tuple[str, str, int], list[tuple[float, ...]]]:
    """Seconds of each job in each round, one number per tree; a negative batch stands for a fold-in."""
    jobs = [*TRAININGS, *((name, "joint", -count) for count in (FOLDED_IN, 1) for name in ("gmf", "mlp", "neumf"))]
    children = []
    for tree in trees:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": f"{tree}/src"}
        command = [sys.executable, __file__, "--serve", str(real_data("ml-100k") / "ratings.parquet")]
        pipe = subprocess.PIPE
        children.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=tree))
    found: dict[tuple[str, str, int], list[tuple[float, ...]]] = {job: [] for job in jobs}
    for round_ in range(rounds + 1):  # the first one warms up
        for job in jobs:
            seconds = {}
            for child in children if round_ % 2 else children[::-1]:
                assert child.stdin is not None
                assert child.stdout is not None
                print(json.dumps(job), file=child.stdin, flush=True)
                seconds[child.pid] = float(child.stdout.readline())
            if round_:
                found[job].append(tuple(seconds[child.pid] for child in children))
        print(f"round {round_} of {rounds}", flush=True)
    for child in children:
        child.communicate()
    return found


def serve(path: str) -> None:
    """One side of `against`: reads jobs from standard input, a line each, and prints the seconds that each took."""
    import time

    import torch

    from palate.config import Training
    from palate.data.dataset import Dataset, Queries
    from palate.models import MODELS

    torch.set_num_threads(1)
    data = Dataset.from_frame(pl.read_parquet(path).sample(fraction=0.8, seed=0))
    asked = data.queries(data.active_users[:FOLDED_IN], data.spec)
    strangers = Queries(torch.full_like(asked.user, -1), asked.history, asked.ratings)
    fitted: dict[str, Any] = {}
    for line in sys.stdin:
        name, loss, size = json.loads(line)
        if size > 0:
            times: list[float] = []
            model: Any = MODELS[name](MODELS[name].Config(loss=loss), data.spec)
            training = Training(epochs=1, batch_size=size, lr=1e-3)
            model.fit(data, training, on_step=lambda *_, times=times: times.append(time.process_time()))
            fitted[name] = model  # the last one trained is joint
            seconds = (times[-1] - times[0]) * len(times) / (len(times) - 1)
        else:
            start, repeats = time.process_time(), ALONE if size == -1 else 1
            for first in range(repeats):
                fitted[name].score(strangers.block(first, first - size))
            seconds = (time.process_time() - start) / repeats
        print(seconds, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="COMMIT", help="compare training with that of a commit, not with RecBole")
    parser.add_argument("--repeats", type=int, help="default: 3, with --against 15")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["train", "rank"])
    parser.add_argument("--data", nargs="+", default=["ml-100k", "ml-1m", "synthetic"])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    if given.against:
        against(given.against, given.repeats or 15)
        return
    given.repeats = given.repeats or 3
    if given.measure:
        measure_palate(Path(given.measure[0]), given.measure[1], json.loads(given.measure[2]))
        return
    jobs: list[tuple[str, str, dict[str, Any]]] = []
    for name in given.data:
        if given.only != "rank" and name != "synthetic":
            several = {"warm": 1, "epochs": 3} if name == "ml-100k" else {"warm": 0, "epochs": 1}
            jobs += [
                (name, f"training, batch {size:,}", {"job": "train", "batch": size, **several}) for size in BATCHES
            ]
        if given.only != "train" and name in RANKINGS:
            jobs += [
                (name, f"full ranking, RecBole's eval batch {size:,}", {"job": "rank", "eval_batch": size})
                for size in EVAL_BATCHES
            ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.data:
            export(name, Path(folder))
        for name, what, job in jobs:
            runs: dict[str, list[float]] = {"palate": [], "RecBole": []}
            steps = set()
            for _ in range(given.repeats):
                for side, speeds in runs.items():
                    speed, count = measure(side, Path(folder), name, {**job, "threads": given.threads})
                    speeds.append(speed)
                    steps.add(count)
                    print(f"{name}, {what}, {side}: {speed:,.0f}/s", flush=True)
            assert len(steps) == 1, f"the two sides took different numbers of steps: {steps}"
            ours, theirs = (statistics.median(speeds) for speeds in runs.values())
            spread = (f"{min(speeds):,.0f} to {max(speeds):,.0f}" for speeds in runs.values())
            unit = "users/s" if job["job"] == "rank" else "samples/s"
            rows.append([name, what, unit, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.1f}", *spread])
    about = [
        "NeuMF: embeddings 32 + 32, MLP 64-32-16, 4 negatives, the same rows and number of steps on both sides.",
        f"{given.repeats} interleaved repeats, {given.threads} threads. Bars: training 2x, full ranking 10x.",
        "Ranking: palate's time holds the bootstrap intervals too; palate has no evaluation batch to set.",
    ]
    header = ["data", "what", "unit", "palate", "RecBole 1.2.1", "ratio", "palate's runs", "RecBole's runs"]
    write_result("ncf_speed", "Speed of NeuMF beside RecBole", about, header, rows)


if __name__ == "__main__":
    main()
