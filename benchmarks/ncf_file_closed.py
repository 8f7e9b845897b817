"""Models without gradient steps on MovieLens-1M under the NCF paper's protocol: neighbours, EASE, EDLAE, iALS.

    python benchmarks/ncf_file_closed.py [--seeds 0 1 2] [--threads 1]

Settings are those with the best ndcg@10 on each user's latest train row against 99 items the user does not have. Then
each model is fitted anew on the whole train part, and the file's items are judged once.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from common import write_result
from ncf_file_mf import LikeTheFile
from ncf_file_neumf import METRICS, judge, load

from palate.config import Training
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation
from palate.models.baselines.popularity import Popularity, PopularityConfig
from palate.models.linear.ease import EASE, EDLAE, EASEConfig, EDLAEConfig
from palate.models.mf.ials import IALS, IALSConfig
from palate.models.neighbours.knn import ItemKNN, ItemKNNConfig

CHOICES: dict[str, tuple[Any, list[Any]]] = {
    "popularity": (Popularity, [PopularityConfig()]),
    "itemknn": (ItemKNN, [ItemKNNConfig(k=100, shrink=10.0, weighting=w) for w in ("cosine", "tfidf", "bm25")]),
    "ease": (EASE, [EASEConfig(reg=reg) for reg in (250.0, 500.0, 1000.0, 2000.0)]),
    "edlae": (EDLAE, [EDLAEConfig(reg=reg, dropout=d) for reg, d in ((100, 0.3), (300, 0.3), (100, 0.5), (300, 0.5))]),
    "ials": (
        IALS,
        [IALSConfig(dim=192, alpha=a, reg=r) for a, r in ((0.47, 0.07), (0.47, 0.16), (1.42, 0.17), (1.42, 0.39))],
    ),
}


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    train, test, candidates = load()
    cut = train.split("leave-last-out", valid=0, test=1)  # its test part is our valid part
    rows, chosen = [], []
    found: dict[str, Evaluation] = {}
    for name, (kind, configs) in CHOICES.items():
        values = []
        for config in configs if len(configs) > 1 else ():
            model = kind(config, cut.train.spec)
            model.fit(cut.train)
            values.append(LikeTheFile(cut.test)(model)["ndcg@10"])
            print(f"{name}: valid {values[-1]:.4f}, {config}", flush=True)
        config = configs[int(np.argmax(values))] if values else configs[0]
        told = f", valid ndcg@10 {max(values):.4f} of {len(values)}" if values else ""
        chosen.append(f"{name}: {config}{told}")
        results = []
        for seed in given.seeds if name == "ials" else given.seeds[:1]:
            start = time.perf_counter()
            model = kind(config, train.spec)
            model.fit(train, Training(seed=seed))
            seconds = time.perf_counter() - start
            results.append(judge(model, test, candidates))
            rows.append(
                [
                    f"{name}, seed {seed}" if name == "ials" else name,
                    *(str(results[-1][m]) for m in METRICS),
                    f"{seconds:.1f}",
                ]
            )
            print(rows[-1], flush=True)
        found[name] = results[0]
        if len(results) > 1:
            each = np.array([[result[m].value for m in METRICS] for result in results])
            mean = [f"{m:.4f} ({s:.4f})" for m, s in zip(each.mean(0), each.std(0, ddof=1), strict=True)]
            rows.append([f"{name}, mean (sd over seeds)", *mean, ""])
    about = [
        "Data: MovieLens-1M, the NCF paper's file: 6,040 held-out items, 99 negatives each; train is all other rows.",
        f"Protocol hash: {found['ease'].protocol.hash}. Intervals: 95 %, over users.",
        "Bars: popularity 0.453 +- 0.005; EASE 0.715 / 0.446; iALS 0.724 / 0.447.",
        "Settings: best ndcg@10 on each user's latest train row among 99 negatives.",
        *chosen,
        *(difference.verdict for difference in compare(found, "ndcg@10").differences),
    ]
    title = "Models without gradient steps under the NCF paper's protocol"
    write_result("ncf_file_closed", title, about, ["model", "HR@10", "NDCG@10", "s to fit"], rows)


if __name__ == "__main__":
    main()
