"""A peer's side of benchmarks/sequence_speed.py; runs in the peer's own environment and imports nothing of palate.

    python sequences.py PEER FOLDER '{"threads": 1, "batches": 10}'

FOLDER holds train.csv (user_id, item_id, timestamp) and own/own.inter, RecBole's atomic file of the same rows. The last
line printed is JSON: CPU and wall seconds of an epoch of training SASRec, without preparation, and the peer's version.
RecBole trains once for each prefix of a sequence; its seconds are those of the first `batches` batches, scaled to all.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

peer, folder, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
sys.argv = sys.argv[:1]  # RecBole reads the command line by itself.
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

LENGTH, DIM, LAYERS, BATCH, DROPOUT = 200, 64, 2, 128, 0.1


def now() -> tuple[float, float]:
    """CPU and wall seconds."""
    return time.process_time(), time.perf_counter()


def told(start: tuple[float, float], stop: tuple[float, float], scale: float, library: str) -> dict[str, Any]:
    """What is printed."""
    cpu, wall = ((b - a) * scale for a, b in zip(start, stop, strict=True))
    return {"cpu": cpu, "wall": wall, "scale": scale, "version": version(library)}


def rectools() -> dict[str, Any]:
    """One epoch of RecTools' SASRec with softmax over all items."""
    import pandas as pd
    import torch
    from pytorch_lightning import Callback, Trainer
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    torch.set_num_threads(given["threads"])

    clock: list[tuple[float, float]] = []

    class Clock(Callback):
        """When the epoch began and ended."""

        def on_train_epoch_start(self, *_: Any) -> None:
            clock.append(now())

        def on_train_epoch_end(self, *_: Any) -> None:
            clock.append(now())

    def trainer() -> Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return Trainer(accelerator="cpu", max_epochs=1, callbacks=[Clock()], enable_model_summary=False, **quiet)

    rows = pd.read_csv(folder / "train.csv").rename(columns={"timestamp": "datetime"}).assign(weight=1.0)
    rows["datetime"] = pd.to_datetime(rows["datetime"], unit="s")
    model = SASRecModel(
        n_blocks=LAYERS, n_heads=1, n_factors=DIM, dropout_rate=DROPOUT, session_max_len=LENGTH, loss="softmax",
        batch_size=BATCH, epochs=1, lr=1e-3, get_trainer_func=trainer,
    )  # fmt: skip
    model.fit(Dataset.construct(rows))
    return told(clock[0], clock[1], 1.0, "rectools")


def recbole() -> dict[str, Any]:
    """The first batches of an epoch of RecBole's SASRec with softmax over all items, scaled to the epoch."""
    import torch

    torch.set_num_threads(given["threads"])
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    settings = {
        "data_path": str(folder), "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": LENGTH, "hidden_size": DIM, "inner_size": DIM, "n_layers": LAYERS, "n_heads": 1,
        "hidden_dropout_prob": DROPOUT, "attn_dropout_prob": DROPOUT, "loss_type": "CE", "train_batch_size": BATCH,
        "train_neg_sample_args": None, "learning_rate": 1e-3, "use_gpu": False, "show_progress": False,
        "state": "ERROR", "checkpoint_dir": str(folder / "saved"),
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    }  # fmt: skip
    config = Config(model="SASRec", dataset="own", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model("SASRec")(config, train.dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    done, start = 0, now()
    for batch in train:
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
        done += 1
        if done == given["batches"]:
            break
    return told(start, now(), len(train) / done, "recbole")


print(json.dumps({"RecTools": rectools, "RecBole": recbole}[peer]()))
