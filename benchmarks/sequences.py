"""Models that read order beside models that do not, under protocols of sequences with full ranking.

    python benchmarks/sequences.py TASK [--models sasrec ease ...] [--threads 1] [--only-fit]

TASK is one of `TASKS`. Networks: the settings of `recipe`; the epoch of the best metric on valid is kept. Other models
choose their settings on valid by themselves. Every model is fitted on train and judged on test once. Runs are
checkpointed in `--keep` and go on from there; a model that is done is not fitted or judged again. The table is made of
all models that are done.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from common import real_data, write_result

MAX_VALID_USERS = 8000
NETWORKS = ("sasrec", "gru4rec", "nextitnet")


def beauty() -> Any:
    """Amazon Beauty as BERT4Rec prepared it: row order is time order."""
    from palate.data.dataset import Dataset

    return Dataset.from_frame(pl.read_parquet(real_data("amazon-beauty-seq") / "interactions.parquet"))


def movies() -> Any:
    """MovieLens-1M without films of fewer than five ratings, in the order of ratings.dat where times are equal."""
    from palate.data.dataset import Dataset

    table = pl.read_parquet(real_data("ml-1m") / "ratings.parquet").filter(pl.col("seq").is_not_null())
    return Dataset.from_frame(table.sort("user_id", "seq").select("user_id", "item_id", "timestamp"))


def sessions() -> Any:
    """Diginetica's train sessions as SR-GNN prepared them."""
    from palate.data.dataset import Dataset
    from palate.data.events import Events

    table = pl.read_parquet(real_data("sessions-diginetica") / "train_sessions.parquet")
    rows = table.select(user_id="session_id", item_id="items").explode("item_id")
    return Dataset.from_frame(rows, events=Events(repeats=True, sessions=True))


@dataclass(frozen=True)
class Task:
    """One table.

    Attributes:
        title: Its heading.
        protocol: Name in `PROTOCOLS`.
        data: Reads the data.
        metrics: The first one chooses the epoch on valid and is compared.
        given: File of held-out sessions, below the folder of real data.
        about: What the table says of bars and published figures.
    """

    title: str
    protocol: str
    data: Callable[[], Any]
    metrics: tuple[str, ...]
    given: str = ""
    about: str = ""


LAST = ("ndcg@10", "hit@10", "mrr@10", "coverage@10")
TASKS = {
    "beauty": Task(
        "Amazon Beauty, leave last out",
        "leave-last-out",
        beauty,
        LAST,
        about="Data: amazon-beauty-seq, 40,226 users, 54,542 items. Bar: sasrec hit@10 0.048, ndcg@10 0.029. Published "
        "(Klenitskiy and Vasilev 2023): 0.0533 / 0.0327 with full softmax, 0.0490 / 0.0295 with 3,000 negatives.",
    ),
    "ml-1m-last": Task(
        "MovieLens-1M, leave last out",
        "leave-last-out",
        movies,
        LAST,
        about="Data: MovieLens-1M, 6,040 users, 3,416 films with five or more ratings. Bar: sasrec ndcg@10 0.160. "
        "Published: sasrec with full softmax 0.178 to 0.186 (hit@10 0.294 to 0.316), best at epoch 63 of 128 sequences "
        "a step. sasrec was stopped here after 25 epochs of 32 a step, gru4rec and nextitnet after 6, for time; "
        "ndcg@10 on valid was still rising.",
    ),
    "ml-1m-temporal": Task(
        "MovieLens-1M, one point in time, last target",
        "temporal-last",
        movies,
        LAST,
        about="Data: MovieLens-1M. Bar: sasrec ndcg@10 0.080, above ease and recent-popularity by a paired interval. "
        "Published (Gusak et al. 2025): sasrec 0.0948, gru4rec 0.0830.",
    ),
    "diginetica": Task(
        "Diginetica, canonical prefixes",
        "session-prefixes",
        sessions,
        ("mrr@20", "hit@20", "ndcg@20"),
        given="sessions-diginetica/test_prefixes.parquet",
        about="Data: Diginetica as SR-GNN prepared it. P@20 of the papers is hit@20. Published: SR-GNN 0.507 / 0.176. "
        "All models are fitted without the sessions of valid, so 60,186 of the 60,858 test prefixes are asked, whose "
        "next item train holds; sessions_diginetica.md has vmis-knn fitted on all sessions.",
    ),
}


def recipe(task: str, name: str) -> tuple[Any, Any]:
    """Settings of a network and of its training."""
    from palate.config import Training
    from palate.models.sequence.gru4rec import GRU4RecConfig
    from palate.models.sequence.nextitnet import NextItNetConfig
    from palate.models.sequence.sasrec import SASRecConfig

    if task == "beauty":
        config = SASRecConfig(length=50, dropout=0.1, loss="sampled-softmax", negatives=3000)
        return config, Training(epochs=9, batch_size=128, lr=1e-3, patience=5, embeddings="dense")
    if task == "diginetica":
        shared: dict[str, Any] = {"length": 20, "dropout": 0.3, "loss": "sampled-softmax", "negatives": 2000}
        of = {"sasrec": SASRecConfig(dim=96, **shared), "gru4rec": GRU4RecConfig(dim=96, **shared)}
        return of[name], Training(epochs=5, batch_size=256, lr=1e-3, patience=2, embeddings="dense")
    length = 200 if task == "ml-1m-last" else 128
    configs = {
        "sasrec": SASRecConfig(length=length),
        "gru4rec": GRU4RecConfig(length=length),
        "nextitnet": NextItNetConfig(length=length),
    }
    # What an hour of CPU allowed.
    epochs = 25 if name == "sasrec" else 6
    return configs[name], Training(epochs=epochs, batch_size=32, lr=1e-3, patience=4)


