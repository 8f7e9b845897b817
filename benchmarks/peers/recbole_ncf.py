"""RecBole's side of benchmarks/ncf_speed.py; runs in RecBole's own environment and imports nothing of palate.

    python recbole_ncf.py FOLDER NAME '{"threads": 2, "job": "train", "batch": 2048, "epochs": 1, "warm": 0}'

FOLDER/NAME holds NAME.train.inter, NAME.valid.inter and NAME.test.inter, written by the benchmark. The last line
printed is JSON: seconds of each timed epoch (RecBole's own `_train_epoch`: sampling, forward, backward, step) or of
`evaluate`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

given = json.loads(sys.argv[3])
os.environ["OMP_NUM_THREADS"] = str(given["threads"])

import torch  # noqa: E402

torch.set_num_threads(given["threads"])
torch_load = torch.load
torch.load = lambda *args, **kwargs: torch_load(*args, **{"weights_only": False, **kwargs})

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

SETTINGS: dict[str, Any] = {
    "data_path": sys.argv[1],
    "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id"]},
    "mf_embedding_size": 32,
    "mlp_embedding_size": 32,
    "mlp_hidden_size": [64, 32, 16],
    "dropout_prob": 0.0,
    "learning_rate": 0.001,
    "train_neg_sample_args": {
        "distribution": "uniform",
        "sample_num": 4,
        "alpha": 1.0,
        "dynamic": False,
        "candidate_num": 0,
    },
    "train_batch_size": given.get("batch", 2048),
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
    "eval_batch_size": given.get("eval_batch", 4096),
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@10",
    "topk": [10],
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "checkpoint_dir": os.path.join(sys.argv[1], "saved"),
}


def main() -> None:
    logging.disable(logging.WARNING)
    argv, sys.argv = sys.argv, sys.argv[:1]  # RecBole reads the command line by itself
    config = Config(model="NeuMF", dataset=argv[2], config_dict=SETTINGS)
    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    model = get_model("NeuMF")(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "NeuMF")(config, model)
    seconds = []
    if given["job"] == "train":
        for epoch in range(given["warm"] + given["epochs"]):
            start = time.perf_counter()
            trainer._train_epoch(train, epoch)
            seconds.append(time.perf_counter() - start)
        seconds = seconds[given["warm"] :]
        count, steps = len(train.dataset) * 5, len(train)
    else:
        start = time.perf_counter()
        trainer.evaluate(test, load_best_model=False)
        seconds.append(time.perf_counter() - start)
        count, steps = len(set(test.dataset.inter_feat["user_id"].tolist())), 0
    print(json.dumps({"seconds": seconds, "count": count, "steps": steps}))


main()
