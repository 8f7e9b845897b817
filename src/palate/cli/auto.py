"""`palate auto DATA --minutes 30 --out RUN`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from palate.automl import Auto
from palate.automl import auto as run_auto
from palate.automl.search import check_budget, check_size
from palate.automl.state import RESULT, search_folder
from palate.automl.story import bigger_budget
from palate.cli import Flat, suggested, visible, with_flags
from palate.cli.inputs import Reading, SideTables, Splitting, prepared
from palate.errors import ConfigError
from palate.evaluation.protocols import Prepared
from palate.training.callbacks import Progress


def auto(
    data: str,
    *,
    minutes: float = 30.0,
    out: Path,
    task: Literal["lists", "ratings"] | None = None,
    candidates: str | None = None,
    trials: int = 30,
    metric: str | None = None,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    side_tables: Annotated[SideTables, Flat] = SideTables(),  # noqa: B008
    splitting: Annotated[Splitting, Flat] = Splitting(),  # noqa: B008
    seed: int = 0,
) -> None:
    """Find the recommender to use for a table, within a budget of time.

    Tries the models that fit the table, blends the best, evaluates the simplest good one once on the test part beside
    the baselines, and trains it on all rows.

    Args:
        data: Name of a data set (palate data sources), a file, or a query with --connection.
        minutes: Budget of wall-clock time for everything.
        out: Folder for the recommender and its report, new or empty. The same command continues a search that was
            stopped; only time spent counts.
        task: What the recommender is for: lists of items, or predicted ratings. Defaults to what the table suggests.
        candidates: Models to try beside the baselines, separated by commas. Defaults to all that fit the table.
        trials: Most sampled settings of the best models to try, after the models as they come.
        metric: Metric on the valid part that chooses. Defaults to ndcg@10 for lists and rmse for ratings.
        seed: Seed of the split, of training and of sampled settings.
    """
    check_budget(minutes, trials)
    whole, ready = prepared(data, reading, side_tables, splitting, seed)
    check_size(whole)
    if ready is None or not len(ready.parts.valid) or not len(ready.parts.test):
        raise ConfigError("models are chosen on the valid part and judged on test; name a --split, with both above 0")
    finished = (out / RESULT).is_file()
    if not finished:
        print(f"{visible(data)}: {len(whole):,} interactions of {whole.n_users:,} users and {whole.n_items:,} items")
        for note in (*whole.notes, *ready.parts.notes):
            print(f"  {visible(with_flags(note))}")
    if splitting.protocol is not None and metric is None:
        metric = ready.protocol.metrics[0]
    options: dict[str, Any] = {"minutes": minutes, "task": task, "trials": trials, "metric": metric, "seed": seed}
    options |= {"candidates": None if candidates is None else candidates.split(","), "title": data}
    found = _searched(ready, out, options)
    print(f"{out} holds the result of this search already\n" if finished else "")
    for line in [str(found), "What a bigger budget might change:", *(f"  {x}" for x in bigger_budget(found.record))]:
        print(visible(line))
    print(f"report: {out / 'report.html'}")
    print(f"  {suggested('recommend', out, user=found.recommender.data.users.ids[0])}")


def _searched(ready: Prepared, out: Path, options: dict[str, Any]) -> Auto:
    """Search, with a progress bar; Ctrl-C says how to go on."""

    def news(line: str) -> None:
        print(visible(with_flags(line, {"--task"})), flush=True)

    try:
        with Progress(lines=False) as progress:
            return run_auto(
                ready.parts,
                out,
                protocol=ready.protocol,
                lists=ready.candidates,
                on_news=news,
                on_step=progress.on_step,
                **options,
            )
    except KeyboardInterrupt:
        so_far = search_folder(out)
        print(f"palate: the search so far is in {so_far}; the same command continues it", file=sys.stderr)
        raise
