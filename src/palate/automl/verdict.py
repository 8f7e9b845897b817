"""The verdict: a blend of the best, the simplest model that is as good as the best, and one evaluation on test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from palate.automl.catalogue import BASELINE, SEVERAL
from palate.automl.race import MEMBERS, Race
from palate.automl.state import Run
from palate.config import CompleteTraining, Training, from_dict
from palate.data.ragged import Ragged
from palate.data.splits.build import Split
from palate.evaluation.compare import Difference, compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocol import Protocol
from palate.evaluation.validate import Validator
from palate.models.base import Model
from palate.models.hybrid.blend import Blend
from palate.recommender.recommender import Recommender
from palate.training.train_run import Epoch

BLEND = "blend"


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A fitted model that could be the result.

    Attributes:
        label: Name in tables.
        name: Name of the model in `MODELS`.
        model: The fitted model.
        training: Its training settings.
        records: Records of its epochs.
        tier: Place in `palate.automl.catalogue.TIERS`.
        valid: Its evaluation on valid.
        seconds: Time its training took.
        weights: Of a blend: label of a member -> weight.
    """

    label: str
    name: str
    model: Model
    training: Training
    records: list[Epoch]
    tier: int
    valid: Evaluation
    seconds: float
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was chosen on valid.

    Attributes:
        winner: The simplest finalist within the interval of the best.
        best: The best finalist on valid.
        difference: The best minus the winner on valid, paired; None if they are the same.
        blend: The blend of the best models, if there is one.
    """

    winner: Finalist
    best: Finalist
    difference: Difference | None
    blend: Finalist | None


def finalist(race: Race, run: Run) -> Finalist:
    """A run whose training is over, with its model."""
    training = from_dict(CompleteTraining if None not in run.training.values() else Training, run.training)
    return Finalist(
        label=run.candidate.label,
        name=run.candidate.model,
        model=race.model(run),
        training=training,
        records=[Epoch(**record) for record in run.records],
        tier=run.candidate.tier,
        valid=run.measured,
        seconds=run.seconds,
    )


def choose(race: Race) -> Verdict:
    """Blend the best models, and take the simplest one within the paired interval of the best on valid."""
    metric, sign = race.task.metric, race.task.sign
    blended = _blend(race)
    runs = race.final()
    first = runs[0]
    tops = {tier: next((r for r in runs if r.candidate.tier == tier), None) for tier in range(SEVERAL + 1)}
    better = blended is not None and sign * (blended.valid[metric].value - first.measured[metric].value) > 0
    best = blended if better and blended is not None else finalist(race, first)
    for run in filter(None, tops.values()):
        if run.candidate.label == best.label or run.candidate.tier >= best.tier:
            continue
        pair = {best.label: best.valid, run.candidate.label: run.measured}
        (difference,) = compare(pair, metric).differences
        if difference.low <= 0 <= difference.high:
            return Verdict(winner=finalist(race, run), best=best, difference=difference, blend=blended)
    return Verdict(winner=best, best=best, difference=None, blend=blended)


def judge(
    race: Race, verdict: Verdict, parts: Split, protocol: Protocol, candidates: Ragged | None
) -> dict[str, Evaluation]:
    """Evaluate the winner on the test part, and beside it what it is compared with: this is the only use of test.

    Args:
        race: The search.
        verdict: What was chosen.
        parts: The split.
        protocol: How test is evaluated.
        candidates: Candidate lists, for a protocol with given candidates.

    Returns:
        Label -> evaluation: the winner, the best on valid, the best single model, and the baselines.
    """
    runs = race.final()
    others = [run for run in runs if run.candidate.tier == BASELINE and not run.candidate.number]
    others = list({run.candidate.label: run for run in [runs[0], *others]}.values())
    models = {each.label: each for each in (verdict.winner, verdict.best)}
    found = {}
    for label in [*models, *(run.candidate.label for run in others)]:
        if label not in found:
            run = next((run for run in runs if run.candidate.label == label), None)
            each = models[label] if label in models or run is None else finalist(race, run)
            found[label] = evaluate(
                each.model, parts.test, protocol=protocol, candidates=candidates, name=label, fit_seconds=each.seconds
            )
    return found


def recommender(parts: Split, chosen: Finalist) -> Recommender:
    """The chosen model with the data it was fitted to, and the parts that were held out."""
    return Recommender(
        name=chosen.name,
        model=chosen.model,
        data=parts.train,
        training=chosen.training,
        records=chosen.records,
        parts={"valid": parts.valid, "test": parts.test},
    )


def _blend(race: Race) -> Finalist | None:
    """A blend of the best models that are no baselines; None if one of them does as well alone."""
    runs = [run for run in race.distinct(race.final()) if run.candidate.tier != BASELINE][:MEMBERS]
    if len(runs) < 2:
        return None
    members = [finalist(race, run) for run in runs]
    # A blend scores new items if all members do; the validator is built for a member that does not, if there is one.
    narrowest = min(members, key=lambda each: "new_item" in each.model.answers)
    blended = Blend.of([each.model for each in members], Validator(race.task.valid, narrowest.model, race.task.metric))
    used = [(each, weight) for each, weight in zip(members, blended.weight.tolist(), strict=True) if weight > 0]
    if len(used) < 2:
        return None
    members, weights = [each for each, _ in used], {each.label: weight for each, weight in used}
    blended = Blend.of([each.model for each in members], None, [each.training for each in members])
    blended.weight.copy_(torch.tensor(list(weights.values())))
    records: list[Epoch] = []
    for place, each in enumerate(members):
        name = f"{place}-{each.name}"
        records += [replace(r, member=f"{name}/{r.member}" if r.member else name) for r in each.records]
    seconds = sum(each.seconds for each in members)
    measured = evaluate(blended, race.task.valid, [race.task.metric], name=BLEND, fit_seconds=seconds)
    settings: dict[str, Any] = {"seed": race.task.seed, "monitor": race.task.metric}
    return Finalist(
        label=BLEND,
        name=BLEND,
        model=blended,
        training=Training(**settings),
        records=records,
        tier=SEVERAL,
        valid=measured,
        seconds=seconds,
        weights=weights,
    )
