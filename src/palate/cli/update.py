"""`palate update RUN ROWS`: a saved run learns new rows, users and items."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from palate.cli import Flat, suggested, visible
from palate.cli.inputs import Reading
from palate.errors import ConfigError
from palate.recommender import artifact
from palate.recommender.recommender import Recommender
from palate.training.callbacks import Progress


def update(
    run: Path,
    rows: str | None = None,
    *,
    items: str | None = None,
    users: str | None = None,
    out: Path | None = None,
    share: float = 0.2,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
) -> None:
    """Teach a trained recommender new interactions, new users, new items and changed attributes.

    Models with gradient steps and iALS go on from their weights. The other models are computed anew with the settings
    that training chose. What the run held out becomes training data.

    Args:
        run: Folder that palate train or Recommender.save wrote.
        rows: New interactions: a file or query with the columns of the training data.
        items: Table of new or changed items, with the columns of the item table.
        users: Table of new or changed users, with the columns of the user table.
        out: Folder for the updated recommender. Defaults to RUN.
        share: Share of the epochs of a full training to make.
        reading: How ROWS is read.
    """
    target = out or run
    artifact.check_place(target)
    if rows is None and (flags := reading.given()):
        raise ConfigError(f"{', '.join(flags)} describe ROWS; name it: {suggested('update', run)} ROWS")
    before = Recommender.load(run)
    options = {name: value for name, value in reading.options().items() if value is not None}
    with Progress() as progress:
        after, what = before.update(
            rows,
            items=items,
            users=users,
            share=share,
            on_epoch=progress.on_epoch,
            on_step=progress.on_step,
            **options,
        )
    after.save(target)
    for note in after.data.notes[len(before.data.notes) :]:
        print(visible(note), file=sys.stderr)
    print(f"saved {after.name} in {target}: {what}")
    if before.parts:
        print("  the parts that were held out are training data now; palate evaluate needs other data from here on")
