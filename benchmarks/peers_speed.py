"""How long do Mult-VAE, EASE and iALS take beside the fastest libraries, and all of it beside RecBole?

    python benchmarks/peers_speed.py [--repeats 3 --threads 2] [--data ml-1m synthetic] [--only multvae ease ...]

multvae: seconds of an epoch, 600-200, 512 users a batch, Adam; ease: the fit; ials: a fit of dim 64, 15 rounds;
all-multvae, all-ease: from a file of interactions through preparation and fit (10 epochs) to recall@10 and ndcg@10 of
full ranking on test, items of train and valid out (palate answers from both, RecBole from train); shipped-multvae: the
same, but with all that each library sets by itself, the end of training on valid included (of RecBole only
eval_batch_size is not its own: with that it ranks one person at a time). One side after the other, in turns, each run
in a process of its own; imports, and but for all-* and shipped-* the reading of data, do not count. Medians. "bfloat16"
are the same runs with what each library has for that: palate's `matmul`, RecBole's `enable_amp`; of use only to a CPU
that has such products.

Each peer needs an environment of its own: it is made on first use (about 1 GB) in `palate-peers` in the folder for
temporary files, or where the environment variable PALATE_PEERS says. Let nothing else run.

Bars: palate not slower than the fastest peer; all-*, shipped-*: >= 5x faster than RecBole.
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

import numpy as np
import polars as pl
from common import ROOT, real_data, write_result

HOME = Path(os.environ.get("PALATE_PEERS", Path(tempfile.gettempdir()) / "palate-peers"))
NEEDS = {
    "RecBole": "torch==2.13.0 setuptools<81 numpy==1.26.4 pandas==2.3.3 scipy==1.11.4 recbole==1.2.1",
    "implicit": "implicit==0.7.3",
    "RecTools": "torch==2.13.0 rectools==0.19.0",
    "LensKit": "torch==2.13.0 lenskit==2025.8.1",
    "Cornac": "torch==2.13.0 cornac==3.0.1",
}
"""What each environment holds; its own package last."""
BOTH = ("palate", "palate, bfloat16", "RecBole", "RecBole, bfloat16")
SIDES = {
    "multvae": (*BOTH, "Cornac"),
    "ease": ("palate", "RecBole", "RecTools", "LensKit", "Cornac"),
    "ials": ("palate", "implicit", "LensKit"),
    "all-multvae": BOTH,
    "all-ease": ("palate", "RecBole"),
    "shipped-multvae": BOTH,
}
"""Who is measured at what."""
PARTS = ("train", "valid", "test")
JOB = {"dim": 64, "iterations": 15, "reg": 250.0}
BATCH = 512
EPOCHS = {"multvae": 3, "all-multvae": 10}


def python_of(peer: str) -> Path:
    """The peer's interpreter; its environment is made if there is none."""
    needs = NEEDS[peer].split()
    folder = HOME / needs[-1].replace("==", "-")
    python, package = folder / "bin" / "python", needs[-1].partition("==")[0]
    if subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode if python.exists() else True:
        print(f"making {peer}'s environment in {folder}", flush=True)
        subprocess.run(["python3.11", "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *needs], check=True)
    return python


def table(name: str) -> pl.DataFrame:
    """User and item of each event, whole numbers from 0."""
    if name == "synthetic":
        from ncf_speed import synthetic

        rows = synthetic()
    else:
        rows = pl.read_parquet(real_data(name) / "ratings.parquet").select("user_id", "item_id")
    return rows.select((pl.col(c).rank("dense") - 1).cast(pl.Int64) for c in ("user_id", "item_id"))


def export(name: str, folder: Path) -> int:
    """The same rows for all sides: CSV, and RecBole's atomic files; a tenth is valid, a tenth test. Counts users."""
    part = np.random.default_rng(0).choice(PARTS, size=(rows := table(name)).height, p=[0.8, 0.1, 0.1])
    # The first row of each user and item is train, so that all sides know the same ones.
    first = rows.with_row_index().select(
        user=pl.col("index") == pl.col("index").min().over("user_id"),
        item=pl.col("index") == pl.col("index").min().over("item_id"),
    )
    part[(first["user"] | first["item"]).to_numpy()] = "train"
    (folder / "own").mkdir(parents=True)
    for each in PARTS:
        mine = rows.filter(pl.Series(part == each))
        mine.write_csv(folder / f"{each}.csv")
        mine.rename({"user_id": "user_id:token", "item_id": "item_id:token"}).write_csv(
            folder / "own" / f"own.{each}.inter", separator="\t"
        )
    return rows["user_id"].n_unique()


def measure(side: str, what: str, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """One run in a process of its own."""
    side, _, matmul = side.partition(", ")
    job = {**job, "matmul": matmul or "float32"}
    here = Path(__file__).resolve()
    script = [here, "--measure"] if side == "palate" else [ROOT / "benchmarks" / "peers" / "speed.py"]
    python = sys.executable if side == "palate" else python_of(side)
    environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "MKL_NUM_THREADS": str(job["threads"])}
    command = [python, *script, *([] if side == "palate" else [side]), what, folder, json.dumps(job)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode:
        sys.exit(f"{side}, {what}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure_palate(what: str, folder: Path, job: dict[str, Any]) -> None:
    """palate's side of one measurement; prints what `peers/speed.py` prints."""
    import torch

    import palate
    from palate import Recommender
    from palate.config import Training
    from palate.data.dataset import Dataset
    from palate.evaluation.evaluate import evaluate
    from palate.models.autoencoders.multvae import MultVAE, MultVAEConfig
    from palate.models.linear.ease import EASE, EASEConfig
    from palate.models.mf.ials import IALS, IALSConfig

    torch.set_num_threads(job["threads"])
    training = Training(epochs=job["epochs"], batch_size=BATCH, lr=1e-3, matmul=job["matmul"])
    wide = MultVAEConfig(hidden=600, dim=200)
    model: Any
    if what.startswith(("all-", "shipped-")):
        start = time.perf_counter()
        rows = pl.concat(pl.read_csv(folder / f"{part}.csv").with_columns(part=pl.lit(part)) for part in PARTS)
        parts = Dataset.read(rows.drop("part")).split("predefined", parts=rows, column="part")
        if what == "shipped-multvae":
            model = Recommender.train(parts.train, "multvae", None, {"matmul": job["matmul"]}, parts.valid).model
        else:
            model, config = (EASE, EASEConfig(reg=job["reg"])) if what == "all-ease" else (MultVAE, wide)
            model = model(config, parts.train.spec)
            model.fit(parts.train, training)
        found = evaluate(model, parts.test, ["recall@10", "ndcg@10"])["ndcg@10"]
        told = {"seconds": time.perf_counter() - start, "users": found.n, "ndcg": found.value}
        print(json.dumps({**told, "version": palate.__version__}))
        return
    data = Dataset.from_frame(pl.read_csv(folder / "train.csv"))
    if what == "multvae":
        seconds = min(epoch.seconds for epoch in MultVAE(wide, data.spec).fit(data, training))
    else:
        ials = IALSConfig(dim=job["dim"], alpha=1.0, reg=0.4, iterations=job["iterations"])
        model = EASE(EASEConfig(reg=job["reg"]), data.spec) if what == "ease" else IALS(ials, data.spec)
        start = time.perf_counter()
        model.fit(data)
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "users": 0, "version": palate.__version__}))


def turns(name: str, what: str, folder: Path, job: dict[str, Any], repeats: int) -> dict[str, tuple[str, ...]]:
    """For each side its version, median, range, ndcg@10 of all-* and shipped-*, and palate's ratio to the fastest."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES[what]}
    for _ in range(repeats):
        for side, found in runs.items():
            found.append(measure(side, what, folder, job))
            print(f"{name}, {what}, {side}: {found[-1]['seconds']:.2f} s", flush=True)
    users = {each["users"] for found in runs.values() for each in found}
    assert len(users) == 1, f"the sides ranked different numbers of users: {users}"
    seconds = {side: [each["seconds"] for each in found] for side, found in runs.items()}
    middle = {side: statistics.median(several) for side, several in seconds.items()}
    best = min(median for side, median in middle.items() if not side.startswith("palate"))
    return {
        side: (
            runs[side][0]["version"],
            f"{middle[side]:.2f}",
            f"{min(several):.2f} to {max(several):.2f}",
            f"{runs[side][0]['ndcg']:.4f}" if "ndcg" in runs[side][0] else "",
            f"{best / middle[side]:.2f}" if side.startswith("palate") else "",
        )
        for side, several in seconds.items()
    }


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", nargs="+", default=["ml-1m", "synthetic"])
    parser.add_argument("--only", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure_palate(given.measure[0], Path(given.measure[1]), json.loads(given.measure[2]))
        return
    rows, versions = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.data:
            users = export(name, Path(folder) / name)
            for what in given.only:
                epochs = EPOCHS.get(what, 1)
                job = {**JOB, "threads": given.threads, "epochs": epochs, "updates": -(-users // BATCH) * epochs}
                for side, found in turns(name, what, Path(folder) / name, job, given.repeats).items():
                    versions[side.partition(", ")[0]] = found[0]
                    rows.append([name, what, side, *found[1:]])
    about = [
        "multvae: an epoch, 600-200, 512 users a batch; ease: the fit; ials: dim 64, 15 rounds; all: file to metrics, "
        "10 epochs; shipped: file to metrics with each library's own settings and end of training.",
        "bfloat16: palate's `matmul`, RecBole's `enable_amp`. A ratio is to the fastest peer in any form.",
        f"{given.repeats} interleaved repeats, {given.threads} threads. Bars: ratio >= 1, for all and shipped >= 5.",
        "Versions: " + ", ".join(f"{side} {version}" for side, version in versions.items()) + ".",
    ]
    header = ["data", "what", "side", "median s", "runs", "ndcg@10", "fastest peer / palate"]
    write_result("peers_speed", "Speed beside other libraries", about, header, rows)


if __name__ == "__main__":
    main()
