"""`palate train MODEL DATA --out RUN`: one subcommand for each entry of `MODELS`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from palate.artifact import check_place
from palate.cli.options import PROTOCOL, Beside, Flat, Reading, Splitting, Switch, from_file, prepared
from palate.config import Training, to_dict
from palate.data.dataset import Dataset
from palate.data.split import Split
from palate.evaluation.plots import chosen_epoch
from palate.models import MODELS
from palate.models.base import GradientModel, Model
from palate.recommender import Recommender
from palate.training.progress import Progress

SETTINGS = "train.json"
"""In the run's folder: every setting, in the form that `--config` takes."""


def run(
    name: str,
    data: str,
    out: Path,
    config: Any,
    training: Training,
    reading: Reading,
    beside: Beside,
    splitting: Splitting,
    seed: int | None,
    resume: bool,
) -> None:
    """Read, split, train, save; see `palate train MODEL --help`."""
    check_place(out)
    seed = training.seed if seed is None else seed
    whole, ready = prepared(data, reading, beside, splitting, seed)
    parts = None if ready is None else ready.parts
    print(f"{data}: {len(whole):,} interactions of {whole.n_users:,} users and {whole.n_items:,} items")
    notes = (*whole.notes, *whole.feature_notes) if any("_" in n for n in MODELS[name].needs) else whole.notes
    for note in (*notes, *(() if parts is None else parts.notes)):
        print(f"  {note}")
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    if not resume:
        shutil.rmtree(checkpoint, ignore_errors=True)
    recommender = _train(name, whole, parts, config, training, seed, checkpoint)
    recommender.save(out, {} if parts is None else {"valid": parts.valid, "test": parts.test})
    settings = {"data": data, **_given(reading), **_given(beside), **_given(splitting), "seed": seed, **to_dict(config)}
    (out / SETTINGS).write_text(
        json.dumps(settings | {"training": to_dict(recommender.training)}, indent=1), encoding="utf-8"
    )
    if ready is not None:
        (out / PROTOCOL).write_text(json.dumps(ready.protocol.to_dict(), indent=1), encoding="utf-8")
    shutil.rmtree(checkpoint, ignore_errors=True)
    print(_summary(recommender, out, held_out=parts is not None))


def _train(
    name: str, data: Dataset, parts: Split | None, config: Any, training: Training, seed: int, checkpoint: Path
) -> Recommender:
    valid = parts.valid if parts is not None and len(parts.valid) else None
    train = data if parts is None else parts.train
    try:
        with Progress() as progress:
            return Recommender.train(
                train,
                name,
                config,
                training,
                valid,
                seed,
                checkpoint,
                on_epoch=progress.on_epoch,
                on_step=progress.on_step,
            )
    except KeyboardInterrupt:
        if checkpoint.exists():
            print(f"palate: the run so far is in {checkpoint}; the same command with --resume goes on", file=sys.stderr)
        raise


def _given(options: Reading | Beside | Splitting) -> dict[str, Any]:
    return {name: value for name, value in to_dict(options).items() if value not in (None, [])}


def _summary(recommender: Recommender, out: Path, held_out: bool) -> str:
    best = chosen_epoch(recommender.records)
    lines = [f"saved {recommender.name} in {out}"]
    if best is not None:
        judged = ", ".join(f"{metric} {value:.4f}" for metric, value in best.valid.items())
        lines[0] += f": epoch {best.epoch} of {len(recommender.records)} was best on valid ({judged})"
    features = recommender.model.spec.item_features
    lines += [] if features is None else [f"  {note}" for note in recommender.data.encoded_items(features).notes]
    lines += [f"  palate evaluate {out}"] * held_out
    user = recommender.data.users.ids[0]
    return "\n".join([*lines, f"  palate recommend {out} --user {user}"])


def _recipe(model: type[Model]) -> str:
    """How the model is trained if the flags leave that open, in words."""
    own = model.recipe
    if not issubclass(model, GradientModel):
        return ""
    return (
        f"Left open, training takes up to {own.epochs} epochs of steps of {own.batch_size}, lr {own.lr:g}, "
        f"weight decay {own.weight_decay:g}, and stops after {own.patience} epochs without a better valid part."
    )


def _command(name: str, model: type[Model]) -> Callable[..., None]:
    """The function behind `palate train NAME`, whose flags are those of the model."""

    def command(
        data: str,
        *,
        out: Path,
        config: Any,
        settings: Path | None = None,
        reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
        beside: Annotated[Beside, Flat] = Beside(),  # noqa: B008
        splitting: Annotated[Splitting, Flat] = Splitting(),  # noqa: B008
        training: Training = Training(),  # noqa: B008
        seed: int | None = None,
        resume: bool = False,
    ) -> None:
        run(name, data, out, config, training, reading, beside, splitting, seed, resume)

    command.__doc__ = f"""{(model.__doc__ or name).splitlines()[0]}

    {_recipe(model)}

    Args:
        data: Name of a data set (`palate data sources`), a file, or a query with --connection.
        out: Folder for the artifact; one that is there is replaced once the new one is whole.
        settings: File of settings (.json, .yaml); a flag goes before the file, the file before the default.
        seed: Takes the place of --training.seed, and decides the split too.
        resume: Go on with a run that was stopped, from its checkpoint beside --out.
    """
    config_default = model.Config()
    command.__kwdefaults__ = {**(command.__kwdefaults__ or {}), "config": config_default}
    command.__annotations__ = {
        "data": str,
        "out": Path,
        "config": Annotated[model.Config, Flat if fields(model.Config) else Parameter(parse=False)],
        "settings": Annotated[Path | None, Parameter(name="--config")],
        "reading": Annotated[Reading, Flat],
        "beside": Annotated[Beside, Flat],
        "splitting": Annotated[Splitting, Flat],
        "training": Training,
        "seed": int | None,
        "resume": Annotated[bool, Switch],
        "return": None,
    }
    return command


train = App(
    name="train",
    help="Train a model on a table; one subcommand for each model.",
    config=from_file,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=""),
)
for _name, _model in MODELS.items():
    train.command(_command(_name, _model), name=_name)
