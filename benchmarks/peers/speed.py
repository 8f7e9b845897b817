"""A peer's side of benchmarks/peers_speed.py; runs in the peer's own environment and imports nothing of palate.

    python speed.py PEER WHAT FOLDER '{"threads": 2, "epochs": 3, ...}'

FOLDER holds train.csv and test.csv (user_id, item_id; whole numbers from 0, every user and item in train), and for
RecBole the same rows as its atomic files in own/. The last line printed is JSON: seconds, the peer's version, and how
many users were ranked and at what ndcg@10 where ranking was part of it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

peer, what, folder, given = sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
sys.argv = sys.argv[:1]  # RecBole reads the command line by itself.
# What implicit and LensKit ask for: their own threads, and BLAS calls on one.
os.environ["OPENBLAS_NUM_THREADS"] = "1" if peer == "implicit" else str(given["threads"])
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

import numpy as np  # noqa: E402

Found = dict[str, float]
"""`seconds`; `users` ranked; `ndcg` where there are any."""


def clock(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def timed(call: Callable[[], Any], times: int = 1) -> Found:
    """Seconds of one of so many times that a call does its work; nobody is ranked."""
    return {"seconds": clock(call) / times, "users": 0}


def frame() -> Any:
    """The train rows as a frame."""
    import pandas as pd

    return pd.read_csv(folder / "train.csv")


def pairs() -> np.ndarray:
    """The train rows, int64 `[rows, 2]`."""
    return np.loadtxt(folder / "train.csv", delimiter=",", skiprows=1, dtype=np.int64)


def matrix() -> Any:
    """The train rows as a sparse matrix."""
    from scipy.sparse import csr_matrix

    rows = pairs()
    return csr_matrix((np.ones(len(rows), dtype=np.float32), (rows[:, 0], rows[:, 1])))


RECBOLE: dict[str, Any] = {
    "data_path": str(folder),
    "load_col": {"inter": ["user_id", "item_id"]},
    "benchmark_filename": ["train", "valid", "test"],
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
    "eval_batch_size": 4096 * 64,
    "train_neg_sample_args": None,
    "enable_amp": given["matmul"] == "bfloat16",
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "checkpoint_dir": str(folder / "saved"),
}
"""What says where the data is and how the machine is used; of what is shipped, only eval_batch_size is changed."""
SAME: dict[str, Any] = {
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@10",
    "topk": [10],
    "mlp_hidden_size": [600],
    "latent_dimension": 400,  # mean and log variance together
    "anneal_cap": 0.2,
    "total_anneal_steps": given["updates"],  # with this cap: palate's rise over a fifth of all updates
    "reg_weight": given.get("reg", 250.0),
    "learning_rate": 0.001,
    "train_batch_size": 512,
    "epochs": given["epochs"],
}
"""What is set so that both sides do the same work."""


def recbole() -> Found:
    """One epoch of MultiVAE, EASE's fit, or all of it: preparation, fit, evaluation."""
    import torch

    torch.set_num_threads(given["threads"])
    load = torch.load
    torch.load = lambda *args, **kwargs: load(*args, **{"weights_only": False, **kwargs})
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    net = "EASE" if "ease" in what else "MultiVAE"
    start = time.perf_counter()
    shipped = what.startswith("shipped-")
    config = Config(model=net, dataset="own", config_dict=RECBOLE if shipped else RECBOLE | SAME)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    ready = time.perf_counter()
    model = get_model(net)(config, train.dataset)  # EASE is fitted here.
    if what == "ease":
        return {"seconds": time.perf_counter() - ready, "users": 0}
    trainer = get_trainer(config["MODEL_TYPE"], net)(config, model)
    if what == "multvae":
        epochs = [clock(partial(trainer._train_epoch, train, epoch)) for epoch in range(given["epochs"])]
        return {"seconds": min(epochs), "users": 0}
    trainer.fit(train, valid if shipped else None, saved=shipped, verbose=False)
    result = trainer.evaluate(test, load_best_model=shipped)
    users = len(set(test.dataset.inter_feat["user_id"].tolist()))
    return {"seconds": time.perf_counter() - start, "users": users, "ndcg": result["ndcg@10"]}


def implicit() -> Found:
    """ALS by three steps of conjugate gradients, its default."""
    from implicit.als import AlternatingLeastSquares

    rows = matrix()
    model = AlternatingLeastSquares(
        factors=given["dim"], iterations=given["iterations"], num_threads=given["threads"], random_state=0
    )
    return timed(lambda: model.fit(rows, show_progress=False))


def rectools() -> Found:
    """EASE; ALS is implicit's, wrapped."""
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import EASEModel

    rows = frame().rename(columns={"user_id": Columns.User, "item_id": Columns.Item})
    rows[Columns.Weight], rows[Columns.Datetime] = 1.0, "2020-01-01"
    data = Dataset.construct(rows)
    model = EASEModel(regularization=given["reg"])
    return timed(lambda: model.fit(data))


def lenskit() -> Found:
    """EASE, and ALS for implicit data (Cholesky, in PyTorch)."""
    import torch

    torch.set_num_threads(given["threads"])
    from lenskit.als import ImplicitMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.knn import EASEScorer
    from lenskit.training import TrainingOptions

    data = from_interactions_df(frame())
    if what == "ease":
        model = EASEScorer(regularization=given["reg"])
    else:
        model = ImplicitMFScorer(embedding_size=given["dim"], epochs=given["iterations"])
    return timed(lambda: model.train(data, TrainingOptions(rng=0)))


def cornac() -> Found:
    """EASE, and VAECF's epochs."""
    import torch

    torch.set_num_threads(given["threads"])
    from cornac.data import Dataset
    from cornac.models import EASE, VAECF

    data = Dataset.from_uir([(user, item, 1.0) for user, item in pairs().tolist()])
    if what == "ease":
        model = EASE(lamb=given["reg"], verbose=False)
    else:
        shape = {"k": 200, "autoencoder_structure": [600], "act_fn": "tanh", "likelihood": "mult"}
        model = VAECF(**shape, n_epochs=given["epochs"], batch_size=512, learning_rate=0.001, verbose=False)
    return timed(lambda: model.fit(data), 1 if what == "ease" else given["epochs"])


PEERS: dict[str, Callable[[], Found]] = {
    "RecBole": recbole,
    "implicit": implicit,
    "RecTools": rectools,
    "LensKit": lenskit,
    "Cornac": cornac,
}


if __name__ == "__main__":
    print(json.dumps({**PEERS[peer](), "version": version(peer.lower())}))
