"""`palate demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from palate.cli import Switch


def demo(
    *,
    out: Path = Path("runs/demo"),
    data: str = "movielens-100k",
    content: Annotated[bool, Switch] = False,
    items: Path | None = None,
    seed: int = 0,
) -> None:
    """Run the practical example: load, split, train NeuMF beside baselines, evaluate, recommend. About a minute.

    Args:
        out: Folder for the artifact, the learning curve and the report.
        data: Name of a data set, as listed by palate data sources.
        content: Instead, recommend new films by their posters, plots and genres.
        items: With --content: table of films with item_id and texts or images. Defaults to synthetic posters and plots.
        seed: Seed of the split, the training and the choice of the users shown.
    """
    import torch

    from palate.demos import content as demo_content
    from palate.demos import movielens as demo
    from palate.errors import ConfigError

    if items is not None and not content:
        raise ConfigError("--items goes with --content; the other demo reads no posters and plots")
    if content:
        demo_content.run(out, data, items, seed)
        return
    # The models are small: a second thread gains little on an idle machine and loses much on a busy one.
    torch.set_num_threads(1)
    demo.run(out, data, seed)
