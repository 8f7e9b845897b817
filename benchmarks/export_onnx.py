"""ONNX exports on MovieLens-1M beside their models: differences of scores, lists, size, and seconds.

    python benchmarks/export_onnx.py [--models neumf multvae two-tower sasrec]

Models are trained for one epoch: what is compared is arithmetic, not quality. Bars: scores equal to 1e-4, lists of
1,000 users identical but for ties.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from common import real_data, write_result

from palate.data.dataset import Dataset
from palate.recommender.export_onnx import export_onnx
from palate.recommender.recommender import Recommender


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["neumf", "multvae", "two-tower", "sasrec"])
    given = parser.parse_args()
    source = real_data("ml-1m")
    data = Dataset.read(source / "ratings.parquet", items=source / "movies.parquet", users=source / "users.parquet")
    rows = []
    for name in given.models:
        rec = Recommender.train(data, name, training={"epochs": 1}, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            checked = export_onnx(rec, Path(folder, "out"))["checked"]
            seconds = time.process_time() - start
            size = sum(file.stat().st_size for file in Path(folder, "out").iterdir())
        rows.append([name, f"{checked['users']:,}", f"{checked['largest_difference']:.1e}",
                     str(checked["lists_that_differ_by_ties"]), f"{size / 1e6:.1f}", f"{seconds:.0f}"])  # fmt: skip
        print(rows[-1], flush=True)
    write_result(
        "export_onnx",
        "ONNX exports beside their models",
        ["MovieLens-1M, one epoch each, lists of 10. Bars: difference 1e-4, lists identical but for ties."],
        ["model", "users", "largest difference", "lists that differ by ties", "MB with ids and histories", "CPU s"],
        rows,
    )


if __name__ == "__main__":
    main()
