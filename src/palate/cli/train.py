"""`palate train MODEL DATA --out RUN`: one subcommand for each entry of `MODELS`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from warnings import catch_warnings, simplefilter

import polars as pl
from cyclopts import App, Parameter

from palate.cli import Flat, Switch, from_file, refuse_fractions, suggested, visible, with_flags
from palate.cli.inputs import PROTOCOL, Reading, SideTables, Splitting, prepared
from palate.config import Training, to_dict
from palate.data.dataset import Dataset
from palate.data.splits import Split
from palate.errors import ConfigError
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocols import Prepared
from palate.models import MODELS
from palate.models.base import GradientModel, Model
from palate.recommender.artifact import check_place, uses_training
from palate.recommender.evaluation_file import EVALUATION_TEXT, write_measured
from palate.recommender.recommender import Recommender
from palate.training.callbacks import Progress
from palate.training.train_run import best_epoch

if TYPE_CHECKING:
    from palate.training.processes import World

SETTINGS = "train.json"
"""File in a run's folder: every setting, in the form that `--config` takes."""


def run(
    name: str,
    data: str,
    out: Path,
    config: Any,
    training: Training,
    reading: Reading,
    side_tables: SideTables,
    splitting: Splitting,
    seed: int | None,
    resume: bool,
    refit: bool,
    world: World | None,
) -> None:
    """Read, split, train, save; see `palate train MODEL --help`."""
    check_place(out)
    if refit and splitting.split == "none":
        raise ConfigError("--refit trains on the held-out parts too, and --split none holds none out; leave out one")
    seed = training.seed if seed is None else seed
    with world.busy() if world is not None else nullcontext():
        whole, ready = prepared(data, reading, side_tables, splitting, seed)
    first, parts = world is None or world.first, None if ready is None else ready.parts
    _tell(name, data, whole, parts)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    restarted = world is not None and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if first and not (resume or restarted):
        shutil.rmtree(checkpoint, ignore_errors=True)
    elif not checkpoint.exists():
        print(f"  there is no checkpoint {checkpoint}: training starts from the beginning")
    recommender = _train(name, whole, parts, config, training, seed, checkpoint, first)
    if ready is not None:
        recommender = replace(recommender, parts={"valid": ready.parts.valid, "test": ready.parts.test})
    evaluation = None
    if refit and ready is not None:
        evaluation, recommender = _refit(recommender, ready, world)
    if not first:
        return
    recommender, about_unused = _with_unused_items(recommender, whole.unused_items, parts is not None and not refit)
    recommender.save(out)
    (out / EVALUATION_TEXT).unlink(missing_ok=True)
    if evaluation is not None:
        write_measured(out, name, {name: evaluation})
    settings = {"data": data, **_given(reading), **_given(side_tables), **_given(splitting), "seed": seed}
    settings |= to_dict(config)
    if uses_training(MODELS[name]):
        settings["training"] = to_dict(recommender.training)
    (out / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    if ready is not None:
        (out / PROTOCOL).write_text(json.dumps(ready.protocol.to_dict(), indent=1), encoding="utf-8")
    shutil.rmtree(checkpoint, ignore_errors=True)
    print(visible("\n".join([*about_unused, _summary(recommender, out, held_out=parts is not None)])))


@contextmanager
def _together(name: str) -> Iterator[World | None]:
    """The processes of the run, of which only the first one prints; None if there is one.

    Raises:
        ConfigError: Several processes cannot train the model.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield None
        return
    if not issubclass(MODELS[name], GradientModel) and not getattr(MODELS[name], "divided", False):
        raise ConfigError(
            f"{os.environ['WORLD_SIZE']} processes were started, and {name} is trained by one: only ials and models "
            "that are trained by gradient steps themselves can be divided; start palate train without torchrun"
        )
    from palate.training.processes import join

    world = join()
    with ExitStack() as stack:
        if not world.first:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            stack.enter_context(catch_warnings())
            simplefilter("ignore")
        yield world


def _tell(name: str, data: str, whole: Dataset, parts: Split | None) -> None:
    """Print what was read, and notes on it that concern the model."""
    print(f"{visible(data)}: {len(whole):,} interactions of {whole.n_users:,} users and {whole.n_items:,} items")
    seen = whole if MODELS[name].reads_repeats else whole.without_repeats
    notes = (*seen.notes, *whole.feature_notes) if any("_" in n for n in MODELS[name].needs) else seen.notes
    for note in (*notes, *(() if parts is None else parts.notes)):
        print(f"  {visible(with_flags(note))}")


def _train(
    name: str,
    data: Dataset,
    parts: Split | None,
    config: Any,
    training: Training,
    seed: int,
    checkpoint: Path,
    first: bool,
) -> Recommender:
    valid = parts.valid if parts is not None and len(parts.valid) else None
    train = data if parts is None else parts.train
    if not first:
        return Recommender.train(train, name, config, training, valid, seed, checkpoint)
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
            print(
                f"palate: the run so far is in {checkpoint}; add --resume to the same command to continue",
                file=sys.stderr,
            )
        raise


def _refit(recommender: Recommender, ready: Prepared, world: World | None) -> tuple[Evaluation | None, Recommender]:
    """What the test part says of the chosen model, and this model trained anew on all rows."""
    found = None
    with world.busy() if world is not None else nullcontext():
        if world is None or world.first:
            found = evaluate(
                recommender.model,
                ready.parts.test,
                protocol=ready.protocol,
                candidates=ready.candidates,
                name=recommender.name,
            )
    print(f"{visible(str(found))}\n\ntraining anew on all {len(recommender.known):,} interactions")
    with Progress() as progress:
        return found, recommender.refit(on_epoch=progress.on_epoch, on_step=progress.on_step)


def _with_unused_items(
    recommender: Recommender, unused: pl.DataFrame | None, held_out: bool
) -> tuple[Recommender, list[str]]:
    """The recommender with the items that nobody has interacted with, if it can score them; and what became of them.

    A run that is still to be evaluated keeps the catalogue that other models are evaluated on.
    """
    if unused is None:
        return recommender, []
    items = f"the {unused.height:,} items without interactions"
    if "new_item" not in recommender.model.answers or recommender.model.spec.item_features is None:
        return recommender, [
            f"  {recommender.name} cannot recommend {items}: it knows items by their interactions alone"
        ]
    if held_out:
        return recommender, [
            f"  {items} are not in this run, which holds out rows; --refit and palate add-items add them"
        ]
    return recommender.add_items(unused), [f"  {items} are in the catalogue too"]


def _given(options: Reading | SideTables | Splitting) -> dict[str, Any]:
    return {name: value for name, value in to_dict(options).items() if value not in (None, [])}


def _summary(recommender: Recommender, out: Path, held_out: bool) -> str:
    best = best_epoch(recommender.records)
    lines = [f"saved {recommender.name} in {out}"]
    if best is not None:
        metrics = ", ".join(f"{metric} {value:.4f}" for metric, value in best.valid.items())
        lines[0] += f": epoch {best.epoch} of {len(recommender.records)} was best on valid ({metrics})"
    parts = [part for part in recommender.model.modules() if getattr(part, "chosen", "")]
    lines += [f"  {type(part).__name__}: {part.chosen}" for part in parts]
    features = recommender.model.spec.item_features
    notes = () if features is None else recommender.data.encoded_items(features).notes
    lines += [f"  {visible(note)}" for note in notes]
    lines += [f"  {suggested('evaluate', out)}"] * held_out
    return "\n".join([*lines, f"  {suggested('recommend', out, user=recommender.data.users.ids[0])}"])


def _training_help(model: type[Model]) -> str:
    """How the model is trained by default, in words."""
    if not uses_training(model):
        return "The model takes no gradient steps and so has no training options."
    if not issubclass(model, GradientModel):
        return "Training options that are left open are those of each member."
    own = model.default_training
    return (
        f"By default, training takes up to {own.epochs} epochs with batch size {own.batch_size}, lr {own.lr:g} and "
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
        side_tables: Annotated[SideTables, Flat] = SideTables(),  # noqa: B008
        splitting: Annotated[Splitting, Flat] = Splitting(),  # noqa: B008
        training: Training = Training(),  # noqa: B008
        seed: int | None = None,
        resume: bool = False,
        refit: bool = False,
    ) -> None:
        with _together(name) as world:
            run(name, data, out, config, training, reading, side_tables, splitting, seed, resume, refit, world)

    command.__doc__ = f"""{(model.__doc__ or name).splitlines()[0]}

    {_training_help(model)}

    Args:
        data: Name of a data set (palate data sources), a file, or a query with --connection.
        out: Folder for the artifact; an artifact that is there is replaced once the new one is complete.
        settings: File of settings (.json, .yaml). A flag overrides the file, and the file a default.
        seed: Seed of the split and of training; replaces --training.seed.
        resume: Continue a run that was stopped, from its checkpoint beside --out.
        refit: Evaluate on the test part, then train anew on all rows with what the valid part chose, for production.
    """
    config_default = model.Config()
    not_parsed = Parameter(parse=False)
    command.__kwdefaults__ = {**(command.__kwdefaults__ or {}), "config": config_default}
    command.__annotations__ = {
        "data": str,
        "out": Path,
        "config": Annotated[model.Config, Flat if fields(model.Config) else not_parsed],
        "settings": Annotated[Path | None, Parameter(name="--config")],
        "reading": Annotated[Reading, Flat],
        "side_tables": Annotated[SideTables, Flat],
        "splitting": Annotated[Splitting, Flat],
        "training": Training if uses_training(model) else Annotated[Training, not_parsed],
        "seed": int | None,
        "resume": Annotated[bool, Switch],
        "refit": Annotated[bool, Switch],
        "return": None,
    }
    return command


train = App(
    name="train",
    help="Train a model on a table; one subcommand for each model.",
    config=(from_file, refuse_fractions),
    default_parameter=Parameter(consume_multiple=True, negative_iterable=""),
)
for _name, _model in MODELS.items():
    train.command(_command(_name, _model), name=_name)
