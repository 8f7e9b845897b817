"""`palate tune MODEL DATA` and `palate compare DATA --models a,b,c`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from palate.cli.options import Beside, Flat, Reading, Splitting, dataset
from palate.cli.show import table
from palate.config import Training
from palate.data.parts import Split
from palate.errors import ConfigError
from palate.evaluation import report
from palate.evaluation.report import Report
from palate.tune import Contest, Trial
from palate.tune import contest as run_contest
from palate.tune import tune as run_tune


def tune(
    model: str,
    data: str,
    *,
    trials: int = 20,
    out: Path,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    beside: Annotated[Beside, Flat] = Beside(),  # noqa: B008
    splitting: Annotated[Splitting, Flat] = Splitting(),  # noqa: B008
    training: Training = Training(),  # noqa: B008
    seed: int = 0,
) -> None:
    """Search a model's settings, judged on the valid part; `palate train MODEL --config` takes what is found.

    Args:
        model: Name of a model (`palate train --help` lists them).
        data: Name of a data set (`palate data sources`), a file, or a query with --connection.
        trials: Sets of settings to try in all; a search that was stopped, or that others share, counts theirs.
        out: Folder for the study and the best settings.
        seed: Of the search and of the split.
    """
    parts = _parts(data, reading, beside, splitting, seed)

    def told(trial: Trial) -> None:
        print(f"  trial {trial.number + 1}: {trial.state if trial.value is None else f'{trial.value:.4f}'}")

    found = run_tune(
        parts.train, parts.valid, model, trials, storage=out / "study.db", training=training, seed=seed, on_trial=told
    )
    found.save(out / f"{model}.json")
    print(f"best {found.metric} on valid: {found.value:.4f} of {len(found.trials)} trials")
    print(f"  palate train {model} {data} --config {out / f'{model}.json'} --out RUN")


def compare(
    data: str,
    *,
    models: str = "neumf,mf,ease,ials,itemknn,popularity",
    budget: int = 10,
    seeds: int = 3,
    metric: str = "ndcg@10",
    out: Path,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    beside: Annotated[Beside, Flat] = Beside(),  # noqa: B008
    splitting: Annotated[Splitting, Flat] = Splitting(),  # noqa: B008
    training: Training | None = None,
    seed: int = 0,
) -> None:
    """Tune several models with one budget on the valid part, judge them once on the test part, report the differences.

    Args:
        data: Name of a data set (`palate data sources`), a file, or a query with --connection.
        models: Names, with commas between.
        budget: Sets of settings each model may try.
        seeds: Final runs of each model.
        metric: The headline, which also chooses settings and epochs.
        out: Folder for study, results and report; the same command goes on where it was stopped.
        seed: Of the split.
    """
    if seeds < 1 or budget < 1:
        raise ConfigError(f"--seeds {seeds} --budget {budget}: both must be at least 1")
    parts = _parts(data, reading, beside, splitting, seed)
    for note in parts.notes:
        print(f"  {note}")
    found = run_contest(
        parts, models.split(","), budget, out, training=training, seeds=range(seeds), metric=metric, on_news=print
    )
    records = {name: entry.epochs for name, entry in found.entries.items()}
    notes = (*parts.notes, *(f"{name} could not take part: {fault}" for name, fault in found.faults.items()))
    told = Report(
        title=f"{', '.join(found.entries)} on {data}",
        evaluations=found.evaluations,
        records=records,
        metric=metric,
        notes=(*notes, *traces(found)),
    )
    print("\n" + results(found, list(told.ordered())))
    for difference in found.comparison().differences if len(found.entries) > 1 else ():
        print(difference.verdict)
    report.save(told, out)
    print(f"report: {out / 'report.html'}")


def results(found: Contest, names: Sequence[str]) -> str:
    """The contest as an aligned table, in the order of `names`."""
    evaluations = found.evaluations
    columns = dict.fromkeys((found.metric, "recall@10", "coverage@10", "gini@10", "novelty@10"))
    shown = [metric for metric in columns if metric in evaluations[names[0]].estimates]
    rows = []
    for name in names:
        entry, evaluation = found.entries[name], evaluations[name]
        times = [
            f"{evaluation.seconds['fit']:.1f}",
            f"{evaluation.seconds['predict']:.1f}",
            f"{entry.memory / 1e6:,.0f}",
        ]
        rows.append([name, *(str(evaluation.estimates[m]) for m in shown), *times])
    return table(["model", *shown, "fit s", "predict s", "peak MB"], rows)


def traces(found: Contest) -> list[str]:
    """One line for each model: what its trials gave on valid, in order."""
    lines = []
    for name, entry in found.entries.items():
        values = [trial.state if trial.value is None else f"{trial.value:.4f}" for trial in entry.tuned.trials]
        lines.append(f"tuning of {name} ({entry.tuned.metric} on valid): {', '.join(values)}")
    return lines


def _parts(data: str, reading: Reading, beside: Beside, splitting: Splitting, seed: int) -> Split:
    parts = splitting.parts(dataset(data, reading, beside), seed)
    if parts is None or not len(parts.valid):
        raise ConfigError("settings are chosen on the valid part: name a --split, with a --valid above 0")
    return parts
