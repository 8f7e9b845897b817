"""`palate demo`."""

from __future__ import annotations

from pathlib import Path


def demo(*, out: Path = Path("runs/demo"), data: str = "movielens-100k", seed: int = 0) -> None:
    """The whole way: gather, split, train NeuMF beside baselines, evaluate, recommend, report. About a minute.

    Args:
        out: Folder for the artifact, the learning curve and the report.
        data: Name of a data set, as `palate data sources` lists it.
        seed: Decides the split, the training and the people shown.
    """
    import torch

    from palate.demo import run

    # The models are small: a second thread gains little on an idle machine and loses much on a busy one.
    torch.set_num_threads(1)
    run(out, data, seed)
