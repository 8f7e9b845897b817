"""People of whom only attributes are known: popularity within these (`palate.models.fallback`) beside everybody's.

    python benchmarks/new_people.py [--data ml-1m] [--seeds 0 1 2]

The protocol new-users-0: a fifth of the people is held out entirely, nothing of them is shown but age, gender and
occupation, and what they rated after their first ten films is to be found. The prior S was chosen on the valid parts.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import real_data, student, write_result

from palate.data.dataset import Dataset
from palate.evaluation.evaluate import evaluate
from palate.evaluation.protocols import prepare
from palate.evaluation.statistics import bootstrap_means, interval
from palate.models.baselines.bias import Bias
from palate.models.baselines.popularity import Popularity


def main() -> None:
    """Judge both on the test part of each draw."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--data", default="ml-1m", choices=("ml-1m", "ml-100k"))
    asked.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = asked.parse_args()
    folder = real_data(given.data)
    data = Dataset.read(folder / "ratings.parquet", users=folder / "users.parquet")
    gain, rows, hashes, both = [], [], [], []
    for seed in given.seeds:
        prepared = prepare("new-users-0", data, seed=seed)
        found = []
        for kind in (Popularity, Bias):  # bias cannot use attributes, and so answers by popularity within them
            model = kind(kind.Config(), kind.spec_of(prepared.parts.train))
            model.fit(prepared.parts.train)
            found.append(evaluate(model, prepared.parts.test, ["ndcg@10"], protocol=prepared.protocol))
        everybody, within = found
        assert within.routes["popularity_within"] == 1
        difference = within.values["ndcg@10"] - everybody.values["ndcg@10"]
        gain.append(difference)
        hashes.append(within.protocol.hash)
        both.append([one["ndcg@10"].value for one in found])
        rows.append([str(seed), *(f"{value:.4f}" for value in both[-1]), f"{difference.mean():+.4f}"])
    pooled = np.concatenate(gain)[:, None]
    low, high = interval(bootstrap_means(pooled, np.ones_like(pooled), 0)[:, 0], len(pooled))
    columns = [student(values) for values in zip(*both, strict=True)]
    rows.append(["mean", *columns, f"{pooled.mean():+.4f} ({low:+.4f} to {high:+.4f})"])
    about = [
        f"Data {given.data}: protocols {', '.join(hashes)}, test parts, {len(pooled):,} people in all.",
        "Mean over draws by Student's t; the difference is paired over people, its interval a bootstrap over them.",
    ]
    name = f"new_people_{given.data.replace('-', '_')}"
    header = ["seed", "ndcg@10, everybody's popularity", "popularity within attributes", "difference"]
    write_result(name, "People of whom only attributes are known", about, header, rows)


if __name__ == "__main__":
    main()
