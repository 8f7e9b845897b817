"""Ranked lists of graph models with their default settings, beside baselines, under the protocols of `rankings.py`.

    python benchmarks/graph_lists.py --data lastfm-2k
    python benchmarks/graph_lists.py --data ml-1m-anelli --splits 1

Graph models have their defaults and no search. lightgcn and xsimgcl choose the epoch on valid; `--epochs` bounds it.
The baselines have the settings that `rankings.py` chose on valid. Under anelli each model is fitted anew on train and
valid together. Finished runs are kept in `--keep`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from common import student, write_result
from rankings import DATA, PLAIN, Choice, Work

from palate.config import Training
from palate.evaluation.compare import compare
from palate.models import MODELS
from palate.models.baselines.popularity import PopularityConfig
from palate.models.linear.ease import EASEConfig
from palate.models.mf.ials import IALSConfig
from palate.models.neighbours.knn import ItemKNNConfig

GRAPH = ["gf-cf", "turbo-cf", "lightgcn", "xsimgcl"]
BASELINES: dict[str, dict[str, Choice]] = {
    "lastfm-2k": {
        "popularity": (PopularityConfig(), PLAIN),
        "itemknn": (ItemKNNConfig(k=200, shrink=10.0, weighting="cosine"), PLAIN),
        "ials": (IALSConfig(dim=128, alpha=1.2, reg=0.4), PLAIN),
    },
    "ml-1m-anelli": {
        "popularity": (PopularityConfig(), PLAIN),
        "ease": (EASEConfig(reg=600.0), PLAIN),
        "ials": (IALSConfig(dim=128, alpha=1.3, reg=0.48), PLAIN),
    },
}


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=list(BASELINES), required=True)
    parser.add_argument("--models", nargs="+", choices=GRAPH, default=GRAPH)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100, help="most epochs of lightgcn and xsimgcl")
    parser.add_argument("--keep", type=Path, default=Path("runs") / "graph_lists")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    setting = DATA[given.data]
    choices = BASELINES[given.data] | {
        name: (MODELS[name].Config(), Training(epochs=given.epochs)) for name in given.models
    }
    works = [Work(given.data, number, given.keep) for number in range(given.splits)]
    found = {
        name: [evaluation for work in works if (evaluation := work.run(name, 0, choice, test=True)[1]) is not None]
        for name, choice in choices.items()
    }
    means = {name: float(np.mean([each[setting.headline].value for each in found[name]])) for name in found}
    order = sorted(found, key=lambda name: -means[name])
    metrics = [setting.headline, "recall@10", "coverage@10", "gini@10"]
    rows = [
        [
            name,
            *(student([each[metric].value for each in found[name]]) for metric in metrics),
            *(f"{np.mean([each.seconds[kind] for each in found[name]]):.1f}" for kind in ("fit", "predict")),
        ]
        for name in order
    ]
    verdicts = compare({name: found[name][0] for name in order}, setting.headline).differences
    about = [
        f"Data: {setting.what}; protocol {setting.protocol}.",
        f"Protocol hashes: {', '.join(each.protocol.hash for each in found[order[0]])}. "
        f"Intervals: 95 %, Student's t over {given.splits} splits.",
        "Graph models: defaults, no search; epochs of lightgcn and xsimgcl chosen on each split's valid part, at most "
        f"{given.epochs}. Baselines: as rankings.py chose them on valid. Times in seconds, beside other work.",
        *(f"{name}: {choices[name][0]}" for name in order),
        "Pairs on the first split, by users, Holm-corrected:",
        *(difference.verdict for difference in verdicts),
    ]
    title = f"Graph models: {setting.what}, {setting.protocol}"
    file = f"graph_lists_{given.data.replace('-', '_')}"
    write_result(file, title, about, ["model", *metrics, "fit", "predict"], rows)


if __name__ == "__main__":
    main()