def fitted(task: str, name: str, parts: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A fitted model, and what is to be told of the fit; CPU seconds of all its processes are added up in a file."""
    from palate.evaluation.validate import Validator
    from palate.models import MODELS

    kind, metric, file = MODELS[name], TASKS[task].metrics[0], folder / "cpu.json"
    config, training = recipe(task, name) if name in NETWORKS else (kind.Config(), None)
    model, clock = kind(config, kind.spec_of(parts.train)), time.process_time()

    def spent() -> float:
        nonlocal clock
        before = json.loads(file.read_text()) if file.exists() else []
        now = time.process_time()
        file.write_text(json.dumps([*before, now - clock]))
        clock = now
        return float(sum(json.loads(file.read_text())))

    def on_epoch(record: Any) -> None:
        found = {name: round(value, 4) for name, value in record.valid.items()}
        print(
            f"{task} {name}: epoch {record.epoch}, loss {record.loss:.4f}, valid {found}, {spent():.0f} s", flush=True
        )

    validate = Validator(parts.valid, model, metric, max_users=MAX_VALID_USERS)
    state = folder / "state" if name in NETWORKS else None
    records = model.fit(parts.train, training, validate, checkpoint=state, every=600, on_epoch=on_epoch)
    told = {"config": f"{config}, {training}" if training else f"{model.config}", "epochs": "", "cpu": spent()}
    if records:
        best = max(records, key=lambda record: record.valid[metric])
        told |= {"valid": best.valid[metric], "epochs": f"{best.epoch} of {len(records)}"}
    return model, told


def judged(task: str, name: str, prepared: Any, folder: Path) -> None:
    """The figures of a model on test, once, in `done.json`."""
    from palate.evaluation.evaluate import evaluate

    folder.mkdir(parents=True, exist_ok=True)
    model, told = fitted(task, name, prepared.parts, folder)
    clock = time.process_time()
    found = evaluate(model, prepared.parts.test, TASKS[task].metrics, protocol=prepared.protocol, name=name)
    told |= {"ranking": time.process_time() - clock, "evaluation": found.to_dict()}
    (folder / "done.json").write_text(json.dumps(told))
    print(f"{task} {name}: {found}", flush=True)


def write_table(task: str, keep: Path) -> None:
    """The table of all models that are done."""
    from palate.evaluation.compare import compare
    from palate.evaluation.result import Evaluation

    told = {file.parent.name: json.loads(file.read_text()) for file in sorted((keep / task).glob("*/done.json"))}
    evaluations = {name: Evaluation.from_dict(one["evaluation"]) for name, one in told.items()}
    one, metrics = TASKS[task], TASKS[task].metrics
    first = max((name for name in told if name in NETWORKS), key=lambda name: evaluations[name][metrics[0]].value)
    pairs = {}
    if len(told) > 1:
        differences = compare(evaluations, metrics[0], baseline=first).differences
        pairs = {pair.second if pair.first == first else pair.first: pair.verdict for pair in differences}
    rows = []
    for name in sorted(told, key=lambda name: -evaluations[name][metrics[0]].value):
        found = evaluations[name]
        cells = [
            "{:.4f} ({:.4f} to {:.4f})".format(*(vars(found[m])[k] for k in ("value", "low", "high"))) for m in metrics
        ]
        verdict = pairs.get(name, "")
        seconds = f"{told[name]['cpu'] / 3600:.2f}", f"{told[name]['ranking']:.0f}"
        rows.append([name, *cells, told[name]["epochs"], *seconds, verdict])
    hashes = {found.protocol.hash for found in evaluations.values()}
    about = [
        one.about,
        f"Protocol: {one.protocol}, hash {', '.join(sorted(hashes))}. Full ranking. One seed (0). Intervals: 95 %, "
        f"over users or questions. Differences from {first}: paired, Holm-adjusted.",
        f"Networks: epoch of the best {metrics[0]} on valid (at most {MAX_VALID_USERS:,} users), one setting each, no "
        "search. Other models choose their settings on valid by themselves.",
        "CPU hours: of the fit, validation included, on one thread beside other work. Ranking: of all of test.",
        *(f"{name}: {one['config']}" for name, one in told.items()),
    ]
    header = ["model", *metrics, "best epoch", "CPU hours", "ranking CPU s", f"{metrics[0]} beside {first}"]
    write_result(f"sequences_{task.replace('-', '_')}", one.title, about, header, rows)


def main() -> None:
    """Fit and judge the models that are not done, print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--models", nargs="+", default=["sasrec"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("runs") / "sequences")
    parser.add_argument("--only-fit", action="store_true", help="leave the test part alone")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(given.threads))
    import torch

    from palate.evaluation.protocols import prepare

    torch.set_num_threads(given.threads)
    task = TASKS[given.task]
    todo = [name for name in given.models if not (given.keep / given.task / name / "done.json").exists()]
    if todo:
        prefixes = None if not task.given else real_data(task.given.split("/")[0]) / task.given.split("/")[1]
        prepared = prepare(task.protocol, task.data(), given=prefixes)
        for name in todo:
            folder = given.keep / given.task / name
            if given.only_fit:
                folder.mkdir(parents=True, exist_ok=True)
                fitted(given.task, name, prepared.parts, folder)
            else:
                judged(given.task, name, prepared, folder)
    if not given.only_fit:
        write_table(given.task, given.keep)


if __name__ == "__main__":
    main()
